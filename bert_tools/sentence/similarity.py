"""How alike vectors are."""

import numpy as np

SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")


def similarity(first, second, name):
    """How alike the rows of two matrices are, row by row; the higher, the more.

    Args:
      first, second: float arrays [n, width].
      name: one of SIMILARITIES; of the distances euclidean and manhattan the negative.

    Returns:
      float64 array [n].
    """
    first, second = first.astype(np.float64), second.astype(np.float64)
    if name == "euclidean":
        return -np.linalg.norm(first - second, axis=1)
    if name == "manhattan":
        return -np.abs(first - second).sum(1)
    products = np.einsum("nw,nw->n", first, second)
    if name == "dot":
        return products
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return products / np.maximum(lengths, 1e-24)
