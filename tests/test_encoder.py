"""The encoder: against transformers and the original, and what its promises say of rows, masks,
dropout and precision.
"""

import dataclasses
import hashlib
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from bert_tools import encoder, hub
from bert_tools.config import ACTIVATIONS
from bert_tools.inputs import batches, features

DATA = pathlib.Path(__file__).parent / "data"
WIDTH = 128


@pytest.fixture(scope="module")
def model(minilm):
    """The real MiniLM, its weights as constants."""
    found = hub.load(minilm)
    weights = {name: tf.constant(array) for name, array in found.weights.items()}
    return found._replace(weights=weights)


@pytest.fixture(scope="module")
def sentences(model, shared):
    """Features of the first 500 sentences of the STS-B test set."""
    text = (shared / "data" / "stsb" / "en" / "test.tsv").read_text("utf-8")
    texts = [line.split("\t")[0] for line in text.split("\n")[:500]]
    return features.convert_texts(texts, None, WIDTH, model.tokenizer)


@pytest.fixture(scope="module")
def outputs(model, sentences):
    """float32 (layers [7, tokens, 384], pooled [500, 384]) of the sentences, one after another."""
    return encoded(model, sentences, "bucket", 2048)


def encoded(model, examples, mode, budget, dtype=tf.float32, static=False):
    """Every layer's vectors of every token, and the pooled ones, in the examples' order."""

    @tf.function(reduce_retracing=True)
    def run(batch):
        found = encoder.encode(model.config, model.weights, batch, dtype=dtype)
        layers = tf.cast(tf.stack(found.layers), tf.float32)
        return layers, tf.cast(found.pooled_output, tf.float32)

    depth, hidden = model.config.num_hidden_layers + 1, model.config.hidden_size
    layers = np.full((depth, examples.offsets[-1], hidden), np.nan, np.float32)
    pooled = np.full((len(examples), hidden), np.nan, np.float32)
    for block in batches.plan(examples.lengths, mode, budget, WIDTH, static):
        batch = batches.assemble(examples, block)
        found, firsts = run({name: tf.constant(array) for name, array in batch.items()})
        lengths = examples.lengths[block.examples]
        places = features.ranges(block.rows * block.shape[1] + block.starts, lengths)
        kept = features.ranges(examples.offsets[block.examples], lengths)
        layers[:, kept] = found.numpy().reshape(depth, -1, hidden)[:, places]
        pooled[block.examples] = firsts.numpy()
    return layers, pooled


def means(vectors, examples):
    """The mean over each example's tokens of [..., tokens, hidden]."""
    return np.add.reduceat(vectors, examples.offsets[:-1], -2) / examples.lengths[:, None]


def normalised(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def toy_batch(rows=3, width=6, seed=0):
    rng = np.random.default_rng(seed)
    mask = np.arange(width) < np.array([width, 1, *rng.integers(1, width + 1, rows - 2)])[:, None]
    return {
        "input_ids": (rng.integers(1, 13, (rows, width)) * mask).astype(np.int32),
        "input_mask": mask.astype(np.int32),
        "segment_ids": (rng.integers(0, 2, (rows, width)) * mask).astype(np.int32),
    }


@pytest.fixture(scope="module")
def toy(toy_config):
    """(config, weights) with every bias and LayerNorm different from its initial value."""
    weights = encoder.initial_weights(toy_config, seed=3)
    rng = np.random.default_rng(3)
    weights = {
        name: (array + rng.normal(0, 0.2, array.shape)).astype(np.float32)
        for name, array in weights.items()
    }
    return toy_config, weights


# Against others


def test_minilm_layers_as_transformers(outputs, sentences):
    """All seven layers within 1e-4 of transformers' BertModel (erf GELU, one sentence at a time).

    Pinned of each sentence and layer: four random projections of the [CLS] and the mean vector. A
    projection adds up 384 differences, so its tolerance is tighter than it looks.
    """
    pinned = np.load(DATA / "minilm_transformers.npz")
    digest = hashlib.sha256(sentences.input_ids.astype("<i4").tobytes()).hexdigest()
    assert digest == str(pinned["ids_sha256"])
    directions = np.random.RandomState(20190611).standard_normal((384, 4)).astype(np.float32)
    layers, pooled = outputs
    found = {
        "first": layers[:, sentences.offsets[:-1]].astype(np.float64) @ directions,
        "mean": means(layers.astype(np.float64), sentences) @ directions,
        "pooled": pooled.astype(np.float64) @ directions,
    }
    for name, array in found.items():
        assert array.shape == pinned[name].shape == (*array.shape[:-1], 4)
        np.testing.assert_allclose(array, pinned[name], rtol=0, atol=1e-4, err_msg=name)


def test_the_other_gelu_would_show(model, sentences):
    """The pinned numbers tell erf from tanh: with the wrong form they are far off."""
    pinned = np.load(DATA / "minilm_transformers.npz")
    directions = np.random.RandomState(20190611).standard_normal((384, 4)).astype(np.float32)
    assert model.config.hidden_act == "gelu_erf"
    some = features.Features(
        sentences.input_ids[: sentences.offsets[20]],
        sentences.segment_ids[: sentences.offsets[20]],
        sentences.offsets[:21],
        {},
    )
    tanh = model._replace(config=dataclasses.replace(model.config, hidden_act="gelu_tanh"))
    last = encoded(tanh, some, "bucket", 2048)[0][-1, some.offsets[:-1]]
    assert np.abs(last @ directions - pinned["first"][-1, :20]).max() > 1e-3


def test_toy_checkpoint_as_the_original(shared):
    """A genuine TensorFlow 1 checkpoint, through TensorFlow 1.15 and the original modeling.py."""
    pinned = np.load(DATA / "toy_encoder.npz")
    found = hub.load(str(shared / "models" / "keras-bert-test-checkpoint"))
    batch = {name: pinned[name] for name in ("input_ids", "input_mask", "segment_ids")}
    output = encoder.encode(found.config, found.weights, batch)
    expected = [pinned["embedding_output"], *pinned["all_encoder_layers"]]
    assert len(output.layers) == len(expected) == 3
    for layer, array in zip(output.layers, expected, strict=True):
        np.testing.assert_allclose(layer, array, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(output.sequence_output, output.layers[-1])
    np.testing.assert_allclose(output.pooled_output, pinned["pooled_output"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name):
    x = np.concatenate([np.linspace(-12, 12, 1001), [0.0, -0.0, 1e-6, -1e-6, 60, -60]])
    softplus = np.logaddexp(0, x)
    expected = {
        "gelu_erf": x * special.ndtr(x),
        "gelu_tanh": x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        "gelu_quick": x * special.expit(1.702 * x),
        "relu": np.maximum(x, 0),
        "relu_squared": np.maximum(x, 0) ** 2,
        "relu6": np.clip(x, 0, 6),
        "tanh": np.tanh(x),
        "sigmoid": special.expit(x),
        "silu": x * special.expit(x),
        "mish": x * np.tanh(softplus),
        "linear": x,
    }[name]
    for dtype, tolerance in ((tf.float64, 1e-7), (tf.float32, 1e-6)):
        found = encoder.activation(name)(tf.constant(x, dtype))
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * 3)
    for dtype in (tf.bfloat16, tf.float16):
        found = encoder.activation(name)(tf.constant(x[:1001].reshape(7, 143), dtype))
        assert found.dtype == dtype and found.shape == (7, 143)
        wide = tf.cast(found, tf.float32).numpy().ravel()
        np.testing.assert_allclose(wide, expected[:1001], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_hidden_act_is_used(toy, name):
    """The whole encoder, with each activation, against a plain NumPy one."""
    config, weights = toy
    config = dataclasses.replace(config, hidden_act=name)
    batch = toy_batch()
    expected = reference(config, weights, batch)
    found = encoder.encode(config, weights, batch)
    kept = batch["input_mask"] > 0
    assert len(found.layers) == len(expected) == config.num_hidden_layers + 1
    for layer, array in zip(found.layers, expected, strict=True):
        np.testing.assert_allclose(layer.numpy()[kept], array[kept], rtol=1e-4, atol=1e-5)
    dense = weights["bert/pooler/dense/kernel"].astype(np.float64)
    pooled = np.tanh(expected[-1][:, 0] @ dense + weights["bert/pooler/dense/bias"])
    np.testing.assert_allclose(found.pooled_output, pooled, rtol=1e-4, atol=1e-5)


def reference(config, weights, batch):
    """Every layer of a BERT as the paper writes it, in NumPy and float64."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    width = batch["input_ids"].shape[1]

    def norm(x, prefix):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + config.layer_norm_eps)
        return x * w[f"{prefix}/LayerNorm/gamma"] + w[f"{prefix}/LayerNorm/beta"]

    def dense(x, prefix):
        return x @ w[f"{prefix}/kernel"] + w[f"{prefix}/bias"]

    tables = "bert/embeddings/{}_embeddings"
    x = w[tables.format("word")][batch["input_ids"]] + w[tables.format("position")][:width]
    x = norm(x + w[tables.format("token_type")][batch["segment_ids"]], "bert/embeddings")
    layers = [x]
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    for layer in range(config.num_hidden_layers):
        prefix = f"bert/encoder/layer_{layer}"
        query, key, value = (
            dense(x, f"{prefix}/attention/self/{part}")
            .reshape(-1, width, heads, size)
            .swapaxes(1, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(2, 3) / np.sqrt(size)
        scores = np.where(batch["input_mask"][:, None, None] > 0, scores, -np.inf)
        context = (special.softmax(scores, -1) @ value).swapaxes(1, 2).reshape(x.shape)
        output = f"{prefix}/attention/output"
        x = norm(x + dense(context, f"{output}/dense"), output)
        inner = tf.constant(dense(x, f"{prefix}/intermediate/dense"))
        inner = encoder.activation(config.hidden_act)(inner).numpy()
        x = norm(x + dense(inner, f"{prefix}/output/dense"), f"{prefix}/output")
        layers.append(x)
    return layers


# Rows, masks, packing


def test_a_row_does_not_depend_on_the_rows_beside_it(model, sentences):
    """Alone, and among 64 rows of 128 tokens: within 1e-5 on L2-normalised vectors."""
    long = np.arange(1000, 1000 + 63 * WIDTH, dtype=np.int32)
    together = features.Features.concatenate(
        [
            *(
                features.Features(ids, np.zeros_like(ids), np.array([0, len(ids)]), {})
                for ids in (
                    sentences.input_ids[slice(*sentences.offsets[index : index + 2])]
                    for index in range(4)
                )
            ),
            features.Features(long, np.zeros_like(long), np.arange(64) * WIDTH, {}),
        ]
    )
    crowded, crowded_pooled = encoded(model, together, "pad", 10**6)
    for index in range(4):
        part = slice(*together.offsets[index : index + 2])
        ids = together.input_ids[part]
        one = features.Features(ids, np.zeros_like(ids), np.array([0, len(ids)]), {})
        alone, alone_pooled = encoded(model, one, "bucket", 1024)
        for found, expected in (
            (crowded[:, part], alone),
            (crowded_pooled[index], alone_pooled[0]),
            (means(crowded[:, part], one), means(alone, one)),
        ):
            difference = np.abs(normalised(found) - normalised(expected)).max()
            assert difference <= 1e-5


@pytest.mark.parametrize("static", [False, True], ids=["", "static"])
def test_packed_rows_give_what_separate_ones_give(model, sentences, outputs, static):
    """Every token of every layer, and the pooled vectors, within 1e-5 when L2-normalised."""
    layers, pooled = encoded(model, sentences, "pack", 1024, static=static)
    for found, expected in ((layers, outputs[0]), (pooled, outputs[1])):
        assert np.isfinite(found).all()
        assert np.abs(normalised(found) - normalised(expected)).max() <= 1e-5


def test_padding_does_not_count(toy):
    """Whatever ids and segments stand in the padding, and however wide it is."""
    config, weights = toy
    batch = toy_batch()
    kept = batch["input_mask"] > 0
    expected = encoder.encode(config, weights, batch)
    noisy = {name: np.where(kept, array, 1).astype(np.int32) for name, array in batch.items()}
    noisy["input_mask"] = batch["input_mask"]
    wide = {name: np.pad(array, [(0, 2), (0, 9)]) for name, array in batch.items()}
    for other in (noisy, wide):
        found = encoder.encode(config, weights, other)
        last = found.sequence_output.numpy()[:3, :6]
        np.testing.assert_allclose(last[kept], expected.sequence_output.numpy()[kept], atol=1e-6)
        np.testing.assert_allclose(found.pooled_output[:3], expected.pooled_output, atol=1e-6)


def test_defaults_of_the_batch(toy):
    """No mask: no padding; no segments: the first; no first_positions: each row's first token."""
    config, weights = toy
    ids = toy_batch()["input_ids"]
    batch = {"input_ids": ids, "input_mask": np.ones_like(ids), "segment_ids": np.zeros_like(ids)}
    expected = encoder.encode(config, weights, batch)
    found = encoder.encode(config, weights, {"input_ids": ids})
    np.testing.assert_allclose(found.sequence_output, expected.sequence_output, atol=1e-6)
    np.testing.assert_allclose(found.pooled_output, expected.pooled_output, atol=1e-6)
    batch["first_positions"] = np.array([6, 1], np.int32)
    pooled = encoder.encode(config, weights, batch).pooled_output
    np.testing.assert_allclose(pooled[0], expected.pooled_output[1], atol=1e-6)
    assert pooled.shape == (2, 16)


def test_segments_and_positions_matter(toy):
    config, weights = toy
    batch = toy_batch()
    expected = encoder.encode(config, weights, batch).sequence_output.numpy()
    for name, array in (
        ("segment_ids", 1 - batch["segment_ids"]),
        ("input_ids", batch["input_ids"][:, ::-1].copy()),
    ):
        found = encoder.encode(config, weights, {**batch, name: array}).sequence_output.numpy()
        assert np.abs(found[0] - expected[0]).max() > 1e-2


def test_without_a_pooler(toy):
    config, weights = toy
    weights = {name: array for name, array in weights.items() if "pooler" not in name}
    output = encoder.encode(config, weights, toy_batch())
    assert output.pooled_output is None and output.sequence_output.shape == (3, 6, 16)


def test_variables_constants_and_arrays_give_the_same(toy):
    config, weights = toy
    batch = toy_batch()
    expected = encoder.encode(config, weights, batch).pooled_output.numpy()
    for kind in (tf.constant, tf.Variable):
        held = {name: kind(array) for name, array in weights.items()}
        found = encoder.encode(config, held, batch).pooled_output.numpy()
        np.testing.assert_array_equal(found, expected)


# Wrong shapes


@pytest.mark.parametrize("shape", [(), (6,), (3, 6, 1)])
def test_input_ids_must_be_rows(toy, shape):
    config, weights = toy
    with pytest.raises(ValueError, match=r"input_ids has shape .*, expected \[batch, seq\]"):
        encoder.encode(config, weights, {"input_ids": np.ones(shape, np.int32)})


@pytest.mark.parametrize("name", ["input_mask", "segment_ids", "position_ids"])
@pytest.mark.parametrize("shape", [(6,), (3, 5), (3, 1), (1, 6), (3, 6, 1), (6, 3)])
def test_other_tensors_must_have_the_same_shape(toy, name, shape):
    config, weights = toy
    batch = {**toy_batch(), name: np.ones(shape, np.int32)}
    with pytest.raises(ValueError, match=rf"{name} has shape .*, expected \[batch, seq\] = \(3, 6"):
        encoder.encode(config, weights, batch)


def test_wrong_shapes_are_found_while_tracing(toy):
    config, weights = toy
    spec = {
        "input_ids": tf.TensorSpec([None, None], tf.int32),
        "input_mask": tf.TensorSpec([None], tf.int32),
    }
    with pytest.raises(ValueError, match="input_mask has shape"):
        tf.function(lambda batch: encoder.encode(config, weights, batch)).get_concrete_function(
            spec
        )


def test_too_many_tokens_for_the_model(toy):
    config, weights = toy
    ids = np.ones((1, config.max_position_embeddings), np.int32)
    encoder.encode(config, weights, {"input_ids": ids})
    with pytest.raises(ValueError, match="33 tokens a row, the model 32 positions"):
        encoder.encode(config, weights, {"input_ids": np.ones((1, 33), np.int32)})


# Precision


def test_bfloat16_is_close(model, sentences, outputs):
    """The mean-pooled vectors of bfloat16 and float32: cosine 0.9999 and more on average."""
    count = 100
    end = sentences.offsets[count]
    ids, segments = sentences.input_ids[:end], sentences.segment_ids[:end]
    some = features.Features(ids, segments, sentences.offsets[: count + 1], {})
    weights = {name: tf.cast(array, tf.bfloat16) for name, array in model.weights.items()}
    layers, _ = encoded(model._replace(weights=weights), some, "pack", 2048, tf.bfloat16)
    found = normalised(means(layers[-1].astype(np.float64), some))
    expected = normalised(means(outputs[0][-1, :end].astype(np.float64), some))
    cosines = (found * expected).sum(-1)
    assert cosines.mean() >= 0.9999
    assert cosines.min() >= 0.999 and cosines.max() < 1 - 1e-9  # It did compute in bfloat16.


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16])
def test_outputs_are_in_the_computing_dtype(toy, dtype):
    config, weights = toy
    batch = toy_batch()
    output = encoder.encode(config, weights, batch, dtype=dtype)
    expected = encoder.encode(config, weights, batch)
    assert output.pooled_output.dtype == dtype
    assert {layer.dtype for layer in output.layers} == {dtype}
    found = tf.cast(output.sequence_output, tf.float32).numpy()[batch["input_mask"] > 0]
    wanted = expected.sequence_output.numpy()[batch["input_mask"] > 0]
    assert np.abs(found - wanted).max() < 0.15


# Weights and dropout


def test_initial_weights(toy_config):
    config = dataclasses.replace(toy_config, hidden_size=64, intermediate_size=128, vocab_size=500)
    weights = encoder.initial_weights(config, seed=5)
    shapes = encoder.weight_shapes(config)
    assert list(weights) == list(shapes) and len(shapes) == 5 + 2 * 16 + 2
    for name, array in weights.items():
        assert array.shape == shapes[name] and array.dtype == np.float32
        if name.endswith("gamma"):
            assert (array == 1).all()
        elif name.endswith(("beta", "bias")):
            assert (array == 0).all()
        else:
            assert np.abs(array).max() <= 2 * config.initializer_range
    table = weights["bert/embeddings/word_embeddings"]
    assert abs(table.std() - 0.02 * 0.8796) < 3e-4 and abs(table.mean()) < 5e-4
    again, other = encoder.initial_weights(config, seed=5), encoder.initial_weights(config, seed=6)
    name = "bert/pooler/dense/kernel"
    assert (again[name] == weights[name]).all() and (other[name] != weights[name]).any()
    kernels = [weights[f"bert/encoder/layer_{i}/output/dense/kernel"] for i in (0, 1)]
    assert (kernels[0] != kernels[1]).any()


def test_initial_weights_do_not_depend_on_which_are_wanted(toy_config):
    whole = encoder.initial_weights(toy_config, seed=5)
    pooler = encoder.initial_weights(toy_config, seed=5, wanted=lambda name: "pooler" in name)
    assert sorted(pooler) == ["bert/pooler/dense/bias", "bert/pooler/dense/kernel"]
    for name, array in pooler.items():
        np.testing.assert_array_equal(array, whole[name])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_dropout_rate_and_scale(rate, dtype):
    dropped = encoder.dropout(tf.ones([1000, 301], dtype), rate, tf.constant([1, 2]))
    assert dropped.dtype == dtype and dropped.shape == (1000, 301)
    values = tf.cast(dropped, tf.float32).numpy()
    assert abs((values == 0).mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / values.size)
    kept = values[values != 0]
    tolerance = 1e-4 if dtype == tf.float32 else 4e-3
    np.testing.assert_allclose(kept, 1 / (1 - rate), rtol=tolerance)
    # No rows or columns of their own, and neighbours that share one random number are independent.
    zeros = values == 0
    assert np.abs(zeros.mean(0) - rate).max() < 0.12 and np.abs(zeros.mean(1) - rate).max() < 0.2
    both = (zeros.ravel()[:-1:2] & zeros.ravel()[1::2]).mean()
    assert abs(both - rate**2) < 0.005


def test_dropout_is_fixed_by_its_seed():
    x = tf.reshape(tf.range(1.0, 36.0), [5, 7])
    first = encoder.dropout(x, 0.5, tf.constant([1, 2])).numpy()
    assert (encoder.dropout(x, 0.5, tf.constant([1, 2])).numpy() == first).all()
    for seed in ([1, 3], [2, 2]):
        assert (encoder.dropout(x, 0.5, tf.constant(seed)).numpy() != first).any()
    assert encoder.dropout(tf.ones([0, 4]), 0.5, tf.constant([1, 2])).shape == (0, 4)


def test_dropout_in_the_encoder(toy):
    config, weights = toy
    batch = toy_batch()

    def run(rng, **changes):
        rng = None if rng is None else tf.constant(rng)
        found = encoder.encode(dataclasses.replace(config, **changes), weights, batch, rng)
        return found.sequence_output.numpy()

    none = run(None)
    np.testing.assert_array_equal(run(None), none)
    first = run([1, 2])
    np.testing.assert_array_equal(run([1, 2]), first)
    assert np.abs(first - none).max() > 1e-2
    assert np.abs(first - run([1, 3])).max() > 1e-2
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    np.testing.assert_array_equal(run([1, 2], **off), none)
    for probability in off:  # Each of the two does something by itself.
        assert np.abs(run([1, 2], **{**off, probability: 0.1}) - none).max() > 1e-3


def test_dropout_differs_from_place_to_place(toy):
    """Hidden dropout of 1/2 in the embeddings: what is dropped there is exactly zero."""
    config, weights = toy
    config = dataclasses.replace(config, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.0)
    batch = {"input_ids": np.ones((64, 8), np.int32)}
    output = encoder.encode(config, weights, batch, tf.constant([4, 4]))
    zeros = output.layers[0].numpy() == 0
    assert abs(zeros.mean() - 0.5) < 0.03
    assert (zeros[0] != zeros[1]).any() and (zeros[:, 0] != zeros[:, 1]).any()
    plain = encoder.encode(config, weights, batch).layers[0].numpy()
    np.testing.assert_allclose(output.layers[0].numpy()[~zeros], 2 * plain[~zeros], rtol=1e-5)


def test_every_place_has_its_own_mask(toy, monkeypatch):
    config, weights = toy
    seeds, dropout = [], encoder.dropout

    def recorded(x, rate, seed):
        seeds.append((rate, tuple(seed.numpy().tolist())))
        return dropout(x, rate, seed)

    monkeypatch.setattr(encoder, "dropout", recorded)
    config = dataclasses.replace(config, attention_probs_dropout_prob=0.2)
    encoder.encode(config, weights, toy_batch(), tf.constant([1, 2]))
    # Embeddings; in each layer attention, its output, and the layer's output.
    assert [rate for rate, _ in seeds] == [0.1] + [0.2, 0.1, 0.1] * config.num_hidden_layers
    assert len({seed for _, seed in seeds}) == len(seeds)


def test_dropout_is_the_same_in_a_graph(toy):
    config, weights = toy
    batch = toy_batch()
    run = tf.function(lambda rng: encoder.encode(config, weights, batch, rng).sequence_output)
    eager = encoder.encode(config, weights, batch, tf.constant([1, 2])).sequence_output
    np.testing.assert_allclose(run(tf.constant([1, 2])), eager, atol=1e-5)


def test_gradients_are_dense_and_finite(toy):
    """Every weight learns; small tables have dense gradients, as clipping in the original saw."""
    config, weights = toy
    variables = {name: tf.Variable(array) for name, array in weights.items()}
    batch = toy_batch()
    with tf.GradientTape() as tape:
        output = encoder.encode(config, variables, batch, tf.constant([1, 2]))
        weighting = tf.random.stateless_normal([3, 16], [1, 1])
        loss = tf.reduce_sum(output.pooled_output * weighting)
    gradients = dict(zip(variables, tape.gradient(loss, list(variables.values())), strict=True))
    for name, gradient in gradients.items():
        assert isinstance(gradient, tf.IndexedSlices) == name.endswith("word_embeddings"), name
        dense = tf.convert_to_tensor(gradient).numpy()
        assert np.isfinite(dense).all() and (dense != 0).any(), name
