"""MiniLM fine-tuned on SQuAD v1.1 and v2.0 with run_squad, beside transformers with the same
windows, recipe, seeds and steps: every run printed, then the means.

python scripts/benchmarks/squad.py --squad_dir=SQUAD --model_dir=MINILM \\
  --peer_python=ENV/bin/python --seeds=1,2,3 --output_file=scripts/benchmarks/squad.json

SQUAD holds train-v1.1-subset.json, dev-v1.1-subset.json and the same of v2.0. Batch 16, rate 2e-4,
two epochs, length 384, stride 128, bfloat16 on both sides; v2.0 with null threshold 0. ENV has
PyTorch and transformers. Its BertForQuestionAnswering gets our windows as ids (they equal the
original's) and gives back logits, which go through our decoder and scores: what differs is the
model and its training.
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

from bert_tools import hub
from bert_tools.cli import run_squad
from bert_tools.squad import scores
from bert_tools.squad.decode import decode
from bert_tools.squad.examples import read_squad_examples
from bert_tools.squad.windows import convert_examples_to_features

WINDOW = (384, 128, 64)  # Length, stride, and of the question at most.
METRICS = {"1.1": ("f1", "exact_match"), "2.0": ("f1", "best_f1", "HasAns_f1", "NoAns_f1")}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--squad_dir", required=True)
    parser.add_argument("--model_dir", required=True, help="MiniLM as a Hugging Face folder")
    parser.add_argument("--peer_python", help="without it, ours alone")
    parser.add_argument("--versions", default=",".join(METRICS))
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    parser.add_argument("--max_steps", type=int, default=0, help="for a trial; 0: all")
    parser.add_argument("--keep_dir", help="where the folders that ours trains stay")
    parser.add_argument("--output_file", help="JSON of every run, added to after each")
    arguments = parser.parse_args()
    runs = []
    if arguments.output_file and os.path.exists(arguments.output_file):
        with open(arguments.output_file, encoding="utf-8") as reader:
            runs = json.load(reader)
    for seed in map(int, arguments.seeds.split(",")):
        for version in arguments.versions.split(","):
            for side in ("ours", "transformers") if arguments.peer_python else ("ours",):
                work = ours if side == "ours" else theirs
                result = work(arguments, version, seed)
                runs.append({"squad": version, "seed": seed, "side": side, **result})
                print(json.dumps(runs[-1]), flush=True)
                if arguments.output_file:
                    with open(arguments.output_file, "w", encoding="utf-8") as writer:
                        json.dump(runs, writer, indent=1)
                        writer.write("\n")
    print("| SQuAD | metric | ours | transformers |\n|---|---|---|---|")
    for version in dict.fromkeys(run["squad"] for run in runs):
        for metric in METRICS[version]:
            cells = []
            for side in ("ours", "transformers"):
                of_side = [r for r in runs if r["squad"] == version and r["side"] == side]
                found = [run[metric] for run in of_side]
                each = ", ".join(f"{value:.2f}" for value in found)
                cells.append(f"{statistics.mean(found):.2f} ({each})" if found else "")
            print(f"| v{version} | {metric} | {' | '.join(cells)} |")


def data_file(arguments, split, version):
    return os.path.join(arguments.squad_dir, f"{split}-v{version}-subset.json")


def ours(arguments, version, seed):
    """One run_squad."""
    begun = time.time()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.keep_dir:
            folder = os.path.join(arguments.keep_dir, f"v{version}-seed{seed}")
        status = run_squad.main(
            [
                "--do_train=true",
                "--do_predict=true",
                f"--train_file={data_file(arguments, 'train', version)}",
                f"--predict_file={data_file(arguments, 'dev', version)}",
                f"--version_2_with_negative={version == '2.0'}",
                f"--bert={arguments.model_dir}",
                f"--max_seq_length={WINDOW[0]}",
                f"--doc_stride={WINDOW[1]}",
                f"--max_query_length={WINDOW[2]}",
                f"--train_batch_size={arguments.batch_size}",
                f"--learning_rate={arguments.learning_rate}",
                f"--num_train_epochs={arguments.epochs}",
                f"--max_train_steps={arguments.max_steps}",
                "--precision=bfloat16",
                f"--seed={seed}",
                f"--output_dir={folder}",
            ]
        )
        if status:
            sys.exit(status)
        with open(os.path.join(folder, "eval_results.json"), encoding="utf-8") as reader:
            results = json.load(reader)
    return {"seconds": time.time() - begun, **results}


def theirs(arguments, version, seed):
    """The same by transformers."""
    begun = time.time()
    version_2 = version == "2.0"
    tokenizer = hub.load(arguments.model_dir).tokenizer
    spec = {}
    for split in ("train", "dev"):
        path = data_file(arguments, split, version)
        examples, _ = read_squad_examples(path, split == "train", version_2)
        windows = convert_examples_to_features(examples, tokenizer, *WINDOW, split == "train")
        spec[f"{split}_ids"] = windows.features.input_ids
        spec[f"{split}_segments"] = windows.features.segment_ids
        spec[f"{split}_rows"] = windows.features.offsets
        if split == "train":
            # As run_squad and the original count: by questions, not windows.
            steps = int(len(examples) / arguments.batch_size * arguments.epochs)
            for name in ("start_positions", "end_positions"):
                spec[name] = windows.features.columns[name]
    recipe = {
        "steps": min(steps, arguments.max_steps or steps),
        "batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate,
        "seed": seed,
    }
    here = os.path.dirname(os.path.abspath(__file__))
    with tempfile.TemporaryDirectory() as folder:
        spec_file, logits_file = (os.path.join(folder, name) for name in ("spec.npz", "logits.npy"))
        np.savez(spec_file, recipe=json.dumps(recipe), **spec)
        done = subprocess.run(
            [
                arguments.peer_python,
                os.path.join(here, "worker_squad_transformers.py"),
                arguments.model_dir,
                spec_file,
                logits_file,
            ],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        starts, ends = np.load(logits_file)
    decoded = decode(windows, starts, ends, version_2_with_negative=version_2)
    answers = {e.qas_id: d for e, d in zip(examples, decoded, strict=True)}
    references = {example.qas_id: example.answers for example in examples}
    predictions = {qid: answer.chosen().text for qid, answer in answers.items()}
    null_odds = {qid: a.null_odds for qid, a in answers.items()} if version_2 else None
    results = scores.squad_scores(references, predictions, null_odds)
    return {
        "seconds": time.time() - begun,
        **json.loads(done.stdout.splitlines()[-1]),
        **results,
    }


if __name__ == "__main__":
    main()
