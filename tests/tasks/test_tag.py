"""Tagging's head and metrics; pinned scores are seqeval 1.2.2's."""

import random

import numpy as np
import pytest
import tensorflow as tf

from bert_tools.inputs import conll
from bert_tools.tasks.tag import Tagging

LABELS = ["O", "B-X", "I-X"]


def batch(label_ids, mask, **more):
    return {
        "label_ids": np.array(label_ids, np.int32),
        "input_mask": np.array(mask, np.int32),
        "words_per_row": np.full(len(label_ids), 2.0, np.float32),
        **more,
    }


def test_head_by_hand():
    """The loss is the sum over the words that count, over words_per_row."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(2, 3, 4)).astype(np.float32)
    weights = {
        "output_weights": rng.normal(size=(3, 4)).astype(np.float32),
        "output_bias": np.array([0.1, -0.2, 0.3], np.float32),
    }
    features = batch([[0, 1, 0, 0], [0, 3, 2, 0]], [[1, 1, 0], [1, 1, 1]])
    task = Tagging(LABELS)
    task.max_seq_length = 4
    loss, predictions = task.apply(weights, tf.constant(hidden), features)
    logits = hidden @ weights["output_weights"].T + weights["output_bias"]
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(
        loss, [-logs[0, 1, 0] / 2, -(logs[1, 1, 2] + logs[1, 2, 1]) / 2], rtol=1e-5
    )
    assert predictions["labels"].shape == (2, 4)
    np.testing.assert_array_equal(predictions["labels"][1, :3], logits[1].argmax(-1))


def test_packed_rows_give_the_same():
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 5, 4)).astype(np.float32)[:, :3]
    weights = {
        "output_weights": rng.normal(size=(3, 4)).astype(np.float32),
        "output_bias": np.zeros(3, np.float32),
    }
    task = Tagging(LABELS)
    task.max_seq_length = 6
    wanted = [[0, 2, 1, 0, 0, 0], [0, 3, 0, 0, 0, 0]]
    alone = task.apply(
        weights, tf.constant(np.stack([first, second])), batch(wanted, [[1] * 3] * 2)
    )
    packed = task.apply(
        weights,
        tf.constant(np.concatenate([first, second])[np.newaxis]),
        batch(wanted, [[1, 1, 1, 2, 2, 2]], first_positions=np.array([0, 3], np.int32)),
    )
    np.testing.assert_allclose(alone[0], packed[0], rtol=1e-6)
    for row, length in ((0, 3), (1, 3)):
        np.testing.assert_array_equal(
            alone[1]["labels"][row, :length], packed[1]["labels"][row, :length]
        )


def scores_of(truth, decided, labels):
    """Metrics of sentences as one row each, tags from the second place on."""
    width = max(map(len, truth)) + 1
    marks = np.zeros((len(truth), width), np.int32)
    found = np.zeros((len(truth), width), np.int32)
    for row, (tags, others) in enumerate(zip(truth, decided, strict=True)):
        marks[row, 1 : len(tags) + 1] = [1 + labels.index(tag) for tag in tags]
        found[row, 1 : len(tags) + 1] = [labels.index(tag) for tag in others]
    features = {"label_ids": marks, "sentence": np.arange(len(truth))}
    return Tagging(labels).metrics({"labels": found}, features)


def test_scores_of_seqeval(shared):
    """CoNLL's validation set with a fifth of the tags drawn anew."""
    rng = random.Random(3)
    path = str(shared / "data" / "conll" / "valid.txt")
    truth = [sentence.tags for sentence in conll.load_sentences(path, 0, -1)[0]]
    labels = sorted({tag for tags in truth for tag in tags})
    decided = [
        [rng.choice(labels) if rng.random() < 0.2 else tag for tag in tags] for tags in truth
    ]
    found = scores_of(truth, decided, labels)
    assert found["precision"] == pytest.approx(0.3244937666642646, abs=1e-12)
    assert found["recall"] == pytest.approx(0.7578256479299899, abs=1e-12)
    assert found["f1_score"] == pytest.approx(0.45441243251425395, abs=1e-12)
    assert found["f1_score_macro"] == pytest.approx(0.4459411742984999, abs=1e-12)
    assert {kind: scores["examples"] for kind, scores in found["per_class"].items()} == {
        "LOC": 1837,
        "MISC": 922,
        "ORG": 1341,
        "PER": 1842,
    }
    assert found["per_class"]["PER"]["f1_score"] == pytest.approx(0.47414564322776886, abs=1e-12)


def test_windows_are_one_sentence():
    """An entity over two windows counts as one."""
    features = {
        "label_ids": np.array([[0, 1, 2], [0, 0, 3], [0, 2, 0]]),
        "sentence": np.array([0, 0, 1]),
    }
    found = Tagging(LABELS).metrics({"labels": features["label_ids"] - 1}, features)
    assert (found["f1_score"], found["eval_accuracy"]) == (1.0, 1.0)
    assert found["per_class"]["X"]["examples"] == 2


def test_nothing_found_and_nothing_to_find():
    found = scores_of([["O", "B-X"]], [["O", "O"]], LABELS)
    assert (found["precision"], found["recall"], found["f1_score"]) == (0, 0, 0)
    found = scores_of([["O"]], [["O"]], LABELS)
    assert (found["f1_score"], found["f1_score_macro"], found["per_class"]) == (0, 0, {})
