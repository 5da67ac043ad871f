"""What keeping freed memory is worth: page faults, speed and peak memory of the same work.

python scripts/benchmarks/allocator.py --data_dir=STSB --rounds=3 \\
  --output_file=scripts/benchmarks/allocator.json

STSB is a folder with train.tsv of task sim. MiniLM, length 128, float32, a fresh process for each
run, in turn; see worker_allocator.py. To compare as on a machine with AVX2 alone, set
ONEDNN_MAX_CPU_ISA=AVX2. On a machine whose TensorFlow turns its oneDNN kernels on by itself
(AVX-512 VNNI, AMX) "onednn" is what a process did before.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

import side_by_side
from samples import machine

HERE = os.path.dirname(os.path.abspath(__file__))
WORKS = ("train-8", "train-32", "predict", "encode")
KEPT = ("none", "malloc", "onednn", "both")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--works", default=",".join(WORKS))
    parser.add_argument("--output_file", help="JSON of every run, added to after each")
    arguments = parser.parse_args()
    runs = side_by_side.earlier(arguments.output_file)
    for number in range(arguments.rounds):
        for work in arguments.works.split(","):
            for keep in KEPT:
                words = [work, keep, arguments.data_dir, str(arguments.steps)]
                worker = os.path.join(HERE, "worker_allocator.py")
                done = subprocess.run(
                    [sys.executable, worker, *words], stdout=subprocess.PIPE, text=True, check=True
                )
                run = {"work": work, "keep": keep, "round": number, "steps": arguments.steps}
                run |= {"machine": machine(), **json.loads(done.stdout.splitlines()[-1])}
                side_by_side.add(runs, run, arguments.output_file)
    print("| work | kept by | examples/s | minor faults | system s | peak MB |")
    print("|---|---|---|---|---|---|")
    for work in WORKS:
        for keep in KEPT:
            found = [run for run in runs if (run["work"], run["keep"]) == (work, keep)]
            if not found:
                continue
            names = ("rate", "faults", "system_seconds", "memory")
            rate, faults, system, memory = (
                statistics.median(run[name] for run in found) for name in names
            )
            print(
                f"| {work} | {keep} | {rate:.1f} | {faults:,.0f} | {system:.1f} | {memory:,.0f} |"
            )


if __name__ == "__main__":
    main()
