"""Classification: one label of several for a text or a pair, as the original run_classifier.py."""

import collections
import math
import typing

from bert_tools.errors import UserError
from bert_tools.inputs.data_sets import DataSet
from bert_tools.inputs.examples import Layout
from bert_tools.inputs.tables import listed, shown
from bert_tools.tasks import baselines, heads

FIELDS = ("probabilities", "log_probabilities", "labels", "logits", "pooled_output")
_DEFAULT_FIELDS = ("log_probabilities", "pooled_output")
_BY_CLASS = ("probabilities", "log_probabilities", "logits")
_ZERO_ONE = ("0", "1")
_NLI = ("contradiction", "entailment", "neutral")
_ENTAILED = ("entailment", "not_entailment")

# Columns of the original scripts (cola, mnli, mrpc, xnli), and of the files as GLUE, CLUE and their
# authors ship them. Where labels are absent from a test file, its layout has none.
DATA_SETS = {
    "cola": DataSet(
        train=("train.tsv", Layout(3, None, 1)),
        dev=("dev.tsv", Layout(3, None, 1)),
        test=("test.tsv", Layout(1, header=True)),
        labels=_ZERO_ONE,
    ),
    "mnli": DataSet(
        train=("train.tsv", Layout(8, 9, -1, header=True)),
        dev=("dev_matched.tsv", Layout(8, 9, -1, header=True)),
        test=("test_matched.tsv", Layout(8, 9, header=True)),
        dev_mm=("dev_mismatched.tsv", Layout(8, 9, -1, header=True)),
        test_mm=("test_mismatched.tsv", Layout(8, 9, header=True)),
        labels=_NLI,
    ),
    "mrpc": DataSet(
        train=("train.tsv", Layout(3, 4, 0, header=True)),
        dev=("dev.tsv", Layout(3, 4, 0, header=True)),
        test=("test.tsv", Layout(3, 4, header=True)),
        labels=_ZERO_ONE,
    ),
    "xnli": DataSet(
        train=("multinli/multinli.train.zh.tsv", Layout(0, 1, 2, header=True)),
        dev=("xnli.dev.tsv", Layout(6, 7, 1, header=True, only=(0, "zh"))),
        test=("xnli.test.tsv", Layout(6, 7, header=True, only=(0, "zh"))),
        labels=_NLI,
        aliases=(("contradictory", "contradiction"),),
    ),
    "sst-2": DataSet(
        train=("train.tsv", Layout(0, None, 1, header=True)),
        dev=("dev.tsv", Layout(0, None, 1, header=True)),
        test=("test.tsv", Layout(1, header=True)),
        labels=_ZERO_ONE,
    ),
    "qqp": DataSet(
        train=("train.tsv", Layout(3, 4, 5, header=True)),
        dev=("dev.tsv", Layout(3, 4, 5, header=True)),
        test=("test.tsv", Layout(1, 2, header=True)),
        labels=_ZERO_ONE,
        has_bad_lines=True,
    ),
    "qnli": DataSet(
        train=("train.tsv", Layout(1, 2, 3, header=True)),
        dev=("dev.tsv", Layout(1, 2, 3, header=True)),
        test=("test.tsv", Layout(1, 2, header=True)),
        labels=_ENTAILED,
    ),
    "rte": DataSet(
        train=("train.tsv", Layout(1, 2, 3, header=True)),
        dev=("dev.tsv", Layout(1, 2, 3, header=True)),
        test=("test.tsv", Layout(1, 2, header=True)),
        labels=_ENTAILED,
    ),
    "wnli": DataSet(
        train=("train.tsv", Layout(1, 2, 3, header=True)),
        dev=("dev.tsv", Layout(1, 2, 3, header=True)),
        test=("test.tsv", Layout(1, 2, header=True)),
        labels=_ZERO_ONE,
    ),
    "lcqmc": DataSet(
        train=("train.tsv", Layout(0, 1, 2)),
        dev=("dev.tsv", Layout(0, 1, 2)),
        test=("test.tsv", Layout(0, 1)),
        labels=_ZERO_ONE,
    ),
    "chnsenticorp": DataSet(
        train=("train.tsv", Layout(1, None, 0, header=True)),
        dev=("dev.tsv", Layout(1, None, 0, header=True)),
        test=("test.tsv", Layout(1, header=True)),
        labels=_ZERO_ONE,
    ),
    # The training set comes in five sizes; the largest that is there counts.
    "ocnli": DataSet(
        train=(
            tuple(f"train.{size}.json" for size in ("50k", "30k", "10k", "3k", "1k")),
            Layout("sentence1", "sentence2", "label", kind="jsonl", unlabelled="-"),
        ),
        dev=(
            "dev.json",
            Layout("sentence1", "sentence2", "label", kind="jsonl", unlabelled="-"),
        ),
        test=("test.json", Layout("sentence1", "sentence2", kind="jsonl")),
        labels=_NLI,
    ),
}


def parse_label(cell):
    """A label as files and processors give it, as str without white space around it.

    Raises:
      ValueError: it is empty, or a list or object.
    """
    if isinstance(cell, bool):
        return str(cell).lower()  # As JSON spells it.
    label = "" if cell is None else str(cell).strip()
    # pandas has a NaN where there is nothing.
    missing = isinstance(cell, float) and math.isnan(cell)
    if not label or missing or isinstance(cell, list | dict):
        raise ValueError(f"expected a label, found {shown(str(cell))}")
    return label


def labels_of(examples, path):
    """The labels of a training set in the order of their columns: by value where all are integers,
    else by code point.

    Args:
      examples: list of InputExample.
      path: str, what errors name.

    Raises:
      UserError: there are fewer than two.
    """
    found = {example.label for example in examples}
    if len(found) < 2:
        raise UserError(
            f"{path}: every example has the label {examples[0].label!r}, and there is nothing to "
            "tell apart; give examples of two labels or more"
        )
    return in_order(found)


def in_order(labels):
    """Labels by value where all are integers, else by code point."""
    if all(label.isascii() and label.removeprefix("-").isdecimal() for label in labels):
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)


def balanced_weights(examples, labels):
    """A weight for each of the labels, inversely proportional to its number of examples; their
    mean over the examples is 1 (scikit-learn's "balanced").
    """
    counts = collections.Counter(example.label for example in examples)
    return [len(examples) / len(labels) / max(counts[label], 1) for label in labels]


def most_frequent(counts, labels):
    """The label with the highest count; of equals the first of `labels`.

    Args:
      counts: {label: int}.
      labels: list of str.
    """
    return max(labels, key=lambda label: counts.get(label, 0))


def label_counts(examples):
    """How often each label occurs in a list of InputExample, as a dict {label: int}."""
    return dict(collections.Counter(example.label for example in examples))


class Classification:
    """Reading of labels, head, loss and metrics of classification.

    Args:
      labels: sequence of at least two labels, in the order of their columns.
      positive_label: which of two labels precision, recall and the like are of; None: the last.
      class_weights: a factor for each label's loss in training, in the order of labels; None: 1.
      label_smoothing: float, in training this share of the target is spread over all labels
        evenly.
      aliases: {spelling in files: label}, or None.
      predict_fields: of FIELDS, what `row` and `record` write of a prediction, and what
        predictions hold besides probabilities and labels. None: all but logits, and `row` has the
        probabilities.
      pooling: one of heads.POOLINGS, what the head reads; also an attribute. "pair" needs the
        attribute separator_id, see sentence.pooling.head_input.
    """

    name = "classify"
    label_flag = "label_column"
    baseline_form: typing.ClassVar = {"label_counts": {str: int}}  # See baselines.read.

    def __init__(
        self,
        labels,
        positive_label=None,
        class_weights=None,
        label_smoothing=0.0,
        aliases=None,
        predict_fields=None,
        pooling="pooled",
    ):
        self.label_list = [str(label) for label in labels]
        if len(set(self.label_list)) < max(2, len(self.label_list)):
            raise UserError(
                f"--labels={','.join(self.label_list)}: expected two labels or more, each once; "
                "correct the list"
            )
        if positive_label is not None and len(self.label_list) > 2:
            raise UserError(
                f"--positive_label={positive_label}: there are {len(self.label_list)} labels, and "
                "it is for two; leave it out"
            )
        self.positive_label = self.label_list[-1] if positive_label is None else positive_label
        if self.positive_label not in self.label_list:
            raise UserError(
                f"--positive_label={positive_label}: expected one of {', '.join(self.label_list)}"
            )
        if class_weights is not None and len(class_weights) != len(self.label_list):
            raise UserError(
                f"--class_weights: {len(class_weights)} weights for {len(self.label_list)} labels "
                f"({', '.join(self.label_list)}); give one for each"
            )
        self._class_weights = class_weights
        self._label_smoothing = label_smoothing
        self._aliases = dict(aliases or {})
        self.pooling, self.dropout_rate = pooling, heads.dropout_rate(pooling)
        self.separator_id = None
        self._row_fields = predict_fields or ("probabilities",)
        self._fields = {"probabilities", "labels", *(predict_fields or _DEFAULT_FIELDS)}

    def parse_label(self, cell):
        """A label of a file, as one of label_list.

        Raises:
          ValueError: it is none of them.
        """
        label = parse_label(cell)
        label = self._aliases.get(label, label)
        if label not in self.label_list:
            known = listed(self.label_list)
            raise ValueError(f"the label {shown(label)} is none of the model's: {known}")
        return label

    def head_shapes(self, config):
        """{name: shape} of the head's weights."""
        count, width = len(self.label_list), heads.input_width(self.pooling, config)
        return {"output_weights": (count, width), "output_bias": (count,)}

    def apply(self, weights, hidden, features, training=False):
        """The head.

        Args:
          weights: dict that holds output_weights [labels, hidden] and output_bias [labels].
          hidden: float32 Tensor [n, heads.input_width], of sentence.pooling.head_input.
          features: dict; `label_ids` integer [n].
          training: bool, class weights and label smoothing count; without, the loss is the
            cross-entropy alone.

        Returns:
          (per_example_loss float32 [n]; predictions, those of predict_fields: log_probabilities,
          probabilities, logits float32 [n, labels], labels int32 [n] (the most probable one's
          number), pooled_output float32
          [n, heads.input_width], what the head reads).
        """
        import tensorflow as tf

        logits = tf.matmul(hidden, weights["output_weights"], transpose_b=True)
        logits = tf.nn.bias_add(logits, weights["output_bias"])
        log_probabilities = tf.nn.log_softmax(logits, axis=-1)
        label_ids, count = features["label_ids"], len(self.label_list)
        target = tf.one_hot(label_ids, depth=count, dtype=tf.float32)
        if training and self._label_smoothing:
            target = target * (1.0 - self._label_smoothing) + self._label_smoothing / count
        loss = -tf.reduce_sum(target * log_probabilities, axis=-1)
        if training and self._class_weights is not None:
            loss *= tf.gather(tf.constant(self._class_weights, tf.float32), label_ids)
        predictions = {
            "log_probabilities": log_probabilities,
            "probabilities": tf.nn.softmax(logits, axis=-1),
            "labels": tf.argmax(logits, axis=-1, output_type=tf.int32),
            "logits": logits,
            "pooled_output": hidden,
        }
        return loss, {name: predictions[name] for name in predictions if name in self._fields}

    def metrics(self, predictions, features):
        """Metrics over a whole set.

        Args:
          predictions: {"probabilities": float32 array [n, labels], "labels": int32 [n]}.
          features: {"label_ids": integer array [n]}.

        Returns:
          dict, see class_metrics.compute.
        """
        from bert_tools.tasks import class_metrics

        return class_metrics.compute(
            features["label_ids"],
            predictions["labels"],
            predictions["probabilities"],
            self.label_list,
            self.positive_label,
        )

    def baseline_statistics(self, examples):
        """What the baseline needs of a training set: {"label_counts": {label: int}}."""
        return {"label_counts": label_counts(examples)}

    def baseline(self, statistics, examples):
        """What the training set's most frequent label for every example gives.

        Args:
          statistics: of baseline_statistics.
          examples: list of InputExample, the evaluated set.

        Returns:
          {"baseline_accuracy", and for two labels "baseline_f1_score" (of the positive one), for
          more "baseline_f1_score_macro": float}.
        """
        import numpy as np

        from bert_tools.tasks import class_metrics

        numbers = {label: number for number, label in enumerate(self.label_list)}
        truth = np.array([numbers[example.label] for example in examples])
        label = most_frequent(statistics["label_counts"], self.label_list)
        decided = np.full_like(truth, numbers[label])
        certain = np.eye(len(self.label_list))[decided]
        found = class_metrics.compute(truth, decided, certain, self.label_list, self.positive_label)
        score = "f1_score" if len(self.label_list) == 2 else "f1_score_macro"
        return {
            "baseline_accuracy": found["eval_accuracy"],
            f"{baselines.PREFIX}{score}": found[score],
        }

    def compared(self, result):
        """The baselines.Comparison of a result with baseline lines, or None without."""
        if "baseline_accuracy" not in result:
            return None
        return baselines.Comparison(
            "eval_accuracy",
            "baseline_accuracy",
            "the most frequent class of the training set",
            f"{baselines.MORE_TRAINING}, a check of the columns, or --class_weights=balanced where "
            "one class outweighs the others and f1_score counts more than accuracy",
        )

    def combine_windows(self, predictions):
        """What the mean of several windows' predictions says of the whole text: the mean of the
        probabilities, and what follows from it.
        """
        import numpy as np

        probabilities = predictions["probabilities"]
        combined = {**predictions, "labels": np.argmax(probabilities, axis=-1).astype(np.int32)}
        if "log_probabilities" in combined:
            smallest = np.finfo(np.float32).tiny
            combined["log_probabilities"] = np.log(np.maximum(probabilities, smallest))
        return combined

    def row(self, prediction):
        """The line of test_results.tsv for one example: the predict_fields, tab-joined, classes in
        the order of label_list; labels is the name.
        """
        cells = []
        for field in self._row_fields:
            if field == "labels":
                cells.append(self.label_list[prediction["labels"]])
            else:
                cells += map(str, prediction[field])
        return "\t".join(cells)

    def record(self, prediction):
        """What a JSON line says of one example: label, its probability, and the predict_fields,
        those with a number a class by label.
        """
        label = prediction["labels"]
        record = {
            "label": self.label_list[label],
            "probability": short(prediction["probabilities"][label]),
        }
        for field in self._row_fields:
            if field != "labels":
                values = map(short, prediction[field])
                by_class = field in _BY_CLASS
                record[field] = (
                    dict(zip(self.label_list, values, strict=True)) if by_class else list(values)
                )
        return record

    def description(self):
        """What bert_tools.json keeps of the task: what the head's columns mean."""
        return {"labels": self.label_list, "head_pooling": self.pooling}


def short(value):
    """A float32 as the shortest number that stands for it."""
    return float(str(value))
