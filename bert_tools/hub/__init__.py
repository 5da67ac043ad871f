"""The one loader: `load(handle)` reads any folder that holds a BERT or a relative, in any layout.

    model = hub.load("minilm")                    # a short name: fetched once, then from the cache
    model = hub.load("hf://org/name@revision")    # an address: the same; handles.py lists them
    model = hub.load("out/sim")                   # a folder that training left
    model = hub.load("uncased_L-12_H-768_A-12")   # Google's or Hugging Face's files

What a folder holds is found out by looking. Nothing is ever unpickled, and no code from a model
folder runs.
"""

import os

from bert_tools.config import BertConfig
from bert_tools.errors import UserError
from bert_tools.hub import (
    cache,
    google,
    handles,
    huggingface,
    names,
    output_folder,
    sentence_transformers,
    tf_hub,
)
from bert_tools.hub import model as models
from bert_tools.hub.model import Model
from bert_tools.tokenization import FullTokenizer, validate_case_matches_checkpoint

__all__ = ["Model", "format_of", "load", "load_parts"]

# In this order: an output folder looks like one of the others too.
_LAYOUTS = (output_folder, sentence_transformers, huggingface, google, tf_hub)
_PICKLES = (".bin", ".pt", ".pth", ".pkl")
# Files that models consist of; others in a folder are nobody's business.
_FILES = (".json", ".txt", ".model", ".safetensors", ".index", ".pb")
# What a broken disk or a file made in malice may bring about.
_UNREADABLE = (OSError, ValueError, RecursionError)
_CHECKPOINT_SUFFIXES = (".index", ".meta", ".data-00000-of-00001")


def load(handle):
    """Reads a model.

    Args:
      handle: str, a short name, an address or a folder, see handles.resolve.

    Returns:
      Model.

    Raises:
      UserError: one sentence that names the file at fault and the remedy.
    """
    if os.path.isdir(handle) and (handle in names.MODELS or handle in handles.SHORT_NAMES):
        from absl import logging

        logging.warning("%s: the model of that name; the folder here is ./%s", handle, handle)
    folder = handles.resolve(handle)
    try:
        return _layout(folder).read(folder)
    except _UNREADABLE as error:
        kept = cache.fetched_entry(folder) if folder != handle else None
        if isinstance(error, UserError) and not kept:
            raise
        found = error if isinstance(error, UserError) else _unreadable(folder, error)
        remedy = f"; to fetch {handle} anew, delete {kept}" if kept else ""
        raise UserError(f"{found}{remedy}") from error


def load_parts(
    handle=None,
    bert_config_file=None,
    vocab_file=None,
    init_checkpoint=None,
    do_lower_case=None,
    seed=12345,
):
    """Reads a model from --bert and the original's separate flags, each of which wins over it.

    Args:
      handle: str or None, as load takes it.
      bert_config_file: str or None, a Google or Hugging Face JSON.
      vocab_file: str or None, a vocabulary, one token a line.
      init_checkpoint: str or None, a checkpoint's prefix. Without it and without a handle the
        weights are fresh, as in the original.
      do_lower_case: bool or None; None means what the handle says, else true.
      seed: int, of fresh weights.

    Returns:
      Model.

    Raises:
      UserError: a flag is missing, or what it names is not usable.
    """
    given = {"bert_config_file": bert_config_file, "vocab_file": vocab_file}
    missing = [f"--{flag}" for flag, value in given.items() if not value]
    if missing and not handle:
        raise UserError(
            f"{' and '.join(missing)} not given; give --bert, "
            "or --bert_config_file, --vocab_file and --init_checkpoint"
        )
    if init_checkpoint and init_checkpoint.endswith(_CHECKPOINT_SUFFIXES):
        prefix = init_checkpoint[: init_checkpoint.rindex(".")]
        raise UserError(
            f"--init_checkpoint={init_checkpoint} is one of a checkpoint's files; "
            f"give what they share: --init_checkpoint={prefix}"
        )
    base = load(handle) if handle else None
    try:
        return _combine(base, bert_config_file, vocab_file, init_checkpoint, do_lower_case, seed)
    except UserError:
        raise
    except _UNREADABLE as error:
        raise _unreadable(init_checkpoint or bert_config_file or vocab_file, error) from error


def _combine(base, bert_config_file, vocab_file, init_checkpoint, do_lower_case, seed):
    config = BertConfig.from_json_file(bert_config_file) if bert_config_file else base.config
    tokenizer = _combined_tokenizer(base, vocab_file, do_lower_case)
    models.check_vocabulary(config, tokenizer, vocab_file or base.source)

    prefix = init_checkpoint
    if base and not init_checkpoint and not os.path.isdir(base.source):
        prefix = base.source
    if isinstance(tokenizer, FullTokenizer):
        validate_case_matches_checkpoint(tokenizer.do_lower_case, prefix)
    if init_checkpoint:
        source, weights = init_checkpoint, google.read_checkpoint(config, init_checkpoint)
    elif base:
        source, weights = base.source, base.weights
        if bert_config_file:
            weights = models.check_weights(config, weights, source)
    else:
        from bert_tools import encoder

        source, weights = "", encoder.initial_weights(config, seed)
    return Model(config, weights, tokenizer, base.meta if base else {}, source)


def _combined_tokenizer(base, vocab_file, do_lower_case):
    if base and not isinstance(base.tokenizer, FullTokenizer):
        given = "--vocab_file" if vocab_file else "--do_lower_case"
        if vocab_file or do_lower_case is not None:
            raise UserError(
                f"{given} does not fit {base.source}: its tokenizer is not WordPiece, and its own "
                "files say all about it; leave the flag out"
            )
        return base.tokenizer
    casing = models.casing_of(base.tokenizer) if base else {}
    if do_lower_case is not None:
        # Accents follow case unless the model says otherwise.
        if casing.get("strip_accents") == casing.get("do_lower_case"):
            casing.pop("strip_accents", None)
        casing["do_lower_case"] = do_lower_case
    vocab = None if vocab_file else base.tokenizer.vocab
    return models.make_tokenizer(casing, vocab_file, vocab)


def _unreadable(path, error):
    reason = str(error).partition("\n")[0]
    return UserError(f"{path}: cannot be read ({reason}); restore it")


def _refuse_links_out(folder):
    """A link out of a model's folder could lay open any file of this machine, or be gone on the
    next one.
    """
    inner = [os.path.join(folder, name) for name in ("assets", "variables")]
    for parent in (folder, *filter(os.path.isdir, inner)):
        for name in os.listdir(parent):
            path = os.path.join(parent, name)
            of_model = name.endswith(_FILES) or name == "checkpoint" or ".data-" in name
            if of_model and os.path.exists(path) and not os.path.isfile(path):
                raise UserError(f"{path}: is no plain file; put the model's own there")
            if (of_model or path in inner) and not models.is_inside(path, folder):
                raise UserError(
                    f"{path}: is a link to {os.path.realpath(path)}, outside of the model's "
                    "folder; put the file itself there"
                )


def _layout(folder):
    """The module that reads a folder."""
    if not os.path.isdir(folder):
        short = ", ".join((*names.MODELS, *handles.SHORT_NAMES))
        raise UserError(
            f"{folder}: no such model folder; give a folder, an address (hf://org/name) or one of "
            f"the short names: {short}"
        )
    _refuse_links_out(folder)
    for layout in _LAYOUTS:
        if layout.holds(folder):
            return layout
    there = sorted(os.listdir(folder))
    pickles = [name for name in there if name.endswith(_PICKLES)]
    if pickles and not any(name.endswith(".safetensors") for name in there):
        usual = "pytorch_model.bin"
        path = os.path.join(folder, usual if usual in pickles else pickles[0])
        target = os.path.join(folder, "model.safetensors")
        raise UserError(
            f"{path}: a pickle, which can run code and is never read here; if you trust it, "
            "convert it where PyTorch and safetensors are installed: python -c 'import torch, "
            "safetensors.torch as s; s.save_file({k: v.contiguous().clone() for k, v in "
            f'torch.load("{path}", weights_only=True).items()}}, "{target}", {{"format": "pt"}})\''
        )
    listed = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "") if there else "nothing"
    raise UserError(
        f"{folder}: no model found: looked for bert_tools.json, for config.json with a "
        ".safetensors file, for bert_config.json with a checkpoint (.index) and for "
        "saved_model.pb, there is "
        f"{listed}; give the folder that holds the model's files"
    )


def format_of(folder):
    """The name of the layout that a model's folder has: "sentence_transformers", "huggingface",
    "google", "tf_hub", or "output_folder" where it is a mixture that only training writes.

    Raises:
      UserError: no model is found there.
    """
    for layout in (sentence_transformers, huggingface, google, tf_hub, _layout(folder)):
        if layout.holds(folder):
            return layout.__name__.rpartition(".")[2]
