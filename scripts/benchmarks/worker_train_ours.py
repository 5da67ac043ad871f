"""Our side of train_speed.py: `worker_train_ours.py MODEL DATA WIDTH BATCH STEPS` prints a JSON
line.
"""

import json
import os
import sys
import tempfile
import time

import numpy as np
import peak_memory

from bert_tools import allocator

model_dir, path, width, size, steps = sys.argv[1:]
width, size, steps = int(width), int(size), int(steps)
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
allocator.keep_freed_memory()  # As every command does.

import tensorflow as tf  # noqa: E402

from bert_tools import estimator, hub  # noqa: E402
from bert_tools.inputs import batches, features  # noqa: E402
from bert_tools.model_fn import model_fn_builder  # noqa: E402
from bert_tools.tasks import regress  # noqa: E402

task, data_set = regress.Regression(), regress.DATA_SETS["sim"]
model = hub.load(model_dir)
_, examples = data_set.load(os.path.dirname(path), "train", task.parse_label)
converted = features.convert_examples_to_features(examples, None, width, model.tokenizer)
times = []


class Steps:
    """The training batches, with the moment at which each step's are asked for."""

    def __init__(self, data):
        self._data = data

    def step(self, number):
        times.append(time.time())
        return self._data.step(number)


total = int(len(examples) / size * 3)
with tempfile.TemporaryDirectory() as folder:
    model_fn = model_fn_builder(model.config, 1, model.weights, 5e-5, total, total // 10)
    run = estimator.Estimator(model_fn, estimator.RunConfig(folder), {"batch_size": size})
    some = features.convert_examples_to_features(examples[:32], None, width, model.tokenizer)
    found = run.predict(batches.input_fn_builder(some, width, False))
    outputs = [float(one["output"]) for one in found]
    train = batches.input_fn_builder(converted, width, True)
    run.train(lambda params: Steps(train(params)), steps)
print(
    json.dumps(
        {
            # Batches are made a step ahead: the first moments hold the making of the graph.
            "rate": size / float(np.median(np.diff(times)[3:])),
            "memory": peak_memory.of(),
            "outputs": outputs,
            "version": f"tensorflow {tf.__version__}",
        }
    )
)
