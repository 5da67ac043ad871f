"""Google's layout: genuine TensorFlow 1 files, folders with several checkpoints, casing."""

import dataclasses
import os

import hub_toys as toys
import numpy as np
import pytest

from bert_tools import checkpoints, encoder, files, hub
from bert_tools.errors import UserError
from bert_tools.hub import google, huggingface


@pytest.fixture
def folder(tmp_path, toy_model):
    folder = str(tmp_path / "model")
    google.write(folder, toy_model)
    return folder


def test_genuine_checkpoint(toy_checkpoint):
    model = hub.load(toy_checkpoint)
    assert sum(array.size for array in model.weights.values()) == 701
    assert len(model.weights) == 46 and "global_step" not in model.weights
    assert not [name for name in model.weights if "adam" in name]
    assert list(model.weights)[:39] == list(encoder.weight_shapes(model.config))
    assert model.weights["cls/seq_relationship/output_weights"].shape == (2, 4)
    assert model.source == os.path.join(toy_checkpoint, "bert_model.ckpt")
    assert model.config.hidden_act == "gelu_tanh" and model.tokenizer.do_lower_case


def test_genuine_checkpoint_round_trip(tmp_path, toy_checkpoint):
    model = hub.load(toy_checkpoint)
    huggingface.write(str(tmp_path / "huggingface"), model)
    google.write(str(tmp_path / "google"), hub.load(str(tmp_path / "huggingface")))
    toys.assert_same(model, hub.load(str(tmp_path / "google")))


def test_round_trip(folder, toy_model):
    model = hub.load(folder)
    toys.assert_same(toy_model, model)
    assert model.source == os.path.join(folder, "bert_model.ckpt") and model.meta == {}


def test_erf_gelu_is_written_with_a_warning(tmp_path, caplog):
    model = hub.load(toys.write_huggingface(tmp_path / "huggingface"))
    assert model.config.hidden_act == "gelu_erf"
    google.write(str(tmp_path / "google"), model)
    assert "5e-3" in caplog.text
    assert hub.load(str(tmp_path / "google")).config == model.config


def test_an_epsilon_that_the_original_ignores(tmp_path, toy_model, caplog):
    for eps, warned in ((1e-12, False), (1e-5, True)):
        config = dataclasses.replace(toy_model.config, layer_norm_eps=eps)
        google.write(str(tmp_path / str(eps)), toy_model._replace(config=config))
        assert ("layer_norm_eps of 1e-05" in caplog.text) == warned
        assert hub.load(str(tmp_path / str(eps))).config == config


def test_description_is_kept(tmp_path, toy_model):
    google.write(str(tmp_path / "new"), toy_model._replace(meta={"task": "mnli"}))
    model = hub.load(str(tmp_path / "new"))
    assert model.meta["task"] == "mnli"
    toys.assert_same(toy_model, model)


def test_optimiser_slots_of_any_name_are_skipped(folder, toy_model):
    slots = {f"{name}/lamb_m": array for name, array in toy_model.weights.items()}
    others = {"global_step": np.int64(7), "words": np.array([b"x"]), "count": np.int32(3)}
    checkpoints.write_variables(
        os.path.join(folder, "bert_model.ckpt"), {**toy_model.weights, **slots, **others}
    )
    toys.assert_same(toy_model, hub.load(folder))


def write_again(folder, model, prefix, value):
    weights = {**model.weights, "output_bias": np.full(3, value, np.float32)}
    checkpoints.write_variables(os.path.join(folder, prefix), weights)


def test_checkpoint_file_says_which(folder, toy_model):
    write_again(folder, toy_model, "model.ckpt-598", 598)
    write_again(folder, toy_model, "model.ckpt-1000", 1000)
    with pytest.raises(UserError, match=r"bert_model.ckpt, model.ckpt-1000, model.ckpt-598"):
        hub.load(folder)
    files.write_text(f"{folder}/checkpoint", 'model_checkpoint_path: "/elsewhere/model.ckpt-598"\n')
    model = hub.load(folder)
    assert model.weights["output_bias"][0] == 598
    assert model.source == os.path.join(folder, "model.ckpt-598")


def test_only_checkpoint_may_have_any_name(folder):
    for name in os.listdir(folder):
        if name.startswith("bert_model.ckpt"):
            os.rename(
                os.path.join(folder, name),
                os.path.join(folder, name.replace("bert_model.ckpt", "my.ckpt-3")),
            )
    assert hub.load(folder).source == os.path.join(folder, "my.ckpt-3")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("uncased_L-12_H-768_A-12", True),
        ("chinese_L-12_H-768_A-12", True),
        ("cased_L-12_H-768_A-12", False),
        ("multi_cased_L-12_H-768_A-12", False),
        ("wwm_cased_L-24_H-1024_A-16", False),
        ("my_model", True),
    ],
)
def test_casing_from_the_name(tmp_path, toy_model, name, expected):
    folder = str(tmp_path / name)
    google.write(folder, toy_model)
    os.unlink(os.path.join(folder, "tokenizer_config.json"))
    tokenizer = hub.load(folder + "/").tokenizer
    assert tokenizer.do_lower_case == tokenizer.strip_accents == expected
    assert tokenizer.tokenize_chinese_chars


def test_without_pooler(tmp_path, toy_model):
    weights = {name: a for name, a in toy_model.weights.items() if "pooler" not in name}
    google.write(str(tmp_path / "new"), toy_model._replace(weights=weights))
    assert list(hub.load(str(tmp_path / "new")).weights) == list(weights)


def test_vocabulary_with_a_token_twice_keeps_its_ids(tmp_path, toy_model, folder):
    toys.write_vocabulary(f"{folder}/vocab.txt", ["[PAD]", "cat", "[UNK]", "[CLS]", "[SEP]", "cat"])
    model = hub.load(folder)
    assert model.tokenizer.encode("cat") == [5]
    google.write(str(tmp_path / "again"), model)
    again = hub.load(str(tmp_path / "again")).tokenizer
    assert again.encode("cat") == [5] and again.sep_id == 4


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("bert/pooler/dense/kernel", np.zeros((8, 7), np.float32), r"\[8, 7\].* expects \[8, 8\]"),
        ("bert/pooler/dense/bias", np.full(8, np.nan, np.float32), "bias holds NaN or infinity"),
        ("output_bias", np.full(3, np.inf, np.float32), "output_bias holds NaN or infinity"),
        ("bert/embeddings/LayerNorm/beta", np.zeros(8, np.int32), "holds int32"),
        ("bert/embeddings/LayerNorm/beta", None, "lacks the weight bert/embeddings/LayerNorm/beta"),
    ],
)
def test_weights_that_do_not_fit(folder, toy_model, name, value, match):
    prefix = os.path.join(folder, "bert_model.ckpt")
    weights = {key: a for key, a in {**toy_model.weights, name: value}.items() if a is not None}
    checkpoints.write_variables(prefix, weights)
    with pytest.raises(UserError, match=match) as raised:
        hub.load(folder)
    assert str(raised.value).startswith(f"{prefix}: ")


def test_checkpoint_of_something_else(folder):
    checkpoints.write_variables(os.path.join(folder, "bert_model.ckpt"), {"w": np.zeros(3)})
    with pytest.raises(UserError, match="holds no weights of a BERT encoder"):
        hub.load(folder)


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_damaged_checkpoint(folder, suffix):
    path = os.path.join(folder, f"bert_model.ckpt{suffix}")
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) // 2)
    with pytest.raises(UserError, match=r"bert_model\.ckpt"):
        hub.load(folder)


@pytest.mark.parametrize("name", ["vocab.txt", "bert_config.json"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"[" * 100_000, b"9" * 10_000])
def test_damaged_text_files(folder, name, content):
    with open(os.path.join(folder, name), "wb") as file:
        file.write(content)
    with pytest.raises(UserError):
        hub.load(folder)
