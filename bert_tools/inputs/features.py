"""Features: the ids of many examples in a few flat arrays, and their making from texts."""

import dataclasses

import numpy as np

from bert_tools.errors import UserError


@dataclasses.dataclass
class Features:
    """Ids of many examples, one after another, without padding.

    Attributes:
      input_ids: int32 [tokens], specials included.
      segment_ids: int32 [tokens], 0 for [CLS] a [SEP], 1 for b [SEP].
      offsets: int64 [examples + 1]; example i is input_ids[offsets[i]:offsets[i + 1]].
      columns: dict {name: array [examples]}, what else a task needs of an example (vals,
      label_ids).
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


def convert_texts(texts_a, texts_b, max_seq_length, tokenizer):
    """Tokenises, truncates and adds [CLS] and [SEP], as the original's convert_single_example.

    Pairs lose tokens of the longer text first, one at a time (`_truncate_seq_pair`); a second text
    that is None or has no tokens leaves a single text.

    Args:
      texts_a: list of str.
      texts_b: list of (str or None), or None when there are no pairs.
      max_seq_length: int, at least 3.
      tokenizer: FullTokenizer.

    Returns:
      Features with empty columns.
    """
    check_max_seq_length(max_seq_length)
    a_ids, a_offsets = tokenizer.encode_batch(texts_a)
    texts_b = [""] * len(texts_a) if texts_b is None else [text or "" for text in texts_b]
    b_ids, b_offsets = tokenizer.encode_batch(texts_b)
    a_kept, b_kept = truncated(np.diff(a_offsets), np.diff(b_offsets), max_seq_length)

    first = a_kept + 2
    second = np.where(b_kept > 0, b_kept + 1, 0)
    offsets = np.concatenate([[0], np.cumsum(first + second)])
    ids = np.empty(offsets[-1], np.int32)
    starts = offsets[:-1]
    ids[starts] = tokenizer.cls_id
    ids[starts + first - 1] = tokenizer.sep_id
    ids[(offsets[1:] - 1)[b_kept > 0]] = tokenizer.sep_id
    ids[ranges(starts + 1, a_kept)] = a_ids[ranges(a_offsets[:-1], a_kept)]
    ids[ranges(starts + first, b_kept)] = b_ids[ranges(b_offsets[:-1], b_kept)]
    segments = np.repeat(np.tile([0, 1], len(starts)), np.stack([first, second], 1).ravel())
    return Features(ids, segments.astype(np.int32), offsets, {})


def check_max_seq_length(max_seq_length):
    """Raises UserError when nothing but special tokens would fit."""
    if max_seq_length < 3:
        raise UserError(
            f"--max_seq_length={max_seq_length}: expected at least 3 ([CLS], a token, [SEP])"
        )


def truncated(a, b, max_seq_length, xp=np):
    """Tokens kept of first and second texts, in closed form of `_truncate_seq_pair`.

    Args:
      a, b: int [n], tokens of each; NumPy arrays, or int32 Tensors with xp=tensorflow.
      max_seq_length: int, at least 3.
      xp: the module whose `where` and `minimum` fit a and b: numpy or tensorflow.

    Returns:
      (a_kept, b_kept), of the kind of a and b.
    """
    room = max_seq_length - 3
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
