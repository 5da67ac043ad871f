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

--task=squad --predict_rows=200 --output_file=scripts/benchmarks/beside_original_squad.json does
the same for run_squad.py, without training: CHECKOUT is google-research/bert,
--data_dir a folder of {train,dev}-v1.1-subset.json; length 384, stride 128. All training questions
are converted (word pieces, windows, answers, writing; reading the JSON not), the first windows of
dev are predicted, and the ids of the converted windows are compared too.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
# By --task: the suffix of the workers' names, the head's weights, and what the rows are called.
TASKS = {
    "reg": (
        "",
        ("output_weights", "output_bias", 1),
        {
            "convert": "text to TFRecord, pairs/s",
            "train": "fine-tune, pairs/s",
            "predict": "predict, pairs/s",
        },
    ),
    "squad": (
        "_squad",
        ("cls/squad/output_weights", "cls/squad/output_bias", 2),
        {
            "convert": "SQuAD to TFRecord, questions/s",
            "predict": "predict, windows/s",
        },
    ),
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--task", default="reg", choices=TASKS)
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
        model = write_model(os.path.join(scratch, "model"), arguments.task)
        for number in range(arguments.rounds):
            for side in runs:
                print(f"round {number + 1} of {arguments.rounds}: {side}", file=sys.stderr)
                folder = os.path.join(scratch, f"{side}-{number}")
                os.mkdir(folder)
                result = run(side, model, folder, arguments)
                values, ids = result.pop("values"), result.pop("ids", None)
                if side == "original":
                    reference, reference_ids = values, ids
                else:
                    compare(side, reference, values)
                    if ids != reference_ids:
                        sys.exit(f"{side} converts to other ids than the original")
                runs[side].append(result)
    if arguments.output_file:
        with open(arguments.output_file, "w", encoding="utf-8") as writer:
            json.dump(runs, writer, indent=1)
            writer.write("\n")
    print(table(runs, TASKS[arguments.task][2]))


def write_model(folder, task):
    """MiniLM in Google's layout with a head, for both sides; returns the folder."""
    import dataclasses

    from bert_tools import encoder, hub
    from bert_tools.hub import google

    model = hub.load("minilm")
    kernel, bias, rows = TASKS[task][1]
    head = encoder.truncated_normal((rows, model.config.hidden_size), 0.02, (1, 1))
    weights = {**model.weights, kernel: head, bias: head[:, 0] * 0}
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
    suffix = TASKS[arguments.task][0]
    if side == "original":
        worker = os.path.join(HERE, f"worker_original{suffix}.py")
        command = [arguments.original_python, worker]
        command += [arguments.original_dir, *common]
    else:
        worker = os.path.join(HERE, f"worker_ours{suffix}.py")
        command = [sys.executable, worker, side, *common]
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


def table(runs, names):
    """The medians as a Markdown table; names: {key: what its row is called}."""
    lines = [
        "| | original | here, float32 | ratio | here, bfloat16 | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for key, title in {**names, "memory": "peak memory, MB"}.items():
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
