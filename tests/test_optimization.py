"""The optimiser against the original's arithmetic, written out in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from bert_tools import optimization
from bert_tools.optimization import (
    DynamicLossScale,
    create_optimizer,
    layerwise_factor,
    learning_rate_at,
)

TABLE = "bert/embeddings/word_embeddings"
SHAPES = {
    TABLE: (7, 3),
    "bert/encoder/layer_0/output/dense/kernel": (3, 4),
    "bert/encoder/layer_0/output/dense/bias": (4,),
    "bert/encoder/layer_0/output/LayerNorm/gamma": (4,),
    "bert/encoder/layer_0/output/LayerNorm/beta": (4,),
    "output_weights": (1, 4),
    "output_bias": (1,),
}
DECAYED = (TABLE, "bert/encoder/layer_0/output/dense/kernel", "output_weights")
IDS = np.array([2, 5, 2, 2])  # A word that occurs three times in a batch.


class OriginalOptimizer:
    """google-research/bert's create_optimizer, in float64.

    A gradient is an array, or (ids, slices) for an embedding table.
    """

    def __init__(self, weights, init_lr, num_train_steps, num_warmup_steps):
        self.weights = {name: array.astype(np.float64) for name, array in weights.items()}
        self.m = {name: np.zeros_like(array) for name, array in self.weights.items()}
        self.v = {name: np.zeros_like(array) for name, array in self.weights.items()}
        self.schedule = (init_lr, num_train_steps, num_warmup_steps)
        self.step = 0

    def apply(self, gradients):
        squares = 0.0
        for gradient in gradients.values():
            values = gradient[1] if isinstance(gradient, tuple) else gradient
            squares += np.sum(np.square(values, dtype=np.float64))
        clip = 1.0 / max(np.sqrt(squares), 1.0)
        rate = original_rate(self.step, *self.schedule)
        for name, gradient in gradients.items():
            if isinstance(gradient, tuple):
                dense = np.zeros_like(self.weights[name])
                np.add.at(dense, gradient[0], gradient[1])
                gradient = dense
            gradient = gradient * clip
            self.m[name] = 0.9 * self.m[name] + 0.1 * gradient
            self.v[name] = 0.999 * self.v[name] + 0.001 * np.square(gradient)
            update = self.m[name] / (np.sqrt(self.v[name]) + 1e-6)
            if name in DECAYED:
                update = update + 0.01 * self.weights[name]
            self.weights[name] = self.weights[name] - rate * update
        self.step += 1


def original_rate(step, init_lr, num_train_steps, num_warmup_steps):
    """polynomial_decay to 0 of power 1 from step 0 on, which warm-up overrides."""
    rate = init_lr * (1 - min(step, num_train_steps) / num_train_steps)
    if num_warmup_steps and step < num_warmup_steps:
        rate = init_lr * step / num_warmup_steps
    return rate


def random_arrays(seed, scale):
    rng = np.random.default_rng(seed)
    return {n: rng.normal(0, scale, shape).astype(np.float32) for n, shape in SHAPES.items()}


def random_gradients(seed, scale):
    gradients = random_arrays(seed, scale)
    rng = np.random.default_rng(seed + 1)
    gradients[TABLE] = (IDS, rng.normal(0, scale, (len(IDS), 3)).astype(np.float32))
    return gradients


def as_tensors(gradients):
    return {
        name: tf.IndexedSlices(tf.constant(g[1]), tf.constant(g[0]), tf.constant(SHAPES[name]))
        if isinstance(g, tuple)
        else tf.constant(g)
        for name, g in gradients.items()
    }


def make(init_lr=1e-2, num_train_steps=10, num_warmup_steps=3, **arguments):
    optimizer = create_optimizer(init_lr, num_train_steps, num_warmup_steps, **arguments)
    weights = {name: tf.Variable(array) for name, array in random_arrays(0, 1.0).items()}
    return optimizer, weights, optimizer.create_slots(weights)


@pytest.mark.parametrize("scale", [1e-3, 1e-1, 30.0], ids=["unclipped", "near", "clipped"])
def test_steps_are_the_originals(scale):
    optimizer, weights, slots = make()
    reference = OriginalOptimizer(random_arrays(0, 1.0), 1e-2, 10, 3)
    for step in range(10):
        gradients = random_gradients(100 + 2 * step, scale)
        rate = tf.constant(optimizer.coefficients(step))
        finite = optimizer.apply_gradients(as_tensors(gradients), weights, slots, rate)
        reference.apply(gradients)
        assert bool(finite)
    for name, weight in weights.items():
        np.testing.assert_allclose(weight.numpy(), reference.weights[name], rtol=2e-6, atol=2e-6)
        # adam_v: 1 - 0.999 in float32, as TensorFlow's Adam takes it, is 1.3e-5 off 0.001.
        for slot, expected, rtol in (
            ("adam_m", reference.m[name], 2e-6),
            ("adam_v", reference.v[name], 2e-5),
        ):
            got = slots[f"{name}/{slot}"].numpy()
            atol = 1e-6 * np.abs(expected).max()
            np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol)


def test_correct_bias_is_pytorchs_adamw():
    """What torch.optim.AdamW of PyTorch 2.13 makes of these weights, gradients and rates (weight
    decay 0.01 for DECAYED alone, eps 1e-6, clip_grad_norm_ at 1); without bias correction they are
    up to 0.11 away.
    """
    optimizer, weights, slots = make(correct_bias=True)
    for step in range(10):
        gradients = {n: tf.constant(g) for n, g in random_arrays(100 + 2 * step, 1e-4).items()}
        coefficients = tf.constant(optimizer.coefficients(step))
        optimizer.apply_gradients(gradients, weights, slots, coefficients)
    for name, expected in {
        TABLE: [1.2875901460647583, 0.9294399619102478, -0.697303056716919],  # Row 2.
        "output_weights": [
            [-0.2980521619319916, 1.434798240661621, 1.972237467765808, 1.8053905963897705]
        ],
        "output_bias": [1.3098143339157104],
        "bert/encoder/layer_0/output/dense/bias": [
            0.5322604775428772,
            0.19414962828159332,
            0.37282681465148926,
            -0.6639209985733032,
        ],
    }.items():
        found = weights[name].numpy()
        found = found[2] if name == TABLE else found
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_repeated_words_count_one_by_one_in_the_norm():
    """Three equal slices of norm 0.5: 0.87 together, under the limit; their sum, 1.5, is over."""
    optimizer, weights, slots = make()
    slices = tf.constant([[0.5, 0.0, 0.0]] * 3)
    gradient = tf.IndexedSlices(slices, tf.constant([2, 2, 2]), tf.constant(SHAPES[TABLE]))
    gradients = {TABLE: gradient, "output_bias": tf.zeros(1)}
    optimizer.apply_gradients(gradients, weights, slots, tf.constant([0.1, 0.0, 0.0]))
    np.testing.assert_allclose(slots[f"{TABLE}/adam_m"].numpy()[2, 0], 0.15, rtol=1e-6)


def test_decay_leaves_out_normalisation_and_bias():
    optimizer, weights, slots = make()
    before = {name: weight.numpy() for name, weight in weights.items()}
    zeros = {name: tf.zeros(shape) for name, shape in SHAPES.items()}
    optimizer.apply_gradients(zeros, weights, slots, tf.constant([0.5, 0.0, 0.0]))
    for name, weight in weights.items():
        factor = 1 - 0.5 * 0.01 if name in DECAYED else 1.0
        np.testing.assert_allclose(weight.numpy(), before[name] * np.float32(factor), rtol=1e-6)


@pytest.mark.parametrize("steps, warmup", [(10, 3), (598, 59), (7, 0), (1, 0), (3, 3)])
def test_rate_is_the_originals(steps, warmup):
    rates = [learning_rate_at(step, 5e-5, steps, warmup) for step in range(steps + 2)]
    expected = [original_rate(step, 5e-5, steps, warmup) for step in range(steps + 2)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-12)
    assert all(rate.dtype == np.float32 for rate in rates)


def test_rate_drops_at_the_hand_over():
    """Decay runs from step 0: where warm-up ends at step 50 of 100, half of the peak is left."""
    rates = [learning_rate_at(step, 1.0, 100, 50) for step in range(100)]
    np.testing.assert_allclose(rates[49:52], [0.98, 0.5, 0.49], rtol=1e-6)
    assert rates[0] == 0


def test_slots_are_named_after_the_weights():
    _, weights, slots = make()
    expected = {f"{name}/{slot}" for name in weights for slot in ("adam_m", "adam_v")}
    assert slots.keys() == expected
    assert not any(slot.numpy().any() for slot in slots.values())


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_overflow_leaves_everything_as_it_was(bad):
    optimizer, weights, slots = make()
    before = {name: v.numpy() for name, v in {**weights, **slots}.items()}
    gradients = as_tensors(random_gradients(1, 1.0))
    gradients["output_bias"] = tf.constant([bad], tf.float32)
    rate, scale = tf.constant([0.1, 0.0, 0.0]), tf.constant(1024.0)
    assert not optimizer.apply_gradients(gradients, weights, slots, rate, scale)
    for name, variable in {**weights, **slots}.items():
        np.testing.assert_array_equal(variable.numpy(), before[name])


def test_scaled_gradients_give_the_same_step():
    """Scaling by a power of two is undone before clipping: the same numbers, bit by bit."""
    results = []
    for scale in (None, 4096.0):
        optimizer, weights, slots = make()
        for gradient_scale in (0.01, 3.0):
            gradients = as_tensors(random_gradients(1, gradient_scale))
            if scale:
                gradients = {
                    name: tf.IndexedSlices(g.values * scale, g.indices, g.dense_shape)
                    if isinstance(g, tf.IndexedSlices)
                    else g * scale
                    for name, g in gradients.items()
                }
            wanted = None if scale is None else tf.constant(scale)
            optimizer.apply_gradients(
                gradients, weights, slots, tf.constant([0.1, 0.0, 0.0]), wanted
            )
        results.append({name: weight.numpy() for name, weight in weights.items()})
    for name, weight in results[0].items():
        np.testing.assert_allclose(weight, results[1][name], rtol=1e-6, atol=1e-7)


def test_loss_scale_halves_and_doubles(monkeypatch):
    monkeypatch.setattr(optimization.DynamicLossScale, "growth_steps", 3)
    scale = DynamicLossScale()
    assert scale.scale == 2.0**15
    scale.update(True)
    scale.update(False)
    assert (scale.scale, scale.skipped, scale.good_steps) == (2.0**14, 1, 0)
    for _ in range(3):
        scale.update(True)
    assert (scale.scale, scale.skipped, scale.good_steps) == (2.0**15, 1, 0)


def test_loss_scale_stays_in_bounds(monkeypatch):
    monkeypatch.setattr(optimization.DynamicLossScale, "growth_steps", 1)
    scale = DynamicLossScale(scale=2.0)
    for _ in range(3):
        scale.update(False)
    assert scale.scale == 1.0
    for _ in range(30):
        scale.update(True)
    assert scale.scale == 2.0**24


def test_loss_scale_goes_on_from_its_state():
    scale = DynamicLossScale(scale=8.0, good_steps=5, skipped=2)
    assert DynamicLossScale(**scale.state()).__dict__ == scale.__dict__


# Rates by layer, and weights that are not trained.


@pytest.mark.parametrize(
    "name, depth",
    [
        (TABLE, 0),
        ("bert/embeddings/LayerNorm/gamma", 0),
        ("bert/encoder/layer_0/output/dense/kernel", 1),
        ("bert/encoder/layer_1/output/dense/kernel", 2),
        ("bert/encoder/layer_11/attention/self/query/bias", 12),
        ("bert/pooler/dense/kernel", 14),
        ("output_weights", 14),
        ("cls/squad/output_bias", 14),
    ],
)
def test_layerwise_factor_is_electras(name, depth):
    """_get_layer_lrs of its model/optimization.py: rate * decay ** (n_layers + 2 - depth)."""
    assert layerwise_factor(name, 0.8, 12) == 0.8 ** (12 + 2 - depth)
    assert layerwise_factor(name, 1.0, 12) == 1.0


def updated(gradient_steps=3, **arguments):
    """Weights after some steps."""
    _, weights, _ = make()
    optimizer = create_optimizer(1e-2, 10, 0, **arguments)
    slots = optimizer.create_slots(weights)
    for step in range(gradient_steps):
        gradients = as_tensors(random_gradients(step, 1.0))
        gradients = {name: g for name, g in gradients.items() if optimizer.trains(name)}
        optimizer.apply_gradients(gradients, weights, slots, tf.constant([0.1, 0.0, 0.0]))
    return {name: weight.numpy() for name, weight in weights.items()}, slots


def test_rate_factor_scales_update_and_decay():
    begun = {name: weight.numpy() for name, weight in make()[1].items()}
    plain, _ = updated(1)
    factors = {name: 0.5**index for index, name in enumerate(SHAPES)}
    scaled, _ = updated(1, rate_factor=factors.get)
    for name, factor in factors.items():
        change = plain[name] - begun[name]
        assert np.abs(change).max() > 0.1
        np.testing.assert_allclose(scaled[name] - begun[name], factor * change, atol=1e-6)


def test_rate_factor_of_one_changes_no_bit():
    plain, _ = updated()
    scaled, _ = updated(rate_factor=lambda name: layerwise_factor(name, 1.0, 2))
    for name, array in plain.items():
        np.testing.assert_array_equal(array, scaled[name])


def test_frozen_weights_have_no_slots():
    begun = {name: weight.numpy() for name, weight in make()[1].items()}
    weights, slots = updated(frozen=("bert/",))
    assert slots.keys() == {
        f"{name}/{slot}"
        for name in ("output_weights", "output_bias")
        for slot in ("adam_m", "adam_v")
    }
    for name, array in weights.items():
        assert name.startswith("bert/") == np.array_equal(array, begun[name])


def test_slices_made_dense_count_as_slices_in_the_norm():
    """What accumulation hands over gives what the slices themselves give."""
    results = []
    for dense in (False, True):
        optimizer, weights, slots = make()
        gradients = as_tensors(random_gradients(1, 1.0))
        squares = None
        if dense:
            squares = optimizer.squares_of_slices(gradients)
            gradients = {name: tf.convert_to_tensor(g) for name, g in gradients.items()}
        rate = tf.constant([0.1, 0.0, 0.0])
        optimizer.apply_gradients(gradients, weights, slots, rate, squares_of_slices=squares)
        results.append(slots[f"{TABLE}/adam_m"].numpy())
    assert np.abs(results[0]).max() > 1e-3
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("correct_bias", [False, True])
def test_tracked_rows_change_no_bit(correct_bias):
    results = []
    table = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)
    for tracked in (True, False):
        rng = np.random.default_rng(2)
        optimizer = create_optimizer(0.01, 40, 4, correct_bias=correct_bias)
        weights = {TABLE: tf.Variable(table)}
        slots = optimizer.create_slots(weights)
        for step in range(30):
            if tracked and step in (0, 7):  # At 7 as after a restart.
                optimizer.track_rows(slots)
            # 3 rows at first, in the end more than are computed one by one.
            indices = rng.integers(3 if step < 10 else 50, size=4)
            slices = tf.IndexedSlices(
                tf.constant(rng.normal(size=(4, 8)), tf.float32), indices, table.shape
            )
            coefficients = tf.constant(optimizer.coefficients(step))
            optimizer.apply_gradients({TABLE: slices}, weights, slots, coefficients)
        results.append({name: value.numpy() for name, value in {**weights, **slots}.items()})
    for name, value in results[0].items():
        np.testing.assert_array_equal(value, results[1][name])
    assert not np.array_equal(results[0][TABLE], table)
