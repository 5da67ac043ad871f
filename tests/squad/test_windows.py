"""Windows by hand, and as the original cuts them."""

import itertools
import math

import numpy as np
import pytest
from squad_toys import example

from bert_tools.squad.windows import convert_examples_to_features, max_context
from bert_tools.tokenization import FullTokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh", "##x", "##y", "(", ")", "-", "."]


@pytest.fixture(scope="module")
def tokenizer():
    return FullTokenizer(vocab={word: index for index, word in enumerate(WORDS)})


def rows(windows, tokenizer):
    """The tokens of each window."""
    ids, ends = windows.features.input_ids, windows.features.offsets
    return [
        " ".join(tokenizer.convert_ids_to_tokens(ids[begin:end].tolist()))
        for begin, end in itertools.pairwise(ends)
    ]


def test_by_hand(tokenizer):
    """Room for four pieces beside one of the question; windows begin two apart."""
    windows = convert_examples_to_features(
        [example("ax b c d e f g", "h"), example("a", "b c d")], tokenizer, 8, 2, 2, False
    )
    assert rows(windows, tokenizer) == [
        "[CLS] h [SEP] a ##x b c [SEP]",
        "[CLS] h [SEP] b c d e [SEP]",
        "[CLS] h [SEP] d e f g [SEP]",
        "[CLS] b c [SEP] a [SEP]",
    ]
    assert windows.owners.tolist() == [0, 0, 0, 1]
    assert windows.starts.tolist() == [0, 2, 4, 0]
    assert windows.offsets.tolist() == [3, 3, 3, 4]
    assert windows.cut_questions == 1
    assert windows.features.columns["unique_ids"].tolist() == [10**9 + i for i in range(4)]
    assert windows.features.segment_ids.tolist() == [0, 0, 0, 1, 1, 1, 1, 1] * 3 + [0] * 4 + [1] * 2
    # Of b and c, which two windows have, b has a neighbour on both sides in the first, c in the
    # second.
    assert max_context(windows, 0).tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    pieces = windows.pieces[windows.examples[0].document]
    assert pieces.owner.tolist() == [0, 0, 1, 2, 3, 4, 5, 6]
    assert [pieces.span(piece) for piece in range(3)] == [(0, 1), (1, 2), (3, 4)]


def test_a_context_without_words_has_no_window(tokenizer):
    windows = convert_examples_to_features(
        [example(" "), example("a"), example("\u200b")], tokenizer, 8, 2, 2, True
    )
    assert windows.owners.tolist() == [1]
    assert len(convert_examples_to_features([example("")], tokenizer, 8, 2, 2, False)) == 0


@pytest.mark.parametrize(
    ("context", "answer", "start", "pieces"),
    [
        ("a b c", "b", 2, (1, 1)),
        ("a (b-c). d", "b", 3, (2, 2)),  # Not the whole word "(b-c).".
        ("a (b-b). d", "b", 5, (4, 4)),  # The original takes the first "b" of the word.
        ("a bx c", "x", 3, (1, 2)),  # No piece of its own: the word.
        ("a b c", "b c", 2, (1, 2)),
    ],
)
def test_what_is_learnt(tokenizer, context, answer, start, pieces):
    windows = convert_examples_to_features(
        [example(context, "d", answer, start)], tokenizer, 20, 8, 4, True
    )
    columns = windows.features.columns
    assert (columns["start_positions"][0] - 3, columns["end_positions"][0] - 3) == pieces
    assert columns["is_impossible"].tolist() == [0]


def test_a_window_without_the_answer_learns_nothing(tokenizer):
    windows = convert_examples_to_features(
        [
            example("a b c d e f g", "h", "d e", 6),
            example("a b", "h", is_impossible=True),
        ],
        tokenizer,
        8,
        2,
        2,
        True,
    )
    columns = windows.features.columns
    # Windows a b c d, c d e f, e f g: the answer lies whole in the second alone.
    assert columns["start_positions"].tolist() == [0, 4, 0, 0]
    assert columns["end_positions"].tolist() == [0, 5, 0, 0]
    assert columns["is_impossible"].tolist() == [0, 0, 0, 1]


def spans_of_the_original(total, room, doc_stride):
    """The loop of the original: starts and lengths."""
    spans, start = [], 0
    while start < total:
        length = min(total - start, room)
        spans.append((start, length))
        if start + length == total:
            break
        start += min(length, doc_stride)
    return spans


def test_many_lengths_as_in_the_originals_loops(tokenizer):
    for total in range(0, 24):
        for doc_stride in (1, 2, 3, 5, 9):
            context = " ".join("abcdefgh"[i % 8] for i in range(total))
            windows = convert_examples_to_features(
                [example(context, "h")], tokenizer, 9, doc_stride, 4, False
            )
            spans = spans_of_the_original(total, 5, doc_stride)
            found = zip(windows.starts.tolist(), windows.sizes.tolist(), strict=True)
            assert list(found) == spans
            best = []
            for piece in range(total):
                scores = [
                    min(piece - start, start + size - 1 - piece) + 0.01 * size
                    if start <= piece < start + size
                    else -math.inf
                    for start, size in spans
                ]
                best.append(scores.index(max(scores)))
            np.testing.assert_array_equal(max_context(windows, 0), best)
