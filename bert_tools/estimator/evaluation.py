"""Evaluations while training: which checkpoint is the best, and when there is no gain any more."""

import math
import re
import typing

from bert_tools.errors import UserError


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


class Best:
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


def scalars(result):
    """The part of an evaluation's result that is numbers: no confusion matrix, no table."""
    return {name: value for name, value in result.items() if not isinstance(value, list | dict)}
