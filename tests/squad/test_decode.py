"""Answers from scores, by hand and on a known question."""

import json

import numpy as np
import pytest
from squad_toys import example

from bert_tools.errors import UserError
from bert_tools.squad.decode import decode
from bert_tools.squad.windows import convert_examples_to_features
from bert_tools.tokenization import FullTokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]


@pytest.fixture(scope="module")
def tokenizer():
    return FullTokenizer(vocab={word: index for index, word in enumerate(WORDS)})


def scores(windows, **places):
    """[windows, 12] of -9, but for places given as w{window}_{place}=score."""
    found = np.full((len(windows), 12), -9.0, np.float32)
    for name, value in places.items():
        window, place = name[1:].split("_")
        found[int(window), int(place)] = value
    return found


def one(windows, starts, ends, **options):
    (decoded,) = decode(windows, scores(windows, **starts), scores(windows, **ends), **options)
    return decoded


@pytest.fixture
def windows(tokenizer):
    """[CLS] h [SEP] A b c d e [SEP]"""
    return convert_examples_to_features([example("A  b c d e", "h")], tokenizer, 12, 4, 4, False)


def test_best_pair_and_probabilities(windows):
    decoded = one(windows, {"w0_3": 2, "w0_5": 1}, {"w0_4": 3, "w0_5": 1}, n_best_size=2)
    # 3..4 scores 5, 3..5 scores 3, 5..5 scores 2, which is the third.
    assert [(c.text, c.begin, c.end) for c in decoded.n_best] == [("A  b", 0, 4), ("A  b c", 0, 6)]
    assert [c.start_logit + c.end_logit for c in decoded.n_best] == [5, 3]
    share = 1 / (1 + np.exp(-2))
    np.testing.assert_allclose([c.probability for c in decoded.n_best], [share, 1 - share])
    assert decoded.null_odds is None and decoded.chosen().text == "A  b"


@pytest.mark.parametrize(
    ("starts", "ends", "options", "text"),
    [
        ({"w0_6": 9, "w0_4": 1}, {"w0_5": 9, "w0_6": 0}, {}, "b c"),  # 6..5 would end too early.
        ({"w0_3": 9, "w0_6": 3}, {"w0_7": 9}, {"max_answer_length": 2}, "d e"),
        ({"w0_1": 9, "w0_5": 0}, {"w0_5": 0}, {}, "c"),  # Not the question's.
        ({"w0_5": 0}, {"w0_8": 9, "w0_6": 0}, {}, "c d"),  # Not the last [SEP].
        ({"w0_0": 9, "w0_5": 0}, {"w0_0": 9, "w0_5": 0}, {}, "c"),  # v1.1 knows no null.
    ],
)
def test_pairs_that_are_no_answer(windows, starts, ends, options, text):
    assert one(windows, starts, ends, **options).best.text == text


def test_no_answer_among_the_n_best_is_looked_for_in_all(windows):
    """The original writes "empty", or with impossible questions dies."""
    decoded = one(windows, {"w0_1": 9, "w0_4": 1}, {"w0_2": 9, "w0_5": 1}, n_best_size=1)
    assert decoded.best.text == "b c"
    decoded = one(
        windows,
        {"w0_0": 9, "w0_4": 1},
        {"w0_0": 9, "w0_5": 1},
        n_best_size=1,
        version_2_with_negative=True,
    )
    assert [c.text for c in decoded.n_best] == ["", "b c"]
    assert decoded.null_odds == 16 and decoded.chosen().text == ""


def test_null_score_against_the_best_answer(windows):
    starts, ends = {"w0_0": 2, "w0_4": 1}, {"w0_0": 1, "w0_4": 1}
    decoded = one(windows, starts, ends, version_2_with_negative=True)
    assert decoded.null_odds == 1 and decoded.n_best[0].text == ""
    assert decoded.chosen().text == ""
    assert decoded.chosen(1.0).text == "b"  # Only above the threshold.
    assert decoded.chosen(0.5).text == ""


def test_several_windows(tokenizer):
    """Room for four: A b c d, c d e f, e f g; c is seen best by the first, e by the second."""
    windows = convert_examples_to_features(
        [example("A b c d e f g", "h")], tokenizer, 8, 2, 2, False
    )
    assert len(windows) == 3
    # c in the second window has no left context: its high score there does not count.
    decoded = one(windows, {"w1_3": 8, "w0_5": 1}, {"w1_3": 8, "w0_5": 1, "w1_4": 0})
    assert decoded.best.text == "c" and decoded.best.start_logit == 1
    assert decoded.best.window == 0
    nulls = {"w0_0": 5, "w1_0": -1, "w2_0": 7}
    decoded = one(windows, {**nulls, "w0_5": 1}, {**nulls, "w0_5": 1}, version_2_with_negative=True)
    assert decoded.null_odds == -4  # Of the window where it scores least.


def test_the_same_text_counts_once(tokenizer):
    windows = convert_examples_to_features([example("a a a", "h")], tokenizer, 12, 4, 4, False)
    decoded = one(windows, {"w0_3": 1, "w0_5": 2}, {"w0_3": 1, "w0_5": 2})
    assert [c.text for c in decoded.n_best][:2] == ["a", "a a a"]
    assert [c.text for c in decoded.n_best].count("a") == 1 and decoded.best.begin == 4


def test_a_context_without_words(tokenizer):
    windows = convert_examples_to_features(
        [example(" "), example("b", "h")], tokenizer, 12, 4, 4, False
    )
    empty = np.zeros((1, 12), np.float32)
    first, second = decode(windows, empty, empty)
    assert [c.text for c in first.n_best] == [""] and second.best.text == "b"
    first, second = decode(windows, empty, empty, version_2_with_negative=True)
    assert first.chosen().text == "" and second.null_odds == 0


def test_scores_that_are_not_finite(windows):
    with pytest.raises(UserError, match="question q: the model's scores are not finite"):
        one(windows, {"w0_2": np.nan}, {})


def by_the_originals_loops(windows, starts, ends, n_best_size, max_answer_length):
    """(start + end, window, start, end) of one example's candidates, the best first."""
    best_around = {}
    for window in range(len(windows)):
        for piece in range(windows.starts[window], windows.starts[window] + windows.sizes[window]):
            left = piece - windows.starts[window]
            right = windows.sizes[window] - 1 - left
            score = min(left, right) + 0.01 * windows.sizes[window]
            if piece not in best_around or score > best_around[piece][0]:
                best_around[piece] = (score, window)
    found = []
    for window in range(len(windows)):
        length = windows.features.lengths[window]
        first, last = windows.offsets[window], windows.offsets[window] + windows.sizes[window]
        highest = [
            sorted(range(length), key=lambda i: scores[window][i], reverse=True)[:n_best_size]
            for scores in (starts, ends)
        ]
        for start in highest[0]:
            for end in highest[1]:
                inside = first <= start <= end < last and end - start < max_answer_length
                piece = start - first + windows.starts[window]
                if inside and best_around[piece][1] == window:
                    score = float(starts[window][start]) + float(ends[window][end])
                    found.append((score, window, start, end))
    return sorted(found, key=lambda row: row[0], reverse=True)


def test_random_scores_as_in_the_originals_loops(tokenizer):
    rng = np.random.default_rng(0)
    for _ in range(20):
        context = " ".join(rng.choice(list("abcdefg"), int(rng.integers(1, 30))))
        windows = convert_examples_to_features([example(context, "h")], tokenizer, 12, 4, 4, False)
        # Ties are frequent.
        starts, ends = rng.integers(-4, 4, (2, len(windows), 12)).astype(np.float32)
        (decoded,) = decode(windows, starts, ends, 5, 4)
        expected = []
        for score, window, start, end in by_the_originals_loops(windows, starts, ends, 5, 4):
            shift = windows.starts[window] - windows.offsets[window]
            text = " ".join(context.split()[start + shift : end + shift + 1])
            if text not in [row[0] for row in expected]:
                expected.append((text, score))
        if expected:
            found = [(c.text, c.start_logit + c.end_logit) for c in decoded.n_best]
            assert found == expected[:5]


def test_340m(shared):
    """The known question: pieces 41 and 42, cut from the context; and never backwards."""
    known = json.loads((shared / "data/examples/squad_logits.json").read_text("utf-8"))
    tokenizer = FullTokenizer(str(shared / "vocab/bert-base-uncased/vocab.txt"))
    windows = convert_examples_to_features(
        [example(known["context"], known["question"])], tokenizer, 384, 128, 64, False
    )
    assert windows.features.lengths.tolist() == [known["tokens"]]
    starts = np.array([known["start_logits"]])
    ends = np.array([known["end_logits"]])
    (decoded,) = decode(windows, starts, ends)
    assert decoded.best.text == known["answer_text"] == "340M"
    assert (decoded.best.start_logit, decoded.best.end_logit) == (starts[0, 41], ends[0, 42])
    (swapped,) = decode(windows, ends, starts)
    assert all(c.end > c.begin for c in swapped.n_best)
    assert all(known["context"][c.begin : c.end] == c.text for c in swapped.n_best)


@pytest.mark.parametrize("number", range(3))
def test_token_counts_of_known_questions(shared, number):
    known = json.loads((shared / "data/examples/questions.json").read_text("utf-8"))[number]
    tokenizer = FullTokenizer(str(shared / "vocab/bert-base-uncased/vocab.txt"))
    windows = convert_examples_to_features(
        [example(known["context"], known["question"])], tokenizer, 384, 128, 64, False
    )
    assert windows.features.lengths.tolist() == [known["tokens"]]
