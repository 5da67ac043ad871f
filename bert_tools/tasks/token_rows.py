"""The tokens of each example apart, for heads on every token."""


def by_example(values, features):
    """What belongs to each example of a batch, whose rows may be packed.

    Args:
      values: Tensor [rows * width, k], of each token.
      features: dict of inputs.batches.assemble.

    Returns:
      (Tensor [n, width, k], beginning with each example's [CLS]; bool Tensor [n, width], whether
      the token is the example's: behind its end stands what follows in the row).
    """
    import tensorflow as tf

    rows, width = tf.unstack(tf.shape(features["input_mask"]))
    first = features.get("first_positions")
    first = tf.range(rows) * width if first is None else first
    column = tf.range(width)[tf.newaxis]
    places = tf.minimum(first[:, tf.newaxis] + column, rows * width - 1)
    # In packed rows the mask holds the number of the example that a token belongs to.
    mask = tf.reshape(features["input_mask"], [-1])
    inside = tf.equal(tf.gather(mask, places), tf.gather(mask, first)[:, tf.newaxis])
    inside &= column < width - (first % width)[:, tf.newaxis]
    return tf.gather(values, places), inside
