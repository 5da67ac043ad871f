"""From the vectors of a text's tokens to one vector: which tokens and layers count, and how a model
folder says what its vectors were trained with.
"""

import json
import os
import typing

import tensorflow as tf

from bert_tools import files
from bert_tools.errors import UserError
from bert_tools.hub import model as models

POOLINGS = ("cls", "pooled", "mean", "max", "first_last_mean")
# Those that take their layers from --layers; the others say themselves which.
LAYERED = ("cls", "mean", "max")
# Names of the weights of a dense layer behind the pooling, and sentence-transformers' activations.
DENSE = ("sentence/dense/kernel", "sentence/dense/bias")
DENSE_ACTIVATIONS = {
    "linear": "torch.nn.modules.linear.Identity",
    "tanh": "torch.nn.modules.activation.Tanh",
}
# Of sentence-transformers' 1_Pooling/config.json, in the order in which it joins several.
_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
}


class Recipe(typing.NamedTuple):
    """How a model's sentence vectors are meant to be made.

    poolings: tuple of POOLINGS; several are joined in this order.
    normalize: bool, whether vectors have length 1.
    max_seq_length: int, or None where the folder says nothing.
    dense: the activation (of DENSE_ACTIVATIONS) of a dense layer behind the pooling and before the
      normalising, or None where there is none.
    """

    poolings: tuple
    normalize: bool
    max_seq_length: int | None
    dense: str | None = None


def recipe(model):
    """What a model's folder says of its vectors: bert_tools.json, else sentence-transformers'
    modules.json; else the mean, not normalised.

    Args:
      model: hub.Model.

    Returns:
      Recipe.

    Raises:
      UserError: the folder asks for what is not computed here; names the file.
    """
    # Of an output_dir the source is a checkpoint in it.
    folder = model.source if os.path.isdir(model.source) else os.path.dirname(model.source)
    described = os.path.join(folder, models.OUTPUT_DESCRIPTION)
    if "pooling" in model.meta:
        pooling = model.meta["pooling"]
        poolings = pooling if isinstance(pooling, list) else [pooling]
        if not poolings or any(name not in POOLINGS for name in poolings):
            raise UserError(
                f"{model.source}: bert_tools.json says pooling {pooling!r}, expected one of "
                f"{', '.join(POOLINGS)}; correct it or give --pooling"
            )
        dense = model.meta.get("dense")
        if dense is not None and (
            dense not in list(DENSE_ACTIVATIONS) or DENSE[0] not in model.weights
        ):
            raise UserError(
                f"{model.source}: bert_tools.json says dense {dense!r}, expected one of "
                f"{', '.join(DENSE_ACTIVATIONS)}, and the layer's weights beside the encoder's; "
                "restore the folder"
            )
        normalize = model.meta.get("normalize", False)
        if not isinstance(normalize, bool):
            raise UserError(
                f"{described}: normalize is {normalize!r}, expected true or false; correct it"
            )
        return Recipe(tuple(poolings), normalize, _width(model.meta, described), dense)
    path = os.path.join(model.source, "modules.json")
    if not os.path.exists(path):
        return Recipe(("mean",), False, _width(model.meta, described))
    return _of_modules(model.source, path)


def _width(meta, path):
    """max_seq_length as a description says it, or None where it says nothing."""
    width = meta.get("max_seq_length")
    if width is not None and (type(width) is not int or width < 3):
        raise UserError(
            f"{path}: max_seq_length is {width!r}, expected a number from 3; restore the file"
        )
    return width


def _of_modules(folder, path):
    poolings, dense, normalize = None, None, False
    for module in _read_list(path):
        kind = str(module.get("type", "")).rpartition(".")[2]
        config = os.path.join(folder, str(module.get("path", "")), "config.json")
        if kind in ("Pooling", "Dense") and not models.is_inside(config, folder):
            raise UserError(
                f"{path}: names the folder {module['path']!r}, outside of the model's; restore it "
                "from its source"
            )
        if kind == "Pooling":
            poolings = _of_pooling(config)
        elif kind == "Dense" and poolings and not dense and not normalize:
            dense = _of_dense(config)
        elif kind == "Normalize":
            normalize = True
        elif kind not in ("Transformer", "Dropout"):
            raise UserError(
                f"{path}: asks for a {kind or 'nameless'} module, which is not computed here; give "
                "--pooling for the vectors without it"
            )
    if poolings is None:
        raise UserError(f"{path}: names no Pooling module; give --pooling")
    # Casing is the tokenizer's matter: this file's do_lower_case says the opposite for minilm.
    described = os.path.join(folder, "sentence_bert_config.json")
    meta = files.read_json(described) if os.path.exists(described) else {}
    return Recipe(poolings, normalize, _width(meta, described), dense)


def _read_list(path):
    # The one description that is a list of objects; files.read_json reads objects.
    files.require_small(path)
    try:
        with open(path, encoding="utf-8") as reader:
            value = json.load(reader)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a readable JSON file ({error}); restore it") from error
    if not isinstance(value, list) or not all(isinstance(module, dict) for module in value):
        raise UserError(f"{path}: expected a list of modules; restore it or give --pooling")
    return value


def _of_pooling(path):
    config = files.read_json(path)
    if "pooling_mode" in config:  # The short form, which joins several in the order given.
        asked = config["pooling_mode"]
        asked = asked if isinstance(asked, list) else [asked]
        known = {name: name for name in _MODES.values()}
    else:
        names = dict.fromkeys([*_MODES, *config])  # In the order in which it joins several.
        asked = [name for name in names if name.startswith("pooling_mode_") and config.get(name)]
        known = _MODES
    unknown = [name for name in asked if name not in list(known)]
    if unknown or not asked:
        raise UserError(
            f"{path}: asks for {unknown[0] if unknown else 'no pooling'}, which is not computed "
            "here; give --pooling"
        )
    return tuple(known[name] for name in asked)


def _of_dense(path):
    config = files.read_json(path)
    activation = config.get("activation_function")
    names = {theirs: name for name, theirs in DENSE_ACTIVATIONS.items()}
    # Further versions say what goes in and comes out: the text's vector is the only one here.
    if activation not in list(names):
        raise UserError(
            f"{path}: has the activation {activation!r}, computed here are {', '.join(names)}; "
            "give --pooling for the vectors without it"
        )
    return names[activation]


def dense_file(folder):
    """The path of the dense layer's weights in a folder of sentence-transformers; None where its
    recipe has no such layer, or none that is computed here.
    """
    path = os.path.join(folder, "modules.json")
    try:
        if _of_modules(folder, path).dense is None:
            return None
    except UserError:  # Whoever asks for the recipe will be told.
        return None
    (place,) = (m["path"] for m in _read_list(path) if str(m.get("type")).endswith(".Dense"))
    return os.path.join(folder, place, "model.safetensors")


def modules(recipe, width, dense_width=None):
    """What sentence-transformers reads a recipe from, in the form that all its versions know.

    Args:
      recipe: Recipe.
      width: int, the length of a token's vector.
      dense_width: int, what a dense layer makes of it.

    Returns:
      dict {name of a file in the model's folder: JSON value}.

    Raises:
      UserError: sentence-transformers cannot pool so.
    """
    if list(recipe.poolings) != [name for name in _MODES.values() if name in recipe.poolings]:
        raise UserError(
            f"sentence-transformers cannot pool by {' and '.join(recipe.poolings)}, only by "
            f"{', '.join(_MODES.values())}, joined in this order; give --pooling with one of these"
        )
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    further = {}
    if recipe.dense:
        kinds.append(("2_Dense", "Dense"))
        further["2_Dense/config.json"] = {
            "in_features": width * len(recipe.poolings),
            "out_features": dense_width,
            "bias": True,
            "activation_function": DENSE_ACTIVATIONS[recipe.dense],
        }
    if recipe.normalize:
        kinds.append((f"{len(kinds)}_Normalize", "Normalize"))
    return {
        **further,
        "modules.json": [
            {
                "idx": index,
                "name": str(index),
                "path": path,
                "type": f"sentence_transformers.models.{kind}",
            }
            for index, (path, kind) in enumerate(kinds)
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": width,
            **{mode: name in recipe.poolings for mode, name in _MODES.items()},
        },
        # Casing is the tokenizer's matter: this do_lower_case comes on top of it. A length of null
        # is the model's own.
        "sentence_bert_config.json": {
            "max_seq_length": recipe.max_seq_length,
            "do_lower_case": False,
        },
        "config_sentence_transformers.json": {
            "prompts": {},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }


def vectors(output, batch, recipe, layers, weights):
    """The vectors of texts by a recipe: pooled, through the dense layer, normalised; float32
    [examples, width].

    Args:
      output, batch, layers: see `pool`.
      recipe: Recipe.
      weights: dict that holds DENSE, where the recipe has such a layer.
    """
    found = pool(output, batch, recipe.poolings, layers)
    if recipe.dense:
        kernel, bias = (tf.cast(weights[name], tf.float32) for name in DENSE)
        found = tf.nn.bias_add(tf.matmul(found, kernel), bias)
        found = tf.tanh(found) if recipe.dense == "tanh" else found
    return tf.math.l2_normalize(found, 1, 1e-24) if recipe.normalize else found


def pool(output, batch, poolings, layers):
    """One vector an example, float32 [examples, poolings x layers x hidden].

    A packed row's examples are pooled each by itself, and padding counts for nothing.

    Args:
      output: encoder.EncoderOutput.
      batch: dict, as encoder.encode takes it, with input_mask; the examples of a packed row in the
        order of their places.
      poolings: sequence of POOLINGS; several are joined, in this order. cls: the first token's
        vector; mean, max: over an example's tokens, [CLS] and [SEP] among them; pooled:
        pooled_output; first_last_mean: the mean over tokens of the first and the last layer.
      layers: sequence of int, for LAYERED; 0 is the embeddings, -1 the last; several are joined.
    """
    flat = [
        None if layer is None else tf.reshape(layer, [-1, layer.shape[-1]])
        for layer in output.layers
    ]
    first, owners = _examples_of(batch)
    count = tf.shape(first)[0]

    def mean(x):
        sums = tf.math.unsorted_segment_sum(tf.cast(x, tf.float32), owners, count)
        ones = tf.ones_like(owners, tf.float32)
        return sums / tf.math.unsorted_segment_sum(ones, owners, count)[:, tf.newaxis]

    def highest(x):
        return tf.math.unsorted_segment_max(tf.cast(x, tf.float32), owners, count)

    of_tokens = {"cls": lambda x: tf.gather(x, first), "mean": mean, "max": highest}
    parts = []
    for pooling in poolings:
        if pooling == "pooled":
            parts.append(output.pooled_output)
        elif pooling == "first_last_mean":
            ends = tf.cast(flat[1], tf.float32) + tf.cast(flat[-1], tf.float32)
            parts.append(mean(0.5 * ends))
        else:
            parts += [of_tokens[pooling](flat[layer]) for layer in layers]
    return tf.concat([tf.cast(part, tf.float32) for part in parts], 1)


def head_input(output, batch, pooling, separator_id=None):
    """The vector that the head of a task for whole texts reads.

    Args:
      output, batch: see `pool`.
      pooling: one of tasks.heads.POOLINGS. For "pair" both texts of an example become the mean of
        their tokens in the last layer (with the special tokens around them), scaled to length 1: u
        and v. The result is sqrt(hidden) * |u - v| and hidden * u * v, joined, so that its
        elements are near 1; these are the features of InferSent (Conneau et al. 2017,
        https://arxiv.org/abs/1705.02364), here of texts that see each other.
      separator_id: int, the id of the token between two texts ([SEP], </s>); for "pair". Segment
        ids do not tell the texts apart in the families that have one segment.

    Returns:
      float32 Tensor [examples, hidden], for "pair" [examples, 2 * hidden].
    """
    if pooling != "pair":
        return pool(output, batch, [pooling], [-1])
    hidden = output.sequence_output.shape[-1]
    first, owners = _examples_of(batch)
    count = tf.shape(first)[0]
    # The second text begins behind the example's first separator.
    ends = tf.cast(tf.reshape(batch["input_ids"], [-1]) == separator_id, tf.int32)
    before = tf.cumsum(ends, exclusive=True)
    before -= tf.gather(tf.gather(before, first), tf.maximum(owners, 0))
    texts = 2 * owners + tf.minimum(before, 1)
    tokens = tf.cast(tf.reshape(output.sequence_output, [-1, hidden]), tf.float32)
    sums = tf.math.unsorted_segment_sum(tokens, tf.where(owners < 0, -1, texts), 2 * count)
    directions = tf.math.l2_normalize(tf.reshape(sums, [count, 2, hidden]), -1, 1e-24)
    u, v = tf.unstack(directions, axis=1)
    return tf.concat([tf.abs(u - v) * hidden**0.5, u * v * float(hidden)], 1)


def _examples_of(batch):
    """(where each example begins, int32 [examples]; which example each of the flattened tokens is
    of, int32 [batch * seq], -1 for padding, which segment operations leave out).
    """
    mask = tf.reshape(batch["input_mask"], [-1])
    first = batch.get("first_positions")
    if first is None:
        rows, width = tf.unstack(tf.shape(batch["input_mask"]))
        first = tf.range(rows) * width
    owners = tf.searchsorted(first, tf.range(tf.size(mask)), side="right") - 1
    return first, tf.where(mask > 0, owners, -1)
