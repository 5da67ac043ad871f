"""Text to TFRecord, fine-tuning and prediction, beside the original run_reg.py on TensorFlow 1.15.

python scripts/benchmarks/beside_original.py --original_dir=CHECKOUT --original_python=PYTHON \\
  --data_dir=STSB --output_file=scripts/benchmarks/beside_original.json

CHECKOUT is the fork of google-research/bert that has run_reg.py, PYTHON an interpreter with
TensorFlow 1.15, STSB a folder of {train,dev,test}.tsv of task sim. MiniLM, length 128, the
scripts' default batch sizes, two threads on both sides, a fresh process each, in turn. Timed:

convert   tokenising all training pairs and writing them (the original pads to 128), reading the
TSV not; train     a training step of 32 pairs, the median of all steps but the first ones (input
included);
predict   pairs a second once the graph stands (the original: from the first batch to the last).

The predictions of both sides are compared before a figure counts. Both start from one checkpoint
with the tanh form of GELU, which is all that the original knows.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--original_dir", required=True)
    parser.add_argument("--original_python", required=True)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train_steps", type=int, default=12)
    parser.add_argument("--predict_rows", type=int, default=400)
    parser.add_argument("--output_file", help="JSON of every run")
    arguments = parser.parse_args()
    runs = {"original": [], "float32": [], "bfloat16": []}
    with tempfile.TemporaryDirectory() as scratch:
        model = write_model(os.path.join(scratch, "model"))
        for number in range(arguments.rounds):
            for side in runs:
                print(f"round {number + 1} of {arguments.rounds}: {side}", file=sys.stderr)
                folder = os.path.join(scratch, f"{side}-{number}")
                os.mkdir(folder)
                result = run(side, model, folder, arguments)
                values = result.pop("values")
                if side == "original":
                    reference = values
                else:
                    compare(side, reference, values)
                runs[side].append(result)
    if arguments.output_file:
        with open(arguments.output_file, "w", encoding="utf-8") as writer:
            json.dump(runs, writer, indent=1)
            writer.write("\n")
    print(table(runs))


def write_model(folder):
    """MiniLM in Google's layout with a head, for both sides; returns the folder."""
    import dataclasses

    from bert_tools import encoder, hub
    from bert_tools.hub import google

    model = hub.load("minilm")
    head = encoder.truncated_normal((1, model.config.hidden_size), 0.02, (1, 1))
    weights = {**model.weights, "output_weights": head, "output_bias": head[0, :1] * 0}
    config = dataclasses.replace(model.config, hidden_act="gelu_tanh")
    os.mkdir(folder)
    google.write(folder, model._replace(config=config, weights=weights))
    return folder


def run(side, model, scratch, arguments):
    """One fresh process of one side; its JSON line."""
    common = [
        model,
        arguments.data_dir,
        scratch,
        str(arguments.train_steps),
        str(arguments.predict_rows),
    ]
    if side == "original":
        command = [arguments.original_python, os.path.join(HERE, "worker_original.py")]
        command += [arguments.original_dir, *common]
    else:
        command = [sys.executable, os.path.join(HERE, "worker_ours.py"), side, *common]
    # TensorFlow 2 leaves this variable behind, and TensorFlow 1.15 would act on it.
    environment = {k: v for k, v in os.environ.items() if k != "TF2_BEHAVIOR"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(side, reference, values):
    """Stops unless both sides predict the same values."""
    largest = max(abs(a - b) for a, b in zip(reference, values, strict=True))
    limit = 1e-4 if side == "float32" else 2e-2
    print(
        f"{side}: largest difference of {len(reference)} predictions {largest:.1e}", file=sys.stderr
    )
    if largest > limit:
        sys.exit(f"{side} predicts something else than the original: {largest}")


def table(runs):
    """The medians as a Markdown table."""
    lines = [
        "| | original | here, float32 | ratio | here, bfloat16 | ratio |",
        "|---|---|---|---|---|---|",
    ]
    names = {"convert": "text to TFRecord, pairs/s", "train": "fine-tune, pairs/s"}
    names |= {"predict": "predict, pairs/s", "memory": "peak memory, MB"}
    for key, title in names.items():
        middle = {side: statistics.median(result[key] for result in runs[side]) for side in runs}
        cells = [title, f"{middle['original']:,.0f}"]
        for side in ("float32", "bfloat16"):
            cells += [f"{middle[side]:,.0f}", f"{middle[side] / middle['original']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    versions = "; ".join(f"{side}: {results[0]['version']}" for side, results in runs.items())
    lines.append(
        f"\nMedians of {len(runs['original'])} rounds. {versions}; {os.cpu_count()} cores."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
