"""Texts to vectors, beside sentence-transformers (torch, OpenVINO), CTranslate2 and KerasHub.

python scripts/benchmarks/encode.py --data_dir=DATA --sentence_transformers=PYTHON \\
  --openvino=PYTHON --ctranslate2=PYTHON --keras_hub=PYTHON --sets=sentences --rounds=3 \\
  --max_texts=5000 --output_file=scripts/benchmarks/encode.json

encode_base.json is of the same with --base --max_texts=500.

Each PYTHON is an interpreter with that library (openvino: sentence-transformers[openvino]); a peer
without one is left out. DATA holds stsb/en/*.tsv, whose distinct sentences are the text set
"sentences", and squad/*.json, whose distinct paragraphs are the set "paragraphs" (cut at the 256
tokens that the model's folder says). MiniLM, mean, normalised; --base: random weights of the size
of BERT-base instead.

Every side is a process that keeps its model; all vectors are compared with those of
sentence-transformers in float32 before a figure counts. Then the sides take turns, a pass over all
texts each, two threads all of them; figures are medians of the passes, ratios those of medians.
Each round also runs whole processes, from start to the file of vectors: extract_cls, and
sentence-transformers as it is by default.
"""

import argparse
import glob
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import peak_memory

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
REFERENCE = "sentence-transformers float32"
OURS = "bert_tools"
# Side: its worker, which interpreter, its precision argument, the least cosine to the reference,
# and which precision of ours it is compared with.
SIDES = {
    REFERENCE: ("sentence_transformers", "sentence_transformers", "float32", 1, "float32"),
    "sentence-transformers bfloat16": (
        "sentence_transformers",
        "sentence_transformers",
        "bfloat16",
        0.999,
        "bfloat16",
    ),
    "OpenVINO float32": ("sentence_transformers", "openvino", "openvino-float32", 1, "float32"),
    "OpenVINO bfloat16": (
        "sentence_transformers",
        "openvino",
        "openvino-bfloat16",
        0.999,
        "bfloat16",
    ),
    "CTranslate2 float32": ("ctranslate2", "ctranslate2", "float32", 1, "float32"),
    "CTranslate2 int8": ("ctranslate2", "ctranslate2", "int8", 0.95, "bfloat16"),
    # KerasHub computes BERT's GELU in its tanh form.
    "KerasHub float32": ("keras_hub", "keras_hub", "float32", 0.999, "float32"),
    "KerasHub bfloat16": ("keras_hub", "keras_hub", "bfloat16", 0.99, "bfloat16"),
    f"{OURS} float32": ("encode", "here", "float32", 1, "float32"),
    f"{OURS} bfloat16": ("encode", "here", "bfloat16", 0.999, "bfloat16"),
}
EXTRACT = "import sys; from bert_tools.cli import extract_cls; sys.exit(extract_cls.main())"
# What runs as a whole process: its side above.
WHOLE = {
    "process: sentence-transformers float32": REFERENCE,
    "process: extract_cls float32": f"{OURS} float32",
    "process: extract_cls bfloat16": f"{OURS} bfloat16",
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--sentence_transformers", required=True)
    parser.add_argument("--openvino")
    parser.add_argument("--ctranslate2")
    parser.add_argument("--keras_hub")
    parser.add_argument("--sets", default="sentences,paragraphs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max_texts", type=int, help="of a set, evenly spaced; default: all")
    parser.add_argument("--base", action="store_true")
    parser.add_argument("--output_file", help="JSON of every run")
    arguments = parser.parse_args()
    # What does not ask for two threads counts the cores that it may use.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        models = prepare(arguments, scratch)
        for name in arguments.sets.split(","):
            texts = sets(arguments.data_dir)[name]()
            if arguments.max_texts:
                places = np.linspace(0, len(texts) - 1, min(len(texts), arguments.max_texts))
                texts = [texts[int(place)] for place in places]
            found[name] = {"texts": len(texts), **measure(arguments, models, texts, scratch)}
            print(table(name, found[name]), flush=True)
            if arguments.output_file:
                with open(arguments.output_file, "w", encoding="utf-8") as writer:
                    json.dump(found, writer, indent=1)
                    writer.write("\n")


def sets(data_dir):
    """{name: function() -> list of str}."""

    def sentences():
        columns = []
        for path in sorted(glob.glob(f"{data_dir}/stsb/en/*.tsv")):
            with open(path, encoding="utf-8") as reader:
                columns += [text for line in reader for text in line.split("\t")[:2]]
        return list(dict.fromkeys(columns))

    def paragraphs():
        contexts = []
        for path in sorted(glob.glob(f"{data_dir}/squad/*.json")):
            with open(path, encoding="utf-8") as reader:
                articles = json.load(reader)["data"]
            contexts += [part["context"] for article in articles for part in article["paragraphs"]]
        # A line of extract_cls's input is a text.
        return list(dict.fromkeys(" ".join(text.split()) for text in contexts))

    return {"sentences": sentences, "paragraphs": paragraphs}


def prepare(arguments, scratch):
    """{interpreter: folder of the model as that library reads it}."""
    from bert_tools.hub import names

    model = names.resolve("minilm")
    if arguments.base:
        model = write_base(model, os.path.join(scratch, "base"))
    models = {"here": model, "sentence_transformers": model, "keras_hub": model}
    for peer, worker in (("openvino", "sentence_transformers"), ("ctranslate2", "ctranslate2")):
        if python := getattr(arguments, peer):
            models[peer] = os.path.join(scratch, peer)
            worker = os.path.join(HERE, f"worker_{worker}.py")
            done = subprocess.run(
                [python, worker, "export", model, models[peer]],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                sys.exit(f"{peer}: the model cannot be converted:\n{done.stderr[-3000:]}")
    return models


def write_base(minilm, folder):
    """A sentence-transformers folder of BERT-base's size with random weights; returns its name."""
    import dataclasses
    import shutil

    from bert_tools import encoder, hub
    from bert_tools.hub import huggingface

    model = hub.load(minilm)
    config = dataclasses.replace(
        model.config,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
    )
    weights = encoder.initial_weights(config, seed=1)
    huggingface.write(folder, model._replace(config=config, weights=weights))
    for name in ("modules.json", "sentence_bert_config.json", "tokenizer.json"):
        shutil.copy(os.path.join(minilm, name), folder)
    os.mkdir(os.path.join(folder, "1_Pooling"))
    with open(os.path.join(minilm, "1_Pooling", "config.json"), encoding="utf-8") as reader:
        pooling = {**json.load(reader), "word_embedding_dimension": 768}
    with open(os.path.join(folder, "1_Pooling", "config.json"), "w", encoding="utf-8") as writer:
        json.dump(pooling, writer)
    return folder


def measure(arguments, models, texts, scratch):
    """{"sides": {side: what was measured}} of one text set."""
    paths = {name: os.path.join(scratch, name) for name in ("texts.json", "in.txt", "out.npy")}
    with open(paths["texts.json"], "w", encoding="utf-8") as writer:
        json.dump(texts, writer)
    with open(paths["in.txt"], "w", encoding="utf-8") as writer:
        writer.writelines(f"{text}\n" for text in texts)
    interpreters = {**vars(arguments), "here": sys.executable}
    wanted = {side: row for side, row in SIDES.items() if interpreters[row[1]]}
    commands = {
        side: [
            interpreters[peer],
            os.path.join(HERE, f"worker_{worker}.py"),
            precision,
            models[peer],
            paths["texts.json"],
            paths["out.npy"],
        ]
        for side, (worker, peer, precision, _, _) in wanted.items()
    }
    found, workers = {}, {}
    try:
        for side, command in commands.items():
            workers[side] = start(command)
            version = answer(side, workers[side])["version"]
            vectors = np.load(paths["out.npy"])
            if side == REFERENCE:
                reference = vectors
            found[side] = {"version": version, **compare(side, reference, vectors), "seconds": []}
        for number in range(arguments.rounds):
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
            for side, worker in workers.items():
                worker.stdin.write("\n")
                worker.stdin.flush()
                passed = answer(side, worker)
                found[side]["seconds"].append(passed["seconds"])
                found[side]["memory"] = passed["memory"]
            for name, side in WHOLE.items():
                command = commands[side]
                if side.startswith(OURS):
                    command = [sys.executable, "-c", EXTRACT, f"--bert={models['here']}"]
                    command += [f"--precision={SIDES[side][2]}", "--pooling=auto"]
                    command += [f"--input_file={paths['in.txt']}"]
                    command += [f"--output_file={paths['out.npy']}"]
                seconds, memory = whole(name, command)
                row = found.setdefault(name, {"seconds": [], "version": found[side]["version"]})
                row |= compare(side, reference, np.load(paths["out.npy"]))
                row["seconds"].append(seconds)
                row["memory"] = max(memory, row.get("memory", 0))
    finally:
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()
    return {"sides": found}


def start(command):
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": ROOT},
    )


def answer(side, worker):
    """The next JSON line of a worker; libraries may print others."""
    for line in worker.stdout:
        if line.startswith("{"):
            return json.loads(line)
    sys.exit(f"{side} ended with status {worker.wait()}; run it alone to see why: {worker.args}")


def whole(name, command):
    """(seconds, peak MB) of a process from its start to its end."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": ROOT},
    )
    memory = peak_memory.wait(process)
    if process.returncode:
        sys.exit(f"{name} failed: {command}")
    return time.perf_counter() - begun, memory


def compare(side, reference, vectors):
    """How far vectors are from the reference; stops when that is too far."""
    largest = float(np.abs(vectors - reference).max())
    products = np.einsum("nw,nw->n", reference, vectors, dtype=np.float64)
    # Vectors that bfloat16 made are not quite of length 1.
    least = float((products / np.linalg.norm(vectors, axis=1)).min())
    print(f"{side}: largest difference {largest:.1e}, least cosine {least:.6f}", file=sys.stderr)
    limit = SIDES[side][3]
    if (limit == 1 and largest > 1e-5) or least < limit - 1e-5:
        sys.exit(f"{side} gives other vectors")
    return {"largest_difference": largest, "least_cosine": least}


def table(name, found):
    """The medians as a Markdown table."""
    sides, count = found["sides"], found["texts"]
    rates = {side: count / statistics.median(row["seconds"]) for side, row in sides.items()}
    lines = [
        f"| {name} | texts/s | ours at equal precision, times | largest difference | least cosine "
        "| peak MB |",
        "|---|---|---|---|---|---|",
    ]
    for side, row in sides.items():
        against = SIDES[WHOLE.get(side, side)][4]
        ours = f"process: extract_cls {against}" if side in WHOLE else f"{OURS} {against}"
        ratio = f"{rates[ours] / rates[side]:.2f}" if side != ours else ""
        cells = [side, f"{rates[side]:,.0f}", ratio, f"{row['largest_difference']:.0e}"]
        cells += [f"{row['least_cosine']:.5f}", f"{row['memory']:,.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    versions = "; ".join(dict.fromkeys(row["version"] for row in sides.values()))
    rounds = len(sides[REFERENCE]["seconds"])
    lines.append(
        f"\n{count:,} texts, medians of {rounds} rounds; int8 beside our bfloat16. {versions}.\n"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
