"""The original's side of beside_original.py; runs under TensorFlow 1.15, so in Python 3.7's syntax.

worker_original.py CHECKOUT MODEL DATA_DIR SCRATCH TRAIN_STEPS PREDICT_ROWS: prints one JSON line.
"""

import json
import os
import sys
import time

checkout, model, data_dir, scratch, train_steps, predict_rows = sys.argv[1:]
train_steps, predict_rows = int(train_steps), int(predict_rows)
sys.path.insert(0, checkout)
import modeling  # noqa: E402
import numpy as np  # noqa: E402
import peak_memory  # noqa: E402
import run_reg  # noqa: E402
import tensorflow as tf  # noqa: E402
import tokenization  # noqa: E402

tf.logging.set_verbosity(tf.logging.ERROR)
config_file, vocab_file = os.path.join(model, "bert_config.json"), os.path.join(model, "vocab.txt")
run_reg.FLAGS(
    [
        "run_reg",
        "--data_dir=" + data_dir,
        "--task_name=sim",
        "--output_dir=" + scratch,
        "--bert_config_file=" + config_file,
        "--vocab_file=" + vocab_file,
    ]
)
tokenizer = tokenization.FullTokenizer(vocab_file)
processor = run_reg.SimProcessor()
examples = processor.get_train_examples(data_dir)
train_file, test_file = (
    os.path.join(scratch, name) for name in ("train.tf_record", "test.tf_record")
)
begun = time.time()
run_reg.file_based_convert_examples_to_features(examples, 128, tokenizer, train_file)
convert_seconds = time.time() - begun
test = processor.get_test_examples(data_dir)[:predict_rows]
run_reg.file_based_convert_examples_to_features(test, 128, tokenizer, test_file)

steps = int(len(examples) / 32 * 3)
model_fn = run_reg.model_fn_builder(
    modeling.BertConfig.from_json_file(config_file),
    os.path.join(model, "bert_model.ckpt"),
    5e-5,
    steps,
    steps // 10,
    False,
    False,
)
session = tf.ConfigProto(intra_op_parallelism_threads=2, inter_op_parallelism_threads=2)


def estimator(folder):
    return tf.contrib.tpu.TPUEstimator(
        use_tpu=False,
        model_fn=model_fn,
        config=tf.contrib.tpu.RunConfig(
            model_dir=os.path.join(scratch, folder), session_config=session
        ),
        train_batch_size=32,
        eval_batch_size=8,
        predict_batch_size=8,
    )


# The original's own predict loop dies on the scalar; the Estimator below it does not.
values, times = [], []
for value in estimator("predict").predict(
    run_reg.file_based_input_fn_builder(test_file, 128, False, False)
):
    values.append(float(value))
    times.append(time.time())
predict_rate = (len(values) - 8) / (times[-1] - times[7])


class Times(tf.train.SessionRunHook):
    def __init__(self):
        self.times = []

    def after_run(self, context, values):
        self.times.append(time.time())


hook = Times()
estimator("train").train(
    run_reg.file_based_input_fn_builder(train_file, 128, True, True),
    max_steps=train_steps,
    hooks=[hook],
)
print(
    json.dumps(
        {
            "convert": len(examples) / convert_seconds,
            "train": 32 / float(np.median(np.diff(hook.times)[1:])),
            "predict": predict_rate,
            "memory": peak_memory.of(),
            "version": "tensorflow " + tf.__version__,
            "values": values,
        }
    )
)
