"""Exact search and exact pairs: matrix products block by block, in memory that does not grow with
the number of scores.

    scores, places = Exact(corpus).search(queries, 10)     # each query's ten nearest
    first, second, scores = best_pairs(Rows(vectors), 100)  # the hundred most similar pairs

Products are taken in float32, and whatever they leave in doubt is computed once more in float64 by
`similarity`: results equal those of comparing every two rows so, and equal scores (of cosines: to
twelve decimals) are told apart by place, the lower first.
"""

import numpy as np

from bert_tools.sentence.similarity import similarity

_ROWS, _COLUMNS = 2048, 4096  # Of a block of scores: 32 MB.
_PAIRS = 1 << 16  # Computed together in float64.
_HELD = 1 << 22  # Pairs above a threshold that are held at a time, roughly.
_LOWEST = -np.finfo(np.float32).max


class Rows:
    """A matrix whose rows are compared.

    Args:
      vectors: float array [n, width], finite; may be memory-mapped.
      name: one of similarity.SIMILARITIES.
    """

    def __init__(self, vectors, name="cosine"):
        self.vectors, self.name = vectors, name
        parts = (
            np.linalg.norm(np.asarray(vectors[start : start + _COLUMNS], np.float64), axis=1)
            for start in range(0, len(vectors), _COLUMNS)
        )
        self._lengths = np.concatenate([np.zeros(0), *parts])
        self.longest = self._lengths.max(initial=0.0)

    def __len__(self):
        return len(self.vectors)

    def block(self, start, stop):
        """Rows as `_scores` takes them: float32, of length 1 where the cosine is asked for."""
        rows = np.asarray(self.vectors[start:stop], np.float32)
        if self.name != "cosine":
            return rows
        lengths = np.maximum(self._lengths[start:stop], 1e-12)
        return rows * (1 / lengths).astype(np.float32)[:, np.newaxis]


class Exact:
    """Search by comparing with every row.

    Args:
      corpus: float array [n, width], finite; may be memory-mapped.
      name: one of similarity.SIMILARITIES.
    """

    def __init__(self, corpus, name="cosine"):
        self._corpus = Rows(corpus, name)
        self.width = corpus.shape[1]

    def __len__(self):
        return len(self._corpus)

    def search(self, queries, k):
        """The k rows that are most similar to each query.

        Args:
          queries: float array [q, width], finite.
          k: int, at most the number of rows.

        Returns:
          (float64 [q, k] scores, the highest first; int64 [q, k] places of the rows).
        """
        queries = Rows(queries, self._corpus.name)
        found = [
            self._search(queries, start, min(start + _ROWS, len(queries)), k)
            for start in range(0, len(queries), _ROWS)
        ]
        if not found:
            return np.zeros((0, k)), np.zeros((0, k), np.int64)
        scores, places = zip(*found, strict=True)
        return np.concatenate(scores), np.concatenate(places)

    def _search(self, queries, start, stop, k):
        count, corpus = stop - start, self._corpus
        scores = np.full((count, k), -np.inf)
        places = np.full((count, k), -1, np.int64)
        slack = _slack(queries, corpus)
        prepared = queries.block(start, stop)
        for column in range(0, len(corpus), _COLUMNS):
            block = _scores(prepared, corpus.block(column, column + _COLUMNS), corpus.name)
            floor = np.maximum(scores[:, -1] - slack, _LOWEST)[:, np.newaxis]
            above = block >= floor
            width = block.shape[1]
            if k < width and np.count_nonzero(above) > 4 * k * count:
                kth = np.partition(block, width - k, axis=1)[:, width - k, np.newaxis]
                above = block >= np.maximum(floor, kth - 2 * slack)
            row, place = np.nonzero(above)
            if not len(row):
                continue
            place += column
            score = pair_scores(queries, corpus, row + start, place)
            # Beside the best so far, row by row, and of these the k best.
            old, _ = np.nonzero(places >= 0)
            row = np.concatenate([old, row])
            place = np.concatenate([places[places >= 0], place])
            score = np.concatenate([scores[places >= 0], score])
            order = np.lexsort((place, -score, row))
            row, place, score = row[order], place[order], score[order]
            rank = np.arange(len(row)) - np.searchsorted(row, row)
            kept = rank < k
            scores[row[kept], rank[kept]] = score[kept]
            places[row[kept], rank[kept]] = place[kept]
        return scores, places


def best_pairs(first, k, second=None, threshold=-np.inf):
    """The k most similar pairs.

    Args:
      first: Rows; pairs are of two of its rows, the lower place first, unless there is a second.
      k: int; fewer come where there are not as many.
      second: Rows or None; pairs are of a row of the first and one of the second.
      threshold: float, the least score.

    Returns:
      (int64 [n] places in the first, int64 [n] places in the second, float64 [n] scores), the
      highest score first, equal ones by places.
    """
    other = first if second is None else second
    slack = _slack(first, other)
    best = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    floor = threshold
    for start in range(0, len(first), _ROWS):
        for column, block in _stripe(first, second, start, start + _ROWS):
            scores = block.ravel()
            found = np.flatnonzero(scores >= max(floor - slack, _LOWEST))
            if len(found) > k:
                kth = np.partition(scores[found], len(found) - k)[len(found) - k]
                found = found[scores[found] >= kth - 2 * slack]
            if not len(found):
                continue
            i, j = np.divmod(found, block.shape[1])
            i, j = i + start, j + column
            score = pair_scores(first, other, i, j)
            merged = zip(best, (i, j, score), strict=True)
            i, j, score = (np.concatenate(parts) for parts in merged)
            order = np.lexsort((j, i, -score))
            order = order[score[order] >= threshold][:k]
            best = i[order], j[order], score[order]
            if len(order) == k:
                floor = best[2][-1]
    return best


def pairs_above(first, threshold, second=None):
    """All pairs with at least a score, in the order of their places.

    Args:
      first, second: see `best_pairs`.
      threshold: float; -inf gives every pair.

    Yields:
      Parts of what `best_pairs` returns, a stripe of rows each.
    """
    other = first if second is None else second
    floor = max(threshold - _slack(first, other), _LOWEST)
    start, rows = 0, 256
    while start < len(first):
        parts = []
        for column, block in _stripe(first, second, start, start + rows):
            i, j = np.nonzero(block >= floor)
            i, j = i + start, j + column
            score = pair_scores(first, other, i, j)
            kept = score >= threshold
            parts.append((i[kept], j[kept], score[kept]))
        i, j, score = (np.concatenate(part) for part in zip(*parts, strict=True))
        order = np.lexsort((j, i))
        yield i[order], j[order], score[order]
        start += rows
        rows = min(_ROWS, max(1, rows * _HELD // max(1, len(i))))


def _stripe(first, second, start, stop):
    """Yields (first column, float32 block of scores) of some rows; where a row meets itself or one
    before it, -inf.
    """
    stop = min(stop, len(first))
    prepared = first.block(start, stop)
    other = first if second is None else second
    for column in range(start if second is None else 0, len(other), _COLUMNS):
        block = _scores(prepared, other.block(column, column + _COLUMNS), first.name)
        if second is None and column < stop:
            block[np.arange(start, stop)[:, None] >= column + np.arange(block.shape[1])] = -np.inf
        yield column, block


def _scores(first, second, name):
    """float32 or float64 [n, m], how alike rows of two blocks are."""
    if name in ("cosine", "dot"):
        return first @ second.T
    from scipy.spatial import distance

    metric = {"euclidean": "euclidean", "manhattan": "cityblock"}[name]
    return -distance.cdist(first, second, metric)


def _slack(first, second):
    """What a score of a block may differ from the exact one by at most."""
    width = first.vectors.shape[1]
    if first.name == "cosine":
        return (width + 16) * 2.0**-24
    if first.name == "dot":
        return (width + 16) * 2.0**-24 * first.longest * second.longest
    return width * 2.0**-40 * (first.longest + second.longest)


def pair_scores(first, second, i, j):
    """The scores of pairs of rows.

    Args:
      first, second: Rows.
      i, j: int arrays [n], places in the first and in the second.

    Returns:
      float64 array [n].
    """
    parts = [
        similarity(
            first.vectors[i[start : start + _PAIRS]],
            second.vectors[j[start : start + _PAIRS]],
            first.name,
        )
        for start in range(0, len(i), _PAIRS)
    ]
    return without_noise(np.concatenate([np.zeros(0), *parts]), first.name)


def without_noise(scores, name):
    """float64 scores; cosines that agree to twelve decimals become equal, as those of copies."""
    return np.round(scores, 12) if name == "cosine" else scores
