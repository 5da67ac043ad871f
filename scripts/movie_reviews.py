"""The well-known notebook "Predicting Movie Reviews with BERT on TF Hub", from its table of reviews
to its predictions of single sentences, with the library's functions. README lists the lines of it
that had to change.

python scripts/movie_reviews.py --output_dir=/tmp/movie-reviews

On stdout come JSON lines: the metrics of the dev set, then a prediction a sentence. With the
defaults, 400 short opinions, that takes half a minute on two cores and gives an accuracy of 0.69;
for the notebook's own data give --data_dir a folder of train.tsv and dev.tsv with the columns
sentence and label.
"""

import csv
import datetime
import json
import os
import pathlib
import sys

from bert_tools.cli import app

DATA_COLUMN = "sentence"
LABEL_COLUMN = "label"
LABEL_LIST = [0, 1]
LABELS = ["Negative", "Positive"]
# The notebook's.
BATCH_SIZE = 32
LEARNING_RATE = 2e-5
NUM_TRAIN_EPOCHS = 3.0
WARMUP_PROPORTION = 0.1
SAVE_CHECKPOINTS_STEPS = 500
SAVE_SUMMARY_STEPS = 100
PRED_SENTENCES = [
    "That movie was absolutely awful",
    "The acting was a bit lacking",
    "The film was creative and surprising",
    "Absolutely fantastic!",
]
SAMPLES = pathlib.Path(__file__).resolve().parent.parent / "data" / "sentiment-en"


def flags():
    """The script's flags."""
    command = app.CommandFlags()
    command.group("Flags")
    command.string("data_dir", str(SAMPLES), "Folder of train.tsv and dev.tsv.")
    command.string("output_dir", None, "Folder of checkpoints and summaries; made when absent.")
    command.string("bert", "minilm", "The model: a folder, or the name minilm.")
    command.integer("max_seq_length", 128, "Tokens a text, specials included.")
    command.integer("max_train_steps", 0, "At most so many steps; 0: all.", lower_bound=0)
    return command


def read_table(path):
    """The rows of a tab-separated file with a header, as dicts; the notebook has a data frame."""
    with open(path, encoding="utf-8", newline="") as reader:
        return list(csv.DictReader(reader, delimiter="\t", quoting=csv.QUOTE_NONE))


def run(command):
    """The notebook's cells, one after another."""
    command.require("output_dir")
    app.import_tensorflow()
    from bert_tools import hub
    from bert_tools.estimator import Estimator, RunConfig
    from bert_tools.inputs.batches import input_fn_builder
    from bert_tools.inputs.examples import InputExample
    from bert_tools.inputs.features import convert_examples_to_features
    from bert_tools.model_fn import model_fn_builder

    max_seq_length = command.max_seq_length
    train = read_table(os.path.join(command.data_dir, "train.tsv"))
    test = read_table(os.path.join(command.data_dir, "dev.tsv"))
    train_examples, test_examples = (
        [InputExample(guid=None, text_a=x[DATA_COLUMN], label=int(x[LABEL_COLUMN])) for x in table]
        for table in (train, test)
    )

    model = hub.load(command.bert)
    tokenizer = model.tokenizer
    train_features = convert_examples_to_features(
        train_examples, LABEL_LIST, max_seq_length, tokenizer
    )
    test_features = convert_examples_to_features(
        test_examples, LABEL_LIST, max_seq_length, tokenizer
    )

    num_train_steps = int(len(train_features) / BATCH_SIZE * NUM_TRAIN_EPOCHS)
    if command.max_train_steps:
        num_train_steps = min(num_train_steps, command.max_train_steps)
    num_warmup_steps = int(num_train_steps * WARMUP_PROPORTION)
    run_config = RunConfig(
        model_dir=command.output_dir,
        save_summary_steps=SAVE_SUMMARY_STEPS,
        save_checkpoints_steps=SAVE_CHECKPOINTS_STEPS,
    )
    model_fn = model_fn_builder(
        model.config,
        num_labels=len(LABEL_LIST),
        init_checkpoint=model.weights,
        learning_rate=LEARNING_RATE,
        num_train_steps=num_train_steps,
        num_warmup_steps=num_warmup_steps,
    )
    estimator = Estimator(model_fn=model_fn, config=run_config, params={"batch_size": BATCH_SIZE})

    train_input_fn = input_fn_builder(
        features=train_features, seq_length=max_seq_length, is_training=True, drop_remainder=False
    )
    current_time = datetime.datetime.now()
    estimator.train(input_fn=train_input_fn, max_steps=num_train_steps)
    print("Training took time", datetime.datetime.now() - current_time, file=sys.stderr)

    test_input_fn = input_fn_builder(
        features=test_features, seq_length=max_seq_length, is_training=False, drop_remainder=False
    )
    print(json.dumps(estimator.evaluate(input_fn=test_input_fn, steps=None)))

    def get_prediction(in_sentences):
        input_examples = [InputExample(guid="", text_a=x, label=0) for x in in_sentences]
        input_features = convert_examples_to_features(
            input_examples, LABEL_LIST, max_seq_length, tokenizer
        )
        predict_input_fn = input_fn_builder(
            features=input_features,
            seq_length=max_seq_length,
            is_training=False,
            drop_remainder=False,
        )
        predictions = estimator.predict(predict_input_fn)
        return [
            (
                sentence,
                prediction["log_probabilities"],
                prediction["probabilities"],
                LABELS[prediction["labels"]],
                prediction["pooled_output"],
            )
            for sentence, prediction in zip(in_sentences, predictions, strict=True)
        ]

    for sentence, log_probabilities, probabilities, label, pooled in get_prediction(PRED_SENTENCES):
        line = {
            "sentence": sentence,
            "label": label,
            "log_probabilities": log_probabilities.tolist(),
            "probabilities": probabilities.tolist(),
            "pooled_output": pooled.tolist(),
        }
        print(json.dumps(line))


def main(arguments=None):
    """The script; returns the exit status."""
    return app.run(__doc__, flags(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
