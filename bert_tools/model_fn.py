"""model_fn_builder: an encoder and a task, as the model_fn that Estimator trains, evaluates and
predicts with.
"""

import functools

import numpy as np
import tensorflow as tf

from bert_tools import encoder
from bert_tools.errors import UserError
from bert_tools.estimator.spec import EstimatorSpec, ModeKeys
from bert_tools.estimator.training_step import in_places
from bert_tools.hub import google, saved_graph
from bert_tools.optimization import create_optimizer, layerwise_factor
from bert_tools.sentence import pooling
from bert_tools.tasks import classify, regress


def model_fn_builder(
    bert_config,
    num_labels,
    init_checkpoint=None,
    learning_rate=5e-5,
    num_train_steps=0,
    num_warmup_steps=0,
    *,
    task=None,
    layerwise_lr_decay=1.0,
    freeze_encoder=False,
    correct_bias=False,
):
    """Returns `model_fn` closure for Estimator.

    Args:
      bert_config: BertConfig.
      num_labels: int, 1 for regression; not read when `task` is given.
      init_checkpoint: str, the prefix of a checkpoint to start from; or {Google's name: array}, as
        hub.load gives them. What is missing (a new head, a pooler) is drawn fresh from the run's
        seed.
      learning_rate: float, the peak.
      num_train_steps, num_warmup_steps: int, for training.
      task: an object of bert_tools.tasks, applied to what its pooling names (tasks.heads), or
        where it has reads_tokens to every token's vector, with dropout of its dropout_rate (0.1)
        before; one that compares_texts makes vectors of texts and compares them (tasks.siamese).
        Weights of a new head begin with its initial_values(config) {name: array}, others as
        biases 0, as matrices random.
        None: Regression(), or Classification with the labels 0, 1, ... where num_labels is more
        than 1.
      layerwise_lr_decay: float, see optimization.layerwise_factor; 1.0 is one rate for all.
      freeze_encoder: bool, trains the task's weights alone and leaves all of bert/ as it is.
      correct_bias: bool, see optimization.AdamWeightDecayOptimizer.

    Returns:
      model_fn(features, labels, mode, params) -> EstimatorSpec. `features` is the dict of
      inputs.batches.assemble; params holds weights {name: Tensor}, dtype, and in training rng and
      examples (int, how many `features` are of).
      model_fn makes no variables; what
      Estimator needs beside it are its attributes: initial_weights(seed) -> {name: float32 array},
      optimizer, task, packs: whether it takes packed rows, and vectors(features, mode, params) ->
      float32 Tensor [texts, width] for a task that compares_texts.

    Raises:
      UserError: with freeze_encoder, the task has no weights of its own.
    """
    if task is None:
        one = num_labels == 1
        task = regress.Regression() if one else classify.Classification(range(num_labels))
    init_weights = init_checkpoint or {}
    if isinstance(init_weights, str):
        init_weights = google.read_checkpoint(bert_config, init_weights)
    if freeze_encoder and not task.head_shapes(bert_config):
        raise UserError(
            "--freeze_encoder=true: this task has no weights beside the encoder's, so nothing "
            "would be trained; leave it out"
        )

    if bert_config.graph is not None and layerwise_lr_decay != 1:
        raise UserError(
            f"--layerwise_lr_decay={layerwise_lr_decay:g}: the weights of this SavedModel do not "
            "say of which layer they are; leave it out"
        )

    def encoded(features, mode, params):
        rng = params.get("rng") if mode == ModeKeys.TRAIN else None
        return encoder.encode(bert_config, params["weights"], features, rng, params["dtype"]), rng

    def vectors(features, mode, params):
        output, _ = encoded(features, mode, params)
        return task.vectors(params["weights"], output, features)

    def comparing_model_fn(features, labels, mode, params):
        del labels
        found = vectors(features, mode, params)
        if mode != ModeKeys.TRAIN:
            return EstimatorSpec(tf.constant(0.0), {"vectors": found}, {})
        columns = {name: features[name] for name in task.label_columns if name in features}
        found, columns = in_places([features["places"]], [found], [columns])
        loss, predictions = task.compare(params["weights"], found, columns, params["examples"])
        return EstimatorSpec(tf.reduce_mean(loss), {**predictions, "per_example_loss": loss}, {})

    def model_fn(features, labels, mode, params):
        del labels  # They are among the features, as in the original.
        weights = params["weights"]
        output, rng = encoded(features, mode, params)
        if getattr(task, "reads_tokens", False):
            hidden = tf.cast(output.sequence_output, tf.float32)
        else:
            hidden = pooling.head_input(output, features, task.pooling, task.separator_id)
        # 0.1 in every script of the original but run_squad, whatever the config says of the
        # encoder.
        rate = getattr(task, "dropout_rate", 0.1)
        if rng is not None and rate:
            place = tf.random.experimental.stateless_fold_in(rng, 0)
            hidden = encoder.dropout(hidden, rate, place)
        per_example_loss, predictions = task.apply(
            weights, hidden, features, mode == ModeKeys.TRAIN
        )
        predictions["per_example_loss"] = per_example_loss
        return EstimatorSpec(
            loss=tf.reduce_mean(per_example_loss),
            predictions=predictions,
            metrics={"eval_loss": (tf.reduce_sum(per_example_loss), tf.size(per_example_loss))},
        )

    def initial_weights(seed):
        weights, begun = {}, getattr(task, "initial_values", lambda config: {})(bert_config)
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
            elif name in begun:
                weights[name] = begun[name]
            elif "bias" in name:
                weights[name] = np.zeros(shape, np.float32)
            else:
                weights[name] = encoder.truncated_normal(shape, 0.02, (seed, -1 - index))
        return weights

    if getattr(task, "compares_texts", False):
        model_fn = comparing_model_fn
        model_fn.vectors = vectors
    model_fn.initial_weights = initial_weights
    model_fn.optimizer = create_optimizer(
        learning_rate,
        num_train_steps,
        num_warmup_steps,
        rate_factor=functools.partial(
            layerwise_factor,
            decay=layerwise_lr_decay,
            num_hidden_layers=bert_config.num_hidden_layers,
        ),
        frozen=("bert/",) if freeze_encoder else (saved_graph.FIXED,),
        correct_bias=correct_bias,
    )
    model_fn.packs = bert_config.graph is None
    model_fn.task = task
    return model_fn


def _require_shape(name, array, shape):
    if tuple(array.shape) != tuple(shape):
        raise UserError(
            f"the checkpoint's {name} has shape {tuple(array.shape)}, this task and config need "
            f"{tuple(shape)}; "
            "choose the checkpoint of the encoder, or of a model of the same task"
        )
