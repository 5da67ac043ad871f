"""Extractive question answering: where the answer begins and ends, as the original run_squad.py."""

from bert_tools.tasks import baselines
from bert_tools.tasks.token_rows import by_example

# Less than any logit, and two of them still a float32.
_OUTSIDE = -1e30


class Span:
    """Head and loss of two scores a token: of being the answer's first, and its last.

    Args:
      max_seq_length: int, the width of the predictions.
    """

    name = "span"
    label_list = None
    reads_tokens = True  # See model_fn: the head is on every token.
    dropout_rate = 0.0

    def __init__(self, max_seq_length):
        self._max_seq_length = max_seq_length

    def head_shapes(self, config):
        """{name: shape} of the head's weights, by the original's names."""
        return {
            "cls/squad/output_weights": (2, config.hidden_size),
            "cls/squad/output_bias": (2,),
        }

    def apply(self, weights, sequence_output, features, training=False):
        """The head.

        The original's softmax is over a row's padding too; here it is over the window's own tokens,
        so that it does not depend on what stands beside them.

        Args:
          weights: dict that holds head_shapes.
          sequence_output: float32 Tensor [rows, width, hidden].
          features: dict of inputs.batches.assemble; to learn from, start_positions and
            end_positions int [n], counted from the window's [CLS].
          training: bool; without effect.

        Returns:
          (per_example_loss float32 [n], the mean of both cross-entropies, 0 without positions;
          predictions {"start_logits", "end_logits": float32 [n, max_seq_length], -1e30 behind the
          window's end}).
        """
        del training
        import tensorflow as tf

        rows, width, hidden = tf.unstack(tf.shape(sequence_output))
        flat = tf.reshape(sequence_output, [rows * width, hidden])
        logits = tf.matmul(flat, weights["cls/squad/output_weights"], transpose_b=True)
        logits = tf.nn.bias_add(logits, weights["cls/squad/output_bias"])

        by_window, inside = by_example(logits, features)
        by_window = tf.where(inside[:, :, tf.newaxis], by_window, _OUTSIDE)
        starts, ends = tf.unstack(by_window, axis=2)

        loss = tf.zeros(tf.shape(starts)[:1], tf.float32)
        if "start_positions" in features:
            loss = 0.5 * (
                _cross_entropy(starts, features["start_positions"])
                + _cross_entropy(ends, features["end_positions"])
            )
        padding = [[0, 0], [0, self._max_seq_length - width]]
        return loss, {
            "start_logits": tf.pad(starts, padding, constant_values=_OUTSIDE),
            "end_logits": tf.pad(ends, padding, constant_values=_OUTSIDE),
        }

    def baseline(self, scores, references):
        """What no answer to any question scores.

        Args:
          scores: function(references, predictions) -> dict, of squad.scores.
          references: dict {question's id: list of str}.

        Returns:
          {"baseline_exact_match", "baseline_f1", with CMRC's scores "baseline_average": float}, in
          percent.
        """
        found = scores(references, dict.fromkeys(references, ""))
        names = [name for name in ("exact_match", "f1", "average") if name in found]
        return {f"{baselines.PREFIX}{name}": found[name] for name in names}

    def compared(self, result):
        """The baselines.Comparison of a result with baseline lines."""
        return baselines.Comparison(
            "f1",
            "baseline_f1",
            "no answer to any question",
            f"{baselines.MORE_TRAINING}, or --tune_null_threshold=true with "
            "--version_2_with_negative=true",
        )

    def description(self):
        """What bert_tools.json keeps of the task: nothing but its name."""
        return {}


def _cross_entropy(logits, positions):
    import tensorflow as tf

    log_probabilities = tf.nn.log_softmax(logits, axis=-1)
    return -tf.gather(log_probabilities, positions, axis=1, batch_dims=1)
