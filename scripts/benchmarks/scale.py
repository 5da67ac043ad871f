"""Lines through extract_cls: seconds and peak memory as their number grows.

python scripts/benchmarks/scale.py --texts=STSB/train.tsv --sizes=10000,100000,1000000 \\
  --words=1 --output_file=scripts/benchmarks/scale.json

Lines are the distinct texts of the first two columns of --texts, or their first --words words, over
and over, each with a number behind it, so that no two are alike. A process each; its start is in
the times.
"""

import argparse
import json
import os
import sys
import tempfile

import numpy as np
import peak_memory
import tensorflow as tf


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--texts", required=True, help="TSV with two texts a line")
    parser.add_argument("--words", type=int, help="of a text that are taken; default: all")
    parser.add_argument("--sizes", default="10000,100000,1000000")
    parser.add_argument("--bert", default="minilm")
    parser.add_argument("--pooling", default="auto")
    parser.add_argument("--max_seq_length", type=int, default=128)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--output_file", help="JSON of every run")
    arguments = parser.parse_args()
    with open(arguments.texts, encoding="utf-8") as reader:
        texts = [text for line in reader for text in line.split("\t")[:2]]
    texts = dict.fromkeys(" ".join(text.split()[: arguments.words]) for text in texts)
    runs = []
    print(f"tensorflow {tf.__version__}, --precision={arguments.precision}")
    print("| lines | seconds | lines/s | peak MB |\n|---|---|---|---|")
    for size in map(int, arguments.sizes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            seconds, memory = extract(arguments, list(texts), size, folder)
        runs.append({"lines": size, "seconds": seconds, "peak_mb": memory})
        print(f"| {size:,} | {seconds:.0f} | {size / seconds:,.0f} | {memory:,.0f} |", flush=True)
        if arguments.output_file:
            with open(arguments.output_file, "w", encoding="utf-8") as writer:
                json.dump(runs, writer, indent=1)
                writer.write("\n")


def extract(arguments, texts, size, folder):
    """(seconds, peak MB) of one process; checks the file that it leaves."""
    source, target = os.path.join(folder, "in.txt"), os.path.join(folder, "out.npy")
    with open(source, "w", encoding="utf-8") as writer:
        writer.writelines(f"{texts[number % len(texts)]} {number}\n" for number in range(size))
    flags = {"input_file": source, "output_file": target}
    for name in ("bert", "pooling", "max_seq_length", "precision"):
        flags[name] = getattr(arguments, name)
    seconds, memory, _ = peak_memory.run_command("extract_cls", flags)
    vectors = np.load(target, mmap_mode="r")
    if len(vectors) != size or not np.isfinite(vectors[:: max(1, size // 1000)]).all():
        sys.exit(f"extract_cls wrote {vectors.shape} for {size} lines")
    return seconds, memory


if __name__ == "__main__":
    main()
