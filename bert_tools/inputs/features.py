"""Features: the ids of many examples in a few flat arrays, and their making from examples."""

import dataclasses

import numpy as np

from bert_tools.errors import UserError


class LabelSet(list):
    """Labels of which an example may have any number: its label is a tuple of them."""


@dataclasses.dataclass
class Features:
    """Ids of many examples, one after another, without padding.

    Attributes:
      input_ids: int32 [tokens], specials included.
      segment_ids: int32 [tokens], 0 for [CLS] a [SEP], 1 for b [SEP] (0 for both in RoBERTa).
      offsets: int64 [examples + 1]; example i is input_ids[offsets[i]:offsets[i + 1]].
      columns: dict {name: array [examples, ...]}, what else a task needs of an example (vals,
        label_ids); example_index int64, where long texts were cut into windows: the example that
        each of these rows is a part of.
    """

    input_ids: np.ndarray
    segment_ids: np.ndarray
    offsets: np.ndarray
    columns: dict

    def __len__(self):
        return len(self.offsets) - 1

    @property
    def lengths(self):
        """int64 [examples], tokens of each example."""
        return np.diff(self.offsets)

    def part(self, begin, end):
        """The Features of examples begin to end - 1."""
        offsets = self.offsets[begin : end + 1]
        tokens = slice(offsets[0], offsets[-1])
        return Features(
            self.input_ids[tokens],
            self.segment_ids[tokens],
            offsets - offsets[0],
            {name: values[begin:end] for name, values in self.columns.items()},
        )

    @classmethod
    def concatenate(cls, parts):
        """One Features of several, in order. At least one part is needed."""
        lengths = np.concatenate([part.lengths for part in parts])
        return cls(
            np.concatenate([part.input_ids for part in parts]),
            np.concatenate([part.segment_ids for part in parts]),
            np.concatenate([[0], np.cumsum(lengths)]),
            {
                name: np.concatenate([part.columns[name] for part in parts])
                for name in parts[0].columns
            },
        )


def convert_examples_to_features(
    examples, label_list, max_seq_length, tokenizer, long_text="truncate"
):
    """Convert a set of `InputExample`s to `Features`, as the original's function of this name.

    Args:
      examples: list of InputExample.
      label_list: list of the labels, in the order of their numbers: label_ids int64 [examples] and
        is_real_example int64 [examples], all 1. LabelSet: label_ids [examples, labels]. None: the
        labels are numbers: vals float32 [examples]. An example without a label gets the originals'
        0 or -1, which nothing reads.
      max_seq_length, tokenizer, long_text: see `convert_texts`.

    Returns:
      Features.

    Raises:
      UserError: a label is not in label_list.
    """
    features = convert_texts(
        [example.text_a for example in examples],
        [example.text_b for example in examples],
        max_seq_length,
        tokenizer,
        long_text,
    )
    columns = label_columns(examples, label_list)
    owners = features.columns.get("example_index", slice(None))
    features.columns.update({name: values[owners] for name, values in columns.items()})
    return features


def label_columns(examples, label_list):
    """The columns of examples' labels, see `convert_examples_to_features`."""
    labels = [example.label for example in examples]
    if label_list is None:
        return {"vals": np.array([-1.0 if v is None else v for v in labels], np.float32)}
    real = {"is_real_example": np.ones(len(labels), np.int64)}
    if isinstance(label_list, LabelSet):
        marks = [[label in (found or ()) for label in label_list] for found in labels]
        marks = np.array(marks, np.int64).reshape(len(labels), len(label_list))
        return {"label_ids": marks, **real}
    numbers = {label: number for number, label in enumerate(label_list)}
    numbers[None] = 0
    unknown = next((example for example in examples if example.label not in numbers), None)
    if unknown is not None:
        listed = ", ".join(map(str, label_list))
        raise UserError(
            f"example {unknown.guid} has the label {unknown.label!r}; the labels are {listed}"
        )
    return {"label_ids": np.array([numbers[label] for label in labels], np.int64), **real}


def convert_texts(texts_a, texts_b, max_seq_length, tokenizer, long_text="truncate"):
    """Tokenises, truncates and adds [CLS] and [SEP], as the original's convert_single_example.

    Other families' tokenizers have other names for the two, and say how many separators stand
    between two texts and which segment the second one is: <s> a </s></s> b </s>, all 0.

    A second text that is None or has no tokens leaves a single text.

    Args:
      texts_a: list of str.
      texts_b: list of (str or None), or None when there are no pairs.
      max_seq_length: int, at least 3 (4 with two separators).
      tokenizer: FullTokenizer or SubwordTokenizer.
      long_text: "truncate": pairs lose tokens of the longer text first, one at a time
        (`_truncate_seq_pair`). "windows": the longer text is cut into windows that overlap by a
        quarter, each beside the other text, which keeps half of the room at most.

    Returns:
      Features; without columns, or with example_index where long_text is "windows".
    """
    separators = tokenizer.pair_separators
    check_max_seq_length(max_seq_length, separators)
    a_ids, a_offsets = tokenizer.encode_batch(texts_a)
    texts_b = [""] * len(texts_a) if texts_b is None else [text or "" for text in texts_b]
    b_ids, b_offsets = tokenizer.encode_batch(texts_b)
    a_lengths, b_lengths = np.diff(a_offsets), np.diff(b_offsets)
    a_starts, b_starts, columns = a_offsets[:-1], b_offsets[:-1], {}
    if long_text == "windows":
        owners, a_from, a_lengths, b_from, b_lengths = _windows(
            a_lengths, b_lengths, max_seq_length, separators
        )
        a_starts, b_starts = a_starts[owners] + a_from, b_starts[owners] + b_from
        columns["example_index"] = owners
    a_kept, b_kept = truncated(a_lengths, b_lengths, max_seq_length, separators)

    paired = b_kept > 0
    first = a_kept + np.where(paired, 1 + separators, 2)
    second = np.where(paired, b_kept + 1, 0)
    offsets = np.concatenate([[0], np.cumsum(first + second)])
    ids = np.empty(offsets[-1], np.int32)
    starts = offsets[:-1]
    ids[starts] = tokenizer.cls_id
    ids[ranges(starts + a_kept + 1, first - a_kept - 1)] = tokenizer.sep_id
    ids[(offsets[1:] - 1)[paired]] = tokenizer.sep_id
    ids[ranges(starts + 1, a_kept)] = a_ids[ranges(a_starts, a_kept)]
    ids[ranges(starts + first, b_kept)] = b_ids[ranges(b_starts, b_kept)]
    numbers = np.tile([0, tokenizer.second_segment], len(starts))
    segments = np.repeat(numbers, np.stack([first, second], 1).ravel())
    return Features(ids, segments.astype(np.int32), offsets, columns)


def _windows(a, b, max_seq_length, separators):
    """Cuts texts of a and b tokens (int64 [n]) into windows that fit.

    Returns:
      (owners, a_from, a_kept, b_from, b_kept), int64 [windows]: which text each window is of, and
      which of its tokens.
    """
    room = np.where(b == 0, max_seq_length - 2, max_seq_length - 2 - separators)
    fits = a + b <= room
    first_is_longer = a >= b
    long, short = np.maximum(a, b), np.minimum(a, b)
    short = np.where(fits, short, np.minimum(short, room // 2))
    size = np.where(fits, long, room - short)
    overlap = size // 4
    # A pair in 3 tokens has no room at all: one [CLS] [SEP], as when it is truncated.
    count = np.where(fits | (size == 0), 1, -(-(long - overlap) // np.maximum(size - overlap, 1)))
    owners = np.repeat(np.arange(len(a)), count)
    # Evenly spaced, so that the last window is no shorter than the others.
    number = ranges(np.zeros_like(count), count)
    begin = number * (long - size)[owners] // np.maximum(count - 1, 1)[owners]
    size, short, first_is_longer = size[owners], short[owners], first_is_longer[owners]
    zero = np.zeros_like(begin)
    return (
        owners,
        np.where(first_is_longer, begin, zero),
        np.where(first_is_longer, size, short),
        np.where(first_is_longer, zero, begin),
        np.where(first_is_longer, short, size),
    )


def check_max_seq_length(max_seq_length, separators=1):
    """Raises UserError when nothing but special tokens would fit."""
    if max_seq_length < 2 + separators:
        fit = "[CLS], a token, [SEP]" if separators == 1 else "the special tokens of a pair"
        raise UserError(
            f"--max_seq_length={max_seq_length}: expected at least {2 + separators} ({fit})"
        )


def truncated(a, b, max_seq_length, separators=1, xp=np):
    """Tokens kept of first and second texts, in closed form of `_truncate_seq_pair`.

    Args:
      a, b: int [n], tokens of each; NumPy arrays, or int32 Tensors with xp=tensorflow.
      max_seq_length: int, at least 2 + separators.
      separators: int, how many stand between the two texts.
      xp: the module whose `where` and `minimum` fit a and b: numpy or tensorflow.

    Returns:
      (a_kept, b_kept), of the kind of a and b.
    """
    room = max_seq_length - 2 - separators
    fits = a + b <= room
    a_kept = xp.where(fits, a, xp.where(b <= room // 2, room - b, xp.minimum(a, room - room // 2)))
    b_kept = xp.where(fits, b, room - a_kept)
    single = b == 0
    return xp.where(single, xp.minimum(a, max_seq_length - 2), a_kept), xp.where(single, 0, b_kept)


def ranges(starts, lengths):
    """Indices starts[0], starts[0] + 1, ... of lengths[0] elements, then those of starts[1], and
    so on.
    """
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
