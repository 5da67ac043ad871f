"""BERT's relatives. Expected numbers (tests/data/families.json) are transformers 4.57's, of models
whose weights come from the same formula as here; logits those of its ...ForSequenceClassification.
"""

import dataclasses
import json
import math
import os
import zlib

import hub_toys as toys
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file

from bert_tools import checkpoints, encoder, hub
from bert_tools.config import BertConfig
from bert_tools.errors import UserError
from bert_tools.estimator import Estimator, RunConfig
from bert_tools.hub import google, huggingface, output_folder, sentence_transformers
from bert_tools.inputs.batches import input_fn_builder
from bert_tools.inputs.features import Features
from bert_tools.model_fn import model_fn_builder
from bert_tools.tasks.classify import Classification

DATA = os.path.join(os.path.dirname(__file__), "../data/families.json")
with open(DATA, encoding="utf-8") as reader:
    FAMILIES = json.load(reader)
TOKENS = toys.TOKENS + [f"word{index}" for index in range(40 - len(toys.TOKENS))]
IDS = np.array([[2, 5, 6, 7, 8, 9, 3], [2, 30, 31, 3, 0, 0, 0]], np.int32)
BATCH = {
    "input_ids": IDS,
    "input_mask": np.array([[1] * 7, [1, 1, 1, 1, 0, 0, 0]], np.int32),
    "segment_ids": np.array([[0, 0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0, 0]], np.int32),
}
SEEN = BATCH["input_mask"] > 0


def tensors(family, head=False):
    """{name: array}: as transformers saves a base model, or one with a classifier's head."""
    known = FAMILIES[family]
    prefix = known["prefix"] if head else ""
    shapes = {prefix + name: shape for name, shape in known["shapes"].items()}
    if head:
        # A class with a head of its own has no pooler beside it.
        if any(".dense" in name for name in known["head_shapes"]):
            shapes = {n: shape for n, shape in shapes.items() if "pooler" not in n}
        shapes.update(known["head_shapes"])
    return {
        name: toys.toy_array(shape, zlib.crc32(name.removeprefix(prefix).encode()) % 1000)
        for name, shape in shapes.items()
    }


def write(folder, family, head=False, config=None, weights=None):
    folder = str(folder)
    toys.write_huggingface(folder, tensors(family, head) if weights is None else weights)
    toys.write_json(f"{folder}/config.json", {**FAMILIES[family]["config"], **(config or {})})
    toys.write_vocabulary(f"{folder}/vocab.txt", TOKENS)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_those_of_transformers(tmp_path, family):
    known = FAMILIES[family]
    model = hub.load(write(tmp_path, family))
    assert model.config.family == family and model.config.max_position_embeddings == 16
    assert sum(array.size for array in model.weights.values()) == known["parameters"]
    assert model.weights.keys() <= encoder.weight_shapes(model.config).keys()
    output = encoder.encode(model.config, model.weights, BATCH)
    assert len(output.layers) == len(known["layers"]) == model.config.num_hidden_layers + 1
    for found, expected in zip(output.layers, known["layers"], strict=True):
        np.testing.assert_allclose(found.numpy()[SEEN], np.array(expected)[SEEN], atol=1e-5)
    if known["pooled"] is None:
        assert output.pooled_output is None
    else:
        np.testing.assert_allclose(output.pooled_output, known["pooled"], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_give_the_same(tmp_path, family):
    model = hub.load(write(tmp_path, family, head=True))
    packed = {
        "input_ids": np.concatenate([IDS[0], IDS[1, :4], [0]])[None],
        "input_mask": np.array([[1] * 7 + [2] * 4 + [0]], np.int32),
        "segment_ids": np.concatenate([BATCH["segment_ids"][SEEN], [0]])[None].astype(np.int32),
        "position_ids": np.array([[*range(7), *range(4), 0]], np.int32),
        "first_positions": np.array([0, 7], np.int32),
    }
    found = encoder.encode(model.config, model.weights, packed)
    expected = encoder.encode(model.config, model.weights, BATCH)
    sequence = expected.sequence_output.numpy()[SEEN]
    np.testing.assert_allclose(found.sequence_output[0, :11], sequence, atol=1e-5)
    np.testing.assert_allclose(found.pooled_output, expected.pooled_output, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_classifiers_head_is_loaded(tmp_path, family):
    model = hub.load(write(tmp_path, family, head=True))
    pooled = encoder.encode(model.config, model.weights, BATCH).pooled_output
    logits = pooled @ model.weights["output_weights"].T + model.weights["output_bias"]
    np.testing.assert_allclose(logits, FAMILIES[family]["logits"], atol=1e-5)


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip(tmp_path, family, head):
    """What is written is what was read: names, bits and, as far as it says anything, config."""
    first = hub.load(write(tmp_path / "first", family, head))
    huggingface.write(str(tmp_path / "second"), first)
    toys.assert_same(first, hub.load(str(tmp_path / "second")))
    expected = tensors(family, head)
    found = load_file(tmp_path / "second" / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    with open(tmp_path / "second" / "config.json", encoding="utf-8") as reader:
        written = json.load(reader)
    for key, value in FAMILIES[family]["config"].items():
        assert written.get(key, value) == value, key
    kind = "ForSequenceClassification" if head else "Model"
    assert written["architectures"][0].endswith(kind)


def examples(count=8):
    """Features of examples of three to six tokens, and a class each."""
    lengths = [3 + index % 4 for index in range(count)]
    ids = [[2, *(5 + (7 * index + place) % 30 for place in range(length - 2)), 3]
           for index, length in enumerate(lengths)]  # fmt: skip
    flat = np.concatenate(ids).astype(np.int32)
    columns = {
        "label_ids": np.arange(count) % 2,
        "is_real_example": np.ones(count, np.int64),
    }
    return Features(flat, np.zeros_like(flat), np.cumsum([0, *lengths]), columns)


@pytest.mark.parametrize("family", FAMILIES)
def test_ten_training_steps(tmp_path, family):
    """Trained, saved in an output folder, loaded from there: the same weights, all of which
    learned; converted there and back they are still the same.
    """
    model = hub.load(write(tmp_path / "model", family))
    task = Classification(["0", "1"])
    # The formula's attention is so sharp that some gradients vanish.
    wide = dataclasses.replace(model.config, initializer_range=0.3)
    weights = encoder.initial_weights(wide, seed=5)
    model_fn = model_fn_builder(model.config, 2, weights, 1e-3, 10, task=task)
    folder = str(tmp_path / "out")
    os.makedirs(folder)
    output_folder.write_description(folder, model, {"task": task.name, "labels": task.label_list})
    estimator = Estimator(model_fn, RunConfig(folder), {"batch_size": 4})
    estimator.train(input_fn_builder(examples(), 8, True), 10)
    trained = hub.load(folder)
    assert trained.config == model.config and trained.meta["family"] == family
    assert trained.tokenizer.fingerprint() == model.tokenizer.fingerprint()
    assert not os.path.exists(f"{folder}/bert_config.json")
    saved = checkpoints.read(checkpoints.latest(folder))
    assert saved["global_step"] == 10
    before = model_fn.initial_weights(RunConfig(None).seed)
    for name, array in before.items():
        np.testing.assert_array_equal(trained.weights[name], saved[name])
        assert np.isfinite(saved[name]).all()
        # The keys' bias cancels in the softmax.
        if not name.endswith("key/bias"):
            assert (saved[name] != array).any(), name
    for number, write_as in enumerate((sentence_transformers.write, huggingface.write)):
        write_as(str(tmp_path / str(number)), hub.load(folder))
        folder = str(tmp_path / str(number))
        toys.assert_same(trained, hub.load(folder))
        assert hub.load(folder).meta == trained.meta


@pytest.mark.parametrize("family", FAMILIES)
def test_googles_layout_is_refused(tmp_path, family):
    model = hub.load(write(tmp_path / "first", family))
    with pytest.raises(UserError, match=f"cannot hold a model of the type {family}"):
        google.write(str(tmp_path / "second"), model)
    assert not os.path.exists(tmp_path / "second")


def test_roberta_keeps_the_pooler_of_its_head(tmp_path):
    """A file that holds BERT's pooler too, in whichever order."""
    weights = tensors("roberta", head=True)
    for place, (name, shape) in enumerate({"weight": (8, 8), "bias": (8,)}.items()):
        weights[f"roberta.pooler.dense.{name}"] = toys.toy_array(shape, place)
    model = hub.load(write(tmp_path, "roberta", weights=weights))
    expected = weights["classifier.dense.weight"].T
    np.testing.assert_array_equal(model.weights["bert/pooler/dense/kernel"], expected)


def test_other_heads_are_named_in_a_warning(tmp_path, caplog):
    weights = tensors("electra")
    weights["discriminator_predictions.dense.weight"] = np.ones((8, 8), np.float32)
    model = hub.load(write(tmp_path, "electra", weights=weights))
    assert "discriminator_predictions.dense.weight" in caplog.text
    assert not [name for name in model.weights if not name.startswith("bert/")]


def test_too_many_tokens(tmp_path):
    """514 rows of RoBERTa's table are 512 positions."""
    model = hub.load(write(tmp_path, "roberta"))
    ids = np.full((1, 17), 5, np.int32)
    encoder.encode(model.config, model.weights, {"input_ids": ids[:, :16]})
    with pytest.raises(ValueError, match="17 tokens a row, the model 16 positions"):
        encoder.encode(model.config, model.weights, {"input_ids": ids})


@pytest.mark.parametrize(
    ("family", "config", "match"),
    [
        ("albert", {"num_hidden_groups": 5}, "num_hidden_groups 5 is more than num_hidden_layers"),
        ("albert", {"inner_group_num": 10**9}, "group_num 2000000000"),
        ("albert", {"inner_group_num": 0}, "inner_group_num is 0"),
        ("albert", {"embedding_size": 7}, r"has shape \[40, 6\], the config expects \[40, 7\]"),
        ("electra", {"embedding_size": 8}, r"has shape \[40, 6\], the config expects \[40, 8\]"),
        ("electra", {"embedding_size": "6"}, "embedding_size is '6'"),
        ("roberta", {"pad_token_id": None}, "pad_token_id is None"),
        ("roberta", {"pad_token_id": 17}, "pad_token_id is 17"),
        ("roberta", {"type_vocab_size": 0}, "type_vocab_size is 0"),
        ("distilbert", {"n_heads": 3}, "hidden_size 8 is not a multiple"),
    ],
)
def test_configs_that_do_not_fit(tmp_path, family, config, match):
    with pytest.raises(UserError, match=match):
        hub.load(write(tmp_path, family, config=config))


@pytest.mark.parametrize("kind", ["deberta-v2", "mpnet", "gpt2", None])
def test_unsupported_model_types(tmp_path, kind):
    supported = "bert, roberta, xlm-roberta, distilbert, albert, electra"
    with pytest.raises(UserError, match=rf"model_type is {kind!r}; supported: {supported}$"):
        hub.load(write(tmp_path, "roberta", config={"model_type": kind}))


def test_a_batch_of_pairs_for_a_model_of_one_type(tmp_path):
    model = hub.load(write(tmp_path, "roberta"))
    ones = {**BATCH, "segment_ids": np.zeros_like(IDS)}
    found, expected = (
        encoder.encode(model.config, model.weights, batch).sequence_output
        for batch in (BATCH, ones)
    )
    tf.debugging.assert_equal(found, expected)


PUBLISHED = {
    # Devlin et al. 2019 give 110M and 340M, Liu et al. 2019 125M; these are their checkpoints'.
    "bert-base-uncased": (109_482_240, "bert", {}),
    "bert-base-cased": (108_310_272, "bert", {"vocab_size": 28996}),
    "bert-base-chinese": (102_267_648, "bert", {"vocab_size": 21128}),
    "bert-base-multilingual-cased": (177_853_440, "bert", {"vocab_size": 119547}),
    "bert-large-uncased": (
        335_141_888,
        "bert",
        {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
        },
    ),
    "roberta-base": (
        124_645_632,
        "roberta",
        {"max_position_embeddings": 514, "type_vocab_size": 1},
    ),
    "xlm-roberta-base": (
        278_043_648,
        "xlm-roberta",
        {"vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1},
    ),
    "albert-base-v2": (
        11_683_584,
        "albert",
        {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    ),
    # These two have no pooler, but in its place here the dense layer of a head.
    "distilbert-base-uncased": (66_362_880 + 768 * 769, "distilbert", {}),
    "electra-small-discriminator": (13_483_008 + 256 * 257, "electra", {"num_hidden_layers": 12}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name):
    count, family, values = PUBLISHED[name]
    config = BertConfig.from_huggingface({"model_type": family, **values})
    assert sum(math.prod(shape) for shape in encoder.weight_shapes(config).values()) == count


@pytest.mark.parametrize("name", ["chinese-macbert-base", "chinese-roberta-wwm-ext", "MiniLM-L12"])
def test_berts_under_other_names(tmp_path, name):
    """Whatever a model is called, its config.json says that it is a BERT; these keys are theirs."""
    config = {
        "_name_or_path": name,
        "architectures": ["BertForMaskedLM"],
        "directionality": "bidi",
        "pooler_fc_size": 768,
        "pooler_type": "first_token_transform",
        "output_past": True,
    }
    plain = hub.load(toys.write_huggingface(tmp_path / "plain"))
    tensors = {f"bert.{key}": array for key, array in toys.huggingface_tensors().items()}
    tensors["cls.predictions.bias"] = np.zeros(13, np.float32)
    model = hub.load(toys.write_huggingface(tmp_path / name, tensors, config))
    assert model.config == plain.config and "cls/predictions/output_bias" in model.weights
    for key, array in plain.weights.items():
        np.testing.assert_array_equal(model.weights[key], array)
