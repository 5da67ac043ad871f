"""sentence-transformers' side of pairs.py: MODEL SENTENCES PRECISION K OUTPUT."""

import sys
import time

begun = time.perf_counter()

import torch  # noqa: E402
from sentence_transformers import SentenceTransformer, util  # noqa: E402

model_dir, path, precision, k, output = sys.argv[1:]
imported = time.perf_counter()
model = SentenceTransformer(
    model_dir, device="cpu", model_kwargs={"dtype": getattr(torch, precision)}
)
with open(path, encoding="utf-8") as reader:
    sentences = reader.read().split("\n")[:-1]
loaded = time.perf_counter()
vectors = model.encode(sentences, convert_to_tensor=True, show_progress_bar=False).float()
encoded = time.perf_counter()
# What util.paraphrase_mining does once the vectors are there, in its defaults.
found = util.paraphrase_mining_embeddings(vectors)[: int(k)]
with open(output, "w", encoding="utf-8") as writer:
    for score, i, j in found:
        writer.write(f"{score:.6f}\t{i}\t{j}\t{sentences[i]}\t{sentences[j]}\n")
ended = time.perf_counter()
print(
    f"seconds: import {imported - begun:.2f}, load {loaded - imported:.2f}, "
    f"encode {encoded - loaded:.2f}, pairs {ended - encoded:.2f}",
    file=sys.stderr,
)
