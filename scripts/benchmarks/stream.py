"""Lines through `run_reg --predict_file=-`: rate and peak memory as their number grows, beside the
same lines through --do_predict (TFRecords, test_results.tsv).

python scripts/benchmarks/stream.py --bert=OUT --texts=STSB/test.tsv --rows=10000,100000,1000000 \\
  --file_rows=100000 --words=1 --output_file=scripts/benchmarks/stream.json

OUT is a run_reg output_dir. Lines are the pairs of --texts over and over, each text cut to --words
words, so that a million lines take minutes. A process each; its start is in the times.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time

import peak_memory
import tensorflow as tf

CODE = "import sys; from bert_tools.cli import run_reg; sys.exit(run_reg.main())"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--bert", required=True)
    parser.add_argument("--texts", required=True, help="TSV with two texts a line")
    parser.add_argument("--rows", default="10000,100000,1000000")
    parser.add_argument("--file_rows", default="10000,100000", help="of these, by file too")
    parser.add_argument("--words", type=int, default=3)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--output_file")
    arguments = parser.parse_args()
    lines = texts(arguments)
    runs = []
    print(f"tensorflow {tf.__version__}, --precision={arguments.precision}")
    print("| rows | way | lines/s | peak MB |\n|---|---|---|---|")
    by_file = arguments.file_rows.split(",")
    for rows in arguments.rows.split(","):
        for way in ("stream", "file") if rows in by_file else ("stream",):
            with tempfile.TemporaryDirectory() as folder:
                seconds, memory = (stream if way == "stream" else by_files)(
                    arguments, itertools.islice(itertools.cycle(lines), int(rows)), folder
                )
            run = {"rows": int(rows), "way": way, "seconds": seconds, "peak_mb": memory}
            runs.append(run)
            print(f"| {rows} | {way} | {int(rows) / seconds:.0f} | {memory:.0f} |", flush=True)
            if arguments.output_file:
                with open(arguments.output_file, "w", encoding="utf-8") as writer:
                    json.dump(runs, writer, indent=1)
                    writer.write("\n")


def texts(arguments):
    """The lines of --texts, cut."""
    with open(arguments.texts, encoding="utf-8") as reader:
        pairs = [line.split("\t")[:2] for line in reader]
    return [
        "\t".join(" ".join(text.split()[: arguments.words]) for text in pair) + "\n"
        for pair in pairs
    ]


def stream(arguments, lines, folder):
    """(seconds, peak MB) of one run over a pipe; checks that every line has its answer."""
    output = os.path.join(folder, "values.txt")
    flags = ["--predict_file=-", f"--predict_output={output}"]
    process = start([*flags, f"--bert={arguments.bert}", f"--precision={arguments.precision}"])
    count = 0
    with process.stdin:
        for line in lines:
            process.stdin.write(line)
            count += 1
    return finish(process, output, count)


def by_files(arguments, lines, folder):
    """The same through data_dir/test.tsv."""
    path = os.path.join(folder, "test.tsv")
    with open(path, "w", encoding="utf-8") as writer:
        count = sum(1 for line in lines if writer.write(line))
    output = os.path.join(folder, "out")
    flags = ["--task_name=sim", "--do_predict=true", f"--data_dir={folder}"]
    flags += [f"--output_dir={output}", f"--bert={arguments.bert}"]
    process = start([*flags, f"--precision={arguments.precision}"])
    process.stdin.close()
    return finish(process, os.path.join(output, "test_results.tsv"), count)


def start(flags):
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, *flags],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
    )
    process.begun = time.time()
    return process


def finish(process, output, count):
    memory = peak_memory.wait(process)
    seconds = time.time() - process.begun
    with open(output, encoding="utf-8") as reader:
        answered = sum(1 for _ in reader)
    if process.returncode or answered != count:
        sys.exit(f"exit status {process.returncode}, {answered} answers to {count} lines")
    return seconds, memory


if __name__ == "__main__":
    main()
