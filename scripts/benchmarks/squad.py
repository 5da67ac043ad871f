"""MiniLM fine-tuned on SQuAD v1.1 and v2.0 with run_squad, beside transformers with the same
windows, recipe, seeds and steps: every run printed, then the means.

python scripts/benchmarks/squad.py --squad_dir=SQUAD --model_dir=MINILM \\
  --peer_python=ENV/bin/python --seeds=1,2,3 --output_file=scripts/benchmarks/squad.json

SQUAD holds train-v1.1-subset.json, dev-v1.1-subset.json and the same of v2.0. Batch 16, rate 1e-4,
two epochs, length 384, stride 128, bfloat16 on both sides; v2.0 with null threshold 0. ENV has
PyTorch and transformers. Its BertForQuestionAnswering gets our windows as ids (they equal the
original's) and gives back logits, which go through our decoder and scores: what differs is the
model and its training. BERT's Adam has no bias correction, PyTorch's AdamW has: over so few steps
the best rate of ours is a fraction of theirs, so that squad.json has other rates too; with
--correct_bias=1 ours has it as well.
"""

import os

import numpy as np
import side_by_side

from bert_tools import hub
from bert_tools.cli import run_squad
from bert_tools.squad import scores
from bert_tools.squad.decode import decode
from bert_tools.squad.examples import read_squad_examples
from bert_tools.squad.windows import convert_examples_to_features

WINDOW = (384, 128, 64)  # Length, stride, and of the question at most.
METRICS = {"1.1": ("f1", "exact_match"), "2.0": ("f1", "best_f1", "HasAns_f1", "NoAns_f1")}


def main():
    parser = side_by_side.parser(__doc__, epochs=2.0, batch_size=16, learning_rate=1e-4)
    parser.add_argument("--squad_dir", required=True)
    parser.add_argument("--correct_bias", type=int, default=0, help="1: ours with this flag")
    parser.add_argument("--versions", default=",".join(METRICS))
    parser.add_argument("--keep_dir", help="where the folders that ours trains stay")
    arguments = parser.parse_args()
    metrics = {version: METRICS[version] for version in arguments.versions.split(",")}
    side_by_side.run(arguments, "squad", metrics, ours=ours, transformers=theirs)


def data_file(arguments, split, version):
    return os.path.join(arguments.squad_dir, f"{split}-v{version}-subset.json")


def ours(arguments, version, seed):
    """One run_squad."""
    flags = {
        "do_train": True,
        "do_predict": True,
        "train_file": data_file(arguments, "train", version),
        "predict_file": data_file(arguments, "dev", version),
        "version_2_with_negative": version == "2.0",
        "bert": arguments.model_dir,
        "max_seq_length": WINDOW[0],
        "doc_stride": WINDOW[1],
        "max_query_length": WINDOW[2],
        "train_batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate,
        "num_train_epochs": arguments.epochs,
        "max_train_steps": arguments.max_steps,
        "correct_bias": bool(arguments.correct_bias),
        "seed": seed,
    }
    folder = arguments.keep_dir and os.path.join(arguments.keep_dir, f"v{version}-seed{seed}")
    return side_by_side.command(run_squad.main, flags, folder)


def theirs(arguments, version, seed):
    """The same by transformers."""
    version_2 = version == "2.0"
    tokenizer = hub.load(arguments.model_dir).tokenizer
    windows = {}
    for split in ("train", "dev"):
        path = data_file(arguments, split, version)
        examples, _ = read_squad_examples(path, split == "train", version_2)
        windows[split] = convert_examples_to_features(
            examples, tokenizer, *WINDOW, split == "train"
        )
        if split == "train":
            # As run_squad and the original count: by questions, not windows.
            steps = int(len(examples) / arguments.batch_size * arguments.epochs)
    columns = windows["train"].features.columns
    facts, logits = side_by_side.transformers(
        arguments,
        "span",
        windows["train"].features,
        windows["dev"].features,
        {name: columns[name] for name in ("start_positions", "end_positions")},
        {
            "num_labels": 2,
            "steps": steps,
            "batch_size": arguments.batch_size,
            "learning_rate": arguments.learning_rate,
            "seed": seed,
            "part": 2,
        },
    )
    starts, ends = np.moveaxis(logits, -1, 0)
    decoded = decode(windows["dev"], starts, ends, version_2_with_negative=version_2)
    answers = {e.qas_id: d for e, d in zip(examples, decoded, strict=True)}
    references = {example.qas_id: example.answers for example in examples}
    predictions = {qid: answer.chosen().text for qid, answer in answers.items()}
    null_odds = {qid: a.null_odds for qid, a in answers.items()} if version_2 else None
    return {**facts, **scores.squad_scores(references, predictions, null_odds)}


if __name__ == "__main__":
    main()
