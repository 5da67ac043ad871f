"""A step of many examples in the memory of few: run_siamese on pairs of Quora, whole and in parts.

python scripts/benchmarks/large_batch.py --quora_file=QUORA --bert=MODEL --parts=1,32 \\
  --output_file=scripts/benchmarks/large_batch.json

QUORA is a TSV with a header that names question1, question2 and is_duplicate. A process each, so
many steps of multiple_negatives in bfloat16 as --steps says; a line of JSON has the peak of its
memory and the seconds of a step, the first one left out.
"""

import argparse
import csv
import os
import re
import tempfile

import peak_memory
import side_by_side


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quora_file", required=True)
    parser.add_argument("--bert", required=True)
    parser.add_argument("--batch_size", type=int, default=1024)
    parser.add_argument("--parts", default="1,32")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--output_file", help="JSON of every run, added to after each")
    arguments = parser.parse_args()
    runs = side_by_side.earlier(arguments.output_file)
    with tempfile.TemporaryDirectory() as folder:
        count = write_pairs(arguments.quora_file, os.path.join(folder, "train.tsv"))
        for parts in map(int, arguments.parts.split(",")):
            run = {"batch_size": arguments.batch_size, "parts": parts, "pairs": count}
            run |= measured(arguments, folder, parts)
            side_by_side.add(runs, run, arguments.output_file)


def write_pairs(source, target):
    """The duplicates as task pairs has them; how many."""
    with open(source, encoding="utf-8", newline="") as reader:
        rows = [r for r in csv.DictReader(reader, delimiter="\t") if r["is_duplicate"] == "1"]
    with open(target, "w", encoding="utf-8") as writer:
        for row in rows:
            texts = (" ".join(row[name].split()) for name in ("question1", "question2"))
            writer.write("\t".join(texts) + "\n")
    return len(rows)


def measured(arguments, folder, parts):
    """The peak and the seconds of a step."""
    flags = {
        "objective": "multiple_negatives",
        "task_name": "pairs",
        "data_dir": folder,
        "do_train": True,
        "bert": arguments.bert,
        "max_seq_length": 64,
        "train_batch_size": arguments.batch_size,
        "gradient_accumulation_steps": parts,
        "max_train_steps": arguments.steps,
        "save_summary_steps": 1,
        "precision": "bfloat16",
        "output_dir": os.path.join(folder, f"out-{parts}"),
    }
    _, memory, told = peak_memory.run_command("run_siamese", flags)
    rates = [float(rate) for rate in re.findall(r"step \d+ of .*? ([\d.]+) examples/s", told)]
    seconds = [arguments.batch_size / rate for rate in rates[1:]]
    return {"peak_mb": memory, "seconds_a_step": seconds}


if __name__ == "__main__":
    main()
