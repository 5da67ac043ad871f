"""Regression: one number for a text or a pair, as the original run_reg.py."""

import os
import typing

import numpy as np

from bert_tools.errors import UserError
from bert_tools.inputs.examples import InputExample, parse_value, read_tsv


class DataSet(typing.NamedTuple):
    """How a data set's TSV files are read: file names, and the columns of texts and value (from
    0).
    """

    train: str
    dev: str
    test: str
    text_a: int
    text_b: int
    value: int


DATA_SETS = {
    # The fork of google-research/bert with run_reg.py: no header; further columns are ignored.
    "sim": DataSet("train.tsv", "dev.tsv", "test.tsv", text_a=0, text_b=1, value=2),
}


def data_set(task_name):
    """The row of DATA_SETS of a task name in any case.

    Raises:
      UserError: there is none.
    """
    try:
        return DATA_SETS[task_name.lower()]
    except KeyError:
        names = ", ".join(sorted(DATA_SETS))
        raise UserError(
            f"--task_name={task_name}: no such task; tasks of run_reg: {names}"
        ) from None


def read_examples(row, data_dir, split):
    """Reads one file of a data set.

    Args:
      row: DataSet.
      data_dir: str.
      split: "train", "dev" or "test"; a test file needs no value, and what stands there is not
      read.

    Returns:
      (path, list of InputExample); label is a float, in test None.

    Raises:
      UserError: naming file and line.
    """
    path = os.path.join(data_dir, getattr(row, split))
    labelled = split != "test"
    columns = 1 + max(row.text_a, row.text_b, row.value if labelled else 0)
    examples = [
        InputExample(
            f"{split}-{index}",
            cells[row.text_a],
            cells[row.text_b],
            parse_value(cells[row.value], path, number) if labelled else None,
        )
        for index, (number, cells) in enumerate(read_tsv(path, columns))
    ]
    return path, examples


def require_sigmoid_range(path, examples):
    """Refuses labels outside 0..1, which a sigmoid can never meet.

    Raises:
      UserError: naming file, example and remedy.
    """
    for example in examples:
        if not 0.0 <= example.label <= 1.0:
            raise UserError(
                f"{path}: example {example.guid} has the value {example.label}, and the sigmoid "
                "gives values "
                "in 0..1; scale the values, or pass --use_sigmoid_act=false"
            )


class Regression:
    """Head, loss and metrics of regression on the pooled output.

    Args:
      use_sigmoid_act: bool, a sigmoid on the single output (values in 0..1).
    """

    name = "regress"
    # vals: float32 scalar; the original's test records hold -1.
    columns = {"vals": np.float32}  # noqa: RUF012

    def __init__(self, use_sigmoid_act=True):
        self._use_sigmoid_act = use_sigmoid_act

    def example_columns(self, examples):
        """{feature name: float32 array [examples]} for TFRecords."""
        values = [-1.0 if example.label is None else example.label for example in examples]
        return {"vals": np.array(values, np.float32)}

    def head_shapes(self, config):
        """{name: shape} of the head's weights."""
        return {"output_weights": (1, config.hidden_size), "output_bias": (1,)}

    def apply(self, weights, pooled_output, features):
        """The head.

        Args:
          weights: dict that holds output_weights [1, hidden] and output_bias [1].
          pooled_output: float32 Tensor [n, hidden].
          features: dict; `vals` float32 [n].

        Returns:
          (per_example_loss float32 [n], the squared error; predictions {"output": float32 [n]}).
        """
        import tensorflow as tf

        logits = tf.matmul(pooled_output, weights["output_weights"], transpose_b=True)
        logits = tf.squeeze(tf.nn.bias_add(logits, weights["output_bias"]), 1)
        output = tf.sigmoid(logits) if self._use_sigmoid_act else logits
        return tf.math.squared_difference(output, features["vals"]), {"output": output}

    def metrics(self, predictions, features):
        """Metrics over a whole set.

        Args:
          predictions: {"output": float32 array [n]}.
          features: {"vals": float32 array [n]}.

        Returns:
          dict: mae, pearson, spearman; the correlations are nan
          where one side is constant.
        """
        from scipy import stats

        output, vals = predictions["output"].astype(np.float64), features["vals"].astype(np.float64)
        error = output - vals
        varied = len(vals) > 1 and np.ptp(output) > 0 and np.ptp(vals) > 0
        return {
            "mae": float(np.mean(np.abs(error))),
            "pearson": float(stats.pearsonr(output, vals).statistic) if varied else float("nan"),
            "spearman": float(stats.spearmanr(output, vals).statistic) if varied else float("nan"),
        }

    def row(self, prediction):
        """The line of test_results.tsv for one example: its value."""
        return str(prediction["output"])

    def description(self):
        """What bert_tools.json keeps of the task."""
        return {"value_range": [0.0, 1.0] if self._use_sigmoid_act else None}
