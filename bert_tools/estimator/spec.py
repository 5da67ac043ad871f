"""What a model_fn is told and returns, and how an Estimator runs, by tf.estimator's names."""

import dataclasses
import typing

import tensorflow as tf

from bert_tools.errors import UserError

_PRECISIONS = {"float32": tf.float32, "bfloat16": tf.bfloat16, "float16": tf.float16}


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

    def __post_init__(self):
        compute_dtype(self.precision)


def compute_dtype(precision):
    """The dtype that matrix products are computed in, of a RunConfig's precision.

    Raises:
      UserError: there is no such precision.
    """
    if precision not in _PRECISIONS:
        names = ", ".join(_PRECISIONS)
        raise UserError(f"precision={precision}: no such precision; expected one of {names}")
    return _PRECISIONS[precision]
