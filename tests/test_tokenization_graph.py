"""The tokenizer of a SavedModel against FullTokenizer, string by string."""

import functools
import gzip
import json
import pathlib
import random
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
import tensorflow as tf

from bert_tools.errors import UserError
from bert_tools.inputs.features import convert_texts
from bert_tools.tokenization import FullTokenizer
from bert_tools.tokenization_graph import GraphTokenizer

DATA = pathlib.Path(__file__).parent / "data"
LOWER_CASE = {"bert-base-uncased": True, "bert-base-cased": False, "bert-base-chinese": True}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# Letters of every script with case, what folds to several characters, Hangul, marks that strip or
# stay (with and without a combining class), ignorable characters, punctuation, white space.
TRAPS = (
    "abAÉéİıßſKÅΣσςΑάᾳΐΰᾼ\u0345ǅǰ각한각가힣᾽ʰ'’·.:中國，。豈﨎𠀀丽！ａ１[SEP]😀 \t\n\r"
    "\x00\x0b\x1c\x85\xa0\xad\u200b\u200d\u2000\u2028\u2029\u3000\ufeff\ufffd\U000e0001\u0301\u0316\u0323\u0327\u0338"
    "\u0901\u094d\u166d\u1734\u1715\u1b44\ua953\ua9bd\ua9c0\u302e\u302f\U0001d165\U0001d16d\u20dd"
)


def toy(words, **kwargs):
    tokens = dict.fromkeys([*SPECIAL, *words])
    return FullTokenizer(vocab={token: index for index, token in enumerate(tokens)}, **kwargs)


def different(tokenizer, graph, texts):
    """(text, expected ids, ids) of the texts whose ids differ."""
    expected = [tokenizer.encode(text) for text in texts]
    ids = graph.tokenize(texts)
    assert ids.dtype == tf.int32 and ids.shape.as_list() == [len(texts), None]
    rows = zip(texts, expected, ids.to_list(), strict=True)
    return [(ascii(text), wanted, got) for text, wanted, got in rows if wanted != got][:5]


@pytest.fixture(scope="module")
def tokenizers(shared):
    """{vocabulary's name: (FullTokenizer, GraphTokenizer)}"""
    found = {}
    for name, lower in LOWER_CASE.items():
        tokenizer = FullTokenizer(str(shared / "vocab" / name / "vocab.txt"), lower)
        found[name] = tokenizer, GraphTokenizer(tokenizer)
    return found


def stsb_pairs(shared):
    pairs = []
    for language in ("en", "zh"):
        for split in ("train", "dev", "test"):
            path = shared / "data" / "stsb" / language / f"{split}.tsv"
            pairs += [line.split("\t")[:2] for line in path.read_text("utf-8").split("\n")[:-1]]
    return pairs


@pytest.mark.parametrize("name", LOWER_CASE)
def test_every_stsb_sentence(name, tokenizers, shared):
    texts = [text for pair in stsb_pairs(shared) for text in pair]
    assert len(texts) > 30000
    assert not different(*tokenizers[name], texts)


@pytest.mark.parametrize("name", LOWER_CASE)
def test_random_strings(name, tokenizers):
    """10,000 strings of code points that Unicode 11 assigns."""
    texts = json.loads(gzip.decompress((DATA / "random_tokens.json.gz").read_bytes()))["texts"]
    assert len(texts) == 10000
    assert not different(*tokenizers[name], texts)


@pytest.mark.parametrize("name", LOWER_CASE)
def test_traps(name, tokenizers):
    texts = [
        trap["text"] for trap in json.loads((DATA / "tokenizer_traps.json").read_text("ascii"))
    ]
    assert len(texts) == 339
    assert not different(*tokenizers[name], texts)


@functools.cache
def spelling(lower, strip, chinese):
    """(FullTokenizer, GraphTokenizer) that spell all of TRAPS: nothing hides behind [UNK]."""
    folded = TRAPS + unicodedata.normalize("NFD", TRAPS + TRAPS.lower())
    tokenizer = toy(
        [prefix + char for char in folded for prefix in ("", "##")],
        do_lower_case=lower,
        strip_accents=strip,
        tokenize_chinese_chars=chinese,
    )
    return tokenizer, GraphTokenizer(tokenizer)


@pytest.fixture(scope="module")
def small():
    return spelling(True, True, True)


@pytest.mark.parametrize("chinese", [True, False])
@pytest.mark.parametrize("strip", [True, False])
@pytest.mark.parametrize("lower", [True, False])
def test_traps_with_all_switches(lower, strip, chinese):
    rng = random.Random(0)
    texts = ["".join(rng.choices(TRAPS, k=rng.randrange(20))) for _ in range(3000)]
    texts += [f"{a}{b}" for a in TRAPS for b in TRAPS]
    texts += [text.replace("-", char) for char in TRAPS for text in ("aΣ-", "a-Σ", "-Σ", "aΣ-b")]
    assert not different(*spelling(lower, strip, chinese), texts)


def test_every_code_point_of_the_planes_in_use():
    codes = [*range(0xD800), *range(0xE000, 0x33480), *range(0xE0000, 0xE1000), 0x10FFFF]
    # The letter between two code points tells whether each stays, goes, or splits the word.
    texts = ["x".join(map(chr, codes[i : i + 50])) for i in range(0, len(codes), 50)]
    assigned = [char for char in map(chr, codes) if unicodedata.category(char) not in ("Cn", "Co")]
    folded = "".join(assigned + [unicodedata.normalize("NFD", c.lower()) for c in assigned])
    tokenizer = toy(prefix + char for char in dict.fromkeys(folded) for prefix in ("", "##"))
    assert not different(tokenizer, GraphTokenizer(tokenizer), texts)


@pytest.mark.parametrize("char", ["a", "é", "中", "😀"])
def test_long_words_count_characters_not_bytes(small, char):
    texts = [f"b {char * n} c" for n in (100, 101, 199, 200, 201, 900)]
    assert not different(*small, texts)
    known = [1 not in row for row in small[1].tokenize(["a" * 200, "a" * 201]).to_list()]
    assert known == [True, False]


def test_invalid_utf8_is_dropped(small):
    rng = random.Random(1)
    texts = [
        bytes(rng.choices(b"ab \xc3\xa9\xe4\xb8\xad\xf0\x9f\xed\xa0\x80\xff", k=9))
        for _ in range(3000)
    ]
    texts = [b"a\xffa", b"\xe4\xb8", b"\xed\xa0\x80a", b"\xc0\x80", b"\xf5a", *texts]
    ids = small[1].tokenize(texts).to_list()
    assert ids[0] == small[0].encode("aa")
    assert ids == [small[0].encode(text.decode("utf-8", "replace")) for text in texts]


def test_no_texts_and_empty_texts(small):
    assert small[1].tokenize(tf.constant([], tf.string)).to_list() == []
    word = small[0].encode("a")
    assert small[1].tokenize(["", " ", "\x00", "a", ""]).to_list() == [[], [], [], word, []]


def test_vocabulary_with_repeated_tokens_gaps_and_useless_tokens(tmp_path):
    words = [
        "a",
        "[UNK]",
        "##b",
        "",
        "[CLS]",
        "a",
        "##",
        "[SEP]",
        "x\0y",
        "[",
        "中b",
        "c d",
        "##b",
        "é",
    ]
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(words), encoding="utf-8")
    tokenizer = FullTokenizer(str(path))
    assert tokenizer.encode("ab") == [5, 12]
    texts = ["ab a b ac x\0y ##b ## [UNK] 中b c d é", "abb[a", "[CLS] a"]
    assert not different(tokenizer, GraphTokenizer(tokenizer), texts)


def test_a_token_that_is_too_long_is_refused():
    with pytest.raises(UserError, match=r"does not fit a SavedModel: .*exceeds.*remove that token"):
        GraphTokenizer(toy(["a" * 257]))


def assert_as_convert_texts(tokenizer, inputs, texts_a, texts_b, max_seq_length, pad_to_max=False):
    features = convert_texts(texts_a, texts_b, max_seq_length, tokenizer)
    width = max_seq_length if pad_to_max else features.lengths.max()
    inside = np.arange(width) < features.lengths[:, None]
    expected = {name: np.zeros(inside.shape, np.int32) for name in inputs}
    expected["input_ids"][inside] = features.input_ids
    expected["segment_ids"][inside] = features.segment_ids
    expected["input_mask"][inside] = 1
    assert set(inputs) == {"input_ids", "input_mask", "segment_ids"}
    for name, values in inputs.items():
        assert values.dtype == tf.int32
        np.testing.assert_array_equal(values, expected[name], name)


@pytest.mark.parametrize("max_seq_length", [3, 4, 5, 6, 7, 8, 13, 30])
def test_inputs_and_truncation_as_convert_texts(small, max_seq_length):
    tokenizer, graph = small
    counts = [(a, b) for a in range(10) for b in range(10)]
    texts_a, texts_b = (["a b" * n for n in column] for column in zip(*counts, strict=True))
    for pad in (False, True):
        for second in (texts_b, None, ["\n"] * len(texts_a)):
            inputs = graph.model_inputs(
                texts_a, second, max_seq_length=max_seq_length, pad_to_max=pad
            )
            assert_as_convert_texts(tokenizer, inputs, texts_a, second, max_seq_length, pad)


@pytest.mark.parametrize("max_seq_length", [16, 128])
def test_stsb_pairs_as_convert_texts(tokenizers, shared, max_seq_length):
    texts_a, texts_b = (list(column) for column in zip(*stsb_pairs(shared)[::7], strict=True))
    for tokenizer, graph in tokenizers.values():
        inputs = graph.model_inputs(texts_a, texts_b, max_seq_length=max_seq_length)
        assert_as_convert_texts(tokenizer, inputs, texts_a, texts_b, max_seq_length)


def test_max_seq_length_without_room_is_refused(small):
    with pytest.raises(UserError, match="--max_seq_length=2"):
        small[1].model_inputs(["a"], max_seq_length=2)


class Served(tf.Module):
    """A model that takes pairs of texts."""

    def __init__(self, graph):
        super().__init__()
        self.tokenizer = graph

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)] * 2)
    def __call__(self, texts_a, texts_b):
        return self.tokenizer.model_inputs(texts_a, texts_b, max_seq_length=24)


LOAD = """
import json, sys
import tensorflow as tf
import tensorflow_text
served = tf.saved_model.load(sys.argv[1])
assert "bert_tools" not in sys.modules
with open(sys.argv[2]) as file:
    a, b = (tf.constant(texts) for texts in json.load(file))
inputs = {name: values.numpy().tolist() for name, values in served(a, b).items()}
signature = served.signatures["serving_default"](texts_a=a, texts_b=b)
inputs["signature"] = signature["input_ids"].numpy().tolist()
inputs["tokens"] = served.tokenizer.tokenize(a).to_list()
with open(sys.argv[3], "w") as file:
    json.dump(inputs, file)
"""


def test_saved_model_in_another_process(tmp_path, small):
    tokenizer, graph = small
    served, folder = Served(graph), tmp_path / "model"
    tf.saved_model.save(served, str(folder), signatures=served.__call__)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size < 2e6  # The tables are small beside any model.

    rng = random.Random(2)
    texts_a, texts_b = (
        ["".join(rng.choices(TRAPS, k=rng.randrange(40))) for _ in range(500)] for _ in range(2)
    )
    asked, answered = tmp_path / "texts.json", tmp_path / "inputs.json"
    asked.write_text(json.dumps([texts_a, texts_b]))
    command = [sys.executable, "-c", LOAD, str(folder), str(asked), str(answered)]
    subprocess.run(command, check=True, cwd=tmp_path)
    inputs = json.loads(answered.read_text())
    assert inputs.pop("tokens") == [tokenizer.encode(text) for text in texts_a]
    assert inputs.pop("signature") == inputs["input_ids"]
    inputs = {name: tf.constant(values, tf.int32) for name, values in inputs.items()}
    assert_as_convert_texts(tokenizer, inputs, texts_a, texts_b, 24)
