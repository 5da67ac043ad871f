"""The objectives of sentence vectors, against numbers made by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from bert_tools.inputs.text_features import TEXT_NUMBERS
from bert_tools.tasks import objectives
from bert_tools.tasks.siamese import OBJECTIVES, Options, Siamese, ranking


def tensor(values):
    return tf.constant(values, tf.float32)


# Two pairs, cosines 0.6 and 0.
PAIRS = tensor([[[1, 0], [3, 4]], [[0, 2], [5, 0]]])


def test_cosine_regression_meets_each_pairs_own_value():
    """Of three pairs, three differences: not three by three."""
    vectors = tensor([[[1, 0], [3, 4]], [[0, 2], [5, 0]], [[1, 1], [-2, -2]]])
    found = objectives.cosine_regression(vectors, tensor([0.5, 1.0, -1.0]), Options())
    np.testing.assert_allclose(found, [0.01, 1.0, 0.0], atol=1e-6)
    # What a published example computes: every cosine minus every value.
    broadcast = np.mean((np.array([0.6, 0, -1])[:, None] - np.array([[0.5, 1, -1]])) ** 2)
    assert abs(float(tf.reduce_mean(found)) - broadcast) > 0.5


def test_triplet_by_hand():
    """Distances 5 and 13; 0 and 2; 3, and 1 and 4 of two negatives."""
    vectors = tensor([[[0, 0], [3, 4], [5, 12]], [[1, 1], [1, 1], [1, 3]]])
    np.testing.assert_allclose(objectives.triplet(vectors, None, Options(margin=1.0)), [0, 0])
    np.testing.assert_allclose(objectives.triplet(vectors, None, Options(margin=9.0)), [1, 7])
    vectors = tensor([[[0, 0], [3, 0], [1, 0], [0, 4]]])
    np.testing.assert_allclose(objectives.triplet(vectors, None, Options(margin=1.0)), [1.5])
    vectors = tensor([[[1, 0], [3, 4], [0, 2]]])
    found = objectives.triplet(vectors, None, Options(margin=1.0, distance="cosine"))
    np.testing.assert_allclose(found, [0.4 - 1.0 + 1.0], rtol=1e-6)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_triplets_gradient_is_finite_where_texts_are_the_same(distance):
    vectors = tensor([[[1, 2], [1, 2], [1, 2]], [[0, 0], [0, 0], [1, 0]]])
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        loss = objectives.triplet(vectors, None, Options(margin=3.0, distance=distance))
    gradient = tape.gradient(loss, vectors)
    assert np.isfinite(gradient).all() and np.isfinite(loss).all()


def test_contrastive_by_hand():
    options = Options(margin=1.5, distance="cosine")
    found = objectives.contrastive(PAIRS, tensor([1, 0]), options)
    np.testing.assert_allclose(found, [0.5 * 0.4**2, 0.5 * 0.5**2], rtol=1e-5)
    options = Options(margin=20.0, distance="euclidean")
    found = objectives.contrastive(PAIRS, tensor([1, 0]), options)
    np.testing.assert_allclose(found, [0.5 * 20, 0.5 * (20 - math.sqrt(29)) ** 2], rtol=1e-5)


def test_cosent_by_hand():
    """The first pair should have the lower cosine: exp(2 * (0.6 - 0)). Equal values say nothing."""
    found = objectives.cosent(PAIRS, tensor([0.1, 0.9]), Options(scale=2.0))
    np.testing.assert_allclose(found, [math.log(1 + math.exp(1.2))] * 2, rtol=1e-6)
    found = objectives.cosent(PAIRS, tensor([0.9, 0.1]), Options(scale=2.0))
    np.testing.assert_allclose(found, [math.log(1 + math.exp(-1.2))] * 2, rtol=1e-6)
    np.testing.assert_array_equal(objectives.cosent(PAIRS, tensor([1, 1]), Options()), [0, 0])


def _cross_entropy(scores, right):
    return math.log(sum(map(math.exp, scores))) - scores[right]


def test_multiple_negatives_by_hand():
    """Cosines of first and second texts: 0.6 and 1, 0.8 and 0."""
    options = Options(scale=2.0)
    found = objectives.multiple_negatives(PAIRS, None, options)
    rows = [1.2, 2.0], [1.6, 0.0]
    wanted = [_cross_entropy(row, place) for place, row in enumerate(rows)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    found = objectives.multiple_negatives(PAIRS, None, options._replace(symmetric=True))
    back = [_cross_entropy(row, place) for place, row in enumerate(zip(*rows, strict=True))]
    np.testing.assert_allclose(found, np.mean([wanted, back], 0), rtol=1e-5)


def test_multiple_negatives_with_hard_ones():
    """Third texts of all examples are among the wrong ones, the symmetric part knows pairs."""
    vectors = tf.concat([PAIRS, tensor([[[0, 1]], [[4, 3]]])], 1)
    options = Options(scale=2.0)
    rows = [1.2, 2.0, 0.0, 1.6], [1.6, 0.0, 2.0, 1.2]
    wanted = [_cross_entropy(row, place) for place, row in enumerate(rows)]
    found = objectives.multiple_negatives(vectors, None, options)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    found = objectives.multiple_negatives(vectors, None, options._replace(symmetric=True))
    columns = list(zip(*rows, strict=True))[:2]
    back = [_cross_entropy(row, place) for place, row in enumerate(columns)]
    np.testing.assert_allclose(found, np.mean([wanted, back], 0), rtol=1e-5)


def test_softmax_nli_by_hand():
    """(u, v, |u - v|) = (1, 0, 3, 4, 2, 4) of the first pair."""
    kernel = tensor([[1, 0, 0, 0, 0, 0], [0, 0, 0, 0.5, 0, 0], [0, 0, 0, 0, 0, 0.25]])
    options = Options(head=(kernel, tensor([0, 0, 1])))
    found = objectives.softmax_nli(PAIRS, tf.constant([1, 2]), options)
    first, second = [1.0, 2.0, 2.0], [0.0, 0.0, 0.5 + 1]
    wanted = [_cross_entropy(first, 1), _cross_entropy(second, 2)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_distillation_by_hand():
    """Each text meets the teacher's vector of the first."""
    found = objectives.distillation(PAIRS, tensor([[1, 0], [0, 0]]), Options())
    np.testing.assert_allclose(found, [(4 + 16) / 4, (4 + 25) / 4], rtol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_compare_takes_texts_in_order(name):
    """(example, text) order, and the labels of the examples; Matryoshka adds the loss of parts."""
    rng = np.random.default_rng(0)
    objective = OBJECTIVES[name]
    texts = max(objective.texts[0], objective.copies)
    vectors = rng.normal(size=(4, texts, 6)).astype(np.float32)
    labels = {
        "value": np.array([0.1, 0.9, 0.4, 0.7], np.float32),
        "binary": np.array([1, 0, 0, 1], np.float32),
        "class": np.array([0, 2, 1, 1]),
        "vectors": rng.normal(size=(4, 6)).astype(np.float32),
        None: None,
    }[objective.label]
    column = "label_ids" if objective.label == "class" else "vals"
    features = {} if labels is None else {column: tf.repeat(labels, texts, axis=0)}
    weights = {
        "siamese/output_weights": tensor(rng.normal(size=(3, 18))),
        "siamese/output_bias": tensor([0.1, 0.2, 0.3]),
    }
    options = Options(margin=1.0)
    flat = tf.constant(vectors.reshape(-1, 6))
    loss, predictions = Siamese(name, options).compare(weights, flat, features, 4)
    function = getattr(objectives, objective.function)
    told = options._replace(head=tuple(weights.values()))
    whole = function(tf.constant(vectors), labels, told)
    np.testing.assert_allclose(loss, whole, rtol=1e-6)
    assert predictions.keys() == ({"classes"} if name == "softmax_nli" else set())
    if objective.label not in ("class", "vectors"):
        loss, _ = Siamese(name, options, dimensions=(4, 2)).compare(weights, flat, features, 4)
        parts = [function(tf.constant(vectors[..., :d]), labels, told) for d in (6, 4, 2)]
        np.testing.assert_allclose(loss, sum(parts), rtol=1e-5)


def test_ranking_by_hand():
    """Ranks 1, 2 and 1: the same text twice is found as well there as here."""
    vectors = np.array([[[1, 0], [1, 0.1]], [[0, 1], [1, 1]], [[1, 1], [1, 1]]], np.float32)
    numbers = np.array([[0, 1], [2, 3], [4, 4], [5, 6]])
    found = ranking(np.concatenate([vectors, [[[-1, -1], [0.1, 1]]]]), numbers)
    # The fourth example's first text is nearest to (1, 0.1) or (0.1, 1), equally.
    assert found == {"recall@1": 0.75, "recall@5": 1.0, "recall@10": 1.0, "mrr": (3 + 0.5) / 4}


def test_ranking_of_texts_in_several_examples():
    """A and B belong together, and so do A and C: all are found, though A stands among the second
    texts and B is nearer to A than C is.
    """
    a, b, c, d = [1, 0], [1, 0.1], [1, 0.5], [1, 0.3]
    numbers = np.array([[0, 1], [0, 2], [1, 0], [3, 3]])
    found = ranking(np.array([[a, b], [a, c], [b, a]], np.float32), numbers[:3])
    assert found["recall@1"] == 1.0
    found = ranking(np.array([[a, b], [a, c], [b, a], [d, d]], np.float32), numbers)
    assert found["mrr"] == (1 + 0.5 + 1 + 1) / 4


def test_ranking_knows_texts_and_not_vectors():
    """The same text at another place of a packed row in bfloat16 has a slightly other vector."""
    a, b, near = [1, 0.2], [1, 0.3], [1, 0.203]
    vectors = np.array([[a, b], [b, near]], np.float32)
    assert ranking(vectors, np.array([[0, 1], [1, 0]]))["recall@1"] == 1.0
    assert ranking(vectors, np.array([[0, 1], [1, 2]]))["recall@1"] == 0.5


def test_metrics():
    vectors = np.array([[[1, 0], [1, 0.1], [0, 1]], [[0, 1], [1, 0], [0, 1]]], np.float32)
    task = Siamese("multiple_negatives", dimensions=(1,))
    numbers = np.array([[0, 1, 2], [3, 4, 3]])
    found = task.metrics({"vectors": vectors}, {TEXT_NUMBERS: numbers})
    assert found["triplet_accuracy"] == 0.5
    assert {"recall@1", "mrr", "recall@1_1", "triplet_accuracy_1"} <= found.keys()
    pairs = np.array([[[1, 0], [1, 0]], [[1, 0], [1, 1]], [[1, 0], [0, 1]]], np.float32)
    found = Siamese("cosent").metrics({"vectors": pairs}, {"vals": np.array([5, 3, 1], np.float32)})
    assert found["spearman"] == pytest.approx(1.0) and found.keys() == {"pearson", "spearman"}
    found = Siamese("contrastive").metrics(
        {"vectors": pairs}, {"vals": np.array([1, 1, 0], np.float32)}
    )
    assert found["average_precision"] == 1.0


def test_rows():
    task = Siamese("triplet")
    prediction = {"vectors": np.array([[1, 0], [3, 4], [0, 2]], np.float32)}
    assert task.row(prediction) == "0.600000\t0.000000"
    assert task.record(prediction) == {"cosines": [0.6, 0.0]}


@pytest.mark.parametrize(
    "objective, cell, wanted",
    [("cosine_regression", "2.5", 0.0), ("cosent", "2.5", 2.5), ("contrastive", "1", 1.0)],
)
def test_values(objective, cell, wanted):
    task = Siamese(objective, value_range=(0.0, 5.0), target_range=(-1.0, 1.0))
    assert task.parse_label(cell) == wanted


@pytest.mark.parametrize(
    "objective, cell, message",
    [
        ("cosine_regression", "5.1", "the value 5.1 lies outside 0..5; pass --value_range"),
        ("contrastive", "0.5", "the value 0.5 is neither 1 nor 0"),
        ("cosent", "x", "expected a number"),
    ],
)
def test_bad_values(objective, cell, message):
    with pytest.raises(ValueError, match=message):
        Siamese(objective, value_range=(0.0, 5.0)).parse_label(cell)
