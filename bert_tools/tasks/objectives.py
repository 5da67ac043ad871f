"""Objectives of sentence vectors: what the vectors of an example's texts, or of all texts of a
step, are to be like. A function each, called by its name with

    vectors: float32 Tensor [examples, texts, width], in the order of the columns;
    labels: float32 [examples], what the file says of an example (int64 for softmax_nli, float32
      [examples, width] for distillation), or None;
    options: Options;

it returns the loss of each example, float32 [examples]. Those that look at the whole step say so.
"""

import tensorflow as tf


def cosine_regression(vectors, labels, options):
    """The squared difference between a pair's cosine and its value.

    Sentence-BERT (Reimers and Gurevych 2019, https://arxiv.org/abs/1908.10084), regression
    objective. Each pair's cosine meets its own value alone.

    Columns: text, text, value (mapped to --target_range).
    Example: A dog runs. TAB A dog is running. TAB 0.9
    """
    del options
    return tf.math.squared_difference(pair_cosine(vectors), labels)


def cosent(vectors, labels, options):
    """Of two pairs with different values the one with the higher value shall have the higher
    cosine: log(1 + sum of exp(scale * (cosine of the lower - cosine of the higher))) over all such
    two of the step; the same number for each example.

    CoSENT (Su 2022, https://kexue.fm/archives/8847; Huang et al. 2024,
    https://doi.org/10.1109/TASLP.2024.3402087).

    Columns: text, text, value.
    Example: as cosine_regression; values in any range.
    """
    scores = options.scale * pair_cosine(vectors)
    differences = scores[:, tf.newaxis] - scores
    lower = labels[:, tf.newaxis] < labels
    differences = tf.where(lower, differences, tf.float32.min)
    flat = tf.concat([[0.0], tf.reshape(differences, [-1])], 0)
    return tf.fill(tf.shape(labels), tf.reduce_logsumexp(flat))


def contrastive(vectors, labels, options):
    """Half the squared distance of a pair that belongs together, half the square of what a pair
    that does not lacks to the margin.

    Hadsell, Chopra and LeCun 2006 (https://doi.org/10.1109/CVPR.2006.100).

    Columns: text, text, 1 or 0.
    Example: How old are you? TAB What is your age? TAB 1
    """
    apart = distance(vectors[:, 0], vectors[:, 1], options.distance)
    lacking = tf.nn.relu(options.margin - apart)
    return 0.5 * (labels * tf.square(apart) + (1.0 - labels) * tf.square(lacking))


def triplet(vectors, labels, options):
    """max(distance to the positive - distance to the negative + margin, 0); of several negatives
    the mean.

    Sentence-BERT's triplet objective (Schroff et al. 2015, https://arxiv.org/abs/1503.03832).

    Columns: anchor, positive, negative (or several).
    Example: He eats a pear.,He is eating fruit.,The bus is late.
    """
    del labels
    near = distance(vectors[:, 0], vectors[:, 1], options.distance)
    far = distance(vectors[:, :1], vectors[:, 2:], options.distance)
    return tf.reduce_mean(tf.nn.relu(near[:, tf.newaxis] - far + options.margin), 1)


def multiple_negatives(vectors, labels, options):
    """Cross-entropy of finding the second text by the first one among those of all examples of the
    step, by scale * cosine; further texts of the examples are among the wrong ones. With
    options.symmetric the mean of this and of finding the first texts by the second ones.

    Henderson et al. 2017 (https://arxiv.org/abs/1705.00652). On a column of texts, each beside
    itself under another dropout (--objective=simcse): SimCSE (Gao et al. 2021,
    https://arxiv.org/abs/2104.08821).

    Columns: anchor, positive (, negatives).
    Example: How do I get a refund? TAB Can I have my money back?
    """
    del labels
    vectors = tf.math.l2_normalize(vectors, -1, _TINY)
    examples, width = tf.shape(vectors)[0], tf.shape(vectors)[2]
    first = vectors[:, 0]
    # All positives, then all first negatives, and so on.
    others = tf.reshape(tf.transpose(vectors[:, 1:], [1, 0, 2]), [-1, width])
    scores = options.scale * tf.matmul(first, others, transpose_b=True)
    right = tf.range(examples)
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(right, scores)
    if options.symmetric:
        back = tf.transpose(scores[:, :examples])
        loss = 0.5 * (loss + tf.nn.sparse_softmax_cross_entropy_with_logits(right, back))
    return loss


def softmax_nli(vectors, labels, options):
    """Cross-entropy of a classifier on (u, v, |u - v|) of a pair.

    Sentence-BERT's classification objective. The classifier is for training: what stays are the
    vectors.

    Columns: text, text, class.
    Example: A man sleeps. TAB Somebody is awake. TAB contradiction
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, nli_logits(vectors, options.head))


def nli_logits(vectors, head):
    """softmax_nli's logits, float32 [examples, classes].

    Args:
      vectors: float32 Tensor [examples, 2, width].
      head: (kernel [classes, 3 * width], bias [classes]).
    """
    kernel, bias = head
    u, v = vectors[:, 0], vectors[:, 1]
    joined = tf.concat([u, v, tf.abs(u - v)], -1)
    return tf.nn.bias_add(tf.matmul(joined, kernel, transpose_b=True), bias)


def distillation(vectors, labels, options):
    """The mean squared difference between the vector of each of an example's texts and the
    teacher's vector of the first one.

    Reimers and Gurevych 2020 (https://arxiv.org/abs/2004.09813): further texts are translations,
    which so come to lie where the original does.

    Columns: text (, translations); --teacher=MODEL.
    Example: A dog runs. TAB 一只狗在跑。
    """
    del options
    return tf.reduce_mean(tf.math.squared_difference(vectors, labels[:, tf.newaxis]), [1, 2])


def pair_cosine(vectors):
    """The cosine of each example's first two texts, float32 [examples]."""
    vectors = tf.math.l2_normalize(vectors, -1, _TINY)
    return tf.reduce_sum(vectors[:, 0] * vectors[:, 1], -1)


def distance(first, second, name):
    """How far vectors lie apart, over the last axis; the shapes broadcast.

    Args:
      name: "euclidean", whose gradient is 0 where both are the same, or "cosine", 1 - cosine.
    """
    if name == "cosine":
        first, second = (tf.math.l2_normalize(x, -1, _TINY) for x in (first, second))
        return 1.0 - tf.reduce_sum(first * second, -1)
    squares = tf.reduce_sum(tf.math.squared_difference(first, second), -1)
    # The root of 0 has no gradient, and a `where` around it alone would let NaN through.
    apart = squares > 0.0
    return tf.where(apart, tf.sqrt(tf.where(apart, squares, 1.0)), 0.0)


_TINY = 1e-24
