"""The head of question answering: its loss and scores, however the windows are laid out."""

import numpy as np
import pytest
import tensorflow as tf

from bert_tools.estimator import Estimator, RunConfig
from bert_tools.inputs.batches import MODES, input_fn_builder
from bert_tools.inputs.features import Features
from bert_tools.model_fn import model_fn_builder
from bert_tools.tasks.span import Span

WIDTH = 12
LENGTHS = [5, 12, 3, 7, 4, 9]


def test_loss_and_scores_by_hand():
    """Two windows in one packed row, and one place of padding; the weights pick two numbers."""
    hidden = np.zeros((1, 6, 3), np.float32)
    hidden[0, :, 0] = [1, 2, 3, 4, 5, 100]
    hidden[0, :, 1] = [0, 1, 0, 2, 0, 100]
    weights = {
        "cls/squad/output_weights": tf.constant([[1.0, 0, 0], [0, 1.0, 0]]),
        "cls/squad/output_bias": tf.constant([0.5, -1.0]),
    }
    features = {
        "input_mask": tf.constant([[1, 1, 2, 2, 2, 0]]),
        "first_positions": tf.constant([0, 2]),
        "start_positions": tf.constant([1, 2], tf.int64),
        "end_positions": tf.constant([1, 0], tf.int64),
    }
    loss, predictions = Span(8).apply(weights, tf.constant(hidden), features)
    outside = [-1e30] * 8
    np.testing.assert_allclose(
        predictions["start_logits"],
        [[1.5, 2.5, *outside[:6]], [3.5, 4.5, 5.5, *outside[:5]]],
    )
    np.testing.assert_allclose(
        predictions["end_logits"], [[-1, 0, *outside[:6]], [-1, 1, -1, *outside[:5]]]
    )

    def entropy(scores, place):
        return np.log(np.sum(np.exp(scores))) - scores[place]

    expected = [
        (entropy([1.5, 2.5], 1) + entropy([-1.0, 0], 1)) / 2,
        (entropy([3.5, 4.5, 5.5], 2) + entropy([-1.0, 1, -1], 0)) / 2,
    ]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def windows():
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    return Features(
        rng.integers(5, 13, offsets[-1]).astype(np.int32),
        rng.integers(0, 2, offsets[-1]).astype(np.int32),
        offsets,
        {
            "unique_ids": np.arange(6) + 10**9,
            "start_positions": np.array([1, 11, 0, 3, 2, 4]),
            "end_positions": np.array([4, 11, 2, 3, 3, 8]),
            "is_impossible": np.zeros(6, np.int64),
        },
    )


def estimator(config, folder, mode):
    model_fn = model_fn_builder(config, None, None, 1e-3, 2, 0, task=Span(WIDTH))
    return Estimator(model_fn, RunConfig(folder, batching=mode), {"batch_size": 6})


@pytest.mark.parametrize("mode", MODES)
def test_a_window_has_its_scores_in_every_layout(toy_config, mode):
    """As alone in a row, and none behind its end."""
    found = list(
        estimator(toy_config, None, mode).predict(input_fn_builder(windows(), WIDTH, False))
    )
    alone = estimator(toy_config, None, "pad")
    for index, length in enumerate(LENGTHS):
        part = windows().part(index, index + 1)
        (expected,) = alone.predict(input_fn_builder(part, length, False))
        for name in ("start_logits", "end_logits"):
            assert found[index][name].shape == (WIDTH,)
            np.testing.assert_allclose(
                found[index][name][:length], expected[name][:length], atol=1e-6
            )
            assert (found[index][name][length:] == np.float32(-1e30)).all()


def test_training_does_not_depend_on_the_layout(toy_config, tmp_path, monkeypatch):
    from bert_tools import checkpoints, encoder

    monkeypatch.setattr(encoder, "dropout", lambda x, rate, seed: x)
    left = {}
    for mode in MODES:
        folder = str(tmp_path / mode)
        estimator(toy_config, folder, mode).train(input_fn_builder(windows(), WIDTH, True), 2)
        left[mode] = checkpoints.read(checkpoints.latest(folder))
    fresh = estimator(toy_config, None, "pad")._model_fn.initial_weights(12345)
    name = "cls/squad/output_weights"
    assert np.abs(left["pad"][name] - fresh[name]).max() > 1e-4
    for mode in MODES:
        for name, weight in left["pad"].items():
            np.testing.assert_allclose(left[mode][name], weight, atol=2e-5, err_msg=name)
