"""MiniLM trained on STS-B with run_siamese --objective=cosine_regression, beside
sentence-transformers' own trainer with the same recipe and seeds: the test set's Spearman, every
run printed, then the means; and the examples a second of both, in turn.

python scripts/benchmarks/siamese.py --data_dir=STSB --peer_python=ENV/bin/python --seeds=1,2,3 \\
  --output_file=scripts/benchmarks/siamese.json
python scripts/benchmarks/siamese.py --data_dir=STSB --seeds=1,2,3 --flags="--target_range=-1,1" \\
  --output_file=scripts/benchmarks/siamese.json
python scripts/benchmarks/siamese.py --data_dir=STSB --peer_python=ENV/bin/python --seeds= \\
  --speed_rounds=3 --output_file=scripts/benchmarks/siamese.json

STSB holds {train,dev,test}.tsv of task sim with values in 0..1 (the file's third float32
round of speed was not run); ENV has sentence-transformers with
its extra `train`. 4 epochs, batch 32, rate 2e-5, warm-up over a tenth of the steps, linear decay,
weight decay 0.01 but on biases and LayerNorm, gradients clipped at 1, length 128, two threads.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile

import side_by_side

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
OURS, THEIRS = "bert_tools", "sentence-transformers"
RECIPE = {"epochs": 4, "batch_size": 32, "learning_rate": 2e-5, "max_seq_length": 128}
TRAIN = "import sys; from bert_tools.cli import run_siamese; sys.exit(run_siamese.main())"
_SPEED_STEPS = 80


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--bert", default="minilm")
    parser.add_argument("--peer_python", help="without it, ours alone")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--precision", default="bfloat16", help="of both sides")
    parser.add_argument("--flags", default="", help="further flags of run_siamese: another recipe")
    parser.add_argument("--max_train_steps", type=int, default=0, help="cut short, to try it out")
    parser.add_argument("--speed_rounds", type=int, default=0)
    parser.add_argument("--output_file", help="JSON of every run, added to after each")
    arguments = parser.parse_args()
    # What does not ask for two threads counts the cores that it may use.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    runs = side_by_side.earlier(arguments.output_file)
    sides = [OURS, *([THEIRS] if arguments.peer_python else [])]
    for seed in filter(None, arguments.seeds.split(",")):
        for side in sides:
            found = train(side, arguments, arguments.precision, int(seed))
            run = {**found, "seed": int(seed), "flags": arguments.flags}
            side_by_side.add(runs, run, arguments.output_file)
    for _ in range(arguments.speed_rounds):
        for precision in ("bfloat16", "float32"):
            for side in sides:
                found = train(side, arguments, precision, 1, _SPEED_STEPS)
                side_by_side.add(runs, {**found, "speed": True}, arguments.output_file)
    summary(runs, arguments)


def summary(runs, arguments):
    """Prints the means of what was asked for, of earlier runs too."""
    for side in (OURS, THEIRS):
        scores = [
            run["test_spearman"]
            for run in runs
            if run["side"] == side
            and not run.get("speed")
            and (run["precision"], run["flags"]) == (arguments.precision, arguments.flags)
        ]
        if scores:
            print(f"{side}: mean test Spearman of {len(scores)} runs {statistics.mean(scores):.4f}")
    for precision in ("bfloat16", "float32"):
        speeds = {
            side: [
                run["examples_per_second"]
                for run in runs
                if run.get("speed") and (run["side"], run["precision"]) == (side, precision)
            ]
            for side in (OURS, THEIRS)
        }
        if all(speeds.values()):
            ours, theirs = (statistics.median(speeds[side]) for side in (OURS, THEIRS))
            print(f"{precision}: {ours:.1f} and {theirs:.1f} examples/s, {ours / theirs:.2f} times")


def train(side, arguments, precision, seed, steps=0):
    """One training in a process of its own, and its vectors' Spearman on the test set."""
    steps = steps or arguments.max_train_steps
    with tempfile.TemporaryDirectory() as folder:
        if side == OURS:
            found = ours(arguments, precision, seed, steps, folder)
        else:
            found = theirs(arguments, precision, seed, steps, folder)
    return {"side": side, "precision": precision, "steps": steps, **found}


def ours(arguments, precision, seed, steps, folder):
    """run_siamese, and the test set scored with --eval_file in float32."""
    spec = RECIPE
    environment = {**os.environ, "PYTHONPATH": ROOT, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            TRAIN,
            "--objective=cosine_regression",
            "--task_name=sim",
            "--do_train=true",
            f"--data_dir={arguments.data_dir}",
            f"--bert={arguments.bert}",
            f"--output_dir={folder}",
            f"--num_train_epochs={spec['epochs']}",
            f"--train_batch_size={spec['batch_size']}",
            f"--learning_rate={spec['learning_rate']}",
            f"--max_seq_length={spec['max_seq_length']}",
            f"--precision={precision}",
            f"--seed={seed}",
            f"--max_train_steps={steps}",
            "--save_summary_steps=20",
            *arguments.flags.split(),
        ],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    # The first ones hold the tracing.
    speeds = re.findall(r"step \d+ of \d+: .* ([\d.]+) examples/s", done.stderr)[1:]
    scored = subprocess.run(
        [
            sys.executable,
            "-c",
            TRAIN,
            f"--bert={folder}",
            f"--eval_file={arguments.data_dir}/test.tsv",
        ],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return {
        "test_spearman": json.loads(scored.stdout)["spearman"],
        "examples_per_second": statistics.median(map(float, speeds)) if speeds else None,
    }


def theirs(arguments, precision, seed, steps, folder):
    """sentence-transformers' trainer."""
    from bert_tools.hub import handles

    spec = {
        **RECIPE,
        "model_dir": handles.resolve(arguments.bert),
        "data_dir": arguments.data_dir,
        "output_dir": folder,
        "precision": precision,
        "seed": seed,
        "max_steps": steps,
    }
    worker = os.path.join(HERE, "worker_siamese.py")
    done = subprocess.run(
        [arguments.peer_python, worker, json.dumps(spec)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
