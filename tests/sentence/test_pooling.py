"""What a model's folder says of its vectors."""

import json

import numpy as np
import pytest
import tensorflow as tf

from bert_tools import encoder, hub
from bert_tools.errors import UserError
from bert_tools.sentence.pooling import DENSE_ACTIVATIONS, Recipe, head_input, modules, recipe

MODULES = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]


@pytest.fixture
def described(tmp_path):
    """function(modules, pooling config, sentence_bert_config) -> Recipe of such a folder."""

    def described(modules=MODULES, pooling=None, sentence=None, meta=None):
        listed = [
            {"idx": index, "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (kind, path) in enumerate(modules)
        ]
        (tmp_path / "modules.json").write_text(json.dumps(listed))
        (tmp_path / "1_Pooling").mkdir(exist_ok=True)
        pooling = pooling or {"pooling_mode_mean_tokens": True}
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        if sentence is not None:
            (tmp_path / "sentence_bert_config.json").write_text(json.dumps(sentence))
        return recipe(hub.Model(None, {}, None, meta or {}, str(tmp_path)))

    return described


def test_sentence_transformers(described):
    assert described() == Recipe(("mean",), True, None)
    assert described(MODULES[:2], sentence={"max_seq_length": 256}) == Recipe(("mean",), False, 256)
    modes = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}
    modes["pooling_mode_max_tokens"] = False
    assert described(pooling=modes).poolings == ("cls", "mean")
    assert described(pooling={"pooling_mode": "max"}).poolings == ("max",)
    assert described(pooling={"pooling_mode": "cls", "include_prompt": True}).poolings == ("cls",)
    both = ["mean", "cls"]  # Joined in this order, unlike the long form's.
    assert described(pooling={"pooling_mode": both}).poolings == ("mean", "cls")


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("poolings", [("mean",), ("cls",), ("max", "mean"), ("cls", "max", "mean")])
def test_what_is_written_for_sentence_transformers(tmp_path, poolings, normalize):
    """It is read as it was meant."""
    expected = Recipe(poolings, normalize, 256)
    (tmp_path / "1_Pooling").mkdir()
    for name, value in modules(expected, 8).items():
        (tmp_path / name).write_text(json.dumps(value))
    assert recipe(hub.Model(None, {}, None, {}, str(tmp_path))) == expected


@pytest.mark.parametrize("poolings", [("pooled",), ("mean", "cls"), ("first_last_mean",)])
def test_what_sentence_transformers_cannot_do(poolings):
    with pytest.raises(UserError, match=f"cannot pool by {' and '.join(poolings)}, only by cls"):
        modules(Recipe(poolings, False, None), 8)


def test_own_description_comes_first(described):
    meta = {"pooling": "cls", "max_seq_length": 64}
    assert described(meta=meta) == Recipe(("cls",), False, 64)
    with pytest.raises(UserError, match="says pooling 'best'"):
        described(meta={"pooling": "best"})


def test_nothing_said(tmp_path):
    model = hub.Model(None, {}, None, {"max_seq_length": 64}, str(tmp_path))
    assert recipe(model) == Recipe(("mean",), False, 64)


@pytest.mark.parametrize(
    "modules, pooling, message",
    [
        ([*MODULES, ("Dense", "2_Dense")], None, "asks for a Dense module"),
        (MODULES[:1], None, "names no Pooling module"),
        (MODULES, {"pooling_mode_lasttoken": True}, "asks for pooling_mode_lasttoken"),
        (MODULES, {"pooling_mode_mean_tokens": False}, "asks for no pooling"),
        (MODULES, {"pooling_mode": "lasttoken"}, "asks for lasttoken"),
        ([("Pooling", "../1_Pooling")], None, "'../1_Pooling', outside of the model's"),
    ],
)
def test_refused(described, modules, pooling, message):
    with pytest.raises(UserError, match=message):
        described(modules, pooling)


DENSE = [*MODULES[:2], ("Dense", "2_Dense"), ("Normalize", "3_Normalize")]


@pytest.mark.parametrize("name", ["linear", "tanh"])
def test_dense_layer(described, tmp_path, name):
    (tmp_path / "2_Dense").mkdir()
    config = {"activation_function": DENSE_ACTIVATIONS[name], "bias": True}
    (tmp_path / "2_Dense" / "config.json").write_text(json.dumps(config))
    assert described(DENSE) == Recipe(("mean",), True, None, name)
    written = modules(Recipe(("max", "mean"), True, None, name), 8, 4)
    assert written["2_Dense/config.json"] == {**config, "in_features": 16, "out_features": 4}
    assert [one["path"] for one in written["modules.json"]] == [
        "",
        *(path for _, path in DENSE[1:]),
    ]
    (tmp_path / "2_Dense" / "config.json").write_text('{"activation_function": "os.system"}')
    with pytest.raises(UserError, match="has the activation 'os\\.system', computed here are"):
        described(DENSE)


def test_damaged(described, tmp_path):
    described()
    for text, message in (("{", "not a readable JSON"), ("{}", "expected a list of modules")):
        (tmp_path / "modules.json").write_text(text)
        with pytest.raises(UserError, match=message):
            recipe(hub.Model(None, {}, None, {}, str(tmp_path)))


@pytest.mark.parametrize(
    "parts, message",
    [
        ({"sentence": {"max_seq_length": "256"}}, "max_seq_length is '256', expected a number"),
        ({"meta": {"max_seq_length": 2, "pooling": "cls"}}, "max_seq_length is 2, expected a num"),
        ({"pooling": {"pooling_mode": 5}}, "asks for 5, which is not computed here"),
        ({"pooling": {"pooling_mode": [["cls"]]}}, "which is not computed here"),
        ({"meta": {"pooling": "cls", "normalize": "false"}}, "normalize is 'false', expected true"),
        ({"meta": {"pooling": "cls", "dense": []}}, r"dense \[\], expected one of"),
    ],
)
def test_descriptions_of_another_type(described, parts, message):
    with pytest.raises(UserError, match=message):
        described(**parts)


@pytest.mark.parametrize("pooling", ["mean", "cls", "pair"])
def test_what_a_head_reads(pooling):
    """Two pairs in one packed row and one in a separate row, by hand in float64."""
    tokens = np.random.default_rng(0).normal(size=(2, 8, 4)).astype(np.float32)
    mask = np.array([[1, 1, 1, 1, 2, 2, 2, 0], [1, 1, 1, 0, 0, 0, 0, 0]], np.int32)
    # 3 ends a text.
    ids = np.array([[1, 3, 7, 3, 3, 8, 3, 0], [1, 3, 3, 0, 0, 0, 0, 0]], np.int32)
    batch = {"input_mask": mask, "input_ids": ids}
    batch["first_positions"] = np.array([0, 4, 8], np.int32)
    output = encoder.EncoderOutput(*map(tf.constant, (tokens, tokens[:, 0])), [tf.constant(tokens)])
    found = head_input(output, batch, pooling, 3).numpy()
    wide = tokens.astype(np.float64)
    for row, (line, first, second) in enumerate(
        [
            (0, slice(0, 2), slice(2, 4)),
            (0, slice(4, 5), slice(5, 7)),
            (1, slice(0, 2), slice(2, 3)),
        ]
    ):
        if pooling == "cls":
            expected = wide[line, first.start]
        elif pooling == "mean":
            expected = wide[line, first.start : second.stop].mean(0)
        else:
            u, v = (wide[line, part].mean(0) for part in (first, second))
            u, v = u / np.linalg.norm(u), v / np.linalg.norm(v)
            expected = np.concatenate([2 * np.abs(u - v), 4 * u * v])
        np.testing.assert_allclose(found[row], expected, atol=1e-5)
