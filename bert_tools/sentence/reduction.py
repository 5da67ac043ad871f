"""Fewer dimensions: the first ones, or principal components fitted on the vectors themselves.

A fitted Pca is kept as .npz, so that what comes later (queries, say) is reduced alike:
    pca = Pca.load("vectors.npy.pca.npz")
    reduced = pca(vectors)
"""

import numpy as np

from bert_tools import files
from bert_tools.errors import UserError

# Vectors that a Pca is fitted on: evenly spaced among all.
FITTED_ON = 50_000


class Truncation:
    """Keeps the first dimensions, for models that were trained to be cut so (Matryoshka).

    Args:
      dimensions: int.
    """

    def __init__(self, dimensions):
        self.dimensions = dimensions

    def __call__(self, vectors):
        """float32 [n, width] to float32 [n, dimensions]."""
        return vectors[:, : self.dimensions]


class Pca:
    """Projects on principal components.

    Args:
      mean: float32 array [width].
      components: float32 array [dimensions, width], orthonormal rows, the widest spread first.
      explained: float, the share of the variance that they keep, 0..1.
    """

    def __init__(self, mean, components, explained):
        self.mean, self.components, self.explained = mean, components, explained

    @property
    def dimensions(self):
        return len(self.components)

    @classmethod
    def fit(cls, vectors, dimensions):
        """Fits on float32 [n, width], rows of nan left out.

        Raises:
          UserError: fewer vectors or a smaller width than dimensions.
        """
        from sklearn.decomposition import PCA

        vectors = vectors[np.isfinite(vectors).all(1)]
        if dimensions > min(vectors.shape):
            raise UserError(
                f"--dimensions={dimensions}: PCA needs at least as many texts, and vectors as "
                f"long; there are {vectors.shape[0]} of {vectors.shape[1]}; give fewer, or "
                "--reduce=truncate"
            )
        found = PCA(dimensions, random_state=0).fit(vectors.astype(np.float64))
        return cls(
            found.mean_.astype(np.float32),
            found.components_.astype(np.float32),
            float(found.explained_variance_ratio_.sum()),
        )

    def __call__(self, vectors):
        """float32 [n, width] to float32 [n, dimensions]."""
        return (vectors - self.mean) @ self.components.T

    def save(self, path):
        """Writes an .npz."""
        with files.aside(path) as temporary, open(temporary, "wb") as writer:
            np.savez(writer, mean=self.mean, components=self.components, explained=self.explained)

    @classmethod
    def load(cls, path):
        """Reads what `save` wrote.

        Raises:
          UserError: no such file, or it is none.
        """
        try:
            with np.load(path, allow_pickle=False) as found:
                mean, components = found["mean"], found["components"]
                explained = float(found["explained"])
        except files.UNREADABLE as error:
            raise UserError(
                f"{path}: cannot be read as a PCA ({error}); give the .pca.npz that "
                "--dimensions left"
            ) from error
        if components.ndim != 2 or mean.shape != components.shape[1:]:
            raise UserError(f"{path}: its mean and components do not fit each other; restore it")
        return cls(mean, components, explained)
