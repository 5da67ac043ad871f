"""Clusters against their definitions."""

import numpy as np
import pytest

from bert_tools.sentence import clusters, search
from bert_tools.sentence.similarity import similarity


def blobs(sizes, seed=0, spread=0.15):
    """(float32 vectors in a shuffled order, the blob of each)."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = np.linalg.qr(rng.normal(size=(16, len(sizes))))[0].T
    found = centres[labels] + spread * rng.normal(size=(len(labels), 16)) / 4
    return (found * rng.uniform(1, 9, size=(len(labels), 1))).astype(np.float32), labels


def alike(first, second):
    """Whether two labellings mean the same clusters."""
    pairs = set(zip(first.tolist(), second.tolist(), strict=True))
    return len(pairs) == len(set(first.tolist())) == len(set(second.tolist()))


def test_k_means_finds_blobs_and_their_number():
    vectors, truth = blobs([30, 50, 20])
    found, silhouettes = clusters.k_means(vectors, range(2, 7), seed=1)
    assert alike(found.labels, truth)
    assert np.bincount(found.labels).tolist() == [50, 30, 20]
    assert list(silhouettes) == [2, 3, 4, 5, 6] and max(silhouettes, key=silhouettes.get) == 3
    assert found.silhouette == silhouettes[3] > 0.8
    for label, central in enumerate(found.central):
        members = np.flatnonzero(found.labels == label)
        assert central == members[np.argmax(found.scores[members])]
        centre = (vectors[members] / np.linalg.norm(vectors[members], axis=1)[:, None]).mean(0)
        np.testing.assert_allclose(
            found.scores[central], similarity(vectors[[central]], centre[None], "cosine"), atol=1e-6
        )
    again, _ = clusters.k_means(vectors, [3], seed=1)
    np.testing.assert_array_equal(again.labels, found.labels)


def test_k_means_of_as_many_clusters_as_texts():
    vectors, _ = blobs([2, 2])
    found, silhouettes = clusters.k_means(vectors, [4], seed=1)
    assert found.labels.tolist() == [0, 1, 2, 3] and found.silhouette is None and not silhouettes
    one, _ = clusters.k_means(vectors, [1], seed=1)
    assert one.labels.tolist() == [0] * 4


def test_communities_by_definition(monkeypatch):
    monkeypatch.setattr(clusters, "_CENTRES", 3)
    monkeypatch.setattr(search, "_COLUMNS", 17)
    vectors, _ = blobs([9, 14, 5, 1, 7], spread=0.6)
    near = np.array([similarity(vectors, np.tile(v, (len(vectors), 1)), "cosine") for v in vectors])
    for threshold in (0.3, 0.8, 0.95):
        for min_size in (1, 2, 5):
            linked = near >= threshold
            np.fill_diagonal(linked, True)
            order = sorted(range(len(vectors)), key=lambda i: (-linked[i].sum(), i))
            wanted, taken = [], set()
            for i in order:
                members = [j for j in np.flatnonzero(linked[i]) if j not in taken]
                if i not in taken and len(members) >= min_size:
                    wanted.append((i, members))
                    taken.update(members)
            wanted.sort(key=lambda found: (-len(found[1]), min(found[1])))
            found = clusters.communities(vectors, threshold, min_size)
            assert found.central.tolist() == [i for i, _ in wanted]
            for label, (centre, members) in enumerate(wanted):
                assert np.flatnonzero(found.labels == label).tolist() == sorted(members)
                np.testing.assert_allclose(found.scores[members], near[centre, members], atol=1e-12)
            assert (found.labels >= 0).sum() == len(taken)
            assert np.isnan(found.scores[found.labels < 0]).all()


def test_groups_join_over_others_and_over_parts():
    pairs = [(np.array([0, 4]), np.array([2, 5])), (np.array([2, 7]), np.array([9, 8]))]
    assert clusters.groups(pairs, 10).tolist() == [0, 1, 0, 3, 4, 4, 6, 7, 7, 0]
    assert clusters.groups([], 3).tolist() == [0, 1, 2]


def test_typical_words():
    texts = ["The red apple fell.", "A red apple, a red pear", "the dog's bone", "It's a dog!", "?"]
    found = clusters.typical_words(texts, [0, 0, 1, 1, -1], 2)
    assert found == [["apple", "red"], ["bone", "dog"]]
    assert clusters.words("如何修改手机号? Wi-Fi密码") == [
        "如何",
        "何修",
        "修改",
        "改手",
        "手机",
        "机号",
        "wi",
        "fi",
        "密码",
    ]


@pytest.mark.parametrize("count", [1, 2, 6, 60])
def test_plane_keeps_near_ones_near(count):
    vectors, truth = blobs([count]) if count < 6 else blobs([count // 2, count - count // 2])
    places, found = clusters.plane(vectors, seed=1)
    assert places.tolist() == list(range(count)) and found.shape == (count, 2)
    assert np.isfinite(found).all()
    if count >= 6:
        middles = np.array([found[truth == label].mean(0) for label in (0, 1)])
        nearest = np.linalg.norm(found[:, None] - middles, axis=2).argmin(1)
        np.testing.assert_array_equal(nearest, truth)


def test_plane_of_many_shows_evenly_spaced_ones(monkeypatch):
    monkeypatch.setattr(clusters, "_SAMPLE", 10)
    places, found = clusters.plane(blobs([30, 31])[0], seed=1)
    assert len(found) == 10 and places[0] == 0 and places[-1] == 60
