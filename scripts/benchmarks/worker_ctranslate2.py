"""CTranslate2's side of encode.py: texts sorted by length, two calls in flight.

worker_ctranslate2.py export MODEL FOLDER converts the model (needs transformers and torch).
"""

import concurrent.futures
import shutil
import sys

import ctranslate2
import encode_worker
import numpy as np

TOKENS = 2048  # A call; padding included.


def load(precision, model):
    encoder = ctranslate2.Encoder(model, compute_type=precision, inter_threads=2, intra_threads=1)
    tokenizer = encode_worker.tokenizer_of(model)
    pool = concurrent.futures.ThreadPoolExecutor(2)

    def encode(texts):
        ids = [found.ids for found in tokenizer.encode_batch(texts)]
        lengths = np.array([len(row) for row in ids])
        vectors = []

        def compute(block):
            output = encoder.forward_batch([ids[place] for place in block])
            states = np.array(output.last_hidden_state)
            mask = np.arange(states.shape[1]) < lengths[block, np.newaxis]
            if not vectors:
                vectors.append(np.empty((len(texts), states.shape[2]), np.float32))
            vectors[0][block] = encode_worker.pooled(states, mask)

        first, *others = encode_worker.blocks(lengths, TOKENS)
        compute(first)
        list(pool.map(compute, others))
        return vectors[0]

    return encode, f"ctranslate2 {ctranslate2.__version__}"


if sys.argv[1] == "export":
    ctranslate2.converters.TransformersConverter(sys.argv[2]).convert(sys.argv[3], force=True)
    for name in ("tokenizer.json", "sentence_bert_config.json"):
        shutil.copy(f"{sys.argv[2]}/{name}", sys.argv[3])
else:
    encode_worker.serve(load)
