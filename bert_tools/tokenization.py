"""Text to WordPiece ids, exactly as the original `tokenization.FullTokenizer` gives them.

The rules are those of google-research/bert's tokenization.py: drop control characters, set CJK
characters apart, split at white space, lower-case and strip accents (uncased models), split at
punctuation, then greedy longest match against the vocabulary. What makes this one fast: a word
that was seen before is one dictionary look-up, and most words were.
"""

import array
import hashlib
import itertools
import os
import re
import unicodedata

import numpy as np

from bert_tools import files
from bert_tools.errors import UserError

UNKNOWN, CLASSIFY, SEPARATE, PAD, MASK = "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"
_PART = re.compile(r"\S+")
_CACHED_WORDS = 100_000  # About 20 MB; the words that make up nearly all of any text.
# Later versions of Unicode moved three characters to another category. The ids stay those of
# Unicode 11, which the original ran on, whatever the Python.
_UNICODE_11 = {"\u166d": "Po", "\u1734": "Mn", "\ua9bd": "Mc"}


def load_vocab(vocab_file):
    """Reads a vocabulary, one token a line, into {token: id}, as the original does.

    Raises:
      UserError: the file is absent, is not UTF-8, or lacks one of [UNK], [CLS], [SEP].
    """
    files.require_small(vocab_file)
    try:
        with open(vocab_file, encoding="utf-8", newline="\n") as reader:
            vocab = {line.strip(): index for index, line in enumerate(reader)}
    except FileNotFoundError as error:
        raise UserError(f"{vocab_file}: no such vocabulary file; check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{vocab_file}: not a readable UTF-8 vocabulary ({error}); restore it"
        ) from error
    missing = [token for token in (UNKNOWN, CLASSIFY, SEPARATE) if token not in vocab]
    if missing:
        raise UserError(
            f"{vocab_file}: lacks {', '.join(missing)}; is this the vocabulary of a BERT model?"
        )
    return vocab


def validate_case_matches_checkpoint(do_lower_case, init_checkpoint):
    """Refuses a casing that contradicts the checkpoint's name, as the original does.

    Args:
      do_lower_case: bool.
      init_checkpoint: str or None, a path; the folder's name is the one that counts
        (".../uncased_L-12_H-768_A-12/bert_model.ckpt").

    Raises:
      UserError: naming both flags and the likely fix.
    """
    if not init_checkpoint:
        return
    name = os.path.basename(os.path.dirname(os.path.abspath(init_checkpoint)))
    if name.startswith(("uncased_L-", "multilingual_L-", "chinese_L-")) and not do_lower_case:
        kind, remedy = "an uncased", "true"
    elif name.startswith(("cased_L-", "multi_cased_L-")) and do_lower_case:
        kind, remedy = "a cased", "false"
    else:
        return
    raise UserError(
        f"--do_lower_case={str(do_lower_case).lower()} with --init_checkpoint={init_checkpoint}: "
        f"{name} is {kind} model, pass --do_lower_case={remedy} "
        "(or rename the folder if its name is wrong)"
    )


class FullTokenizer:
    """End-to-end tokenisation of the original: `tokenize`, `convert_tokens_to_ids`,
    `convert_ids_to_tokens`.

    Args:
      vocab_file: str, path of a vocabulary, one token a line.
      do_lower_case: bool, lower-case the text (uncased models).
      strip_accents: bool or None; None follows do_lower_case, as in the original.
      tokenize_chinese_chars: bool, set CJK characters apart.
      vocab: dict {token: id}, instead of vocab_file.
    """

    pair_separators = 1  # Of [SEP] between two texts.
    second_segment = 1  # The segment id of the second text.
    blanks_separate = True  # Words between blanks have the pieces that they have by themselves.
    # The original's limit. Hugging Face's tokenizers give [UNK] from 101 characters on; the
    # checkpoints saw this.
    max_input_chars_per_word = 200

    def __init__(
        self,
        vocab_file=None,
        do_lower_case=True,
        *,
        strip_accents=None,
        tokenize_chinese_chars=True,
        vocab=None,
    ):
        self.vocab = load_vocab(vocab_file) if vocab is None else dict(vocab)
        self.inv_vocab = {index: token for token, index in self.vocab.items()}
        self.do_lower_case = do_lower_case
        self.strip_accents = do_lower_case if strip_accents is None else strip_accents
        self.tokenize_chinese_chars = tokenize_chinese_chars
        self.unk_id = self.vocab[UNKNOWN]
        self.cls_id = self.vocab[CLASSIFY]
        self.sep_id = self.vocab[SEPARATE]
        self._cleaned = _CleanTable(self.clean)
        self._words = _WordTable(self._word_to_ids)
        self._pieces = _PieceIndex(self.vocab)

    def tokenize(self, text):
        """The word pieces of a text: a list of str. "[UNK]" stands for a word that the vocabulary
        cannot spell.
        """
        return [self.inv_vocab[index] for index in self.encode(text)]

    def convert_tokens_to_ids(self, tokens):
        """Raises KeyError for a token that is not in the vocabulary, as the original."""
        return [self.vocab[token] for token in tokens]

    def convert_ids_to_tokens(self, ids):
        return [self.inv_vocab[index] for index in ids]

    def encode(self, text):
        """The ids of a text's word pieces, without [CLS] and [SEP]: a list of int."""
        return list(itertools.chain.from_iterable(map(self._words.__getitem__, self.split(text))))

    def encode_batch(self, texts):
        """The ids of many texts, without special tokens.

        Args:
          texts: iterable of str.

        Returns:
          (ids, offsets): int32 array of all ids one after another; int64 array of len(texts) + 1,
          text i being ids[offsets[i]:offsets[i + 1]].
        """
        ids, ends = array.array("i"), array.array("q", [0])
        words, split, chain = self._words.__getitem__, self.split, itertools.chain.from_iterable
        for text in texts:
            ids.extend(chain(map(words, split(text))))
            ends.append(len(ids))
        return np.frombuffer(ids, np.int32) if ids else np.zeros(0, np.int32), np.frombuffer(
            ends, np.int64
        )

    def encode_spans(self, text):
        """The word pieces of a text and where each stands in it.

        Args:
          text: str.

        Returns:
          (ids, spans): the ids of `encode`, and for each a pair (begin, end): text[begin:end] is
          what the piece was made of, with the accents that it lost; for [UNK] the word.
        """
        ids, spans, word = [], [], []
        for place, char in enumerate(text):
            for cleaned in self.clean(char):
                if cleaned.isspace():
                    self._add_spans(word, ids, spans)
                    word = []
                else:
                    word.append((cleaned, place))
        self._add_spans(word, ids, spans)
        return ids, spans

    def _add_spans(self, word, ids, spans):
        """Adds the pieces of one word, a list of (character, its place in the text)."""
        chars, begins, ends = [], [], []
        for char, place in word:
            kept = "".join(map(self.set_apart, self.fold(char)))
            if not kept and ends:
                ends[-1] = place + 1
            chars += kept
            begins += [place] * len(kept)
            ends += [place + 1] * len(kept)
        whole = "".join(char for char, _ in word)
        # Character by character is not quite the same: a final sigma, marks in another order.
        normal = "".join(map(self.set_apart, self.fold(whole)))
        if len(normal) != len(chars):
            begins = [word[0][1]] * len(normal)
            ends = [word[-1][1] + 1] * len(normal)
        for match in _PART.finditer(normal):
            start = match.start()
            for index in self._piece_ids(match.group()):
                length = len(
                    self.inv_vocab[index].removeprefix("##" if start > match.start() else "")
                )
                end = match.end() if index == self.unk_id else start + length
                ids.append(index)
                spans.append((begins[start], ends[end - 1]))
                start = end

    def fingerprint(self):
        """A str that differs when the ids of some text may differ."""
        # By id: where a line comes twice, a dict has another order than what is written of it.
        pairs = sorted((index, token) for token, index in self.vocab.items() if token)
        tokens = "\n".join(f"{token}\t{index}" for index, token in pairs)
        rules = (self.do_lower_case, self.strip_accents, self.tokenize_chinese_chars)
        return hashlib.sha256(f"{rules}\n{tokens}".encode("utf-8", "surrogatepass")).hexdigest()

    # The steps of the tokenisation. tokenization_graph.py makes its tables of the same methods.

    def clean(self, char):
        """A character as the cleaning leaves it: "" for NUL, U+FFFD and control characters, " " for
        white space, CJK characters set apart.
        """
        if char in "\t\n\r":
            return " "
        category = unicodedata.category(char)
        if char in "\0\ufffd" or category in ("Cc", "Cf"):
            return ""
        if category == "Zs":
            return " "
        return f" {char} " if self.tokenize_chinese_chars and _is_chinese_char(ord(char)) else char

    def split(self, text):
        """The words of a text between white space: a list of str."""
        # ASCII without control characters needs no cleaning, and that is most English text.
        if text.isascii() and text.isprintable():
            return text.split()
        return text.translate(self._cleaned).split()

    def fold(self, word):
        """A word in lower case and decomposed (NFD), as far as the model asks for it."""
        if self.do_lower_case:
            word = word.lower()
        return unicodedata.normalize("NFD", word) if self.strip_accents else word

    def set_apart(self, char):
        """A folded character as the word keeps it: "" for an accent, punctuation set apart."""
        if self.strip_accents and _category(char) == "Mn":
            return ""
        return f" {char} " if _is_punctuation(char) else char

    def _word_to_ids(self, word):
        """The ids of one word between white space (cleaned; not yet lower-cased or split at
        punctuation).
        """
        # Python's split() knows more white space (U+2028) than the cleaning; the original uses
        # both, so do we.
        parts = "".join(map(self.set_apart, self.fold(word))).split()
        return tuple(itertools.chain.from_iterable(map(self._piece_ids, parts)))

    def _piece_ids(self, part):
        """Greedy longest match first; one [UNK] for the whole part when some of it cannot be
        spelled.
        """
        if len(part) > self.max_input_chars_per_word:
            return (self.unk_id,)
        ids, start, pieces = [], 0, self._pieces.first
        while start < len(part):
            for end in range(min(len(part), start + self._pieces.longest), start, -1):
                index = pieces.get(part[start:end])
                if index is not None:
                    break
            else:
                return (self.unk_id,)
            ids.append(index)
            start, pieces = end, self._pieces.inner
        return ids


class _PieceIndex:
    """The vocabulary split into pieces that begin a word and pieces ("##...") that go on."""

    def __init__(self, vocab):
        self.first = vocab
        self.inner = {token[2:]: index for token, index in vocab.items() if token.startswith("##")}
        self.longest = max(map(len, vocab), default=0)


class _WordTable(dict):
    """{word: ids}, filled as words come; emptied when it has grown too large for its worth."""

    def __init__(self, compute):
        super().__init__()
        self._compute = compute

    def __missing__(self, word):
        if len(self) >= _CACHED_WORDS:
            self.clear()
        ids = self[word] = self._compute(word)
        return ids


class _CleanTable(dict):
    """{code point: its cleaned text} for str.translate, filled as characters come."""

    def __init__(self, compute):
        super().__init__()
        self._compute = compute

    def __missing__(self, code):
        self[code] = value = self._compute(chr(code))
        return value


def _is_chinese_char(code):
    return (
        0x4E00 <= code <= 0x9FFF
        or 0x3400 <= code <= 0x4DBF
        or 0x20000 <= code <= 0x2A6DF
        or 0x2A700 <= code <= 0x2B73F
        or 0x2B740 <= code <= 0x2B81F
        or 0x2B820 <= code <= 0x2CEAF
        or 0xF900 <= code <= 0xFAFF
        or 0x2F800 <= code <= 0x2FA1F
    )


def _is_punctuation(char):
    """All ASCII that is no letter, digit or space counts (so "$" and "^" too), else Unicode's P
    categories.
    """
    code = ord(char)
    if code < 128:
        return 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return _category(char)[0] == "P"


def _category(char):
    return _UNICODE_11.get(char) or unicodedata.category(char)
