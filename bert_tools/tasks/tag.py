"""Tagging: a tag for each word of a sentence, as in named entity recognition (Devlin et al. 2019,
section 5.3): the tag stands on a word's first piece.
"""

import collections
import typing

import numpy as np

from bert_tools.inputs.conll import entities
from bert_tools.tasks import baselines
from bert_tools.tasks.token_rows import by_example


class Tagging:
    """Head, loss and metrics of a tag a word.

    Args:
      labels: list of str, the tags in the order of their columns, "O" among them.

    Attributes:
      max_seq_length: int, the width of the predictions; to be set before they are made.
    """

    name = "tag"
    reads_tokens = True  # See model_fn: the head is on every token.
    baseline_form: typing.ClassVar = {"word_tags": {str: str}}  # See baselines.read.

    def __init__(self, labels):
        self.label_list = list(labels)
        self.max_seq_length = None

    def head_shapes(self, config):
        """{name: shape} of the head's weights."""
        count = len(self.label_list)
        return {"output_weights": (count, config.hidden_size), "output_bias": (count,)}

    def apply(self, weights, sequence_output, features, training=False):
        """The head.

        Args:
          weights: dict that holds output_weights [labels, hidden] and output_bias [labels].
          sequence_output: float32 Tensor [rows, width, hidden].
          features: dict of inputs.batches.assemble, with the columns of
            word_features.convert_sentences_to_features.
          training: bool; without effect.

        Returns:
          (per_example_loss float32 [n]: the sum of its words' cross-entropies over the mean number
          of words in a row, so that the mean over rows is that over words; predictions {"labels":
          int32 [n, max_seq_length], the most probable tag's number at each token}).
        """
        del training
        import tensorflow as tf

        hidden = tf.reshape(sequence_output, [-1, sequence_output.shape[-1]])
        logits = tf.matmul(hidden, weights["output_weights"], transpose_b=True)
        logits = tf.nn.bias_add(logits, weights["output_bias"])
        logits, _ = by_example(logits, features)
        width = tf.shape(logits)[1]
        wanted = tf.cast(features["label_ids"][:, :width], tf.int32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(wanted - 1, 0), logits)
        losses = tf.where(wanted > 0, losses, 0.0)
        per_example_loss = tf.reduce_sum(losses, axis=1) / features["words_per_row"]
        tags = tf.argmax(logits, axis=-1, output_type=tf.int32)
        return per_example_loss, {
            "labels": tf.pad(tags, [[0, 0], [0, self.max_seq_length - width]])
        }

    def words(self, predictions, features):
        """The tag numbers of each sentence's words.

        Args:
          predictions: {"labels": int array [rows, max_seq_length]}.
          features: {"label_ids": likewise; "sentence": int array [rows]}, rows in order.

        Returns:
          dict {sentence: list of int}, a number a word in the sentence's order.
        """
        found = collections.defaultdict(list)
        rows = zip(
            features["sentence"].tolist(), predictions["labels"], features["label_ids"], strict=True
        )
        for sentence, tags, wanted in rows:
            found[sentence] += tags[wanted > 0].tolist()
        return found

    def metrics(self, predictions, features):
        """Metrics over a whole set.

        Returns:
          dict: eval_accuracy (of words); precision, recall, f1_score of entities, which count when
          type, first and last word are right (conlleval's, over all), f1_score_macro (the mean of
          the types'), per_class {type: {precision, recall, f1_score, examples}}.
        """
        decided = self.words(predictions, features)
        truth = self.words({"labels": features["label_ids"] - 1}, features)
        named = [
            [[self.label_list[number] for number in tags] for tags in (truth[n], decided[n])]
            for n in truth
        ]
        return _metrics(named)

    def baseline_statistics(self, sentences):
        """What the baseline needs of a training set: {"word_tags": {word: tag}}, the most frequent
        tag of each word, of equals the one seen first; words that are mostly O are left out.

        Args:
          sentences: list of conll.Sentence with tags.
        """
        counts = collections.defaultdict(collections.Counter)
        for sentence in sentences:
            for word, tag in zip(sentence.words, sentence.tags, strict=True):
                counts[word][tag] += 1
        tags = {word: found.most_common(1)[0][0] for word, found in counts.items()}
        return {"word_tags": {word: tag for word, tag in tags.items() if tag != "O"}}

    def baseline(self, statistics, sentences):
        """What each word's most frequent tag in the training set gives; O for other words.

        Args:
          statistics: of baseline_statistics.
          sentences: list of conll.Sentence with tags, the evaluated set.

        Returns:
          {"baseline_precision", "baseline_recall", "baseline_f1_score": float}, of entities.
        """
        tags = statistics["word_tags"]
        found = _metrics([s.tags, [tags.get(word, "O") for word in s.words]] for s in sentences)
        names = ("precision", "recall", "f1_score")
        return {f"{baselines.PREFIX}{name}": found[name] for name in names}

    def compared(self, result):
        """The baselines.Comparison of a result with baseline lines, or None without."""
        if "baseline_f1_score" not in result:
            return None
        return baselines.Comparison(
            "f1_score",
            "baseline_f1_score",
            "the most frequent tag of each word in the training set",
            f"{baselines.MORE_TRAINING}, a check of --word_column and --tag_column, or a model "
            "that keeps upper and lower case",
        )

    def description(self):
        """What bert_tools.json keeps of the task: what the head's columns mean."""
        return {"labels": self.label_list}


def _metrics(pairs):
    """See Tagging.metrics.

    Args:
      pairs: iterable of (list of str, list of str), the true and the decided tags of each sentence.
    """
    right = words = 0
    counts = collections.defaultdict(lambda: np.zeros(3, np.int64))
    for truth, decided in pairs:
        right += sum(a == b for a, b in zip(truth, decided, strict=True))
        words += len(truth)
        wanted, got = set(entities(truth)), set(entities(decided))
        for column, these in enumerate((wanted & got, got, wanted)):
            for kind, *_ in these:
                counts[kind][column] += 1
    per_class = {
        kind: {**_scores(*counts[kind].tolist()), "examples": int(counts[kind][2])}
        for kind in sorted(counts)
    }
    total = sum(counts.values(), np.zeros(3, np.int64)).tolist()
    each = [scores["f1_score"] for scores in per_class.values()]
    return {
        "eval_accuracy": right / max(words, 1),
        **_scores(*total),
        "f1_score_macro": float(np.mean(each)) if each else 0.0,
        "per_class": per_class,
    }


def _scores(right, got, wanted):
    """Precision, recall and F1; 0 where nothing was found, or there is nothing to find."""
    precision, recall = right / max(got, 1), right / max(wanted, 1)
    total = precision + recall
    return {
        "precision": precision,
        "recall": recall,
        "f1_score": 2 * precision * recall / total if total else 0.0,
    }
