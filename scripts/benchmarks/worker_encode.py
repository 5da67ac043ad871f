"""Our side of encode.py: worker_encode.py PRECISION MODEL TEXTS VECTORS; prints a JSON line."""

import json
import resource
import sys
import time

import numpy as np
import tensorflow as tf

from bert_tools.sentence.encoder import Encoder

precision, model, source, target = sys.argv[1:]
tf.config.threading.set_intra_op_parallelism_threads(2)
tf.config.threading.set_inter_op_parallelism_threads(2)
with open(source, encoding="utf-8") as reader:
    texts = json.load(reader)
encoder = Encoder.load(model, precision=precision)
vectors = encoder.encode(texts)
rates = []
for _ in range(3):
    begun = time.perf_counter()
    encoder.encode(texts)
    rates.append(len(texts) / (time.perf_counter() - begun))
np.save(target, vectors)
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"rates": rates, "memory": memory, "version": f"tensorflow {tf.__version__}"}))
