"""The scores of the flag files of English samples with MiniLM, each through its own command.

python scripts/benchmarks/samples.py --output_file=scripts/benchmarks/samples.json

Every configs/*.flags whose first line is a whole command with --bert=minilm and that says its
--data_dir or --train_file is run as that line says, but for --output_dir; printed is its
eval_results.json, without tables. With --output_file, runs are added to those that it has.
"""

import argparse
import importlib
import json
import os
import pathlib
import shlex
import sys
import tempfile

import side_by_side

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--names", help="of flag files, without .flags, comma-separated")
    parser.add_argument("--seeds", default="", help="default: the command's own")
    parser.add_argument("--output_file", help="JSON of every run, added to after each")
    arguments = parser.parse_args()
    os.chdir(ROOT)  # Where flag files find data.
    runs = side_by_side.earlier(arguments.output_file)
    wanted = arguments.names.split(",") if arguments.names else None
    for path in sorted(pathlib.Path("configs").glob("*.flags")):
        if path.stem in wanted if wanted else is_sample(path.read_text("utf-8")):
            for seed in arguments.seeds.split(","):
                more = [f"--seed={seed}"] if seed else []
                run = {"flags": path.name, "more": more, **score(path, more)}
                side_by_side.add(runs, run, arguments.output_file)


def is_sample(text):
    first, *flags = text.splitlines()
    own = any(flag.startswith(("--data_dir=data/", "--train_file=data/")) for flag in flags)
    return own and "--bert=minilm" in first


def score(path, more):
    """The numbers of eval_results.json, and those of a class or type."""
    command, *flags = shlex.split(path.read_text("utf-8").splitlines()[0].removeprefix("# "))
    with tempfile.TemporaryDirectory() as folder:
        flags = [flag for flag in flags if not flag.startswith("--output_dir")]
        module = importlib.import_module(f"bert_tools.cli.{command}")
        status = module.main([*flags, *more, f"--output_dir={folder}"])
        if status:
            sys.exit(status)
        with open(os.path.join(folder, "eval_results.json"), encoding="utf-8") as reader:
            found = json.load(reader)
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


if __name__ == "__main__":
    main()
