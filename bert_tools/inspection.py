"""What a loaded model is, and whether it behaves."""

import hashlib
import json
import logging
import os

import numpy as np
import tensorflow as tf

from bert_tools import encoder, hub
from bert_tools.errors import UserError
from bert_tools.sentence import pooling
from bert_tools.tokenization import FullTokenizer

log = logging.getLogger("bert_tools")
TOLERANCE = 1e-5  # Of float32 vectors of length 1, whatever stands beside a row of tokens.
_LENGTHS = (3, 7, 24, 61)  # Of the rows that are run, where the model has so many positions.
_SEED = 12345


def describe(model):
    """What a model is.

    Args:
      model: hub.Model.

    Returns:
      dict {name: str, int, bool, list of str, or None where nothing says it}, which JSON can hold.
    """
    config, meta, weights = model.config, model.meta, model.weights
    kind, lower_case = _tokenizer(model.tokenizer)
    heads = {name: array for name, array in weights.items() if not name.startswith("bert/")}
    facts = {
        "source": model.source,
        "format": _format(model.source),
        "family": config.family,
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "embedding_size": config.embedding_size or config.hidden_size,
        "vocab_size": config.vocab_size,
        "positions": config.max_position_embeddings,
        "token_types": config.type_vocab_size,
        "activation": config.hidden_act,
        "pooler": model.has_pooler,
        "parameters": sum(array.size for name, array in weights.items() if name not in heads),
        "tokenizer": kind,
        "tokens": len(model.tokenizer.vocab),
        "casing": "uncased" if lower_case else "cased",
        **_pooling(model),
        "task": meta.get("task"),
        "labels": meta.get("labels") or [],
        "task_weights": [f"{name} {list(array.shape)}" for name, array in sorted(heads.items())],
        "checksum": f"sha256:{checksum(weights)}",
    }
    if config.graph is not None:  # It does not say these.
        unsaid = ("heads", "intermediate_size", "embedding_size", "token_types", "activation")
        facts.update(dict.fromkeys(unsaid))
    return facts


def checksum(weights):
    """The sha256 of an encoder's weights, in hex: of the names, shapes and float32 numbers, in the
    names' order. It does not depend on the layout they were read from, nor on a task's head.

    Args:
      weights: dict {Google's variable name: float32 array}.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        if name.startswith("bert/"):
            array = np.ascontiguousarray(weights[name], "<f4")
            digest.update(f"{name} {list(array.shape)}\n".encode())
            digest.update(array)
    return digest.hexdigest()


def check(model):
    """Runs the encoder over rows of tokens: each alone, all together, and each padded.

    Args:
      model: hub.Model.

    Returns:
      (what was found, what is wrong or None): both str.
    """
    config = model.config
    rows = _rows(model)
    most = config.max_position_embeddings
    padded = min(most, max(map(len, rows)) + 16)
    alone = _vectors(model, [_batch([row], len(row)) for row in rows])
    ways = {
        "among others": _vectors(model, [_batch(rows, max(map(len, rows)))]),
        "padded": _vectors(model, [_batch([row], padded) for row in rows]),
    }
    if not all(np.isfinite(found).all() for found in (alone, *ways.values())):
        return "failed", (
            "the encoder's output holds NaN or infinity; take an earlier checkpoint or restore the "
            "file"
        )
    differences = {way: float(np.abs(found - alone).max()) for way, found in ways.items()}
    way = max(differences, key=differences.get)
    if differences[way] > TOLERANCE:
        return "failed", (
            f"a row of tokens gives another vector {way} than alone ({differences[way]:.2g} apart, "
            f"at most {TOLERANCE:g} is rounding); do not trust its vectors, and take the model "
            "from its source again"
        )
    return f"finite, and alike to {differences[way]:.1e} alone, among others and padded", None


def _format(source):
    folder = source if os.path.isdir(source) else os.path.dirname(source)
    try:
        return hub.format_of(folder or ".")
    except UserError:  # A checkpoint whose bert_config.json lies elsewhere.
        return None


def _tokenizer(tokenizer):
    """(kind, whether it lower-cases)."""
    if isinstance(tokenizer, FullTokenizer):
        return "WordPiece", tokenizer.do_lower_case
    described = json.loads(tokenizer.to_json())
    steps = json.dumps(described.get("normalizer"))
    return described["model"]["type"], '"Lowercase"' in steps or '"lowercase": true' in steps


def _pooling(model):
    try:
        recipe = pooling.recipe(model)
    except UserError as error:  # Its vectors cannot be made here; the rest of it can be told.
        log.warning("%s", error)
        return {"pooling": [], "normalize": None, "max_seq_length": None}
    return {
        "pooling": list(recipe.poolings),
        "normalize": recipe.normalize,
        "max_seq_length": recipe.max_seq_length,
    }


def _rows(model):
    """Rows of ids of several lengths, the same for the same vocabulary."""
    random = np.random.default_rng(_SEED)
    # A blank line at a vocabulary's end is no token, and may have no row in the table.
    ids = np.array(sorted({index for token, index in model.tokenizer.vocab.items() if token}))
    lengths = sorted({min(length, model.config.max_position_embeddings) for length in _LENGTHS})
    first, last = model.tokenizer.cls_id, model.tokenizer.sep_id
    return [[first, *random.choice(ids, length - 2), last] for length in lengths]


def _batch(rows, width):
    ids = np.zeros((len(rows), width), np.int32)
    mask = np.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    return {"input_ids": ids, "input_mask": mask}


def _vectors(model, batches):
    """The vectors of all rows, of length 1: every way of pooling, every layer; float32
    [rows, vectors, hidden].
    """
    found = []
    for batch in batches:
        output = encoder.encode(model.config, model.weights, batch)
        ways = ["cls", "mean", "max"] + ["pooled"] * (output.pooled_output is not None)
        layers = [n for n, layer in enumerate(output.layers) if layer is not None]
        parts = pooling.pool(output, batch, ways, layers)
        parts = tf.reshape(parts, [len(batch["input_ids"]), -1, model.config.hidden_size])
        found.append(tf.math.l2_normalize(parts, -1, 1e-24))
    return np.concatenate(found)
