"""load finds out what a folder holds; load_parts puts a model together from the original flags."""

import os
import random
import subprocess
import sys

import hub_toys as toys
import numpy as np
import pytest

from bert_tools import encoder, hub
from bert_tools.errors import UserError
from bert_tools.hub import google, huggingface


@pytest.fixture
def parts(tmp_path, toy_model):
    """The three original flags, over a folder that says the model is cased."""
    folder = str(tmp_path / "google")
    google.write(folder, toy_model)
    return {
        "bert_config_file": f"{folder}/bert_config.json",
        "vocab_file": f"{folder}/vocab.txt",
        "init_checkpoint": f"{folder}/bert_model.ckpt",
    }


def test_import_is_light():
    code = "import sys, bert_tools.hub; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_folder_that_holds_no_model(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "bert_config.json").write_text("{}")
    expected = r"no model found: looked for bert_tools.json.*there is bert_config.json, notes.txt;"
    with pytest.raises(UserError, match=expected):
        hub.load(str(tmp_path))


def test_empty_folder(tmp_path):
    with pytest.raises(UserError, match="there is nothing;"):
        hub.load(str(tmp_path))


@pytest.mark.parametrize("handle", ["no_such_model", "tests", ""])
def test_no_such_handle(tmp_path, monkeypatch, handle):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").write_text("")
    with pytest.raises(UserError, match=r"no such model folder.*minilm"):
        hub.load(handle)


def test_original_flags(parts, toy_model):
    model = hub.load_parts(**parts)
    assert model.tokenizer.do_lower_case and model.tokenizer.strip_accents
    assert model.source == parts["init_checkpoint"] and model.meta == {}
    cased = {**parts, "do_lower_case": False}
    tokenizer = toy_model.tokenizer
    tokenizer = type(tokenizer)(vocab=tokenizer.vocab, do_lower_case=False)
    toys.assert_same(toy_model._replace(tokenizer=tokenizer), hub.load_parts(**cased))


def test_huggingface_config_may_be_given(tmp_path, parts, toy_model):
    huggingface.write(str(tmp_path / "huggingface"), toy_model)
    parts["bert_config_file"] = str(tmp_path / "huggingface" / "config.json")
    assert hub.load_parts(**parts).config == toy_model.config


def test_folder_as_init_checkpoint_stands_for_its_newest(parts):
    parts["init_checkpoint"] = os.path.dirname(parts["init_checkpoint"])
    assert hub.load_parts(**parts).weights


def test_fresh_weights(parts):
    del parts["init_checkpoint"]
    model = hub.load_parts(**parts)
    assert list(model.weights) == list(encoder.weight_shapes(model.config)) and model.source == ""
    word = "bert/embeddings/word_embeddings"
    np.testing.assert_array_equal(model.weights[word], hub.load_parts(**parts).weights[word])
    other = hub.load_parts(**parts, seed=1).weights[word]
    assert np.any(model.weights[word] != other)


def test_flags_win_over_the_handle(tmp_path, parts, toy_model):
    weights = {name: array + 1 for name, array in toy_model.weights.items()}
    folder = str(tmp_path / "other")
    huggingface.write(folder, toy_model._replace(weights=weights, meta={"task": "mnli"}))

    model = hub.load_parts(folder)
    toys.assert_same(toy_model._replace(weights=weights), model)
    assert model.source == folder and model.meta["task"] == "mnli"

    model = hub.load_parts(folder, init_checkpoint=parts["init_checkpoint"])
    toys.assert_same(toy_model, model)
    assert model.source == parts["init_checkpoint"] and model.meta["task"] == "mnli"

    toys.write_vocabulary(tmp_path / "small.txt", toys.TOKENS[:7])
    model = hub.load_parts(folder, vocab_file=str(tmp_path / "small.txt"))
    assert len(model.tokenizer.vocab) == 7 and not model.tokenizer.do_lower_case

    config = {**toys.CONFIG, "num_hidden_layers": 1}
    toys.write_json(tmp_path / "one_layer.json", config)
    model = hub.load_parts(folder, bert_config_file=str(tmp_path / "one_layer.json"))
    assert "bert/encoder/layer_1/output/dense/bias" not in model.weights
    assert "output_bias" in model.weights and model.config.num_hidden_layers == 1

    toys.write_json(tmp_path / "wide.json", {**toys.CONFIG, "hidden_size": 16})
    with pytest.raises(UserError, match="word_embeddings has shape"):
        hub.load_parts(folder, bert_config_file=str(tmp_path / "wide.json"))


def test_casing_flag_over_the_handle(tmp_path):
    folder = toys.write_huggingface(tmp_path)
    assert hub.load_parts(folder).tokenizer.encode("É E") == [9, 9]
    assert hub.load_parts(folder, do_lower_case=False).tokenizer.encode("é E") == [8, 10]
    # A model that says more than the usual about accents keeps that.
    toys.write_json(tmp_path / "tokenizer_config.json", {"strip_accents": False})
    assert hub.load_parts(folder, do_lower_case=True).tokenizer.encode("É E") == [8, 9]


@pytest.mark.parametrize("given", [{}, {"bert_config_file": "x"}, {"init_checkpoint": "x"}])
def test_missing_flags(given):
    with pytest.raises(UserError, match="--vocab_file not given; give --bert"):
        hub.load_parts(**given)


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001", ".meta"])
def test_one_file_of_a_checkpoint(parts, suffix):
    prefix = parts["init_checkpoint"]
    parts["init_checkpoint"] += suffix
    with pytest.raises(UserError, match="is one of a checkpoint's files") as raised:
        hub.load_parts(**parts)
    assert str(raised.value).endswith(f"give what they share: --init_checkpoint={prefix}")


@pytest.mark.parametrize("flag", ["bert_config_file", "vocab_file", "init_checkpoint"])
def test_absent_files(parts, flag):
    parts[flag] = "/no/such/file"
    with pytest.raises(UserError, match="/no/such/file: no such"):
        hub.load_parts(**parts)


def test_casing_that_contradicts_the_name(tmp_path, toy_model):
    folder = str(tmp_path / "uncased_L-2_H-8_A-2")
    google.write(folder, toy_model)
    match = "uncased_L-2_H-8_A-2 is an uncased model, pass --do_lower_case=true"
    with pytest.raises(UserError, match=match):
        hub.load_parts(folder, do_lower_case=False)
    with pytest.raises(UserError, match=match):
        hub.load_parts(
            None,
            f"{folder}/bert_config.json",
            f"{folder}/vocab.txt",
            f"{folder}/bert_model.ckpt",
            do_lower_case=False,
        )
    assert hub.load_parts(folder).tokenizer.do_lower_case


def test_larger_vocabulary(tmp_path, parts):
    parts["vocab_file"] = str(tmp_path / "large.txt")
    toys.write_vocabulary(parts["vocab_file"], [*toys.TOKENS, "more"])
    with pytest.raises(UserError, match=r"large.txt: holds 14 tokens.* vocab_size 13"):
        hub.load_parts(**parts)


def test_damage_of_any_kind_is_one_sentence(tmp_path, toy_model):
    """400 random damages, byte by byte, to each kind of folder: a model or a UserError."""
    rng = random.Random(7)
    meta = {"task": "mnli"}
    writers = {
        "google": lambda folder: google.write(folder, toy_model),
        "output": lambda folder: google.write(folder, toy_model._replace(meta=meta)),
        "huggingface": lambda folder: huggingface.write(folder, toy_model),
    }
    for kind, write in writers.items():
        folder = tmp_path / kind
        write(str(folder))
        whole = {path: path.read_bytes() for path in sorted(folder.iterdir())}
        failures = 0
        for _ in range(400):
            path = rng.choice(sorted(whole))
            data = bytearray(whole[path])
            for _ in range(rng.choice((1, 1, 8))):
                data[rng.randrange(len(data))] = rng.randrange(256)
            path.write_bytes(data[: rng.choice((len(data), len(data), rng.randrange(len(data))))])
            try:
                hub.load(str(folder))
            except UserError as error:
                failures += 1
                assert "\n" not in str(error)
            path.write_bytes(whole[path])
        assert failures > 100
