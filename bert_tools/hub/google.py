"""Google's layout: bert_config.json, vocab.txt, bert_model.ckpt.{index,data-00000-of-00001}."""

import os

from bert_tools import files
from bert_tools.config import BertConfig
from bert_tools.errors import UserError
from bert_tools.hub import model as models

_CHECKPOINT = "bert_model.ckpt"
_ORIGINAL_EPS = 1e-12
# How the published folders are named. Their files do not say how text was cased.
_LOWER_CASED = ("uncased_L-", "wwm_uncased_L-", "multilingual_L-", "chinese_L-")
_CASED = ("cased_L-", "wwm_cased_L-", "multi_cased_L-")


def holds(folder):
    """Whether a folder is in this layout."""
    names = os.listdir(folder)
    return models.GOOGLE_CONFIG in names and (bool(_prefixes(folder)) or "checkpoint" in names)


def read(folder):
    """Reads a folder.

    Args:
      folder: str.

    Returns:
      Model, its source being the checkpoint's prefix.

    Raises:
      UserError: a file is missing or damaged, the parts do not fit each other, or there are
      several checkpoints and nothing says which.
    """
    config = BertConfig.from_json_file(os.path.join(folder, models.GOOGLE_CONFIG))
    vocab_file = os.path.join(folder, models.VOCABULARY)
    tokenizer = models.make_tokenizer(casing(folder), vocab_file)
    models.check_vocabulary(config, tokenizer, vocab_file)
    prefix = find_checkpoint(folder)
    return models.Model(config, read_checkpoint(config, prefix), tokenizer, {}, prefix)


def write(folder, model):
    """Writes a model that the original scripts read as well.

    Beside Google's three files it leaves tokenizer_config.json, which holds the casing, and, for a
    model that has a description, bert_tools.json.

    Args:
      folder: str, absent or empty; it appears whole or not at all.
      model: Model.

    Raises:
      UserError: the folder is not empty or cannot be written, or the model does not fit this
      layout.
    """
    from absl import logging

    from bert_tools import checkpoints
    from bert_tools.hub import output_folder

    models.check_fits_google(model, folder, "Google's layout")
    if models.has_own_head(model):
        logging.warning(
            "%s: bert_tools honours head_pooling %s in bert_tools.json, the original scripts "
            "ignore it, and their outputs will differ",
            folder,
            model.meta["head_pooling"],
        )
    if model.config.hidden_act == "gelu_erf":
        logging.warning(
            "%s: these weights want the exact (erf) GELU; bert_tools honours the key gelu_form "
            "in bert_config.json, the original scripts ignore it, and their outputs will differ by "
            "up to 5e-3",
            folder,
        )
    if model.config.layer_norm_eps != _ORIGINAL_EPS:
        logging.warning(
            "%s: these weights want a layer_norm_eps of %g, which bert_tools honours; the original "
            "scripts compute with %g whatever bert_config.json says",
            folder,
            model.config.layer_norm_eps,
            _ORIGINAL_EPS,
        )
    with files.aside_folder(folder) as aside:
        files.write_json(os.path.join(aside, models.GOOGLE_CONFIG), model.config.to_google())
        models.write_vocabulary(os.path.join(aside, models.VOCABULARY), model.tokenizer)
        files.write_json(
            os.path.join(aside, models.TOKENIZER_CONFIG), models.casing_of(model.tokenizer)
        )
        if model.meta:
            output_folder.write_json(aside, model)
        checkpoints.write_variables(os.path.join(aside, _CHECKPOINT), model.weights)


def read_checkpoint(config, prefix):
    """Reads a checkpoint's encoder and heads.

    Args:
      config: BertConfig.
      prefix: str, as --init_checkpoint takes it: without .index; a folder stands for its newest
        checkpoint, as in the original.

    Returns:
      dict {name: float32 array}.

    Raises:
      UserError: there is none, it is damaged, or it does not fit the config.
    """
    from bert_tools import checkpoints

    if os.path.isdir(prefix):
        prefix = find_checkpoint(prefix)
    return models.check_weights(config, checkpoints.read(prefix), prefix)


def find_checkpoint(folder):
    """The prefix of a folder's checkpoint: what `checkpoint` names, else the only one there is.

    Raises:
      UserError: there is none, or there are several and no file `checkpoint`.
    """
    from bert_tools import checkpoints

    newest = checkpoints.latest(folder)
    if newest and os.path.exists(os.path.join(folder, "checkpoint")):
        if os.path.dirname(os.path.abspath(newest)) != os.path.abspath(folder):
            raise UserError(
                f"{os.path.join(folder, 'checkpoint')}: names {newest}, which is not in the "
                "folder; give --init_checkpoint with the one you mean"
            )
        return newest
    prefixes = _prefixes(folder)
    if not prefixes:
        raise UserError(
            f"{folder}: holds no checkpoint (no file ending in .index); "
            "restore it or give another folder"
        )
    if len(prefixes) > 1:
        raise UserError(
            f"{folder}: holds several checkpoints ({', '.join(prefixes)}) and no file `checkpoint` "
            "that names one; give --init_checkpoint with the one you mean"
        )
    return os.path.join(folder, prefixes[0])


def casing(folder):
    """{key of CASING_KEYS: bool} as far as a folder tells: by its name, if it is one of Google's,
    else by tokenizer_config.json or bert_tools.json."""
    name = os.path.basename(os.path.abspath(folder))
    if name.startswith(_LOWER_CASED):
        return {"do_lower_case": True}
    if name.startswith(_CASED):
        return {"do_lower_case": False}
    return {
        **models.read_casing(os.path.join(folder, models.TOKENIZER_CONFIG)),
        **models.read_casing(os.path.join(folder, models.OUTPUT_DESCRIPTION)),
    }


def _prefixes(folder):
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    return [name[: -len(".index")] for name in names if name.endswith(".index")]
