"""The encoder: a pure function from weights and ids to vectors, in plain TensorFlow.

The weights are a dict {Google's variable name: tensor}. It holds variables when training,
constants when scoring, arrays fresh from a loader: one code path for all. The architecture is
google-research/bert's modeling.py; names of tensors and arguments are that file's. Where other
families of BERT differ (the fields of BertConfig say how), their weights have names of the same
kind: bert/embeddings/projection/* and bert/encoder/group_0/inner_group_0/* for ALBERT's.
"""

import collections
import math

import numpy as np
import tensorflow as tf

# What is added to the attention score of a token that must not be seen: exp() of it is exactly 0
# in float32, and it is well inside bfloat16's and float16's range.
_MASKED = -10000.0

EncoderOutput = collections.namedtuple("EncoderOutput", "sequence_output pooled_output layers")
EncoderOutput.__doc__ = """What `encode` returns, all in the computing dtype.

sequence_output: Tensor [batch, seq, hidden], the last layer.
pooled_output: Tensor [examples, hidden], tanh(dense([CLS])) (config.pooler_act in place of tanh);
  None for weights without a pooler.
layers: list of num_hidden_layers + 1 Tensors [batch, seq, hidden]; 0 is the embeddings' output.

Of a SavedModel's graph all are float32, and layers that it does not give are None.
"""


def weight_shapes(config):
    """{name: shape} of every weight of an encoder, in the order of the original graph."""
    if config.graph is not None:
        return config.graph.shapes
    hidden, inner = config.hidden_size, config.intermediate_size
    narrow = config.embedding_size or hidden
    positions = config.max_position_embeddings + config.position_offset
    shapes = {"bert/embeddings/word_embeddings": (config.vocab_size, narrow)}
    if config.type_vocab_size:
        shapes["bert/embeddings/token_type_embeddings"] = (config.type_vocab_size, narrow)
    shapes["bert/embeddings/position_embeddings"] = (positions, narrow)
    shapes["bert/embeddings/LayerNorm/beta"] = (narrow,)
    shapes["bert/embeddings/LayerNorm/gamma"] = (narrow,)
    if config.embedding_size:
        shapes["bert/embeddings/projection/kernel"] = (narrow, hidden)
        shapes["bert/embeddings/projection/bias"] = (hidden,)
    groups = range(config.num_hidden_groups or config.num_hidden_layers)
    for prefix in (prefix for group in groups for prefix in _group_prefixes(config, group)):
        for part, rows, columns in (
            ("attention/self/query", hidden, hidden),
            ("attention/self/key", hidden, hidden),
            ("attention/self/value", hidden, hidden),
            ("attention/output/dense", hidden, hidden),
            ("intermediate/dense", hidden, inner),
            ("output/dense", inner, hidden),
        ):
            shapes[f"{prefix}/{part}/kernel"] = (rows, columns)
            shapes[f"{prefix}/{part}/bias"] = (columns,)
        for part in ("attention/output", "output"):
            shapes[f"{prefix}/{part}/LayerNorm/beta"] = (hidden,)
            shapes[f"{prefix}/{part}/LayerNorm/gamma"] = (hidden,)
    shapes["bert/pooler/dense/kernel"] = (hidden, hidden)
    shapes["bert/pooler/dense/bias"] = (hidden,)
    return shapes


def _group_prefixes(config, group):
    """What the names of a layer's weights begin with, or of those of the layers in an ALBERT group,
    which run one after another.
    """
    if config.num_hidden_groups is None:
        return [f"bert/encoder/layer_{group}"]
    return [f"bert/encoder/group_{group}/inner_group_{i}" for i in range(config.inner_group_num)]


def initial_weights(config, seed, wanted=None):
    """Fresh float32 weights as the original makes them: truncated normal kernels and tables, zero
    biases, unit gamma.

    Args:
      config: BertConfig.
      seed: int; the same seed gives the same weights.
      wanted: function(name) -> bool, which ones are made (default: all).
    """
    weights = {}
    for index, (name, shape) in enumerate(weight_shapes(config).items()):
        if wanted is not None and not wanted(name):
            continue
        if name.endswith("gamma"):
            weights[name] = np.ones(shape, np.float32)
        elif name.endswith(("beta", "bias")):
            weights[name] = np.zeros(shape, np.float32)
        else:
            weights[name] = truncated_normal(shape, config.initializer_range, (seed, index))
    return weights


def scoring_weights(config, weights):
    """The weights as scoring computes with them: an attention's three projections as one product,
    "attention/self/qkv", with the softmax scale folded into the query's.

    Args:
      config: BertConfig.
      weights: dict {Google's variable name: float32 array}; it is emptied as it is read, so that
        nothing is held twice.

    Yields:
      (name, float32 array), for `encode`; heads are left out.
    """
    for name in list(weights):
        if not name.startswith("bert/"):
            del weights[name]
        elif config.graph is not None or "/attention/self/" not in name:
            yield name, weights.pop(name)
    if config.graph is not None:
        return
    scale = np.float32(1.0 / math.sqrt(config.hidden_size // config.num_attention_heads))
    groups = range(config.num_hidden_groups or config.num_hidden_layers)
    for prefix in (prefix for group in groups for prefix in _group_prefixes(config, group)):
        for kind in ("kernel", "bias"):
            query, key, value = (
                weights.pop(f"{prefix}/attention/self/{part}/{kind}")
                for part in ("query", "key", "value")
            )
            name = f"{prefix}/attention/self/qkv/{kind}"
            yield name, np.concatenate([query * scale, key, value], -1)


def truncated_normal(shape, stddev, seed):
    """float32 array of a normal distribution cut at two standard deviations, as BERT's initialiser.

    seed: pair of int.
    """
    return tf.random.stateless_truncated_normal(shape, seed=seed, stddev=stddev).numpy()


def encode(config, weights, batch, rng=None, dtype=tf.float32):
    """Runs the encoder.

    Args:
      config: BertConfig.
      weights: dict {Google's variable name: Tensor, Variable or array}, or of `scoring_weights`.
      batch: dict of int32 Tensors
        input_ids: [batch, seq];
        input_mask: [batch, seq], 0 for padding (default: no padding). In packed rows: the number,
        from 1, of the
          example within its row that the token belongs to;
        segment_ids: [batch, seq] (default: 0);
        position_ids: [batch, seq], present for packed rows: positions restart with each example,
        and tokens see
          only tokens of their own example;
        first_positions: [examples], where each example's [CLS] stands in the flattened batch * seq
        tokens
          (default: each row's first token).
      rng: int32 Tensor [2], seed of this step's dropout; None: no dropout.
      dtype: what matrix products are computed in. LayerNorm and softmax are float32 in any case.

    Returns:
      EncoderOutput.

    Raises:
      ValueError: input_ids are not [batch, seq], or another tensor has another shape. Fed wrongly,
      a batch of
        one-token rows would give everyone the same vector and no warning.
    """
    input_ids = tf.convert_to_tensor(batch["input_ids"])
    _check_shapes(config, batch, input_ids)
    if config.graph is not None:
        return EncoderOutput(*config.graph.run(weights, batch))
    rows, width = tf.unstack(tf.shape(input_ids))
    positions = batch.get("position_ids")
    input_mask = batch.get("input_mask")
    dropout = _Dropout(rng)
    hidden = config.hidden_size

    x = _embed(config, weights, input_ids, batch.get("segment_ids"), positions)
    x = tf.reshape(x, [rows * width, config.embedding_size or hidden])
    x = _layer_norm(config, weights, "bert/embeddings", x)
    x = tf.cast(dropout(x, config.hidden_dropout_prob), dtype)
    if config.embedding_size:
        x = _dense(weights, "bert/embeddings/projection", x)
    bias = _attention_bias(input_mask, packed=positions is not None)

    layers = [tf.reshape(x, [rows, width, hidden])]
    groups = config.num_hidden_groups or config.num_hidden_layers
    for layer in range(config.num_hidden_layers):
        for prefix in _group_prefixes(config, layer * groups // config.num_hidden_layers):
            x = _layer(config, weights, prefix, x, (rows, width), bias, dropout)
        layers.append(tf.reshape(x, [rows, width, hidden]))

    pooled = None
    if "bert/pooler/dense/kernel" in weights:
        first = batch.get("first_positions")
        first = tf.range(rows) * width if first is None else first
        pooled = _dense(weights, "bert/pooler/dense", tf.gather(x, first))
        pooled = activation(config.pooler_act)(pooled)
    return EncoderOutput(layers[-1], pooled, layers)


def _layer(config, weights, prefix, x, shape, bias, dropout):
    """One Transformer layer, [tokens, hidden] to [tokens, hidden]."""
    attended = _attention(config, weights, f"{prefix}/attention/self", x, shape, bias, dropout)
    attended = _dense(weights, f"{prefix}/attention/output/dense", attended)
    attended = dropout(attended, config.hidden_dropout_prob)
    x = _layer_norm(config, weights, f"{prefix}/attention/output", tf.add_n([attended, x]))
    inner = activation(config.hidden_act)(_dense(weights, f"{prefix}/intermediate/dense", x))
    output = dropout(_dense(weights, f"{prefix}/output/dense", inner), config.hidden_dropout_prob)
    return _layer_norm(config, weights, f"{prefix}/output", tf.add_n([output, x]))


def activation(name):
    """The function of one of config.ACTIVATIONS, elementwise on a float Tensor of any shape."""
    return {
        # tf.math.erf, since tf.nn.gelu's Erfc is slow in bfloat16 and makes an invalid ONNX graph.
        "gelu_erf": lambda x: 0.5 * x * (1.0 + tf.math.erf(x * tf.cast(math.sqrt(0.5), x.dtype))),
        "gelu_tanh": lambda x: (
            0.5 * x * (1.0 + tf.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
        ),
        "gelu_quick": lambda x: x * tf.sigmoid(1.702 * x),
        "relu": tf.nn.relu,
        "relu_squared": lambda x: tf.square(tf.nn.relu(x)),
        "relu6": tf.nn.relu6,
        "tanh": tf.tanh,
        "sigmoid": tf.sigmoid,
        "silu": lambda x: x * tf.sigmoid(x),
        "mish": lambda x: x * tf.tanh(tf.math.softplus(x)),
        "linear": lambda x: x,
    }[name]


class _Dropout:
    """Dropout whose masks depend on the step's seed and on the place in the graph, and on nothing
    else.
    """

    def __init__(self, rng):
        self._rng = rng
        self._places = 0

    def __call__(self, x, rate):
        if self._rng is None or rate == 0:
            return x
        self._places += 1
        return dropout(x, rate, tf.random.experimental.stateless_fold_in(self._rng, self._places))


def dropout(x, rate, seed):
    """Zeroes a share of the elements and scales the rest by 1 / (1 - rate).

    Args:
      x: float Tensor of any shape.
      rate: float in [0, 1), the share (met to within 2^-16).
      seed: int32 Tensor [2].
    """
    # 16 random bits an element instead of 32: on CPUs random numbers are a large part of a
    # training step.
    size = tf.size(x)
    bits = tf.random.stateless_uniform(
        [(size + 1) // 2], seed, minval=None, maxval=None, dtype=tf.uint32
    )
    bits = tf.reshape(tf.bitcast(bits, tf.uint16), [-1])[:size]
    dropped = max(1, round(rate * 65536))
    scale = 65536.0 / (65536 - dropped)
    keep = tf.cast(tf.reshape(bits, tf.shape(x)) >= tf.constant(dropped, tf.uint16), x.dtype)
    return x * (keep * tf.cast(scale, x.dtype))


def _check_shapes(config, batch, input_ids):
    if input_ids.shape.rank != 2:
        raise ValueError(
            f"input_ids has shape {input_ids.shape}, expected [batch, seq]: one row an example"
        )
    for name in ("input_mask", "segment_ids", "position_ids"):
        if batch.get(name) is None:
            continue
        shape = tf.convert_to_tensor(batch[name]).shape
        if not shape.is_compatible_with(input_ids.shape):
            raise ValueError(
                f"{name} has shape {shape}, expected [batch, seq] = {input_ids.shape}, as input_ids"
            )
    width = input_ids.shape[1]
    if (
        width is not None
        and batch.get("position_ids") is None
        and width > config.max_position_embeddings
    ):
        raise ValueError(
            f"input_ids has {width} tokens a row, the model "
            f"{config.max_position_embeddings} positions; cut the text shorter"
        )


def _embed(config, weights, input_ids, segment_ids, positions):
    """Sum of word, segment and position embeddings, float32 [batch, seq, embedding size]."""
    x = tf.gather(weights["bert/embeddings/word_embeddings"], input_ids)
    x = tf.cast(x, tf.float32)
    table = tf.cast(weights["bert/embeddings/position_embeddings"], tf.float32)
    if config.position_offset:
        table = table[config.position_offset :]
    if positions is None:
        x += table[: tf.shape(input_ids)[1]]
    else:
        x += _small_lookup(table, positions)
    if not config.type_vocab_size:
        return x
    table = tf.cast(weights["bert/embeddings/token_type_embeddings"], tf.float32)
    # A model of one type was made for no other, whatever a batch of pairs says.
    one = segment_ids is None or config.type_vocab_size == 1
    return x + (table[0] if one else _small_lookup(table, segment_ids))


def _small_lookup(table, ids):
    """Rows of a small table; its gradient is dense, as in the original (global-norm clipping sees
    the difference).
    """
    # The gradient of a reshape adds up the slices that a gather's gradient consists of.
    return tf.gather(tf.reshape(table, tf.shape(table)), ids)


def _layer_norm(config, weights, prefix, x):
    """LayerNorm over the last axis of [tokens, hidden], computed in float32, returned in x's
    dtype.
    """
    gamma = tf.cast(weights[f"{prefix}/LayerNorm/gamma"], tf.float32)
    beta = tf.cast(weights[f"{prefix}/LayerNorm/beta"], tf.float32)
    wide = tf.cast(x, tf.float32)
    mean = tf.reduce_mean(wide, -1, keepdims=True)
    centred = wide - mean
    variance = tf.reduce_mean(tf.square(centred), -1, keepdims=True)
    normal = centred * tf.math.rsqrt(variance + config.layer_norm_eps)
    return tf.cast(normal * gamma + beta, x.dtype)


def _attention_bias(input_mask, packed):
    """What is added to attention scores, float32: [batch, 1, 1, seq]; for packed rows [batch, 1,
    seq, seq]; or None.
    """
    if input_mask is None:
        return None
    if packed:
        seen = tf.equal(input_mask[:, :, tf.newaxis], input_mask[:, tf.newaxis, :])
        return tf.where(seen, 0.0, _MASKED)[:, tf.newaxis]
    return tf.where(input_mask > 0, 0.0, _MASKED)[:, tf.newaxis, tf.newaxis, :]


def _attention(config, weights, prefix, x, shape, bias, dropout):
    """Multi-head self-attention, [tokens, hidden] to [tokens, hidden], without the output
    projection.
    """
    rows, width = shape
    heads = config.num_attention_heads
    size = config.hidden_size // heads
    if f"{prefix}/qkv/kernel" in weights:
        qkv = _dense(weights, f"{prefix}/qkv", x)
    else:
        # One product for the three projections, the softmax scale folded into the query's.
        scale = 1.0 / math.sqrt(size)
        kernels = [weights[f"{prefix}/{part}/kernel"] for part in ("query", "key", "value")]
        biases = [weights[f"{prefix}/{part}/bias"] for part in ("query", "key", "value")]
        kernel = tf.concat([kernels[0] * tf.cast(scale, kernels[0].dtype), *kernels[1:]], 1)
        vector = tf.concat([biases[0] * tf.cast(scale, biases[0].dtype), *biases[1:]], 0)
        qkv = tf.nn.bias_add(tf.matmul(x, tf.cast(kernel, x.dtype)), tf.cast(vector, x.dtype))
    qkv = tf.transpose(tf.reshape(qkv, [rows, width, 3, heads, size]), [2, 0, 3, 1, 4])
    query, key, value = tf.unstack(qkv)
    scores = tf.cast(tf.matmul(query, key, transpose_b=True), tf.float32)
    probs = tf.nn.softmax(scores if bias is None else scores + bias)
    probs = tf.cast(dropout(probs, config.attention_probs_dropout_prob), x.dtype)
    context = tf.matmul(probs, value)
    return tf.reshape(tf.transpose(context, [0, 2, 1, 3]), [rows * width, heads * size])


def _dense(weights, prefix, x):
    kernel, bias = weights[f"{prefix}/kernel"], weights[f"{prefix}/bias"]
    return tf.nn.bias_add(tf.matmul(x, tf.cast(kernel, x.dtype)), tf.cast(bias, x.dtype))
