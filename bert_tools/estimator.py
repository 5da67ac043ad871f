"""Estimator: train, evaluate and predict over a tf.distribute strategy, in the shape that
tf.estimator had.

A run that is killed and started again gives the same weights as one that was not: a step's
examples and its dropout are functions of (seed, step), and a checkpoint holds everything else.
"""

import concurrent.futures
import dataclasses
import logging
import math
import os
import sys
import threading
import time
import typing

import numpy as np
import tensorflow as tf
import tqdm

from bert_tools import checkpoints
from bert_tools.distribution import is_chief, make_strategy
from bert_tools.errors import UserError
from bert_tools.optimization import DynamicLossScale

log = logging.getLogger("bert_tools")
PRECISIONS = {"float32": tf.float32, "bfloat16": tf.bfloat16, "float16": tf.float16}


class ModeKeys:
    """The modes of a model_fn, by tf.estimator's names."""

    TRAIN = "train"
    EVAL = "eval"
    PREDICT = "infer"


class EstimatorSpec(typing.NamedTuple):
    """What a model_fn returns.

    loss: float32 scalar, the mean over the batch's examples.
    predictions: dict of Tensors [n, ...].
    metrics: dict {name: (sum, count)} of scalars; exact for any batch and replica size.
    """

    loss: typing.Any
    predictions: dict
    metrics: dict


@dataclasses.dataclass
class RunConfig:
    """How an Estimator runs.

    Attributes:
      model_dir: str, where checkpoints and summaries go.
      save_summary_steps, save_checkpoints_steps: int, every so many steps.
      strategy: tf.distribute.Strategy, or None for distribution.make_strategy().
      precision: "float32", "bfloat16" or "float16", what matrix products are computed in; weights
      stay float32.
      batching: "pack", "bucket" or "pad", see inputs.batches.
      seed: int, of initial weights, order of examples and dropout. A resumed run keeps the seed it
      began with.
      xla: bool, compile the steps (static shapes).
    """

    model_dir: str
    save_summary_steps: int = 100
    save_checkpoints_steps: int = 1000
    strategy: typing.Any = None
    precision: str = "float32"
    batching: str = "pack"
    seed: int = 12345
    xla: bool = False


class Estimator:
    """Trains, evaluates and predicts with one model.

    Args:
      model_fn: of model_fn.model_fn_builder.
      config: RunConfig.
      params: dict; batch_size is read here, all of it reaches input_fn and model_fn.
    """

    def __init__(self, model_fn, config, params=None):
        self._model_fn = model_fn
        self._config = config
        self._params = dict(params or {})
        self._strategy = config.strategy or make_strategy()
        self._dtype = PRECISIONS[config.precision]
        self._weights = None  # {name: Variable}, float32.
        self._step = None  # int, of what self._weights holds.
        self._scorer = None

    # Training.

    def train(self, input_fn, max_steps):
        """Trains until global step `max_steps`, going on from the newest checkpoint of model_dir.

        Args:
          input_fn: function(params) -> object with step(n), see inputs.batches.TrainingBatches.
          max_steps: int.

        Returns:
          self.

        Raises:
          UserError: the loss is not finite (names the step), or model_dir holds another model.
        """
        config = self._config
        slots, state = self._restore_or_initialize()
        if self._step >= max_steps:
            log.info("global step %d: training is finished, nothing to do", self._step)
            return self
        if self._step:
            log.info("going on from global step %d of %d", self._step, max_steps)
        loss_scale = DynamicLossScale(**state.get("loss_scale", {}))
        seed = state.get("seed", config.seed)
        data = input_fn(self._input_params(seed))
        step_fn = self._training_step(slots)
        optimizer = self._model_fn.optimizer
        batch_size = self._params["batch_size"]
        chief = is_chief(self._strategy)
        progress = _Progress(self._step, max_steps, batch_size, config, chief)

        def save():
            if chief:
                kept = {"seed": seed, "examples": self._step * batch_size}
                if config.precision == "float16":
                    kept["loss_scale"] = loss_scale.state()
                tensors = {name: v.numpy() for name, v in {**self._weights, **slots}.items()}
                # A finite loss can have a gradient that is not, and its update must not be kept.
                broken = [name for name, v in tensors.items() if not np.isfinite(v.sum())]
                if broken:
                    raise UserError(
                        f"{broken[0]} is not finite after step {self._step - 1}; lower "
                        "--learning_rate; the last checkpoint is from before"
                    )
                checkpoints.save(config.model_dir, self._step, tensors, kept)

        with concurrent.futures.ThreadPoolExecutor(1) as ahead, progress:
            waiting = ahead.submit(self._prepared, data, self._step)
            while self._step < max_steps:
                step, shares = self._step, waiting.result()
                waiting = ahead.submit(self._prepared, data, step + 1)
                rate = optimizer.learning_rate(step)
                loss, finite = step_fn(
                    shares,
                    tf.constant([seed & 0x7FFFFFFF, step], tf.int32),
                    tf.constant(rate, tf.float32),
                    tf.constant(loss_scale.scale, tf.float32),
                )
                loss = float(loss)
                self._step += 1
                if config.precision == "float16":
                    loss_scale.update(bool(finite))
                if not math.isfinite(loss):
                    raise UserError(
                        f"the loss is {loss} at step {step}; lower --learning_rate ({rate:g} at "
                        "this step) "
                        "or look for broken values in the data; the last checkpoint is from before"
                    )
                progress.step(self._step, loss, float(rate), loss_scale.skipped)
                if self._step % config.save_checkpoints_steps == 0 or self._step == max_steps:
                    save()
        if loss_scale.skipped:
            log.warning("%d steps were skipped because float16 overflowed", loss_scale.skipped)
        return self

    def _restore_or_initialize(self):
        """Makes weights and slots; returns (slots, state of the checkpoint they come from, {} when
        fresh).
        """
        prefix = checkpoints.latest(self._config.model_dir)
        if prefix:
            values, state = checkpoints.read(prefix, slots=True), checkpoints.read_state(prefix)
            self._step = int(values.get("global_step", 0))
        else:
            values, state = {}, {}
            self._step = 0
        fresh = self._model_fn.initial_weights(state.get("seed", self._config.seed))
        with self._strategy.scope():
            self._weights = {
                name: tf.Variable(self._value_of(name, array, values, prefix), dtype=tf.float32)
                for name, array in fresh.items()
            }
            slots = self._model_fn.optimizer.create_slots(self._weights)
            for name, slot in slots.items():
                if name in values:
                    slot.assign(values[name])
        return slots, state

    def _value_of(self, name, fresh, values, prefix):
        if not prefix:
            return fresh
        if name not in values or values[name].shape != fresh.shape:
            found = f"shape {values[name].shape}" if name in values else "nothing"
            raise UserError(
                f"{prefix}: holds {found} for {name}, this model needs shape {fresh.shape}; "
                "--output_dir is "
                "that of another model, choose an empty folder"
            )
        return values[name]

    def _input_params(self, seed):
        config = self._config
        return {
            "batching": config.batching,
            "seed": seed,
            "num_replicas": self._strategy.num_replicas_in_sync,
            "token_budget": _token_budget(config.precision),
            "static": config.xla or _is_tpu(self._strategy),
            **self._params,
        }

    def _prepared(self, data, step):
        """The step's blocks as tensors: for one replica its list, for several a distributed
        value.
        """
        shares = [[_tensors(block) for block in blocks] for blocks in data.step(step)]
        if len(shares) == 1:
            return shares[0]
        return self._strategy.experimental_distribute_values_from_function(
            lambda context: shares[context.replica_id_in_sync_group]
        )

    def _training_step(self, slots):
        """function(blocks, rng, learning_rate, loss_scale) -> (loss of the step, whether gradients
        were finite).
        """
        scaled = self._config.precision == "float16"
        replicas = self._strategy.num_replicas_in_sync
        optimizer, weights = self._model_fn.optimizer, self._weights

        def replica_step(blocks, rng, learning_rate, loss_scale):
            context = tf.distribute.get_replica_context()
            rng = tf.random.experimental.stateless_fold_in(rng, context.replica_id_in_sync_group)
            counts = [_example_count(block) for block in blocks]
            total = tf.cast(tf.add_n(counts), tf.float32) * replicas
            losses, parts = [], []
            for index, block in enumerate(blocks):
                params = {
                    **self._params,
                    "weights": weights,
                    "dtype": self._dtype,
                    "rng": tf.random.experimental.stateless_fold_in(rng, index),
                }
                with tf.GradientTape() as tape:
                    spec = self._model_fn(block, None, ModeKeys.TRAIN, params)
                    # Each replica and block gives its share, so that the sum is the mean over the
                    # step.
                    loss = spec.loss * (tf.cast(counts[index], tf.float32) / total)
                    target = loss * loss_scale if scaled else loss
                parts.append(tape.gradient(target, weights))
                losses.append(loss)
            gradients = {
                name: _sum_gradients([part[name] for part in parts])
                for name in weights
                if parts[0][name] is not None
            }
            finite = optimizer.apply_gradients(
                gradients, weights, slots, learning_rate, loss_scale if scaled else None
            )
            return tf.add_n(losses), finite

        if replicas == 1:
            return _traced(replica_step, self._config.xla)

        @tf.function(reduce_retracing=True)
        def step(shares, rng, learning_rate, loss_scale):
            losses, finite = self._strategy.run(
                replica_step, (shares, rng, learning_rate, loss_scale)
            )
            loss = self._strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)
            finite = self._strategy.experimental_local_results(finite)[0]
            return loss, finite

        return step

    # Scoring.

    def evaluate(self, input_fn, steps=None, batch_size=None):
        """Scores a whole set.

        Args:
          input_fn: function(params) -> iterable of (indices, batch), see
          inputs.batches.ScoringBatches.
          steps: int or None, stop after so many blocks.
          batch_size: int, of the batches that `loss` is the mean of (default:
          params["batch_size"]).

        Returns:
          dict: the model_fn's metrics, the task's (computed once over all predictions), loss (the
          mean of the batches' mean losses, in batches of params["batch_size"] in file order, as
          tf.estimator), global_step.
        """
        gathered, features, sums = self._score(input_fn, ModeKeys.EVAL, steps)
        result = {name: float(total / count) for name, (total, count) in sums.items()}
        losses = gathered["per_example_loss"].astype(np.float64)
        size = batch_size or self._params["batch_size"]
        means = [losses[start : start + size].mean() for start in range(0, len(losses), size)]
        result["loss"] = float(np.mean(means))
        result["global_step"] = self._step
        result.update(self._model_fn.task.metrics(gathered, features))
        return result

    def predict(self, input_fn):
        """Yields, for each example in input order, a dict {name of a prediction: its value}."""
        gathered, _, _ = self._score(input_fn, ModeKeys.PREDICT, None)
        for index in range(len(next(iter(gathered.values()), ()))):
            yield {name: values[index] for name, values in gathered.items()}

    def _score(self, input_fn, mode, steps):
        """(predictions, features: {name: array [n, ...]} in input order; {metric: [sum,
        count]}).
        """
        self._load_for_scoring()
        if self._scorer is None:
            self._scorer = _Scorer(self._model_fn, self._params, self._config, self._strategy)
        self._scorer.assign(self._weights, self._step)
        data = input_fn(self._input_params(self._config.seed))
        places, outputs, sums = [], [], {}
        for indices, (predictions, metrics) in self._scorer.run(data, mode, steps):
            places.append(indices)
            outputs.append(predictions)
            for name, (total, count) in metrics.items():
                old = sums.get(name, (0.0, 0.0))
                sums[name] = (old[0] + float(total), old[1] + float(count))
        if not places:
            return {}, {}, {}
        places = np.concatenate(places)
        order = np.argsort(places)
        gathered = {
            name: np.concatenate([output[name] for output in outputs])[order] for name in outputs[0]
        }
        features = {name: values[places[order]] for name, values in data.features.columns.items()}
        return gathered, features, sums

    def _load_for_scoring(self):
        """Takes the weights in memory, else the newest checkpoint's, else those that training
        would begin with.
        """
        if self._weights is not None:
            return
        prefix = checkpoints.latest(self._config.model_dir)
        values = checkpoints.read(prefix) if prefix else {}
        self._step = int(values.get("global_step", 0))
        fresh = self._model_fn.initial_weights(self._config.seed)
        self._weights = {
            name: self._value_of(name, array, values, prefix) for name, array in fresh.items()
        }


class _Scorer:
    """The scoring graph on each local device, with its weights; built once, run as often as
    asked.
    """

    def __init__(self, model_fn, params, config, strategy):
        self._model_fn, self._params, self._config = model_fn, params, config
        self._dtype = PRECISIONS[config.precision]
        self._devices = strategy.extended.worker_devices
        self._weights = None
        self._functions = {}
        self._building = threading.Lock()
        self._step = None

    def assign(self, weights, step):
        """Takes over weights {name: Variable or array}, unless they are those of the step that it
        has.
        """
        if self._weights is None:
            self._weights = []
            for device in self._devices:
                with tf.device(device):
                    self._weights.append(
                        {
                            name: tf.Variable(self._cast(name, w), trainable=False)
                            for name, w in weights.items()
                        }
                    )
        elif step != self._step:
            for copies in self._weights:
                for name, weight in weights.items():
                    copies[name].assign(self._cast(name, weight))
        self._step = step

    def run(self, data, mode, steps):
        """Yields (indices, (predictions, metrics)) of each block, in the order of `data`."""
        on_cpu = "CPU" in self._devices[0]
        # One call at a time leaves cores idle between its operations.
        calls = (os.cpu_count() or 1) if on_cpu else 2 * len(self._devices)
        waiting = []
        with concurrent.futures.ThreadPoolExecutor(calls) as pool:
            for number, (indices, batch) in enumerate(data):
                if steps is not None and number >= steps:
                    break
                which = number % len(self._devices)
                waiting.append((indices, pool.submit(self._call, which, _tensors(batch), mode)))
                if len(waiting) > 2 * calls:
                    indices, result = waiting.pop(0)
                    yield indices, result.result()
            for indices, result in waiting:
                yield indices, result.result()

    def _call(self, which, batch, mode):
        with self._building:
            if (which, mode) not in self._functions:
                self._functions[which, mode] = self._build(which, mode)
        with tf.device(self._devices[which]):
            predictions, metrics = self._functions[which, mode](batch)
        return (
            {name: value.numpy() for name, value in predictions.items()},
            {name: (total.numpy(), count.numpy()) for name, (total, count) in metrics.items()},
        )

    def _build(self, which, mode):
        params = {**self._params, "weights": self._weights[which], "dtype": self._dtype}

        def score(batch):
            spec = self._model_fn(batch, None, mode, params)
            return spec.predictions, spec.metrics

        return _traced(score, self._config.xla)

    def _cast(self, name, weight):
        # The head is computed in float32 in every precision.
        value = weight.numpy() if hasattr(weight, "numpy") else weight
        return tf.cast(value, self._dtype if name.startswith("bert/") else tf.float32)


class _Progress:
    """One line on stderr with loss, examples per second and time left (a terminal), summaries for
    TensorBoard.
    """

    def __init__(self, begin, end, batch_size, config, chief):
        self._every, self._batch_size, self._end = config.save_summary_steps, batch_size, end
        if chief:
            self._writer = tf.summary.create_file_writer(config.model_dir)
        else:
            self._writer = tf.summary.create_noop_writer()
        self._bar = tqdm.tqdm(
            initial=begin, total=end, desc="training", unit="step", disable=not sys.stderr.isatty()
        )
        self._since = (begin, time.monotonic())
        self._started = self._since

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.close()
        self._writer.close()

    def step(self, step, loss, rate, skipped):
        begun, then = self._started
        speed = (step - begun) * self._batch_size / max(time.monotonic() - then, 1e-9)
        self._bar.update(1)
        self._bar.set_postfix_str(f"loss {loss:.4f}, {speed:.1f} examples/s", refresh=False)
        if step % self._every and step != self._end:
            return
        begun, then = self._since
        now = time.monotonic()
        speed = (step - begun) * self._batch_size / max(now - then, 1e-9)
        self._since = (step, now)
        if self._bar.disable:
            left = (self._end - step) * self._batch_size / max(speed, 1e-9)
            log.info(
                "step %d of %d: loss %.4f, %.1f examples/s, %d s left",
                step,
                self._end,
                loss,
                speed,
                left,
            )
        with self._writer.as_default(step):
            tf.summary.scalar("loss", loss)
            tf.summary.scalar("learning_rate", rate)
            tf.summary.scalar("examples_per_second", speed)
            if skipped:
                tf.summary.scalar("skipped_steps", skipped)


def _traced(function, xla):
    """A tf.function with one trace for each structure of its arguments, whatever their sizes; with
    xla compiled, which takes a trace for each shape.
    """
    if xla:
        return tf.function(function, jit_compile=True)
    # Scoring calls come from several threads; each structure is to be traced once.
    function, traces, tracing = tf.function(function), {}, threading.Lock()

    def call(*arguments):
        flat = tf.nest.flatten(arguments)
        kinds = tuple((tensor.dtype, tensor.shape.rank) for tensor in flat)
        key = (tuple(_keys(arguments)), kinds)
        with tracing:
            if key not in traces:
                specs = tf.nest.map_structure(
                    lambda tensor: tf.TensorSpec([None] * tensor.shape.rank, tensor.dtype),
                    arguments,
                )
                traces[key] = function.get_concrete_function(*specs)
        return traces[key](*arguments)

    return call


def _keys(structure, path=()):
    """The paths of a structure's leaves."""
    if isinstance(structure, dict):
        for name, value in sorted(structure.items()):
            yield from _keys(value, (*path, name))
    elif isinstance(structure, list | tuple):
        for index, value in enumerate(structure):
            yield from _keys(value, (*path, index))
    else:
        yield path


def _tensors(batch):
    return {name: tf.convert_to_tensor(values) for name, values in batch.items()}


def _example_count(block):
    first = block.get("first_positions")
    return tf.shape(block["input_ids"] if first is None else first)[0]


def _sum_gradients(parts):
    """Sum over blocks; slices stay slices, so that their norm is that of one large block."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], tf.IndexedSlices):
        return tf.IndexedSlices(
            tf.concat([part.values for part in parts], 0),
            tf.concat([part.indices for part in parts], 0),
            parts[0].dense_shape,
        )
    return tf.add_n(parts)


def _token_budget(precision):
    """Tokens a scoring call: below, the call costs more than the work; above, it leaves the
    caches.
    """
    return 1024 if precision == "float32" else 2048


def _is_tpu(strategy):
    return isinstance(strategy, tf.distribute.TPUStrategy)
