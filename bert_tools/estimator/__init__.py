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
import threading
import time

import numpy as np
import tensorflow as tf

from bert_tools import checkpoints
from bert_tools.distribution import is_chief, is_tpu, make_strategy
from bert_tools.errors import UserError
from bert_tools.estimator.evaluation import Best, Evaluation
from bert_tools.estimator.progress import Progress
from bert_tools.estimator.scorer import Scorer
from bert_tools.estimator.signals import SIGNALS, Signals
from bert_tools.estimator.spec import EstimatorSpec, ModeKeys, RunConfig
from bert_tools.estimator.tracing import tensors
from bert_tools.estimator.training_step import training_step
from bert_tools.inputs.text_features import OWNERS, TEXT_NUMBERS
from bert_tools.optimization import DynamicLossScale

log = logging.getLogger("bert_tools")

__all__ = ["Estimator", "EstimatorSpec", "Evaluation", "ModeKeys", "RunConfig"]


class Estimator:
    """Trains, evaluates and predicts with one model.

    Args:
      model_fn: of model_fn.model_fn_builder.
      config: RunConfig.
      params: dict; batch_size is read here, all of it reaches input_fn and model_fn.
    """

    def __init__(self, model_fn, config, params=None):
        self._model_fn = model_fn
        if config.batching == "pack" and not getattr(model_fn, "packs", True):
            config = dataclasses.replace(config, batching="bucket")
        self._config = config
        self._params = dict(params or {})
        self._strategy = config.strategy or make_strategy()
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
        best = Best(evaluation) if evaluation and evaluation.metric else None
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
        step_fn = training_step(
            self._model_fn, self._strategy, config, self._params, self._weights, slots
        )
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
        progress = Progress(self._step, max_steps, batch_size, config, chief)

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

        with Signals() as signals, concurrent.futures.ThreadPoolExecutor(1) as ahead, progress:
            waiting = ahead.submit(self._prepared, data, self._step)
            stop = False
            while self._step < max_steps and not stop:
                step, shares = self._step, waiting.result()
                waiting = ahead.submit(self._prepared, data, step + 1)
                coefficients = optimizer.coefficients(step)
                rate = float(coefficients[0])
                loss, finite = step_fn(
                    shares,
                    tf.constant([seed & 0x7FFFFFFF, step], tf.int32),
                    tf.constant(coefficients),
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
                progress.step(self._step, loss, rate, loss_scale.skipped)
                last = self._step == max_steps
                due = evaluation and (
                    last or (evaluation.steps > 0 and self._step % evaluation.steps == 0)
                )
                # Before saving, so that the checkpoint holds what came out.
                gained = due and chief and evaluate()
                stop, *caught = self._any_worker(
                    [bool(best and best.stopped), *(signals.caught == n for n in SIGNALS)]
                )
                if any(caught):
                    signals.caught, stop = SIGNALS[caught.index(True)], True
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
        return {
            "batching": config.batching,
            "seed": seed,
            # For the data, a part that is computed later is the same as another device.
            "num_replicas": self._strategy.num_replicas_in_sync
            * config.gradient_accumulation_steps,
            "token_budget": _token_budget(config.precision),
            "static": config.xla or is_tpu(self._strategy),
            **self._params,
        }

    def _prepared(self, data, step):
        """The step's parts, each its blocks as tensors: for one replica a list, for several a
        distributed value.
        """
        shares = [[tensors(block) for block in blocks] for blocks in data.step(step)]
        replicas = self._strategy.num_replicas_in_sync
        if replicas == 1:
            return shares
        return [
            self._strategy.experimental_distribute_values_from_function(
                lambda context, part=part: part[context.replica_id_in_sync_group]
            )
            for part in (shares[at : at + replicas] for at in range(0, len(shares), replicas))
        ]

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
          batch_size in file order, as tf.estimator), global_step.
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
        for name, values in gathered.items():
            if values.dtype.kind == "f" and not np.isfinite(values.sum()):
                raise UserError(
                    f"the model's {name} are not finite at step {self._scorer.step}; lower "
                    "--learning_rate, or take a checkpoint from before"
                )
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
            self._scorer = Scorer(self._model_fn, self._params, self._config, self._strategy)
        self._scorer.assign(weights, step)


def _token_budget(precision):
    """Tokens a scoring call: below, the call costs more than the work; above, it leaves the
    caches.
    """
    return 1024 if precision == "float32" else 2048
