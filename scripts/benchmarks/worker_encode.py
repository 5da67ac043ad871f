"""Our side of encode.py."""

import encode_worker
import tensorflow as tf

from bert_tools.sentence.encoder import Encoder


def load(precision, model):
    tf.config.threading.set_intra_op_parallelism_threads(2)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    return Encoder.load(model, precision=precision).encode, f"tensorflow {tf.__version__}"


encode_worker.serve(load)
