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
import re
import signal
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
from bert_tools.inputs.text_features import OWNERS, TEXT_NUMBERS
from bert_tools.optimization import DynamicLossScale

log = logging.getLogger("bert_tools")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
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


class Evaluation(typing.NamedTuple):
    """An evaluation that `Estimator.train` runs while training.

    input_fn: as `Estimator.evaluate` takes it.
    steps: int, every so many global steps, and at the last one; 0: at the last one alone.
    metric: str or None, which value of `evaluate` picks the best checkpoint; higher is better,
      except for names that contain "loss", "mae", "mse" or "false_".
    patience: int or None, after so many evaluations in a row without a gain in `metric` training
      stops.
    batch_size: int or None, see `Estimator.evaluate`.
    """

    input_fn: typing.Any
    steps: int = 0
    metric: str | None = None
    patience: int | None = None
    batch_size: int | None = None


@dataclasses.dataclass
class RunConfig:
    """How an Estimator runs.

    Attributes:
      model_dir: str, where checkpoints and summaries go; None: scores with the weights that
        model_fn begins with.
      save_summary_steps, save_checkpoints_steps: int, every so many steps.
      strategy: tf.distribute.Strategy, or None for distribution.make_strategy().
      precision: "float32", "bfloat16" or "float16", what matrix products are computed in; weights
      stay float32.
      batching: "pack", "bucket" or "pad", see inputs.batches.
      seed: int, of initial weights, order of examples and dropout. A resumed run keeps the seed it
      began with.
      xla: bool, compile the steps (static shapes). On several devices their gradients are
      compiled, and summed and applied outside.
      gradient_accumulation_steps: int, how many parts of a step's examples each device computes one
      after another, for less memory; a step has the same examples, and without dropout the same
      loss and gradient to rounding.
    """

    model_dir: str | None
    save_summary_steps: int = 100
    save_checkpoints_steps: int = 1000
    strategy: typing.Any = None
    precision: str = "float32"
    batching: str = "pack"
    seed: int = 12345
    xla: bool = False
    gradient_accumulation_steps: int = 1


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
        self._best_step = None  # int, of the checkpoint to score with, when a metric picked one.
        self._scorer = None
        self._loading = threading.Lock()

    # Training.

    def train(self, input_fn, max_steps, evaluation=None):
        """Trains until global step `max_steps`, going on from the newest checkpoint of model_dir.

        SIGINT and SIGTERM let it finish the step (and an evaluation that is due), write a
        checkpoint, and raise KeyboardInterrupt or SystemExit(143); a second one acts at once.

        With a metric in `evaluation`, the checkpoint of the best step is kept besides the newest
        ones, and `evaluate` and `predict` use it from then on; further training goes on from the
        last step.

        Args:
          input_fn: function(params) -> object with step(n), see inputs.batches.TrainingBatches.
          max_steps: int.
          evaluation: Evaluation or None. Training goes the same way with it and without, but for
            where it stops.

        Returns:
          self.

        Raises:
          UserError: the loss is not finite (names the step), model_dir holds another model, the
            devices and parts do not divide the batch, or there is no such metric.
        """
        config = self._config
        self.require_divisible_batch()
        best = _Best(evaluation) if evaluation and evaluation.metric else None
        if evaluation and evaluation.patience is not None and not best:
            raise UserError(
                f"--early_stopping_patience={evaluation.patience}: needs a metric to go by; give "
                "--best_metric"
            )
        slots, state = self._restore_or_initialize()
        known = best is not None and best.restore(state.get("evaluation", {}))
        if self._step >= max_steps or (best and best.stopped):
            self._best_step = state.get("evaluation", {}).get("step")
            early = f" ({best})" if best and best.stopped else ""
            log.info("global step %d: training is finished%s, nothing to do", self._step, early)
            return self
        self._best_step = best.step if best else None
        if self._step:
            log.info("going on from global step %d of %d", self._step, max_steps)
        loss_scale = DynamicLossScale(**state.get("loss_scale", {}))
        seed = state.get("seed", config.seed)
        data = input_fn(self._input_params(seed))
        step_fn = self._training_step(slots)
        optimizer = self._model_fn.optimizer
        batch_size = self._params["batch_size"]
        examples = state.get("examples", self._step * batch_size)
        if examples != self._step * batch_size:
            log.warning(
                "--train_batch_size=%d: another one than before; the order of examples goes on as "
                "if it had always been this one",
                batch_size,
            )
        chief = is_chief(self._strategy)
        if chief:
            os.makedirs(config.model_dir, exist_ok=True)
        if chief and best and not known:
            # One block tells which metrics there are, before hours of training.
            best.value_of(self._evaluate_training(evaluation, steps=1))
        progress = _Progress(self._step, max_steps, batch_size, config, chief)

        def evaluate():
            begun = time.monotonic()
            result = self._evaluate_training(evaluation)
            progress.evaluation(self._step, result, time.monotonic() - begun)
            gained = best is not None and best.update(self._step, result)
            self._best_step = best.step if best else None
            return gained

        def save():
            if chief:
                kept = {"seed": seed, "examples": self._step * batch_size}
                if config.precision == "float16":
                    kept["loss_scale"] = loss_scale.state()
                if best:
                    kept["evaluation"] = best.state()
                tensors = {name: v.numpy() for name, v in {**self._weights, **slots}.items()}
                # A finite loss can have a gradient that is not, and its update must not be kept.
                broken = [name for name, v in tensors.items() if not np.isfinite(v.sum())]
                if broken:
                    raise UserError(
                        f"{broken[0]} is not finite after step {self._step}; lower "
                        "--learning_rate; the last checkpoint is from before"
                    )
                checkpoints.save(config.model_dir, self._step, tensors, kept)

        with _Signals() as signals, concurrent.futures.ThreadPoolExecutor(1) as ahead, progress:
            waiting = ahead.submit(self._prepared, data, self._step)
            stop = False
            while self._step < max_steps and not stop:
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
                        f"the loss is {loss} at step {self._step}; lower --learning_rate "
                        f"({rate:g} at this step) or look for broken values in the data; the last "
                        "checkpoint is from before"
                    )
                progress.step(self._step, loss, float(rate), loss_scale.skipped)
                last = self._step == max_steps
                due = evaluation and (
                    last or (evaluation.steps > 0 and self._step % evaluation.steps == 0)
                )
                # Before saving, so that the checkpoint holds what came out.
                gained = due and chief and evaluate()
                stop, *caught = self._any_worker(
                    [bool(best and best.stopped), *(signals.caught == n for n in _SIGNALS)]
                )
                if any(caught):
                    signals.caught, stop = _SIGNALS[caught.index(True)], True
                    log.warning("%s: stopping after step %d", signals.caught.name, self._step)
                if gained or stop or last or self._step % config.save_checkpoints_steps == 0:
                    save()
        if best and best.stopped:
            log.info("global step %d: %s", self._step, best)
        if loss_scale.skipped:
            log.warning("%d steps were skipped because float16 overflowed", loss_scale.skipped)
        return self

    def require_divisible_batch(self):
        """Raises UserError unless devices and parts divide params["batch_size"]; `train` does so
        too.
        """
        replicas = self._strategy.num_replicas_in_sync
        parts = self._config.gradient_accumulation_steps
        if self._params["batch_size"] % (replicas * parts):
            raise UserError(
                f"--train_batch_size={self._params['batch_size']}: {replicas} devices and "
                f"--gradient_accumulation_steps={parts} share a step; give a multiple of "
                f"{replicas * parts}"
            )

    def _any_worker(self, flags):
        """For each of the flags whether any worker has it set: all have to stop at one step."""
        if not isinstance(self._strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return flags
        votes = self._strategy.run(tf.identity, (tf.constant(flags, tf.float32),))
        votes = self._strategy.reduce(tf.distribute.ReduceOp.SUM, votes, axis=None)
        return [bool(vote) for vote in votes.numpy() > 0]

    def _restore_or_initialize(self):
        """Makes weights and slots; returns (slots, state of the checkpoint they come from, {} when
        fresh).
        """
        found = checkpoints.read_newest(self._config.model_dir)
        prefix, values, state = found or (None, {}, {})
        self._step = int(values.get("global_step", 0))
        fresh = self._model_fn.initial_weights(state.get("seed", self._config.seed))
        optimizer = self._model_fn.optimizer
        with self._strategy.scope():
            self._weights = {
                name: tf.Variable(
                    self._value_of(name, array, values, prefix),
                    # No tape looks at what is not trained.
                    trainable=optimizer.trains(name),
                    dtype=tf.float32,
                )
                for name, array in fresh.items()
            }
            slots = optimizer.create_slots(self._weights)
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
        packs = config.batching != "pack" or getattr(self._model_fn, "packs", True)
        return {
            "batching": config.batching if packs else "bucket",
            "seed": seed,
            # For the data, a part that is computed later is the same as another device.
            "num_replicas": self._strategy.num_replicas_in_sync
            * config.gradient_accumulation_steps,
            "token_budget": _token_budget(config.precision),
            "static": config.xla or _is_tpu(self._strategy),
            **self._params,
        }

    def _prepared(self, data, step):
        """The step's parts, each its blocks as tensors: for one replica a list, for several a
        distributed value.
        """
        shares = [[_tensors(block) for block in blocks] for blocks in data.step(step)]
        replicas = self._strategy.num_replicas_in_sync
        if replicas == 1:
            return shares
        return [
            self._strategy.experimental_distribute_values_from_function(
                lambda context, part=part: part[context.replica_id_in_sync_group]
            )
            for part in (shares[at : at + replicas] for at in range(0, len(shares), replicas))
        ]

    def _training_step(self, slots):
        """function(parts, rng, learning_rate, loss_scale) -> (loss of the step, whether gradients
        were finite).
        """
        config = self._config
        scaled = config.precision == "float16"
        replicas = self._strategy.num_replicas_in_sync
        parts = config.gradient_accumulation_steps
        optimizer, weights = self._model_fn.optimizer, self._weights
        trained = {name: weight for name, weight in weights.items() if optimizer.trains(name)}
        compares = getattr(self._model_fn.task, "compares_texts", False)
        # Texts that are compared with those of other blocks, parts or devices.
        across = compares and (replicas > 1 or parts > 1 or config.batching == "bucket")

        def training_params(rng, index):
            return {
                **self._params,
                "weights": weights,
                "dtype": self._dtype,
                "rng": tf.random.experimental.stateless_fold_in(rng, index),
                "examples": self._params["batch_size"] // (replicas * parts),
            }

        def differentiate(blocks, rng, loss_scale, wanted=None):
            """(loss, gradients) of a share, which sum over all shares to those of the step.

            wanted: the gradient of the step's loss by the vectors of the share's texts, where
            these are compared across shares; the loss is then not that of the examples.
            """
            counts = [_example_count(block) for block in blocks]
            total = tf.cast(tf.add_n(counts), tf.float32) * (replicas * parts)
            losses, found = [], []
            for index, block in enumerate(blocks):
                params = training_params(rng, index)
                with tf.GradientTape() as tape:
                    if wanted is None:
                        spec = self._model_fn(block, None, ModeKeys.TRAIN, params)
                        # Each share and block gives its part, so that the sum is the mean over
                        # the step.
                        loss = spec.loss * (tf.cast(counts[index], tf.float32) / total)
                        target = loss * loss_scale if scaled else loss
                    else:
                        vectors = self._model_fn.vectors(block, ModeKeys.TRAIN, params)
                        target = loss = tf.reduce_sum(vectors * tf.gather(wanted, block["places"]))
                found.append(tape.gradient(target, trained))
                losses.append(loss)
            gradients = {
                name: _sum_gradients([gradients[name] for gradients in found])
                for name in trained
                if found[0][name] is not None
            }
            return tf.add_n(losses), gradients

        if config.xla and replicas > 1 and not _is_tpu(self._strategy):
            # What sums over CPU devices cannot be compiled along.
            differentiate = tf.function(differentiate, autograph=False, jit_compile=True)

        def share_rng(rng, part):
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            return tf.random.experimental.stateless_fold_in(rng, part * replicas + replica)

        def total_loss(loss):
            if replicas == 1:
                return loss
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, loss)

        def apply(gradients, learning_rate, loss_scale, squares=None):
            return optimizer.apply_gradients(
                gradients, weights, slots, learning_rate, loss_scale if scaled else None, squares
            )

        def whole(blocks, rng, learning_rate, loss_scale):
            loss, gradients = differentiate(blocks, share_rng(rng, 0), loss_scale)
            return total_loss(loss), apply(gradients, learning_rate, loss_scale)

        if parts == 1 and not across:
            whole = self._on_replicas(whole)

            def step(shares, rng, learning_rate, loss_scale):
                loss, finite = whole(shares[0], rng, learning_rate, loss_scale)
                return self._first(loss), self._first(finite)

            return step

        with self._strategy.scope():
            sums = {
                name: tf.Variable(
                    tf.zeros(weight.shape),
                    trainable=False,
                    # Each replica has its own.
                    synchronization=tf.VariableSynchronization.ON_READ,
                    aggregation=tf.VariableAggregation.SUM,
                )
                for name, weight in trained.items()
            }
        reached = set()  # Names with a gradient at all, noted when `accumulate` is traced.

        def add(gradients):
            reached.update(gradients)
            for name, gradient in gradients.items():
                sums[name].assign_add(tf.convert_to_tensor(gradient))
            return optimizer.squares_of_slices(gradients)

        def accumulate(blocks, rng, part, loss_scale):
            loss, gradients = differentiate(blocks, share_rng(rng, part), loss_scale)
            return total_loss(loss), add(gradients)

        def accumulate_wanted(blocks, rng, part, loss_scale, wanted):
            return add(differentiate(blocks, share_rng(rng, part), loss_scale, wanted)[1])

        def embed(blocks, rng, part):
            """The vectors of a share's texts and what their objective is told, in order."""
            rng, task = share_rng(rng, part), self._model_fn.task
            return in_places(
                [block["places"] for block in blocks],
                [
                    self._model_fn.vectors(block, ModeKeys.TRAIN, training_params(rng, index))
                    for index, block in enumerate(blocks)
                ],
                [{n: b[n] for n in task.label_columns if n in b} for b in blocks],
            )

        def compare(found, loss_scale):
            """(loss of the step, its gradients by the vectors of each of this device's parts)."""
            context = tf.distribute.get_replica_context()
            own = tf.nest.map_structure(lambda *several: tf.concat(several, 0), *found)
            vectors, columns = own if replicas == 1 else context.all_gather(own, 0)
            with tf.GradientTape() as tape:
                tape.watch(vectors)
                losses, _ = self._model_fn.task.compare(
                    weights, vectors, columns, self._params["batch_size"]
                )
                loss = tf.reduce_mean(losses)
                target = loss * loss_scale if scaled else loss
            wanted, of_head = tape.gradient(target, (vectors, trained))
            # Every device finds those of the whole step, and they are summed over devices.
            add({name: g / replicas for name, g in of_head.items() if g is not None})
            wanted = tf.reshape(wanted, [replicas, parts, -1, tf.shape(vectors)[-1]])
            return loss, tf.unstack(wanted[context.replica_id_in_sync_group])

        def finish(squares, learning_rate, loss_scale):
            # What is read from a variable has no device, which a sum over several workers asks for.
            gradients = {
                name: tf.identity(value) for name, value in sums.items() if name in reached
            }
            squares = {name: tf.add_n([part[name] for part in squares]) for name in squares[0]}
            finite = apply(gradients, learning_rate, loss_scale, squares)
            for name, gradient in gradients.items():
                sums[name].assign(tf.zeros_like(gradient))
            return finite

        accumulate, finish = self._on_replicas(accumulate), self._on_replicas(finish)
        embed, compare = self._on_replicas(embed), self._on_replicas(compare)
        accumulate_wanted = self._on_replicas(accumulate_wanted)

        def step_across_parts(shares, rng, learning_rate, loss_scale):
            """The gradients by the vectors are kept, and each part is computed once more to hand
            them on to the weights, so that no more than one part's activations are held (GradCache,
            Gao et al. 2021, https://arxiv.org/abs/2101.06983).
            """
            numbers = [tf.constant(part) for part in range(parts)]
            found = [embed(blocks, rng, part) for part, blocks in zip(numbers, shares, strict=True)]
            loss, wanted = compare(found, loss_scale)
            squares = [
                accumulate_wanted(blocks, rng, part, loss_scale, one)
                for part, blocks, one in zip(numbers, shares, wanted, strict=True)
            ]
            finite = finish(squares, learning_rate, loss_scale)
            return self._first(loss), self._first(finite)

        def step_in_parts(shares, rng, learning_rate, loss_scale):
            results = [
                accumulate(blocks, rng, tf.constant(part), loss_scale)
                for part, blocks in enumerate(shares)
            ]
            finite = finish([squares for _, squares in results], learning_rate, loss_scale)
            return tf.add_n([self._first(loss) for loss, _ in results]), self._first(finite)

        return step_across_parts if across else step_in_parts

    def _on_replicas(self, function):
        """The function traced to run on each replica; for several its results are per replica."""
        if self._strategy.num_replicas_in_sync == 1:
            return _traced(function, self._config.xla)
        return tf.function(
            lambda *arguments: self._strategy.run(function, arguments),
            autograph=False,
            reduce_retracing=True,
        )

    def _first(self, value):
        """This process's first replica's value."""
        return self._strategy.experimental_local_results(value)[0]

    # Scoring.

    def evaluate(self, input_fn, steps=None, batch_size=None, on_scored=None):
        """Scores a whole set.

        Args:
          input_fn: function(params) -> iterable of (indices, batch), see
          inputs.batches.ScoringBatches.
          steps: int or None, stop after so many blocks; without effect where texts are compared.
          batch_size: int, of the batches that `loss` is the mean of (default:
          params["batch_size"]).
          on_scored: function(predictions, features) or None; it is given what the task's metrics
            are computed from, dicts {name: array [n, ...]} in input order.

        Returns:
          dict: the model_fn's metrics, the task's (computed once over all predictions; a table
          among them is a list or dict), loss (the mean of the batches' mean losses, in batches of
          params["batch_size"] in file order, as tf.estimator), global_step.
        """
        self.load_for_scoring()
        return self._evaluate(input_fn, steps, batch_size, on_scored)

    def _evaluate_training(self, evaluation, steps=None):
        """`evaluate` with the weights that are being trained."""
        self._give_scorer(self._weights, self._step)
        return self._evaluate(evaluation.input_fn, steps, evaluation.batch_size)

    def _evaluate(self, input_fn, steps, batch_size, on_scored=None):
        size = batch_size or self._params["batch_size"]
        compares = getattr(self._model_fn.task, "compares_texts", False)
        # Of what is compared, a part says nothing.
        gathered, features, sums = self._score(input_fn, ModeKeys.EVAL, None if compares else steps)
        if compares:
            gathered.update(self._scorer.compare(gathered["vectors"], features, size))
        result = {name: float(total / count) for name, (total, count) in sums.items()}
        if "per_example_loss" in gathered:
            losses = gathered["per_example_loss"].astype(np.float64)
            means = [losses[start : start + size].mean() for start in range(0, len(losses), size)]
            result["loss"] = float(np.mean(means))
            if compares:
                result["eval_loss"] = float(np.mean(losses))
        result["global_step"] = self._scorer.step
        result.update(self._model_fn.task.metrics(gathered, features))
        if on_scored:
            on_scored(gathered, features)
        return result

    def predict(self, input_fn, parallel=True):
        """Yields, for each example in input order, a dict {name of a prediction: its value}.

        Args:
          input_fn: as `evaluate` takes it.
          parallel: bool, one call in flight a core. False computes in the calling thread: for
            callers that run several predictions at once.
        """
        self.load_for_scoring()
        gathered, _, _ = self._score(input_fn, ModeKeys.PREDICT, None, parallel)
        gathered.pop("per_example_loss", None)  # Of labels that there are none of.
        for index in range(len(next(iter(gathered.values()), ()))):
            yield {name: values[index] for name, values in gathered.items()}

    def _score(self, input_fn, mode, steps, parallel=True):
        """(predictions, features: {name: array [n, ...]} in input order; {metric: (sum,
        count)}).
        """
        data = input_fn(self._input_params(self._config.seed))
        places, outputs, sums = [], [], {}
        for indices, (predictions, metrics) in self._scorer.run(data, mode, steps, parallel):
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
        if "example_index" in features:
            gathered, features = self._joined_windows(gathered, features)
            if "per_example_loss" in gathered:
                losses = gathered["per_example_loss"]
                sums = {"eval_loss": (losses.sum(), len(losses))}
        if OWNERS in features:
            starts = np.flatnonzero(np.diff(features[OWNERS], prepend=-1))
            gathered = {
                name: values.reshape(len(starts), -1, *values.shape[1:])
                for name, values in gathered.items()
            }
            numbers = features.pop(TEXT_NUMBERS).reshape(len(starts), -1)
            features = {name: values[starts] for name, values in features.items()}
            features[TEXT_NUMBERS] = numbers
        return gathered, features, sums

    def _joined_windows(self, gathered, features):
        """Windows of one text as one example: the mean of their predictions."""
        owners = features["example_index"]
        starts = np.flatnonzero(np.diff(owners, prepend=-1))
        counts = np.diff(starts, append=len(owners))
        means = {}
        for name, values in gathered.items():
            sums = np.add.reduceat(values.astype(np.float64), starts)
            mean = sums / counts.reshape(-1, *[1] * (values.ndim - 1))
            means[name] = mean.astype(np.float32)
        features = {name: values[starts] for name, values in features.items()}
        return self._model_fn.task.combine_windows(means), features

    def load_for_scoring(self):
        """Gives the scorer the weights in memory, unless a metric picked others; without any the
        best or newest checkpoint's, else those that training would begin with.
        """
        with self._loading:
            self._load_once()

    def _load_once(self):
        if self._weights is not None and self._best_step in (None, self._step):
            self._give_scorer(self._weights, self._step)
            return
        if self._scorer is not None and self._best_step in (None, self._scorer.step):
            return
        self._give_scorer(*self.stored_weights())

    def stored_weights(self):
        """({name: float32 array}, global step) of the best or newest checkpoint, else what training
        would begin with.
        """
        prefix, values = checkpoints.read_best(self._config.model_dir) or (None, {})
        fresh = self._model_fn.initial_weights(self._config.seed)
        weights = {
            name: self._value_of(name, array, values, prefix) for name, array in fresh.items()
        }
        return weights, int(values.get("global_step", 0))

    def _give_scorer(self, weights, step):
        if self._scorer is None:
            self._scorer = _Scorer(self._model_fn, self._params, self._config, self._strategy)
        self._scorer.assign(weights, step)


def in_places(places, values, columns):
    """What blocks hold of a share's texts, in the share's order.

    Args:
      places: list of int32 Tensors [n], see inputs.batches.TrainingBatches, one a block.
      values: list of Tensors [n, ...].
      columns: list of dicts {name: Tensor [n, ...]}.

    Returns:
      (Tensor [texts, ...], {name: Tensor [texts, ...]}).
    """
    order = tf.math.invert_permutation(tf.concat(places, 0))
    values, columns = tf.nest.map_structure(
        lambda *parts: tf.gather(tf.concat(parts, 0), order),
        *zip(values, columns, strict=True),
    )
    return values, columns


def scalars(result):
    """The part of an evaluation's result that is numbers: no confusion matrix, no table."""
    return {name: value for name, value in result.items() if not isinstance(value, list | dict)}


class _Best:
    """Which evaluation was the best so far, and how many have come since; a checkpoint's state has
    it under "evaluation".

    Attributes:
      step: int or None, of the best one.
      stopped: bool, whether patience ran out.
    """

    def __init__(self, evaluation):
        self._metric, self._patience = evaluation.metric, evaluation.patience
        self._sign = -1 if re.search("loss|mae|mse|false_", self._metric.lower()) else 1
        self._best, self.step, self._without_gain, self.stopped = None, None, 0, False

    def __str__(self):
        best = "none was finite" if self.step is None else f"best {self._best:g} at {self.step}"
        return (
            f"stopped early after {self._without_gain} evaluations without a gain in "
            f"{self._metric}, {best}"
        )

    def restore(self, kept):
        """Goes on from `state`; returns whether it was of the same metric, else starts anew."""
        if kept.get("metric") != self._metric:
            return False
        self._best, self.step = kept["best"], kept["step"]
        self._without_gain = kept["without_gain"]
        # With more patience, or none, a run that stopped goes on.
        self.stopped = kept["stopped"] and self._exhausted()
        return True

    def state(self):
        return {
            "metric": self._metric,
            "best": self._best,
            "step": self.step,
            "without_gain": self._without_gain,
            "stopped": self.stopped,
        }

    def value_of(self, result):
        """The metric's value in the result of an evaluation.

        Raises:
          UserError: there is no such metric.
        """
        names = scalars(result).keys() - {"global_step"}
        if self._metric not in names:
            names = ", ".join(sorted(names))
            raise UserError(
                f"--best_metric={self._metric}: no such metric; this task's are {names}"
            )
        return float(result[self._metric])

    def update(self, step, result):
        """Takes note of an evaluation; returns whether it is the best so far."""
        value = self.value_of(result)
        gained = math.isfinite(value) and (
            self._best is None or self._sign * value > self._sign * self._best
        )
        if gained:
            self._best, self.step, self._without_gain = value, step, 0
        else:
            self._without_gain += 1
            self.stopped = self._exhausted()
        return gained

    def _exhausted(self):
        return self._patience is not None and self._without_gain >= self._patience


class _Signals:
    """Holds SIGINT and SIGTERM back; the first one is in `caught` and is raised at the end, a
    second one of its kind does what it did before.

    What is ignored stays ignored, and outside the main thread, where handlers cannot be set,
    nothing is held back.
    """

    def __init__(self):
        self.caught = None
        self._previous = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                previous = signal.getsignal(number)
                # None: a handler that is not Python's.
                if previous not in (None, signal.SIG_IGN):
                    self._previous[number] = previous
                    signal.signal(number, self._hold)
        return self

    def __exit__(self, kind, *_):
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        if kind is None and self.caught == signal.SIGINT:
            raise KeyboardInterrupt
        if kind is None and self.caught is not None:
            raise SystemExit(128 + self.caught)

    def _hold(self, number, _):
        signal.signal(number, self._previous[number])
        self.caught = number


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
        self.step = None  # int, of the weights that it has.

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
        elif step != self.step:
            for copies in self._weights:
                for name, weight in weights.items():
                    copies[name].assign(self._cast(name, weight))
        self.step = step

    def compare(self, vectors, features, batch_size):
        """The task's objective on vectors [n, texts, width], in batches: {name: array [n]}; {}
        where it cannot be computed on such examples.
        """
        task, weights = self._model_fn.task, self._weights[0]
        if not task.can_compare(vectors.shape[1], features):
            return {}
        columns = {name: features[name] for name in task.label_columns if name in features}
        found = []
        for start in range(0, len(vectors), batch_size):
            part = vectors[start : start + batch_size]
            texts = part.shape[1]
            told = {
                name: tf.repeat(values[start : start + batch_size], texts, axis=0)
                for name, values in columns.items()
            }
            flat = tf.constant(part.reshape(len(part) * texts, -1))
            losses, predictions = task.compare(weights, flat, told, len(part))
            found.append({"per_example_loss": losses, **predictions})
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]}

    def run(self, data, mode, steps, parallel):
        """Yields (indices, (predictions, metrics)) of each block, in the order of `data`."""
        if not parallel:
            for indices, batch in data:
                yield indices, self._call(0, _tensors(batch), mode)
            return
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

    def evaluation(self, step, result, seconds):
        """Reports an evaluation that took so long, which is not training's time."""
        self._since = (self._since[0], self._since[1] + seconds)
        self._started = (self._started[0], self._started[1] + seconds)
        result = scalars(result)
        result.pop("global_step")
        values = ", ".join(f"{name} {value:.6g}" for name, value in sorted(result.items()))
        self._bar.clear()
        log.info("evaluation at step %d of %d: %s", step, self._end, values)
        with self._writer.as_default(step):
            for name, value in result.items():
                tf.summary.scalar(f"eval/{name}", value)


def _traced(function, xla):
    """A tf.function with one trace for each structure of its arguments, whatever their sizes; with
    xla compiled, which takes a trace for each shape.

    autograph=False, here and wherever a graph is made: no branch hangs on a tensor, and rewriting
    the code takes longer than tracing it.
    """
    if xla:
        return tf.function(function, autograph=False, jit_compile=True)
    # Scoring calls come from several threads; each structure is to be traced once.
    function, traces, tracing = tf.function(function, autograph=False), {}, threading.Lock()

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
