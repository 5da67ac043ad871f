"""MultiLabel's head, metrics, thresholds; pinned numbers by hand and by scikit-learn."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from bert_tools.config import BertConfig
from bert_tools.errors import UserError
from bert_tools.inputs import features as inputs
from bert_tools.inputs import tfrecord
from bert_tools.inputs.examples import InputExample
from bert_tools.model_fn import model_fn_builder
from bert_tools.tasks.multi_label import MultiLabel, best_thresholds, parse_labels
from bert_tools.tokenization import FullTokenizer

LABELS = ["x", "y", "z"]


def test_parse_label():
    task = MultiLabel(LABELS, separator="|")
    assert task.parse_label(" z | x|z") == ("x", "z")
    assert task.parse_label(["y", "x"]) == ("x", "y")
    assert task.parse_label("") == task.parse_label(None) == ()
    with pytest.raises(ValueError, match="the label 'q' is none of the model's: x, y, z"):
        task.parse_label("x|q")
    assert task.parse_label(["x", " "]) == task.parse_label(["x"]) == ("x",)
    assert task.parse_label([]) == task.parse_label(float("nan")) == ()
    with pytest.raises(ValueError, match="expected labels, found"):
        task.parse_label({"x": 1})
    for item in (None, ["x"], {"x": 1}, float("nan")):
        with pytest.raises(ValueError, match="expected a label, found "):
            task.parse_label(["x", item])
    # As JSON spells them.
    assert MultiLabel(["true", "1"]).parse_label([True, 1]) == ("true", "1")
    assert MultiLabel(["true", "false"]).parse_label(True) == ("true",)
    with pytest.raises(UserError, match="expected two labels or more, each once"):
        MultiLabel(["x", "x"])


def test_head_by_hand():
    rng = np.random.default_rng(0)
    pooled = rng.normal(size=(2, 4)).astype(np.float32)
    weights = {
        "output_weights": rng.normal(size=(3, 4)).astype(np.float32),
        "output_bias": np.array([0.1, -0.2, 0.3], np.float32),
    }
    wanted = np.array([[1, 0, 1], [0, 0, 0]])
    task = MultiLabel(LABELS, predict_fields=("logits", "log_probabilities", "pooled_output"))
    loss, found = task.apply(weights, tf.constant(pooled), {"label_ids": wanted})
    logits = pooled.astype(np.float64) @ weights["output_weights"].T + weights["output_bias"]
    p = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(found["probabilities"], p, rtol=1e-5)
    np.testing.assert_allclose(found["log_probabilities"], np.log(p), rtol=1e-4)
    expected = -(wanted * np.log(p) + (1 - wanted) * np.log(1 - p)).mean(axis=1)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert set(MultiLabel(LABELS).apply(weights, pooled, {"label_ids": wanted})[1]) == {
        "probabilities",
        "pooled_output",
    }


def test_new_head_begins_with_the_shares_of_the_training_set():
    examples = [InputExample(str(n), "text", None, label) for n, label in enumerate(_COLUMNS)]
    task = MultiLabel(LABELS)
    task.start_from(examples)
    config = BertConfig(
        vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4
    )
    build = functools.partial(model_fn_builder, config, None)
    bias = build(task=task).initial_weights(1)["output_bias"]
    # 4, 1 and 0 of four, and half an example of either kind.
    np.testing.assert_allclose(bias, np.log([4.5 / 0.5, 1.5 / 3.5, 0.5 / 4.5]), rtol=1e-6)
    assert bias.dtype == np.float32
    assert not build(task=MultiLabel(LABELS)).initial_weights(1)["output_bias"].any()
    trained = {"output_bias": np.array([1, 2, 3], np.float32)}
    found = build(init_checkpoint=trained, task=task).initial_weights(1)["output_bias"]
    np.testing.assert_array_equal(found, [1, 2, 3])


_COLUMNS = [("x",), ("x", "y"), ("x",), ("x",)]


def test_metrics_by_hand():
    truth = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]])
    probabilities = np.array([[0.9, 0.6, 0.1], [0.8, 0.7, 0.2], [0.4, 0.3, 0.1], [0.2, 0.1, 0.6]])
    found = MultiLabel(LABELS).metrics(
        {"probabilities": probabilities.astype(np.float32)}, {"label_ids": truth}
    )
    # Decided: x | y; x, y; -; z. Right of 5 decided and 4 true: 3.
    assert found["eval_accuracy"] == 0.25
    assert found["hamming_loss"] == pytest.approx(3 / 12)
    assert found["precision_micro"] == pytest.approx(3 / 5)
    assert found["recall_micro"] == pytest.approx(3 / 4)
    assert found["f1_score_micro"] == pytest.approx(2 / 3)
    assert found["f1_score_macro"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["f1_score_weighted"] == pytest.approx(0.75)
    per_class = found["per_class"]
    assert per_class["x"]["average_precision"] == 1.0
    assert per_class["y"]["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(per_class["z"]["average_precision"])
    assert found["average_precision_macro"] == pytest.approx((1 + 5 / 6) / 2)
    assert [per_class[label]["examples"] for label in LABELS] == [2, 2, 0]


def test_thresholds_are_the_best():
    """Against a search over all of them."""
    rng = np.random.default_rng(2)
    truth = rng.random((40, 4)) < [0.1, 0.5, 0.9, 0.0]
    probabilities = np.round(np.clip(0.4 * truth + 0.6 * rng.random((40, 4)), 0, 1), 2)
    found = best_thresholds(truth, probabilities)

    def f1(label, threshold):
        decided = probabilities[:, label] >= threshold
        return 2 * (decided & truth[:, label]).sum() / (decided.sum() + truth[:, label].sum())

    for label in range(3):
        best = max(f1(label, threshold) for threshold in np.linspace(0, 1, 1001))
        assert f1(label, found[label]) == pytest.approx(best)
    assert found[3] == 0.5


def test_tuned_thresholds_decide():
    truth = np.array([[1, 0, 0], [1, 0, 1], [0, 1, 0]])
    probabilities = np.array([[0.3, 0.1, 0.4], [0.2, 0.1, 0.6], [0.1, 0.2, 0.5]], np.float32)
    task = MultiLabel(LABELS, tune=True)
    found = task.metrics({"probabilities": probabilities}, {"label_ids": truth})
    assert found["eval_accuracy"] == found["f1_score_macro"] == 1.0
    np.testing.assert_allclose(task.thresholds, [0.15, 0.15, 0.55], atol=1e-6)
    assert [task.decided({"probabilities": row}) for row in probabilities] == [
        ["x"],
        ["x", "z"],
        ["y"],
    ]


def test_row_and_record():
    prediction = {"probabilities": np.array([0.9, 0.25, 0.5], np.float32)}
    assert MultiLabel(LABELS).row(prediction) == "0.9\t0.25\t0.5"
    task = MultiLabel(LABELS, separator="|", predict_fields=("labels",))
    assert task.row(prediction) == "x|z" and task.record(prediction) == {"labels": ["x", "z"]}
    assert MultiLabel(LABELS).record(prediction) == {
        "labels": ["x", "z"],
        "probabilities": {"x": 0.9, "y": 0.25, "z": 0.5},
    }


def test_features_and_records(tmp_path):
    """A mark for each label, there and back through a TFRecord."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b"]
    tokenizer = FullTokenizer(vocab={word: index for index, word in enumerate(words)})
    labels = MultiLabel(LABELS).label_list
    examples = [
        InputExample("0", "a b", None, ("x", "z")),
        InputExample("1", "b", None, ()),
        InputExample("2", "a", None, None),
    ]
    made = inputs.convert_examples_to_features(examples, labels, 8, tokenizer)
    assert made.columns["label_ids"].tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]
    path = str(tmp_path / "x.tf_record")
    tfrecord.write_features(made, path)
    read = tfrecord.read_features(path)
    for name, values in made.columns.items():
        np.testing.assert_array_equal(read.columns[name], values)
    empty = inputs.convert_examples_to_features([], labels, 8, tokenizer)
    assert empty.columns["label_ids"].shape == (0, 3) and tfrecord.serialize(empty) == []


@pytest.mark.parametrize("cell", [["b", "a"], ("b", "a"), {"a", "b"}, frozenset("ab"), "a,b"])
def test_labels_of_a_cell(cell):
    assert parse_labels(cell, ",") == {"a", "b"}
