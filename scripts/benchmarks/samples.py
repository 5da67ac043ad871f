"""Time, score and baseline of the flag files for the samples in data/, each through its command.

python scripts/benchmarks/samples.py --zh_model=MODEL --flags=--precision=float32 \\
  --output_file=scripts/benchmarks/samples.json

Every configs/*.flags that says its --data_dir or --train_file below data/ is run as its first line
says, with --bert=minilm, or for a Chinese sample with MODEL (left out without). The time is that of
the whole process. The baseline is the one that the command warns about. With --output_file, runs
are added to those that it has, and what it has with the same flags is not run again.
"""

import argparse
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time

import side_by_side

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# Metric and its baseline; the first that a result has counts.
METRICS = (
    ("spearman", "baseline_spearman"),
    ("triplet_accuracy", "baseline_triplet_accuracy"),
    ("f1_score_macro", "baseline_f1_score_macro"),
    ("eval_accuracy", "baseline_accuracy"),
    ("f1", "baseline_f1"),
    ("f1_score", "baseline_f1_score"),
    ("mae", "baseline_mae"),
)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--names", help="of flag files, without .flags, comma-separated")
    parser.add_argument("--zh_model", help="for the Chinese samples")
    parser.add_argument("--flags", default="", help="further flags of every command")
    parser.add_argument("--seeds", default="", help="default: the command's own")
    parser.add_argument("--output_file", help="JSON of every run, added to after each")
    arguments = parser.parse_args()
    arguments.output_file = arguments.output_file and os.path.abspath(arguments.output_file)
    os.chdir(ROOT)  # Where flag files find data.
    runs = side_by_side.earlier(arguments.output_file)
    names = arguments.names.split(",") if arguments.names else None
    for path in sorted(pathlib.Path("configs").glob("*.flags")):
        text = path.read_text("utf-8")
        if path.stem not in names if names else not is_sample(text):
            continue
        model = arguments.zh_model if path.stem.endswith("-zh") else "minilm"
        for seed in arguments.seeds.split(","):
            more = shlex.split(arguments.flags) + ([f"--seed={seed}"] if seed else [])
            facts = {"flags": path.name, "more": more}
            if model and not any(facts.items() <= run.items() for run in runs):
                run = {**facts, "machine": machine(), **score(text, model, more)}
                side_by_side.add(runs, run, arguments.output_file)
    print("| flag file | seconds | metric | score | baseline |\n|---|---|---|---|---|")
    for run in runs:
        name, baseline = next(m for m in METRICS if m[0] in run and m[1] in run)
        cells = [f"{run[name]:.3f}", f"{run[baseline]:.3f}"]
        print(f"| `{run['flags']}` | {run['seconds']:.0f} | {name} | {' | '.join(cells)} |")


def is_sample(text):
    return any(
        flag.startswith(("--data_dir=data/", "--train_file=data/")) for flag in text.splitlines()
    )


def machine():
    """The processor and what keeps libraries from its newer instructions."""
    with open("/proc/cpuinfo", encoding="utf-8") as reader:
        (name, *_) = (line.partition(": ")[2] for line in reader if line.startswith("model name"))
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    return f"{os.cpu_count()} cores, {name.strip()}" + (f", held to {limit}" if limit else "")


def score(text, model, more):
    """The seconds of the process and the numbers of eval_results.json."""
    command, *flags = shlex.split(text.splitlines()[0].removeprefix("# "))
    with tempfile.TemporaryDirectory() as folder:
        flags = [flag for flag in flags if not flag.startswith(("--output_dir", "--bert"))]
        words = [sys.executable, "-m", f"bert_tools.cli.{command}", *flags, *more]
        begun = time.time()
        subprocess.run([*words, f"--bert={model}", f"--output_dir={folder}"], check=True)
        seconds = time.time() - begun
        with open(os.path.join(folder, "eval_results.json"), encoding="utf-8") as reader:
            found = json.load(reader)
    numbers = {name: value for name, value in found.items() if isinstance(value, int | float)}
    return {"seconds": round(seconds, 1), **numbers}


if __name__ == "__main__":
    main()
