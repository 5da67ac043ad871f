"""The optimiser of the original BERT: its schedule, Adam with decoupled weight decay, clipping,
loss scaling.
"""

import re

import numpy as np
import tensorflow as tf

# Not on normalisation and bias, as the original.
_NO_DECAY = re.compile("LayerNorm|layer_norm|bias")
# Tables of which a step reads some rows.
_WORD_TABLES = ("bert/embeddings/word_embeddings",)
# From this share of a table's rows on the whole table is updated in one pass, which is faster.
_FEW_ROWS = 0.3


def learning_rate_at(step, init_lr, num_train_steps, num_warmup_steps):
    """The rate of one step, in the original's float32 arithmetic.

    The linear decay runs from step 0 and warm-up only overrides it, so the rate drops at the
    hand-over.

    Args:
      step: int, from 0.
      init_lr: float, the peak.
      num_train_steps, num_warmup_steps: int.

    Returns:
      np.float32.
    """
    init_lr = np.float32(init_lr)
    if step < num_warmup_steps:
        return init_lr * (np.float32(step) / np.float32(num_warmup_steps))
    done = np.float32(min(step, num_train_steps)) / np.float32(max(1, num_train_steps))
    return init_lr * (np.float32(1) - done)


class AdamWeightDecayOptimizer:
    """Adam with weight decay beside it (the original's class of this name).

    Args:
      learning_rate: function(step: int) -> float.
      weight_decay_rate, beta_1, beta_2, epsilon: float.
      clip_norm: float, the global norm that gradients are cut to, after they are summed over all
      replicas.
      rate_factor: function(name) -> float that learning_rate is multiplied by for a weight, see
      `layerwise_factor`; None: 1 for all.
      frozen: tuple of str; weights whose name begins with one of them are left as they are.
      correct_bias: bool, Adam with bias correction, as Kingma and Ba have it (2014,
        https://arxiv.org/abs/1412.6980) and PyTorch's AdamW; the original's has none.
    """

    def __init__(
        self,
        learning_rate,
        weight_decay_rate=0.01,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-6,
        clip_norm=1.0,
        rate_factor=None,
        frozen=(),
        correct_bias=False,
    ):
        self.learning_rate = learning_rate
        self.weight_decay_rate = weight_decay_rate
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.clip_norm = clip_norm
        self.rate_factor = rate_factor or (lambda name: 1.0)
        self.frozen = tuple(frozen)
        self.correct_bias = correct_bias
        self._met_rows = {}

    def coefficients(self, step):
        """float32 [3] of a step (int, from 0): its learning rate, and beta_1 and beta_2 to the
        power of its number from 1, or 0 where biases stay.
        """
        powers = [0.0, 0.0]
        if self.correct_bias:
            powers = [self.beta_1 ** (step + 1), self.beta_2 ** (step + 1)]
        return np.array([self.learning_rate(step), *powers], np.float32)

    def trains(self, name):
        """Whether the weight of this name is trained."""
        return not name.startswith(self.frozen)

    def create_slots(self, weights):
        """Zero adam_m and adam_v beside each weight that is trained: {NAME/adam_m: Variable, ...}.
        Call under the strategy's scope.
        """
        return {
            f"{name}/{slot}": tf.Variable(tf.zeros(weight.shape), trainable=False, dtype=tf.float32)
            for name, weight in weights.items()
            if self.trains(name)
            for slot in ("adam_m", "adam_v")
        }

    def apply_gradients(
        self, gradients, weights, slots, coefficients, scale=None, squares_of_slices=None
    ):
        """One update. Call it in replica context, with this replica's share of the gradients.

        Args:
          gradients: {name: Tensor or IndexedSlices}; over all replicas they sum to the step's
          gradient.
          weights: {name: Variable}.
          slots: dict of `create_slots`.
          coefficients: float32 Tensor [3], of `coefficients`.
          scale: float32 scalar Tensor or None, what the loss was multiplied by; with it the update
            is left out when a gradient is not finite.
          squares_of_slices: dict of `squares_of_slices` for gradients that were made dense already
            (None: of `gradients` as they are).

        Returns:
          bool scalar Tensor, whether the gradients were finite (always True without scale).
        """
        names, coefficients = list(gradients), tf.unstack(coefficients, 3)
        context = tf.distribute.get_replica_context()
        if squares_of_slices is None:
            squares_of_slices = self.squares_of_slices(gradients)
        squares = tf.add_n(list(squares_of_slices.values()) or [tf.constant(0.0)])
        by_row = {name: gradients[name] for name in names if self._is_by_row(name, gradients[name])}
        names = [name for name in names if name not in by_row]
        dense = [tf.convert_to_tensor(gradients[name]) for name in names]
        if context.num_replicas_in_sync > 1:
            squares, dense = context.all_reduce(tf.distribute.ReduceOp.SUM, [squares, dense])
        squares = tf.add_n(
            [
                squares,
                *(
                    tf.reduce_sum(tf.square(tensor))
                    for name, tensor in zip(names, dense, strict=True)
                    if name not in squares_of_slices
                ),
            ]
        )
        unscale = tf.constant(1.0) if scale is None else 1.0 / scale
        norm = tf.sqrt(squares) * unscale
        factor = unscale * self.clip_norm / tf.maximum(norm, self.clip_norm)

        def update():
            for name, gradient in zip(names, dense, strict=True):
                self._update(weights[name], slots, name, gradient * factor, *coefficients)
            for name, slices in by_row.items():
                self._update_rows(weights[name], slots, name, slices, factor, *coefficients)
            return tf.constant(True)

        if scale is None:
            return update()
        return tf.cond(tf.math.is_finite(norm), update, lambda: tf.constant(False))

    def track_rows(self, slots):
        """Lets `apply_gradients` compute only the rows of the word embeddings that have had a
        gradient: mean and variance of the others are 0, and Adam leaves these rows as they are. The
        result is the same, bit by bit. For one replica on a CPU, where the update of the whole
        table is a large part of a step.

        Args:
          slots: dict of `create_slots`, with their values; {} to compute all rows.
        """
        self._met_rows = {}
        for name in (name for name in _WORD_TABLES if f"{name}/adam_m" in slots):
            mean, variance = (slots[f"{name}/{slot}"] for slot in ("adam_m", "adam_v"))
            met = tf.reduce_any((mean != 0.0) | (variance != 0.0), 1)
            self._met_rows[name] = tf.Variable(met, trainable=False)

    def _is_by_row(self, name, gradient):
        return name in self._met_rows and isinstance(gradient, tf.IndexedSlices)

    @staticmethod
    def squares_of_slices(gradients):
        """{name: float32 scalar Tensor}, the sum of squares of each gradient that is IndexedSlices.

        As in the original, a word that occurs twice counts twice in the norm: its slices are
        squared one by one, not their sum.
        """
        return {
            name: tf.reduce_sum(tf.square(gradient.values))
            for name, gradient in gradients.items()
            if isinstance(gradient, tf.IndexedSlices)
        }

    def _decay(self, weight, name, learning_rate):
        """Weight decay; returns the weight's own learning rate."""
        factor = self.rate_factor(name)
        if factor != 1.0:
            learning_rate = learning_rate * factor
        if self.weight_decay_rate and not _NO_DECAY.search(name) and weight.shape.rank > 1:
            decayed = weight * (1.0 - learning_rate * self.weight_decay_rate)
            tf.raw_ops.AssignVariableOp(resource=weight.handle, value=decayed)
        return learning_rate

    def _update_rows(
        self, weight, slots, name, slices, factor, learning_rate, beta_1_power, beta_2_power
    ):
        """As `_update` by `factor` times the gradient, see `track_rows`."""
        indices = tf.cast(slices.indices, tf.int32)
        met = self._met_rows[name]
        met.scatter_update(tf.IndexedSlices(tf.ones_like(indices, tf.bool), indices))
        is_met = met.read_value()
        count = tf.reduce_sum(tf.cast(is_met, tf.int32))

        def some():
            rows = tf.cast(tf.squeeze(tf.where(is_met), 1), tf.int32)
            place = tf.gather(tf.cumsum(tf.cast(is_met, tf.int32), exclusive=True), indices)
            gradient = tf.math.unsorted_segment_sum(slices.values, place, count) * factor
            rate = self._decay(weight, name, learning_rate)
            rate = rate * tf.sqrt(1.0 - beta_2_power) / (1.0 - beta_1_power)
            epsilon = self.epsilon * tf.sqrt(1.0 - beta_2_power)
            tables = weight, slots[f"{name}/adam_m"], slots[f"{name}/adam_v"]
            value, mean, variance = (table.sparse_read(rows) for table in tables)
            # The order of operations is that of TensorFlow's kernel, so that no bit differs.
            mean += (gradient - mean) * (1.0 - np.float32(self.beta_1))
            variance += (tf.square(gradient) - variance) * (1.0 - np.float32(self.beta_2))
            value -= (mean * rate) / (tf.sqrt(variance) + epsilon)
            for table, new in zip(tables, (value, mean, variance), strict=True):
                table.scatter_update(tf.IndexedSlices(new, rows))
            return True

        def all_rows():
            gradient = tf.convert_to_tensor(slices) * factor
            self._update(weight, slots, name, gradient, learning_rate, beta_1_power, beta_2_power)
            return True

        tf.cond(count <= int(_FEW_ROWS * weight.shape[0]), some, all_rows)

    def _update(self, weight, slots, name, gradient, learning_rate, beta_1_power, beta_2_power):
        learning_rate = self._decay(weight, name, learning_rate)
        # TensorFlow's one-pass Adam; with powers of 0 its bias correction is the identity. Its
        # epsilon stands beside the uncorrected root, PyTorch's beside the corrected one.
        tf.raw_ops.ResourceApplyAdam(
            var=weight.handle,
            m=slots[f"{name}/adam_m"].handle,
            v=slots[f"{name}/adam_v"].handle,
            beta1_power=beta_1_power,
            beta2_power=beta_2_power,
            lr=learning_rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon * tf.sqrt(1.0 - beta_2_power),
            grad=gradient,
        )


def layerwise_factor(name, decay, num_hidden_layers):
    """What the learning rate of a weight is multiplied by, less for layers nearer to the input.

    As in ELECTRA (Clark et al. 2020, https://arxiv.org/abs/2003.10555; layerwise_lr_decay of its
    model/optimization.py): decay ** (L + 2 - depth), where the embeddings have depth 0, layer i
    (from 0) has i + 1, and the pooler and what is not of the encoder have L + 2, as have weights
    that several layers share (ALBERT's).

    Args:
      name: str, Google's variable name.
      decay: float.
      num_hidden_layers: int, L.
    """
    layer = re.match(r"bert/encoder/layer_(\d+)/", name)
    if layer:
        depth = int(layer.group(1)) + 1
    else:
        depth = 0 if name.startswith("bert/embeddings/") else num_hidden_layers + 2
    return decay ** (num_hidden_layers + 2 - depth)


def create_optimizer(
    init_lr, num_train_steps, num_warmup_steps, rate_factor=None, frozen=(), correct_bias=False
):
    """The optimiser that every script of the original trains with.

    Args:
      init_lr: float, the peak rate.
      num_train_steps: int.
      num_warmup_steps: int.
      rate_factor, frozen, correct_bias: see AdamWeightDecayOptimizer.
    """
    return AdamWeightDecayOptimizer(
        lambda step: learning_rate_at(step, init_lr, num_train_steps, num_warmup_steps),
        rate_factor=rate_factor,
        frozen=frozen,
        correct_bias=correct_bias,
    )


class DynamicLossScale:
    """Loss scaling for float16 (Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740).

    Halves the scale when a step's gradients overflow (that step is skipped), doubles it after
    `growth_steps` good ones.

    Attributes:
      scale: float.
      good_steps: int, since the last change.
      skipped: int, steps skipped so far.
    """

    growth_steps = 2000

    def __init__(self, scale=2.0**15, good_steps=0, skipped=0):
        self.scale, self.good_steps, self.skipped = scale, good_steps, skipped

    def update(self, finite):
        """Takes note of a step; finite: bool, whether its gradients were."""
        if not finite:
            self.skipped += 1
            self.good_steps = 0
            self.scale = max(1.0, self.scale / 2)
            return
        self.good_steps += 1
        if self.good_steps >= self.growth_steps:
            self.good_steps = 0
            self.scale = min(2.0**24, self.scale * 2)

    def state(self):
        """What a checkpoint keeps; pass it to the constructor."""
        return {"scale": self.scale, "good_steps": self.good_steps, "skipped": self.skipped}
