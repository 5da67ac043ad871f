"""This project's side of beside_original.py: the library behind run_reg's default flags.

worker_ours.py PRECISION MODEL DATA_DIR SCRATCH TRAIN_STEPS PREDICT_ROWS: prints one JSON line.
"""

import json
import os
import sys
import time

import numpy as np
import peak_memory

precision, model, data_dir, scratch, train_steps, predict_rows = sys.argv[1:]
train_steps, predict_rows = int(train_steps), int(predict_rows)
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf  # noqa: E402

from bert_tools import estimator, hub  # noqa: E402
from bert_tools.inputs import batches, tfrecord  # noqa: E402
from bert_tools.model_fn import model_fn_builder  # noqa: E402
from bert_tools.tasks import regress  # noqa: E402

tf.config.threading.set_intra_op_parallelism_threads(2)
tf.config.threading.set_inter_op_parallelism_threads(2)
task, data_set = regress.Regression(), regress.DATA_SETS["sim"]
loaded = hub.load(model)
_, examples = data_set.load(data_dir, "train", task.parse_label)
_, test = data_set.load(data_dir, "test", task.parse_label)
train_file, test_file = (
    os.path.join(scratch, name) for name in ("train.tf_record", "test.tf_record")
)


def convert(some, output_file):
    tfrecord.file_based_convert_examples_to_features(
        some, task.label_list, 128, loaded.tokenizer, output_file
    )


begun = time.time()
convert(examples, train_file)
convert_seconds = time.time() - begun
convert(test[:predict_rows], test_file)


def made(folder):
    steps = int(len(examples) / 32 * 3)
    model_fn = model_fn_builder(loaded.config, 1, loaded.weights, 5e-5, steps, steps // 10)
    config = estimator.RunConfig(os.path.join(scratch, folder), precision=precision)
    os.makedirs(config.model_dir)
    return estimator.Estimator(model_fn, config, {"batch_size": 32})


scorer = made("predict")
test_fn = batches.file_based_input_fn_builder(test_file, 128, False)
list(scorer.predict(test_fn))  # The first pass builds the graph.
begun = time.time()
values = [float(prediction["output"]) for prediction in scorer.predict(test_fn)]
predict_rate = len(values) / (time.time() - begun)

times = []


class Steps:
    """The training batches, with the moment at which each step's are asked for."""

    def __init__(self, data):
        self._data = data

    def step(self, number):
        times.append(time.time())
        return self._data.step(number)


train_fn = batches.file_based_input_fn_builder(train_file, 128, True)
made("train").train(lambda params: Steps(train_fn(params)), train_steps)
print(
    json.dumps(
        {
            "convert": len(examples) / convert_seconds,
            # Batches are made a step ahead: the first two moments hold the building of the graph.
            "train": 32 / float(np.median(np.diff(times)[2:])),
            "predict": predict_rate,
            "memory": peak_memory.of(),
            "version": f"tensorflow {tf.__version__}, {precision}",
            "values": values,
        }
    )
)
