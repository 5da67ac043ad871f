"""Baselines of each task by hand, and baseline.json."""

import json
import logging
import math

import numpy as np
import pytest

from bert_tools.errors import UserError
from bert_tools.inputs.conll import Sentence
from bert_tools.inputs.examples import InputExample
from bert_tools.squad import scores
from bert_tools.tasks import baselines
from bert_tools.tasks.classify import Classification
from bert_tools.tasks.multi_label import MultiLabel
from bert_tools.tasks.regress import Regression
from bert_tools.tasks.siamese import Siamese
from bert_tools.tasks.span import Span
from bert_tools.tasks.tag import Tagging


def examples(*labels):
    return [InputExample(f"x-{n}", f"t{n}", f"u{n}", label) for n, label in enumerate(labels)]


def lines(task, train, dev):
    """The baseline lines of `dev` by what JSON keeps of `train`."""
    return task.baseline(json.loads(json.dumps(task.baseline_statistics(train))), dev)


def sentences(*texts):
    """Sentences from "word/TAG word/TAG"."""
    split = [[cell.split("/") for cell in text.split()] for text in texts]
    return [Sentence(1, 0, [], [w for w, _ in s], [t for _, t in s]) for s in split]


def test_regression():
    """The squared error is of the mapped values, the absolute one in the values' units."""
    task = Regression(value_range=(0.0, 4.0))
    found = lines(task, examples(0.25, 0.75), examples(0.0, 0.5, 1.0, 1.0))
    assert found == {
        "baseline_mse": pytest.approx(3 / 16),
        "baseline_mae": pytest.approx(4 * 3 / 8),
    }


def test_classification():
    train = examples("x", "y", "y", "x", "y")
    dev = examples("x", "y", "y", "y")
    # All are y: three of four, of y precision 3/4 and recall 1.
    task = Classification(["x", "y"])
    expected = {"baseline_accuracy": 0.75, "baseline_f1_score": pytest.approx(6 / 7)}
    assert lines(task, train, dev) == expected
    assert lines(Classification(["x", "y"], "x"), train, dev)["baseline_f1_score"] == 0
    # z has neither an example nor a prediction, and does not count.
    found = lines(Classification(["x", "y", "z"]), train, dev)
    assert found == {"baseline_accuracy": 0.75, "baseline_f1_score_macro": pytest.approx(3 / 7)}
    # Of equals the first.
    assert lines(task, examples("y", "x"), dev)["baseline_accuracy"] == 0.25


def test_multi_label():
    """x holds by its share of 3/4, y does not; thresholds stay as they are."""
    task = MultiLabel(["x", "y"])
    train, dev = examples(("x",), ("x", "y"), ("x",), ()), examples(("x",), ("y",), (), ("x", "y"))
    found = lines(task, train, dev)
    assert found == {
        "baseline_f1_score_micro": pytest.approx(0.5),
        "baseline_f1_score_macro": pytest.approx((2 / 3) / 2),
        "baseline_average_precision_micro": pytest.approx(0.5),
        "baseline_average_precision_macro": pytest.approx(0.5),
    }
    assert task.thresholds.tolist() == [0.5, 0.5]


def test_tagging():
    """Berlin is mostly a place, may has been a name first, and Rome was never seen."""
    train = sentences("Berlin/B-LOC may/B-PER", "Berlin/B-LOC may/O", "Berlin/O the/O")
    task = Tagging(["O", "B-LOC", "B-PER"])
    statistics = task.baseline_statistics(train)
    assert statistics == {"word_tags": {"Berlin": "B-LOC", "may": "B-PER"}}
    dev = sentences("Berlin/B-LOC may/O Rome/B-LOC", "berlin/O the/O")
    assert task.baseline(statistics, dev) == {
        "baseline_precision": 0.5,
        "baseline_recall": 0.5,
        "baseline_f1_score": 0.5,
    }


def test_span():
    task = Span(16)
    references = {"a": ["one"], "b": [], "c": []}
    found = task.baseline(scores.squad_scores, references)
    assert found == {name: pytest.approx(200 / 3) for name in found}
    assert set(found) == {"baseline_exact_match", "baseline_f1"}
    found = task.baseline(scores.cmrc_scores, {"a": ["一"]})
    assert found == {f"baseline_{name}": 0 for name in ("exact_match", "f1", "average")}


def test_siamese_classes():
    task = Siamese("softmax_nli", label_list=["x", "y"])
    found = lines(task, examples("y", "y", "x"), examples("x", "y", "x", "x"))
    assert found == {"baseline_accuracy": 0.25}
    task = Siamese("cosine_regression")
    assert lines(task, examples(1.0), examples(0.5)) == {}
    vectors = {"spearman": 0.5, "recall@1": 0.1, "loss": 1.0, "eval_loss": 1.0, "global_step": 0}
    found = task.vector_baseline(vectors)
    assert found == {"baseline_spearman": 0.5, "baseline_recall@1": 0.1}


def test_samples_are_spaced_evenly():
    assert baselines.sample(200) is None
    for count, size in ((201, 200), (1500, 200), (2010, 201), (10_000, 1000)):
        picks = baselines.sample(count)
        assert len(set(picks.tolist())) == size and (picks[0], picks[-1]) == (0, count - 1)
        assert np.ptp(np.diff(picks)) <= 1


def test_file(tmp_path):
    task, dev = Regression(), examples(0.5, 1.0)
    kept = baselines.VectorBaseline(
        baselines.digest(dev), 200, {"baseline_pearson": 0.25, "baseline_spearman": math.nan}
    )
    baselines.write(tmp_path, task, baselines.Baseline({"mean": 0.5}, [kept]))
    json.loads((tmp_path / "baseline.json").read_text(), parse_constant=pytest.fail)
    found = baselines.read(tmp_path, task).lines(task, dev)
    assert math.isnan(found.pop("baseline_spearman"))
    assert found == {
        "baseline_mse": 0.125,
        "baseline_mae": 0.25,
        "baseline_pearson": 0.25,
        "baseline_examples": 200,
    }
    # Of other examples what the training set says alone.
    found = baselines.read(tmp_path, task).lines(task, dev[::-1])
    assert set(found) == {"baseline_mse", "baseline_mae"}
    assert baselines.read(tmp_path / "other", task) is None and baselines.read(None, task) is None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format_version": 2}, "format_version is 2, this bert_tools reads 1"),
        ({"format_version": True}, "format_version is True"),
        ({"task": "classify"}, "task is missing or not what regress needs"),
        ({"statistics": {}}, "statistics is missing or not"),
        ({"statistics": {"mean": "0"}}, "statistics is missing or not"),
        ({"statistics": {"mean": math.nan}}, "statistics is missing or not"),
        ({"vectors": None}, "vectors is missing or not"),
        ({"vectors": [{"examples": "x"}]}, "vectors is missing or not"),
        ({"vectors": [{"examples": "x", "sampled": None, "lines": {"mae": 1}}]}, "vectors is"),
    ],
    ids=str,
)
def test_damaged_file(tmp_path, change, message):
    kept = {"format_version": 1, "task": "regress", "statistics": {"mean": 0.5}, "vectors": []}
    (tmp_path / "baseline.json").write_text(json.dumps(kept | change))
    with pytest.raises(UserError, match=f"{tmp_path}/baseline.json: {message}"):
        baselines.read(tmp_path, Regression())


@pytest.mark.parametrize(
    "result, warning",
    [
        ({"spearman": 0.5, "baseline_spearman": 0.4}, None),
        ({"spearman": 0.5, "baseline_spearman": math.nan}, None),
        (
            {"spearman": 0.5, "baseline_spearman": 0.5},
            "spearman 0.5 does not beat its baseline 0.5",
        ),
        ({"spearman": math.nan, "baseline_spearman": -1.0}, "spearman nan does not beat"),
        ({"eval_loss": 0.1, "baseline_mse": 0.2}, None),
        ({"eval_loss": 0.2, "baseline_mse": 0.1}, "eval_loss 0.2 does not beat its baseline 0.1"),
        ({"eval_loss": 0.2}, None),
    ],
    ids=str,
)
def test_judge(caplog, monkeypatch, result, warning):
    monkeypatch.setattr(baselines.log, "propagate", True)
    with caplog.at_level(logging.WARNING, "bert_tools"):
        baselines.judge("eval_results", Regression(), result)
    # Handlers that other tests left may have captured the same record twice.
    assert len({id(record) for record in caplog.records}) == (warning is not None)
    assert (warning or "") in caplog.text


def test_a_sample_is_judged_by_the_same_examples(caplog, monkeypatch):
    monkeypatch.setattr(baselines.log, "propagate", True)
    result = {"spearman": 0.5, "baseline_spearman": 0.4, "baseline_examples": 200}
    baselines.judge("eval_results", Regression(), result, {"spearman": 0.3})
    assert "spearman 0.3 of the baseline's 200 examples does not beat" in caplog.text
