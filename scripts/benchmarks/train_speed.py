"""Pairs a second in float32 training, ours next to transformers with PyTorch.

python scripts/benchmarks/train_speed.py --peer_python=PYTHON --stsb=STSB --rounds=3 \\
  --output_file=scripts/benchmarks/train_speed.json

PYTHON is an interpreter with PyTorch and transformers, STSB a folder with train.tsv of task sim.
MiniLM with one head, batch 8 on data/sim-en (length 64) and on STS-B (length 128), batch 32 on
both; a fresh process for each run, in turn, medians of all steps but the first. Before training
both sides score the first 32 pairs, and the outputs are compared. To compare as on a machine with
AVX2 alone, set ONEDNN_MAX_CPU_ISA=AVX2, MKL_ENABLE_INSTRUCTIONS=AVX2 and ATEN_CPU_CAPABILITY=avx2.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

import side_by_side
from samples import ROOT, machine

HERE = os.path.dirname(os.path.abspath(__file__))
SIDES = ("ours", "plain", "fused")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--peer_python", required=True)
    parser.add_argument("--stsb", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--output_file", help="JSON of every run, added to after each")
    arguments = parser.parse_args()
    runs = side_by_side.earlier(arguments.output_file)
    data = {"sim-en": (ROOT / "data" / "sim-en", 64), "sts-b": (arguments.stsb, 128)}
    cases = [(name, size) for name in data for size in (8, 32)]
    with tempfile.TemporaryDirectory() as scratch:
        model = write_model(os.path.join(scratch, "model"))
        for number in range(arguments.rounds):
            for name, size in cases:
                folder, width = data[name]
                words = [model, f"{folder}/train.tsv", str(width), str(size), str(arguments.steps)]
                reference = None
                for side in SIDES:
                    result = run(side, words, arguments.peer_python)
                    outputs = result.pop("outputs")
                    reference = reference or outputs
                    difference = max(abs(a - b) for a, b in zip(reference, outputs, strict=True))
                    if difference > 1e-5:
                        sys.exit(f"{side}: outputs differ from ours by {difference}")
                    facts = {"data": name, "batch": size, "side": side, "round": number}
                    facts |= {"machine": machine(), "difference": difference}
                    side_by_side.add(runs, {**facts, **result}, arguments.output_file)
    print("| data, batch | ours | AdamW | ratio | fused AdamW | ratio |\n|---|---|---|---|---|---|")
    for name, size in cases:
        ours, plain, fused = (
            statistics.median(
                run["rate"]
                for run in runs
                if (run["data"], run["batch"], run["side"]) == (name, size, side)
            )
            for side in SIDES
        )
        cells = f"{ours:.1f} | {plain:.1f} | {ours / plain:.2f} | {fused:.1f} | {ours / fused:.2f}"
        print(f"| {name}, {size} | {cells} |")


def write_model(folder):
    """MiniLM with a head, as a Hugging Face folder for both sides; returns the folder."""
    from bert_tools import encoder, hub
    from bert_tools.hub import huggingface

    model = hub.load("minilm")
    head = encoder.truncated_normal((1, model.config.hidden_size), 0.02, (1, 1))
    weights = {**model.weights, "output_weights": head, "output_bias": head[0, :1] * 0}
    huggingface.write(folder, model._replace(weights=weights))
    return folder


def run(side, words, peer_python):
    """One fresh process of one side; its JSON line."""
    ours = side == "ours"
    worker = os.path.join(HERE, f"worker_train_{'ours' if ours else 'torch'}.py")
    words = [sys.executable, worker, *words] if ours else [peer_python, worker, *words, side]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
