"""Makes tests/data/tf1_albert.tar.gz: an ALBERT module as export_to_tfhub.py of
google-research/albert makes it, with toy weights and pieces, and in tf1_albert.json what the
original computes with it.

Runs on TensorFlow 1.15 and tensorflow-hub 0.12; the checkout is a folder named albert:

    python make_tf1_albert.py FOLDER_OF_THE_CHECKOUT FOLDER
"""

import json
import os
import struct
import sys
import tarfile

import numpy as np
import tensorflow as tf
import tensorflow_hub as hub

sys.path.insert(0, sys.argv[1])
from albert import modeling

FOLDER = sys.argv[2]
# Pieces with the kinds of sentencepiece_model.proto: 1 normal, 2 unknown, 3 control.
PIECES = [
    ("<pad>", 3),
    ("<unk>", 2),
    ("[CLS]", 3),
    ("[SEP]", 3),
    ("[MASK]", 3),
    ("\u2581the", 1),
    ("\u2581ca", 1),
    ("ts", 1),
    ("\u2581", 1),
    ("t", 1),
    ("s", 1),
    ("a", 1),
    (".", 1),
]
CONFIG = {
    "vocab_size": len(PIECES),
    "embedding_size": 4,
    "hidden_size": 8,
    "num_hidden_layers": 4,
    "num_hidden_groups": 2,
    "inner_group_num": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
}
IDS = [[2, 5, 6, 7, 3, 12, 3], [2, 8, 9, 3, 0, 0, 0]]
MASK = [[1] * 7, [1, 1, 1, 1, 0, 0, 0]]
SEGMENTS = [[0, 0, 0, 0, 0, 1, 1], [0] * 7]


def field(number, payload):
    return bytes([number * 8 + 2, len(payload)]) + payload


def sentencepiece():
    """A ModelProto of a unigram model."""
    pieces = b"".join(
        field(1, field(1, piece.encode("utf-8")) + b"\x15" + score + bytes([24, kind]))
        for piece, kind, score in (
            (piece, kind, struct.pack("<f", -0.25 * place))
            for place, (piece, kind) in enumerate(PIECES)
        )
    )
    return pieces + field(2, bytes([24, 1]) + b"\xc0\x02\x01") + field(3, b"")


def path(name):
    return os.path.join(FOLDER, name)


def module_fn(is_training):
    names = ("input_ids", "input_mask", "segment_ids")
    inputs = {name: tf.compat.v1.placeholder(tf.int32, [None, None], name) for name in names}
    model = modeling.AlbertModel(
        modeling.AlbertConfig.from_dict(CONFIG),
        is_training,
        inputs["input_ids"],
        inputs["input_mask"],
        inputs["segment_ids"],
    )
    for name in ("albert_config.json", "30k-clean.model", "30k-clean.vocab"):
        asset = tf.constant(path(name), tf.string, name=name.replace("-", "_").replace(".", "_"))
        tf.compat.v1.add_to_collection(tf.compat.v1.GraphKeys.ASSET_FILEPATHS, asset)
        if name.endswith(".model"):
            vocab_model = asset
    outputs = {
        "sequence_output": model.get_sequence_output(),
        "pooled_output": model.get_pooled_output(),
    }
    hub.add_signature("tokens", inputs, outputs)
    lower = tf.constant(True, tf.bool)
    hub.add_signature("tokenization_info", {}, {"vocab_file": vocab_model, "do_lower_case": lower})


os.makedirs(FOLDER, exist_ok=True)
with open(path("albert_config.json"), "w") as writer:
    json.dump(CONFIG, writer)
with open(path("30k-clean.model"), "wb") as writer:
    writer.write(sentencepiece())
with open(path("30k-clean.vocab"), "wb") as writer:
    writer.write("".join(piece + "\t0\n" for piece, _ in PIECES).encode("utf-8"))

# A checkpoint with weights that are not near zero, as fresh ones would be.
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    module_fn(False)
    session.run(tf.compat.v1.global_variables_initializer())
    for place, variable in enumerate(tf.compat.v1.global_variables()):
        shape = variable.shape.as_list()
        values = 0.5 * np.sin(np.arange(np.prod(shape)) * 1.7 + place)
        variable.load(values.reshape(shape).astype(np.float32), session)
    checkpoint = path("model.ckpt-best")
    tf.compat.v1.train.Saver().save(session, checkpoint, write_meta_graph=False)

tags_and_args = [(set(), {"is_training": False}), ({"train"}, {"is_training": True})]
spec = hub.create_module_spec(module_fn, tags_and_args)
with tf.Graph().as_default():
    module = path("module")
    spec.export(module, checkpoint_path=checkpoint)

with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    inputs = {"input_ids": IDS, "input_mask": MASK, "segment_ids": SEGMENTS}
    tensors = {name: tf.constant(value, tf.int32) for name, value in inputs.items()}
    outputs = hub.Module(module)(tensors, signature="tokens", as_dict=True)
    session.run(tf.compat.v1.global_variables_initializer())
    found = session.run({name: outputs[name] for name in ("pooled_output", "sequence_output")})
expected = {name: array.astype(float).round(7).tolist() for name, array in found.items()}
with open(path("tf1_albert.json"), "w") as writer:
    json.dump(dict(inputs=inputs, **expected), writer)
with tarfile.open(path("tf1_albert.tar.gz"), "w:gz") as archive:
    archive.add(module, ".")
