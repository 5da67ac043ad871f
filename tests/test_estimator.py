"""Estimator on a toy model: batchings, dropout, resuming, precisions, summaries, results."""

import dataclasses
import functools
import json
import os

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bert_tools import checkpoints, encoder
from bert_tools import estimator as estimators
from bert_tools.errors import UserError
from bert_tools.estimator import Estimator, ModeKeys, RunConfig
from bert_tools.inputs import batches
from bert_tools.inputs.features import Features, ranges
from bert_tools.model_fn import model_fn_builder
from bert_tools.optimization import DynamicLossScale
from bert_tools.tasks.regress import Regression

WIDTH = 24
MODES = ("pack", "bucket", "pad")


def toy_features(count, seed):
    """Random ids of random lengths, with values in 0.7..1 that depend on them."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, WIDTH + 1, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = rng.integers(5, 13, offsets[-1]).astype(np.int32)
    ids[offsets[:-1]] = 2
    ids[offsets[1:] - 1] = 3
    places = ranges(np.zeros_like(lengths), lengths)
    segments = (places > np.repeat(lengths // 2, lengths)).astype(np.int32)
    vals = 1 - 0.3 * (ids[offsets[:-1] + 1] - 5) / 7
    return Features(ids, segments, offsets, {"vals": vals.astype(np.float32)})


TRAIN, DEV = toy_features(40, 1), toy_features(23, 2)


def input_fn(features, is_training=False):
    return batches.input_fn_builder(features, WIDTH, is_training)


def toy_model_fn(config, steps=10, learning_rate=1e-3, head=1.0, sigmoid=True):
    """A model_fn with a head far from 0 (weights in -head..head), so that outputs vary."""
    head = np.linspace(-head, head, config.hidden_size, dtype=np.float32)[np.newaxis]
    weights = {"output_weights": head}
    return model_fn_builder(
        config, 1, weights, learning_rate, steps, steps // 4, task=Regression(sigmoid)
    )


def make(config, folder, steps=6, learning_rate=1e-3, batch_size=8, model_fn=None, **run_config):
    model_fn = model_fn or toy_model_fn(config, steps, learning_rate)
    strategy = tf.distribute.OneDeviceStrategy("/CPU:0")
    run_config = RunConfig(str(folder), strategy=strategy, **run_config)
    return Estimator(model_fn, run_config, {"batch_size": batch_size})


def train(config, folder, steps=6, **arguments):
    return make(config, folder, steps, **arguments).train(input_fn(TRAIN, True), steps)


def newest(folder):
    """Every variable of the newest checkpoint, slots included."""
    return checkpoints.read(checkpoints.latest(str(folder)), slots=True)


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for name, array in left.items():
        np.testing.assert_array_equal(array, right[name], err_msg=name)


def assert_close(left, right, tolerance):
    assert left.keys() == right.keys()
    for name, array in left.items():
        np.testing.assert_allclose(array, right[name], rtol=0, atol=tolerance, err_msg=name)


def outputs(estimator, features=DEV):
    return np.array([row["output"] for row in estimator.predict(input_fn(features))])


def events(folder):
    found = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    return {
        tag: {e.step: float(tf.make_ndarray(e.tensor_proto)) for e in found.Tensors(tag)}
        for tag in found.Tags()["tensors"]
    }


@pytest.fixture(scope="module")
def toy_config(toy_config):
    """A single layer, which is traced and compiled in half the time."""
    return dataclasses.replace(toy_config, num_hidden_layers=1)


@pytest.fixture
def no_dropout(monkeypatch):
    monkeypatch.setattr(encoder, "dropout", lambda x, rate, seed: x)


@pytest.fixture
def wide_config(toy_config):
    """Larger weights than fresh ones, so that gradients are far from 0 and far from rounding."""
    return dataclasses.replace(toy_config, initializer_range=0.2)


# The three batchings.


def test_batchings_train_alike(tmp_path, wide_config, no_dropout):
    losses = {}
    for mode in MODES:
        train(wide_config, tmp_path / mode, batching=mode, save_summary_steps=1)
        losses[mode] = events(tmp_path / mode)["loss"]
    assert losses["pad"].keys() == set(range(1, 7))
    for mode in ("pack", "bucket"):
        np.testing.assert_allclose(
            list(losses[mode].values()), list(losses["pad"].values()), rtol=1e-5
        )
        assert_close(newest(tmp_path / mode), newest(tmp_path / "pad"), 1e-6)


@pytest.mark.parametrize("clipped", [False, True], ids=["unclipped", "clipped"])
def test_batchings_give_the_same_gradients(tmp_path, wide_config, no_dropout, clipped):
    """After one step adam_m is a tenth of the gradient, which is cut to norm 1."""
    gradients = {}
    for mode in MODES:
        head = 1.0 if clipped else 0.1
        model_fn = toy_model_fn(wide_config, head=head, sigmoid=not clipped)
        train(wide_config, tmp_path / mode, steps=1, batching=mode, model_fn=model_fn)
        found = newest(tmp_path / mode)
        gradients[mode] = {name: 10 * a for name, a in found.items() if name.endswith("/adam_m")}
    size = np.sqrt(sum(np.sum(np.square(array)) for array in gradients["pad"].values()))
    assert 0.9 < size < 1.2 if clipped else 0.02 < size < 0.9, size
    for mode in ("pack", "bucket"):
        assert_close(gradients[mode], gradients["pad"], 1e-6 if clipped else 2e-7)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_are_of_the_originals_kinds(toy_config, mode):
    """Slices for words and dense for all else: the norm that clipping goes by depends on it."""
    model_fn = toy_model_fn(toy_config)
    weights = {n: tf.Variable(array) for n, array in model_fn.initial_weights(1).items()}
    settings = {"batch_size": 8, "batching": mode, "seed": 1, "num_replicas": 1, "static": False}
    block = batches.input_fn_builder(TRAIN, WIDTH, True)(settings).step(0)[0][0]
    params = {"weights": weights, "dtype": tf.float32, "rng": tf.constant([1, 2])}
    kinds = {}

    @tf.function
    def differentiate():
        with tf.GradientTape() as tape:
            loss = model_fn(block, None, ModeKeys.TRAIN, params).loss
        for name, gradient in tape.gradient(loss, weights).items():
            kinds[name] = isinstance(gradient, tf.IndexedSlices)

    differentiate()
    assert kinds == {name: name == "bert/embeddings/word_embeddings" for name in weights}


def test_batchings_predict_alike_and_in_input_order(tmp_path, wide_config):
    train(wide_config, tmp_path)
    expected = [
        outputs(make(wide_config, tmp_path, batching="pad"), one(DEV, index))[0]
        for index in range(0, len(DEV), 5)
    ]
    assert np.ptp(expected) > 1e-3
    for mode in MODES:
        found = outputs(make(wide_config, tmp_path, batching=mode))
        assert found.shape == (len(DEV),)
        np.testing.assert_allclose(found[::5], expected, rtol=0, atol=1e-5)


def one(features, index):
    """A set of a single example."""
    place = slice(features.offsets[index], features.offsets[index + 1])
    ids, segments = features.input_ids[place], features.segment_ids[place]
    columns = {name: values[index : index + 1] for name, values in features.columns.items()}
    return Features(ids, segments, np.array([0, len(ids)]), columns)


# Dropout and seeds.


def test_dropout_is_for_training_alone(tmp_path, wide_config):
    train(wide_config, tmp_path)
    estimator = make(wide_config, tmp_path, seed=1)
    first = estimator.evaluate(input_fn(DEV))
    assert estimator.evaluate(input_fn(DEV)) == first
    assert make(wide_config, tmp_path, seed=2).evaluate(input_fn(DEV)) == first
    np.testing.assert_array_equal(outputs(estimator), outputs(make(wide_config, tmp_path, seed=2)))


def test_training_uses_dropout(tmp_path, wide_config, monkeypatch):
    train(wide_config, tmp_path / "with", steps=2)
    monkeypatch.setattr(encoder, "dropout", lambda x, rate, seed: x)
    train(wide_config, tmp_path / "without", steps=2)
    name = "bert/encoder/layer_0/output/dense/kernel"
    assert np.any(newest(tmp_path / "with")[name] != newest(tmp_path / "without")[name])


def test_same_seed_same_weights(tmp_path, toy_config):
    for folder, seed in (("a", 7), ("b", 7), ("c", 8)):
        train(toy_config, tmp_path / folder, seed=seed)
    a, b, c = (newest(tmp_path / folder) for folder in "abc")
    assert_equal(a, b)
    assert np.any(a["bert/pooler/dense/kernel"] != c["bert/pooler/dense/kernel"])


# Stopping and going on.


@pytest.mark.parametrize("arguments", [{}, {"precision": "float16"}], ids=["default", "float16"])
def test_resumed_training_is_bit_equal(tmp_path, toy_config, arguments):
    train(toy_config, tmp_path / "whole", steps=9, **arguments)
    for until in (4, 9):
        # A new seed is not taken: the run keeps the one that it began with.
        estimator = make(toy_config, tmp_path / "parts", 9, seed=12345 + until - 4, **arguments)
        estimator.train(input_fn(TRAIN, True), until)
    assert_equal(newest(tmp_path / "whole"), newest(tmp_path / "parts"))


def test_finished_training_does_nothing_and_says_so(tmp_path, toy_config, caplog, monkeypatch):
    monkeypatch.setattr(estimators.log, "propagate", True)
    train(toy_config, tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with caplog.at_level("INFO", "bert_tools"):
        train(toy_config, tmp_path)
    assert "global step 6: training is finished, nothing to do" in caplog.text
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_folder_of_another_model_is_refused(tmp_path, toy_config):
    train(toy_config, tmp_path, steps=1)
    other = dataclasses.replace(toy_config, hidden_size=8)
    with pytest.raises(UserError, match=r"model\.ckpt-1: .*bert/embeddings.*another model"):
        train(other, tmp_path, steps=2)


# Checkpoints.


def test_checkpoints(tmp_path, toy_config):
    train(toy_config, tmp_path, steps=13, save_checkpoints_steps=2)
    values = newest(tmp_path)
    weights = {*encoder.weight_shapes(toy_config), "output_weights", "output_bias"}
    slots = {f"{name}/{slot}" for name in weights for slot in ("adam_m", "adam_v")}
    assert values.keys() == weights | slots | {"global_step"}
    assert values["global_step"].dtype == np.int64 and values["global_step"] == 13
    assert values["output_weights"].shape == (1, 16) and values["output_bias"].shape == (1,)
    assert all(values[name].dtype == np.float32 for name in weights | slots)
    assert tf.train.latest_checkpoint(str(tmp_path)) == str(tmp_path / "model.ckpt-13")
    kept = sorted(int(path.stem.split("-")[1]) for path in tmp_path.glob("model.ckpt-*.index"))
    assert kept == [6, 8, 10, 12, 13]
    assert len(list(tmp_path.glob("model.ckpt-*"))) == 3 * 5
    state = json.loads((tmp_path / "model.ckpt-13.json").read_text())
    assert state == {"seed": 12345, "examples": 13 * 8}


# Precision.


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_loss_falls(tmp_path, toy_config, precision):
    arguments = {"precision": precision, "save_summary_steps": 1}
    estimator = train(toy_config, tmp_path, steps=40, learning_rate=5e-3, **arguments)
    losses = list(events(tmp_path)["loss"].values())
    assert np.mean(losses[-10:]) < 0.4 * np.mean(losses[:3])
    assert all(array.dtype == np.float32 for n, array in newest(tmp_path).items() if "/" in n)
    before = make(toy_config, tmp_path / "fresh").evaluate(input_fn(DEV))
    assert estimator.evaluate(input_fn(DEV))["eval_loss"] < 0.6 * before["eval_loss"]
    assert outputs(estimator).dtype == np.float32


def test_float16_overflow_skips_the_step(tmp_path, toy_config, monkeypatch, caplog):
    monkeypatch.setattr(estimators.log, "propagate", True)
    huge = functools.partial(DynamicLossScale, scale=2.0**60)
    monkeypatch.setattr(estimators, "DynamicLossScale", lambda **state: huge(**state))
    train(toy_config, tmp_path, steps=1, precision="float16", save_checkpoints_steps=1)
    fresh = toy_model_fn(toy_config).initial_weights(12345)
    values = newest(tmp_path)
    for name, array in fresh.items():
        np.testing.assert_array_equal(values[name], array)
        assert not values[f"{name}/adam_m"].any() and not values[f"{name}/adam_v"].any()
    state = checkpoints.read_state(checkpoints.latest(str(tmp_path)))
    assert state["loss_scale"] == {"scale": 2.0**59, "good_steps": 0, "skipped": 1}
    assert "1 steps were skipped because float16 overflowed" in caplog.text


def test_float16_loss_scale_goes_on_from_the_checkpoint(tmp_path, toy_config, monkeypatch):
    huge = functools.partial(DynamicLossScale, scale=2.0**60)
    monkeypatch.setattr(estimators, "DynamicLossScale", lambda **state: huge(**state))
    train(toy_config, tmp_path, steps=2, precision="float16")
    monkeypatch.undo()
    train(toy_config, tmp_path, steps=90, precision="float16", save_summary_steps=1)
    scale = checkpoints.read_state(checkpoints.latest(str(tmp_path)))["loss_scale"]
    assert 2 < scale["skipped"] < 60
    assert scale["scale"] == 2.0 ** (60 - scale["skipped"])
    assert scale["good_steps"] > 0
    assert events(tmp_path)["skipped_steps"][90] == scale["skipped"]
    weights = newest(tmp_path)
    assert all(np.isfinite(array).all() for array in weights.values())
    assert weights["output_weights/adam_m"].any()


def test_bfloat16_scores_near_float32(tmp_path, wide_config):
    train(wide_config, tmp_path)
    full = outputs(make(wide_config, tmp_path))
    for precision in ("bfloat16", "float16"):
        found = outputs(make(wide_config, tmp_path, precision=precision))
        assert np.any(found != full)
        np.testing.assert_allclose(found, full, atol=0.03)


# Values that are not finite.


def test_loss_that_is_not_finite_stops_the_run(tmp_path, toy_config):
    class Breaking(batches.TrainingBatches):
        def step(self, step):
            shares = super().step(step)
            if step == 5:
                shares[0][0]["vals"] = shares[0][0]["vals"] * np.float32("nan")
            return shares

    def broken(params):
        return Breaking(TRAIN, params["batch_size"], params["seed"], params["batching"], WIDTH)

    estimator = make(toy_config, tmp_path, steps=9, save_checkpoints_steps=2)
    with pytest.raises(UserError, match=r"the loss is nan at step 6; lower --learning_rate"):
        estimator.train(broken, 9)
    assert checkpoints.latest(str(tmp_path)).endswith("model.ckpt-4")
    assert all(np.isfinite(array).all() for array in newest(tmp_path).values())


# TensorBoard.


def test_summaries(tmp_path, toy_config):
    train(toy_config, tmp_path, steps=10, save_summary_steps=4)
    found = events(tmp_path)
    assert found.keys() == {"loss", "learning_rate", "examples_per_second"}
    for tag in found:
        assert list(found[tag]) == [4, 8, 10], tag
    # The rate of the step just done, the last of which is step 9 of 10.
    np.testing.assert_allclose(list(found["learning_rate"].values()), [7e-4, 3e-4, 1e-4], rtol=1e-5)
    assert min(found["examples_per_second"].values()) > 0


# XLA.


def test_xla_gives_the_same(tmp_path, wide_config, no_dropout):
    results = []
    for xla in (False, True):
        folder = tmp_path / str(xla)
        estimator = train(wide_config, folder, steps=4, xla=xla)
        results.append((newest(folder), outputs(estimator)))
    (weights, found), (xla_weights, xla_found) = results
    assert_close(weights, xla_weights, 1e-5)
    np.testing.assert_allclose(found, xla_found, rtol=0, atol=1e-5)


# Results.


@pytest.fixture(scope="module")
def trained(tmp_path_factory, toy_config):
    """(folder, config) of a model whose outputs vary."""
    folder = tmp_path_factory.mktemp("trained")
    config = dataclasses.replace(toy_config, initializer_range=0.2)
    train(config, folder)
    return folder, config


@pytest.mark.parametrize("batching", MODES)
@pytest.mark.parametrize("size", [8, 7, 100])
def test_evaluate(trained, batching, size):
    folder, config = trained
    estimator = make(config, folder, batching=batching, batch_size=size)
    result = estimator.evaluate(input_fn(DEV))
    output, vals = outputs(estimator), DEV.columns["vals"]
    losses = np.square(output.astype(np.float64) - vals)
    means = [losses[start : start + size].mean() for start in range(0, len(losses), size)]
    expected = {
        "eval_loss": losses.mean(),
        "loss": np.mean(means),
        "mae": np.abs(output - vals).mean(),
        "pearson": stats.pearsonr(output, vals).statistic,
        "spearman": stats.spearmanr(output, vals).statistic,
        "global_step": 6,
    }
    assert result == pytest.approx(expected, rel=1e-5)
    assert isinstance(result["global_step"], int)
    assert result == make(config, folder, batching=batching).evaluate(
        input_fn(DEV), batch_size=size
    )
    if size < 100:
        assert abs(result["loss"] - result["eval_loss"]) > 1e-6


def test_evaluate_some_steps(trained):
    """The blocks are the planner's, the longest examples first."""
    folder, config = trained
    estimator = make(config, folder, batching="bucket")

    def short(params):
        params = {**params, "token_budget": 4 * WIDTH}
        return batches.input_fn_builder(DEV, WIDTH, False)(params)

    result = estimator.evaluate(short, steps=2)
    blocks = [indices for indices, _ in short({"batching": "bucket", "static": False})]
    kept = np.sort(np.concatenate(blocks[:2]))
    assert 0 < len(kept) < len(DEV)
    error = outputs(estimator)[kept].astype(np.float64) - DEV.columns["vals"][kept]
    assert result["eval_loss"] == pytest.approx(np.square(error).mean(), rel=1e-5)
    assert result["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-5)


def test_predict_yields_a_dict_an_example(trained):
    folder, config = trained
    rows = make(config, folder).predict(input_fn(DEV))
    first = next(rows)
    assert first["output"].shape == () and 0 < first["output"] < 1
    assert len(list(rows)) == len(DEV) - 1


def test_nothing_to_predict(trained):
    folder, config = trained
    nothing = Features(
        np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(1, np.int64), {"vals": np.zeros(0)}
    )
    assert list(make(config, folder).predict(input_fn(nothing))) == []


def test_fresh_model_scores_with_the_weights_training_begins_with(tmp_path, wide_config):
    estimator = make(wide_config, tmp_path)
    result = estimator.evaluate(input_fn(DEV))
    assert result["global_step"] == 0
    assert not list(tmp_path.iterdir())
    weights = toy_model_fn(wide_config).initial_weights(12345)
    single = one(DEV, 3)
    features = {"input_ids": single.input_ids[None], "segment_ids": single.segment_ids[None]}
    pooled = encoder.encode(wide_config, weights, features).pooled_output
    logit = tf.matmul(pooled, weights["output_weights"], transpose_b=True)
    np.testing.assert_allclose(outputs(estimator)[3], tf.sigmoid(logit)[0, 0], atol=1e-5)


def test_scoring_after_more_training_uses_the_new_weights(tmp_path, toy_config):
    estimator = make(toy_config, tmp_path, 6, learning_rate=1e-2)
    before = outputs(estimator)
    estimator.train(input_fn(TRAIN, True), 3)
    middle = outputs(estimator)
    estimator.train(input_fn(TRAIN, True), 6)
    after = outputs(estimator)
    assert np.any(before != middle) and np.any(middle != after)
    np.testing.assert_array_equal(after, outputs(make(toy_config, tmp_path)))


# Traces.


class Counting:
    """A model_fn that counts how often it is traced, by mode."""

    def __init__(self, model_fn):
        self._model_fn = model_fn
        self.traces = []
        self.initial_weights, self.optimizer = model_fn.initial_weights, model_fn.optimizer
        self.task = model_fn.task

    def __call__(self, features, labels, mode, params):
        self.traces.append(mode)
        return self._model_fn(features, labels, mode, params)


# Pack has two structures in scoring: blocks where rows hold several examples, and where none does.
@pytest.mark.parametrize("batching, structures", [("pack", 2), ("bucket", 1), ("pad", 1)])
def test_one_trace_a_mode_and_structure(tmp_path, toy_config, batching, structures):
    model_fn = Counting(toy_model_fn(toy_config))
    estimator = make(toy_config, tmp_path, model_fn=model_fn, batching=batching)

    def small_blocks(seed, params):
        """Many blocks of many shapes, handed out by several threads at once."""
        params = {**params, "token_budget": 3 * WIDTH}
        return batches.input_fn_builder(toy_features(60, seed), WIDTH, False)(params)

    for seed in range(3):
        estimator.evaluate(functools.partial(small_blocks, seed))
        list(estimator.predict(functools.partial(small_blocks, seed)))
    expected = [ModeKeys.EVAL, ModeKeys.PREDICT] * structures
    assert sorted(model_fn.traces) == sorted(expected)


# A training step of bucket is four blocks, in one trace that all steps share.
@pytest.mark.parametrize("batching, blocks", [("pack", 1), ("bucket", 4), ("pad", 1)])
def test_training_is_traced_once(tmp_path, toy_config, batching, blocks):
    model_fn = Counting(toy_model_fn(toy_config))
    estimator = make(toy_config, tmp_path, model_fn=model_fn, batching=batching)
    estimator.train(input_fn(TRAIN, True), 10)
    assert model_fn.traces == [ModeKeys.TRAIN] * blocks


def test_model_fn_gets_params(tmp_path, toy_config):
    seen = []
    counting = Counting(toy_model_fn(toy_config))

    def model_fn(features, labels, mode, params):
        seen.append((mode, labels, params["batch_size"], params.get("rng") is not None))
        return counting(features, labels, mode, params)

    model_fn.__dict__.update(
        initial_weights=counting.initial_weights, optimizer=counting.optimizer, task=counting.task
    )
    estimator = make(toy_config, tmp_path, model_fn=model_fn)
    estimator.train(input_fn(TRAIN, True), 1)
    estimator.evaluate(input_fn(DEV))
    assert seen == [(ModeKeys.TRAIN, None, 8, True), (ModeKeys.EVAL, None, 8, False)]
    assert os.path.exists(tmp_path / "checkpoint")
