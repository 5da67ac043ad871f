"""MiniLM fine-tuned on CoNLL-2003 with run_ner, beside transformers with the same pieces, labels,
recipe, seeds and steps: every run printed, then the means.

python scripts/benchmarks/ner.py --data_dir=CONLL --model_dir=MINILM --peer_python=ENV/bin/python \\
  --seeds=1,2,3 --output_file=scripts/benchmarks/ner.json

CONLL holds train.txt and dev.txt or valid.txt. Batch 32, rate 1e-4, three epochs, length 128,
bfloat16 on both sides. ENV has PyTorch and transformers. Its BertForTokenClassification gets our
pieces as ids and gives back logits, whose tags our scorer counts (as seqeval does): what differs is
the model and its training.
"""

import numpy as np
import side_by_side

from bert_tools import hub
from bert_tools.cli import ner_data, run_ner
from bert_tools.inputs.features import ranges
from bert_tools.inputs.word_features import convert_sentences_to_features
from bert_tools.tasks.tag import Tagging

LENGTH = 128


def main():
    parser = side_by_side.parser(__doc__, epochs=3.0, batch_size=32, learning_rate=1e-4)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--max_train_examples", type=int, default=0, help="for a trial; 0: all")
    parser.add_argument("--max_eval_examples", type=int, default=0, help="for a trial; 0: all")
    arguments = parser.parse_args()
    metrics = {"conll": ("f1_score", "precision", "recall", "f1_score_macro")}
    side_by_side.run(arguments, "data", metrics, ours=ours, transformers=theirs)


def flags_of(arguments, seed):
    """Those of run_ner."""
    return {
        "do_train": True,
        "do_eval": True,
        "data_dir": arguments.data_dir,
        "bert": arguments.model_dir,
        "max_seq_length": LENGTH,
        "train_batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate,
        "num_train_epochs": arguments.epochs,
        "max_train_steps": arguments.max_steps,
        "max_train_examples": arguments.max_train_examples,
        "max_eval_examples": arguments.max_eval_examples,
        "seed": seed,
    }


def ours(arguments, _, seed):
    """One run_ner."""
    return side_by_side.command(run_ner.main, flags_of(arguments, seed))


def theirs(arguments, _, seed):
    """The same by transformers, on the sentences as run_ner reads them."""
    command = run_ner.flags()
    command.parse([f"--{name}={value}" for name, value in flags_of(arguments, seed).items()])
    labels, data = ner_data.load(command, ["train", "eval"], None)
    tokenizer = hub.load(arguments.model_dir).tokenizer
    train, dev = (
        convert_sentences_to_features(data[phase][1], labels, LENGTH, tokenizer, phase == "train")
        for phase in ("train", "eval")
    )
    rows = np.repeat(np.arange(len(train)), train.lengths)
    places = ranges(np.zeros(len(train), np.int64), train.lengths)
    facts, logits = side_by_side.transformers(
        arguments,
        "tag",
        train,
        dev,
        {"tags": train.columns["label_ids"][rows, places].astype(np.int64) - 1},
        {
            "num_labels": len(labels),
            # As run_ner counts: by sentences, not windows.
            "steps": int(len(data["train"][1]) / arguments.batch_size * arguments.epochs),
            "batch_size": arguments.batch_size,
            "learning_rate": arguments.learning_rate,
            "seed": seed,
            "part": 16,
        },
    )
    tags = np.zeros((len(dev), LENGTH), np.int32)
    tags[:, : logits.shape[1]] = logits.argmax(-1)
    return {**facts, **Tagging(labels).metrics({"labels": tags}, dev.columns)}


if __name__ == "__main__":
    main()
