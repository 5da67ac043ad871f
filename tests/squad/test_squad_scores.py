"""The official scores, by hand: the numbers were checked with the official scripts."""

import math

import numpy as np
import pytest

from bert_tools.squad import scores

REFERENCES = {"1": ["the Big Ben", "Ben"], "2": ["in May, 1923"], "3": [], "4": ["x"]}


def test_squad_by_hand():
    """1: exactly, but for case, article and mark; 2: two words of three; 3: wrongly answered; 4:
    missing.
    """
    predictions = {"1": "big ben.", "2": "May 1923", "3": "y"}
    result = scores.squad_scores(REFERENCES, predictions)
    f1 = 2 * 1.0 * (2 / 3) / (1 + 2 / 3)
    assert result == pytest.approx(
        {
            "exact_match": 25.0,
            "f1": 100 * (1 + f1) / 4,
            "total": 4,
            "HasAns_exact": 100 / 3,
            "HasAns_f1": 100 * (1 + f1) / 3,
            "HasAns_total": 3,
            "NoAns_exact": 0.0,
            "NoAns_f1": 0.0,
            "NoAns_total": 1,
        }
    )


def test_best_thresholds_by_hand():
    """In the order of the odds: 2 (+0.8), 3 (-1, answered), 1 (+1), from the 1 of no answer at
    all.
    """
    predictions = {"1": "Ben", "2": "May 1923", "3": "y"}
    odds = {"1": 2.0, "2": -3.0, "3": -1.0, "4": 5.0}
    result = scores.squad_scores(REFERENCES, predictions, odds)
    best = {name: result[name] for name in result if name.startswith("best")}
    assert best == pytest.approx(
        {
            "best_exact": 25.0,
            "best_exact_thresh": 0.0,
            "best_f1": 45.0,
            "best_f1_thresh": -3.0,
        }
    )
    assert scores.tuned_threshold(REFERENCES, predictions, odds) == -3.0
    # No answer at all is best: the official script says 0, which is not less than all odds.
    assert (
        scores.tuned_threshold({"1": [], "2": ["x"]}, {"1": "a", "2": "b"}, {"1": -5, "2": -4}) < -5
    )


def test_answers_that_are_nothing_but_marks():
    """A reference that normalises to nothing is none; two empty texts agree."""
    assert scores.squad_scores({"1": ["the"]}, {"1": "..."})["f1"] == 100.0
    assert scores.squad_scores({"1": ["a b"]}, {"1": "!"})["f1"] == 0.0


def test_precision_and_recall_by_hand():
    references = {"1": ["x"], "2": [], "3": ["y"], "4": ["z"]}
    by_question = {"1": 1.0, "2": 1.0, "3": 0.5, "4": 0.0}
    odds = {"1": -2.0, "2": 0.0, "3": 0.0, "4": 3.0}
    recall, precision, area = scores.precision_recall(references, by_question, odds)
    # 2 and 3 cannot be parted.
    np.testing.assert_allclose(recall, [0, 1 / 3, 1.5 / 3, 1.5 / 3])
    np.testing.assert_allclose(precision, [1, 1, 0.5, 1.5 / 4])
    assert area == pytest.approx(1 / 3 + 0.5 / 6)


def test_cmrc_by_hand():
    references = {"1": ["北京，中国"], "2": ["1998年5月", "五月"], "3": ["无"]}
    result = scores.cmrc_scores(references, {"1": "北京中国。", "2": "在1998年"})
    # 2: of 1998 年 5 月 (4 segments) and 在 1998 年 (3) two stand side by side in both.
    f1 = 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)
    expected = {"exact_match": 100 / 3, "f1": 100 * (1 + f1) / 3, "total": 3}
    expected["average"] = (expected["exact_match"] + expected["f1"]) / 2
    assert result == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("他说：“Hello, world.”", ["他", "说", "hello", ",", "world", "."]),
        ("3,000元", ["3,000", "元"]),
        ("it's (not) 50%", ["it", "'s", "(", "not", ")", "50", "%"]),
        ('"a" b', ["``", "a", "''", "b"]),
        ("A-B/C", ["abc"]),
        ("", []),
    ],
)
def test_cmrc_segments(text, segments):
    """As nltk's word_tokenize and the official script give them."""
    assert scores._cmrc_segments(text) == segments


def test_which_language():
    assert scores.is_chinese({"1": ["北京"], "2": ["a"]})
    assert not scores.is_chinese(REFERENCES)


def test_against_missing_questions_of_others():
    """Predictions and odds for questions that are not asked count nothing."""
    result = scores.squad_scores({"1": ["x"]}, {"1": "x", "9": "y"}, {"1": 0.0, "9": -9.0})
    assert result["f1"] == 100 and result["total"] == 1 and not math.isnan(result["best_f1"])
