"""Makes tests/data/tf1_module.tar.gz: a TF1-format module as Google published BERT, with
toy weights, and in tf1_module.json what the original computes with it.

Runs on TensorFlow 1.15 and tensorflow-hub 0.12, beside a checkout of google-research/bert:

    python make_tf1_module.py BERT_CHECKOUT FOLDER
"""

import json
import os
import sys
import tarfile

import numpy as np
import tensorflow as tf
import tensorflow_hub as hub

sys.path.insert(0, sys.argv[1])
import modeling

FOLDER = sys.argv[2]
TOKENS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "cat",
    "##s",
    "a",
    "b",
    "c",
    "d",
    ".",
]
CONFIG = {
    "vocab_size": len(TOKENS),
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
}
IDS = [[2, 5, 6, 7, 3, 12, 3], [2, 8, 9, 3, 0, 0, 0]]
MASK = [[1] * 7, [1, 1, 1, 1, 0, 0, 0]]
SEGMENTS = [[0, 0, 0, 0, 0, 1, 1], [0] * 7]


def module_fn(is_training):
    ids = tf.compat.v1.placeholder(tf.int32, [None, None], "input_ids")
    mask = tf.compat.v1.placeholder(tf.int32, [None, None], "input_mask")
    segments = tf.compat.v1.placeholder(tf.int32, [None, None], "segment_ids")
    model = modeling.BertModel(
        modeling.BertConfig.from_dict(CONFIG), is_training, ids, mask, segments
    )
    hub.add_signature(
        "tokens",
        {"input_ids": ids, "input_mask": mask, "segment_ids": segments},
        {
            "sequence_output": model.get_sequence_output(),
            "pooled_output": model.get_pooled_output(),
        },
    )
    vocab = tf.constant(os.path.join(FOLDER, "vocab.txt"), tf.string, name="vocab_file")
    tf.compat.v1.add_to_collection(tf.compat.v1.GraphKeys.ASSET_FILEPATHS, vocab)
    lower = tf.constant(False, tf.bool, name="do_lower_case")
    hub.add_signature("tokenization_info", {}, {"vocab_file": vocab, "do_lower_case": lower})


os.makedirs(FOLDER, exist_ok=True)
with open(os.path.join(FOLDER, "vocab.txt"), "w") as writer:
    writer.write("\n".join(TOKENS) + "\n")
with open(os.path.join(FOLDER, "bert_config.json"), "w") as writer:
    json.dump(CONFIG, writer)

# A checkpoint with weights that are not near zero, as fresh ones would be.
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    module_fn(False)
    session.run(tf.compat.v1.global_variables_initializer())
    for place, variable in enumerate(tf.compat.v1.global_variables()):
        shape = variable.shape.as_list()
        values = 0.5 * np.sin(np.arange(np.prod(shape)) * 1.7 + place)
        variable.load(values.reshape(shape).astype(np.float32), session)
    checkpoint = os.path.join(FOLDER, "bert_model.ckpt")
    tf.compat.v1.train.Saver().save(session, checkpoint, write_meta_graph=False)

tags_and_args = [(set(), {"is_training": False}), ({"train"}, {"is_training": True})]
spec = hub.create_module_spec(module_fn, tags_and_args)
with tf.Graph().as_default():
    module = os.path.join(FOLDER, "module")
    spec.export(module, checkpoint_path=checkpoint)

with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    inputs = {"input_ids": IDS, "input_mask": MASK, "segment_ids": SEGMENTS}
    tensors = {name: tf.constant(value, tf.int32) for name, value in inputs.items()}
    outputs = hub.Module(module)(tensors, signature="tokens", as_dict=True)
    session.run(tf.compat.v1.global_variables_initializer())
    found = session.run({name: outputs[name] for name in ("pooled_output", "sequence_output")})
expected = {name: array.astype(float).round(7).tolist() for name, array in found.items()}
with open(os.path.join(FOLDER, "tf1_module.json"), "w") as writer:
    json.dump({"inputs": inputs, **expected}, writer)
with tarfile.open(os.path.join(FOLDER, "tf1_module.tar.gz"), "w:gz") as archive:
    archive.add(module, ".")
