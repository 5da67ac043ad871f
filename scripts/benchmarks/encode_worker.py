"""What the workers of encode.py have in common: worker.py PRECISION MODEL TEXTS VECTORS.

A worker loads its model, encodes TEXTS (a JSON list) once, writes VECTORS (.npy) and prints a JSON
line; then each line on stdin is one more pass, answered by its seconds and the peak memory.
"""

import json
import sys
import time

import numpy as np
import peak_memory


def serve(load):
    """Runs a worker.

    Args:
      load: function(precision, model) -> (function(texts) -> float32 [texts, width], a str that
        names libraries and versions).
    """
    precision, model, source, target = sys.argv[1:]
    with open(source, encoding="utf-8") as reader:
        texts = json.load(reader)
    encode, version = load(precision, model)
    np.save(target, encode(texts))
    answer(version=version)
    for _ in sys.stdin:
        begun = time.perf_counter()
        encode(texts)
        answer(seconds=time.perf_counter() - begun)


def answer(**values):
    """Prints the values and the peak memory, a JSON line."""
    print(json.dumps({**values, "memory": peak_memory.of()}), flush=True)


def blocks(lengths, tokens):
    """Places of texts by falling length, as many together as give at most so many padded tokens."""
    order, start = np.argsort(-np.asarray(lengths), kind="stable"), 0
    while start < len(order):
        count = max(1, tokens // int(lengths[order[start]]))
        yield order[start : start + count]
        start += count


def tokenizer_of(model):
    """The model's tokenizer as the library tokenizers has it, cut where sentence-transformers cuts,
    and that length.
    """
    import tokenizers

    with open(f"{model}/sentence_bert_config.json", encoding="utf-8") as reader:
        length = json.load(reader)["max_seq_length"]
    tokenizer = tokenizers.Tokenizer.from_file(f"{model}/tokenizer.json")
    tokenizer.enable_truncation(length)
    tokenizer.no_padding()
    return tokenizer


def pooled(states, mask):
    """Mean of float32 [rows, width, hidden] over the tokens of mask [rows, width], of length 1."""
    means = np.einsum("nth,nt->nh", states, mask.astype(np.float32))
    return means / np.linalg.norm(means, axis=1, keepdims=True)
