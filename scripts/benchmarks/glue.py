"""MiniLM fine-tuned on MRPC, CoLA and SST-2 with run_classifier, beside transformers with the same
recipe, seeds and steps: every run printed, then the means.

python scripts/benchmarks/glue.py --glue_dir=GLUE --model_dir=MINILM --peer_python=ENV/bin/python \\
  --seeds=1,2,3 --output_file=scripts/benchmarks/glue.json

GLUE holds MRPC, CoLA and SST-2. Batch 32, rate 5e-5, length 128, bfloat16 on both sides; MRPC and
CoLA three epochs, SST-2 its first 10,000 rows, one epoch. ENV has PyTorch and transformers.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import typing

from bert_tools.cli import run_classifier
from bert_tools.tasks import classify


class Setting(typing.NamedTuple):
    """One data set: its folder, epochs, rows of training, the metric that counts, and by how much
    our mean may lie below theirs.
    """

    folder: str
    epochs: float
    rows: int
    metric: str
    margin: float


SETTINGS = {
    "mrpc": Setting("MRPC", 3, 0, "eval_accuracy", 0.01),
    "cola": Setting("CoLA", 3, 0, "matthews_correlation", 0.03),
    "sst-2": Setting("SST-2", 1, 10000, "eval_accuracy", 0.01),
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--glue_dir", required=True)
    parser.add_argument("--model_dir", required=True, help="MiniLM as a Hugging Face folder")
    parser.add_argument("--peer_python", help="without it, ours alone")
    parser.add_argument("--tasks", default=",".join(SETTINGS))
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--output_file", help="JSON of every run, added to after each")
    arguments = parser.parse_args()
    runs = []
    if arguments.output_file and os.path.exists(arguments.output_file):
        with open(arguments.output_file, encoding="utf-8") as reader:
            runs = json.load(reader)
    for task in arguments.tasks.split(","):
        for seed in arguments.seeds.split(","):
            for side in ("ours", "transformers") if arguments.peer_python else ("ours",):
                work = ours if side == "ours" else theirs
                result = work(arguments, task, SETTINGS[task], int(seed))
                runs.append({"task": task, "seed": int(seed), "side": side, **result})
                print(json.dumps(runs[-1]), flush=True)
                if arguments.output_file:
                    with open(arguments.output_file, "w", encoding="utf-8") as writer:
                        json.dump(runs, writer, indent=1)
                        writer.write("\n")
    print("| task | metric | ours | transformers |\n|---|---|---|---|")
    for task in dict.fromkeys(run["task"] for run in runs):
        setting = SETTINGS[task]
        cells = []
        for side in ("ours", "transformers"):
            found = [r[setting.metric] for r in runs if r["task"] == task and r["side"] == side]
            each = ", ".join(f"{value:.4f}" for value in found)
            cells.append(f"{statistics.mean(found):.4f} ({each})" if found else "")
        print(f"| {task} | {setting.metric} | {' | '.join(cells)} |")


def ours(arguments, task, setting, seed):
    """One run_classifier."""
    begun = time.time()
    with tempfile.TemporaryDirectory() as folder:
        status = run_classifier.main(
            [
                f"--task_name={task}",
                "--do_train=true",
                "--do_eval=true",
                f"--data_dir={os.path.join(arguments.glue_dir, setting.folder)}",
                f"--bert={arguments.model_dir}",
                f"--num_train_epochs={setting.epochs}",
                f"--max_train_examples={setting.rows}",
                "--precision=bfloat16",
                f"--seed={seed}",
                f"--output_dir={folder}",
            ]
        )
        if status:
            sys.exit(status)
        with open(os.path.join(folder, "eval_results.json"), encoding="utf-8") as reader:
            results = json.load(reader)
    return {"seconds": time.time() - begun, **results}


def theirs(arguments, task, setting, seed):
    """The same by transformers, on the examples as our reader gives them."""
    labels = classify.DATA_SETS[task].labels
    spec = {
        "epochs": setting.epochs,
        "batch_size": 32,
        "learning_rate": 5e-5,
        "max_seq_length": 128,
        "seed": seed,
        "num_labels": len(labels),
    }
    for split in ("train", "dev"):
        folder = os.path.join(arguments.glue_dir, setting.folder)
        _, examples = classify.DATA_SETS[task].load(folder, split, str)
        if split == "train" and setting.rows:
            examples = examples[: setting.rows]
        pairs = examples[0].text_b is not None
        spec[split] = [
            [example.text_a for example in examples],
            [example.text_b for example in examples] if pairs else None,
            [labels.index(example.label) for example in examples],
        ]
    worker = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker_transformers.py")
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as writer:
        json.dump(spec, writer)
        writer.flush()
        done = subprocess.run(
            [arguments.peer_python, worker, arguments.model_dir, writer.name],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
