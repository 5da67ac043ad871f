"""A second opinion on what a search found: a model of pairs, which run_reg trained."""

import numpy as np

from bert_tools import hub
from bert_tools.errors import UserError
from bert_tools.estimator import Estimator, RunConfig
from bert_tools.inputs.batches import input_fn_builder
from bert_tools.inputs.examples import InputExample
from bert_tools.inputs.features import convert_examples_to_features
from bert_tools.model_fn import model_fn_builder
from bert_tools.tasks.regress import Regression


class Reranker:
    """Scores pairs with a model of run_reg.

    Args:
      handle: str, its output_dir.
      precision: see RunConfig.
      flag: str, the flag that names it, for errors.

    Attributes:
      value_range: (low, high) of its values, or None where it does not say; 0..1 with a sigmoid.

    Raises:
      UserError: it cannot be loaded, or is none of run_reg's.
    """

    def __init__(self, handle, precision="float32", flag="rerank"):
        model = hub.load(handle)
        task = model.meta.get("task")
        if task != Regression.name or "output_weights" not in model.weights:
            what = f"its task is {task}" if task else "it says no task"
            raise UserError(
                f"--{flag}={handle}: expected a model that run_reg trained, {what}; give the "
                "output_dir of one"
            )
        value_range, sigmoid = (
            model.meta.get("value_range"),
            model.meta.get("use_sigmoid_act", True),
        )
        self.value_range = tuple(value_range) if value_range else (0.0, 1.0) if sigmoid else None
        regression = Regression(
            sigmoid,
            value_range and tuple(value_range),
            pooling=model.meta.get("head_pooling", "pooled"),
        )
        regression.separator_id = model.tokenizer.sep_id
        model_fn = model_fn_builder(model.config, None, model.weights, task=regression)
        self._estimator = Estimator(model_fn, RunConfig(None, precision=precision))
        self._tokenizer = model.tokenizer
        self._width = model.meta.get("max_seq_length", 128)

    def scores(self, pairs):
        """The model's value of each pair.

        Args:
          pairs: list of (str, str).

        Returns:
          float64 array [pairs].
        """
        if not pairs:
            return np.zeros(0)
        examples = [InputExample(str(place), *pair) for place, pair in enumerate(pairs)]
        features = convert_examples_to_features(examples, None, self._width, self._tokenizer)
        found = self._estimator.predict(input_fn_builder(features, self._width, False))
        return np.array([one["output"] for one in found], np.float64)
