"""What lets MiniLM, a sentence model, learn quickly as a cross-encoder: an ablation.

python scripts/benchmarks/first_minute.py --output_file=scripts/benchmarks/first_minute.json

On data/sim-en; each row changes configs/sim-en.flags in one thing; every run has the same pairs,
batch size and number of steps. Printed is Spearman on dev, and on later.tsv, whose pairs were
written by another author after a model had been trained; three seeds each. "head first" trains the
head alone for a fifth of the steps before.
"""

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
from contextlib import redirect_stdout

import side_by_side
from samples import ROOT, machine

from bert_tools.cli import run_reg

VARIANTS = {
    "configs/sim-en.flags": {},
    "pooling: pooled, as the original": {"pooling": "pooled"},
    "pooling: cls": {"pooling": "cls"},
    "pooling: mean": {"pooling": "mean"},
    "mean, the head first": {"pooling": "mean", "head_first": True},
    "squared error": {"loss": "mse"},
    "no bias correction": {"correct_bias": "false"},
    "no bias correction, rate 1e-4": {"correct_bias": "false", "learning_rate": "1e-4"},
    "rate 1e-4": {"learning_rate": "1e-4"},
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--output_file", help="JSON of every run, added to after each")
    arguments = parser.parse_args()
    arguments.output_file = arguments.output_file and os.path.abspath(arguments.output_file)
    os.chdir(ROOT)
    runs = side_by_side.earlier(arguments.output_file)
    for seed in arguments.seeds.split(","):
        for name, change in VARIANTS.items():
            facts = {"variant": name, "seed": int(seed)}
            if not any(facts.items() <= run.items() for run in runs):
                run = {**facts, "machine": machine(), **score(change, seed)}
                side_by_side.add(runs, run, arguments.output_file)
    print("| | dev | later pairs |\n|---|---|---|")
    for name in VARIANTS:
        cells = []
        for metric in ("spearman", "later_spearman"):
            found = [run[metric] for run in runs if run["variant"] == name]
            each = ", ".join(f"{value:.3f}" for value in found)
            cells.append(f"{statistics.mean(found):.3f} ({each})")
        print(f"| {name} | {' | '.join(cells)} |")


def score(change, seed):
    """Spearman on dev and on the later pairs, and the baseline of dev."""
    change = dict(change)
    with tempfile.TemporaryDirectory() as folder:
        common = ["--flagfile=configs/sim-en.flags", "--do_predict=false", f"--seed={seed}"]
        start = "--bert=minilm"
        if change.pop("head_first", False):
            flags = [f"--{name}={value}" for name, value in change.items()]
            head = [*common, *flags, "--do_eval=false", "--freeze_encoder=true"]
            train([*head, start, f"--output_dir={folder}/head", "--max_train_steps=30"])
            start = f"--bert={folder}/head"
        flags = [f"--{name}={value}" for name, value in change.items()]
        later = "--eval_file=data/sim-en/later.tsv"
        told = train([*common, *flags, start, f"--output_dir={folder}/all", later])
        with open(f"{folder}/all/eval_results.json", encoding="utf-8") as reader:
            found = json.load(reader)
    return {
        "spearman": found["spearman"],
        "baseline_spearman": found["baseline_spearman"],
        "later_spearman": json.loads(told)["spearman"],
    }


def train(flags):
    """What run_reg writes to stdout; ends where it fails."""
    told = io.StringIO()
    with redirect_stdout(told):
        status = run_reg.main(flags)
    if status:
        sys.exit(status)
    return told.getvalue()


if __name__ == "__main__":
    main()
