"""What the benchmarks share that fine-tune MiniLM with a command of ours and beside it with
transformers: flags, the loop over cases, seeds and sides, the file of runs, the table.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))


def parser(about, **recipe):
    """An ArgumentParser with the flags that all of them have.

    Args:
      about: str.
      recipe: defaults of epochs, batch_size and learning_rate, where these are flags.
    """
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model_dir", required=True, help="MiniLM as a Hugging Face folder")
    parser.add_argument("--peer_python", help="without it, ours alone")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--max_steps", type=int, default=0, help="for a trial; 0: all")
    parser.add_argument(
        "--output_file", help="JSON of every run, added to after each; what it has is not run again"
    )
    for name, value in recipe.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    return parser


def run(arguments, key, metrics, **sides):
    """Every case with every seed on every side: each run printed and added to the file, then a
    table of means and single values. A run of the file is not run again where case, seed, side and
    the script's numbers (of epochs, rows, steps, ...) are the same.

    Args:
      arguments: of `parser`.
      key: str, what a run's JSON calls its case.
      metrics: {case: names of the results that count}.
      sides: function(arguments, case, seed) -> dict of results, by name: ours, and others that
        need --peer_python.
    """
    runs = earlier(arguments.output_file)
    options = {n: v for n, v in vars(arguments).items() if type(v) in (int, float)}
    if not arguments.peer_python:
        sides = {"ours": sides["ours"]}
    for seed in map(int, arguments.seeds.split(",")):
        for case in metrics:
            for side, work in sides.items():
                facts = {key: case, "seed": seed, "side": side, "options": options}
                if any(facts.items() <= run.items() for run in runs):
                    continue
                begun = time.time()
                result = work(arguments, case, seed)
                facts["seconds"] = time.time() - begun
                add(runs, {**facts, **result}, arguments.output_file)
    runs = [run for run in runs if run["options"] == options]
    print(f"| {key} | metric | {' | '.join(sides)} |\n|---|---|{'---|' * len(sides)}")
    for case, names in metrics.items():
        for metric in names:
            cells = []
            for side in sides:
                found = [r[metric] for r in runs if r[key] == case and r["side"] == side]
                each = ", ".join(f"{value:.4f}" for value in found)
                cells.append(f"{statistics.mean(found):.4f} ({each})" if found else "")
            print(f"| {case} | {metric} | {' | '.join(cells)} |")


def earlier(output_file):
    """The runs that a file has from before, a list; of None, or where there is none, empty."""
    if not output_file or not os.path.exists(output_file):
        return []
    with open(output_file, encoding="utf-8") as reader:
        return json.load(reader)


def add(runs, run, output_file):
    """Takes note of a run: in the list, on stdout, and in the file unless it is None."""
    runs.append(run)
    print(json.dumps(run), flush=True)
    if output_file:
        with open(output_file, "w", encoding="utf-8") as writer:
            json.dump(runs, writer, indent=1)
            writer.write("\n")


def command(main, flags, folder=None):
    """What a command of ours leaves in eval_results.json.

    Args:
      main: of a module of bert_tools.cli.
      flags: dict; --output_dir is added.
      folder: str, the output_dir; None: one that goes with the run.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = folder or temporary
        train(main, flags, folder)
        with open(os.path.join(folder, "eval_results.json"), encoding="utf-8") as reader:
            return json.load(reader)


def train(main, flags, folder):
    """Runs a command of ours in bfloat16, or ends with its exit status."""
    flags = {**flags, "precision": "bfloat16", "output_dir": folder}
    status = main([f"--{name}={value}" for name, value in flags.items()])
    if status:
        sys.exit(status)


def transformers(arguments, kind, train, dev, targets, recipe):
    """A model of transformers trained on ids of ours, see worker_ids_transformers.py.

    Args:
      kind: str, of that worker.
      train, dev: Features.
      targets: dict {name: array} of that worker.
      recipe: dict of that worker; its steps are cut to --max_steps.

    Returns:
      (facts of the run, logits float32 array).
    """
    recipe = {"kind": kind, **recipe}
    recipe["steps"] = min(recipe["steps"], arguments.max_steps or recipe["steps"])
    spec = {"recipe": json.dumps(recipe), **targets}
    for split, features in (("train", train), ("dev", dev)):
        spec[f"{split}_ids"] = features.input_ids
        spec[f"{split}_segments"] = features.segment_ids
        spec[f"{split}_rows"] = features.offsets
    worker = os.path.join(HERE, "worker_ids_transformers.py")
    with tempfile.TemporaryDirectory() as folder:
        spec_file, logits_file = (os.path.join(folder, name) for name in ("spec.npz", "logits.npy"))
        np.savez(spec_file, **spec)
        done = subprocess.run(
            [arguments.peer_python, worker, arguments.model_dir, spec_file, logits_file],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        return json.loads(done.stdout.splitlines()[-1]), np.load(logits_file)
