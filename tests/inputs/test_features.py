"""Features: [CLS], [SEP], segments and truncation, against the original's loop."""

import numpy as np
import pytest

from bert_tools.errors import UserError
from bert_tools.inputs.examples import InputExample
from bert_tools.inputs.features import (
    Features,
    convert_examples_to_features,
    convert_texts,
    ranges,
)
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


@pytest.mark.parametrize("max_seq_length", range(4, 17))
def test_windows(max_seq_length):
    """Every pair of lengths from 0 to 30; the tokens of a text differ."""
    lengths = [(a, b) for a in range(31) for b in range(31)]
    texts_a, texts_b = [text(0, a) for a, _ in lengths], [text(20, b) for _, b in lengths]
    features = convert_texts(texts_a, texts_b, max_seq_length, TOKENIZER, "windows")
    owners = features.columns["example_index"]
    assert owners.dtype == np.int64 and len(owners) == len(features)
    assert sorted(set(owners.tolist())) == list(range(len(lengths)))
    assert (np.diff(owners) >= 0).all() and features.lengths.max() == max_seq_length
    of_example = [[] for _ in lengths]
    for owner, row in zip(owners, rows(features), strict=True):
        of_example[owner].append(row)

    for windows, text_a, text_b in zip(of_example, texts_a, texts_b, strict=True):
        ids_a, ids_b = TOKENIZER.encode(text_a), TOKENIZER.encode(text_b)
        room = max_seq_length - (3 if ids_b else 2)
        if len(ids_a) + len(ids_b) <= room:
            assert windows == [original(ids_a, ids_b, max_seq_length)]
            continue
        longer, other = (ids_a, ids_b) if len(ids_a) >= len(ids_b) else (ids_b, ids_a)
        beside = other[: room // 2]
        size, end = room - len(beside), 0
        for ids, segments in windows:
            begin = longer.index(ids[1] if longer is ids_a else ids[-1 - size])
            part = longer[begin : begin + size]
            pair = (part, beside) if longer is ids_a else (beside, part)
            assert (ids, segments) == original(*pair, max_seq_length) and len(part) == size
            # From the first token on, and each a quarter or more into the one before.
            assert begin == 0 if end == 0 else 0 <= end - begin - size // 4 < size
            end = begin + size
        assert end == len(longer)


def test_no_more_windows_than_needed():
    """Ten words in rooms of 4 with an overlap of 1: 0-3, 3-6, 6-9."""
    features = convert_texts([text(0, 10)], None, 6, TOKENIZER, "windows")
    assert [ids[1:-1] for ids, _ in rows(features)] == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]


def test_windows_of_a_pair_without_room():
    features = convert_texts([text(0, 9), "a1"], [text(20, 5), None], 3, TOKENIZER, "windows")
    assert [ids for ids, _ in rows(features)] == [[CLS, SEP], [CLS, 1, SEP]]
    assert features.columns["example_index"].tolist() == [0, 1]


EXAMPLES = [
    InputExample("dev-0", "a0", "a1", "yes"),
    InputExample("dev-1", text(0, 20), None, "no"),
    InputExample("dev-2", "a2", None, None),
]


@pytest.mark.parametrize("long_text, owners", [("truncate", [0, 1, 2]), ("windows", [0, 1, 1, 2])])
def test_labels_become_numbers_of_their_columns(long_text, owners):
    features = convert_examples_to_features(EXAMPLES, ["no", "yes"], 14, TOKENIZER, long_text)
    assert features.columns["label_ids"].tolist() == [[1, 0, 0][owner] for owner in owners]
    assert features.columns["is_real_example"].tolist() == [1] * len(owners)
    assert {values.dtype for values in features.columns.values()} == {np.dtype(np.int64)}
    texts_a, texts_b = [e.text_a for e in EXAMPLES], [e.text_b for e in EXAMPLES]
    plain = convert_texts(texts_a, texts_b, 14, TOKENIZER, long_text)
    assert rows(features) == rows(plain)
    assert features.columns.keys() - plain.columns.keys() == {"label_ids", "is_real_example"}


@pytest.mark.parametrize("long_text, owners", [("truncate", [0, 1, 2]), ("windows", [0, 1, 1, 2])])
def test_values(long_text, owners):
    examples = [
        InputExample(e.guid, e.text_a, e.text_b, value)
        for e, value in zip(EXAMPLES, (0.3, 1.0, None), strict=True)
    ]
    features = convert_examples_to_features(examples, None, 14, TOKENIZER, long_text)
    vals = features.columns["vals"]
    assert vals.dtype == np.float32
    np.testing.assert_array_equal(vals, np.array([0.3, 1, -1], np.float32)[owners])
    assert "label_ids" not in features.columns


def test_unknown_label():
    with pytest.raises(UserError) as caught:
        convert_examples_to_features(EXAMPLES, ["no", "maybe"], 14, TOKENIZER)
    assert str(caught.value) == "example dev-0 has the label 'yes'; the labels are no, maybe"


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
