"""Text to ids for the families whose tokenizer is not WordPiece: byte-level BPE (RoBERTa) and
SentencePiece unigram (XLM-R, ALBERT), run by the `tokenizers` library.

It comes from a checkpoint's own files: tokenizer.json, which says all; vocab.json and merges.txt;
or a SentencePiece model, of which a tokenizer is made much as transformers' converter makes it
(convert_slow_tokenizer.py). Its ids are SentencePiece's but for texts that can be cut in two ways
of the same likelihood, where SentencePiece's float32 and the library's float64 may choose
differently ("iii" into "ii" and "i" or the other way round).
"""

import array
import hashlib
import itertools
import json
import os
import struct

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from bert_tools import files
from bert_tools.errors import UserError

_UNIGRAM = 1  # Of sentencepiece_model.proto's ModelType.


class SubwordTokenizer:
    """A tokenizer of the `tokenizers` library, with FullTokenizer's methods.

    What it does with a text follows the library: "<mask>" or "</s>" in a text is the special
    token, white space counts as its rules say. Truncation and special tokens are
    inputs.features'.

    Attributes:
      vocab: dict {token: id}.
      cls_id, sep_id, unk_id: int; unk_id is -1 where no text is unknown (byte-level BPE).
      pair_separators: int, how many separators stand between two texts (<s> a </s></s> b </s>).
      second_segment: int, the token type of a second text.
      blanks_separate: bool, False: a word's tokens depend on the blank before it.

    Args:
      text: str, the content of a tokenizer.json. It is kept as it stands, since the library does
        not read all numbers exactly: written by it and read again, a score may have changed.
      source: str, the file it came from, for messages.

    Raises:
      UserError: the library does not read it, or its special tokens are not laid out as a
      BERT-like model's.
    """

    blanks_separate = False

    def __init__(self, text, source):
        self._text = text
        self._tokenizer = _readable(source, lambda: tokenizers.Tokenizer.from_str(text))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocab = self._tokenizer.get_vocab(with_added_tokens=True)
        self.unk_id = self._unknown()
        # Texts without tokens show what is put around them.
        empty = self._tokenizer.encode("", add_special_tokens=False)
        empty.truncate(0)
        single = self._tokenizer.post_process(empty)
        pair = self._tokenizer.post_process(empty, empty)
        between = len(pair.ids) - 2
        if (
            len(single.ids) != 2
            or between not in (1, 2)
            or pair.ids != [single.ids[0]] + [single.ids[1]] * (between + 1)
        ):
            raise UserError(
                f"{source}: puts the special tokens {pair.tokens} around two texts, expected one "
                "before the first, the same one behind each, as BERT and RoBERTa have it"
            )
        self.cls_id, self.sep_id = single.ids
        self.pair_separators, self.second_segment = between, pair.type_ids[-1]

    def tokenize(self, text):
        """The tokens of a text: a list of str."""
        return self.convert_ids_to_tokens(self.encode(text))

    def convert_tokens_to_ids(self, tokens):
        """Raises KeyError for a token that is not in the vocabulary."""
        return [self.vocab[token] for token in tokens]

    def convert_ids_to_tokens(self, ids):
        return [self._tokenizer.id_to_token(index) for index in ids]

    def encode(self, text):
        """The ids of a text, without special tokens around it: a list of int."""
        return self.encode_batch([text])[0].tolist()

    def encode_spans(self, text):
        """The ids of a text and where each stands in it.

        Returns:
          (ids, spans): the ids of `encode`, and for each a pair (begin, end): text[begin:end] is
          what it was made of, without white space at its ends; (n, n) where that leaves nothing.
          Tokens that share a character (the bytes of "é") share its span.
        """
        (text,) = _spelt([text])
        found = self._tokenizer.encode(text, add_special_tokens=False)
        return found.ids, [_trimmed(text, *span) for span in found.offsets]

    def encode_batch(self, texts):
        """The ids of many texts, without special tokens around them.

        Args:
          texts: iterable of str.

        Returns:
          (ids, offsets): int32 array of all ids one after another; int64 array of len(texts) + 1,
          text i being ids[offsets[i]:offsets[i + 1]].
        """
        found = self._tokenizer.encode_batch_fast(_spelt(texts), add_special_tokens=False)
        rows = [encoding.ids for encoding in found]
        ids = array.array("i", itertools.chain.from_iterable(rows))
        offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        return np.frombuffer(ids, np.int32) if ids else np.zeros(0, np.int32), offsets

    def fingerprint(self):
        """A str that differs when the ids of some text may differ."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self):
        """The content of a tokenizer.json, str."""
        return self._text

    def _unknown(self):
        model = json.loads(self.to_json())["model"]
        if model.get("unk_id") is not None:
            return model["unk_id"]
        return self.vocab.get(model.get("unk_token"), -1)


def _spelt(texts):
    """The texts without halves of surrogate pairs, which JSON can spell and the library refuses;
    a "?" stands for each.
    """
    return [text.encode("utf-8", "replace").decode("utf-8") for text in texts]


def _trimmed(text, begin, end):
    """The span without the white space at its ends."""
    while begin < end and text[end - 1].isspace():
        end -= 1
    while begin < end and text[begin].isspace():
        begin += 1
    return begin, end


def read_json(path):
    """A SubwordTokenizer of a tokenizer.json.

    Raises:
      UserError: the library does not read it, or see SubwordTokenizer.
    """

    files.require_small(path)

    def load():
        with open(path, encoding="utf-8") as reader:
            return reader.read()

    return SubwordTokenizer(_readable(path, load), path)


def read_byte_level_bpe(vocab_file, merges_file, add_prefix_space=False):
    """A SubwordTokenizer of RoBERTa's files (Liu et al. 2019, https://arxiv.org/abs/1907.11692).

    Args:
      vocab_file: str, vocab.json.
      merges_file: str, merges.txt.
      add_prefix_space: bool, whether a text's first word is treated as one behind a space.

    Raises:
      UserError: a file is missing or damaged, or lacks a special token.
    """
    for path in (vocab_file, merges_file):
        if not os.path.exists(path):
            raise UserError(f"{path}: no such file; fetch the model again, with its tokenizer")
        files.require_small(path)
    model = _readable(merges_file, lambda: models.BPE.from_file(vocab_file, merges_file))
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    specials = _require(tokenizer, ("<s>", "</s>", "<pad>", "<unk>", "<mask>"), vocab_file)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", specials["</s>"]), ("<s>", specials["<s>"]), add_prefix_space=add_prefix_space
    )
    _add_special_tokens(tokenizer, specials)
    return SubwordTokenizer(tokenizer.to_str(), vocab_file)


def read_albert(path, do_lower_case=True, keep_accents=False):
    """A SubwordTokenizer of ALBERT's SentencePiece model (spiece.model; Lan et al. 2019,
    https://arxiv.org/abs/1909.11942).

    Args:
      path: str.
      do_lower_case, keep_accents: bool, as tokenizer_config.json says.

    Raises:
      UserError: the file is missing, damaged, of another kind, or lacks a special token.
    """
    pieces, precompiled, unknown = _read_sentencepiece(path)
    # A comma behind a digit is a piece of its own, as in the original's tokenization.py: what
    # holds both is made too unlikely to be chosen.
    scored = [
        (piece, score - 100 if piece[-1:] == "," and piece[-2:-1].isdigit() else score)
        for piece, score in pieces
    ]
    steps = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not keep_accents:
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if do_lower_case:
        steps.append(normalizers.Lowercase())
    steps += precompiled
    # As SentencePiece does; transformers' converter leaves the white space at the end.
    steps += [normalizers.Replace(tokenizers.Regex(" {2,}"), " "), normalizers.Strip()]
    tokenizer = _unigram(path, scored, unknown, steps)
    specials = _require(tokenizer, ("[CLS]", "[SEP]", "<pad>", "<unk>", "[MASK]"), path)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, specials[token]) for token in ("[CLS]", "[SEP]")],
    )
    _add_special_tokens(tokenizer, specials)
    return SubwordTokenizer(tokenizer.to_str(), path)


def read_xlm_roberta(path):
    """A SubwordTokenizer of XLM-R's SentencePiece model (sentencepiece.bpe.model; Conneau et al.
    2019, https://arxiv.org/abs/1911.02116).

    Its ids are fairseq's: the model's first three pieces make place for four special tokens, and
    <mask> comes last.

    Raises:
      UserError: the file is missing, damaged or of another kind.
    """
    pieces, precompiled, _ = _read_sentencepiece(path)
    first = ["<s>", "<pad>", "</s>", "<unk>"]
    scored = [(token, 0.0) for token in first]
    scored += pieces[3:]
    scored.append(("<mask>", 0.0))
    steps = [*precompiled]
    steps.append(normalizers.Strip(left=False, right=True))
    steps.append(normalizers.Replace(tokenizers.Regex(" {2,}"), "▁"))
    tokenizer = _unigram(path, scored, first.index("<unk>"), steps)
    specials = _require(tokenizer, (*first, "<mask>"), path)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(token, specials[token]) for token in ("<s>", "</s>")],
    )
    _add_special_tokens(tokenizer, specials)
    return SubwordTokenizer(tokenizer.to_str(), path)


def _unigram(path, scored, unknown, steps):
    model = _readable(path, lambda: models.Unigram(scored, unk_id=unknown))
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def _require(tokenizer, tokens, path):
    """{token: id}."""
    found = {token: tokenizer.token_to_id(token) for token in tokens}
    missing = [token for token, index in found.items() if index is None]
    if missing:
        raise UserError(f"{path}: lacks {', '.join(missing)}; restore it from its source")
    return found


def _add_special_tokens(tokenizer, tokens):
    """Has these recognised in a text; the mask takes the white space before it along."""
    tokenizer.add_special_tokens(
        [
            tokenizers.AddedToken(token, lstrip="mask" in token.lower(), normalized=False)
            for token in tokens
        ]
    )


def _readable(path, load):
    """load(), its errors as a UserError."""
    try:
        return load()
    except BaseException as error:
        # The library raises plain Exceptions, or panics, which is none, and has no public name.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{path}: not readable as a tokenizer ({reason}); restore it from its source"
        ) from error


def _read_sentencepiece(path):
    """(list of (piece, score), [the compiled normaliser] or [], id of the unknown piece)
    of a SentencePiece unigram model.
    """

    files.require_small(path)

    def load():
        with open(path, "rb") as reader:
            model = _message(reader.read())
        trainer = _message(model.get(2, [b""])[0])
        kind = trainer.get(3, [_UNIGRAM])[0]
        if kind != _UNIGRAM:
            raise ValueError(f"model_type is {kind}, supported: {_UNIGRAM}, unigram")
        pieces = [_message(piece) for piece in model[1]]
        pieces = [
            (piece[1][0].decode(), struct.unpack("<f", piece.get(2, [bytes(4)])[0])[0])
            for piece in pieces
        ]
        charsmap = _message(model.get(3, [b""])[0]).get(2, [b""])[0]
        precompiled = [normalizers.Precompiled(charsmap)] if charsmap else []
        return pieces, precompiled, trainer.get(40, [0])[0]

    return _readable(path, load)


def _message(data):
    """{field number: list of values} of a protocol buffer: int for varints, else bytes.

    sentencepiece_model.proto (of google/sentencepiece) is not in any package that we need.
    """
    fields, place = {}, 0

    def varint():
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(data):
        number, wire = divmod(varint(), 8)
        if wire == 0:
            value = varint()
        elif wire in (1, 2, 5):
            size = {1: 8, 5: 4}.get(wire) or varint()
            value = data[place : place + size]
            place += size
            if len(value) < size:
                raise ValueError("cut short")
        else:
            raise ValueError("no SentencePiece model")
        fields.setdefault(number, []).append(value)
    return fields
