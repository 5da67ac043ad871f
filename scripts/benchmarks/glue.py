"""MiniLM fine-tuned on MRPC, CoLA and SST-2 with run_classifier, beside transformers with the same
recipe, seeds and steps: every run printed, then the means.

python scripts/benchmarks/glue.py --glue_dir=GLUE --model_dir=MINILM --peer_python=ENV/bin/python \\
  --seeds=1,2,3 --output_file=scripts/benchmarks/glue.json

GLUE holds MRPC, CoLA and SST-2. Batch 32, rate 5e-5, length 128, bfloat16 on both sides; MRPC and
CoLA three epochs, SST-2 its first 10,000 rows, one epoch. ENV has PyTorch and transformers.
"""

import json
import os
import subprocess
import tempfile
import typing

import side_by_side

from bert_tools.cli import run_classifier
from bert_tools.tasks import classify


class Setting(typing.NamedTuple):
    """One data set: its folder, epochs, rows of training (0: all), and the metric that counts."""

    folder: str
    epochs: float
    rows: int
    metric: str


SETTINGS = {
    "mrpc": Setting("MRPC", 3, 0, "eval_accuracy"),
    "cola": Setting("CoLA", 3, 0, "matthews_correlation"),
    "sst-2": Setting("SST-2", 1, 10000, "eval_accuracy"),
}


def main():
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--glue_dir", required=True)
    parser.add_argument("--tasks", default=",".join(SETTINGS))
    arguments = parser.parse_args()
    metrics = {task: (SETTINGS[task].metric,) for task in arguments.tasks.split(",")}
    side_by_side.run(arguments, "task", metrics, ours=ours, transformers=theirs)


def ours(arguments, task, seed):
    """One run_classifier."""
    setting = SETTINGS[task]
    flags = {
        "task_name": task,
        "do_train": True,
        "do_eval": True,
        "data_dir": os.path.join(arguments.glue_dir, setting.folder),
        "bert": arguments.model_dir,
        "num_train_epochs": setting.epochs,
        "max_train_examples": setting.rows,
        "max_train_steps": arguments.max_steps,
        "seed": seed,
    }
    return side_by_side.command(run_classifier.main, flags)


def theirs(arguments, task, seed):
    """The same by transformers, on the examples as our reader gives them."""
    setting = SETTINGS[task]
    labels = classify.DATA_SETS[task].labels
    spec = {
        "epochs": setting.epochs,
        "batch_size": 32,
        "learning_rate": 5e-5,
        "max_seq_length": 128,
        "seed": seed,
        "num_labels": len(labels),
        "max_steps": arguments.max_steps,
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
    worker = os.path.join(side_by_side.HERE, "worker_transformers.py")
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
