"""Libraries for the approximate index on sentence vectors: recall@10 against exact search, seconds
to build and to query (of processor time), size on disk and of what is installed.

python scripts/benchmarks/index.py --vectors=stsb.npy --output_file=scripts/benchmarks/index.json

stsb.npy: extract_cls --pooling=auto --bert=minilm over distinct sentences. Needs faiss-cpu and
usearch, which is the only place that does. Queries are rows of it, all searched in one call by two
threads. Both build an HNSW graph of the same parameters.
"""

import argparse
import importlib.metadata
import json
import os
import tempfile
import time

import numpy as np

from bert_tools.sentence.search import Exact

NEIGHBOURS, BUILDING, K = 16, 128, 10


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--vectors", required=True)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--walks", default="64,128", help="efSearch")
    parser.add_argument("--output_file")
    arguments = parser.parse_args()
    vectors = np.load(arguments.vectors)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    chosen = np.random.default_rng(0).choice(len(vectors), arguments.queries, replace=False)
    queries = vectors[chosen]
    begun = time.process_time()
    _, exact = Exact(vectors).search(queries, K)
    rows = [{"library": "exact", "query_ms": 1000 * (time.process_time() - begun) / len(queries)}]
    for library in (with_faiss, with_usearch):
        for walk in map(int, arguments.walks.split(",")):
            rows.append(library(vectors, queries, exact, walk))
    for row in rows:
        print(json.dumps(row))
    if arguments.output_file:
        with open(arguments.output_file, "w", encoding="utf-8") as writer:
            json.dump({"vectors": list(vectors.shape), "runs": rows}, writer, indent=1)
            writer.write("\n")


def with_faiss(vectors, queries, exact, walk):
    import faiss

    faiss.omp_set_num_threads(2)
    graph = faiss.IndexHNSWFlat(vectors.shape[1], NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction, graph.hnsw.efSearch = BUILDING, walk
    begun = time.process_time()
    graph.add(vectors)
    built = time.process_time()
    _, found = graph.search(queries, K)
    asked = time.process_time()
    with tempfile.NamedTemporaryFile() as file:
        faiss.write_index(graph, file.name)
        size = os.path.getsize(file.name)
    return row("faiss", ["faiss-cpu"], walk, found, exact, built - begun, asked - built, size)


def with_usearch(vectors, queries, exact, walk):
    from usearch.index import Index

    graph = Index(
        ndim=vectors.shape[1],
        metric="ip",
        dtype="f32",
        connectivity=NEIGHBOURS,
        expansion_add=BUILDING,
        expansion_search=walk,
    )
    begun = time.process_time()
    graph.add(np.arange(len(vectors)), vectors, threads=2)
    built = time.process_time()
    found = graph.search(queries, K, threads=2).keys
    asked = time.process_time()
    with tempfile.NamedTemporaryFile() as file:
        graph.save(file.name)
        size = os.path.getsize(file.name)
    packages = ["usearch", "numkong"]
    return row("usearch", packages, walk, found, exact, built - begun, asked - built, size)


def row(library, packages, walk, found, exact, building, asking, size):
    hits = [len(set(a) & set(b)) for a, b in zip(found.tolist(), exact.tolist(), strict=True)]
    return {
        "library": library,
        "version": importlib.metadata.version(packages[0]),
        "walk": walk,
        "recall@10": sum(hits) / (K * len(exact)),
        "build_s": building,
        "query_ms": 1000 * asking / len(exact),
        "index_mb": size / 1e6,
        "installed_mb": sum(map(installed, packages)),
    }


def installed(package):
    """MB of a distribution's files."""
    files = importlib.metadata.files(package)
    return sum(os.path.getsize(file.locate()) for file in files if file.locate().exists()) / 1e6


if __name__ == "__main__":
    main()
