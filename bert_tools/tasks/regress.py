"""Regression: one number for a text or a pair, as the original run_reg.py."""

import math
import typing

from bert_tools.errors import UserError
from bert_tools.inputs.data_sets import DataSet
from bert_tools.inputs.examples import Layout, parse_value
from bert_tools.tasks import baselines, heads

LOSSES = ("mse", "logistic")

DATA_SETS = {
    # The fork of google-research/bert with run_reg.py: no header; further columns are ignored.
    "sim": DataSet(
        train=("train.tsv", Layout(0, 1, 2)),
        dev=("dev.tsv", Layout(0, 1, 2)),
        test=("test.tsv", Layout(0, 1)),
    ),
    # GLUE's STS benchmark; its test file has no score.
    "sts-b": DataSet(
        train=("train.tsv", Layout(7, 8, 9, header=True)),
        dev=("dev.tsv", Layout(7, 8, 9, header=True)),
        test=("test.tsv", Layout(7, 8, header=True)),
        value_range=(0.0, 5.0),
    ),
}


def correlations(found, wanted):
    """{"pearson": float, "spearman": float} of float64 arrays [n]; nan where one is constant."""
    import numpy as np
    from scipy import stats

    if len(found) < 2 or np.ptp(found) == 0 or np.ptp(wanted) == 0:
        return {"pearson": float("nan"), "spearman": float("nan")}
    return {
        "pearson": float(stats.pearsonr(found, wanted).statistic),
        "spearman": float(stats.spearmanr(found, wanted).statistic),
    }


class Regression:
    """Reading of values, head, loss and metrics of regression.

    Args:
      use_sigmoid_act: bool, a sigmoid on the single output (values in 0..1).
      value_range: (low, high) of the values, which are mapped to 0..1 for the loss and back in
        predictions, or None.
      loss: "mse", the squared error, as the original; or "logistic", the cross-entropy of the
        sigmoid with a value in 0..1 as a probability.
      pooling: one of heads.POOLINGS, what the head reads; also an attribute. "pair" needs the
        attribute separator_id, see sentence.pooling.head_input.
    """

    name = "regress"
    label_flag = "value_column"
    label_list = None  # Labels are numbers, see features.convert_examples_to_features.
    baseline_form: typing.ClassVar = {"mean": float}  # See baselines.read.

    def __init__(self, use_sigmoid_act=True, value_range=None, loss="mse", pooling="pooled"):
        if loss == "logistic" and not use_sigmoid_act:
            raise UserError(
                "--loss=logistic needs the sigmoid; leave --use_sigmoid_act=false out, or give "
                "--loss=mse"
            )
        self.value_range = value_range
        self._use_sigmoid_act = use_sigmoid_act
        self._loss = loss
        self.pooling, self.dropout_rate = pooling, heads.dropout_rate(pooling)
        self.separator_id = None

    def parse_label(self, cell):
        """A value of a file, mapped to what the loss is computed on.

        Raises:
          ValueError: it is no number, or lies outside value_range, or outside 0..1, which a
            sigmoid can never meet.
        """
        value = parse_value(cell)
        if self.value_range:
            low, high = self.value_range
            if not low <= value <= high:
                raise ValueError(f"the value {value:g} lies outside --value_range={low:g},{high:g}")
            return (value - low) / (high - low)
        if self._use_sigmoid_act and not 0.0 <= value <= 1.0:
            raise ValueError(
                f"the value {value:g} lies outside 0..1, and the sigmoid gives values in 0..1; "
                "pass --value_range=LOW,HIGH (or --use_sigmoid_act=false)"
            )
        return value

    def head_shapes(self, config):
        """{name: shape} of the head's weights."""
        width = heads.input_width(self.pooling, config)
        return {"output_weights": (1, width), "output_bias": (1,)}

    def initial_values(self, config):
        """{name: array} of the weights of a new head that begin neither as 0 nor at random."""
        cosine = self.pooling == "pair" and self._use_sigmoid_act
        return heads.cosine_start(config) if cosine else {}

    def apply(self, weights, hidden, features, training=False):
        """The head.

        Args:
          weights: dict that holds head_shapes.
          hidden: float32 Tensor [n, heads.input_width], of sentence.pooling.head_input.
          features: dict; `vals` float32 [n], mapped by parse_label.
          training: bool; without effect, the loss is the same.

        Returns:
          (per_example_loss float32 [n]; predictions {"output": float32 [n], in the values' own
          units}).
        """
        del training
        import tensorflow as tf

        logits = tf.matmul(hidden, weights["output_weights"], transpose_b=True)
        logits = tf.squeeze(tf.nn.bias_add(logits, weights["output_bias"]), 1)
        output = tf.sigmoid(logits) if self._use_sigmoid_act else logits
        vals = features["vals"]
        if self._loss == "logistic":
            loss = tf.nn.sigmoid_cross_entropy_with_logits(vals, logits)
        else:
            loss = tf.math.squared_difference(output, vals)
        return loss, {"output": self._in_units(output)}

    def metrics(self, predictions, features):
        """Metrics over a whole set.

        Args:
          predictions: {"output": float32 array [n]}.
          features: {"vals": float32 array [n]}, mapped.

        Returns:
          dict: mae (in the values' units), pearson, spearman; the correlations are nan where one
          side is constant.
        """
        import numpy as np

        output = predictions["output"].astype(np.float64)
        vals = self._in_units(features["vals"].astype(np.float64))
        return {"mae": float(np.mean(np.abs(output - vals))), **correlations(output, vals)}

    def baseline_statistics(self, examples):
        """What the baseline needs of a training set: {"mean": float}, of the mapped values."""
        return {"mean": math.fsum(example.label for example in examples) / len(examples)}

    def baseline(self, statistics, examples):
        """What predicting the mean of the training values for every example gives.

        Args:
          statistics: of baseline_statistics.
          examples: list of InputExample, the evaluated set.

        Returns:
          {"baseline_mse": float, of the mapped values as eval_loss is with loss "mse";
          "baseline_mae": float, in the values' units}.
        """
        import numpy as np

        values = np.array([example.label for example in examples], np.float64)
        mean = statistics["mean"]
        errors = np.abs(self._in_units(values) - self._in_units(mean))
        return {
            "baseline_mse": float(np.mean(np.square(values - mean))),
            "baseline_mae": float(np.mean(errors)),
        }

    def vector_baseline(self, encode, examples):
        """The correlation of the values with the cosine of the two texts' vectors.

        Args:
          encode: function(list of str) -> float array [texts, width].
          examples: list of InputExample, pairs with values.

        Returns:
          {"baseline_pearson", "baseline_spearman": float}.
        """
        import numpy as np

        from bert_tools.sentence.similarity import similarity

        vectors = encode([e.text_a for e in examples] + [e.text_b for e in examples])
        cosines = similarity(*np.split(vectors, 2), "cosine")
        values = np.array([example.label for example in examples], np.float64)
        found = correlations(cosines, values)
        return {f"{baselines.PREFIX}{name}": value for name, value in found.items()}

    def compared(self, result):
        """The baselines.Comparison of a result with baseline lines, or None without."""
        remedies = f"{baselines.MORE_TRAINING}, a check of the columns and of --value_range"
        if "baseline_spearman" in result:
            return baselines.Comparison(
                "spearman",
                "baseline_spearman",
                "the cosine of the starting weights' vectors",
                f"{baselines.MORE_TRAINING}, a check of the columns, or using the starting model's "
                "vectors as they are (extract_cls, evaluate_sts)",
            )
        if "baseline_mse" not in result:
            return None
        pair = ("eval_loss", "baseline_mse") if self._loss == "mse" else ("mae", "baseline_mae")
        return baselines.Comparison(*pair, "the mean of the training values", remedies, True)

    def combine_windows(self, predictions):
        """What the mean of several windows' predictions says of the whole text: the mean."""
        return predictions

    def row(self, prediction):
        """The line of test_results.tsv for one example: its value."""
        return str(prediction["output"])

    def record(self, prediction):
        """What a JSON line says of one example."""
        return {"value": float(prediction["output"])}

    def description(self):
        """What bert_tools.json keeps of the task, in the names of its flags."""
        return {
            "value_range": list(self.value_range) if self.value_range else None,
            "use_sigmoid_act": self._use_sigmoid_act,
            "loss": self._loss,
            "head_pooling": self.pooling,
        }

    def _in_units(self, values):
        if not self.value_range:
            return values
        low, high = self.value_range
        return values * (high - low) + low
