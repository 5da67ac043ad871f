"""MiniLM fine-tuned on the first 10,000 rows of GoEmotions with run_classifier --multi_label,
beside transformers with the same ids, recipe, seeds and steps: every run printed, then the means.

python scripts/benchmarks/goemotions.py --data_dir=GOEMOTIONS --model_dir=MINILM \\
  --peer_python=ENV/bin/python --seeds=1,2,3 --output_file=scripts/benchmarks/goemotions.json

GOEMOTIONS holds train.tsv and dev.tsv: text, numbers of labels (of 28) joined by commas, and a
third column. Batch 16, rate 1e-4, two epochs, length 64, bfloat16 on both sides, binary
cross-entropy. ENV has PyTorch and transformers. Its BertForSequenceClassification gives back
logits, which go through our metrics. On both sides a label holds from 0.3 on, as in other work on
this data: most labels are rare; and the head's bias begins with the labels' shares, as
run_classifier lets it. With --zero_bias there is a third side, transformers with 0, as it comes.
"""

import functools
import os

import numpy as np
import side_by_side
from scipy.special import expit

from bert_tools import hub
from bert_tools.cli import run_classifier
from bert_tools.inputs import examples
from bert_tools.inputs.features import convert_examples_to_features
from bert_tools.tasks.multi_label import MultiLabel

LENGTH = 64
LABELS = [str(number) for number in range(28)]


def main():
    parser = side_by_side.parser(__doc__, epochs=2.0, batch_size=16, learning_rate=1e-4)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--rows", type=int, default=10000)
    parser.add_argument("--threshold", type=float, default=0.3)
    parser.add_argument("--zero_bias", action="store_true")
    parser.add_argument("--max_eval_examples", type=int, default=0, help="for a trial; 0: all")
    arguments = parser.parse_args()
    metrics = {"goemotions": ("f1_score_macro", "f1_score_micro", "average_precision_macro")}
    sides = {"ours": ours, "transformers": theirs}
    if arguments.zero_bias:
        sides["transformers, biases of 0"] = functools.partial(theirs, zero_bias=True)
    side_by_side.run(arguments, "data", metrics, **sides)


def ours(arguments, _, seed):
    """One run_classifier."""
    flags = {
        "task_name": "csv",
        "text_column": 0,
        "label_column": 1,
        "multi_label": True,
        "labels": ",".join(LABELS),
        "threshold": arguments.threshold,
        "do_train": True,
        "do_eval": True,
        "data_dir": arguments.data_dir,
        "bert": arguments.model_dir,
        "max_seq_length": LENGTH,
        "train_batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate,
        "num_train_epochs": arguments.epochs,
        "max_train_steps": arguments.max_steps,
        "max_train_examples": arguments.rows,
        "max_eval_examples": arguments.max_eval_examples,
        "seed": seed,
    }
    return side_by_side.command(run_classifier.main, flags)


def theirs(arguments, _, seed, zero_bias=False):
    """The same by transformers, on the examples as our reader gives them."""
    task = MultiLabel(LABELS, thresholds=arguments.threshold)
    tokenizer = hub.load(arguments.model_dir).tokenizer
    features = {}
    for split, rows in (("train", arguments.rows), ("dev", arguments.max_eval_examples)):
        path = os.path.join(arguments.data_dir, f"{split}.tsv")
        layout = examples.Layout(0, None, 1)
        found = examples.load_examples(path, layout, split, task.parse_label)
        found = found[: rows or None]
        features[split] = convert_examples_to_features(found, task.label_list, LENGTH, tokenizer)
        if split == "train":
            task.start_from(found)
    bias = task.initial_values["output_bias"]
    facts, logits = side_by_side.transformers(
        arguments,
        "label",
        features["train"],
        features["dev"],
        {
            "labels": features["train"].columns["label_ids"],
            "head_bias": np.zeros_like(bias) if zero_bias else bias,
        },
        {
            "num_labels": len(LABELS),
            "steps": int(len(features["train"]) / arguments.batch_size * arguments.epochs),
            "batch_size": arguments.batch_size,
            "learning_rate": arguments.learning_rate,
            "seed": seed,
            "part": 16,
        },
    )
    predictions = {"probabilities": expit(logits)}
    return {**facts, **task.metrics(predictions, features["dev"].columns)}


if __name__ == "__main__":
    main()
