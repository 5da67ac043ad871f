"""Texts to vectors, beside sentence-transformers in torch.

python scripts/benchmarks/encode.py --peer_python=PYTHON --texts=STSB/test.tsv \\
  --output_file=scripts/benchmarks/encode.json

PYTHON is an interpreter with sentence-transformers. The texts are the first two columns, MiniLM
(mean, normalised), two threads on both sides, a fresh process each, in turn; vectors are compared
with those of sentence-transformers in float32 before a figure counts. Timed: all texts to vectors,
from the second pass on; the first one warms up.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
# Each side's worker, its argument, and the least cosine to sentence-transformers in float32.
SIDES = {
    "sentence-transformers float32": ("worker_sentence_transformers.py", "float32", 1 - 1e-5),
    "sentence-transformers bfloat16": ("worker_sentence_transformers.py", "bfloat16", 0.999),
    "bert_tools float32": ("worker_encode.py", "float32", 1 - 1e-5),
    "bert_tools bfloat16": ("worker_encode.py", "bfloat16", 0.999),
}
REFERENCE = "sentence-transformers float32"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--peer_python", required=True)
    parser.add_argument("--texts", required=True, help="TSV with two texts a line")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2500, help="lines of --texts that are read")
    parser.add_argument("--output_file", help="JSON of every run")
    arguments = parser.parse_args()
    with open(arguments.texts, encoding="utf-8") as reader:
        pairs = [line.split("\t")[:2] for line in reader][: arguments.rows]
    texts = [text for pair in pairs for text in pair]
    from bert_tools.hub import names

    model = names.resolve("minilm")
    runs = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as scratch:
        source = os.path.join(scratch, "texts.json")
        with open(source, "w", encoding="utf-8") as writer:
            json.dump(texts, writer)
        for number in range(arguments.rounds):
            for side in SIDES:
                print(f"round {number + 1} of {arguments.rounds}: {side}", file=sys.stderr)
                target = os.path.join(scratch, "vectors.npy")
                result = run(side, arguments.peer_python, model, source, target)
                vectors = np.load(target)
                if side == REFERENCE:
                    reference = vectors
                result["least_cosine"] = compare(side, reference, vectors)
                runs[side].append(result)
    if arguments.output_file:
        with open(arguments.output_file, "w", encoding="utf-8") as writer:
            json.dump(runs, writer, indent=1)
            writer.write("\n")
    print(table(runs, len(texts)))


def run(side, peer_python, model, source, target):
    """One fresh process of one side; its JSON line."""
    worker, precision, _ = SIDES[side]
    python = sys.executable if worker == "worker_encode.py" else peer_python
    command = [python, os.path.join(HERE, worker), precision, model, source, target]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(side, reference, vectors):
    """The least cosine to the reference; stops when it is too small."""
    least = float(np.min(np.einsum("nw,nw->n", reference, vectors, dtype=np.float64)))
    if least < SIDES[side][2]:
        sys.exit(f"{side} gives other vectors: least cosine {least}")
    return least


def table(runs, count):
    """The medians as a Markdown table."""
    lines = ["| | sentences/s | least cosine | peak MB |", "|---|---|---|---|"]
    for side, results in runs.items():
        rate = statistics.median(rate for result in results for rate in result["rates"])
        least = min(result["least_cosine"] for result in results)
        memory = statistics.median(result["memory"] for result in results)
        lines.append(f"| {side} | {rate:,.0f} | {least:.5f} | {memory:,.0f} |")
    versions = "; ".join(sorted({results[0]["version"] for results in runs.values()}))
    rounds = len(runs[REFERENCE])
    return "\n".join([*lines, f"\n{count} texts, medians of {rounds} rounds. {versions}."])


if __name__ == "__main__":
    main()
