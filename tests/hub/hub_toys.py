"""Toy models in the layouts that are found in the wild, made from a formula: no downloads."""

import json
import os

import numpy as np
from safetensors.numpy import save_file

TOKENS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "cat",
    "##s",
    "é",
    "e",
    "E",
    "猫",
    ".",
]
CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
    "vocab_size": len(TOKENS),
    "layer_norm_eps": 1e-12,
}


def huggingface_shapes():
    """{name: shape} as transformers' BertModel names them, written out by hand."""
    hidden, inner = 8, 12
    shapes = {
        "embeddings.word_embeddings.weight": (len(TOKENS), hidden),
        "embeddings.position_embeddings.weight": (16, hidden),
        "embeddings.token_type_embeddings.weight": (2, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
    }
    for layer in range(2):
        prefix = f"encoder.layer.{layer}."
        for part, shape in (
            ("attention.self.query", (hidden, hidden)),
            ("attention.self.key", (hidden, hidden)),
            ("attention.self.value", (hidden, hidden)),
            ("attention.output.dense", (hidden, hidden)),
            ("intermediate.dense", (inner, hidden)),
            ("output.dense", (hidden, inner)),
        ):
            shapes[f"{prefix}{part}.weight"] = shape
            shapes[f"{prefix}{part}.bias"] = shape[:1]
        for part in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"{prefix}{part}.weight"] = (hidden,)
            shapes[f"{prefix}{part}.bias"] = (hidden,)
    shapes["pooler.dense.weight"] = (hidden, hidden)
    shapes["pooler.dense.bias"] = (hidden,)
    return shapes


def toy_array(shape, place):
    """float32 values in -0.5..0.5 that differ from place to place."""
    return (0.5 * np.sin(np.arange(np.prod(shape)) * 1.7 + place)).reshape(shape).astype(np.float32)


def huggingface_tensors():
    shapes = huggingface_shapes()
    return {name: toy_array(shape, place) for place, (name, shape) in enumerate(shapes.items())}


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as writer:
        json.dump(value, writer)


def write_vocabulary(path, tokens=TOKENS):
    with open(path, "w", encoding="utf-8") as writer:
        writer.write("\n".join(tokens) + "\n")


def write_huggingface(folder, tensors=None, config=None, name="model.safetensors"):
    """Writes a folder as transformers' save_pretrained does; returns its name."""
    os.makedirs(folder, exist_ok=True)
    write_json(os.path.join(folder, "config.json"), {**CONFIG, **(config or {})})
    write_vocabulary(os.path.join(folder, "vocab.txt"))
    tensors = huggingface_tensors() if tensors is None else tensors
    tensors = {key: np.asarray(value, order="C") for key, value in tensors.items()}
    save_file(tensors, os.path.join(folder, name), {"format": "pt"})
    return str(folder)


def assert_same(first, second):
    """Two models hold the same bits and give the same ids."""
    assert first.config == second.config
    assert list(first.weights) == list(second.weights)
    for name, array in first.weights.items():
        assert array.dtype == second.weights[name].dtype == np.float32
        np.testing.assert_array_equal(array, second.weights[name], err_msg=name)
    assert first.tokenizer.vocab == second.tokenizer.vocab
    assert first.tokenizer.fingerprint() == second.tokenizer.fingerprint()
