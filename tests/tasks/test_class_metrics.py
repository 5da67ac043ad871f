"""Metrics of classification against computations by hand."""

import math

import numpy as np
import pytest

from bert_tools.tasks import class_metrics

# Six examples of two labels; with 0.5 as the border: tp 2, fn 1, fp 1, tn 2.
TRUTH = np.array([1, 1, 1, 0, 0, 0])
POSITIVE = np.array([0.9, 0.8, 0.3, 0.7, 0.2, 0.1])


def compute(truth, probabilities, labels, positive=None):
    decided = np.argmax(probabilities, axis=1)
    return class_metrics.compute(truth, decided, probabilities, labels, positive or labels[-1])


def two(truth=TRUTH, positive=POSITIVE, positive_label="yes"):
    return compute(truth, np.stack([1 - positive, positive], 1), ["no", "yes"], positive_label)


def test_two_labels():
    found = two()
    # Of the nine pairs of a positive and a negative example, 0.3 lies below 0.7 alone.
    assert found["auc"] == pytest.approx(8 / 9)
    # Mean of recall and specificity, one point on the curve.
    assert found["auc_hard"] == pytest.approx((2 / 3 + 2 / 3) / 2)
    # Positives stand at ranks 1, 2 and 4 of descending scores.
    assert found["average_precision"] == pytest.approx((1 / 1 + 2 / 2 + 3 / 4) / 3)
    for name in ("precision", "recall", "f1_score", "eval_accuracy"):
        assert found[name] == pytest.approx(2 / 3), name
    counts = ("true_positives", "true_negatives", "false_positives", "false_negatives")
    assert [found[name] for name in counts] == [2, 2, 1, 1]
    assert found["matthews_correlation"] == pytest.approx((2 * 2 - 1 * 1) / math.sqrt(3**4))
    assert found["confusion_matrix"] == [[2, 1], [1, 2]]
    assert found["per_class"]["no"]["examples"] == 3


def test_names_of_two_labels():
    """Those of the well-known movie-review notebook among them."""
    assert two().keys() == {
        "eval_accuracy",
        "f1_score",
        "auc",
        "auc_hard",
        "precision",
        "recall",
        "true_positives",
        "true_negatives",
        "false_positives",
        "false_negatives",
        "average_precision",
        "matthews_correlation",
        "confusion_matrix",
        "per_class",
    }


def test_positive_label():
    """tp 1, fp 2, fn 0, tn 2 of yes are tn 1, fn 2, fp 0, tp 2 of no."""
    truth, positive = np.array([1, 0, 0, 0, 0]), np.array([0.9, 0.8, 0.7, 0.2, 0.1])
    yes, no = two(truth, positive), two(truth, positive, "no")
    assert (yes["precision"], yes["recall"]) == (pytest.approx(1 / 3), 1.0)
    assert (no["precision"], no["recall"]) == (1.0, 0.5)
    assert (yes["true_positives"], yes["false_positives"], yes["false_negatives"]) == (1, 2, 0)
    assert (no["true_positives"], no["false_positives"], no["false_negatives"]) == (2, 0, 2)
    assert yes["f1_score"] == pytest.approx(0.5) and no["f1_score"] == pytest.approx(2 / 3)
    assert yes["confusion_matrix"] == no["confusion_matrix"] == [[2, 2], [0, 1]]
    assert yes["per_class"] == no["per_class"]
    assert yes["per_class"]["no"]["precision"] == no["precision"]


def test_one_kind_alone():
    """Of what is not defined nothing is made up."""
    found = two(np.array([1, 1]), np.array([0.9, 0.1]))
    assert math.isnan(found["auc"]) and math.isnan(found["auc_hard"])
    assert (found["recall"], found["precision"], found["average_precision"]) == (0.5, 1.0, 1.0)
    found = two(np.array([0, 0]), np.array([0.4, 0.1]))
    assert math.isnan(found["average_precision"])
    assert (found["eval_accuracy"], found["precision"], found["f1_score"]) == (1.0, 0.0, 0.0)


# Three labels and one that neither occurs nor is predicted; rows sum to 1.
LABELS = ["a", "b", "c", "never"]
TRUTHS = np.array([0, 0, 0, 1, 1, 2])
PROBABILITIES = np.array(
    [
        [0.7, 0.2, 0.1, 0.0],
        [0.6, 0.3, 0.1, 0.0],
        [0.2, 0.5, 0.3, 0.0],
        [0.1, 0.8, 0.1, 0.0],
        [0.4, 0.3, 0.3, 0.0],
        [0.1, 0.2, 0.7, 0.0],
    ]
)


def test_several_labels():
    """a: tp 2, fp 1, fn 1; b: tp 1, fp 1, fn 1; c: tp 1."""
    found = compute(TRUTHS, PROBABILITIES, LABELS)
    assert found["confusion_matrix"] == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert found["eval_accuracy"] == pytest.approx(4 / 6)
    per_class = found["per_class"]
    assert [per_class[label]["examples"] for label in LABELS] == [3, 2, 1, 0]
    f1_scores = [2 / 3, 1 / 2, 1.0]
    for label, f1_score in zip(LABELS[:3], f1_scores, strict=True):
        for name in ("precision", "recall", "f1_score"):
            assert per_class[label][name] == pytest.approx(f1_score), (label, name)
    assert found["f1_score_macro"] == pytest.approx(sum(f1_scores) / 3)
    assert found["f1_score_weighted"] == pytest.approx((3 * 2 / 3 + 2 / 2 + 1) / 6)
    for name in ("f1_score_micro", "precision_micro", "recall_micro"):
        assert found[name] == pytest.approx(4 / 6)
    # a against the rest: of nine pairs 0.2 lies below 0.4 alone. b: of eight pairs 0.3 lies below
    # 0.5, and beside another 0.3. c: above all.
    aucs = [8 / 9, (8 - 1 - 0.5) / 8, 1.0]
    assert [per_class[label]["auc"] for label in LABELS[:3]] == pytest.approx(aucs)
    assert math.isnan(per_class["never"]["auc"])
    assert found["auc_macro"] == pytest.approx(sum(aucs) / 3)
    assert found["auc_weighted"] == pytest.approx((3 * aucs[0] + 2 * aucs[1] + aucs[2]) / 6)
    right = PROBABILITIES[range(6), TRUTHS][:, np.newaxis]
    wrong = PROBABILITIES[~np.eye(4, dtype=bool)[TRUTHS]]
    assert found["auc_micro"] == pytest.approx(np.mean((right > wrong) + 0.5 * (right == wrong)))
    assert not {"auc", "f1_score", "true_positives"} & found.keys()


def test_perfect_and_constant():
    perfect = compute(TRUTHS, np.eye(4)[TRUTHS], LABELS)
    for name in ("eval_accuracy", "f1_score_macro", "auc_macro", "average_precision_micro"):
        assert perfect[name] == 1.0
    assert perfect["matthews_correlation"] == 1.0
    constant = compute(TRUTHS, np.tile([1.0, 0, 0, 0], (6, 1)), LABELS)
    assert constant["matthews_correlation"] == 0.0 and constant["auc_macro"] == 0.5
    assert constant["recall_macro"] == pytest.approx(1 / 3)
