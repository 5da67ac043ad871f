"""The movie-review notebook's flow, by its script."""

import csv
import importlib.util
import json
import pathlib

import numpy as np
import pytest

from bert_tools import checkpoints
from bert_tools.cli import app

ROOT = pathlib.Path(__file__).resolve().parent.parent
METRICS = {
    "eval_accuracy",
    "eval_loss",
    "f1_score",
    "auc",
    "precision",
    "recall",
    "true_positives",
    "true_negatives",
    "false_positives",
    "false_negatives",
}


@pytest.fixture(scope="module")
def script():
    path = ROOT / "scripts" / "movie_reviews.py"
    spec = importlib.util.spec_from_file_location("movie_reviews", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(script, capsys, monkeypatch, tmp_path):
    """function(*arguments) -> (metrics, predictions)."""

    def run(*arguments):
        monkeypatch.setattr(app.log, "handlers", [])
        status = script.main([f"--output_dir={tmp_path / 'out'}", *arguments])
        out, err = capsys.readouterr()
        assert status == 0, err
        metrics, *predictions = map(json.loads, out.splitlines())
        return metrics, predictions

    return run


def test_the_whole_flow(run, script, toy_model, tmp_path):
    metrics, predictions = run(f"--bert={toy_model}", "--max_seq_length=16", "--max_train_steps=3")
    assert metrics.keys() >= METRICS and metrics["global_step"] == 3
    assert checkpoints.latest(str(tmp_path / "out")) == str(tmp_path / "out" / "model.ckpt-3")
    with open(ROOT / "data" / "sentiment-en" / "dev.tsv", encoding="utf-8", newline="") as reader:
        labels = [row["label"] for row in csv.DictReader(reader, delimiter="\t", quoting=3)]
    assert metrics["true_positives"] + metrics["false_negatives"] == labels.count("1")
    assert metrics["true_negatives"] + metrics["false_positives"] == labels.count("0")
    right = metrics["true_positives"] + metrics["true_negatives"]
    assert metrics["eval_accuracy"] == pytest.approx(right / len(labels))
    assert [found["sentence"] for found in predictions] == script.PRED_SENTENCES
    for found in predictions:
        assert found["label"] == script.LABELS[int(np.argmax(found["probabilities"]))]
        logs = np.log(found["probabilities"])
        np.testing.assert_allclose(found["log_probabilities"], logs, rtol=0, atol=1e-6)
        assert len(found["pooled_output"]) == 16


def test_real_weights(run, minilm):
    """The notebook's recipe, 37 steps: an accuracy of 0.69."""
    metrics, predictions = run(f"--bert={minilm}")
    assert metrics["global_step"] == 37
    assert metrics["eval_accuracy"] > 0.6
    labels = [found["label"] for found in predictions]
    assert (labels[0], labels[-1]) == ("Negative", "Positive")
