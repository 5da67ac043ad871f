"""The folder that training leaves."""

import json
import os

import hub_toys as toys
import pytest

from bert_tools import checkpoints, hub
from bert_tools.errors import UserError
from bert_tools.hub import output_folder

META = {"task": "sim", "labels": None, "value_range": [0, 5], "max_seq_length": 64, "new_key": "ü"}


@pytest.fixture
def folder(tmp_path, toy_model):
    output_folder.write_description(str(tmp_path), toy_model, META)
    return str(tmp_path)


def test_newest_checkpoint_with_all_its_settings(folder, toy_model):
    for step in (5, 20):
        tensors = {**toy_model.weights, "output_bias/adam_m": toy_model.weights["output_bias"]}
        checkpoints.save(folder, step, tensors, {})
    model = hub.load(folder)
    toys.assert_same(toy_model, model)
    assert model.source == os.path.join(folder, "model.ckpt-20")
    assert model.meta == {
        **META,
        "format_version": 1,
        "family": "bert",
        "do_lower_case": False,
        "strip_accents": False,
        "tokenize_chinese_chars": False,
        "vocab_file": "vocab.txt",
    }
    # Once more from what was read, as a run that goes on does.
    output_folder.write_description(folder, model, model.meta)
    assert hub.load(folder).meta == model.meta


def test_the_best_checkpoint_before_the_newest(folder, toy_model):
    kept = {"metric": "mae", "best": 0.5, "step": 5, "without_gain": 1, "stopped": False}
    best = {name: array + 1 for name, array in toy_model.weights.items()}
    for step, weights in ((5, best), (20, toy_model.weights)):
        checkpoints.save(folder, step, weights, {"evaluation": kept})
    model = hub.load(folder)
    assert model.source == os.path.join(folder, "model.ckpt-5")
    toys.assert_same(toy_model._replace(weights=best), model)
    with open(os.path.join(folder, "model.ckpt-5.data-00000-of-00001"), "r+b") as damaged:
        damaged.truncate(100)
    model = hub.load(folder)
    assert model.source == os.path.join(folder, "model.ckpt-20")
    toys.assert_same(toy_model, model)


def test_description_wins_over_other_layouts(folder, toy_model):
    checkpoints.save(folder, 5, toy_model.weights, {})
    toys.write_huggingface(folder)
    assert hub.load(folder).source.endswith("model.ckpt-5")


def test_no_checkpoint_yet(folder):
    with pytest.raises(UserError, match="holds no checkpoint"):
        hub.load(folder)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format_version": 2}, "format_version is 2"),
        ({"format_version": None}, "format_version is None"),
        ({"family": "t5"}, "family is 't5'"),
        ({"vocab_file": "../vocab.txt"}, "vocab_file is '../vocab.txt'"),
        ({"vocab_file": "absent.txt"}, "absent.txt: no such vocabulary"),
        ({"do_lower_case": 1}, "do_lower_case is 1"),
    ],
)
def test_description_that_is_not_usable(folder, toy_model, changes, match):
    checkpoints.save(folder, 5, toy_model.weights, {})
    path = os.path.join(folder, "bert_tools.json")
    with open(path, encoding="utf-8") as reader:
        values = json.load(reader)
    toys.write_json(path, {**values, **changes})
    with pytest.raises(UserError, match=match):
        hub.load(folder)


def test_folder_that_cannot_be_written(tmp_path, toy_model):
    with pytest.raises(UserError, match="cannot be written"):
        output_folder.write_description(str(tmp_path / "absent"), toy_model, META)
