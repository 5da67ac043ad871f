"""Clusters of sentences: k-means, communities of a threshold, groups of linked pairs; what is
typical of each, and a map.
"""

import collections
import math
import re
import typing

import numpy as np

from bert_tools.sentence.search import Rows, pairs_above
from bert_tools.sentence.similarity import similarity

_SAMPLE = 5000  # Silhouettes and maps grow with the square of the number of texts.
_CENTRES = 256  # Whose neighbours are looked for together.
_TSNE = 50  # Fewer points have no neighbourhoods that it could show.
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_HAN}]+|(?:(?![{_HAN}])[^\W_])+(?:['’](?:(?![{_HAN}])[^\W_])+)?")


class Clustering(typing.NamedTuple):
    """Which cluster a text is in; the largest is 0, of equal ones that of the first text.

    labels: int64 array [n], -1 where a text is in none.
    scores: float64 array [n], the cosine with the cluster's centre; nan where there is none.
    central: int64 array [clusters], the text that is nearest to each centre.
    silhouette: float, the mean over texts; None where it was not computed.
    """

    labels: np.ndarray
    scores: np.ndarray
    central: np.ndarray
    silhouette: float | None = None


def k_means(vectors, counts, seed):
    """Clusters by k-means on vectors of length 1, the number of clusters by silhouette.

    Args:
      vectors: float array [n, width].
      counts: sequence of int, the numbers of clusters to try, each from 1 to n.
      seed: int.

    Returns:
      (Clustering; {count: silhouette}, of those that were tried and can have one).
    """
    from sklearn.cluster import KMeans

    vectors = _normalized(vectors)
    best, silhouettes = None, {}
    for count in counts:
        labels = KMeans(count, n_init=10, random_state=seed).fit_predict(vectors)
        value = _silhouette(vectors, labels, seed)
        if value is not None:
            silhouettes[count] = value
        if best is None or (value is not None and (best[1] is None or value > best[1])):
            best = labels, value
    labels, value = best
    labels = _by_size(labels)
    scores, central = np.full(len(labels), np.nan), []
    for label in range(labels.max() + 1):
        members = np.flatnonzero(labels == label)
        centre = vectors[members].mean(0, dtype=np.float64, keepdims=True)
        scores[members] = similarity(vectors[members], centre, "cosine")
        central.append(members[np.argmax(scores[members])])
    return Clustering(labels, scores, np.array(central), value), silhouettes


def communities(vectors, threshold, min_size=2):
    """Communities: of the texts that are in none yet, the one that has the most texts within the
    threshold (of all; of equal ones the first) is a centre, and those of them that are in none yet
    are its community; and so on.

    Args:
      vectors: float array [n, width].
      threshold: float, the least cosine with the centre.
      min_size: int, texts of a community; smaller ones are none.

    Returns:
      Clustering.
    """
    rows = Rows(vectors)
    degrees = np.zeros(len(rows), np.int64)
    for i, j, _ in pairs_above(rows, threshold):
        degrees += np.bincount(i, minlength=len(rows)) + np.bincount(j, minlength=len(rows))
    order = np.argsort(-degrees, kind="stable")
    order = order[degrees[order] >= min_size - 1]
    labels = np.full(len(rows), -1)
    scores = np.full(len(rows), np.nan)
    while len(order := order[labels[order] < 0]):
        centres = order[:_CENTRES]
        found = [*pairs_above(Rows(vectors[centres]), threshold, rows)]
        i, j, score = (np.concatenate(part) for part in zip(*found, strict=True))
        bounds = np.searchsorted(i, np.arange(len(centres) + 1))
        for number, centre in enumerate(centres):
            if labels[centre] >= 0:
                continue
            near = slice(bounds[number], bounds[number + 1])
            free = labels[j[near]] < 0
            members = j[near][free]
            if len(members) >= min_size:
                labels[members] = centre
                scores[members] = score[near][free]
        order = order[_CENTRES:]
    centres = np.unique(labels[labels >= 0])
    found = _by_size(labels)
    central = np.zeros(len(centres), np.int64)
    central[found[centres]] = centres
    return Clustering(found, scores, central)


def groups(pairs, count):
    """Texts that pairs link, directly or through others (connected components).

    Args:
      pairs: iterable of tuples that begin with two int arrays, places of what is linked.
      count: int, texts.

    Returns:
      int64 array [count], the first text of each one's group.
    """
    from scipy import sparse
    from scipy.sparse import csgraph

    first = np.arange(count)
    for i, j, *_ in pairs:
        links = np.concatenate([first, i]), np.concatenate([np.arange(count), j])
        graph = sparse.coo_array((np.ones(len(links[0]), np.bool_), links), (count, count))
        _, labels = csgraph.connected_components(graph, directed=False)
        _, heads = np.unique(labels, return_index=True)
        first = heads[labels]
    return first


def typical_words(texts, labels, count=5):
    """The words that set each cluster apart (class-based TF-IDF: Grootendorst 2022, "BERTopic").

    A word's weight is its share of the cluster's words, times the logarithm of 1 + the average
    number of words of a cluster over how often it occurs in all. Common English words do not
    count; of Chinese, pairs of characters stand for words.

    Args:
      texts: list of str.
      labels: int array [n], -1 for texts in no cluster.
      count: int, words for each.

    Returns:
      list of lists of str, the most typical word first.
    """
    counted = [collections.Counter() for _ in range(max(labels, default=-1) + 1)]
    for text, label in zip(texts, labels, strict=True):
        if label >= 0:
            counted[label].update(set(words(text)))
    everywhere = sum(counted, collections.Counter())
    average = everywhere.total() / max(1, len(counted))
    found = []
    for counter in counted:
        weights = {
            word: number * math.log(1 + average / everywhere[word])
            for word, number in counter.items()
        }
        found.append(sorted(weights, key=lambda word: (-weights[word], word))[:count])
    return found


def words(text):
    """The words of a text as `typical_words` counts them, in lower case."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    found = []
    for run in _WORD.findall(text.lower()):
        if re.match(f"[{_HAN}]", run):
            found += [run[place : place + 2] for place in range(len(run) - 1)]
        elif len(run) > 1 and not run.isdigit() and run not in ENGLISH_STOP_WORDS:
            found.append(run)
    return found


def plane(vectors, seed):
    """Two coordinates for each vector, so that near ones are near: t-SNE, or the first two
    principal components of few.

    Args:
      vectors: float array [n, width].
      seed: int.

    Returns:
      (int64 [m] places of the vectors that are on the map, all or evenly spaced ones; float64
      [m, 2] coordinates).
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    places = np.unique(np.linspace(0, len(vectors) - 1, min(len(vectors), _SAMPLE)).astype(int))
    shown = _normalized(vectors[places])
    if len(shown) >= _TSNE:
        found = TSNE(init="pca", metric="cosine", random_state=seed).fit_transform(shown)
    else:
        found = np.zeros((len(shown), 2))
        parts = min(2, len(shown) - 1, shown.shape[1])  # One point has no axes, two have one.
        if parts:
            pca = PCA(parts, random_state=seed)
            found[:, :parts] = pca.fit_transform(shown.astype(np.float64))
    return places, found.astype(np.float64)


def _silhouette(vectors, labels, seed):
    """The mean silhouette, of a sample where there are many; None where it is not defined."""
    from sklearn.metrics import silhouette_score

    if len(vectors) > _SAMPLE:
        sample = np.random.default_rng(seed).choice(len(vectors), _SAMPLE, replace=False)
        vectors, labels = vectors[sample], labels[sample]
    if not 1 < len(np.unique(labels)) < len(vectors):
        return None
    return float(silhouette_score(vectors, labels))


def _by_size(labels):
    """Labels by size, the largest 0, equal ones by their first text; -1 stays."""
    inside = np.flatnonzero(labels >= 0)
    _, heads, numbers, sizes = np.unique(
        labels[inside], return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.argsort(np.lexsort((inside[heads], -sizes)))
    found = np.full(len(labels), -1)
    found[inside] = rank[numbers]
    return found


def _normalized(vectors):
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
