"""The tokenizer against ids that the original tokenization.py gave on Python 3.7 (Unicode 11)."""

import gzip
import hashlib
import itertools
import json
import pathlib

import numpy as np
import pytest

from bert_tools import tokenization
from bert_tools.errors import UserError
from bert_tools.hub import model as models
from bert_tools.tokenization import FullTokenizer

DATA = pathlib.Path(__file__).parent / "data"
LOWER_CASE = {
    "bert-base-uncased": True,
    "bert-base-cased": False,
    "bert-base-chinese": True,
    "bert-base-multilingual-cased": False,
}
STSB = json.loads((DATA / "stsb_tokens.json").read_text("ascii"))
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##aff", "##able", "runn", "##ing"]


@pytest.fixture(scope="module")
def tokenizers(shared):
    """{vocabulary's name: FullTokenizer}"""
    return {
        name: FullTokenizer(str(shared / "vocab" / name / "vocab.txt"), lower)
        for name, lower in LOWER_CASE.items()
    }


def toy(more=(), **kwargs):
    words = [*WORDS, *more]
    return FullTokenizer(vocab={word: index for index, word in enumerate(words)}, **kwargs)


def sha256(array, dtype):
    assert array.dtype == dtype
    return hashlib.sha256(array.astype(dtype).tobytes()).hexdigest()


@pytest.mark.parametrize("pinned", STSB, ids=lambda p: f"{p['language']}-{p['vocabulary']}")
def test_every_stsb_sentence_as_the_original(pinned, tokenizers, shared):
    texts = []
    for split in ("train", "dev", "test"):
        path = shared / "data" / "stsb" / pinned["language"] / f"{split}.tsv"
        for line in path.read_text("utf-8").split("\n")[:-1]:
            texts += line.split("\t")[:2]
    tokenizer = tokenizers[pinned["vocabulary"]]
    assert tokenizer.do_lower_case == pinned["do_lower_case"]
    ids, offsets = tokenizer.encode_batch(texts)
    assert len(texts) == pinned["sentences"] and len(ids) == pinned["ids"]
    assert np.count_nonzero(ids == tokenizer.unk_id) == pinned["unknown"]
    assert sha256(ids, "<i4") == pinned["ids_sha256"]
    assert sha256(offsets, "<i8") == pinned["offsets_sha256"]


def test_traps_as_the_original(tokenizers):
    """Words of 99 to 202 characters, "[SEP]" in the text, NUL, U+FFFD, controls, full width, ..."""
    traps = json.loads((DATA / "tokenizer_traps.json").read_text("ascii"))
    differ = []
    for trap in traps:
        for name, expected in trap["ids"].items():
            ids = tokenizers[name].encode(trap["text"])
            if isinstance(expected, dict):  # Long: count and digest stand for it.
                digest = hashlib.sha256(np.array(ids, "<i4").tobytes()).hexdigest()
                ids = {"count": len(ids), "sha256": digest}
            if ids != expected:
                differ.append((trap["name"], name, ids, expected))
    assert len(traps) == 339 and not differ


def test_random_strings_as_the_original(tokenizers):
    """10,000 strings of code points that Unicode 11 assigns."""
    pinned = json.loads(gzip.decompress((DATA / "random_tokens.json.gz").read_bytes()))
    assert len(pinned["texts"]) == 10000 and len(pinned["vocabularies"]) == 3
    for name, expected in pinned["vocabularies"].items():
        ids, offsets = tokenizers[name].encode_batch(pinned["texts"])
        for index, wanted in enumerate(expected["first"]):
            assert ids[offsets[index] : offsets[index + 1]].tolist() == wanted, (name, index)
        assert sha256(offsets, "<i8") == expected["offsets_sha256"], name
        assert sha256(ids, "<i4") == expected["ids_sha256"], name


@pytest.mark.parametrize(
    "text, pieces",
    [
        ("a\u166db", ["a", "\u166d", "b"]),  # Punctuation until Unicode 12.
        ("a\u1734b", ["ab"]),  # A non-spacing mark until Unicode 14.
        ("a\ua9bdb", ["a\ua9bdb"]),  # A spacing mark until Unicode 12.
    ],
)
def test_categories_are_those_of_unicode_11_on_every_python(text, pieces):
    tokenizer = toy(["a", "b", "\u166d", "ab", "a\ua9bdb"])
    assert tokenizer.tokenize(text) == pieces


def test_tokenize_and_convert():
    tokenizer = toy([","])
    tokens = tokenizer.tokenize("UNaffable,running")
    assert tokens == ["un", "##aff", "##able", ",", "runn", "##ing"]
    ids = tokenizer.convert_tokens_to_ids(tokens)
    assert ids == [5, 6, 7, 10, 8, 9] == tokenizer.encode("UNaffable,running")
    assert tokenizer.convert_ids_to_tokens(ids) == tokens
    with pytest.raises(KeyError):
        tokenizer.convert_tokens_to_ids(["absent"])


def test_a_word_with_an_unknown_part_is_one_unknown():
    assert toy().tokenize("un unx unaffable") == ["un", "[UNK]", "un", "##aff", "##able"]


@pytest.mark.parametrize("length, known", [(100, True), (101, True), (200, True), (201, False)])
def test_longest_word(length, known):
    tokenizer = toy(["a", "##a"])
    expected = ["a"] + ["##a"] * (length - 1) if known else ["[UNK]"]
    assert tokenizer.tokenize("a" * length) == expected


def test_specials_in_the_text_are_plain_text():
    tokenizer = toy(["[", "]", "sep", "mask", "SEP"])
    assert tokenizer.tokenize("[SEP] [MASK]") == ["[", "sep", "]", "[", "mask", "]"]
    assert toy(["[", "]", "SEP"], do_lower_case=False).tokenize("[SEP]") == ["[", "SEP", "]"]


def test_casing_and_accents():
    words = ["e", "é", "E", "É"]
    texts = "e é E É"
    assert toy(words).tokenize(texts) == ["e"] * 4
    assert toy(words, do_lower_case=False).tokenize(texts) == words
    assert toy(words, strip_accents=False).tokenize(texts) == ["e", "é", "e", "é"]
    assert toy(words, do_lower_case=False, strip_accents=True).tokenize(texts) == list("eeEE")


def test_chinese_characters_are_set_apart_unless_told_otherwise():
    words = ["中", "国", "中国", "，"]
    assert toy(words).tokenize("中国，中国") == ["中", "国", "，", "中", "国"]
    assert toy(words, tokenize_chinese_chars=False).tokenize("中国，中国") == ["中国", "，", "中国"]


def test_batch_equals_texts_one_by_one():
    tokenizer = toy(["a", "##b", "中"])
    texts = ["ab un", "", "中中 a", "  ", "unaffable zz"]
    ids, offsets = tokenizer.encode_batch(iter(texts))
    assert (ids.dtype, offsets.dtype) == (np.int32, np.int64)
    parts = [ids[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    assert parts == [tokenizer.encode(text) for text in texts]
    ids, offsets = tokenizer.encode_batch([])
    assert ids.tolist() == [] and offsets.tolist() == [0] and ids.dtype == np.int32


def test_memory_of_words_is_bounded(monkeypatch):
    monkeypatch.setattr(tokenization, "_CACHED_WORDS", 3)
    tokenizer = toy(["a", "##a"])
    for _ in range(2):
        for length in range(1, 20):
            assert len(tokenizer.encode("a" * length)) == length
            assert len(tokenizer._words) <= 3


def test_fingerprint_of_a_vocabulary_with_a_line_twice(tmp_path):
    """As it is written and read again: the first of the two lines is blank then."""
    lines = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "foo", "bar", "foo"]
    (tmp_path / "vocab.txt").write_text("\n".join(lines) + "\n")
    first = FullTokenizer(str(tmp_path / "vocab.txt"))
    models.write_vocabulary(str(tmp_path / "again.txt"), first)
    again = FullTokenizer(str(tmp_path / "again.txt"))
    assert first.encode("foo bar") == again.encode("foo bar") == [6, 5]
    assert first.fingerprint() == again.fingerprint()


def test_fingerprint_tells_tokenizers_apart():
    different = [
        toy(),
        toy(["a"]),
        toy(["b"]),
        toy(["a", "b"]),
        toy(["b", "a"]),
        toy(do_lower_case=False),
        toy(strip_accents=False),
        toy(tokenize_chinese_chars=False),
    ]
    assert len({tokenizer.fingerprint() for tokenizer in different}) == len(different)
    assert toy(["a"]).fingerprint() == toy(["a"]).fingerprint()


def write_vocabulary(tmp_path, content):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    return str(path)


def test_load_vocab(tmp_path):
    path = write_vocabulary(tmp_path, "[UNK]\n[CLS]\r\n [SEP] \nx\u2028y\nlast".encode())
    vocab = tokenization.load_vocab(path)
    assert vocab == {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "x\u2028y": 3, "last": 4}


def test_real_vocabularies_have_the_known_sizes(tokenizers):
    sizes = {name: max(tokenizer.inv_vocab) + 1 for name, tokenizer in tokenizers.items()}
    assert sizes == {
        "bert-base-uncased": 30522,
        "bert-base-cased": 28996,
        "bert-base-chinese": 21128,
        "bert-base-multilingual-cased": 119547,
    }


@pytest.mark.parametrize(
    "content, said",
    [
        (b"[UNK]\n[CLS]\na\n", r"lacks \[SEP\]"),
        (b"", r"lacks \[UNK\], \[CLS\], \[SEP\]"),
        (b"[UNK]\n[CLS]\n[SEP]\n\xff\xfe\n", "UTF-8"),
    ],
)
def test_bad_vocabulary(tmp_path, content, said):
    with pytest.raises(UserError, match=f"vocab.txt: .*{said}"):
        FullTokenizer(write_vocabulary(tmp_path, content))


def test_absent_vocabulary(tmp_path):
    with pytest.raises(UserError, match=r"none\.txt: no such vocabulary"):
        FullTokenizer(str(tmp_path / "none.txt"))
    with pytest.raises(UserError, match=str(tmp_path)):
        FullTokenizer(str(tmp_path))


@pytest.mark.parametrize(
    "folder, do_lower_case, fits",
    [
        ("uncased_L-12_H-768_A-12", True, True),
        ("uncased_L-12_H-768_A-12", False, False),
        ("multilingual_L-12_H-768_A-12", False, False),
        ("chinese_L-12_H-768_A-12", False, False),
        ("chinese_L-12_H-768_A-12", True, True),
        ("cased_L-24_H-1024_A-16", True, False),
        ("cased_L-24_H-1024_A-16", False, True),
        ("multi_cased_L-12_H-768_A-12", True, False),
        ("mine", True, True),
        ("mine", False, True),
    ],
)
def test_casing_check(folder, do_lower_case, fits):
    checkpoint = f"/models/{folder}/bert_model.ckpt"
    if fits:
        tokenization.validate_case_matches_checkpoint(do_lower_case, checkpoint)
    else:
        remedy = f"pass --do_lower_case={str(not do_lower_case).lower()}"
        with pytest.raises(UserError, match=remedy) as caught:
            tokenization.validate_case_matches_checkpoint(do_lower_case, checkpoint)
        assert f"--init_checkpoint={checkpoint}" in str(caught.value)


def test_casing_check_without_a_checkpoint():
    tokenization.validate_case_matches_checkpoint(False, None)
    tokenization.validate_case_matches_checkpoint(False, "")


@pytest.mark.parametrize(
    "text, spans",
    [
        ("un UNAFFABLE,", ["un", "UN", "AFF", "ABLE", ","]),
        ("\u00e9un e\u0301 x", ["\u00e9un", "e\u0301", "x"]),  # An accent stays with its letter.
        ("un\u0000aff", ["un", "aff"]),
        ("\u4f60un\u4f60", ["\u4f60", "un", "\u4f60"]),
        ("zz,un", ["zz", ",", "un"]),  # [UNK] is the word up to the comma.
        ("\u0130un", ["\u0130un"]),  # Longer in lower case: one [UNK].
        (" ", []),
    ],
)
def test_where_the_pieces_stand(text, spans):
    tokenizer = toy([",", "e", "\u4f60", "x"])
    ids, found = tokenizer.encode_spans(text)
    assert ids == tokenizer.encode(text)
    assert [text[begin:end] for begin, end in found] == spans


def test_pieces_of_random_strings_stand_where_they_came_from(tokenizers):
    pinned = json.loads(gzip.decompress((DATA / "random_tokens.json.gz").read_bytes()))
    for text in pinned["texts"][:2000]:
        for tokenizer in tokenizers.values():
            ids, spans = tokenizer.encode_spans(text)
            assert ids == tokenizer.encode(text)
            assert all(0 <= begin < end <= len(text) for begin, end in spans)
            assert [begin for begin, _ in spans] == sorted(begin for begin, _ in spans)
