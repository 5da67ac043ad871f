"""Words with tags as features: by hand, in windows, and over the whole of real files."""

import numpy as np
import pytest

from bert_tools import tokenization_subword
from bert_tools.inputs import conll
from bert_tools.inputs.conll import Sentence
from bert_tools.inputs.word_features import convert_sentences_to_features
from bert_tools.tokenization import FullTokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh", "##x", "##y"]
LABELS = ["O", "B-X", "I-X"]


@pytest.fixture(scope="module")
def tokenizer():
    return FullTokenizer(vocab={word: index for index, word in enumerate(WORDS)})


def sentence(words, tags=None):
    return Sentence(1, 0, [], words.split(" "), tags and tags.split())


def rows(features, tokenizer):
    """(the tokens of each row, the tag of each that counts)."""
    found = []
    for row in range(len(features)):
        ids = features.part(row, row + 1).input_ids.tolist()
        marks = features.columns["label_ids"][row]
        assert not marks[len(ids) :].any()
        tags = {place: LABELS[mark - 1] for place, mark in enumerate(marks) if mark}
        found.append((" ".join(tokenizer.convert_ids_to_tokens(ids)), tags))
    return found


def test_by_hand(tokenizer):
    """The tag stands on a word's first piece; a word without a piece is unknown."""
    features = convert_sentences_to_features(
        [sentence("axy \u200b b", "B-X I-X O"), sentence("zz\u200b \u200b", "O O")],
        LABELS,
        8,
        tokenizer,
    )
    assert rows(features, tokenizer) == [
        ("[CLS] a ##x ##y [UNK] b [SEP]", {1: "B-X", 4: "I-X", 5: "O"}),
        ("[CLS] [UNK] [UNK] [SEP]", {1: "O", 2: "O"}),
    ]
    assert features.columns["sentence"].tolist() == [0, 1]
    assert features.columns["words_per_row"].tolist() == [2.5, 2.5]
    assert not features.segment_ids.any()


def test_windows_by_hand(tokenizer):
    """Room for four pieces; each word counts once to be scored, wherever it stands to be learnt."""
    long = [sentence("a b c d e f g h", "B-X O O O O O O I-X")]
    scored = rows(convert_sentences_to_features(long, LABELS, 6, tokenizer), tokenizer)
    assert [text for text, _ in scored] == [
        "[CLS] a b c d [SEP]",
        "[CLS] d e f g [SEP]",
        "[CLS] g h [SEP]",
    ]
    assert [list(tags) for _, tags in scored] == [[1, 2, 3, 4], [2, 3, 4], [2]]
    learnt = rows(convert_sentences_to_features(long, LABELS, 6, tokenizer, True), tokenizer)
    assert [text for text, _ in learnt] == [text for text, _ in scored]
    assert [len(tags) for _, tags in learnt] == [4, 4, 2]


def test_no_word_loses_its_tag(tokenizer):
    """Whatever the lengths, words longer than the model among them."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        width = int(rng.integers(3, 12))
        sizes = rng.integers(1, rng.choice([2, 4, 9]) + 1, rng.integers(1, 30))
        words = ["a" + "x" * (size - 1) for size in sizes]
        tags = [LABELS[place % 3] for place in range(len(words))]
        given = [Sentence(1, 0, [], words, tags)] * 2
        features = convert_sentences_to_features(given, LABELS, width, tokenizer)
        assert features.lengths.max() <= width
        for number in range(2):
            own = features.columns["sentence"] == number
            marks = features.columns["label_ids"][own]
            assert [LABELS[mark - 1] for mark in marks[marks > 0]] == tags
        # What counts is a first piece.
        first = tokenizer.vocab["a"]
        for row in range(len(features)):
            ids = features.part(row, row + 1).input_ids
            assert (ids[np.flatnonzero(features.columns["label_ids"][row])] == first).all()


def test_subwords_hold_the_blank_before_them(shared):
    """As transformers' RobertaTokenizerFast(add_prefix_space=True) of words that are split."""
    folder = shared / "vocab" / "roberta-base"
    roberta = tokenization_subword.read_byte_level_bpe(
        str(folder / "vocab.json"), str(folder / "merges.txt")
    )
    given = [sentence("EU rejects 1996-08-22 naïve", "B-X O O O")]
    features = convert_sentences_to_features(given, LABELS, 32, roberta)
    tokens = roberta.convert_ids_to_tokens(features.input_ids.tolist())
    assert tokens == ["<s>", "ĠEU", "Ġrejects", "Ġ1996", "-", "08", "-", "22", "ĠnaÃ¯ve", "</s>"]
    assert np.flatnonzero(features.columns["label_ids"][0]).tolist() == [1, 2, 3, 8]


def test_whole_files(shared):
    """CoNLL 2003 and People's Daily: every word has its tag."""
    for data, vocabulary in (
        ("conll/valid.txt", "bert-base-uncased"),
        ("peopledaily_ner/dev.txt", "bert-base-chinese"),
    ):
        path = str(shared / "data" / data)
        tokenizer = FullTokenizer(str(shared / "vocab" / vocabulary / "vocab.txt"))
        sentences, _ = conll.load_sentences(path, 0, -1)
        labels = conll.labels_of(sentences)
        sentences, _ = conll.repaired(sentences, labels, path)
        for width in (128, 20):
            features = convert_sentences_to_features(sentences, labels, width, tokenizer)
            marks = features.columns["label_ids"]
            found = [labels[mark - 1] for mark in marks[marks > 0]]
            assert found == [tag for s in sentences for tag in s.tags]
