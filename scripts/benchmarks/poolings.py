"""What vectors are good for: Spearman of the cosine on STS-B's test set by evaluate_sts, for minilm
and for a classifier and a regressor that are made from it; and how far minilm's vectors are from
sentence-transformers'.

python scripts/benchmarks/poolings.py --stsb_dir=STSB --sst2_dir=SST-2 --bert=MODEL \\
  --peer_python=ENV/bin/python --output_file=scripts/benchmarks/poolings.json

STSB holds {train,dev,test}.tsv of task sim with values in 0..1, SST-2 is GLUE's; MODEL is minilm's
folder, which both sides read; ENV has sentence-transformers. The models are trained in bfloat16, as
README says; everything else is in float32. Compared are all distinct sentences of STSB.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import pairs
import side_by_side

from bert_tools.cli import evaluate_sts, run_classifier, run_reg
from bert_tools.sentence.encoder import Encoder

WORKER = os.path.join(side_by_side.HERE, "worker_sentence_transformers.py")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--stsb_dir", required=True)
    parser.add_argument("--sst2_dir", required=True)
    parser.add_argument("--bert", required=True)
    parser.add_argument("--peer_python", help="without it, no comparison")
    parser.add_argument("--output_file", help="JSON of the results")
    arguments = parser.parse_args()
    common = {"do_train": True, "do_eval": True, "bert": arguments.bert, "max_seq_length": 64}
    common["num_train_epochs"] = 1
    sst_2 = {"task_name": "sst-2", "data_dir": arguments.sst2_dir, "max_train_examples": 10000}
    sts_b = {"task_name": "sim", "data_dir": arguments.stsb_dir}
    with tempfile.TemporaryDirectory() as folder:
        models = {"minilm": arguments.bert}
        scores = {}
        for name, main, flags in (
            ("sst-2", run_classifier.main, sst_2),
            ("sts-b", run_reg.main, sts_b),
        ):
            models[name] = os.path.join(folder, name)
            result = side_by_side.command(main, {**common, **flags}, models[name])
            scores[name] = result.get("eval_accuracy", result.get("pearson"))
        test = os.path.join(arguments.stsb_dir, "test.tsv")
        found = {"dev": scores, "spearman": {n: spearman(m, test) for n, m in models.items()}}
        if arguments.peer_python:
            found["largest_difference"], found["sentences"] = compare(arguments, folder)
    print(json.dumps(found, indent=1))
    if arguments.output_file:
        with open(arguments.output_file, "w", encoding="utf-8") as writer:
            json.dump(found, writer, indent=1)
            writer.write("\n")


def spearman(bert, path):
    """{pooling: of the cosine of the last layer}."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = evaluate_sts.main([f"--bert={bert}", f"--eval_file={path}"])
    if status:
        sys.exit(status)
    head, *rows = [line.split() for line in output.getvalue().splitlines()]
    place = head.index("cosine_spearman")
    return {row[0]: float(row[place]) for row in rows}


def compare(arguments, folder):
    """(the largest difference of any number of two vectors, number of sentences)."""
    texts = pairs.distinct(arguments.stsb_dir, None)
    source, target = (os.path.join(folder, name) for name in ("texts.json", "theirs.npy"))
    with open(source, "w", encoding="utf-8") as writer:
        json.dump(texts, writer)
    command = [arguments.peer_python, WORKER, "float32", arguments.bert, source, target]
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    ours = Encoder.load(arguments.bert).encode(texts)
    return float(np.abs(ours - np.load(target)).max()), len(texts)


if __name__ == "__main__":
    main()
