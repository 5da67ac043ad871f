"""Hugging Face's layout in every form it is found in. Expected numbers are transformers 4.57's."""

import json
import os
import struct

import hub_toys as toys
import numpy as np
import pytest

from bert_tools import encoder, hub
from bert_tools.errors import UserError
from bert_tools.hub import google, huggingface

BATCH = {
    "input_ids": np.array([[2, 5, 6, 7, 3]], np.int32),
    "segment_ids": np.array([[0, 0, 0, 1, 1]], np.int32),
}


def rewritten(change):
    return {change(name): array for name, array in toys.huggingface_tensors().items()}


def write_bfloat16(path, tensors):
    """A safetensors file as PyTorch writes one from bfloat16; NumPy's writer knows no such type."""
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, array in tensors.items():
        # The upper half of a float32 is its bfloat16, cut.
        raw = (np.ascontiguousarray(array).view(np.uint32) >> 16).astype("<u2").tobytes()
        offsets = [len(body), len(body) + len(raw)]
        header[name] = {"dtype": "BF16", "shape": list(array.shape), "data_offsets": offsets}
        body += raw
    text = json.dumps(header).encode()
    with open(path, "wb") as writer:
        writer.write(struct.pack("<Q", len(text)) + text + body)


def test_outputs_are_those_of_transformers(tmp_path):
    model = hub.load(toys.write_huggingface(tmp_path))
    output = encoder.encode(model.config, model.weights, BATCH)
    np.testing.assert_allclose(
        output.sequence_output[0, 0, :5],
        [-0.849719226, 0.269631475, 0.288656950, -0.095560454, -0.870260239],
        atol=2e-6,
    )
    np.testing.assert_allclose(
        output.pooled_output[0, :5],
        [0.796756864, 0.328252196, -0.867536128, -0.875228882, 0.406110227],
        atol=2e-6,
    )
    assert model.source == str(tmp_path) and model.meta == {}
    assert list(model.weights) == list(encoder.weight_shapes(model.config))
    assert model.tokenizer.encode("The cats.") == [5, 6, 7, 12]


@pytest.mark.parametrize(
    "change",
    [
        lambda name: f"bert.{name}",
        lambda name: name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"),
        lambda name: f"bert.{name}".replace("Norm.weight", "Norm.gamma"),
    ],
    ids=["prefix", "gamma_beta", "prefix_gamma"],
)
def test_other_names_for_the_same_weights(tmp_path, change):
    plain = hub.load(toys.write_huggingface(tmp_path / "plain"))
    other = hub.load(toys.write_huggingface(tmp_path / "other", rewritten(change)))
    toys.assert_same(plain, other)


def test_without_pooler(tmp_path):
    tensors = toys.huggingface_tensors()
    tensors = {name: tensors[name] for name in tensors if not name.startswith("pooler.")}
    model = hub.load(toys.write_huggingface(tmp_path, tensors))
    assert not [name for name in model.weights if "pooler" in name]
    assert encoder.encode(model.config, model.weights, BATCH).pooled_output is None


def test_buffers_and_tied_copies_are_ignored(tmp_path):
    tensors = {f"bert.{name}": array for name, array in toys.huggingface_tensors().items()}
    tensors["bert.embeddings.position_ids"] = np.arange(16)[np.newaxis]
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    model = hub.load(toys.write_huggingface(tmp_path, tensors))
    assert list(model.weights) == list(encoder.weight_shapes(model.config))


@pytest.mark.parametrize(
    ("theirs", "ours", "shape"),
    [
        ("classifier.weight", "output_weights", (3, 8)),
        ("classifier.bias", "output_bias", (3,)),
        ("qa_outputs.weight", "cls/squad/output_weights", (2, 8)),
        ("qa_outputs.bias", "cls/squad/output_bias", (2,)),
        ("cls.predictions.bias", "cls/predictions/output_bias", (13,)),
        (
            "cls.predictions.transform.LayerNorm.gamma",
            "cls/predictions/transform/LayerNorm/gamma",
            (8,),
        ),
        ("cls.seq_relationship.weight", "cls/seq_relationship/output_weights", (2, 8)),
        ("cls.seq_relationship.bias", "cls/seq_relationship/output_bias", (2,)),
    ],
)
def test_heads(tmp_path, theirs, ours, shape):
    head = toys.toy_array(shape, 99)
    tensors = {f"bert.{name}": array for name, array in toys.huggingface_tensors().items()}
    model = hub.load(toys.write_huggingface(tmp_path, {**tensors, theirs: head}))
    np.testing.assert_array_equal(model.weights[ours], head)


def test_kernel_of_a_head_is_transposed(tmp_path):
    theirs = "cls.predictions.transform.dense.weight"
    kernel = toys.toy_array((8, 8), 99)
    tensors = {**toys.huggingface_tensors(), theirs: kernel}
    model = hub.load(toys.write_huggingface(tmp_path, tensors))
    ours = model.weights["cls/predictions/transform/dense/kernel"]
    np.testing.assert_array_equal(ours, kernel.T)
    assert ours.flags["C_CONTIGUOUS"]


def test_unknown_tensors_are_left_out_with_a_warning(tmp_path, caplog):
    tensors = {**toys.huggingface_tensors(), "crf.transitions": np.zeros((3, 3), np.float32)}
    model = hub.load(toys.write_huggingface(tmp_path, tensors))
    assert "crf.transitions" in caplog.text
    assert list(model.weights) == list(encoder.weight_shapes(model.config))


def test_fewer_layers_than_the_file_has(tmp_path, caplog):
    model = hub.load(toys.write_huggingface(tmp_path, config={"num_hidden_layers": 1}))
    assert "16 weights" in caplog.text
    assert list(model.weights) == list(encoder.weight_shapes(model.config))


def test_float16(tmp_path):
    tensors = {name: a.astype(np.float16) for name, a in toys.huggingface_tensors().items()}
    model = hub.load(toys.write_huggingface(tmp_path, tensors))
    word = model.weights["bert/embeddings/word_embeddings"]
    assert word.dtype == np.float32
    np.testing.assert_array_equal(word, tensors["embeddings.word_embeddings.weight"])


def test_bfloat16(tmp_path):
    folder = toys.write_huggingface(tmp_path)
    tensors = toys.huggingface_tensors()
    write_bfloat16(os.path.join(folder, "model.safetensors"), tensors)
    word = hub.load(folder).weights["bert/embeddings/word_embeddings"]
    assert word.dtype == np.float32
    np.testing.assert_allclose(word, tensors["embeddings.word_embeddings.weight"], rtol=2**-7)


def write_shards(folder):
    tensors = toys.huggingface_tensors()
    names = sorted(tensors)
    files = {
        "model-00001-of-00002.safetensors": names[:9],
        "model-00002-of-00002.safetensors": names[9:],
    }
    for file, some in files.items():
        toys.write_huggingface(folder, {name: tensors[name] for name in some}, name=file)
    weight_map = {name: file for file, some in files.items() for name in some}
    index = os.path.join(folder, "model.safetensors.index.json")
    toys.write_json(index, {"metadata": {}, "weight_map": weight_map})
    return index, weight_map


def test_shards(tmp_path):
    write_shards(tmp_path / "shards")
    whole = hub.load(toys.write_huggingface(tmp_path / "whole"))
    toys.assert_same(whole, hub.load(str(tmp_path / "shards")))


def test_missing_shard(tmp_path):
    write_shards(tmp_path)
    os.unlink(tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors: no such file"):
        hub.load(str(tmp_path))


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/x.safetensors", "sub/x.safetensors", 7, "x"]
)
def test_shard_outside_the_folder_is_refused(tmp_path, name):
    index, weight_map = write_shards(tmp_path / "model")
    toys.write_huggingface(tmp_path, name="x.safetensors")
    toys.write_json(index, {"weight_map": {**weight_map, "pooler.dense.bias": name}})
    with pytest.raises(UserError, match="names the file"):
        hub.load(str(tmp_path / "model"))


def test_only_file_has_another_name(tmp_path):
    folder = toys.write_huggingface(tmp_path, name="weights.safetensors")
    assert hub.load(folder).weights
    toys.write_huggingface(tmp_path, name="more.safetensors")
    with pytest.raises(UserError, match="2 safetensors files"):
        hub.load(folder)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (True, True, True)),
        ({"do_lower_case": False}, (False, False, True)),
        ({"do_lower_case": True, "strip_accents": False}, (True, False, True)),
        ({"do_lower_case": False, "strip_accents": True}, (False, True, True)),
        ({"do_lower_case": None, "tokenize_chinese_chars": False}, (True, True, False)),
    ],
)
def test_casing_from_tokenizer_config(tmp_path, settings, expected):
    folder = toys.write_huggingface(tmp_path)
    toys.write_json(tmp_path / "tokenizer_config.json", settings)
    # This one speaks of something else, and says false in uncased models.
    toys.write_json(tmp_path / "sentence_bert_config.json", {"do_lower_case": False})
    tokenizer = hub.load(folder).tokenizer
    found = tokenizer.do_lower_case, tokenizer.strip_accents, tokenizer.tokenize_chinese_chars
    assert found == expected


def write_tokenizer_json(folder, **changes):
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": False,
        "strip_accents": False,
        "lowercase": True,
    }
    vocab = {token: index for index, token in enumerate(toys.TOKENS)}
    model = {"type": "WordPiece", "continuing_subword_prefix": "##", "vocab": vocab}
    values = {
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": model,
        **changes,
    }
    toys.write_json(os.path.join(folder, "tokenizer.json"), values)


def test_tokenizer_json_alone(tmp_path):
    folder = toys.write_huggingface(tmp_path)
    os.unlink(tmp_path / "vocab.txt")
    write_tokenizer_json(folder)
    tokenizer = hub.load(folder).tokenizer
    assert not tokenizer.strip_accents and not tokenizer.tokenize_chinese_chars
    assert tokenizer.encode("The É 猫猫 猫") == [5, 8, 1, 11]
    toys.write_json(tmp_path / "tokenizer_config.json", {"strip_accents": True})
    assert hub.load(folder).tokenizer.encode("The É") == [5, 9]


def test_casing_from_tokenizer_json(tmp_path):
    folder = toys.write_huggingface(tmp_path)
    write_tokenizer_json(folder, normalizer={"type": "BertNormalizer", "lowercase": False})
    assert hub.load(folder).tokenizer.encode("E") == [10]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model": {"type": "WordLevel", "vocab": {}}}, "model.type is 'WordLevel'"),
        ({"model": {"type": "WordPiece", "vocab": {}}}, "lacks"),
        ({"model": {"type": "WordPiece", "vocab": []}}, "model.vocab"),
        ({"model": {"type": "WordPiece", "vocab": {"a": -1}}}, "expected a row number"),
        ({"model": {"type": "WordPiece", "vocab": {"\ud800": 1}}}, "no Unicode text"),
        ({"model": {"continuing_subword_prefix": "@@", "vocab": {}}}, "continuing_subword_prefix"),
        ({"model": None}, "model.type is None"),
        ({"normalizer": {"type": "Lowercase"}}, "normalizer.type is 'Lowercase'"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "pre_tokenizer.type is 'Whitespace'"),
    ],
)
def test_tokenizer_json_of_another_kind(tmp_path, changes, match):
    folder = toys.write_huggingface(tmp_path)
    os.unlink(tmp_path / "vocab.txt")
    write_tokenizer_json(folder, **changes)
    with pytest.raises(UserError, match=match):
        hub.load(folder)


@pytest.mark.parametrize(
    ("file", "values", "match"),
    [
        ("config.json", {"model_type": "mpnet"}, "config.json: model_type is 'mpnet'"),
        ("config.json", {"hidden_act": "golu"}, "config.json: hidden_act is 'golu'"),
        ("config.json", {"num_hidden_layers": 3}, "lacks the weight bert/encoder/layer_2/"),
        ("config.json", {"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000"),
        ("config.json", {"vocab_size": 14}, r"shape \[13, 8\], the config expects \[14, 8\]"),
        ("config.json", {"vocab_size": 12}, "vocab.txt: holds 13 tokens"),
        ("config.json", {"layer_norm_eps": float("nan")}, "layer_norm_eps is nan"),
        ("tokenizer_config.json", {"do_lower_case": "no"}, "do_lower_case is 'no'"),
        ("tokenizer_config.json", {"tokenizer_class": "BertJapaneseTokenizer"}, "Japanese"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, file, values, match):
    folder = toys.write_huggingface(tmp_path)
    base = toys.CONFIG if file == "config.json" else {}
    toys.write_json(tmp_path / file, {**base, **values})
    with pytest.raises(UserError, match=match):
        hub.load(folder)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda a: a.pop("encoder.layer.1.output.dense.bias"),
            "lacks the weight bert/encoder/layer_1",
        ),
        (lambda a: a.pop("pooler.dense.bias"), "lacks the weight bert/pooler/dense/bias"),
        (lambda a: a["pooler.dense.bias"].fill(np.nan), "bert/pooler/dense/bias holds NaN"),
        (lambda a: a["embeddings.LayerNorm.bias"].fill(np.inf), "LayerNorm/beta holds NaN or inf"),
        (lambda a: a.update({"pooler.dense.bias": np.zeros(8, np.int8)}), "holds int8"),
        (lambda a: a.update({"pooler.dense.bias": np.zeros((), np.float32)}), r"has shape \[\]"),
        (lambda a: a.update({"bert.pooler.dense.bias": np.zeros(8)}), "under two names"),
        (lambda a: a.clear(), "holds no weights of a BERT encoder"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, change, match):
    tensors = toys.huggingface_tensors()
    change(tensors)
    with pytest.raises(UserError, match=match):
        hub.load(toys.write_huggingface(tmp_path, tensors))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-5],
        lambda data: data[:40],
        lambda data: b"",
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data[:8] + b"[" + data[9:],
        lambda data: data.replace(b'"F32"', b'"F99"'),
    ],
    ids=["truncated", "header_cut", "empty", "huge_header", "no_json", "unknown_type"],
)
def test_damaged_safetensors(tmp_path, damage):
    folder = toys.write_huggingface(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="not a readable safetensors file"):
        hub.load(folder)


def test_no_vocabulary(tmp_path):
    folder = toys.write_huggingface(tmp_path)
    os.unlink(tmp_path / "vocab.txt")
    with pytest.raises(UserError, match=r"neither vocab.txt nor tokenizer.json"):
        hub.load(folder)


def test_vocabulary_with_blank_lines_at_its_end(tmp_path):
    folder = toys.write_huggingface(tmp_path)
    toys.write_vocabulary(tmp_path / "vocab.txt", [*toys.TOKENS, "", ""])
    assert hub.load(folder).tokenizer.encode("cat") == [6]


def test_smaller_vocabulary_is_fine(tmp_path):
    folder = toys.write_huggingface(tmp_path)
    toys.write_vocabulary(tmp_path / "vocab.txt", toys.TOKENS[:8])
    assert hub.load(folder).tokenizer.encode("cat é") == [6, 1]


@pytest.mark.parametrize("head", [False, True])
def test_written_folder_is_what_transformers_reads(tmp_path, toy_model, head):
    if not head:
        weights = {name: a for name, a in toy_model.weights.items() if name.startswith("bert/")}
        toy_model = toy_model._replace(weights=weights)
    folder = str(tmp_path / "new")
    huggingface.write(folder, toy_model)
    from safetensors import safe_open

    with safe_open(os.path.join(folder, "model.safetensors"), "np") as reader:
        written = {name: reader.get_tensor(name).shape for name in reader.keys()}  # noqa: SIM118
        assert reader.metadata() == {"format": "pt"}
    expected = toys.huggingface_shapes()
    if head:
        expected = {f"bert.{name}": shape for name, shape in expected.items()}
        expected |= {"classifier.weight": (3, 8), "classifier.bias": (3,)}
    assert written == expected
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as reader:
        config = json.load(reader)
    assert config["architectures"] == ["BertForSequenceClassification" if head else "BertModel"]
    assert config["hidden_act"] == "gelu_new"
    with open(os.path.join(folder, "tokenizer_config.json"), encoding="utf-8") as reader:
        settings = json.load(reader)
    assert settings == {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": False,
        "strip_accents": False,
        "tokenize_chinese_chars": False,
        "model_max_length": 16,
    }
    toys.assert_same(toy_model, hub.load(folder))


def test_labels_are_written_and_a_description_is_kept(tmp_path, toy_model):
    meta = {"task": "mnli", "labels": ["contradiction", "entailment", "neutral"]}
    folder = str(tmp_path / "new")
    huggingface.write(folder, toy_model._replace(meta=meta))
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as reader:
        config = json.load(reader)
    assert config["id2label"] == {"0": "contradiction", "1": "entailment", "2": "neutral"}
    assert config["label2id"] == {"contradiction": 0, "entailment": 1, "neutral": 2}
    again = hub.load(folder)
    assert again.meta["labels"] == meta["labels"] and again.source == folder
    toys.assert_same(toy_model, again)


def test_head_without_a_name_there_is_left_out_with_a_warning(tmp_path, toy_model, caplog):
    weights = {**toy_model.weights, "siamese/scale": np.float32(20).reshape(())}
    huggingface.write(str(tmp_path / "new"), toy_model._replace(weights=weights))
    assert "siamese/scale" in caplog.text
    assert "siamese/scale" not in hub.load(str(tmp_path / "new")).weights


def test_round_trips_are_bit_equal(tmp_path, toy_model):
    first, second, third = (str(tmp_path / name) for name in ("first", "second", "third"))
    huggingface.write(first, toy_model)
    google.write(second, hub.load(first))
    toys.assert_same(toy_model, hub.load(second))
    huggingface.write(third, hub.load(second))
    toys.assert_same(toy_model, hub.load(third))
    for name in ("model.safetensors", "config.json", "vocab.txt", "tokenizer_config.json"):
        with open(f"{first}/{name}", "rb") as one, open(f"{third}/{name}", "rb") as other:
            assert one.read() == other.read(), name


def test_folder_with_a_model_is_not_written_into(tmp_path, toy_model):
    folder = toys.write_huggingface(tmp_path)
    for write in (huggingface.write, google.write):
        with pytest.raises(UserError, match="is not empty"):
            write(folder, toy_model)


def test_pickle_is_never_read(tmp_path):
    folder = toys.write_huggingface(tmp_path)
    os.unlink(tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(UserError, match=r"pytorch_model.bin: a pickle.*convert it") as raised:
        hub.load(folder)
    assert "weights_only=True" in str(raised.value)


def test_minilm(minilm_folder):
    model = hub.load(minilm_folder)
    assert list(model.weights) == list(encoder.weight_shapes(model.config))
    assert sum(array.size for array in model.weights.values()) == 22_713_216
    assert model.config.hidden_act == "gelu_erf" and model.tokenizer.do_lower_case
    ids = [101, *model.tokenizer.encode("A man is playing a guitar."), 102]
    assert ids == [101, 1037, 2158, 2003, 2652, 1037, 2858, 1012, 102]
    batch = {"input_ids": np.array([ids], np.int32)}
    output = encoder.encode(model.config, model.weights, batch).sequence_output
    np.testing.assert_allclose(
        output[0, 0, :5], [0.0988535, 0.0806781, -0.0978657, -0.4972654, -0.8208672], atol=1e-5
    )
