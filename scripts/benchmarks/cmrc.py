"""Whether a toy model of BERT's shape learns fifty Chinese questions by heart with run_squad: the
whole way from CMRC 2018's JSON to its official scores, with the real vocabulary.

python scripts/benchmarks/cmrc.py --cmrc_file=cmrc2018/trial.json \\
  --vocab_file=bert-base-chinese/vocab.txt --output_file=scripts/benchmarks/cmrc.json

The fifty are those of the shortest contexts, several questions each, so that the question must be
read too. Two layers of width 32 with weights made at random: what it knows of other questions is
nothing. A minute of one core.
"""

import argparse
import json
import os
import sys
import tempfile
import time

from bert_tools import encoder, hub
from bert_tools.cli import run_squad
from bert_tools.config import BertConfig
from bert_tools.hub import google
from bert_tools.tokenization import FullTokenizer

COUNT = 50
WIDTH = 384  # The longest question and context of the fifty fit.


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cmrc_file", required=True)
    parser.add_argument("--vocab_file", required=True)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=10)
    parser.add_argument("--learning_rate", type=float, default=5e-3)
    parser.add_argument("--hidden_size", type=int, default=32)
    parser.add_argument("--output_file", help="JSON of the scores")
    arguments = parser.parse_args()
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        data_file, model = (os.path.join(folder, name) for name in ("fifty.json", "model"))
        with open(data_file, "w", encoding="utf-8") as writer:
            json.dump(fifty(arguments.cmrc_file), writer)
        write_model(model, arguments)
        status = run_squad.main(
            [
                "--do_train=true",
                "--do_predict=true",
                f"--train_file={data_file}",
                f"--predict_file={data_file}",
                f"--bert={model}",
                f"--max_seq_length={WIDTH}",
                f"--train_batch_size={arguments.batch_size}",
                f"--learning_rate={arguments.learning_rate}",
                f"--num_train_epochs={arguments.epochs}",
                "--max_answer_length=150",  # Some answers are whole sentences.
                f"--output_dir={folder}/out",
            ]
        )
        if status:
            sys.exit(status)
        with open(os.path.join(folder, "out", "eval_results.json"), encoding="utf-8") as reader:
            results = json.load(reader)
    results |= {
        "epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate,
        "hidden_size": arguments.hidden_size,
        "cpu_seconds": time.process_time() - begun,
    }
    print(json.dumps(results))
    if arguments.output_file:
        with open(arguments.output_file, "w", encoding="utf-8") as writer:
            json.dump(results, writer, indent=1)
            writer.write("\n")


def fifty(path):
    """The questions of the shortest contexts, in SQuAD's layout."""
    with open(path, encoding="utf-8") as reader:
        whole = json.load(reader)
    paragraphs = [paragraph for entry in whole["data"] for paragraph in entry["paragraphs"]]
    chosen, count = [], 0
    for paragraph in sorted(paragraphs, key=lambda paragraph: len(paragraph["context"])):
        asked = paragraph["qas"][: COUNT - count]
        chosen.append({"context": paragraph["context"], "qas": asked})
        count += len(asked)
        if count == COUNT:
            break
    return {"data": [{"paragraphs": chosen}]}


def write_model(folder, arguments):
    """Weights made at random, without dropout."""
    size = arguments.hidden_size
    tokenizer = FullTokenizer(arguments.vocab_file)
    config = BertConfig(
        vocab_size=len(tokenizer.vocab),
        hidden_size=size,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * size,
        max_position_embeddings=WIDTH,
        type_vocab_size=2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    weights = encoder.initial_weights(config, seed=1)
    google.write(folder, hub.Model(config, weights, tokenizer, {}, ""))


if __name__ == "__main__":
    main()
