"""This project's side of beside_original.py --task=squad: the library behind run_squad's default
flags.

worker_ours_squad.py PRECISION MODEL DATA_DIR SCRATCH STEPS PREDICT_ROWS: prints one JSON line;
STEPS is not used.
"""

import hashlib
import json
import os
import sys
import time

precision, model, data_dir, scratch, _, predict_rows = sys.argv[1:]
predict_rows = int(predict_rows)
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import peak_memory  # noqa: E402
import tensorflow as tf  # noqa: E402

from bert_tools import estimator, hub  # noqa: E402
from bert_tools.inputs import batches, tfrecord  # noqa: E402
from bert_tools.model_fn import model_fn_builder  # noqa: E402
from bert_tools.squad.examples import read_squad_examples  # noqa: E402
from bert_tools.squad.windows import convert_examples_to_features  # noqa: E402
from bert_tools.tasks.span import Span  # noqa: E402

tf.config.threading.set_intra_op_parallelism_threads(2)
tf.config.threading.set_inter_op_parallelism_threads(2)
loaded = hub.load(model)


def read(split):
    path = os.path.join(data_dir, f"{split}-v1.1-subset.json")
    return read_squad_examples(path, split == "train")[0]


def convert(examples, split):
    windows = convert_examples_to_features(
        examples, loaded.tokenizer, 384, 128, 64, split == "train"
    )
    tfrecord.write_features(windows.features, os.path.join(scratch, f"{split}.tf_record"))
    return windows.features


examples = read("train")
begun = time.time()
train = convert(examples, "train")
convert_seconds = time.time() - begun
dev = convert(read("dev")[:predict_rows], "dev")

model_fn = model_fn_builder(loaded.config, None, loaded.weights, task=Span(384))
config = estimator.RunConfig(os.path.join(scratch, "predict"), precision=precision)
os.makedirs(config.model_dir)
scorer = estimator.Estimator(model_fn, config)
input_fn = batches.input_fn_builder(dev, 384, False)
list(scorer.predict(input_fn))  # The first pass builds the graph.
begun = time.time()
found = list(scorer.predict(input_fn))
predict_rate = len(found) / (time.time() - begun)
values = []
for length, row in zip(dev.lengths.tolist(), found, strict=True):
    for name in ("start_logits", "end_logits"):
        values += row[name][:length].tolist()
print(
    json.dumps(
        {
            "convert": len(examples) / convert_seconds,
            "predict": predict_rate,
            "memory": peak_memory.of(),
            "version": f"tensorflow {tf.__version__}, {precision}",
            "ids": hashlib.sha256(train.input_ids.astype("<i4").tobytes()).hexdigest(),
            "values": values,
        }
    )
)
