"""KerasHub's side of encode.py, on its TensorFlow backend."""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"
import encode_worker
import keras
import keras_hub
import numpy as np
import tensorflow as tf

TOKENS = 2048  # A call; padding included.


def load(precision, model):
    tf.config.threading.set_intra_op_parallelism_threads(2)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    keras.config.set_dtype_policy(precision)
    backbone = keras_hub.models.BertBackbone.from_preset(model)
    tokenizer = encode_worker.tokenizer_of(model)
    signature = [tf.TensorSpec([None, None], tf.int32)] * 2

    @tf.function(input_signature=signature)
    def states_of(ids, mask):
        inputs = {"token_ids": ids, "padding_mask": mask, "segment_ids": tf.zeros_like(ids)}
        return tf.cast(backbone(inputs)["sequence_output"], tf.float32)

    def encode(texts):
        ids = [found.ids for found in tokenizer.encode_batch(texts)]
        lengths = np.array([len(row) for row in ids])
        vectors = np.empty((len(texts), backbone.hidden_dim), np.float32)
        for block in encode_worker.blocks(lengths, TOKENS):
            rows = np.zeros((len(block), lengths[block[0]]), np.int32)
            for row, place in zip(rows, block, strict=True):
                row[: lengths[place]] = ids[place]
            mask = (np.arange(rows.shape[1]) < lengths[block, np.newaxis]).astype(np.int32)
            vectors[block] = encode_worker.pooled(states_of(rows, mask).numpy(), mask)
        return vectors

    version = f"keras-hub {keras_hub.__version__}, tensorflow {tf.__version__}"
    return encode, version


encode_worker.serve(load)
