"""Writes a TF2 SavedModel of the kind that TF Hub's public BERT encoders are (model garden,
official/nlp/tools/export_tfhub_lib.py): a dict of ids in, a dict of vectors out, trainable, with
the vocabulary among its assets.

Beside what those hold lie bert_config.json, tokenizer_config.json and, for a model that has a
description, bert_tools.json, since a SavedModel does not tell its own GELU or casing.
"""

import os

from bert_tools import files
from bert_tools.errors import UserError
from bert_tools.hub import model as models

# Parts of names: Google's, and the model garden's (official/nlp/bert/tf1_checkpoint_converter_lib,
# BERT_V2_NAME_REPLACEMENTS). They are replaced in this order.
_RENAMED = (
    ("bert/", ""),
    ("encoder/", "transformer/"),
    ("embeddings/word_embeddings", "word_embeddings/embeddings"),
    ("embeddings/position_embeddings", "position_embedding/embeddings"),
    ("embeddings/token_type_embeddings", "type_embeddings/embeddings"),
    ("embeddings/LayerNorm", "embeddings/layer_norm"),
    ("attention/self", "self_attention"),
    ("attention/output/dense", "self_attention/attention_output"),
    ("attention/output/LayerNorm", "self_attention_layer_norm"),
    ("intermediate/dense", "intermediate"),
    ("output/dense", "output"),
    ("output/LayerNorm", "output_layer_norm"),
    ("pooler/dense", "pooler_transform"),
)


def model_garden_name(name):
    """The model garden's name of an encoder's weight: bert/encoder/layer_0/output/dense/kernel ->
    transformer/layer_0/output/kernel.
    """
    for google_part, garden_part in _RENAMED:
        name = name.replace(google_part, garden_part)
    return name


def model_garden_shape(config, name, shape):
    """The shape that a weight has there: attention's are split into heads.

    Args:
      config: BertConfig.
      name: str, Google's.
      shape: tuple of int, Google's.
    """
    heads = config.num_attention_heads
    size = config.hidden_size // heads
    if "/attention/self/" in name:
        return (*shape[:-1], heads, size)
    if name.endswith("/attention/output/dense/kernel"):
        return (heads, size, *shape[1:])
    return shape


def write(folder, model):
    """Writes a model that tensorflow_hub.load and hub.KerasLayer read.

    Args:
      folder: str, absent or empty; it appears whole or not at all.
      model: Model.

    Raises:
      UserError: the folder is not empty or cannot be written, or the model does not fit this
      layout.
    """
    import tensorflow as tf
    from absl import logging

    from bert_tools.hub import output_folder

    models.check_fits_google(model, folder, "TF Hub's layout")
    heads = sorted(name for name in model.weights if not name.startswith("bert/"))
    if heads:
        logging.warning("%s: a SavedModel has no place for %s; left out", folder, ", ".join(heads))
    with files.aside_folder(folder) as aside:
        vocab_file = os.path.join(aside, models.VOCABULARY)
        models.write_vocabulary(vocab_file, model.tokenizer)
        root = _saveable(model, vocab_file)
        try:
            tf.saved_model.save(root, aside, signatures={"serving_default": root.serve})
        except tf.errors.OpError as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{folder}: the SavedModel cannot be written ({reason}); free space and run again"
            ) from error
        os.unlink(vocab_file)  # It lies in assets now.
        files.write_json(os.path.join(aside, models.GOOGLE_CONFIG), model.config.to_google())
        files.write_json(
            os.path.join(aside, models.TOKENIZER_CONFIG), models.casing_of(model.tokenizer)
        )
        if model.meta:
            output_folder.write_json(aside, model)


def _saveable(model, vocab_file):
    """The root object of the SavedModel."""
    import tensorflow as tf

    from bert_tools.encoder import encode

    config = model.config
    shapes = {
        name: array.shape for name, array in model.weights.items() if name.startswith("bert/")
    }
    variables = {
        name: tf.Variable(
            model.weights[name].reshape(model_garden_shape(config, name, shape)),
            name=model_garden_name(name),
        )
        for name, shape in shapes.items()
    }
    spec = {
        name: tf.TensorSpec([None, None], tf.int32, name=name)
        for name in ("input_word_ids", "input_mask", "input_type_ids")
    }

    def run(inputs, training):
        batch = {
            "input_ids": inputs["input_word_ids"],
            "input_mask": inputs["input_mask"],
            "segment_ids": inputs["input_type_ids"],
        }
        weights = {name: tf.reshape(variables[name], shape) for name, shape in shapes.items()}
        rng = tf.random.uniform([2], maxval=2**31 - 1, dtype=tf.int32) if training else None
        output = encode(config, weights, batch, rng)
        found = {"sequence_output": output.sequence_output, "encoder_outputs": output.layers[1:]}
        if output.pooled_output is not None:
            found["pooled_output"] = output.pooled_output
        return found

    @tf.function
    def call(inputs, training=False):
        return run(inputs, training)

    @tf.function(input_signature=list(spec.values()))
    def serve(input_word_ids, input_mask, input_type_ids):
        inputs = zip(spec, (input_word_ids, input_mask, input_type_ids), strict=True)
        found = run(dict(inputs), False)
        # A signature gives Tensors only: [layers, batch, seq, hidden].
        return {**found, "encoder_outputs": tf.stack(found["encoder_outputs"])}

    for training in (True, False):
        call.get_concrete_function(spec, training=training)
    # Not a tf.Module, whose `variables` is a property, which is not saved.
    root = tf.train.Checkpoint()
    root.__call__ = call
    root.serve = serve
    root.variables = root.trainable_variables = list(variables.values())
    root.regularization_losses = []
    root.vocab_file = tf.saved_model.Asset(vocab_file)
    root.do_lower_case = tf.Variable(model.tokenizer.do_lower_case, trainable=False)
    return root
