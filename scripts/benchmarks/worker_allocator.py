"""One workload of allocator.py: `worker_allocator.py WORK KEEP DATA_DIR STEPS` prints a JSON line.

WORK is train-8, train-32, predict or encode; KEEP is none, malloc, onednn or both, the parts of
allocator.keep_freed_memory that are on. Minor page faults and times are of the work alone, after
the graph is made; memory is the peak of the process.
"""

import json
import os
import resource
import sys
import tempfile
import time

work, keep, data_dir, steps = sys.argv[1:]
steps = int(steps)
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
from bert_tools import allocator  # noqa: E402

if keep in ("none", "malloc"):
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
if keep in ("malloc", "both"):
    allocator.keep_freed_memory()
elif keep == "onednn":
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"

import peak_memory  # noqa: E402

from bert_tools import estimator, hub  # noqa: E402
from bert_tools.inputs import batches, features  # noqa: E402
from bert_tools.model_fn import model_fn_builder  # noqa: E402
from bert_tools.sentence.encoder import Encoder  # noqa: E402
from bert_tools.tasks import regress  # noqa: E402

WIDTH = 128
task, data_set = regress.Regression(), regress.DATA_SETS["sim"]
model = hub.load("minilm")
_, examples = data_set.load(data_dir, "train", task.parse_label)
marks = []


def mark():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    marks.append((time.time(), usage.ru_minflt, usage.ru_utime, usage.ru_stime))


class Steps:
    """The training batches, with a mark where each step's are asked for."""

    def __init__(self, data):
        self._data = data

    def step(self, number):
        mark()
        return self._data.step(number)


if work == "encode":
    encoder = Encoder(model)
    texts = sorted({text for e in examples for text in (e.text_a, e.text_b)})[: 40 * steps]
    encoder.encode(texts[:500])
    mark()
    encoder.encode(texts)
    mark()
    count = len(texts)
else:
    if work == "predict":
        examples = examples[: 20 * steps]
    converted = features.convert_examples_to_features(examples, None, WIDTH, model.tokenizer)
    batch_size = int(work.partition("-")[2] or 8)
    total = int(len(examples) / batch_size * 3)
    model_fn = model_fn_builder(model.config, 1, model.weights, 5e-5, total, total // 10)
    with tempfile.TemporaryDirectory() as folder:
        config = estimator.RunConfig(folder)
        run = estimator.Estimator(model_fn, config, {"batch_size": batch_size})
        if work == "predict":
            some = batches.input_fn_builder(converted, WIDTH, False)
            list(run.predict(some))  # The first pass builds the graph.
            mark()
            list(run.predict(some))
            mark()
            count = len(examples)
        else:
            train = batches.input_fn_builder(converted, WIDTH, True)
            run.train(lambda params: Steps(train(params)), steps)
            del marks[:4]  # Batches are made a step ahead; the first steps build the graph.
            count = batch_size * (len(marks) - 1)
first, last = marks[0], marks[-1]
seconds, faults, user, system = (after - before for before, after in zip(first, last, strict=True))
print(
    json.dumps(
        {
            "rate": count / seconds,
            "faults": faults,
            "user_seconds": user,
            "system_seconds": system,
            "memory": peak_memory.of(),
        }
    )
)
