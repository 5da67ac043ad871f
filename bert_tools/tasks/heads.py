"""What the head of a task for whole texts reads of the encoder's output."""

# pooled: pooled_output, as in the original; mean: the mean of the last layer's tokens; cls: the
# last layer's [CLS]; pair: the two texts of a pair compared, see sentence.pooling.head_input.
POOLINGS = ("pooled", "mean", "cls", "pair")
_SLOPE, _MIDDLE = 20.0, 0.8


def input_width(pooling, config):
    """The length of the vector that the head reads, int.

    Args:
      pooling: one of POOLINGS.
      config: BertConfig.
    """
    return config.hidden_size * (2 if pooling == "pair" else 1)


def dropout_rate(pooling):
    """The dropout before the head: 0.1, as in the original; 0 for a pair, whose comparison it
    would blur.
    """
    return 0.0 if pooling == "pair" else 0.1


def cosine_start(config):
    """Weights with which a new head of a pair begins as the cosine of the two texts, so that
    training starts from what the encoder knows.

    Returns:
      {"output_weights": float32 array [1, 2 * hidden], "output_bias": float32 array [1]}; the logit
      is 20 * (cosine - 0.8). In one row two texts see each other, and their means are alike: for
      MiniLM the cosines of customers' questions are 0.81 +- 0.07.
    """
    import numpy as np

    hidden = config.hidden_size
    weights = np.concatenate([np.zeros((1, hidden)), np.full((1, hidden), _SLOPE / hidden)], 1)
    return {
        "output_weights": weights.astype(np.float32),
        "output_bias": np.array([-_SLOPE * _MIDDLE], np.float32),
    }
