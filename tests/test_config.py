"""BertConfig: Google's and Hugging Face's JSON, the two meanings of "gelu", errors, round trips."""

import dataclasses
import json

import pytest

from bert_tools import config as config_module
from bert_tools.config import ACTIVATIONS, BertConfig
from bert_tools.errors import UserError

GOOGLE = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.2,
    "hidden_size": 24,
    "initializer_range": 0.03,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "type_vocab_size": 2,
    "vocab_size": 100,
}
HUGGINGFACE = {**GOOGLE, "model_type": "bert", "layer_norm_eps": 1e-5}


def write(tmp_path, values):
    path = tmp_path / "bert_config.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values), "utf-8")
    return str(path)


def test_google_json(tmp_path):
    config = BertConfig.from_json_file(write(tmp_path, {**GOOGLE, "pooler_fc_size": 24}))
    assert config == BertConfig(
        vocab_size=100,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        hidden_act="gelu_tanh",
        hidden_dropout_prob=0.2,
        attention_probs_dropout_prob=0.1,
        max_position_embeddings=64,
        type_vocab_size=2,
        initializer_range=0.03,
        layer_norm_eps=1e-12,
    )


def test_absent_keys_are_the_original_defaults():
    config = BertConfig.from_dict({"vocab_size": 7})
    assert config == BertConfig(7, 768, 12, 12, 3072, "gelu_tanh", 0.1, 0.1, 512, 16, 0.02, 1e-12)


def test_huggingface_json(tmp_path):
    config = BertConfig.from_json_file(write(tmp_path, HUGGINGFACE))
    expected = dataclasses.replace(BertConfig.from_google(GOOGLE), hidden_act="gelu_erf")
    assert config == dataclasses.replace(expected, layer_norm_eps=1e-5)


@pytest.mark.parametrize("key", ["model_type", "architectures", "transformers_version"])
def test_what_tells_huggingface_from_google(key):
    value = {"model_type": "bert", "architectures": ["BertModel"], "transformers_version": "4"}
    assert BertConfig.from_dict({**GOOGLE, key: value[key]}).hidden_act == "gelu_erf"
    assert BertConfig.from_dict(GOOGLE).hidden_act == "gelu_tanh"


def test_huggingface_defaults():
    config = BertConfig.from_dict({"model_type": "bert"})
    assert (config.vocab_size, config.type_vocab_size) == (30522, 2)
    assert config.hidden_act == "gelu_erf" and config.layer_norm_eps == 1e-12


@pytest.mark.parametrize(
    "values, expected",
    [
        ({"hidden_act": "gelu"}, "gelu_tanh"),
        ({"hidden_act": "GELU"}, "gelu_tanh"),
        ({"hidden_act": "gelu", "gelu_form": "erf"}, "gelu_erf"),
        ({"hidden_act": "gelu", "gelu_form": "tanh"}, "gelu_tanh"),
        ({"hidden_act": "relu", "gelu_form": "erf"}, "relu"),
        ({"hidden_act": "tanh"}, "tanh"),
        ({"hidden_act": "linear"}, "linear"),
        ({"hidden_act": ""}, "linear"),
        ({"hidden_act": None}, "linear"),
        ({"hidden_act": "gelu_new"}, "gelu_tanh"),
        ({"hidden_act": "silu"}, "silu"),
    ],
)
def test_google_activations(values, expected):
    assert BertConfig.from_google({**GOOGLE, **values}).hidden_act == expected


@pytest.mark.parametrize(
    "name, expected",
    [
        ("gelu", "gelu_erf"),
        ("gelu_python", "gelu_erf"),
        ("gelu_new", "gelu_tanh"),
        ("gelu_fast", "gelu_tanh"),
        ("gelu_pytorch_tanh", "gelu_tanh"),
        ("quick_gelu", "gelu_quick"),
        ("relu2", "relu_squared"),
        ("swish", "silu"),
        ("mish", "mish"),
        ("linear", "linear"),
    ],
)
def test_huggingface_activations(name, expected):
    assert BertConfig.from_huggingface({**HUGGINGFACE, "hidden_act": name}).hidden_act == expected


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_round_trips(name):
    config = dataclasses.replace(BertConfig.from_google(GOOGLE), hidden_act=name)
    for values in (config.to_google(), config.to_huggingface()):
        assert BertConfig.from_dict(json.loads(json.dumps(values))) == config


def test_google_json_of_each_gelu():
    config = BertConfig.from_google(GOOGLE)
    tanh = config.to_google()
    erf = dataclasses.replace(config, hidden_act="gelu_erf").to_google()
    assert tanh["hidden_act"] == erf["hidden_act"] == "gelu"  # All that the original knows.
    assert "gelu_form" not in tanh and erf["gelu_form"] == "erf"
    assert not {"model_type", "architectures", "transformers_version"} & tanh.keys()


@pytest.mark.parametrize("key, value", [("hidden_act", "softplus"), ("hidden_act", 3)])
@pytest.mark.parametrize("base", [GOOGLE, HUGGINGFACE], ids=["google", "huggingface"])
def test_unknown_activation(tmp_path, base, key, value):
    path = write(tmp_path, {**base, key: value})
    with pytest.raises(UserError, match=rf"bert_config\.json: hidden_act is .*{value}.*gelu_new"):
        BertConfig.from_json_file(path)


@pytest.mark.parametrize(
    "key, value",
    [
        ("vocab_size", 0),
        ("vocab_size", None),
        ("hidden_size", -4),
        ("hidden_size", 24.0),
        ("hidden_size", "24"),
        ("num_hidden_layers", True),
        ("num_attention_heads", 0),
        ("intermediate_size", []),
        ("max_position_embeddings", 0),
        ("type_vocab_size", 0),
        ("hidden_dropout_prob", 1.0),
        ("hidden_dropout_prob", -0.1),
        ("attention_probs_dropout_prob", "0.1"),
        ("attention_probs_dropout_prob", float("nan")),
        ("initializer_range", None),
        ("layer_norm_eps", False),
    ],
)
def test_bad_value_names_file_and_key(tmp_path, key, value):
    with pytest.raises(UserError) as caught:
        BertConfig.from_json_file(write(tmp_path, {**GOOGLE, key: value}))
    assert str(caught.value).startswith(f"{tmp_path}/bert_config.json: {key} is {value!r}")


def test_heads_must_divide_the_width():
    with pytest.raises(UserError, match=r"hidden_size 24 is not a multiple of .* 5"):
        BertConfig.from_dict({**GOOGLE, "num_attention_heads": 5})


def test_unsupported_models_are_named():
    for values, said in [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'; supported: bert"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"is_decoder": True}, "is_decoder is true"),
    ]:
        with pytest.raises(UserError, match=said):
            BertConfig.from_dict({**HUGGINGFACE, **values})


def test_what_is_no_config(tmp_path):
    with pytest.raises(UserError, match="vocab_size is missing"):
        BertConfig.from_json_file(write(tmp_path, {"hidden_size": 4}))
    with pytest.raises(UserError, match="not a readable JSON"):
        BertConfig.from_json_file(write(tmp_path, "{"))
    with pytest.raises(UserError, match="no such file"):
        BertConfig.from_json_file(str(tmp_path / "none.json"))
    with pytest.raises(UserError, match="hidden_act is 'gelu', expected one of"):
        BertConfig(vocab_size=3, hidden_act="gelu")  # Never plain "gelu": it says too little.


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        BertConfig(vocab_size=3).hidden_size = 4


def test_every_written_name_has_an_activation():
    for table in (config_module._GOOGLE_ACTIVATIONS, config_module._HUGGINGFACE_ACTIVATIONS):
        assert set(table.values()) <= set(ACTIVATIONS)


def test_real_configs(shared):
    toy = BertConfig.from_json_file(
        str(shared / "models" / "keras-bert-test-checkpoint" / "bert_config.json")
    )
    assert (toy.hidden_size, toy.num_hidden_layers, toy.hidden_act) == (4, 2, "gelu_tanh")
    tiny = BertConfig.from_json_file(str(shared / "vocab" / "bert-tiny-hf" / "config.json"))
    assert (tiny.hidden_size, tiny.num_hidden_layers, tiny.hidden_act) == (128, 2, "gelu_erf")
