"""The folder that a training command leaves: bert_config.json, vocabulary, checkpoints, and
bert_tools.json, which says what the model is for.

Where Google's bert_config.json and vocab.txt cannot express a model (another family, another kind
of tokenizer), Hugging Face's files stand in their place: config.json, tokenizer.json,
tokenizer_config.json.

    {"format_version": 1, "family": "bert", "task": "regress", "task_name": "sim", "pairs": true,
     "value_range": null, "max_seq_length": 128, "do_lower_case": true, "strip_accents": true,
     "tokenize_chinese_chars": true, "vocab_file": "vocab.txt"}

Keys that are not known here are kept and handed on as they stand.
"""

import os

from bert_tools import files
from bert_tools.config import FAMILIES, SAVED_MODEL, BertConfig
from bert_tools.errors import UserError
from bert_tools.hub import google, huggingface, sentence_transformers, tf_hub
from bert_tools.hub import model as models
from bert_tools.tokenization import FullTokenizer

FORMAT_VERSION = 1


def holds(folder):
    """Whether a folder is in this layout."""
    return os.path.exists(os.path.join(folder, models.OUTPUT_DESCRIPTION))


def read(folder):
    """Reads a folder: its best checkpoint if a metric picked one, else its newest, or its
    safetensors where it has a config.json.

    Args:
      folder: str.

    Returns:
      Model; meta is what bert_tools.json holds.

    Raises:
      UserError: there is no checkpoint yet, or a file is missing, damaged or of a newer version.
    """
    from bert_tools import checkpoints

    path = os.path.join(folder, models.OUTPUT_DESCRIPTION)
    meta = _read_description(path)
    # A description lies in every kind of folder that this project writes.
    if not os.path.exists(os.path.join(folder, models.GOOGLE_CONFIG)) and huggingface.holds(folder):
        layout = sentence_transformers if sentence_transformers.holds(folder) else huggingface
        return layout.read(folder)._replace(meta=meta)
    # Trained, a SavedModel's graph has its weights in checkpoints.
    if tf_hub.holds(folder) and meta["family"] != SAVED_MODEL:
        return tf_hub.read(folder)._replace(meta=meta)
    config = read_config(folder)
    if config.graph is not None:
        tf_hub.warn_of_graph(folder, config)
    tokenizer = read_tokenizer(folder, config)
    found = checkpoints.read_best(folder)
    if found:
        prefix, weights = found[0], models.check_weights(config, found[1], found[0])
    else:
        prefix = google.find_checkpoint(folder)
        weights = google.read_checkpoint(config, prefix)
    return models.Model(config, weights, tokenizer, meta, prefix)


def config_file(folder):
    """The path of a folder's config: Google's, or where there is none Hugging Face's, or the graph
    that stands for it.
    """
    path, *others = (
        os.path.join(folder, name)
        for name in (models.GOOGLE_CONFIG, models.HUGGINGFACE_CONFIG, tf_hub.MODEL)
    )
    return next((name for name in (path, *others) if os.path.exists(name)), path)


def read_config(folder):
    """The BertConfig of config_file(folder)."""
    path = config_file(folder)
    if os.path.basename(path) == tf_hub.MODEL:
        return tf_hub.graph_config(folder)
    return BertConfig.from_json_file(path)


def read_tokenizer(folder, config):
    """The tokenizer of a folder in this layout, checked against its BertConfig."""
    path = os.path.join(folder, models.OUTPUT_DESCRIPTION)
    meta = _read_description(path)
    vocab_file = os.path.join(folder, _vocabulary_name(meta, path))
    if os.path.basename(vocab_file) == models.TOKENIZER:
        from bert_tools import tokenization_subword

        tokenizer = tokenization_subword.read_json(vocab_file)
    else:
        tokenizer = models.make_tokenizer(models.check_casing(meta, path), vocab_file)
    models.check_vocabulary(config, tokenizer, vocab_file)
    return tokenizer


def write_description(folder, model, meta):
    """Writes all of a folder but the checkpoints, so that it is self-contained before the first.

    Args:
      folder: str, must exist.
      model: Model; its config and tokenizer are written, its weights are not looked at.
      meta: dict that JSON can hold: task, labels, value_range, max_seq_length, pooling. Casing,
        family, version and vocabulary are added.

    Raises:
      UserError: a file cannot be written.
    """
    if model.config.graph is not None:
        tf_hub.write_graph(folder, model.config.graph)
        models.write_tokenizer(folder, model.tokenizer)
    elif models.fits_google(model):
        files.write_json(os.path.join(folder, models.GOOGLE_CONFIG), model.config.to_google())
        models.write_tokenizer(folder, model.tokenizer)
    else:
        huggingface.write_description(folder, model)
    write_json(folder, model._replace(meta=meta))


def write_json(folder, model):
    """Writes bert_tools.json alone, from a model's meta and tokenizer."""
    if isinstance(model.tokenizer, FullTokenizer):
        casing, name = models.casing_of(model.tokenizer), models.VOCABULARY
    else:
        casing, name = {}, models.TOKENIZER
    description = {
        **model.meta,
        "format_version": FORMAT_VERSION,
        "family": model.config.family,
        **casing,
        "vocab_file": name,
    }
    files.write_json(os.path.join(folder, models.OUTPUT_DESCRIPTION), description)


def _read_description(path):
    meta = files.read_json(path)
    version = meta.get("format_version")
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise UserError(
            f"{path}: format_version is {version!r}, this bert_tools reads {FORMAT_VERSION}; "
            "restore the file or use the bert_tools that wrote it"
        )
    if meta.get("family") not in (*FAMILIES, SAVED_MODEL):
        raise UserError(
            f"{path}: family is {meta.get('family')!r}; supported: {', '.join(FAMILIES)}"
        )
    return meta


def _vocabulary_name(meta, path):
    name = meta.get("vocab_file", models.VOCABULARY)
    if not isinstance(name, str) or name in ("", ".", "..") or os.path.basename(name) != name:
        raise UserError(
            f"{path}: vocab_file is {name!r}, expected the name of a file in the folder; correct it"
        )
    return name
