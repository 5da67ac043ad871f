"""convert_checkpoint and inspect_model over every family and layout."""

import dataclasses
import json
import os
import resource
import shutil

import hub_toys as toys
import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from safetensors.numpy import load_file
from test_families import FAMILIES, write
from tokenizers import models, normalizers, pre_tokenizers, processors

from bert_tools import checkpoints, encoder, hub, inspection
from bert_tools.cli import app, convert_checkpoint, inspect_model
from bert_tools.errors import UserError
from bert_tools.hub import google, huggingface
from bert_tools.tokenization_subword import SubwordTokenizer

PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁a", "▁b", "▁c", "▁d", "e", "f", "<mask>"]
LAYOUTS = ("google", "huggingface", "sentence_transformers", "tf_hub")


@pytest.fixture
def run(capsys, monkeypatch):
    """function(command, **flags) -> (exit status, stdout, stderr)."""

    def run(command, **flags):
        # Without the handler of an earlier test, which holds that test's stderr.
        monkeypatch.setattr(app.log, "handlers", [])
        capsys.readouterr()
        status = command.main([f"--{name}={value}" for name, value in flags.items()])
        return (status, *capsys.readouterr())

    return run


@pytest.fixture
def convert(run, tmp_path):
    """function(source folder, layout, **flags) -> folder; checks that it went well."""

    def convert(source, layout, **flags):
        folder = str(tmp_path / f"{len(os.listdir(tmp_path))}_{layout}")
        status, out, err = run(
            convert_checkpoint, bert=source, to=layout, output_dir=folder, **flags
        )
        assert (status, out) == (0, ""), err
        assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
        return folder

    return convert


@pytest.fixture
def inspect(run):
    """function(folder, **flags) -> what inspect_model tells, as a dict."""

    def inspect(folder, **flags):
        status, out, err = run(inspect_model, bert=folder, json=True, **flags)
        assert status == 0, err
        return json.loads(out)

    return inspect


@pytest.fixture
def bert(tmp_path, toy_model):
    """A folder of Google's with a classifier's head."""
    folder = str(tmp_path / "bert")
    google.write(folder, toy_model)
    return folder


def subwords(family):
    """A tokenizer of the family's kind; its ids fit the toys' 40."""
    lower = [normalizers.Lowercase()] if family == "albert" else []
    library = tokenizers.Tokenizer(models.Unigram([(piece, -1.0) for piece in PIECES], unk_id=3))
    library.normalizer = normalizers.Sequence([normalizers.NFKC(), *lower])
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return SubwordTokenizer(library.to_str(), "")


def names_in(folder):
    found = []
    for path, _, names in os.walk(folder):
        found += [os.path.relpath(os.path.join(path, name), folder) for name in names]
    return set(found)


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_there_and_back(tmp_path, convert, inspect, family, head):
    source = write(tmp_path / "source", family, head)
    first, facts = hub.load(source), inspect(source, check=True)
    there = convert(source, "sentence_transformers")
    back = convert(there, "huggingface")
    for folder in (there, back):
        toys.assert_same(first, hub.load(folder))
        assert inspect(folder)["checksum"] == facts["checksum"]
    expected, found = (load_file(f"{folder}/model.safetensors") for folder in (source, back))
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.tobytes() == expected[name].tobytes(), name
    assert facts["family"] == family and facts["format"] == "huggingface"
    assert facts["positions"] == 16 and facts["vocab_size"] == 40 and facts["check"]
    if not head:
        assert facts["parameters"] == FAMILIES[family]["parameters"]


@pytest.mark.parametrize("layout", ["google", "tf_hub"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_layout_cannot_hold(tmp_path, run, family, layout):
    source, folder = write(tmp_path / "source", family), tmp_path / "out"
    status, out, err = run(convert_checkpoint, bert=source, to=layout, output_dir=folder)
    assert (status, out) == (1, "")
    assert err.startswith(f"error: {folder}: ") and err.count("\n") == 1
    assert f"cannot hold a model of the type {family}; write it in Hugging Face's layout" in err
    assert os.listdir(tmp_path) == ["source"]


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "albert"])
def test_tokenizers_of_other_kinds_go_along(tmp_path, convert, inspect, run, family):
    model = hub.load(write(tmp_path / "words", family))
    source = str(tmp_path / "source")
    huggingface.write(source, model._replace(tokenizer=subwords(family)))
    there = convert(source, "sentence_transformers")
    back = convert(there, "huggingface")
    for folder in (there, back):
        toys.assert_same(hub.load(source), hub.load(folder))
        names = ("tokenizer.json", "tokenizer_config.json")
        for one, other in ([f"{f}/{name}" for f in (source, folder)] for name in names):
            with open(one, "rb") as first, open(other, "rb") as second:
                assert first.read() == second.read()
    facts = inspect(back)
    assert (facts["tokenizer"], facts["tokens"]) == ("Unigram", len(PIECES))
    assert facts["casing"] == ("uncased" if family == "albert" else "cased")


def test_a_bert_with_another_tokenizer(tmp_path, run, bert):
    source = str(tmp_path / "source")
    huggingface.write(source, hub.load(bert)._replace(tokenizer=subwords("roberta")))
    for layout in ("google", "tf_hub"):
        status, _, err = run(convert_checkpoint, bert=source, to=layout, output_dir=tmp_path / "o")
        assert status == 1 and "cannot hold its tokenizer" in err


@pytest.mark.parametrize(
    "way", [("huggingface", "sentence_transformers"), ("sentence_transformers",), ("tf_hub",)]
)
def test_bert_there_and_back(tmp_path, convert, inspect, toy_model, way):
    """Through other layouts to the bytes that it came from; with its head, but for SavedModels."""
    if "tf_hub" in way:
        weights = {n: a for n, a in toy_model.weights.items() if n.startswith("bert/")}
        toy_model = toy_model._replace(weights=weights)
    bert = folder = str(tmp_path / "bert")
    google.write(bert, toy_model)
    for layout in (*way, "google"):
        folder = convert(folder, layout)
        toys.assert_same(toy_model, hub.load(folder))
        facts = inspect(folder)
        assert (facts["format"], facts["checksum"]) == (layout, inspect(bert)["checksum"])
    for name in ("bert_config.json", "vocab.txt", "tokenizer_config.json"):
        with open(f"{bert}/{name}", "rb") as one, open(f"{folder}/{name}", "rb") as other:
            assert one.read() == other.read(), name
    first, last = (checkpoints.read(f"{f}/bert_model.ckpt") for f in (bert, folder))
    assert first.keys() == last.keys()
    assert all(first[name].tobytes() == last[name].tobytes() for name in first)


def test_files_of_each_layout(bert, convert):
    tokenizer = {"vocab.txt", "tokenizer_config.json"}
    weights = {"bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001"}
    theirs = {"config.json", "model.safetensors", *tokenizer}
    assert names_in(convert(bert, "google")) == {"bert_config.json", *weights, *tokenizer}
    assert names_in(convert(bert, "huggingface")) == theirs
    modules = {"modules.json", "1_Pooling/config.json", "sentence_bert_config.json"}
    assert names_in(convert(bert, "sentence_transformers")) == {
        *theirs,
        *modules,
        "config_sentence_transformers.json",
    }
    assert names_in(convert(bert, "tf_hub")) == {
        "saved_model.pb",
        "fingerprint.pb",
        "variables/variables.index",
        "variables/variables.data-00000-of-00001",
        "assets/vocab.txt",
        "bert_config.json",
        "tokenizer_config.json",
    }


@pytest.mark.parametrize(
    ("kind", "task", "more"),
    [
        ("Token", "tag", {}),
        ("Sequence", "multi_label", {"problem_type": "multi_label_classification"}),
    ],
)
def test_labels_and_kind_of_a_head_are_kept(tmp_path, convert, kind, task, more):
    """Hugging Face's config.json, through Google's layout."""
    tensors = {f"bert.{name}": array for name, array in toys.huggingface_tensors().items()}
    tensors |= {"classifier.weight": np.ones((2, 8), np.float32), "classifier.bias": np.ones(2)}
    config = {
        "architectures": [f"BertFor{kind}Classification"],
        "id2label": {"0": "O", "1": "B-PER"},
        "label2id": {"O": 0, "B-PER": 1},
        **more,
    }
    source = toys.write_huggingface(tmp_path / "source", tensors, config)
    there = convert(source, "google")
    assert hub.load(there).meta.items() >= {"task": task, "labels": ["O", "B-PER"]}.items()
    with open(f"{convert(there, 'huggingface')}/config.json", encoding="utf-8") as reader:
        values = json.load(reader)
    assert {name: values[name] for name in config} == config


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, {}),
        ({"id2label": {"0": "no", "1": "yes"}}, {"labels": ["no", "yes"]}),
        ({"id2label": {"0": "no", "1": "yes"}, "architectures": ["BertModel"]}, {}),
        ({"id2label": {"0": "no", "1": "yes"}, "architectures": None}, {}),
        ({"id2label": {"0": "no", "2": "yes"}}, {}),
        ({"id2label": {"0": "no", "1": "no"}}, {}),
        ({"id2label": {"0": "no", "1": 1}}, {}),
        ({"id2label": ["no", "yes"]}, {}),
        ({"architectures": ["BertForTokenClassification"]}, {"task": "tag"}),
        ({"problem_type": "multi_label_classification"}, {"task": "multi_label"}),
        ({"problem_type": "single_label_classification"}, {"task": "classify"}),
        ({"problem_type": "regression"}, {}),
    ],
)
def test_heads_of_config_json(tmp_path, values, expected):
    classes = {"architectures": ["BertForSequenceClassification"]}
    toys.write_json(tmp_path / "config.json", {**toys.CONFIG, **classes, **values})
    assert huggingface.read_head_description(str(tmp_path)) == expected


def test_pooling_goes_along(tmp_path, convert, inspect):
    """modules.json says it; through Google's layout and back to modules.json."""
    source = toys.write_huggingface(tmp_path / "source")
    os.mkdir(f"{source}/1_Pooling")
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    toys.write_json(
        f"{source}/modules.json",
        [{"path": path, "type": f"x.models.{kind}"} for path, kind in kinds.items()],
    )
    modes = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    toys.write_json(f"{source}/1_Pooling/config.json", modes)
    toys.write_json(f"{source}/sentence_bert_config.json", {"max_seq_length": 7})
    there = convert(source, "google")
    back = convert(there, "sentence_transformers")
    for folder in (source, there, back):
        facts = inspect(folder)
        assert facts["pooling"] == ["cls", "mean"]
        assert facts["normalize"] is True and facts["max_seq_length"] == 7
    with open(f"{back}/1_Pooling/config.json", encoding="utf-8") as reader:
        assert json.load(reader) == {
            "word_embedding_dimension": 8,
            "pooling_mode_cls_token": True,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_tokens": True,
        }
    with open(f"{back}/modules.json", encoding="utf-8") as reader:
        kinds = [module["type"].rpartition(".")[2] for module in json.load(reader)]
    assert kinds == ["Transformer", "Pooling", "Normalize"]
    chosen = convert(source, "sentence_transformers", pooling="max")
    facts = inspect(chosen)
    assert facts["pooling"] == ["max"] and facts["normalize"] is False


def test_pooling_that_sentence_transformers_has_not(tmp_path, run, bert):
    status, _, err = run(
        convert_checkpoint,
        bert=bert,
        to="sentence_transformers",
        output_dir=tmp_path / "out",
        pooling="first_last_mean",
    )
    assert status == 1 and "cannot pool by first_last_mean" in err
    assert not os.path.exists(tmp_path / "out")


def test_saved_model(bert, convert, toy_model, caplog):
    """As hub users take it: dict in, dict out, variables by the model garden's names, trainable."""
    folder = convert(bert, "tf_hub")
    assert "output_bias, output_weights; left out" in caplog.text
    encoder_alone = {n: a for n, a in toy_model.weights.items() if n.startswith("bert/")}
    toys.assert_same(toy_model._replace(weights=encoder_alone), hub.load(folder))
    loaded = tf.saved_model.load(folder)
    config = toy_model.config
    found = {variable.name.removesuffix(":0"): variable for variable in loaded.variables}
    assert len(loaded.trainable_variables) == len(found) == 39
    prefix = "transformer/layer_1"
    shapes = {
        "word_embeddings/embeddings": (13, 8),
        "position_embedding/embeddings": (16, 8),
        "type_embeddings/embeddings": (2, 8),
        "embeddings/layer_norm/gamma": (8,),
        f"{prefix}/self_attention/query/kernel": (8, 2, 4),
        f"{prefix}/self_attention/value/bias": (2, 4),
        f"{prefix}/self_attention/attention_output/kernel": (2, 4, 8),
        f"{prefix}/self_attention/attention_output/bias": (8,),
        f"{prefix}/self_attention_layer_norm/beta": (8,),
        f"{prefix}/intermediate/kernel": (8, 12),
        f"{prefix}/output/kernel": (12, 8),
        f"{prefix}/output_layer_norm/gamma": (8,),
        "pooler_transform/kernel": (8, 8),
    }
    assert {name: tuple(found[name].shape) for name in shapes} == shapes
    name = f"{prefix}/self_attention/attention_output/kernel"
    expected = toy_model.weights["bert/encoder/layer_1/attention/output/dense/kernel"]
    assert found[name].numpy().tobytes() == expected.tobytes()
    with open(loaded.vocab_file.asset_path.numpy(), encoding="utf-8") as reader:
        assert reader.read().split("\n")[:-1] == toys.TOKENS
    assert not loaded.do_lower_case.numpy() and loaded.regularization_losses == []

    ids = np.array([[2, 5, 6, 3], [2, 7, 3, 0]], np.int32)
    mask, types = (ids > 0).astype(np.int32), np.array([[0, 0, 1, 1], [0, 0, 0, 0]], np.int32)
    batch = {"input_ids": ids, "input_mask": mask, "segment_ids": types}
    output = encoder.encode(config, toy_model.weights, batch)
    names = ("input_word_ids", "input_mask", "input_type_ids")
    inputs = {n: tf.constant(x) for n, x in zip(names, (ids, mask, types), strict=True)}
    seen = loaded(inputs)
    np.testing.assert_allclose(seen["pooled_output"], output.pooled_output, atol=1e-6)
    np.testing.assert_allclose(seen["sequence_output"], output.sequence_output, atol=1e-6)
    assert len(seen["encoder_outputs"]) == config.num_hidden_layers
    served = loaded.signatures["serving_default"](**inputs)
    assert served.keys() == seen.keys()
    for layer in range(config.num_hidden_layers):
        expected = output.layers[layer + 1]
        np.testing.assert_allclose(seen["encoder_outputs"][layer], expected, atol=1e-6)
        np.testing.assert_allclose(served["encoder_outputs"][layer], expected, atol=1e-6)
    # Training drops out, and gradients reach every variable.
    with tf.GradientTape() as tape:
        trained = loaded(inputs, training=True)
        loss = tf.reduce_sum(trained["pooled_output"]) + tf.reduce_sum(
            trained["sequence_output"] ** 3
        )
    assert not np.allclose(trained["sequence_output"], output.sequence_output, atol=1e-3)
    assert all(g is not None for g in tape.gradient(loss, loaded.trainable_variables))


def test_a_saved_model_keeps_what_its_variables_do_not_say(tmp_path, convert, inspect, toy_model):
    """Activation, epsilon, casing and pooling."""
    config = dataclasses.replace(toy_model.config, hidden_act="silu", layer_norm_eps=1e-5)
    weights = {name: a for name, a in toy_model.weights.items() if name.startswith("bert/")}
    model = toy_model._replace(config=config, weights=weights, meta={"pooling": "max"})
    source = str(tmp_path / "source")
    huggingface.write(source, model)
    there = convert(source, "tf_hub")
    back = convert(there, "huggingface")
    for folder in (there, back):
        toys.assert_same(model, hub.load(folder))
        assert inspect(folder)["pooling"] == ["max"]


def test_saved_model_without_pooler(tmp_path, convert, toy_model):
    weights = {name: a for name, a in toy_model.weights.items() if "pooler" not in name}
    google.write(str(tmp_path / "source"), toy_model._replace(weights=weights))
    folder = convert(tmp_path / "source", "tf_hub")
    assert "bert/pooler/dense/kernel" not in hub.load(folder).weights
    loaded = tf.saved_model.load(folder)
    outputs = loaded.signatures["serving_default"].structured_outputs
    assert outputs.keys() == {"sequence_output", "encoder_outputs"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_full_disk_leaves_nothing(tmp_path, run, bert, layout):
    os.mkdir(tmp_path / "out")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        status, _, err = run(
            convert_checkpoint, bert=bert, to=layout, output_dir=tmp_path / "out" / "new"
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    error = err.splitlines()[-1]
    assert status == 1 and error.startswith(f"error: {tmp_path}/out/new")
    assert "cannot be written" in error and "free space" in error
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ({"bert": "no/such"}, "no/such: no such model folder"),
        ({"to": "onnx"}, "--to"),
        ({"to": ""}, "--to"),
        ({"output_dir": ""}, "--output_dir is missing"),
        ({"bert": ""}, "--bert is missing"),
        ({"output_dir": "{tmp}/full"}, "is not empty (x); choose another folder or empty it"),
        ({"output_dir": "{tmp}/file"}, "{tmp}/file: cannot be made, since {tmp}/file is a file"),
        (
            {"output_dir": "{tmp}/file/x"},
            "{tmp}/file/x: cannot be made, since {tmp}/file is a file",
        ),
        ({"pooling": "sum"}, "--pooling"),
    ],
)
def test_bad_flags(tmp_path, run, bert, flags, match):
    os.mkdir(tmp_path / "full")
    for path in (tmp_path / "full" / "x", tmp_path / "file"):
        path.write_text("x")
    flags = {"bert": bert, "to": "google", "output_dir": "{tmp}/out", **flags}
    flags = {name: value.replace("{tmp}", str(tmp_path)) for name, value in flags.items()}
    before = names_in(tmp_path)
    status, out, err = run(convert_checkpoint, **flags)
    assert (status, out) == (1, "") and err.startswith("error: ") and err.count("\n") == 1
    assert match.replace("{tmp}", str(tmp_path)) in err
    assert names_in(tmp_path) == before and not os.path.exists(tmp_path / "out")


def test_an_empty_folder_and_the_originals_flags(tmp_path, run, bert, toy_model):
    os.makedirs(tmp_path / "a" / "out")
    os.symlink(tmp_path / "a" / "out", tmp_path / "link")
    status, _, err = run(
        convert_checkpoint,
        bert_config_file=f"{bert}/bert_config.json",
        vocab_file=f"{bert}/vocab.txt",
        init_checkpoint=f"{bert}/bert_model.ckpt",
        do_lower_case=False,
        to="huggingface",
        output_dir=tmp_path / "link",
    )
    assert status == 0, err
    found = hub.load(str(tmp_path / "a" / "out"))
    for name, array in toy_model.weights.items():
        np.testing.assert_array_equal(array, found.weights[name])
    assert not found.tokenizer.do_lower_case and os.path.islink(tmp_path / "link")


def test_inspection_in_lines(run, bert, toy_model):
    status, out, err = run(inspect_model, bert=bert)
    assert (status, err) == (0, "")
    facts = dict(line.split(": ", 1) for line in out.splitlines())
    size = sum(a.size for name, a in toy_model.weights.items() if name.startswith("bert/"))
    assert facts == {
        "source": f"{bert}/bert_model.ckpt",
        "format": "google",
        "family": "bert",
        "layers": "2",
        "hidden_size": "8",
        "heads": "2",
        "intermediate_size": "12",
        "embedding_size": "8",
        "vocab_size": "13",
        "positions": "16",
        "token_types": "2",
        "activation": "gelu_tanh",
        "pooler": "true",
        "parameters": str(size),
        "tokenizer": "WordPiece",
        "tokens": "13",
        "casing": "cased",
        "pooling": "mean",
        "normalize": "false",
        "max_seq_length": "not said",
        "task": "not said",
        "labels": "none",
        "task_weights": "output_bias [3], output_weights [3, 8]",
        "checksum": facts["checksum"],
    }
    assert facts["checksum"].startswith("sha256:") and len(facts["checksum"]) == 71


def test_checksum_tells_weights_apart(bert, tmp_path, inspect, toy_model):
    weights = dict(toy_model.weights)
    weights["bert/pooler/dense/bias"] = np.nextafter(
        weights["bert/pooler/dense/bias"], np.float32(1)
    )
    google.write(str(tmp_path / "other"), toy_model._replace(weights=weights))
    assert inspect(bert)["checksum"] != inspect(str(tmp_path / "other"))["checksum"]


def test_a_pooling_that_is_not_computed_here(tmp_path, run):
    """It is told, and the rest all the same."""
    source = toys.write_huggingface(tmp_path)
    toys.write_json(f"{source}/modules.json", [{"path": "2_Dense", "type": "x.models.Dense"}])
    status, out, err = run(inspect_model, bert=source)
    assert status == 0 and "pooling: none\n" in out and "asks for a Dense module" in err
    status, _, err = run(convert_checkpoint, bert=source, to="google", output_dir=tmp_path / "out")
    assert status == 1 and "asks for a Dense module" in err


def test_check_finds_overflow(tmp_path, run, toy_model):
    weights = {**toy_model.weights, "bert/embeddings/LayerNorm/gamma": np.full(8, 3e38, np.float32)}
    google.write(str(tmp_path / "model"), toy_model._replace(weights=weights))
    status, out, err = run(inspect_model, bert=tmp_path / "model", check=True)
    assert status == 1 and "check: failed\n" in out and "family: bert\n" in out
    assert "output holds NaN or infinity" in err


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda batch: {"input_ids": batch["input_ids"]}, "another vector (padded|among others)"),
        (
            lambda batch: {**batch, "input_ids": batch["input_ids"][:1] + 0 * batch["input_ids"]},
            "another vector among others",
        ),
    ],
)
def test_check_finds_a_row_that_depends_on_others(monkeypatch, run, bert, change, match):
    """An encoder that forgets the mask, and one that mixes up rows."""
    real = encoder.encode
    monkeypatch.setattr(
        encoder, "encode", lambda config, weights, batch: real(config, weights, change(batch))
    )
    status, out, err = run(inspect_model, bert=bert, check=True)
    assert status == 1 and "check: failed\n" in out
    with pytest.raises(UserError, match=match):
        raise UserError(err)


def test_inspecting_nothing(run):
    status, out, err = run(inspect_model)
    assert (status, out) == (1, "") and err.startswith("error: --bert is missing")


def test_a_checkpoint_apart_from_its_description(run, toy_model, tmp_path):
    """As the original scripts leave it in their output_dir."""
    folder = tmp_path / "google"
    google.write(str(folder), toy_model)
    for suffix in ("index", "data-00000-of-00001"):
        shutil.move(folder / f"bert_model.ckpt.{suffix}", tmp_path / f"model.ckpt-3.{suffix}")
    flags = {"bert_config_file": folder / "bert_config.json"}
    flags |= {"vocab_file": folder / "vocab.txt", "json": True}
    status, out, err = run(inspect_model, **flags, init_checkpoint=f"{tmp_path}/model.ckpt-3")
    assert status == 0, err
    facts = json.loads(out)
    assert facts["format"] is None and facts["layers"] == 2


def test_a_vocabulary_that_ends_in_a_blank_line(run, toy_model, tmp_path):
    """Which is no token, and has no row in the table of embeddings."""
    google.write(str(tmp_path / "model"), toy_model)
    with open(tmp_path / "model" / "vocab.txt", "a") as writer:
        writer.write("\n")
    rows = inspection._rows(hub.load(str(tmp_path / "model")))
    assert max(map(max, rows)) == toy_model.config.vocab_size - 1
    status, _, err = run(inspect_model, bert=tmp_path / "model", check=True)
    assert status == 0, err
