"""The 100 most similar pairs among 10,000 sentences: one find_pairs process from its start to its
file, beside sentence-transformers' paraphrase mining; and how exact pairs and exact search grow.

python scripts/benchmarks/pairs.py --stsb_dir=STSB --bert=MODEL --peer_python=PEER/bin/python \\
  --rounds=3 --precisions=bfloat16 --output_file=scripts/benchmarks/pairs.json

STSB holds {train,dev,test}.tsv, whose distinct sentences are taken in their order; MODEL is a
Hugging Face folder that both sides read; PEER has sentence-transformers. The sides take turns, a
fresh process each. Beside them stands how long the encoder's matrix products take by themselves.
Growth is measured on random vectors in .npy files, without a model. With --output_file, runs are
added to those that it has.
"""

import argparse
import concurrent.futures
import itertools
import math
import os
import re
import statistics
import sys
import tempfile
import time

import numpy as np
import peak_memory
import side_by_side

WORKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker_paraphrases.py")
K = 100


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--stsb_dir", required=True)
    parser.add_argument("--bert", required=True)
    parser.add_argument("--sentences", type=int, default=10_000)
    parser.add_argument("--peer_python", help="without it ours runs alone")
    parser.add_argument("--precisions", default="bfloat16,float32", help="of both sides")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", default="1000,3000,10000,30000,100000", help="texts; growth")
    parser.add_argument("--searches", default="1000x10000,10000x10000,1000x100000,10000x100000")
    parser.add_argument("--output_file")
    arguments = parser.parse_args()
    runs = side_by_side.earlier(arguments.output_file)

    def note(run):
        side_by_side.add(runs, run, arguments.output_file)

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "sentences.txt")
        with open(path, "w", encoding="utf-8") as writer:
            sentences = distinct(arguments.stsb_dir, arguments.sentences)
            writer.writelines(f"{sentence}\n" for sentence in sentences)
        for _ in range(arguments.rounds):
            for precision in arguments.precisions.split(","):
                ours, found = mine(arguments, path, precision, folder)
                note(ours)
                if arguments.peer_python:
                    theirs, wanted = peers(arguments, path, precision, folder)
                    theirs["pairs_in_common"] = len(found & wanted)
                    note(theirs)
        if arguments.rounds and "bfloat16" in arguments.precisions:
            note(products(arguments.bert, sentences))
        for count in filter(None, arguments.pairs.split(",")):
            note(grown_pairs(int(count), folder))
        for shape in filter(None, arguments.searches.split(",")):
            note(grown_search(*map(int, shape.split("x")), folder))
    summarize(runs)


def distinct(folder, count):
    """The first distinct sentences of a folder's files; count None: all."""
    found = {}
    for split in ("train", "dev", "test"):
        with open(os.path.join(folder, f"{split}.tsv"), encoding="utf-8") as reader:
            for line in reader:
                found |= dict.fromkeys(text.strip() for text in line.split("\t")[:2])
    found.pop("", None)
    if len(found) < (count or 0):
        sys.exit(f"{folder}: has {len(found)} distinct sentences")
    return list(itertools.islice(found, count))


def mine(arguments, path, precision, folder):
    """(the run of find_pairs, the pairs that it found)."""
    output = os.path.join(folder, "pairs.tsv")
    flags = {"input_file": path, "bert": arguments.bert, "precision": precision}
    flags |= {"top_k": K, "output_file": output}
    seconds, memory, told = peak_memory.run_command("find_pairs", flags)
    phases = phases_of(told)
    phases["start and end of Python"] = round(seconds - sum(phases.values()), 2)
    with open(output, encoding="utf-8") as reader:
        found = {frozenset(line.split("\t")[1:3]) for line in reader}
    run = {"side": "find_pairs", "precision": precision, "sentences": arguments.sentences}
    return {**run, "seconds": seconds, "peak_mb": memory, "phases": phases}, found


def phases_of(told):
    line = re.search(r"seconds: (.*)", told)[1]
    return {name: float(value) for name, value in re.findall(r"(\w+) ([\d.]+)", line)}


def peers(arguments, path, precision, folder):
    output = os.path.join(folder, "peer.tsv")
    words = [arguments.peer_python, WORKER, arguments.bert, path, precision, str(K), output]
    seconds, memory, told = peak_memory.run(words)
    phases = phases_of(told)
    with open(output, encoding="utf-8") as reader:
        found = {frozenset(line.split("\t")[1:3]) for line in reader}
    run = {"side": "sentence-transformers", "precision": precision}
    run |= {"sentences": arguments.sentences, "seconds": seconds, "peak_mb": memory}
    return {**run, "phases": phases}, found


def products(bert, sentences):
    """How long the dense layers' matrix products of so many tokens take in bfloat16, two at a time
    as in an Encoder, in its blocks of 2,048 tokens; the best of five rounds.
    """
    import tensorflow as tf

    from bert_tools import hub
    from bert_tools.inputs.features import convert_texts

    model = hub.load(bert)
    texts = convert_texts(sentences, [None] * len(sentences), 128, model.tokenizer)
    blocks = math.ceil(len(texts.input_ids) / 2048)
    kernels = [
        tf.constant(array, tf.bfloat16)
        for name, array in model.weights.items()
        if "/layer_" in name and name.endswith("/kernel")
    ]
    given = {width: tf.ones([2048, width], tf.bfloat16) for width in {k.shape[0] for k in kernels}}

    @tf.function(autograph=False)
    def block():
        return [tf.matmul(given[kernel.shape[0]], kernel) for kernel in kernels]

    times = []
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for _ in range(6):
            begun = time.perf_counter()
            for call in [pool.submit(block) for _ in range(blocks)]:
                call.result()
            times.append(time.perf_counter() - begun)
    run = {"side": "products", "sentences": len(sentences), "tokens": len(texts.input_ids)}
    return {**run, "seconds": min(times[1:])}


def random_vectors(path, rows, seed):
    rng = np.random.default_rng(seed)
    found = np.lib.format.open_memmap(path, "w+", np.float32, (rows, 384))
    for start in range(0, rows, 10_000):
        part = rng.normal(size=(min(10_000, rows - start), 384))
        found[start : start + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    found.flush()


def grown_pairs(count, folder):
    path = os.path.join(folder, "vectors.npy")
    random_vectors(path, count, 0)
    output = os.path.join(folder, "grown.tsv")
    flags = {"input_file": path, "top_k": K, "output_file": output}
    seconds, memory, told = peak_memory.run_command("find_pairs", flags)
    vectors = os.path.getsize(path) / 2**20
    run = {"side": "exact pairs", "sentences": count, "seconds": seconds, "peak_mb": memory}
    return {**run, "vectors_mb": vectors, "phases": phases_of(told)}


def grown_search(queries, corpus, folder):
    paths = [os.path.join(folder, name) for name in ("queries.npy", "corpus.npy")]
    random_vectors(paths[0], queries, 1)
    random_vectors(paths[1], corpus, 0)
    output = os.path.join(folder, "grown.tsv")
    flags = {"queries": paths[0], "corpus": paths[1], "top_k": 10, "output_file": output}
    seconds, memory, _ = peak_memory.run_command("semantic_search", flags)
    run = {"side": "exact search", "queries": queries, "corpus": corpus, "seconds": seconds}
    return {**run, "peak_mb": memory, "vectors_mb": sum(map(os.path.getsize, paths)) / 2**20}


def summarize(runs):
    """Medians of the sides, as a table."""
    print("| | seconds | peak MB | phases |\n|---|---|---|---|")
    sides = {(run["side"], run["precision"]): [] for run in runs if "precision" in run}
    for run in runs:
        if "precision" in run:
            sides[run["side"], run["precision"]].append(run)
    for name, of_side in sides.items():
        middle = {
            phase: statistics.median(run["phases"][phase] for run in of_side)
            for phase in of_side[0]["phases"]
        }
        phases = ", ".join(f"{phase} {value:.1f}" for phase, value in middle.items())
        seconds = statistics.median(run["seconds"] for run in of_side)
        memory = statistics.median(run["peak_mb"] for run in of_side)
        print(f"| {' '.join(name)} | {seconds:.1f} | {memory:.0f} | {phases} |")


if __name__ == "__main__":
    main()
