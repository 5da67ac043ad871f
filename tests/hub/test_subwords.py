"""Byte-level BPE and SentencePiece unigram: pinned ids are transformers 4.57's RobertaTokenizer,
others those of SentencePiece itself (through tensorflow_text) and of the `tokenizers` library.
"""

import collections
import hashlib
import itertools
import json
import pathlib
import struct
import unicodedata

import hub_toys as toys
import numpy as np
import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from bert_tools import hub, tokenization_subword
from bert_tools.errors import UserError
from bert_tools.hub import huggingface
from bert_tools.inputs import features
from bert_tools.tokenization_subword import SubwordTokenizer

DATA = pathlib.Path(__file__).parents[1] / "data"
PINNED = json.loads((DATA / "stsb_roberta.json").read_text("ascii"))
PIECES = [
    ("<unk>", 0.0, 2),
    ("<s>", 0.0, 3),
    ("</s>", 0.0, 3),
    ("▁", -3.0, 1),
    ("▁the", -3.5, 1),
    ("▁ca", -4.0, 1),
    ("t", -4.5, 1),
    ("ts", -4.75, 1),
    ("s", -5.0, 1),
    ("a", -5.5, 1),
    ("猫", -6.0, 1),
]


def stsb(shared, language):
    """All pairs of STS-B."""
    pairs = []
    for split in ("train", "dev", "test"):
        path = shared / "data" / "stsb" / language / f"{split}.tsv"
        pairs += [line.split("\t")[:2] for line in path.read_text("utf-8").split("\n")[:-1]]
    return pairs


@pytest.fixture(scope="module")
def roberta(shared):
    folder = shared / "vocab" / "roberta-base"
    return tokenization_subword.read_byte_level_bpe(
        str(folder / "vocab.json"), str(folder / "merges.txt")
    )


def toy_library():
    """A tokenizer of XLM-R's kind, as the library trains it."""
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120,
        show_progress=False,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        unk_token="<unk>",
    )
    lines = ["the cats sit on the mat", "a cat sat there", "猫坐在垫子上", "those mats, these cats"]
    tokenizer.train_from_iterator(lines * 5, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return tokenizer


def sentencepiece_bytes(pieces, unknown=0, kind=1):
    """A ModelProto of sentencepiece_model.proto."""

    def field(number, payload):
        assert len(payload) < 128
        return bytes([number * 8 + 2, len(payload)]) + payload

    body = b"".join(
        field(1, field(1, piece.encode()) + b"\x15" + struct.pack("<f", score) + bytes([24, what]))
        for piece, score, what in pieces
    )
    # unk_id is field 40, whose number takes two bytes. The second message: no charsmap.
    return body + field(2, bytes([24, kind]) + b"\xc0\x02" + bytes([unknown])) + field(3, b"")


def by_sentencepiece(model, texts):
    import tensorflow_text

    return tensorflow_text.SentencepieceTokenizer(model).tokenize(texts).to_list()


def assert_cut_alike(found, expected):
    """The same ids; where they differ, two cuts of the same likelihood: the same pieces."""
    differ = [(a, b) for a, b in zip(found, expected, strict=True) if a != b]
    assert len(differ) <= len(expected) / 500
    for first, second in differ:
        assert collections.Counter(first) == collections.Counter(second)


@pytest.mark.parametrize("pinned", PINNED, ids=lambda p: f"{p['language']}-{p['width']}")
def test_every_stsb_pair_as_roberta(pinned, roberta, shared):
    """Special tokens and truncation included."""
    pairs = stsb(shared, pinned["language"])
    found = features.convert_texts(*zip(*pairs, strict=True), pinned["width"], roberta)
    assert len(found) == pinned["pairs"] and len(found.input_ids) == pinned["ids"]
    assert not found.segment_ids.any()
    for name in ("input_ids", "offsets"):
        array = getattr(found, name)
        digest = hashlib.sha256(array.astype("<i8").tobytes()).hexdigest()
        assert digest == pinned[f"{name}_sha256"]


def test_layout_of_roberta(roberta):
    assert (roberta.cls_id, roberta.sep_id, roberta.pair_separators) == (0, 2, 2)
    a, b = roberta.encode("a cat"), roberta.encode("b")
    for text, expected in (("b", [0, *a, 2, 2, *b, 2]), (None, [0, *a, 2])):
        found = features.convert_texts(["a cat"], [text], 16, roberta)
        assert found.input_ids.tolist() == expected
        assert found.segment_ids.tolist() == [0] * len(expected)
    assert roberta.encode("x<mask>y") == [*roberta.encode("x"), 50264, *roberta.encode("y")]
    assert roberta.tokenize("a cat") == ["a", "Ġcat"]
    assert roberta.convert_tokens_to_ids(["a", "Ġcat"]) == a
    assert roberta.encode("") == [] and roberta.encode("\ud800") == roberta.encode("?")


def test_windows_of_pairs(roberta):
    long, short = "one two three four five six seven eight", "nine ten"
    found = features.convert_texts([long], [short], 10, roberta, "windows")
    seen = []
    for begin, end in zip(found.offsets[:-1], found.offsets[1:], strict=True):
        ids = found.input_ids[begin:end].tolist()
        assert len(ids) <= 10 and ids[0] == 0 and ids[-5:-3] == [2, 2] and ids[-1] == 2
        assert ids[-3:-1] == roberta.encode(short)
        seen += ids[1:-5]
    assert set(seen) == set(roberta.encode(long))


def test_too_short_for_a_pair(roberta):
    # As in the original, a pair for which there is no room leaves nothing.
    assert features.convert_texts(["a"], ["b"], 4, roberta).input_ids.tolist() == [0, 2]
    with pytest.raises(UserError, match="--max_seq_length=3: expected at least 4"):
        features.convert_texts(["a"], ["b"], 3, roberta)


def test_unigram_as_the_library(shared):
    """A tokenizer.json of XLM-R's kind: all of the library's ids, truncated by it, too."""
    library = toy_library()
    ours = SubwordTokenizer(library.to_str(), "")
    assert (ours.cls_id, ours.sep_id, ours.unk_id, ours.pair_separators) == (0, 2, 3, 2)
    for language in ("en", "zh"):
        pairs = stsb(shared, language)[:2000]
        for width in (12, 128):
            library.enable_truncation(width)
            expected = [encoding.ids for encoding in library.encode_batch(pairs)]
            found = features.convert_texts(*zip(*pairs, strict=True), width, ours)
            assert found.input_ids.tolist() == list(itertools.chain.from_iterable(expected))
            assert found.lengths.tolist() == [len(ids) for ids in expected]


def test_albert_as_sentencepiece(shared):
    """A genuine model over STS-B, after the original's preprocess_text."""
    path = shared / "vocab" / "albert-german-30k" / "30k-clean.model"
    tokenizer = tokenization_subword.read_albert(str(path))
    assert (tokenizer.pair_separators, tokenizer.second_segment) == (1, 1)
    specials = ["[CLS]", "[SEP]", "<unk>"]
    ids = [tokenizer.cls_id, tokenizer.sep_id, tokenizer.unk_id]
    assert tokenizer.convert_ids_to_tokens(ids) == specials

    def preprocessed(text):
        text = " ".join(text.strip().split()).replace("``", '"').replace("''", '"')
        text = unicodedata.normalize("NFKD", text)
        return "".join(char for char in text if not unicodedata.combining(char)).lower()

    texts = ["", "  a  b ", "Größe: 3.5, ``so''  viel. "]
    for language in ("en", "zh"):
        texts += itertools.chain.from_iterable(stsb(shared, language)[:1500])
    expected = by_sentencepiece(path.read_bytes(), [preprocessed(text) for text in texts])
    assert_cut_alike([tokenizer.encode(text) for text in texts], expected)
    kept = tokenization_subword.read_albert(str(path), do_lower_case=False, keep_accents=True)
    assert kept.encode("Größe") == by_sentencepiece(path.read_bytes(), ["Größe"])[0]


def test_a_bert_with_a_tokenizer_of_xlm_roberta(tmp_path, toy_model):
    """Its padding token is the tokenizer's own; a BERT's config says row 0, which is <s> there."""
    tokenizer = SubwordTokenizer(toy_library().to_str(), "")
    huggingface.write_description(str(tmp_path), toy_model._replace(tokenizer=tokenizer))
    written = json.loads((tmp_path / "tokenizer_config.json").read_text())
    expected = {"cls": "<s>", "sep": "</s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    assert {role: written[f"{role}_token"] for role in expected} == expected


def test_xlm_roberta_as_sentencepiece(tmp_path):
    """fairseq's ids: one more than SentencePiece's, 3 for the unknown, <mask> at the end."""
    path = tmp_path / "sentencepiece.bpe.model"
    path.write_bytes(sentencepiece_bytes(PIECES))
    tokenizer = tokenization_subword.read_xlm_roberta(str(path))
    texts = ["the cats", "cat the", " the  cat ", "", "猫 a", "ts sts dog", "thecats"]
    for text, ids in zip(texts, by_sentencepiece(path.read_bytes(), texts), strict=True):
        assert tokenizer.encode(text) == [index + 1 if index else 3 for index in ids], text
    assert tokenizer.encode("a<mask>")[-1] == len(PIECES) + 1 == max(tokenizer.vocab.values())
    assert (tokenizer.cls_id, tokenizer.sep_id, tokenizer.unk_id) == (0, 2, 3)
    assert (tokenizer.pair_separators, tokenizer.second_segment) == (2, 0)


# Folders


def folder_of(tmp_path, kind, shared):
    """A Hugging Face folder whose tokenizer is in files of this kind."""
    folder = tmp_path / kind
    albert = shared / "vocab" / "albert-german-30k" / "30k-clean.model"
    roberta = shared / "vocab" / "roberta-base"
    contents = {
        "tokenizer.json": {"tokenizer.json": toy_library().to_str().encode()},
        "spiece.model": {"spiece.model": albert.read_bytes()},
        "sentencepiece.bpe.model": {"sentencepiece.bpe.model": sentencepiece_bytes(PIECES)},
        "vocab.json": {
            name: (roberta / name).read_bytes() for name in ("vocab.json", "merges.txt")
        },
    }[kind]
    rows = 51000
    tensors = toys.huggingface_tensors()
    tensors["embeddings.word_embeddings.weight"] = toys.toy_array((rows, 8), 0)
    toys.write_huggingface(folder, tensors, {"model_type": "roberta", "vocab_size": rows})
    (folder / "vocab.txt").unlink()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


KINDS = ("tokenizer.json", "spiece.model", "sentencepiece.bpe.model", "vocab.json")


@pytest.mark.parametrize("kind", KINDS)
def test_loaded_and_written(tmp_path, kind, shared):
    """Written as tokenizer.json, whatever it was read from."""
    model = hub.load(str(folder_of(tmp_path, kind, shared)))
    assert isinstance(model.tokenizer, SubwordTokenizer)
    again = tmp_path / "again"
    huggingface.write(str(again), model)
    toys.assert_same(model, hub.load(str(again)))
    text = "The cats, 猫 12.5 <mask>"
    assert hub.load(str(again)).tokenizer.encode(text) == model.tokenizer.encode(text) != []


@pytest.mark.parametrize("flag", [{"vocab_file": "vocab.txt"}, {"do_lower_case": True}])
def test_flags_of_word_pieces_do_not_fit(tmp_path, flag, shared):
    folder = str(folder_of(tmp_path, "tokenizer.json", shared))
    with pytest.raises(UserError, match=f"--{next(iter(flag))} does not fit .*leave the flag out"):
        hub.load_parts(folder, **flag)
    assert hub.load_parts(folder).tokenizer.sep_id == 2


@pytest.mark.parametrize(
    ("kind", "name", "content", "match"),
    [
        ("vocab.json", "vocab.json", b"{", "not readable as a tokenizer"),
        ("vocab.json", "vocab.json", b'{"a": 0}', "vocab.json|merges.txt"),
        ("vocab.json", "merges.txt", None, "merges.txt: no such file"),
        ("tokenizer.json", "tokenizer.json", b'{"model": {"type": "BPE"}}', "not readable as a"),
        ("spiece.model", "spiece.model", b"", "not readable as a tokenizer"),
        ("spiece.model", "spiece.model", b"\x0a\xff", "not readable as a tokenizer"),
        ("spiece.model", "spiece.model", sentencepiece_bytes(PIECES), r"lacks \[CLS\], \[SEP\]"),
        ("spiece.model", "spiece.model", sentencepiece_bytes(PIECES, kind=2), "model_type is 2"),
        ("spiece.model", "spiece.model", sentencepiece_bytes(PIECES, 99), "not readable as a"),
        # In place of the empty message at the end: a normaliser's table that is none.
        (
            "spiece.model",
            "spiece.model",
            sentencepiece_bytes(PIECES)[:-1] + b"\x05\x12\x03abc",
            "not readable as a tokenizer .*charsmap",
        ),
    ],
)
def test_damaged_files(tmp_path, kind, name, content, match, shared):
    folder = folder_of(tmp_path, kind, shared)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=match):
        hub.load(str(folder))


def test_no_files_of_the_class(tmp_path, shared):
    folder = folder_of(tmp_path, "tokenizer.json", shared)
    toys.write_json(folder / "tokenizer_config.json", {"tokenizer_class": "RobertaTokenizerFast"})
    assert isinstance(hub.load(str(folder)).tokenizer, SubwordTokenizer)
    (folder / "tokenizer.json").unlink()
    toys.write_vocabulary(folder / "vocab.txt")
    with pytest.raises(UserError, match="holds none of a RobertaTokenizerFast's files"):
        hub.load(str(folder))


@pytest.mark.parametrize("template", ["<s> $A", "$A </s>", "<s> $A </s> </s>"])
def test_another_layout_of_special_tokens(template):
    library = toy_library()
    library.post_processor = processors.TemplateProcessing(
        single=template, pair=f"{template} $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    with pytest.raises(UserError, match="puts the special tokens"):
        SubwordTokenizer(library.to_str(), "f.json")


def test_fingerprint():
    library = toy_library()
    first, same = (SubwordTokenizer(library.to_str(), source) for source in ("a", "b"))
    library.normalizer = normalizers.NFC()
    other = SubwordTokenizer(library.to_str(), "a")
    assert first.fingerprint() == same.fingerprint() != other.fingerprint()


def test_batches():
    tokenizer = SubwordTokenizer(toy_library().to_str(), "")
    ids, offsets = tokenizer.encode_batch(iter(["the cats", "", "猫"]))
    assert ids.dtype == np.int32 and offsets.dtype == np.int64 and len(offsets) == 4
    assert ids[offsets[0] : offsets[1]].tolist() == tokenizer.encode("the cats")
    assert offsets[1] == offsets[2] and len(ids) == offsets[3]
    ids, offsets = tokenizer.encode_batch([])
    assert ids.dtype == np.int32 and len(ids) == 0 and offsets.tolist() == [0]
