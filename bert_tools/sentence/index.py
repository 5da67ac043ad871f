"""An approximate index on disk: a graph of near neighbours (HNSW, Malkov and Yashunin 2016), by
faiss (extra: search).

A folder holds index.json, which names the other files: the graph with the vectors in it, and the
texts. Searching maps them into memory. What is added goes into new files, index.json is replaced
then, and the old files go: whoever reads meanwhile has the one or the other. One process writes at
a time.
"""

import contextlib
import itertools
import json
import os

import numpy as np

from bert_tools import files
from bert_tools.errors import UserError
from bert_tools.sentence.search import Rows, pair_scores, pairs_above, without_noise
from bert_tools.sentence.similarity import similarity

_DESCRIPTION = "index.json"
# Neighbours of a node, and candidates while building: recall@10 of 0.99 and above on sentence
# vectors (scripts/benchmarks/index.py).
_NEIGHBOURS, _BUILDING = 16, 128
_ADDED = 16384  # Vectors handed over at a time.
_NEAREST = 32  # Of each text, when pairs are looked for.
_SAMPLE = 2000  # Texts that are looked up together, and that recall is measured on.


def require_library(flag):
    """faiss, the module.

    Raises:
      UserError: it is not installed; names the flag that needs it.
    """
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            f"--{flag}: needs faiss; pip install 'bert-tools[search]', or leave the flag out"
        ) from error
    return faiss


def graph_of(vectors, flag="approximate"):
    """A faiss index of float array [n, width], of the cosine."""
    faiss = require_library(flag)
    graph = faiss.IndexHNSWFlat(vectors.shape[1], _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = _BUILDING
    extend(graph, vectors)
    return graph


def extend(graph, vectors):
    """Adds float array [n, width] to a faiss index."""
    for start in range(0, len(vectors), _ADDED):
        graph.add(_normalized(vectors[start : start + _ADDED]))


def neighbours(graph, queries, k):
    """The k nearest of each query that the graph finds.

    Args:
      graph: of `graph_of`.
      queries: float array [q, width].
      k: int, at most the number of vectors in it.

    Returns:
      (float64 [q, k] cosines, the highest first; int64 [q, k] places), as Exact.search. Where
      fewer were found, the places of the rest are -1 and their cosines -inf.
    """
    import faiss

    # The wider the walk through the graph, the better it finds.
    walk = faiss.SearchParametersHNSW(efSearch=max(128, 2 * k))
    queries = _normalized(queries)
    _, places = graph.search(queries, k, params=walk)
    found = places >= 0
    scores = np.full(places.shape, -np.inf)
    # From the vectors themselves, so that equal ones have equal scores.
    vectors = graph.reconstruct_batch(places[found])
    cosines = similarity(queries[np.nonzero(found)[0]], vectors, "cosine")
    scores[found] = without_noise(cosines, "cosine")
    order = np.lexsort((places, -scores), axis=1)
    return np.take_along_axis(scores, order, 1), np.take_along_axis(places, order, 1)


def near_pairs(rows, k=None, threshold=-np.inf):
    """Pairs of rows of which one is among the nearest of the other, as an index finds them.

    Args:
      rows: search.Rows of the cosine.
      k: int, the most similar ones, so many; None: all, in the order of their places.
      threshold: float, the least score.

    Returns:
      As search.best_pairs.
    """
    count = len(rows)
    graph = graph_of(rows.vectors)
    parts = [np.zeros(0, np.int64)]
    for start in range(0, count, _SAMPLE):
        queries = np.asarray(rows.vectors[start : start + _SAMPLE])
        _, places = neighbours(graph, queries, min(count, _NEAREST + 1))
        own = np.arange(start, start + len(queries))[:, np.newaxis]
        kept = (places >= 0) & (places != own)
        parts.append(np.minimum(own, places)[kept] * count + np.maximum(own, places)[kept])
    i, j = np.divmod(np.unique(np.concatenate(parts)), count)
    scores = pair_scores(rows, rows, i, j)
    order = np.arange(len(i)) if k is None else np.lexsort((j, i, -scores))
    order = order[scores[order] >= threshold][:k]
    return i[order], j[order], scores[order]


def recall(rows, pairs, threshold):
    """How many of the pairs that there are an approximate search found, measured on some rows.

    Args:
      rows: search.Rows.
      pairs: of `near_pairs`.
      threshold: float, the least score of the pairs that count.

    Returns:
      (int, those that were found; int, pairs of the sampled rows with any other; int, sampled
      rows), evenly spaced ones.
    """
    count = len(rows)
    sample = np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).astype(int))
    wanted = np.zeros(0, np.int64)
    for i, j, _ in pairs_above(Rows(rows.vectors[sample], rows.name), threshold, rows):
        i = sample[i]
        keys = np.minimum(i, j)[i != j] * count + np.maximum(i, j)[i != j]
        wanted = np.union1d(wanted, keys)
    found = np.isin(wanted, pairs[0] * count + pairs[1])
    return int(found.sum()), len(wanted), len(sample)


class Index:
    """An index on disk, opened for searching.

    Args:
      folder: str, of `build`.

    Attributes:
      width: int, numbers of a vector.
      texts: StoredTexts.

    Raises:
      UserError: there is none, it is damaged, or the library is not installed.
    """

    def __init__(self, folder):
        found = _described(folder)
        try:
            self._open(folder, found)
        except UserError:
            again = _described(folder)
            if again == found:
                raise
            self._open(folder, again)  # It has grown meanwhile.

    def _open(self, folder, found):
        faiss = require_library("index")
        self.width = found["width"]
        self.texts = StoredTexts(*(os.path.join(folder, found[n]) for n in ("texts", "offsets")))
        with _readable(folder):
            self._graph = faiss.read_index(
                os.path.join(folder, found["graph"]), faiss.IO_FLAG_MMAP_IFC
            )
        _require_whole(folder, self._graph, self.texts, found)

    def __len__(self):
        return self._graph.ntotal

    def search(self, queries, k):
        """The rows that are most similar to each query, nearly always: see `neighbours`."""
        return neighbours(self._graph, queries, k)


class StoredTexts:
    """(id, text) of each row, read from disk when it is asked for.

    Args:
      texts: str, a file of JSON lines [id, text].
      offsets: str, an .npy of the bytes where they begin, and of the end.
    """

    def __init__(self, texts, offsets):
        with _readable(texts):
            self._offsets = np.load(offsets, mmap_mode="r", allow_pickle=False)
            self._reader = open(texts, "rb")  # noqa: SIM115 (for as long as the process lives)

    def __len__(self):
        return len(self._offsets) - 1

    def __getitem__(self, place):
        with _readable(self._reader.name):
            self._reader.seek(self._offsets[place])
            return json.loads(self._reader.readline())


def build(folder, vectors, texts, add=False):
    """Writes an index, or a larger one in its place.

    Args:
      folder: str; made when it is absent.
      vectors: float array [n, width].
      texts: iterable of (id, text or None), n of them.
      add: bool, to what is there; else the folder must hold no index. Ids that are numbers go on
        from the count of what is there.

    Raises:
      UserError: there is one, or none to add to, or it is of another width, or it cannot be
        written.
    """
    require_library("index")
    check_target(folder, add, vectors.shape[1])
    with files.locked(folder, "index"):
        # Another process may have been faster.
        _build(folder, vectors, texts, check_target(folder, add, vectors.shape[1]))


def _build(folder, vectors, texts, old):
    """As `build`; old: dict of `check_target`, or None."""
    faiss = require_library("index")
    if old:
        before = StoredTexts(*(os.path.join(folder, old[n]) for n in ("texts", "offsets")))
        with _readable(folder):
            graph = faiss.read_index(os.path.join(folder, old["graph"]))
        _require_whole(folder, graph, before, old)
        extend(graph, vectors)
    else:
        graph = graph_of(vectors, "index")
    count = graph.ntotal
    # Named by the number of vectors, so that adding leaves the files that are being read alone.
    new = {
        "width": vectors.shape[1],
        "count": count,
        "graph": f"graph-{count}.faiss",
        "texts": f"texts-{count}.jsonl",
        "offsets": f"offsets-{count}.npy",
    }
    paths = {name: os.path.join(folder, new[name]) for name in ("graph", "texts", "offsets")}
    with files.aside(paths["graph"]) as temporary:
        try:
            faiss.write_index(graph, temporary)
        except RuntimeError as error:
            raise UserError(f"{paths['graph']}: cannot be written; free space") from error
    offsets = [0]
    with files.aside(paths["texts"]) as temporary, open(temporary, "wb") as writer:
        if old:
            shifted = ((i + len(before) if isinstance(i, int) else i, text) for i, text in texts)
            texts = itertools.chain((before[place] for place in range(len(before))), shifted)
        for identity, text in texts:
            line = f"{json.dumps([identity, text], ensure_ascii=False)}\n".encode()
            writer.write(line)
            offsets.append(offsets[-1] + len(line))
    with files.aside(paths["offsets"]) as temporary, open(temporary, "wb") as writer:
        np.save(writer, np.array(offsets, np.int64))
    files.write_json(os.path.join(folder, _DESCRIPTION), new)
    for name in ("graph", "texts", "offsets") if old else ():
        if old[name] != new[name]:
            os.unlink(os.path.join(folder, old[name]))


def check_target(folder, add, width=None):
    """Before any work: whether an index can be built or added to there; what is there, or None.

    Raises:
      UserError: as `build`.
    """
    there = os.path.exists(os.path.join(folder, _DESCRIPTION))
    if there and not add:
        raise UserError(
            f"--index={folder}: there is one; give --add=true to add to it, or name another folder"
        )
    if not add:
        above = os.path.realpath(folder)
        while not os.path.lexists(above):
            above = os.path.dirname(above)
        if not (os.path.isdir(above) and os.access(above, os.W_OK)):
            raise UserError(f"--index={folder}: cannot be made in {above}; name another folder")
        return None
    old = _described(folder)
    if width not in (None, old["width"]):
        raise UserError(
            f"--index={folder}: its vectors have {old['width']} numbers, these have {width}; use "
            "the model that it was built with"
        )
    return old


def _described(folder):
    path = os.path.join(folder, _DESCRIPTION)
    if not os.path.exists(path):
        raise UserError(
            f"--index={folder}: no such index; build it with --corpus, or check the path"
        )
    found = files.read_json(path)
    names = {"graph": str, "texts": str, "offsets": str, "width": int, "count": int}
    for name, kind in names.items():
        if not isinstance(found.get(name), kind):
            raise UserError(f"{path}: {name} is {found.get(name)!r}; build the index again")
        if kind is str and os.path.basename(found[name]) != found[name]:
            raise UserError(f"{path}: {name} is {found[name]!r}, no file of its folder; restore it")
    return found


def _require_whole(folder, graph, texts, described):
    if not graph.ntotal == len(texts) == described["count"]:
        raise UserError(f"{folder}: its files do not fit each other; build it again")


@contextlib.contextmanager
def _readable(path):
    try:
        yield
    except files.UNREADABLE as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: cannot be read as an index ({reason}); build it again") from error


def _normalized(vectors):
    vectors = np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
