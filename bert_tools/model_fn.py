"""model_fn_builder: an encoder and a task, as the model_fn that Estimator trains, evaluates and
predicts with.
"""

import numpy as np
import tensorflow as tf

from bert_tools import encoder
from bert_tools.errors import UserError
from bert_tools.estimator import EstimatorSpec, ModeKeys
from bert_tools.optimization import create_optimizer


def model_fn_builder(
    bert_config, task, init_weights=None, learning_rate=5e-5, num_train_steps=0, num_warmup_steps=0
):
    """Returns `model_fn` closure for Estimator.

    Args:
      bert_config: BertConfig.
      task: an object of bert_tools.tasks (Regression).
      init_weights: {Google's name: array} to start from, as hub.load gives them; what is missing
        (a new head, a pooler) is drawn fresh from the run's seed.
      learning_rate: float, the peak.
      num_train_steps, num_warmup_steps: int, for training.

    Returns:
      model_fn(features, labels, mode, params) -> EstimatorSpec. `features` is the dict of
      inputs.batches.assemble; params holds weights {name: Tensor}, dtype, and in training rng.
      model_fn makes no variables; what
      Estimator needs beside it are its attributes: initial_weights(seed) -> {name: float32 array},
      optimizer, and task.
    """
    init_weights = init_weights or {}

    def model_fn(features, labels, mode, params):
        del labels  # They are among the features, as in the original.
        weights, rng = params["weights"], params.get("rng")
        rng = rng if mode == ModeKeys.TRAIN else None
        output = encoder.encode(bert_config, weights, features, rng, params["dtype"])
        pooled_output = tf.cast(output.pooled_output, tf.float32)
        if rng is not None:
            # 0.1 in every script of the original, whatever the config says of the encoder.
            place = tf.random.experimental.stateless_fold_in(rng, 0)
            pooled_output = encoder.dropout(pooled_output, 0.1, place)
        per_example_loss, predictions = task.apply(weights, pooled_output, features)
        predictions["per_example_loss"] = per_example_loss
        return EstimatorSpec(
            loss=tf.reduce_mean(per_example_loss),
            predictions=predictions,
            metrics={"eval_loss": (tf.reduce_sum(per_example_loss), tf.size(per_example_loss))},
        )

    def initial_weights(seed):
        weights = {}
        fresh = encoder.initial_weights(
            bert_config, seed, wanted=lambda name: name not in init_weights
        )
        for name, shape in encoder.weight_shapes(bert_config).items():
            weights[name] = init_weights.get(name, fresh.get(name))
            _require_shape(name, weights[name], shape)
        for index, (name, shape) in enumerate(task.head_shapes(bert_config).items()):
            if name in init_weights:
                weights[name] = init_weights[name]
                _require_shape(name, weights[name], shape)
            elif "bias" in name:
                weights[name] = np.zeros(shape, np.float32)
            else:
                weights[name] = encoder.truncated_normal(shape, 0.02, (seed, -1 - index))
        return weights

    model_fn.initial_weights = initial_weights
    model_fn.optimizer = create_optimizer(learning_rate, num_train_steps, num_warmup_steps)
    model_fn.task = task
    return model_fn


def _require_shape(name, array, shape):
    if tuple(array.shape) != tuple(shape):
        raise UserError(
            f"the checkpoint's {name} has shape {tuple(array.shape)}, this task and config need "
            f"{tuple(shape)}; "
            "choose the checkpoint of the encoder, or of a model of the same task"
        )
