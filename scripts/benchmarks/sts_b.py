"""MiniLM fine-tuned on STS-B with run_reg: dev Pearson and Spearman of several seeds, every run
printed.

python scripts/benchmarks/sts_b.py --data_dir=STSB --seeds=1,2,3 --precisions=float32,bfloat16 \\
  --output_file=scripts/benchmarks/sts_b.json
python scripts/benchmarks/sts_b.py --data_dir=STSB --precisions=bfloat16 \\
  --flags="--loss=logistic --learning_rate=1e-4 --num_train_epochs=4" \\
  --output_file=scripts/benchmarks/sts_b.json

STSB holds {train,dev}.tsv of task sim with values in 0..1. Recipe without --flags: 3 epochs, batch
32, rate 5e-5, length 128, sigmoid and squared error. transformers with this recipe (PyTorch,
bfloat16 autocast, one seed) gave dev Pearson 0.856. A run takes about three minutes on two cores.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time

import side_by_side

from bert_tools.cli import run_reg


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--bert", default="minilm")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--precisions", default="float32,bfloat16")
    parser.add_argument("--flags", default="", help="further flags of run_reg: another recipe")
    parser.add_argument("--output_file", help="JSON of every run, added to after each")
    arguments = parser.parse_args()
    runs = side_by_side.earlier(arguments.output_file)
    for precision in arguments.precisions.split(","):
        for seed in arguments.seeds.split(","):
            side_by_side.add(runs, run(precision, seed, arguments), arguments.output_file)
        scores = [
            one["pearson"]
            for one in runs
            if one["precision"] == precision and one["flags"] == arguments.flags
        ]
        print(
            f"{precision} {arguments.flags}: mean dev Pearson of {len(scores)} seeds "
            f"{statistics.mean(scores):.4f}"
        )


def run(precision, seed, arguments):
    """One training and evaluation; its settings and results."""
    begun = time.time()
    with tempfile.TemporaryDirectory() as folder:
        status = run_reg.main(
            [
                "--task_name=sim",
                "--do_train=true",
                "--do_eval=true",
                f"--data_dir={arguments.data_dir}",
                f"--bert={arguments.bert}",
                f"--precision={precision}",
                f"--seed={seed}",
                f"--output_dir={folder}",
                *arguments.flags.split(),
            ]
        )
        if status:
            sys.exit(status)
        with open(os.path.join(folder, "eval_results.json"), encoding="utf-8") as reader:
            results = json.load(reader)
    return {
        "precision": precision,
        "seed": int(seed),
        "flags": arguments.flags,
        "seconds": time.time() - begun,
        **results,
    }


if __name__ == "__main__":
    main()
