"""Hugging Face's layout: config.json, model.safetensors (whole or in shards), and the tokenizer's
files.

The weights are the same numbers under other names, with the kernels transposed.
"""

import os
import re

import numpy as np

from bert_tools import files
from bert_tools.config import HUGGINGFACE_CLASSES, BertConfig
from bert_tools.errors import UserError
from bert_tools.hub import model as models
from bert_tools.tokenization import FullTokenizer

_WEIGHTS = "model.safetensors"
_SHARD_INDEX = "model.safetensors.index.json"
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
# What precedes an encoder's names where a head stands beside it.
_PREFIXES = {"xlm-roberta": "roberta."}
# The dense layer of these families' head for whole texts is BERT's pooler in all but the name.
_HEAD_DENSE = (("classifier.dense.", "pooler.dense."), ("classifier.out_proj.", "classifier."))
# Parts of names: a family's, and what BERT has or would have in their place. They are replaced in
# this order when reading, and in the opposite one when writing.
_RENAMED = {
    "roberta": _HEAD_DENSE,
    "xlm-roberta": _HEAD_DENSE,
    "electra": (("embeddings_project.", "embeddings.projection."), *_HEAD_DENSE),
    "distilbert": (
        ("transformer.layer.", "encoder.layer."),
        (".ffn.lin1.", ".intermediate.dense."),
        (".ffn.lin2.", ".output.dense."),
        (".output_layer_norm.", ".output.LayerNorm."),
        (".attention.q_lin.", ".attention.self.query."),
        (".attention.k_lin.", ".attention.self.key."),
        (".attention.v_lin.", ".attention.self.value."),
        (".attention.out_lin.", ".attention.output.dense."),
        (".sa_layer_norm.", ".attention.output.LayerNorm."),
        ("pre_classifier.", "pooler.dense."),
    ),
    "albert": (
        ("encoder.embedding_hidden_mapping_in.", "embeddings.projection."),
        (".albert_layer_groups.", ".group."),
        (".albert_layers.", ".inner_group."),
        (".ffn.", ".intermediate.dense."),
        (".ffn_output.", ".output.dense."),
        (".full_layer_layer_norm.", ".output.LayerNorm."),
        (".attention.query.", ".attention.self.query."),
        (".attention.key.", ".attention.self.key."),
        (".attention.value.", ".attention.self.value."),
        (".attention.dense.", ".attention.output.dense."),
        (".attention.LayerNorm.", ".attention.output.LayerNorm."),
        ("pooler.", "pooler.dense."),
    ),
}
_NUMBERED = re.compile(r"\.(layer|group|inner_group)\.(\d+)")
_SEVERAL_LABELS = "multi_label_classification"
_PROBLEM_TYPES = {_SEVERAL_LABELS: "multi_label", "single_label_classification": "classify"}
CHOICE = "choose"
_UNNAMED = re.compile(r"LABEL_\d+")  # What transformers calls classes without names.
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
# The classes that belong to these families; any of them does what BertTokenizer does.
_WORD_PIECE_CLASSES = {"distilbert": "DistilBertTokenizer", "electra": "ElectraTokenizer"}
_SUBWORD_CLASSES = tuple(
    f"{name}Tokenizer{fast}"
    for name in ("Roberta", "XLMRoberta", "Albert")
    for fast in ("", "Fast")
)
_SUBWORD_MODELS = ("BPE", "Unigram")
_SENTENCEPIECE = ("sentencepiece.bpe.model", "spiece.model")
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


def read_head_description(folder):
    """What a folder's config.json says of its classifier, as keys of bert_tools.json: "task" where
    it classifies tokens ("tag") or chooses one of several texts (CHOICE, which no command here
    does) or problem_type says that a text has several labels ("multi_label") or one ("classify"),
    "labels" where the classes have names of their own (not LABEL_0), in the order of its columns.
    The other way round of what `write` puts there.

    Args:
      folder: str; it need not have the file.

    Returns:
      dict, {} where it is no classifier or nothing is said.

    Raises:
      UserError: config.json is damaged.
    """
    path = os.path.join(folder, models.HUGGINGFACE_CONFIG)
    values = files.read_json(path) if os.path.exists(path) else {}
    kinds, names = str(values.get("architectures")), values.get("id2label")
    if "ForMultipleChoice" in kinds:
        return {"task": CHOICE}
    if "ForTokenClassification" in kinds:
        found = {"task": "tag"}
    elif "ForSequenceClassification" in kinds:
        task = _PROBLEM_TYPES.get(str(values.get("problem_type")))
        found = {"task": task} if task else {}
    else:
        return {}
    if isinstance(names, dict):
        labels = [names.get(str(index)) for index in range(len(names))]
        own = all(isinstance(name, str) and not _UNNAMED.fullmatch(name) for name in labels)
        if own and len(set(labels)) == len(labels) > 1:
            found["labels"] = labels
    return found


def write(folder, model):
    """Writes a model that transformers' from_pretrained reads.

    Heads go under the name of the transformers class that has them; those that no class has are
    left out with a warning. A model with a description keeps it, in bert_tools.json.

    Args:
      folder: str, absent or empty; it appears whole or not at all.
      model: Model.

    Raises:
      UserError: the folder is not empty, or cannot be written.
    """
    from absl import logging
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    from bert_tools.hub import output_folder

    models.check_known(model, folder)
    if models.has_own_head(model):
        model = model._replace(
            weights={n: w for n, w in model.weights.items() if n not in models.OUTPUT_WEIGHTS}
        )
        logging.warning(
            "%s: Hugging Face has no class for a head with head_pooling %s; left out",
            model.source,
            model.meta["head_pooling"],
        )
    tensors = _tensors(model)
    with files.aside_folder(folder) as aside:
        write_description(aside, model)
        if model.meta:
            output_folder.write_json(aside, model)
        path = os.path.join(aside, _WEIGHTS)
        with files.aside(path) as temporary:
            try:
                save_file(tensors, temporary, {"format": "pt"})
            except SafetensorError as error:
                raise UserError(
                    f"{path}: cannot be written ({error}); free space or choose another place"
                ) from error


def _tensors(model):
    """{Hugging Face's name: float32 array}; warns of those that it has no name for."""
    from absl import logging

    tensors, left_out = {}, []
    family = model.config.family
    # transformers wants the prefix exactly where there is a head.
    heads = any(not name.startswith("bert/") and _huggingface_name(name) for name in model.weights)
    rules = [*reversed(_RENAMED.get(family, ()))]
    if "SequenceClassification" not in "".join(_head_description(model).get("architectures", [])):
        rules = [rule for rule in rules if rule not in _HEAD_DENSE]
    for name, array in model.weights.items():
        theirs = _huggingface_name(name)
        if theirs is None:
            left_out.append(name)
            continue
        if name.endswith("/kernel"):
            array = array.T
        for family_part, bert_part in rules:
            theirs = theirs.replace(bert_part, family_part)
        # A dense layer that belongs to the head has no prefix.
        if heads and name.startswith("bert/") and "classifier." not in theirs:
            theirs = _prefix(family) + theirs
        tensors[theirs] = np.asarray(array, np.float32, order="C")
    if left_out:
        logging.warning(
            "%s: Hugging Face has no name for %s; left out",
            model.source,
            ", ".join(sorted(left_out)),
        )
    return tensors


def write_description(folder, model):
    """Writes config.json and the tokenizer's files: all of a model but its weights.

    Args:
      folder: str, must exist.
      model: Model.
    """
    config = {**model.config.to_huggingface(), **_head_description(model)}
    files.write_json(os.path.join(folder, models.HUGGINGFACE_CONFIG), config)
    if isinstance(model.tokenizer, FullTokenizer):
        kind = _WORD_PIECE_CLASSES.get(model.config.family, _TOKENIZER_CLASSES[0])
        tokenizer_config = {"tokenizer_class": kind, **models.casing_of(model.tokenizer)}
    else:
        tokenizer_config = _special_tokens(model)
    tokenizer_config["model_max_length"] = model.config.max_position_embeddings
    if model.config.type_vocab_size < 2:
        # Their tokenizer would number the second text 1, which these models have no row for.
        tokenizer_config["model_input_names"] = ["input_ids", "attention_mask"]
    models.write_tokenizer(folder, model.tokenizer)
    files.write_json(os.path.join(folder, models.TOKENIZER_CONFIG), tokenizer_config)


def _special_tokens(model):
    """What a tokenizer.json does not say of its special tokens and transformers wants to know."""
    tokenizer, config = model.tokenizer, model.config
    roles = {"cls": tokenizer.cls_id, "sep": tokenizer.sep_id, "unk": tokenizer.unk_id}
    pads = [tokenizer.vocab[token] for token in ("<pad>", "[PAD]") if token in tokenizer.vocab]
    roles["pad"] = pads[0] if pads else config.to_huggingface()["pad_token_id"]
    tokens = {
        f"{role}_token": tokenizer.convert_ids_to_tokens([index])[0]
        for role, index in roles.items()
        if index >= 0
    }
    masks = [token for token in ("<mask>", "[MASK]") if token in tokenizer.vocab]
    return {
        "tokenizer_class": _GENERIC_CLASSES[0],
        **tokens,
        **({"mask_token": masks[0]} if masks else {}),
    }


def _prefix(family):
    return _PREFIXES.get(family, f"{family}.")


def _huggingface_name(name):
    """The other way round; None for heads that Hugging Face has no class for."""
    if name in _HEADS:
        return _HEADS[name]
    if not name.startswith("bert/"):
        return None
    name = re.sub(r"/(layer|group|inner_group)_(\d+)", r"/\1/\2", name.removeprefix("bert/"))
    module, _, last = name.rpartition("/")
    if last.endswith("_embeddings"):
        module, last = f"{module}/{last}", "kernel"
    last = {"kernel": "weight", "gamma": "weight", "beta": "bias"}.get(last, last)
    return f"{module}/{last}".replace("/", ".")


def _head_description(model):
    """The keys of config.json that tell transformers which class these weights are."""
    names, meta = model.weights, model.meta
    bert = HUGGINGFACE_CLASSES[model.config.family]
    if "output_weights" in names:
        rows = names["output_weights"].shape[0]
        labels = meta.get("labels")
        if not isinstance(labels, list) or len(labels) != rows:
            labels = [f"LABEL_{index}" for index in range(rows)]
        kind = "Token" if meta.get("task") == "tag" else "Sequence"
        several = meta.get("task") == "multi_label"
        return {
            "architectures": [f"{bert}For{kind}Classification"],
            **({"problem_type": _SEVERAL_LABELS} if several else {}),
            "id2label": {str(index): str(label) for index, label in enumerate(labels)},
            "label2id": {str(label): index for index, label in enumerate(labels)},
        }
    if "cls/squad/output_weights" in names:
        return {"architectures": [f"{bert}ForQuestionAnswering"]}
    if "cls/predictions/output_bias" in names:
        next_sentence = "cls/seq_relationship/output_weights" in names
        return {"architectures": [f"{bert}For{'PreTraining' if next_sentence else 'MaskedLM'}"]}
    return {}


def _read_weights(folder, config):
    from absl import logging

    tensors, origins, left_out = {}, {}, []
    for path in _weight_files(folder):
        for theirs, array in read_tensors(path):
            name = _google_name(theirs, config.family)
            if name is None:
                if not theirs.endswith(_REDUNDANT):
                    left_out.append(theirs)
                continue
            if name in tensors:
                # A RoBERTa's file may keep BERT's pooler beside the head's own, which counts.
                of_head = [_HEAD_DENSE[0][0] in n for n in (theirs, origins[name])]
                if of_head[0] == of_head[1]:
                    raise UserError(f"{path}: holds {theirs} under two names; restore the file")
                if of_head[1]:
                    continue
            origins[name] = theirs
            # Copied here, so that no tensor is in memory twice but this one.
            tensors[name] = np.ascontiguousarray(array.T) if name.endswith("/kernel") else array
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


def read_tensors(path):
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
    except AttributeError as error:  # NumPy has no such type: float8 and smaller.
        raise UserError(
            f"{path}: {name} is quantised ({error}); take the model's unquantised weights"
        ) from error
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{path}: not a readable safetensors file ({reason}); restore it from its source"
        ) from error


def _google_name(theirs, family):
    """Google's name of a tensor: encoder.layer.0.output.dense.weight, with or without the family's
    prefix, -> bert/encoder/layer_0/output/dense/kernel. None for what is no part of an encoder or
    known head.
    """
    theirs = theirs.removeprefix(_prefix(family))
    # Files from before 2019 call LayerNorm's weight and bias as Google does.
    theirs = theirs.replace("LayerNorm.gamma", "LayerNorm.weight")
    theirs = theirs.replace("LayerNorm.beta", "LayerNorm.bias")
    for family_part, bert_part in _RENAMED.get(family, ()):
        theirs = theirs.replace(family_part, bert_part)
    if theirs in _GOOGLE_NAMES:
        return _GOOGLE_NAMES[theirs]
    module, _, last = theirs.rpartition(".")
    if not module.startswith(("embeddings.", "encoder.", "pooler.")) or last not in _LAST:
        return None
    module = "bert/" + _NUMBERED.sub(r".\1_\2", module).replace(".", "/")
    if module.endswith("_embeddings"):
        return module if last == "weight" else None
    return f"{module}/{_LAST[last][module.endswith('LayerNorm')]}"


def _read_tokenizer(folder, config_values):
    """(FullTokenizer or SubwordTokenizer, the file its vocabulary came from)."""
    path = os.path.join(folder, models.TOKENIZER_CONFIG)
    settings = files.read_json(path) if os.path.exists(path) else {}
    kind = settings.get("tokenizer_class") or config_values.get("tokenizer_class")
    vocab_file = os.path.join(folder, models.VOCABULARY)
    known = (*_TOKENIZER_CLASSES, *_SUBWORD_CLASSES, *_GENERIC_CLASSES)
    if kind is not None and kind not in known:
        where = (
            models.TOKENIZER_CONFIG
            if settings.get("tokenizer_class")
            else models.HUGGINGFACE_CONFIG
        )
        raise UserError(
            f"{os.path.join(folder, where)}: tokenizer_class is {kind!r}; "
            "supported: BertTokenizer and its relatives, RobertaTokenizer, XLMRobertaTokenizer, "
            "AlbertTokenizer"
        )
    tokenizer_file = os.path.join(folder, models.TOKENIZER)
    whole = files.read_json(tokenizer_file) if os.path.exists(tokenizer_file) else {}
    if kind not in _TOKENIZER_CLASSES:
        subword = _read_subwords(folder, whole, settings)
        if subword is not None:
            return subword
        if kind in _SUBWORD_CLASSES:
            raise UserError(
                f"{folder}: holds none of a {kind}'s files ({models.TOKENIZER}, vocab.json with "
                f"merges.txt, {', '.join(_SENTENCEPIECE)}); fetch the model again, with them"
            )
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
            f"{folder}: holds neither {models.VOCABULARY} nor {models.TOKENIZER}; "
            "fetch the model again, with its vocabulary"
        )
    vocab = _word_pieces(whole, tokenizer_file)
    return models.make_tokenizer(casing, vocab=vocab), tokenizer_file


def _read_subwords(folder, whole, settings):
    """(SubwordTokenizer, its file) of a folder that has the files of one, else None.

    whole: dict, what tokenizer.json holds; it comes before the files that it was made from.
    settings: dict, what tokenizer_config.json holds.
    """
    from bert_tools import tokenization_subword

    model = whole.get("model")
    if whole:
        if not isinstance(model, dict) or model.get("type") not in _SUBWORD_MODELS:
            return None
        path = os.path.join(folder, models.TOKENIZER)
        return tokenization_subword.read_json(path), path
    paths = {name: os.path.join(folder, name) for name in ("vocab.json", *_SENTENCEPIECE)}
    there = [name for name, path in paths.items() if os.path.exists(path)]
    if not there:
        return None
    path = paths[there[0]]
    if there[0] == "vocab.json":
        merges = os.path.join(folder, "merges.txt")
        spaced = settings.get("add_prefix_space", False) is True
        return tokenization_subword.read_byte_level_bpe(path, merges, spaced), path
    if there[0] == "sentencepiece.bpe.model":
        return tokenization_subword.read_xlm_roberta(path), path
    tokenizer = tokenization_subword.read_albert(
        path,
        settings.get("do_lower_case", True) is True,
        settings.get("keep_accents", False) is True,
    )
    return tokenizer, path


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
