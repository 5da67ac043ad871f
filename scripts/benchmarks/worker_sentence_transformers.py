"""sentence-transformers' side of encode.py, as its users call it:
worker_sentence_transformers.py PRECISION MODEL TEXTS VECTORS; prints a JSON line.
"""

import json
import resource
import sys
import time

import numpy as np
import sentence_transformers
import torch

precision, model, source, target = sys.argv[1:]
torch.set_num_threads(2)
with open(source, encoding="utf-8") as reader:
    texts = json.load(reader)
encoder = sentence_transformers.SentenceTransformer(
    model, device="cpu", model_kwargs={"torch_dtype": getattr(torch, precision)}
)


def encode():
    vectors = encoder.encode(texts, batch_size=32, convert_to_tensor=True)
    return vectors.float().numpy()


vectors = encode()
rates = []
for _ in range(3):
    begun = time.perf_counter()
    encode()
    rates.append(len(texts) / (time.perf_counter() - begun))
np.save(target, vectors)
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
version = f"sentence-transformers {sentence_transformers.__version__}, torch {torch.__version__}"
print(json.dumps({"rates": rates, "memory": memory, "version": version}))
