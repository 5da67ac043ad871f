"""Estimator on a toy model: batchings, dropout, resuming, precisions, summaries, results."""

import dataclasses
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bert_tools import checkpoints, encoder
from bert_tools import estimator as estimators
from bert_tools.config import BertConfig
from bert_tools.errors import UserError
from bert_tools.estimator import Estimator, Evaluation, ModeKeys, RunConfig
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


def toy_model_fn(
    config, steps=10, learning_rate=1e-3, head=1.0, sigmoid=True, task=None, **arguments
):
    """A model_fn with a head far from 0 (weights in -head..head), so that outputs vary."""
    head = np.linspace(-head, head, config.hidden_size, dtype=np.float32)[np.newaxis]
    weights = {"output_weights": head}
    task = task or Regression(sigmoid)
    return model_fn_builder(
        config, 1, weights, learning_rate, steps, steps // 4, task=task, **arguments
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


def test_a_damaged_checkpoint_is_passed_over(tmp_path, toy_config, caplog, monkeypatch):
    """Resuming and scoring take the next older one."""
    monkeypatch.setattr(checkpoints.log, "propagate", True)
    train(toy_config, tmp_path / "whole", steps=4)
    train(toy_config, tmp_path / "damaged", steps=4, save_checkpoints_steps=2)
    data = tmp_path / "damaged" / "model.ckpt-4.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    result = make(toy_config, tmp_path / "damaged").evaluate(input_fn(DEV))
    assert result["global_step"] == 2
    assert "model.ckpt-4: the checkpoint cannot be read" in caplog.text
    caplog.clear()
    make(toy_config, tmp_path / "damaged", 4).train(input_fn(TRAIN, True), 4)
    assert "model.ckpt-4: the checkpoint cannot be read" in caplog.text
    assert_equal(newest(tmp_path / "damaged"), newest(tmp_path / "whole"))


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


# Evaluation while training.


class Scripted(Regression):
    """Metrics that are functions of the weights alone, and jump."""

    def __init__(self, metrics):
        super().__init__()
        self._metrics = metrics

    def metrics(self, predictions, features):
        return self._metrics(predictions["output"])


def jumping(output):
    """A number that small changes of the weights change at random."""
    return {"score": float(int(np.abs(output).sum() * 1e7) % 97)}


def scripted(config, metrics=jumping):
    return toy_model_fn(config, 40, task=Scripted(metrics))


def state_of(folder):
    return checkpoints.read_state(checkpoints.latest(str(folder)))


def test_evaluation_while_training(tmp_path, toy_config, caplog, monkeypatch):
    monkeypatch.setattr(estimators.log, "propagate", True)
    train(toy_config, tmp_path / "without", steps=7)
    expected = []
    for steps in (3, 6, 7):
        part = make(toy_config, tmp_path / "parts", 7).train(input_fn(TRAIN, True), steps)
        expected.append(part.evaluate(input_fn(DEV), batch_size=5))
    with caplog.at_level("INFO", "bert_tools"):
        estimator = make(toy_config, tmp_path / "with", 7)
        estimator.train(input_fn(TRAIN, True), 7, Evaluation(input_fn(DEV), 3, batch_size=5))
    assert_equal(newest(tmp_path / "with"), newest(tmp_path / "without"))
    assert state_of(tmp_path / "with") == state_of(tmp_path / "without")
    found = events(tmp_path / "with")
    for name in ("eval_loss", "loss", "mae", "pearson", "spearman"):
        values = {result["global_step"]: result[name] for result in expected}
        assert found[f"eval/{name}"] == pytest.approx(values, rel=1e-6)
    assert "evaluation at step 3 of 7: eval_loss " in caplog.text
    assert "eval/global_step" not in found
    assert estimator.evaluate(input_fn(DEV), batch_size=5) == expected[-1]


def test_evaluation_at_the_end_alone(tmp_path, toy_config):
    estimator = make(toy_config, tmp_path)
    estimator.train(input_fn(TRAIN, True), 6, Evaluation(input_fn(DEV), metric="pearson"))
    assert events(tmp_path)["eval/mae"].keys() == {6}
    assert state_of(tmp_path)["evaluation"]["step"] == 6


@pytest.mark.parametrize(
    "metric, better",
    [("score", max), ("eval_loss", min), ("loss", min), ("mae", min), ("RMSE", min)],
)
def test_the_best_checkpoint(tmp_path, toy_config, metric, better):
    """It is kept, scored with, and training goes on from the last one."""

    def values(output):
        return {name: jumping(output)["score"] for name in ("score", "mae", "RMSE")}

    def training(folder, until, evaluation):
        estimator = make(toy_config, tmp_path / folder, model_fn=scripted(toy_config, values))
        return estimator.train(input_fn(TRAIN, True), until, evaluation)

    evaluation = Evaluation(input_fn(DEV), 1, metric)
    estimator = training("run", 12, evaluation)
    found = events(tmp_path / "run")[f"eval/{metric}"]
    assert len(found) == 12
    best = better(found, key=found.get)
    state = state_of(tmp_path / "run")["evaluation"]
    assert state["metric"] == metric and state["step"] == best
    assert state["best"] == pytest.approx(found[best])
    assert state["without_gain"] == 12 - best and state["stopped"] is False
    prefix = checkpoints.best(str(tmp_path / "run"))
    assert prefix.endswith(f"model.ckpt-{best}")
    result = estimator.evaluate(input_fn(DEV))
    assert result["global_step"] == best and result[metric] == pytest.approx(found[best])
    again = make(toy_config, tmp_path / "run", model_fn=scripted(toy_config, values))
    assert again.evaluate(input_fn(DEV)) == result
    np.testing.assert_array_equal(outputs(again), outputs(estimator))
    finished = training("run", 12, evaluation)
    assert finished.evaluate(input_fn(DEV)) == result
    estimator.train(input_fn(TRAIN, True), 14, evaluation)
    training("straight", 14, None)
    assert_equal(newest(tmp_path / "run"), newest(tmp_path / "straight"))


def test_gains_are_saved_at_once_and_others_are_not(tmp_path, toy_config):
    made = make(toy_config, tmp_path, model_fn=scripted(toy_config))
    made.train(input_fn(TRAIN, True), 12, Evaluation(input_fn(DEV), 2, "score"))
    scores, best, gains = events(tmp_path)["eval/score"], -1, []
    for step, score in scores.items():
        if score > best:
            best = score
            gains.append(step)
    kept = sorted(int(path.stem.split("-")[1]) for path in tmp_path.glob("model.ckpt-*.index"))
    assert kept == sorted({*gains, 12})[-5:] and 0 < len(gains) < 6


def test_training_on_without_a_metric_scores_with_the_last(tmp_path, toy_config):
    evaluation = Evaluation(input_fn(DEV), 1, "score")
    estimator = make(toy_config, tmp_path, model_fn=scripted(toy_config))
    estimator.train(input_fn(TRAIN, True), 12, evaluation)
    assert estimator.evaluate(input_fn(DEV))["global_step"] < 12
    estimator.train(input_fn(TRAIN, True), 13)
    assert estimator.evaluate(input_fn(DEV))["global_step"] == 13
    assert make(toy_config, tmp_path).evaluate(input_fn(DEV))["global_step"] == 13


class Interrupted(Exception):
    pass


def interrupted_input_fn(at):
    """Training data that ends the run before step `at`, as a kill would."""

    class Ending(batches.TrainingBatches):
        def step(self, step):
            if step == at:
                raise Interrupted
            return super().step(step)

    def ending(params):
        return Ending(TRAIN, params["batch_size"], params["seed"], params["batching"], WIDTH)

    return ending


def test_early_stopping_and_its_resumption(tmp_path, toy_config, caplog, monkeypatch):
    monkeypatch.setattr(estimators.log, "propagate", True)
    evaluation = Evaluation(input_fn(DEV), 2, "score", patience=4)

    def run(folder, data, steps=60, evaluation=evaluation, **arguments):
        model_fn = scripted(toy_config)
        made = make(toy_config, tmp_path / folder, model_fn=model_fn, **arguments)
        return made.train(data, steps, evaluation)

    with caplog.at_level("INFO", "bert_tools"):
        run("whole", input_fn(TRAIN, True))
    last = int(newest(tmp_path / "whole")["global_step"])
    state = state_of(tmp_path / "whole")
    kept = state["evaluation"]
    assert kept["without_gain"] == 4 and kept["stopped"] and kept["step"] == last - 8
    assert 8 < last < 60
    said = "stopped early after 4 evaluations without a gain in score, best "
    assert f"global step {last}: {said}" in caplog.text
    # Interrupted at many places, each run going on from the checkpoint before.
    for at in range(3, last, 3):
        with pytest.raises(Interrupted):
            run("parts", interrupted_input_fn(at), save_checkpoints_steps=2)
    run("parts", input_fn(TRAIN, True), save_checkpoints_steps=2)
    assert_equal(newest(tmp_path / "whole"), newest(tmp_path / "parts"))
    assert state_of(tmp_path / "parts") == state
    assert checkpoints.best(str(tmp_path / "parts")).endswith(f"-{kept['step']}")
    caplog.clear()
    with caplog.at_level("INFO", "bert_tools"):
        again = run("whole", input_fn(TRAIN, True))
    assert f"global step {last}: training is finished ({said}" in caplog.text
    assert state_of(tmp_path / "whole") == state
    assert again.evaluate(input_fn(DEV))["global_step"] == kept["step"]
    # More patience, and no metric at all, go on.
    run("parts", input_fn(TRAIN, True), last + 2, evaluation._replace(patience=20))
    assert newest(tmp_path / "parts")["global_step"] == last + 2
    run("whole", input_fn(TRAIN, True), last + 1, None)
    assert newest(tmp_path / "whole")["global_step"] == last + 1


def test_another_metric_starts_anew(tmp_path, toy_config):
    for metric, until in (("mae", 4), ("pearson", 6)):
        estimator = make(toy_config, tmp_path)
        estimator.train(input_fn(TRAIN, True), until, Evaluation(input_fn(DEV), 2, metric))
    kept = state_of(tmp_path)["evaluation"]
    assert kept["metric"] == "pearson" and kept["step"] == 6 and kept["without_gain"] == 0
    assert kept["best"] == pytest.approx(events(tmp_path)["eval/pearson"][6])


@pytest.mark.parametrize("metric", ["accuracy", "global_step"])
def test_unknown_metric_is_said_before_training(tmp_path, toy_config, metric):
    estimator = make(toy_config, tmp_path)
    message = (
        f"--best_metric={metric}: no such metric; this task's are eval_loss, loss, mae, pearson, "
        "spearman"
    )
    with pytest.raises(UserError, match=message):
        estimator.train(input_fn(TRAIN, True), 6, Evaluation(input_fn(DEV), 0, metric))
    assert not list(tmp_path.iterdir())


def test_patience_without_a_metric(tmp_path, toy_config):
    estimator = make(toy_config, tmp_path)
    with pytest.raises(UserError, match=r"--early_stopping_patience=2: .*give --best_metric"):
        estimator.train(input_fn(TRAIN, True), 6, Evaluation(input_fn(DEV), 1, patience=2))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_no_gain(tmp_path, toy_config, value):
    model_fn = scripted(toy_config, lambda output: {"score": value})
    estimator = make(toy_config, tmp_path, model_fn=model_fn)
    evaluation = Evaluation(input_fn(DEV), 1, "score", patience=3)
    estimator.train(input_fn(TRAIN, True), 9, evaluation)
    kept = {"metric": "score", "best": None, "step": None, "without_gain": 3, "stopped": True}
    assert state_of(tmp_path)["evaluation"] == kept
    assert newest(tmp_path)["global_step"] == 3
    assert estimator.evaluate(input_fn(DEV))["global_step"] == 3


def test_evaluation_builds_its_graph_once(tmp_path, toy_config):
    model_fn = Counting(toy_model_fn(toy_config))
    estimator = make(toy_config, tmp_path, model_fn=model_fn, batching="pad")
    estimator.train(input_fn(TRAIN, True), 6, Evaluation(input_fn(DEV), 1, "mae"))
    estimator.evaluate(input_fn(DEV))
    assert sorted(model_fn.traces) == [ModeKeys.EVAL, ModeKeys.TRAIN]


# Gradient accumulation.


@pytest.mark.parametrize("batching", MODES)
@pytest.mark.parametrize("sigmoid", [True, False], ids=["unclipped", "clipped"])
def test_parts_train_alike(tmp_path, wide_config, no_dropout, batching, sigmoid):
    found = {}
    for parts in (1, 2, 4):
        folder = tmp_path / str(parts)
        train(
            wide_config,
            folder,
            steps=3,
            model_fn=toy_model_fn(wide_config, 3, head=0.1 if sigmoid else 1.0, sigmoid=sigmoid),
            batching=batching,
            save_summary_steps=1,
            gradient_accumulation_steps=parts,
        )
        found[parts] = (list(events(folder)["loss"].values()), newest(folder))
    squares = sum(a.sum() for name, a in found[1][1].items() if name.endswith("/adam_v"))
    # Clipped gradients have a norm of about 1 in each step.
    assert squares < 0.0025 if sigmoid else squares == pytest.approx(0.003, rel=0.1)
    for parts in (2, 4):
        np.testing.assert_allclose(found[parts][0], found[1][0], rtol=1e-5)
        assert_close(found[parts][1], found[1][1], 2e-6)
    begun = toy_model_fn(wide_config).initial_weights(12345)["bert/pooler/dense/kernel"]
    assert np.abs(found[1][1]["bert/pooler/dense/kernel"] - begun).max() > 1e-3


@pytest.mark.parametrize("arguments", [{"precision": "float16"}, {"xla": True}], ids=str)
def test_parts_in_float16_and_compiled(tmp_path, wide_config, no_dropout, arguments):
    results = []
    for parts in (1, 2):
        folder = tmp_path / str(parts)
        # The share of the loss that a part gives is scaled, so fewer parts overflow sooner.
        model_fn = toy_model_fn(wide_config, head=0.1)
        run = {"gradient_accumulation_steps": parts, "model_fn": model_fn, **arguments}
        train(wide_config, folder, steps=3, **run)
        results.append(newest(folder))
        assert state_of(folder).get("loss_scale", {"skipped": 0})["skipped"] == 0
    assert results[0]["output_weights/adam_m"].any()
    assert_close(*results, 1e-3 if "precision" in arguments else 2e-6)


def test_overflow_in_one_part_skips_the_step(tmp_path, toy_config, monkeypatch):
    huge = functools.partial(DynamicLossScale, scale=2.0**60)
    monkeypatch.setattr(estimators, "DynamicLossScale", lambda **state: huge(**state))
    arguments = {"precision": "float16", "gradient_accumulation_steps": 4}
    train(toy_config, tmp_path, steps=1, **arguments)
    fresh, values = toy_model_fn(toy_config).initial_weights(12345), newest(tmp_path)
    for name, array in fresh.items():
        np.testing.assert_array_equal(values[name], array)
    assert state_of(tmp_path)["loss_scale"]["skipped"] == 1
    monkeypatch.undo()
    # What overflowed is not carried over into the steps that follow.
    train(toy_config, tmp_path, steps=90, **arguments)
    assert all(np.isfinite(array).all() for array in newest(tmp_path).values())
    assert newest(tmp_path)["output_weights/adam_m"].any()


def test_parts_resume(tmp_path, toy_config):
    arguments = {"gradient_accumulation_steps": 4}
    train(toy_config, tmp_path / "whole", steps=6, **arguments)
    for until in (2, 6):
        estimator = make(toy_config, tmp_path / "parts", 6, **arguments)
        estimator.train(input_fn(TRAIN, True), until)
    assert_equal(newest(tmp_path / "whole"), newest(tmp_path / "parts"))


def test_each_part_draws_its_own_dropout(tmp_path, toy_config):
    counting, drawn = Counting(toy_model_fn(toy_config)), []

    def model_fn(features, labels, mode, params):
        tf.py_function(lambda rng: drawn.append(tuple(rng.numpy())), [params["rng"]], [])
        return counting(features, labels, mode, params)

    model_fn.__dict__.update(
        initial_weights=counting.initial_weights, optimizer=counting.optimizer, task=counting.task
    )
    train(toy_config, tmp_path, 2, model_fn=model_fn, gradient_accumulation_steps=4)
    assert len(drawn) == 8 == len(set(drawn))
    assert counting.traces == [ModeKeys.TRAIN], "traced once for all parts"


def test_parts_that_do_not_divide_the_batch(tmp_path, toy_config):
    estimator = make(toy_config, tmp_path, gradient_accumulation_steps=3)
    message = r"--train_batch_size=8: 1 devices and --gradient_accumulation_steps=3 share .* of 3"
    with pytest.raises(UserError, match=message):
        estimator.train(input_fn(TRAIN, True), 6)
    assert not list(tmp_path.iterdir())


# Weights that are not trained, or more slowly.


@pytest.mark.parametrize("parts", [1, 2])
def test_frozen_encoder(tmp_path, toy_config, parts):
    model_fn = toy_model_fn(toy_config, freeze_encoder=True)
    gradients, apply = [], model_fn.optimizer.apply_gradients

    def spy(given, *arguments):
        gradients.append(set(given))
        return apply(given, *arguments)

    model_fn.optimizer.apply_gradients = spy
    arguments = {"model_fn": model_fn, "gradient_accumulation_steps": parts}
    estimator = train(toy_config, tmp_path, **arguments)
    assert gradients == [{"output_weights", "output_bias"}]
    begun, values = model_fn.initial_weights(12345), newest(tmp_path)
    heads = {"output_weights", "output_bias"}
    slots = {f"{name}/{slot}" for name in heads for slot in ("adam_m", "adam_v")}
    assert values.keys() == begun.keys() | slots | {"global_step"}
    for name, array in begun.items():
        assert np.array_equal(values[name], array) == (name not in heads), name
    np.testing.assert_array_equal(outputs(estimator), outputs(make(toy_config, tmp_path)))
    # It goes on as a whole model too, whose slots begin at 0.
    train(toy_config, tmp_path, steps=8)
    assert np.any(newest(tmp_path)["bert/pooler/dense/kernel"] != begun["bert/pooler/dense/kernel"])


def test_nothing_to_train_in_a_frozen_model(toy_config):
    class Headless(Regression):
        def head_shapes(self, config):
            return {}

    with pytest.raises(UserError, match="--freeze_encoder=true: this task has no weights"):
        model_fn_builder(toy_config, None, task=Headless(), freeze_encoder=True)


def test_layerwise_lr_decay(tmp_path, wide_config, no_dropout):
    """A single step moves each layer by its share of what one rate for all moves it."""
    changes = {}
    for decay in (None, 1.0, 0.5):
        arguments = {} if decay is None else {"layerwise_lr_decay": decay}
        model_fn = toy_model_fn(wide_config, 1, **arguments)
        folder = tmp_path / str(decay)
        train(wide_config, folder, steps=1, model_fn=model_fn)
        begun, values = model_fn.initial_weights(12345), newest(folder)
        changes[decay] = {name: values[name] - array for name, array in begun.items()}
    assert_equal(changes[None], changes[1.0])
    for name, change in changes[None].items():
        power = 3 if "/embeddings/" in name else 2 if "/layer_0/" in name else 0
        # Softmax does not see what all keys have in common.
        assert np.abs(change).max() > 1e-5 or name.endswith("key/bias")
        np.testing.assert_allclose(changes[0.5][name], change * 0.5**power, atol=3e-7)


# Signals.

DRIVER = """
import sys
import time
sys.path[:0] = sys.argv[1:3]
import test_estimator as toys

class Slow(toys.batches.TrainingBatches):
    def step(self, step):
        print("step", step, flush=True)
        time.sleep(float(sys.argv[4]))
        return super().step(step)

def slow(params):
    return Slow(toys.TRAIN, params["batch_size"], params["seed"], params["batching"], toys.WIDTH)

estimator = toys.make(toys.small_config(), sys.argv[3], 30, save_checkpoints_steps=1000)
estimator.train(slow, 30, toys.Evaluation(toys.input_fn(toys.DEV), 2, "mae"))
"""


def small_config():
    return BertConfig(
        vocab_size=13,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        type_vocab_size=2,
    )


def start_driver(folder, pause=0.3, **arguments):
    tests = pathlib.Path(__file__).resolve().parent
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tests.parent), str(tests), str(folder), str(pause)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **arguments,
    )


def wait_for_step(process, step):
    for line in process.stdout:
        if line == f"step {step}\n":
            return
    raise AssertionError(process.communicate()[1])


@pytest.mark.parametrize(
    "number, status", [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)], ids=str
)
def test_a_signal_saves_and_a_resumed_run_is_bit_equal(tmp_path, number, status):
    restore = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = start_driver(tmp_path, preexec_fn=restore)
    wait_for_step(process, 5)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == status, error
    assert ("KeyboardInterrupt" in error) == (number == signal.SIGINT)
    saved = int(newest(tmp_path)["global_step"])
    assert 3 <= saved < 15
    evaluation = Evaluation(input_fn(DEV), 2, "mae")
    for folder in (tmp_path, tmp_path / "unbroken"):
        make(small_config(), folder, 30).train(input_fn(TRAIN, True), 30, evaluation)
    assert_equal(newest(tmp_path), newest(tmp_path / "unbroken"))
    assert state_of(tmp_path) == state_of(tmp_path / "unbroken")


def test_a_second_signal_acts_at_once(tmp_path):
    process = start_driver(tmp_path, pause=60)
    wait_for_step(process, 0)
    process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert process.poll() is None  # It waits for the end of the step.
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM


def test_an_ignored_interrupt_stays_ignored(tmp_path):
    ignore = functools.partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    process = start_driver(tmp_path, preexec_fn=ignore)
    wait_for_step(process, 3)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=100)
    assert process.returncode == 0, error
    assert newest(tmp_path)["global_step"] == 30


def test_handlers_are_restored(tmp_path, toy_config):
    seen = []

    def looking(params):
        data = batches.input_fn_builder(TRAIN, WIDTH, True)(params)
        step = data.step
        data.step = lambda n: seen.append(signal.getsignal(signal.SIGTERM)) or step(n)
        return data

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    make(toy_config, tmp_path).train(looking, 2)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert seen and before[1] not in seen
    with pytest.raises(Interrupted):
        make(toy_config, tmp_path).train(interrupted_input_fn(4), 6)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_training_in_another_thread_leaves_handlers_alone(tmp_path, toy_config):
    before, seen = signal.getsignal(signal.SIGTERM), []

    def run():
        train(toy_config, tmp_path, steps=2)
        seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]
    assert newest(tmp_path)["global_step"] == 2


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


def test_wrong_precision():
    with pytest.raises(UserError, match="precision=half: no such precision; expected one of float"):
        RunConfig(None, precision="half")
