"""Features: [CLS], [SEP], segments and truncation, against the original's loop."""

import numpy as np
import pytest

from bert_tools.errors import UserError
from bert_tools.inputs.features import Features, convert_texts, ranges
from bert_tools.tokenization import FullTokenizer

CLS, SEP = 101, 102
TOKENIZER = FullTokenizer(
    vocab={"[UNK]": 100, "[CLS]": CLS, "[SEP]": SEP, **{f"a{i}": i for i in range(40)}}
)


def original(ids_a, ids_b, max_seq_length):
    """(input_ids, segment_ids) of the original's convert_single_example, loop and all."""
    ids_a, ids_b = list(ids_a), list(ids_b)
    if ids_b:
        while len(ids_a) + len(ids_b) > max_seq_length - 3:
            if len(ids_a) > len(ids_b):
                ids_a.pop()
            else:
                ids_b.pop()
    else:
        ids_a = ids_a[: max_seq_length - 2]
    ids, segments = [CLS, *ids_a, SEP], [0] * (len(ids_a) + 2)
    if ids_b:
        ids += [*ids_b, SEP]
        segments += [1] * (len(ids_b) + 1)
    return ids, segments


def rows(features):
    parts = [slice(a, b) for a, b in zip(features.offsets, features.offsets[1:], strict=False)]
    return [
        (features.input_ids[part].tolist(), features.segment_ids[part].tolist()) for part in parts
    ]


def text(start, count):
    return " ".join(f"a{(start + place) % 40}" for place in range(count))


@pytest.mark.parametrize("max_seq_length", range(3, 17))
def test_truncation_is_the_original_loop(max_seq_length):
    """Every pair of lengths from 0 to 18, also a second text that is None."""
    lengths = [(a, b) for a in range(19) for b in range(19)]
    texts_a = [text(0, a) for a, _ in lengths]
    texts_b = [text(20, b) for _, b in lengths]
    features = convert_texts(texts_a, texts_b, max_seq_length, TOKENIZER)
    expected = [
        original(TOKENIZER.encode(a), TOKENIZER.encode(b), max_seq_length)
        for a, b in zip(texts_a, texts_b, strict=True)
    ]
    assert rows(features) == expected
    assert features.lengths.max() == max_seq_length and features.columns == {}
    assert (features.input_ids.dtype, features.segment_ids.dtype) == (np.int32, np.int32)
    assert features.offsets.dtype == np.int64 and len(features) == len(lengths)


def test_truncation_of_long_pairs():
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 700, (200, 2))
    texts_a = [text(0, a) for a, _ in lengths]
    texts_b = [text(20, b) for _, b in lengths]
    for max_seq_length in (128, 384, 511, 512):
        features = convert_texts(texts_a, texts_b, max_seq_length, TOKENIZER)
        assert rows(features) == [
            original(TOKENIZER.encode(a), TOKENIZER.encode(b), max_seq_length)
            for a, b in zip(texts_a, texts_b, strict=True)
        ]


def test_single_texts():
    expected = [original([0, 1, 2], [], 128), original([], [], 128)]
    for texts_b in (None, [None, None], ["", ""], [None, "  "]):
        features = convert_texts(["a0 a1 a2", ""], texts_b, 128, TOKENIZER)
        assert rows(features) == expected
        assert features.segment_ids.max() == 0


def test_pairs_and_singles_side_by_side():
    features = convert_texts(["a0", "a1", "", "a3"], ["a4", None, "a5 a6", ""], 16, TOKENIZER)
    assert rows(features) == [
        ([CLS, 0, SEP, 4, SEP], [0, 0, 0, 1, 1]),
        ([CLS, 1, SEP], [0, 0, 0]),
        ([CLS, SEP, 5, 6, SEP], [0, 0, 1, 1, 1]),
        ([CLS, 3, SEP], [0, 0, 0]),
    ]
    assert features.lengths.tolist() == [5, 3, 5, 3]


def test_no_texts():
    features = convert_texts([], [], 8, TOKENIZER)
    assert len(features) == 0 and features.offsets.tolist() == [0]
    assert len(features.input_ids) == len(features.segment_ids) == 0


@pytest.mark.parametrize("max_seq_length", [2, 0, -1])
def test_too_short(max_seq_length):
    with pytest.raises(UserError, match=f"--max_seq_length={max_seq_length}: expected at least 3"):
        convert_texts(["a0"], None, max_seq_length, TOKENIZER)


def test_concatenate():
    parts = []
    for count in (3, 0, 1, 2):
        part = convert_texts([text(count, n) for n in range(count)], None, 16, TOKENIZER)
        part.columns = {"vals": np.arange(count, dtype=np.float32)}
        parts.append(part)
    whole = Features.concatenate(parts)
    assert rows(whole) == [row for part in parts for row in rows(part)]
    assert whole.columns["vals"].tolist() == [0, 1, 2, 0, 0, 1]
    assert whole.columns["vals"].dtype == np.float32 and whole.offsets.dtype == np.int64
    assert rows(Features.concatenate(parts[:1])) == rows(parts[0])


def test_ranges():
    assert ranges(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert ranges(np.zeros(0, np.int64), np.zeros(0, np.int64)).tolist() == []
