"""Hugging Face's layout: config.json, model.safetensors (whole or in shards), vocab.txt or
tokenizer.json.

The weights are the same numbers under other names, with the kernels transposed.
"""

import os

import numpy as np

from bert_tools import files
from bert_tools.config import BertConfig
from bert_tools.errors import UserError
from bert_tools.hub import model as models

_WEIGHTS = "model.safetensors"
_SHARD_INDEX = "model.safetensors.index.json"
_TOKENIZER = "tokenizer.json"
# Google's and Hugging Face's names of the heads.
_HEADS = {
    "output_weights": "classifier.weight",
    "output_bias": "classifier.bias",
    "cls/squad/output_weights": "qa_outputs.weight",
    "cls/squad/output_bias": "qa_outputs.bias",
    "cls/predictions/transform/dense/kernel": "cls.predictions.transform.dense.weight",
    "cls/predictions/transform/dense/bias": "cls.predictions.transform.dense.bias",
    "cls/predictions/transform/LayerNorm/gamma": "cls.predictions.transform.LayerNorm.weight",
    "cls/predictions/transform/LayerNorm/beta": "cls.predictions.transform.LayerNorm.bias",
    "cls/predictions/output_bias": "cls.predictions.bias",
    "cls/seq_relationship/output_weights": "cls.seq_relationship.weight",
    "cls/seq_relationship/output_bias": "cls.seq_relationship.bias",
}
_GOOGLE_NAMES = {theirs: name for name, theirs in _HEADS.items()}
# The last part of a name: theirs, then Google's for a dense layer and for LayerNorm.
_LAST = {"weight": ("kernel", "gamma"), "bias": ("bias", "beta")}
# Tensors that say nothing new: a counter, and copies of the embedding table and a bias.
_REDUNDANT = ("position_ids", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
# Tokenizers of Hugging Face that split text as BERT's does; another one on the same vocabulary
# (BertJapaneseTokenizer) would give other ids.
_TOKENIZER_CLASSES = (
    "BertTokenizer",
    "BertTokenizerFast",
    "DistilBertTokenizer",
    "DistilBertTokenizerFast",
    "ElectraTokenizer",
    "ElectraTokenizerFast",
)
# Their class for "whatever tokenizer.json says".
_GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")


def holds(folder):
    """Whether a folder is in this layout."""
    names = os.listdir(folder)
    return models.HUGGINGFACE_CONFIG in names and (
        _SHARD_INDEX in names or any(name.endswith(".safetensors") for name in names)
    )


def read(folder):
    """Reads a folder. Pickles (pytorch_model.bin) are never opened.

    Args:
      folder: str.

    Returns:
      Model, its source being the folder.

    Raises:
      UserError: a file is missing or damaged, the parts do not fit each other, or the model or
      its tokenizer is of a kind that is not BERT's.
    """
    config_file = os.path.join(folder, models.HUGGINGFACE_CONFIG)
    values = files.read_json(config_file)
    try:
        config = BertConfig.from_huggingface(values)
    except UserError as error:
        raise UserError(f"{config_file}: {error}") from error
    tokenizer, vocab_file = _read_tokenizer(folder, values)
    models.check_vocabulary(config, tokenizer, vocab_file)
    return models.Model(config, _read_weights(folder, config), tokenizer, {}, folder)


def write(folder, model):
    """Writes a model that transformers' from_pretrained reads.

    Heads go under the name of the transformers class that has them; those that no class has are
    left out with a warning. A model with a description keeps it, in bert_tools.json.

    Args:
      folder: str, made if absent; must not hold a model.
      model: Model.

    Raises:
      UserError: the folder holds a model, or cannot be written.
    """
    from absl import logging
    from safetensors.numpy import save_file

    from bert_tools.hub import output_folder

    models.new_folder(folder)
    tensors, left_out = {}, []
    # transformers wants the prefix exactly where there is a head.
    heads = any(not name.startswith("bert/") and _huggingface_name(name) for name in model.weights)
    for name, array in model.weights.items():
        theirs = _huggingface_name(name)
        if theirs is None:
            left_out.append(name)
            continue
        if name.endswith("/kernel"):
            array = array.T
        prefix = "bert." if heads and name.startswith("bert/") else ""
        tensors[prefix + theirs] = np.asarray(array, np.float32, order="C")
    if left_out:
        logging.warning(
            "%s: Hugging Face has no name for %s; left out", folder, ", ".join(sorted(left_out))
        )
    config = {**model.config.to_huggingface(), **_head_description(model)}
    files.write_json(os.path.join(folder, models.HUGGINGFACE_CONFIG), config)
    models.write_vocabulary(os.path.join(folder, models.VOCABULARY), model.tokenizer)
    tokenizer_config = {
        "tokenizer_class": "BertTokenizer",
        **models.casing_of(model.tokenizer),
        "model_max_length": model.config.max_position_embeddings,
    }
    files.write_json(os.path.join(folder, models.TOKENIZER_CONFIG), tokenizer_config)
    if model.meta:
        output_folder.write_json(folder, model)
    with files.aside(os.path.join(folder, _WEIGHTS)) as temporary:
        save_file(tensors, temporary, {"format": "pt"})


def _huggingface_name(name):
    """The other way round; None for heads that Hugging Face has no class for."""
    if name in _HEADS:
        return _HEADS[name]
    if not name.startswith("bert/"):
        return None
    module, _, last = name.removeprefix("bert/").replace("/layer_", "/layer/").rpartition("/")
    if last.endswith("_embeddings"):
        module, last = f"{module}/{last}", "kernel"
    last = {"kernel": "weight", "gamma": "weight", "beta": "bias"}.get(last, last)
    return f"{module}/{last}".replace("/", ".")


def _head_description(model):
    """The keys of config.json that tell transformers which class these weights are."""
    names, meta = model.weights, model.meta
    if "output_weights" in names:
        rows = names["output_weights"].shape[0]
        labels = meta.get("labels")
        if not isinstance(labels, list) or len(labels) != rows:
            labels = [f"LABEL_{index}" for index in range(rows)]
        kind = "Token" if meta.get("task") == "ner" else "Sequence"
        return {
            "architectures": [f"BertFor{kind}Classification"],
            "id2label": {str(index): str(label) for index, label in enumerate(labels)},
            "label2id": {str(label): index for index, label in enumerate(labels)},
        }
    if "cls/squad/output_weights" in names:
        return {"architectures": ["BertForQuestionAnswering"]}
    if "cls/predictions/output_bias" in names:
        next_sentence = "cls/seq_relationship/output_weights" in names
        return {"architectures": [f"BertFor{'PreTraining' if next_sentence else 'MaskedLM'}"]}
    return {}


def _read_weights(folder, config):
    from absl import logging

    tensors, left_out = {}, []
    for path in _weight_files(folder):
        for theirs, array in _read_tensors(path):
            name = _google_name(theirs)
            if name is None:
                if not theirs.endswith(_REDUNDANT):
                    left_out.append(theirs)
                continue
            if name in tensors:
                raise UserError(f"{path}: holds {theirs} under two names; restore the file")
            tensors[name] = array.T if name.endswith("/kernel") else array
    if left_out:
        logging.warning(
            "%s: left out %d tensors that belong to no BERT encoder or known head (the first: %s)",
            folder,
            len(left_out),
            min(left_out),
        )
    return models.check_weights(config, tensors, path)


def _weight_files(folder):
    """The paths of a folder's safetensors: the whole file, the shards, or the only one."""
    names = sorted(name for name in os.listdir(folder) if name.endswith(".safetensors"))
    if _WEIGHTS in names:
        return [os.path.join(folder, _WEIGHTS)]
    index_file = os.path.join(folder, _SHARD_INDEX)
    if os.path.exists(index_file):
        weight_map = files.read_json(index_file).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise UserError(f"{index_file}: lacks the object weight_map; restore it")
        for name in weight_map.values():
            if not isinstance(name, str) or not name.endswith(".safetensors") or "/" in name:
                raise UserError(
                    f"{index_file}: names the file {name!r}, expected a .safetensors in the same "
                    "folder; restore it from its source"
                )
        return [os.path.join(folder, name) for name in sorted(set(weight_map.values()))]
    if len(names) != 1:
        raise UserError(
            f"{folder}: holds {len(names)} safetensors files ({', '.join(names)}) and neither "
            f"{_WEIGHTS} nor {_SHARD_INDEX}; rename the one that holds the model to {_WEIGHTS}"
        )
    return [os.path.join(folder, names[0])]


def _read_tensors(path):
    """Yields (name, array) of a safetensors file, one tensor in memory at a time."""
    # Registers bfloat16 with NumPy, which alone does not know the name.
    import ml_dtypes  # noqa: F401
    from safetensors import SafetensorError, safe_open

    if not os.path.exists(path):
        raise UserError(f"{path}: no such file; fetch the model again, with all its shards")
    try:
        with safe_open(path, "np") as reader:
            for name in reader.keys():  # noqa: SIM118 (not a dict)
                yield name, reader.get_tensor(name)
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{path}: not a readable safetensors file ({reason}); restore it from its source"
        ) from error


def _google_name(theirs):
    """Google's name of a tensor: encoder.layer.0.output.dense.weight, with or without "bert.", ->
    bert/encoder/layer_0/output/dense/kernel. None for what is no part of an encoder or known head.
    """
    theirs = theirs.removeprefix("bert.")
    # Files from before 2019 call LayerNorm's weight and bias as Google does.
    theirs = theirs.replace("LayerNorm.gamma", "LayerNorm.weight")
    theirs = theirs.replace("LayerNorm.beta", "LayerNorm.bias")
    if theirs in _GOOGLE_NAMES:
        return _GOOGLE_NAMES[theirs]
    module, _, last = theirs.rpartition(".")
    if not module.startswith(("embeddings.", "encoder.", "pooler.")) or last not in _LAST:
        return None
    module = "bert/" + module.replace(".layer.", ".layer_").replace(".", "/")
    if module.endswith("_embeddings"):
        return module if last == "weight" else None
    return f"{module}/{_LAST[last][module.endswith('LayerNorm')]}"


def _read_tokenizer(folder, config_values):
    """(FullTokenizer, the file its vocabulary came from)."""
    path = os.path.join(folder, models.TOKENIZER_CONFIG)
    settings = files.read_json(path) if os.path.exists(path) else {}
    kind = settings.get("tokenizer_class") or config_values.get("tokenizer_class")
    vocab_file = os.path.join(folder, models.VOCABULARY)
    if kind is not None and kind not in _TOKENIZER_CLASSES and kind not in _GENERIC_CLASSES:
        where = (
            models.TOKENIZER_CONFIG
            if settings.get("tokenizer_class")
            else models.HUGGINGFACE_CONFIG
        )
        raise UserError(
            f"{os.path.join(folder, where)}: tokenizer_class is {kind!r}; "
            "supported: BertTokenizer and its relatives"
        )
    tokenizer_file = os.path.join(folder, _TOKENIZER)
    whole = files.read_json(tokenizer_file) if os.path.exists(tokenizer_file) else {}
    # sentence_bert_config.json has a do_lower_case too, which means something else: it is false in
    # uncased models.
    casing = {
        **_normalizer_casing(whole, tokenizer_file),
        **models.check_casing(settings, path),
    }
    if os.path.exists(vocab_file):
        return models.make_tokenizer(casing, vocab_file), vocab_file
    if not whole:
        raise UserError(
            f"{folder}: holds neither {models.VOCABULARY} nor {_TOKENIZER}; "
            "fetch the model again, with its vocabulary"
        )
    vocab = _word_pieces(whole, tokenizer_file)
    return models.make_tokenizer(casing, vocab=vocab), tokenizer_file


def _normalizer_casing(whole, path):
    """The casing in a tokenizer.json, {} when its normaliser is not BERT's."""
    normalizer = whole.get("normalizer")
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        return {}
    values = {
        "do_lower_case": normalizer.get("lowercase"),
        "strip_accents": normalizer.get("strip_accents"),
        "tokenize_chinese_chars": normalizer.get("handle_chinese_chars"),
    }
    return models.check_casing(values, path)


def _word_pieces(whole, path):
    """{token: id} of a tokenizer.json that does what BERT's tokenizer does."""
    expected = (
        ("model", "type", "WordPiece"),
        ("model", "continuing_subword_prefix", "##"),
        ("normalizer", "type", "BertNormalizer"),
        ("pre_tokenizer", "type", "BertPreTokenizer"),
    )
    for part, key, wanted in expected:
        values = whole.get(part)
        # Early files leave out the type of the model and what is the default.
        value = values.get(key, wanted) if isinstance(values, dict) else None
        if value != wanted:
            raise UserError(
                f"{path}: {part}.{key} is {value!r}, supported: {wanted!r}, as BERT has it; "
                f"give a folder with the model's {models.VOCABULARY}"
            )
    vocab = whole["model"].get("vocab")
    if not isinstance(vocab, dict):
        raise UserError(f"{path}: lacks the object model.vocab; restore it from its source")
    models.check_tokens(vocab, path)
    return dict(sorted(vocab.items(), key=lambda item: item[1]))
