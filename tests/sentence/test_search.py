"""Exact search and pairs against comparing every two rows in float64."""

import numpy as np
import pytest

from bert_tools.sentence import search
from bert_tools.sentence.search import Exact, Rows, best_pairs, pairs_above
from bert_tools.sentence.similarity import SIMILARITIES, similarity


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """So that a few hundred rows are many blocks, and none of them whole."""
    monkeypatch.setattr(search, "_ROWS", 37)
    monkeypatch.setattr(search, "_COLUMNS", 53)
    monkeypatch.setattr(search, "_PAIRS", 41)


def vectors(rows, seed=0, distinct=None):
    """float32 [rows, 24]; of `distinct` rows each stands there many times."""
    found = np.random.default_rng(seed).normal(size=(distinct or rows, 24)).astype(np.float32)
    if distinct:
        found = found[np.random.default_rng(seed + 1).integers(0, distinct, rows)]
    return found


def all_scores(first, second, name):
    i, j = np.divmod(np.arange(len(first) * len(second)), len(second))
    scores = similarity(first[i], second[j], name).reshape(len(first), len(second))
    return scores.round(12) if name == "cosine" else scores


def all_pairs(first, second, name):
    """(i, j, score) of every pair, the best first, ties by places."""
    scores = all_scores(first, first if second is None else second, name)
    i, j = np.triu_indices(len(first), 1) if second is None else np.indices(scores.shape)
    i, j = i.ravel(), j.ravel()
    order = np.lexsort((j, i, -scores[i, j]))
    return i[order], j[order], scores[i, j][order]


CORPORA = {
    "all different": vectors(230),
    "many ties": vectors(230, distinct=9),
    "all alike": vectors(230, distinct=1),
    "zeros among them": np.concatenate([vectors(150), np.zeros((80, 24), np.float32)]),
    "one block": vectors(11),
    "ordered": np.sort(vectors(230), axis=0),
    "huge": vectors(230) * np.float32(1e9),
}


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize("k", [1, 7])
def test_search(corpus, name, k):
    corpus = CORPORA[corpus]
    queries = np.concatenate([vectors(80, seed=3), corpus[:9]])
    scores, places = Exact(corpus, name).search(queries, k)
    wanted = all_scores(queries, corpus, name)
    order = np.argsort(-wanted, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(places, order)
    np.testing.assert_array_equal(scores, np.take_along_axis(wanted, order, 1))


def test_search_for_all_and_of_none():
    corpus = vectors(70)
    scores, places = Exact(corpus).search(corpus[:2], 70)
    assert [sorted(row) for row in places.tolist()] == [list(range(70))] * 2
    assert (np.diff(scores) <= 0).all()
    assert [found.shape for found in Exact(corpus).search(corpus[:0], 3)] == [(0, 3)] * 2


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize("other", [None, "all different", "many ties"])
def test_pairs(corpus, name, other):
    first = CORPORA[corpus]
    second = None if other is None else CORPORA[other][:90]
    rows = [Rows(first, name), None if second is None else Rows(second, name)]
    wanted = all_pairs(first, second, name)
    for k in (1, 40, len(wanted[0])):
        found = best_pairs(rows[0], k, rows[1])
        for got, want in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(got, want[:k])
    # At a score that a pair has, for the pairs that have it count.
    threshold = wanted[2][len(wanted[2]) // 5]
    many = wanted[2] >= threshold
    parts = list(pairs_above(rows[0], threshold, rows[1]))
    found = [np.concatenate(part) for part in zip(*parts, strict=True)]
    order = np.lexsort((wanted[1][many], wanted[0][many]))
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(got, want[many][order])
    found = best_pairs(rows[0], 10**6, rows[1], threshold)
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(got, want[many])


def test_every_pair_in_small_stripes(monkeypatch):
    monkeypatch.setattr(search, "_HELD", 300)
    parts = list(pairs_above(Rows(vectors(600)), -np.inf))
    assert sum(len(i) for i, _, _ in parts) == 600 * 599 // 2
    assert max(len(i) for i, _, _ in parts[1:]) < 700 and len(parts) > 100


def test_memory_mapped_half_precision(tmp_path):
    np.save(tmp_path / "v.npy", vectors(120).astype(np.float16))
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    wanted = all_pairs(np.array(mapped), None, "cosine")
    for got, want in zip(best_pairs(Rows(mapped), 9), wanted, strict=True):
        np.testing.assert_array_equal(got, want[:9])
