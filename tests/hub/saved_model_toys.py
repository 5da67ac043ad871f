"""TF Hub's layouts: a TF1-format module of TensorFlow 1.15, and TF2 SavedModels with the model
garden's names and arithmetic.
"""

import json
import os
import tarfile

import numpy as np
import tensorflow as tf

DATA = os.path.join(os.path.dirname(__file__), "../data")


def tf1_module(folder, name="tf1_module"):
    """Unpacks the module that make_tf1_module.py made (tf1_albert: make_tf1_albert.py); returns its
    folder as str.
    """
    with tarfile.open(os.path.join(DATA, f"{name}.tar.gz")) as archive:
        archive.extractall(folder)
    return str(folder)


def expected(name="tf1_module"):
    """(batch, {output: array}): what the module gave in TensorFlow 1.15."""
    with open(os.path.join(DATA, f"{name}.json"), encoding="utf-8") as reader:
        values = json.load(reader)
    inputs = {name: np.array(value, np.int32) for name, value in values.pop("inputs").items()}
    return inputs, {name: np.array(value) for name, value in values.items()}


class GardenEncoder(tf.Module):
    """A BERT encoder as the model garden's: names and shapes of its variables, its inputs and
    outputs. Written from its documentation, with einsum.

    weights: {Google's variable name: array}.
    heads: int.
    lower_case: bool or None; the attribute do_lower_case.
    shared_layers: int, of ALBERT: how often its one layer runs.
    rename: function from the model garden's name of a variable to the one that it gets.
    before: function called in its function, for what hostile ones do.
    """

    def __init__(
        self,
        weights,
        heads,
        activation,
        lower_case=None,
        outwards="attention_output",
        shared_layers=0,
        rename=str,
        before=None,
    ):
        super().__init__()
        self.shared_layers, self.before = shared_layers, before
        self.kept, self.heads, self.activation = {}, heads, activation
        self.outwards = outwards
        if lower_case is not None:
            self.do_lower_case = tf.Variable(lower_case, trainable=False)
        for name, array in weights.items():
            if not name.startswith("bert/"):
                continue
            theirs, array = self._theirs(name.removeprefix("bert/"), array)
            self.kept[theirs] = tf.Variable(array, name=rename(theirs))

    def _theirs(self, name, array):
        for part, other in (
            ("embeddings/word_embeddings", "word_embeddings/embeddings"),
            ("embeddings/token_type_embeddings", "type_embeddings/embeddings"),
            ("embeddings/position_embeddings", "position_embedding/embeddings"),
            ("embeddings/LayerNorm", "embeddings/layer_norm"),
            ("embeddings/projection", "embedding_projection"),
            ("encoder/group_0/inner_group_0/", "transformer/"),
            ("encoder/layer_", "transformer/layer_"),
            ("/attention/self", "/self_attention"),
            ("/attention/output/dense", f"/self_attention/{self.outwards}"),
            ("/attention/output/LayerNorm", "/self_attention_layer_norm"),
            ("output/LayerNorm", "output_layer_norm"),
            ("/dense/", "/"),
            ("pooler/", "pooler_transform/"),
        ):
            name = name.replace(part, other)
        name = name.replace("self_attention/self_attention_output", "self_attention_output")
        hidden = array.shape[-1]
        if "/self_attention" in name and "layer_norm" not in name:
            if "_output/" not in name:
                array = array.reshape(*array.shape[:-1], self.heads, -1)
            elif name.endswith("kernel"):
                array = array.reshape(self.heads, -1, hidden)
        return name, array

    def _norm(self, x, name):
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        gamma, beta = self.kept[f"{name}/gamma"], self.kept[f"{name}/beta"]
        with tf.name_scope(name):
            return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-12)

    def _dense(self, x, name, equation):
        return tf.einsum(equation, x, self.kept[f"{name}/kernel"]) + self.kept[f"{name}/bias"]

    @tf.function(
        input_signature=[
            {
                name: tf.TensorSpec([None, None], tf.int32, name)
                for name in ("input_word_ids", "input_mask", "input_type_ids")
            }
        ]
    )
    def __call__(self, inputs):
        ids = inputs["input_word_ids"]
        if self.before is not None:
            self.before()
        x = tf.gather(self.kept["word_embeddings/embeddings"], ids)
        x += self.kept["position_embedding/embeddings"][: tf.shape(ids)[1]]
        types = tf.one_hot(inputs["input_type_ids"], 2)
        x += tf.einsum("bti,ih->bth", types, self.kept["type_embeddings/embeddings"])
        x = self._norm(x, "embeddings/layer_norm")
        masked = 1.0 - tf.cast(inputs["input_mask"], tf.float32)[:, None, None, :]
        layers = len([name for name in self.kept if name.endswith("/intermediate/bias")])
        every, names = [], [f"transformer/layer_{layer}" for layer in range(layers)]
        if self.shared_layers:
            names = ["transformer"] * self.shared_layers
        if "embedding_projection/kernel" in self.kept:
            x = self._dense(x, "embedding_projection", "bte,eh->bth")
        for name in names:
            parts = [
                self._dense(x, f"{name}/self_attention/{part}", "bth,hnd->btnd")
                for part in ("query", "key", "value")
            ]
            scores = tf.einsum("btnd,bsnd->bnts", *parts[:2]) / parts[0].shape[-1] ** 0.5
            probabilities = tf.nn.softmax(scores - 1e9 * masked)
            context = tf.einsum("bnts,bsnd->btnd", probabilities, parts[2])
            out = f"{name}/self_attention/{self.outwards}"
            out = out.replace("self_attention/self_attention_output", "self_attention_output")
            attended = self._dense(context, out, "btnd,ndh->bth")
            x = self._norm(x + attended, f"{name}/self_attention_layer_norm")
            inner = self.activation(self._dense(x, f"{name}/intermediate", "bth,hi->bti"))
            output = self._dense(inner, f"{name}/output", "bti,ih->bth")
            x = self._norm(x + output, f"{name}/output_layer_norm")
            every.append(x)
        pooled = tf.tanh(self._dense(x[:, 0], "pooler_transform", "bh,hp->bp"))
        return {"sequence_output": x, "pooled_output": pooled, "encoder_outputs": every}


class Preprocessor(tf.Module):
    """What a preprocessor's SavedModel holds that says something: vocabulary and case folding."""

    def __init__(self, vocab_file, lower_case):
        super().__init__()
        import tensorflow_text

        self.vocab_file = tf.saved_model.Asset(vocab_file)
        self.fold = tensorflow_text.case_fold_utf8 if lower_case else tf.identity

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts):
        return self.fold(texts)


def write_pair(folder, vocab_file, weights, heads, activation, lower_case=False, **options):
    """Writes folder/encoder and folder/preprocess; returns the first."""
    encoder = os.path.join(folder, "encoder")
    tf.saved_model.save(GardenEncoder(weights, heads, activation, **options), encoder)
    if vocab_file:
        preprocessor = Preprocessor(str(vocab_file), lower_case)
        tf.saved_model.save(preprocessor, os.path.join(folder, "preprocess"))
    return encoder
