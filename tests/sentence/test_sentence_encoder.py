"""Sentence vectors: beside the encoder's own, sentence-transformers', alone and in company."""

import os
import pathlib
import subprocess
import sys
import zlib

import numpy as np
import pytest

from bert_tools import encoder as encoders
from bert_tools import hub
from bert_tools.errors import UserError
from bert_tools.inputs.features import convert_texts
from bert_tools.sentence.encoder import Encoder

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PINNED = ROOT / "tests" / "data" / "minilm_vectors.npz"
PROJECTIONS = ROOT / "tests" / "data" / "minilm_projections.npz"
TEXTS = ["a b", ("c , d", "ae bf ."), "", "d d d", "a", "zzz a b c d a b c d", "c c"]


def layers_of(handle, text, max_seq_length=32):
    """(float32 [layers + 1, tokens, hidden], pooled [hidden]) of one text, computed alone."""
    model = hub.load(handle)
    texts = (text, None) if isinstance(text, str) else text
    found = convert_texts([texts[0]], [texts[1]], max_seq_length, model.tokenizer)
    batch = {
        "input_ids": found.input_ids[np.newaxis],
        "segment_ids": found.segment_ids[np.newaxis],
    }
    output = encoders.encode(model.config, model.weights, batch)
    return np.stack([layer[0] for layer in output.layers]), output.pooled_output[0].numpy()


def expected(handle, text, pooling, layer=-1):
    layers, pooled = layers_of(handle, text)
    return {
        "cls": lambda: layers[layer, 0],
        "mean": lambda: layers[layer].mean(0),
        "max": lambda: layers[layer].max(0),
        "pooled": lambda: pooled,
        "first_last_mean": lambda: (0.5 * (layers[1] + layers[-1])).mean(0),
    }[pooling]()


@pytest.mark.parametrize("batching", ["bucket", "pack", "pad"])
@pytest.mark.parametrize("pooling", ["cls", "pooled", "mean", "max", "first_last_mean"])
def test_poolings(wide_model, pooling, batching):
    encoder = Encoder.load(wide_model, pooling=pooling, batching=batching, max_seq_length=32)
    found = encoder.encode(TEXTS)
    assert found.dtype == np.float32 and found.shape == (len(TEXTS), 16) == (7, encoder.width)
    for text, vector in zip(TEXTS, found, strict=True):
        want = expected(wide_model, text, pooling)
        np.testing.assert_allclose(vector, want, rtol=0, atol=1e-5, err_msg=str(text))


def test_layers_and_several_poolings_are_joined(wide_model):
    encoder = Encoder.load(wide_model, pooling=["mean", "cls"], layers=[0, -1], max_seq_length=32)
    found = encoder.encode(TEXTS)
    assert found.shape == (7, 64)
    for text, vector in zip(TEXTS, found, strict=True):
        parts = [expected(wide_model, text, p, layer) for p in ("mean", "cls") for layer in (0, -1)]
        np.testing.assert_allclose(vector, np.concatenate(parts), rtol=0, atol=1e-5)


def test_always_two_dimensional(wide_model):
    encoder = Encoder.load(wide_model, pooling="mean", max_seq_length=32)
    assert encoder.encode([]).shape == (0, 16)
    assert encoder.encode(["a"]).shape == encoder.encode("a b c").shape == (1, 16)
    np.testing.assert_array_equal(encoder.encode("a b c"), encoder.encode(["a b c"]))
    assert encoder.encode(text for text in ["a", "b"]).shape == (2, 16)


def test_normalize_and_prefix(wide_model):
    plain = Encoder.load(wide_model, pooling="mean", max_seq_length=32)
    scaled = Encoder.load(wide_model, pooling="mean", normalize=True, max_seq_length=32)
    vectors = plain.encode(TEXTS)
    want = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(scaled.encode(TEXTS), want, rtol=0, atol=1e-6)
    prefixed = Encoder.load(wide_model, pooling="mean", prefix="d , ", max_seq_length=32)
    np.testing.assert_array_equal(prefixed.encode(["a b"]), plain.encode(["d , a b"]))


@pytest.mark.parametrize(
    "options",
    [{}, {"batching": "pack"}, {"batching": "pad"}, {"xla": True}, {"xla": True, "pooling": "max"}],
    ids=str,
)
def test_company_does_not_matter(wide_model, options):
    options = {"pooling": "mean", "normalize": True, "max_seq_length": 16, **options}
    encoder = Encoder.load(wide_model, **options)
    rng = np.random.default_rng(3)
    texts = [" ".join(rng.choice(list("abcd"), rng.integers(0, 14))) for _ in range(300)]
    together = encoder.encode(texts)
    order = rng.permutation(len(texts))
    shuffled = encoder.encode([texts[index] for index in order])
    np.testing.assert_allclose(shuffled, together[order], rtol=0, atol=1e-5)
    for index in range(0, 300, 37):
        alone = encoder.encode([texts[index]])
        np.testing.assert_allclose(alone[0], together[index], rtol=0, atol=1e-5)
        if options.get("batching") == "pad":
            np.testing.assert_array_equal(alone[0], together[index])
    if options.get("batching") == "pad":
        np.testing.assert_array_equal(shuffled, together[order])
    other = Encoder.load(wide_model, **{**options, "xla": False, "batching": "bucket"})
    np.testing.assert_allclose(other.encode(texts), together, rtol=0, atol=1e-5)
    different = dict(zip(texts, together, strict=True))
    vectors = np.stack(list(different.values()))
    distances = np.abs(vectors[:, np.newaxis] - vectors).max(-1) + np.eye(len(vectors))
    if options["pooling"] == "mean":
        assert distances.min() > 1e-6


def test_windows_come_in_order(wide_model):
    """Results of the stream's windows, also those of one text and of none."""
    encoder = Encoder.load(wide_model, pooling="cls", max_seq_length=16)
    windows = [["a", "b c"], [], ["d"], ["a"] * 100]
    found = list(encoder.stream(iter(windows)))
    assert [len(vectors) for vectors in found] == [2, 0, 1, 100]
    np.testing.assert_allclose(found[3][7], found[0][0], rtol=0, atol=1e-5)


def test_error_of_the_texts_arrives(wide_model):
    encoder = Encoder.load(wide_model, pooling="cls", max_seq_length=16)

    def windows():
        yield ["a"]
        raise UserError("no more")

    found = encoder.stream(windows())
    assert next(found).shape == (1, 16)
    with pytest.raises(UserError, match="no more"):
        next(found)


def test_counts_unknown_tokens(wide_model):
    encoder = Encoder.load(wide_model, pooling="cls", max_seq_length=16)
    encoder.encode(["zzz a", "yyy"])
    assert (encoder.tokens, encoder.unknown) == (7, 2)


def test_bfloat16(wide_model):
    """With the matrices as constants of the graph; three digits are right."""
    options = {"pooling": "mean", "normalize": True, "max_seq_length": 32}
    full = Encoder.load(wide_model, **options).encode(TEXTS)
    half = Encoder.load(wide_model, precision="bfloat16", **options).encode(TEXTS)
    assert half.dtype == np.float32
    assert np.abs(half - full).max() > 1e-5
    assert np.sum(half * full, axis=1).min() > 0.999


def test_weights_are_taken_over(wide_model):
    model = hub.load(wide_model)
    Encoder(model, pooling="cls", max_seq_length=32)
    assert model.weights == {}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"pooling": "median"}, "--pooling=median: expected cls, pooled"),
        ({"layers": [3]}, "--layers=3: the model has 2 layers"),
        ({"layers": [-4]}, "--layers=-4: the model has 2 layers"),
        ({"layers": [1], "pooling": "pooled"}, "goes with --pooling of cls, mean, max"),
        ({"max_seq_length": 33}, "--max_seq_length=33: the model has 32 positions"),
        ({"max_seq_length": 2}, "--max_seq_length=2: expected at least 3"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_refused(wide_model, options, message):
    with pytest.raises(UserError, match=message):
        Encoder.load(wide_model, **{"pooling": "cls", **options})


def test_no_pooler(wide_model):
    model = hub.load(wide_model)
    for part in ("kernel", "bias"):
        del model.weights[f"bert/pooler/dense/{part}"]
    with pytest.raises(UserError, match="has no pooler"):
        Encoder(model, pooling="pooled")


def test_minilm_as_sentence_transformers(minilm, shared):
    """48 sentences of the STS-B development set within 1e-5 of sentence-transformers 5.7 (mean,
    normalised) and of transformers 4.57 (cls).
    """
    pinned = np.load(PINNED)
    path = shared / "data" / "glue" / "STS-B" / "dev.tsv"
    rows = [line.split("\t") for line in path.read_text("utf-8").split("\n")]
    places = zip(pinned["lines"], pinned["columns"], strict=True)
    texts = [rows[line][column] for line, column in places]
    auto = Encoder.load(minilm)
    assert (auto.poolings, auto.normalize, auto.max_seq_length) == (("mean",), True, 256)
    found = auto.encode(texts)
    np.testing.assert_allclose(found, pinned["mean_normalized"], rtol=0, atol=1e-5)
    cls = Encoder.load(minilm, pooling="cls", batching="pack").encode(texts)
    scale = np.linalg.norm(pinned["cls"], axis=1, keepdims=True)
    np.testing.assert_allclose(cls / scale, pinned["cls"] / scale, rtol=0, atol=1e-5)
    half = Encoder.load(minilm, precision="bfloat16").encode(texts)
    assert np.sum(half * found, axis=1).min() > 0.9995


def test_a_tenth_of_sts_b(minilm, shared):
    """Each tenth of its 15,457 English sentences against sentence-transformers 5.7 (mean,
    normalised) and transformers 4.57 (cls), each vector by its projection on one random
    direction: an error of 1e-5 in every component shifts most of them by about as much.
    """
    pinned = np.load(PROJECTIONS)
    texts = []
    for split in ("train", "dev", "test"):
        path = shared / "data" / "stsb" / "en" / f"{split}.tsv"
        rows = (line.split("\t") for line in path.read_text("utf-8").split("\n"))
        texts += [text for row in rows for text in row[:2] if len(row) > 1]
    texts = list(dict.fromkeys(texts))[::10]
    assert zlib.crc32("\n".join(texts).encode()) == pinned["texts"]
    encoder = Encoder.load(minilm, pooling=["mean", "cls"], max_seq_length=256)
    mean, cls = np.split(encoder.encode(texts), 2, axis=1)
    direction = np.random.default_rng(6).normal(size=384)
    direction /= np.linalg.norm(direction)
    for name, vectors in (("mean", mean), ("cls", cls)):
        lengths = np.linalg.norm(vectors, axis=1)
        want = pinned[name] * (lengths if name == "mean" else 1)
        errors = np.abs(vectors @ direction - want) / lengths
        assert errors.max() < 1e-5, (name, texts[errors.argmax()])
    assert len(np.unique(np.round(pinned["mean"], 6))) > 0.99 * len(texts)


def test_several_devices(wide_model):
    """Two logical CPUs, which a process must ask for before anything else."""
    code = f"""
import numpy as np, tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
from bert_tools.sentence.encoder import Encoder
texts = ["a b c d"[: 1 + index % 7] for index in range(2000)]
options = {{"pooling": "mean", "max_seq_length": 16, "batching": "pad"}}
one = Encoder.load({wide_model!r}, **options).encode(texts)
two = Encoder.load({wide_model!r}, devices=["/CPU:0", "/CPU:1"], **options).encode(texts)
np.testing.assert_array_equal(one, two)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
