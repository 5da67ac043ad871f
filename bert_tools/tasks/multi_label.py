"""Multi-label classification: any number of labels for a text or a pair, each by itself."""

import math
import typing

import numpy as np

from bert_tools.errors import UserError
from bert_tools.inputs.features import LabelSet
from bert_tools.inputs.tables import listed, shown
from bert_tools.tasks import baselines, heads
from bert_tools.tasks.classify import in_order, parse_label, short


class MultiLabel:
    """Reading of labels, head, loss and metrics of several labels.

    Args:
      labels: sequence of at least two labels, in the order of their columns.
      separator: str, what stands between the labels of a cell.
      thresholds: float, or one for each label: from which probability on a label holds.
      tune: bool, `metrics` first chooses the thresholds with which each label's F1 is highest, and
        keeps them; an attribute, too.
      predict_fields: of classify.FIELDS, see classify.Classification.
      pooling: one of heads.POOLINGS, what the head reads; also an attribute. "pair" needs the
        attribute separator_id, see sentence.pooling.head_input.

    Attributes:
      initial_values: {name: float32 array}, what weights of a new head begin with that are not to
        be 0 or random; see start_from.
    """

    name = "multi_label"
    label_flag = "label_column"
    baseline_form: typing.ClassVar = {"label_shares": {str: float}}  # See baselines.read.

    def __init__(
        self,
        labels,
        separator=",",
        thresholds=0.5,
        tune=False,
        predict_fields=None,
        pooling="pooled",
    ):
        self.label_list = LabelSet(str(label) for label in labels)
        if len(set(self.label_list)) < max(2, len(self.label_list)):
            raise UserError(
                f"--labels={','.join(self.label_list)}: expected two labels or more, each once; "
                "correct the list"
            )
        self.thresholds = np.broadcast_to(
            np.asarray(thresholds, np.float64), len(self.label_list)
        ).copy()
        self._separator, self.tune = separator, tune
        self._row_fields = predict_fields or ("probabilities",)
        self._fields = {"probabilities", *(predict_fields or ("pooled_output",))}
        self.pooling, self.dropout_rate = pooling, heads.dropout_rate(pooling)
        self.separator_id = None
        self._initial_values = {}

    def parse_label(self, cell):
        """The labels of a cell, as a tuple in the order of label_list; an empty cell has none.

        Raises:
          ValueError: one is none of the model's.
        """
        found = parse_labels(cell, self._separator)
        for label in found:
            if label not in self.label_list:
                known = listed(self.label_list)
                raise ValueError(f"the label {shown(label)} is none of the model's: {known}")
        return tuple(label for label in self.label_list if label in found)

    def start_from(self, examples):
        """Lets a new head begin with each label as likely as it is in the training set.

        Labels are mostly rare. With a bias of 0 training has to bring all probabilities down from
        0.5 first, probably at the cost of what the pooled output knew. On 10,000 rows of GoEmotions
        (28 labels, two epochs, rate 1e-4, one seed, PyTorch's side of goemotions.py) macro F1 is
        0.02 with a bias of 0 and 0.28 with this.

        Args:
          examples: list of InputExample, the training set.
        """
        wanted = self._truth(examples)
        # Half an example more of either kind, as one that is in none or all has no logit.
        share = (wanted.sum(0) + 0.5) / (len(wanted) + 1)
        self._initial_values = {"output_bias": np.log(share / (1 - share)).astype(np.float32)}

    def head_shapes(self, config):
        """{name: shape} of the head's weights."""
        count, width = len(self.label_list), heads.input_width(self.pooling, config)
        return {"output_weights": (count, width), "output_bias": (count,)}

    def initial_values(self, config):
        """{name: array} of the weights of a new head that begin neither as 0 nor at random; see
        start_from.
        """
        del config
        return self._initial_values

    def apply(self, weights, hidden, features, training=False):
        """The head.

        Args:
          weights: dict that holds output_weights [labels, hidden] and output_bias [labels].
          hidden: float32 Tensor [n, heads.input_width], of sentence.pooling.head_input.
          features: dict; `label_ids` integer [n, labels], 1 for the labels that hold.
          training: bool; without effect.

        Returns:
          (per_example_loss float32 [n], the mean over labels of the binary cross-entropy;
          predictions, those of predict_fields: probabilities (each label's own), log_probabilities,
          logits float32 [n, labels], pooled_output float32
          [n, heads.input_width], what the head reads).
        """
        del training
        import tensorflow as tf

        logits = tf.matmul(hidden, weights["output_weights"], transpose_b=True)
        logits = tf.nn.bias_add(logits, weights["output_bias"])
        wanted = tf.cast(features["label_ids"], tf.float32)
        losses = tf.nn.sigmoid_cross_entropy_with_logits(wanted, logits)
        predictions = {
            "log_probabilities": tf.math.log_sigmoid(logits),
            "probabilities": tf.sigmoid(logits),
            "logits": logits,
            "pooled_output": hidden,
        }
        kept = {name: predictions[name] for name in predictions if name in self._fields}
        return tf.reduce_mean(losses, axis=-1), kept

    def metrics(self, predictions, features):
        """Metrics over a whole set.

        Args:
          predictions: {"probabilities": float32 array [n, labels]}.
          features: {"label_ids": integer array [n, labels]}.

        Returns:
          dict: eval_accuracy (all labels of an example right), hamming_loss; precision, recall,
          f1_score as _micro, _macro and _weighted; average_precision_micro and _macro; per_class
          {label: {precision, recall, f1_score, average_precision, threshold, examples}}. An average
          precision of a label that no example has is nan, and left out of the mean.
        """
        truth = np.asarray(features["label_ids"]) > 0
        probabilities = np.asarray(predictions["probabilities"], np.float64)
        if self.tune:
            self.thresholds = best_thresholds(truth, probabilities)
        return self._metrics(truth, probabilities)

    def _truth(self, examples):
        """Which labels hold, bool array [examples, labels]."""
        return np.array([[name in e.label for name in self.label_list] for e in examples])

    def _metrics(self, truth, probabilities):
        """See `metrics`; truth bool, probabilities float64 array [n, labels]."""
        from sklearn import metrics

        decided = probabilities >= self.thresholds
        result = {
            "eval_accuracy": float(np.mean((truth == decided).all(axis=1))),
            "hamming_loss": float(np.mean(truth != decided)),
        }
        names = ("precision", "recall", "f1_score")
        for average in ("micro", "macro", "weighted"):
            scores = metrics.precision_recall_fscore_support(
                truth, decided, average=average, zero_division=0
            )
            result |= {f"{n}_{average}": float(v) for n, v in zip(names, scores, strict=False)}
        each = metrics.precision_recall_fscore_support(
            truth, decided, average=None, zero_division=0
        )
        precisions = [
            float(metrics.average_precision_score(*pair)) if pair[0].any() else np.nan
            for pair in zip(truth.T, probabilities.T, strict=True)
        ]
        defined = [value for value in precisions if not np.isnan(value)]
        result["average_precision_macro"] = float(np.mean(defined)) if defined else np.nan
        result["average_precision_micro"] = (
            float(metrics.average_precision_score(truth, probabilities, average="micro"))
            if truth.any()
            else np.nan
        )
        result["per_class"] = {
            label: {
                **{name: float(values[n]) for name, values in zip(names, each, strict=False)},
                "average_precision": precisions[n],
                "threshold": float(self.thresholds[n]),
                "examples": int(truth[:, n].sum()),
            }
            for n, label in enumerate(self.label_list)
        }
        return result

    def baseline_statistics(self, examples):
        """What the baseline needs of a training set: {"label_shares": {label: float}}, the share
        of the examples that have it.
        """
        shares = self._truth(examples).mean(axis=0).tolist()
        return {"label_shares": dict(zip(self.label_list, shares, strict=True))}

    def baseline(self, statistics, examples):
        """What the training set's label shares as the probabilities of every example give, with
        the thresholds that `metrics` uses.

        Args:
          statistics: of baseline_statistics.
          examples: list of InputExample, the evaluated set.

        Returns:
          {"baseline_...": float} of f1_score and average_precision, each as _micro and _macro.
        """
        shares = [statistics["label_shares"].get(label, 0.0) for label in self.label_list]
        truth = self._truth(examples)
        found = self._metrics(truth, np.broadcast_to(shares, truth.shape))
        names = [f"{n}_{a}" for n in ("f1_score", "average_precision") for a in ("micro", "macro")]
        return {f"{baselines.PREFIX}{name}": found[name] for name in names}

    def compared(self, result):
        """The baselines.Comparison of a result with baseline lines, or None without."""
        if "baseline_f1_score_macro" not in result:
            return None
        return baselines.Comparison(
            "f1_score_macro",
            "baseline_f1_score_macro",
            "the label shares of the training set as probabilities",
            f"{baselines.MORE_TRAINING}, --tune_thresholds=true where labels are rare, or a check "
            "of the columns and of --label_separator",
        )

    def combine_windows(self, predictions):
        """What the mean of several windows' predictions says of the whole text."""
        if "log_probabilities" not in predictions:
            return predictions
        smallest = np.finfo(np.float32).tiny
        logs = np.log(np.maximum(predictions["probabilities"], smallest))
        return {**predictions, "log_probabilities": logs}

    def decided(self, prediction):
        """The labels of one example, a list of str."""
        holds = prediction["probabilities"] >= self.thresholds
        return [label for label, yes in zip(self.label_list, holds, strict=True) if yes]

    def row(self, prediction):
        """The line of test_results.tsv for one example: the predict_fields, tab-joined, in the
        order of label_list; labels are the names, joined by the separator.
        """
        cells = []
        for field in self._row_fields:
            if field == "labels":
                cells.append(self._separator.join(self.decided(prediction)))
            else:
                cells += map(str, prediction[field])
        return "\t".join(cells)

    def record(self, prediction):
        """What a JSON line says of one example: labels, and the predict_fields, those with a number
        a label by label.
        """
        record = {"labels": self.decided(prediction)}
        for field in self._row_fields:
            if field == "pooled_output":
                record[field] = list(map(short, prediction[field]))
            elif field != "labels":
                values = map(short, prediction[field])
                record[field] = dict(zip(self.label_list, values, strict=True))
        return record

    def description(self):
        """What bert_tools.json keeps of the task: what the head's columns mean."""
        return {"labels": list(self.label_list), "head_pooling": self.pooling}


def labels_of(examples, path):
    """The labels of a training set in the order of their columns, as classify.labels_of.

    Raises:
      UserError: there are fewer than two.
    """
    found = {label for example in examples for label in example.label}
    if len(found) < 2:
        raise UserError(
            f"{path}: has {len(found)} labels in all, and there is nothing to tell apart; check "
            "--label_column and --label_separator"
        )
    return in_order(found)


def parse_labels(cell, separator):
    """The labels of a cell as a set of str; a list in JSON lines, or what a --task_module gives as
    list, tuple or set, is one of labels, null is none.

    Raises:
      ValueError: it is neither text nor list, or an item of the list is no label.
    """
    if isinstance(cell, dict):
        raise ValueError(f"expected labels, found {shown(str(cell))}")
    # pandas has a NaN where there is nothing.
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        parts = ()
    elif isinstance(cell, str):
        parts = cell.split(separator)
    else:
        parts = cell if isinstance(cell, list | tuple | set | frozenset) else [cell]
    return {parse_label(part) for part in parts if not isinstance(part, str) or part.strip()}


def best_thresholds(truth, probabilities):
    """For each label the threshold with the highest F1; of equals the one nearest to 0.5, and 0.5
    where a label has no example.

    A threshold lies in the middle between two probabilities that occur.

    Args:
      truth: bool array [n, labels].
      probabilities: float array [n, labels].

    Returns:
      float64 array [labels].
    """
    found = np.full(truth.shape[1], 0.5)
    for label, (wanted, scores) in enumerate(zip(truth.T, probabilities.T, strict=True)):
        if not wanted.any():
            continue
        values = np.unique(scores)
        middles = np.concatenate([[values[0] / 2], (values[1:] + values[:-1]) / 2])
        order = np.sort(scores)
        right = np.sort(scores[wanted])
        got = len(order) - np.searchsorted(order, middles)
        hits = len(right) - np.searchsorted(right, middles)
        f1 = 2 * hits / (got + wanted.sum())
        best = np.flatnonzero(f1 == f1.max())
        found[label] = middles[best[np.argmin(np.abs(middles[best] - 0.5))]]
    return found
