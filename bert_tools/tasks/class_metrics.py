"""Metrics of classification, by scikit-learn."""

import math

import numpy as np
from sklearn import metrics

_SCORES = ("precision", "recall", "f1_score", "auc", "average_precision")


def compute(truth, decided, probabilities, labels, positive_label):
    """All metrics over a whole set.

    Args:
      truth: integer array [n], the number of each example's label.
      decided: integer array [n], that of the predicted one.
      probabilities: float array [n, labels].
      labels: list of str, at least two, in the order of their numbers.
      positive_label: str, which of two labels the scores are of; not read where there are more.

    Returns:
      dict: eval_accuracy, matthews_correlation, confusion_matrix (a list of rows: what is true;
      columns: what was predicted) and per_class {label: {precision, recall, f1_score, auc,
      average_precision, examples}}. For two labels, of positive_label: precision, recall, f1_score,
      auc (of its probability), auc_hard (of the decided labels), average_precision,
      true_positives, true_negatives, false_positives, false_negatives. For more: precision,
      recall, f1_score, auc and average_precision (one label against the rest), each as _macro,
      _weighted (over the labels that occur or are predicted) and _micro. An AUC where all examples
      are of one kind and an average precision where there is no positive example are nan, and left
      out of the averages.
    """
    count = len(labels)
    matrix = metrics.confusion_matrix(truth, decided, labels=range(count))
    one_hot = np.eye(count, dtype=bool)[truth]
    scores = metrics.precision_recall_fscore_support(
        truth, decided, labels=range(count), zero_division=0
    )
    pairs = list(zip(one_hot.T, np.transpose(probabilities), strict=True))
    columns = dict(
        zip(
            _SCORES,
            (
                *scores[:3],
                [_auc(*pair) for pair in pairs],
                [_average_precision(*pair) for pair in pairs],
            ),
            strict=True,
        )
    )
    result = {
        "eval_accuracy": float(np.mean(truth == decided)),
        "matthews_correlation": _matthews(truth, decided),
        "confusion_matrix": matrix.tolist(),
        "per_class": {
            label: {
                **{name: float(values[number]) for name, values in columns.items()},
                "examples": int(matrix[number].sum()),
            }
            for number, label in enumerate(labels)
        },
    }
    if count == 2:
        positive = labels.index(positive_label)
        result |= {name: float(values[positive]) for name, values in columns.items()}
        result |= _of_two(truth == positive, decided == positive)
    else:
        result |= _averages(columns, matrix)
        micro = metrics.precision_recall_fscore_support(
            truth, decided, average="micro", zero_division=0
        )
        all_pairs = one_hot.ravel(), np.ravel(probabilities)
        micro = (*micro[:3], _auc(*all_pairs), _average_precision(*all_pairs))
        result |= {f"{name}_micro": float(v) for name, v in zip(_SCORES, micro, strict=True)}
    return result


def _of_two(truth, decided):
    """What there is for two labels alone; bool arrays [n], whether it is the positive one."""
    return {
        "auc_hard": _auc(truth, decided),
        "true_positives": int(np.sum(truth & decided)),
        "true_negatives": int(np.sum(~truth & ~decided)),
        "false_positives": int(np.sum(~truth & decided)),
        "false_negatives": int(np.sum(truth & ~decided)),
    }


def _averages(columns, matrix):
    examples = matrix.sum(axis=1)
    # As scikit-learn has it: a label that neither occurs nor is predicted has no scores.
    concerned = examples + matrix.sum(axis=0) > 0
    result = {}
    for name, values in columns.items():
        values = np.asarray(values, np.float64)
        defined = concerned & ~np.isnan(values)
        result[f"{name}_macro"] = _mean(values[defined])
        result[f"{name}_weighted"] = _mean(values[defined], examples[defined])
    return result


def _mean(values, weights=None):
    if not len(values) or (weights is not None and not weights.sum()):
        return math.nan
    return float(np.average(values, weights=weights))


def _matthews(truth, decided):
    """0 where truth or decision is constant, about which scikit-learn would warn for both."""
    varied = np.ptp(truth) > 0 or np.ptp(decided) > 0
    return float(metrics.matthews_corrcoef(truth, decided)) if varied else 0.0


def _auc(truth, scores):
    """Area under the ROC curve; nan where all examples are of one kind."""
    return float(metrics.roc_auc_score(truth, scores)) if 0 < truth.mean() < 1 else math.nan


def _average_precision(truth, scores):
    """Mean of the precision at each threshold, weighted by the gain in recall; nan where there is
    no positive example.
    """
    return float(metrics.average_precision_score(truth, scores)) if truth.any() else math.nan
