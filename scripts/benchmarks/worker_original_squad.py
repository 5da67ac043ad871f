"""The original run_squad.py's side of beside_original.py; runs under TensorFlow 1.15, so in Python
3.7's syntax.

worker_original_squad.py CHECKOUT MODEL DATA_DIR SCRATCH STEPS PREDICT_ROWS: prints one JSON line;
STEPS is not used.
"""

import hashlib
import json
import os
import sys
import time

checkout, model, data_dir, scratch, _, predict_rows = sys.argv[1:]
predict_rows = int(predict_rows)
sys.path.insert(0, checkout)
import modeling  # noqa: E402
import numpy as np  # noqa: E402
import peak_memory  # noqa: E402
import run_squad  # noqa: E402
import tensorflow as tf  # noqa: E402
import tokenization  # noqa: E402

tf.logging.set_verbosity(tf.logging.ERROR)
config_file, vocab_file = os.path.join(model, "bert_config.json"), os.path.join(model, "vocab.txt")
run_squad.FLAGS(
    [
        "run_squad",
        "--output_dir=" + scratch,
        "--bert_config_file=" + config_file,
        "--vocab_file=" + vocab_file,
    ]
)
tokenizer = tokenization.FullTokenizer(vocab_file)


def read(split):
    path = os.path.join(data_dir, split + "-v1.1-subset.json")
    return run_squad.read_squad_examples(path, split == "train")


def convert(examples, split):
    """The windows, with their ids, and the file that they were written into."""
    writer = run_squad.FeatureWriter(os.path.join(scratch, split + ".tf_record"), split == "train")
    found = []

    def keep(feature):
        found.append(np.array(feature.input_ids[: len(feature.tokens)], "<i4"))
        writer.process_feature(feature)

    run_squad.convert_examples_to_features(
        examples, tokenizer, 384, 128, 64, split == "train", keep
    )
    writer.close()
    return found, writer.filename


examples = read("train")
begun = time.time()
train_ids, _ = convert(examples, "train")
convert_seconds = time.time() - begun
dev_ids, dev_file = convert(read("dev")[:predict_rows], "dev")

model_fn = run_squad.model_fn_builder(
    modeling.BertConfig.from_json_file(config_file),
    os.path.join(model, "bert_model.ckpt"),
    5e-5,
    None,
    None,
    False,
    False,
)
session = tf.ConfigProto(intra_op_parallelism_threads=2, inter_op_parallelism_threads=2)
estimator = tf.contrib.tpu.TPUEstimator(
    use_tpu=False,
    model_fn=model_fn,
    config=tf.contrib.tpu.RunConfig(
        model_dir=os.path.join(scratch, "predict"), session_config=session
    ),
    train_batch_size=32,
    predict_batch_size=8,
)
values, times = [], []
input_fn = run_squad.input_fn_builder(dev_file, 384, False, False)
for number, row in enumerate(estimator.predict(input_fn, yield_single_examples=True)):
    times.append(time.time())
    for name in ("start_logits", "end_logits"):
        values += row[name][: len(dev_ids[number])].tolist()
print(
    json.dumps(
        {
            "convert": len(examples) / convert_seconds,
            "predict": (len(times) - 8) / (times[-1] - times[7]),
            "memory": peak_memory.of(),
            "version": "tensorflow " + tf.__version__,
            "ids": hashlib.sha256(np.concatenate(train_ids).tobytes()).hexdigest(),
            "values": values,
        }
    )
)
