"""What every loader gives back, and the checks that every format's weights and vocabulary pass."""

import os
import typing

import numpy as np

from bert_tools import files
from bert_tools.config import BertConfig
from bert_tools.errors import UserError
from bert_tools.tokenization import CLASSIFY, SEPARATE, UNKNOWN, FullTokenizer

OUTPUT_DESCRIPTION = "bert_tools.json"
GOOGLE_CONFIG = "bert_config.json"
HUGGINGFACE_CONFIG = "config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
VOCABULARY = "vocab.txt"
TOKENIZER = "tokenizer.json"
CASING_KEYS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
OUTPUT_WEIGHTS = ("output_weights", "output_bias")  # The head of a task for whole texts.
_POOLER = "bert/pooler/"


class Model(typing.NamedTuple):
    """An encoder with all that is needed to run it.

    config: BertConfig.
    weights: dict {Google's variable name: float32 array}: the encoder (names and shapes of
      encoder.weight_shapes; bert/pooler/* may be absent) and the heads that lay beside it
      ("output_weights", "output_bias", "cls/..."). No optimiser slots, no global_step.
    tokenizer: FullTokenizer, or SubwordTokenizer.
    meta: dict, what bert_tools.json holds; {} for folders of others.
    source: str, the folder (Hugging Face) or checkpoint prefix (Google) the weights came from;
      "" for fresh ones.
    """

    config: BertConfig
    weights: dict
    tokenizer: FullTokenizer
    meta: dict
    source: str

    @property
    def has_pooler(self):
        """Whether `encode` gives a pooled_output with these weights."""
        return self.config.graph is not None or "bert/pooler/dense/kernel" in self.weights


def is_inside(path, folder):
    """Whether a path, all links followed, lies in a folder; or, from a snapshot in Hugging Face's
    cache, which consists of links, among that repository's blobs.
    """
    roots = [os.path.realpath(folder)]
    snapshots, repository = os.path.dirname(roots[0]), os.path.dirname(os.path.dirname(roots[0]))
    if os.path.basename(snapshots) == "snapshots" and "--" in os.path.basename(repository):
        roots.append(os.path.join(repository, "blobs"))
    path = os.path.realpath(path)
    return any(os.path.commonpath([path, root]) == root for root in roots)


def check_weights(config, tensors, source):
    """Picks the encoder and its heads out of a file's tensors.

    Args:
      config: BertConfig.
      tensors: dict {Google's variable name: array of any float type}.
      source: str, the file or prefix they came from, for messages.

    Returns:
      dict {name: float32 array}: the encoder in the original's order, then the heads by name.

    Raises:
      UserError: a weight is missing, has another shape or type than the config says, or is not
      finite.
    """
    from absl import logging

    from bert_tools import encoder

    # An optimiser's slot is named after its variable: "output_weights/adam_m".
    tensors = {n: t for n, t in tensors.items() if n.rpartition("/")[0] not in tensors}
    found = [name for name in tensors if name.startswith("bert/")]
    if not found:
        raise UserError(
            f"{source}: holds no weights of a BERT encoder (in Google's checkpoints: variables "
            "named bert/...); give a BERT model in Google's or Hugging Face's format"
        )
    # Before the table of names is made: a damaged config may ask for a billion layers.
    key, layers = "num_hidden_layers", config.num_hidden_layers
    if config.num_hidden_groups:
        key = "num_hidden_groups times inner_group_num"
        layers = config.num_hidden_groups * config.inner_group_num
    if config.graph is None and layers > len(found):
        raise UserError(
            f"{source}: holds {len(found)} encoder weights, too few for the config's "
            f"{key} {layers}; give the config that belongs to them"
        )
    shapes = encoder.weight_shapes(config)
    if not any(name.startswith(_POOLER) for name in found):
        shapes = {n: shape for n, shape in shapes.items() if not n.startswith(_POOLER)}
    weights = {name: _checked(name, shape, tensors, source) for name, shape in shapes.items()}
    left_out = sorted(set(found) - weights.keys())
    if left_out:
        logging.warning(
            "%s: %d weights are not part of the encoder that the config describes and are left "
            "out (the first: %s)",
            source,
            len(left_out),
            left_out[0],
        )
    for name in sorted(tensors.keys() - set(found) - {"global_step"}):
        if _is_float(tensors[name]):
            weights[name] = _checked(name, tensors[name].shape, tensors, source)
    return weights


def _is_float(tensor):
    return tensor.dtype.kind == "f" or tensor.dtype.name == "bfloat16"


def _checked(name, shape, tensors, source):
    tensor = tensors.get(name)
    if tensor is None:
        raise UserError(
            f"{source}: lacks the weight {name} of shape {list(shape)}; "
            "give the config that belongs to these weights or restore the file"
        )
    if tensor.shape != shape:
        raise UserError(
            f"{source}: {name} has shape {list(tensor.shape)}, the config expects {list(shape)}; "
            "give the config that belongs to these weights"
        )
    if not _is_float(tensor):
        raise UserError(
            f"{source}: {name} holds {tensor.dtype.name}, expected floating point numbers; "
            "take the model's unquantised weights"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        tensor = np.asarray(tensor, np.float32, order="C")
    if not np.isfinite(tensor).all():
        raise UserError(
            f"{source}: {name} holds NaN or infinity; take an earlier checkpoint "
            "or restore the file"
        )
    return tensor


def check_vocabulary(config, tokenizer, vocab_file):
    """Refuses a vocabulary with more tokens than the embedding table has rows; fewer are fine, as
    in the original.

    Raises:
      UserError: naming the file and both numbers.
    """
    # Blank lines at the end of a vocabulary file are no tokens.
    rows = 1 + max(index for token, index in tokenizer.vocab.items() if token)
    if rows > config.vocab_size:
        raise UserError(
            f"{vocab_file}: holds {rows} tokens, the model's config has vocab_size "
            f"{config.vocab_size}; give the vocabulary that the model was trained with"
        )


def make_tokenizer(casing, vocab_file=None, vocab=None):
    """A FullTokenizer from the three keys of CASING_KEYS; what is absent or None has the
    original's default.

    Args:
      casing: dict, as read_casing gives it.
      vocab_file: str, or
      vocab: dict {token: id}.
    """
    return FullTokenizer(
        vocab_file,
        _unless_none(casing.get("do_lower_case"), True),
        strip_accents=casing.get("strip_accents"),
        tokenize_chinese_chars=_unless_none(casing.get("tokenize_chinese_chars"), True),
        vocab=vocab,
    )


def _unless_none(value, default):
    return default if value is None else value


def read_casing(path):
    """The keys of CASING_KEYS that a JSON file has, {} when there is no such file.

    Raises:
      UserError: the file is no JSON object, or a value neither true, false nor null.
    """
    return check_casing(files.read_json(path), path) if os.path.exists(path) else {}


def check_casing(values, path):
    """{key of CASING_KEYS: bool} of a JSON object; null counts as absent."""
    casing = {key: values[key] for key in CASING_KEYS if values.get(key) is not None}
    for key, value in casing.items():
        if not isinstance(value, bool):
            raise UserError(f"{path}: {key} is {value!r}, expected true or false; correct it")
    return casing


def casing_of(tokenizer):
    """{key of CASING_KEYS: bool} of a FullTokenizer."""
    return {key: getattr(tokenizer, key) for key in CASING_KEYS}


def check_tokens(vocab, path):
    """Checks a vocabulary that was read from a JSON.

    Raises:
      UserError: a token is no text or an id no row number, or [UNK], [CLS] or [SEP] is missing.
    """
    for token, index in vocab.items():
        # A JSON can spell half of a surrogate pair, which no text file can hold.
        if not token.isascii() and any("\ud800" <= char <= "\udfff" for char in token):
            raise UserError(f"{path}: token {token!r} is no Unicode text; restore it")
        if not isinstance(index, int) or isinstance(index, bool) or index < 0:
            raise UserError(
                f"{path}: token {token!r} has the id {index!r}, expected a row number; restore it"
            )
    missing = [token for token in (UNKNOWN, CLASSIFY, SEPARATE) if token not in vocab]
    if missing:
        raise UserError(f"{path}: the vocabulary lacks {', '.join(missing)}; is this a BERT model?")


def fits_google(model):
    """Whether Google's layout can hold a model: the family is BERT, the tokenizer WordPiece."""
    return model.config.family == "bert" and isinstance(model.tokenizer, FullTokenizer)


def check_fits_google(model, folder, layout):
    """Refuses what fits_google says no to.

    Args:
      model: Model.
      folder, layout: str, what is to be written and its layout, for messages.

    Raises:
      UserError: naming what does not fit.
    """
    if not fits_google(model):
        family = model.config.family
        check_known(model, folder)
        what = f"a model of the type {family}" if family != "bert" else "its tokenizer"
        raise UserError(
            f"{folder}: {layout} holds BERTs with WordPiece vocabularies and cannot hold {what}; "
            "write it in Hugging Face's layout"
        )


def has_own_head(model):
    """Whether a model's head reads what no other program gives it, see tasks.heads."""
    return model.meta.get("head_pooling", "pooled") != "pooled" and any(
        name in model.weights for name in OUTPUT_WEIGHTS
    )


def check_known(model, folder):
    """Refuses to write, in any layout, a model whose encoder is a SavedModel's own graph."""
    if model.config.graph is not None:
        raise UserError(
            f"{folder}: {model.source} is a SavedModel with names of its own, which no other "
            "layout can hold; copy its folder, or convert the checkpoint that it was made from"
        )


def write_tokenizer(folder, tokenizer):
    """Writes vocab.txt or, of a SubwordTokenizer, tokenizer.json; returns the file's name."""
    if isinstance(tokenizer, FullTokenizer):
        write_vocabulary(os.path.join(folder, VOCABULARY), tokenizer)
        return VOCABULARY
    files.write_text(os.path.join(folder, TOKENIZER), tokenizer.to_json())
    return TOKENIZER


def write_vocabulary(path, tokenizer):
    """Writes vocab.txt: line i is token i. An id without a token (two lines of the vocabulary
    read were the same) becomes an empty line.

    Raises:
      UserError: a token cannot stand on one line, or the ids are too sparse for a list.
    """
    tokens = tokenizer.inv_vocab
    rows = max(tokens) + 1
    odd = [token for token in tokens.values() if "\n" in token]
    if odd or rows > 2 * len(tokens) + 1000:
        raise UserError(
            f"{path}: this vocabulary cannot be written one token a line "
            f"({repr(odd[0]) if odd else f'{len(tokens)} tokens with ids up to {rows - 1}'}); "
            "keep the folder's tokenizer.json"
        )
    files.write_text(path, "".join(f"{tokens.get(index, '')}\n" for index in range(rows)))
