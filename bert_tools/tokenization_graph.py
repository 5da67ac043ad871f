"""FullTokenizer as TensorFlow ops, so that a SavedModel takes text.

tensorflow_text's own BERT tokenizers give other ids than the checkpoints saw (their normaliser
turns full-width punctuation into ASCII, words from 101 bytes on become [UNK]). Here only the greedy
match against the vocabulary is tensorflow_text's. What comes before it is a walk through code
points with a few tables, and the tables are made by asking FullTokenizer about every code point:
the rules stay where they are, in tokenization.py.
"""

import unicodedata

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from bert_tools.errors import UserError
from bert_tools.inputs.features import check_max_seq_length, truncated
from bert_tools.tokenization import UNKNOWN

_CODES = 0x110000
_SIGMA, _FINAL_SIGMA = ord("Σ"), ord("ς")
# What a character is to the splitting of words, and what it is to a sigma further on.
_PLAIN, _DROPPED, _SPACE, _ALONE = range(4)
_UNCASED, _CASED, _CASE_IGNORABLE = range(3)
# NUL marks where a text begins: the cleaning drops it, so no text holds one afterwards.
_BEGIN = 0


class GraphTokenizer(tf.Module):
    """The ids of `FullTokenizer.encode`, string by string, from TensorFlow ops alone.

    It can be an attribute of a tf.Module that tf.saved_model.save writes, or be saved itself; who
    loads it needs `import tensorflow_text` for its ops, not bert_tools.

    Text is UTF-8. Invalid bytes are dropped, as FullTokenizer drops the U+FFFD that
    bytes.decode("utf-8", "replace") puts in their place. The knowledge of characters is that of the
    Python which builds the tables (with tokenization.py's pins), whatever loads them.

    Args:
      tokenizer: bert_tools.tokenization.FullTokenizer.

    Raises:
      UserError: tensorflow_text cannot hold the vocabulary (a token of more than 256 bytes).
    """

    def __init__(self, tokenizer):
        super().__init__()
        self._lower_case = tokenizer.do_lower_case
        self._strip_accents = tokenizer.strip_accents
        self._longest_word = tokenizer.max_input_chars_per_word
        self._cls_id, self._sep_id = tokenizer.cls_id, tokenizer.sep_id
        # Strings live on the host; tables on an accelerator would be copied back for every batch.
        with tf.device("/CPU:0"):
            self._make_pieces(tokenizer)
            self._make_tables(tokenizer)

    def _make_pieces(self, tokenizer):
        # Tokens that the cleaning would change are in no word, and tensorflow_text refuses some of
        # them (NUL).
        tokens = [token for token in tokenizer.vocab if tokenizer.split(token) == [token]]
        self._token_ids = tf.constant([tokenizer.vocab[token] for token in tokens], tf.int32)
        try:
            self._pieces = tf_text.FastWordpieceTokenizer(
                tokens,
                unknown_token=UNKNOWN,
                max_bytes_per_word=4 * self._longest_word,
                token_out_type=tf.int32,
                no_pretokenization=True,
            )
        except RuntimeError as error:
            raise UserError(
                f"the vocabulary does not fit a SavedModel: {error}; remove that token"
            ) from error

    def _make_tables(self, tokenizer):
        chars = [chr(code) for code in range(_CODES)]
        cleaned = np.array([_kind(char, tokenizer.clean(char)) for char in chars])
        self._cleaned = _CodeTable(cleaned)
        if self._lower_case:
            self._case = _CodeTable([_case(char) for char in chars])

        folded = [tokenizer.fold(char) for char in chars]
        # A character that becomes several is folded to a number behind all code points, which is a
        # row of _spellings. Differences, not results, since those repeat.
        several = [text for text in folded if len(text) > 1]
        result = np.array([ord(text) if len(text) == 1 else -1 for text in folded])
        result[result < 0] = np.arange(_CODES, _CODES + len(several))
        self._folding = _CodeTable(result - np.arange(_CODES))
        width = max(map(len, several), default=1)
        rows = [[-1] * width, *([*map(ord, text)] + [-1] * (width - len(text)) for text in several)]
        self._spellings = tf.constant(rows, tf.int32)

        kept = np.array([_kind(char, tokenizer.set_apart(char)) for char in chars])
        # What the cleaning set apart is told by the folded character: folding makes a Chinese
        # character of a Chinese one only, and of that nothing else.
        kept[cleaned == _ALONE] = _ALONE
        kept[_BEGIN] = _SPACE
        self._kept = _CodeTable(kept)
        if self._strip_accents:
            self._combining = _CodeTable([unicodedata.combining(char) for char in chars])

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string, name="texts")])
    def tokenize(self, texts):
        """The ids of the texts' word pieces, without [CLS] and [SEP].

        Args:
          texts: string Tensor [n], UTF-8.

        Returns:
          RaggedTensor int32 [n, None].
        """
        codes = self._clean(texts)
        if self._lower_case:
            codes = self._final_sigmas(codes)
        codes = self._fold(codes)
        kinds = self._kept(codes)
        if self._strip_accents:
            codes, kinds = self._without_accents(codes, kinds)

        in_word, alone = kinds != _SPACE, kinds == _ALONE
        after_break = tf.concat([[True], ~in_word[:-1] | alone[:-1]], 0)[: tf.size(codes)]
        starts = in_word & (alone | after_break)
        text_of = tf.cumsum(tf.cast(codes == _BEGIN, tf.int64)) - 1
        chars = tf.RaggedTensor.from_value_rowids(
            tf.boolean_mask(codes, in_word),
            tf.boolean_mask(tf.cumsum(tf.cast(starts, tf.int64)) - 1, in_word),
            nrows=tf.math.count_nonzero(starts),
            validate=False,
        )
        words = tf.strings.unicode_encode(chars, "UTF-8")
        # "[UNK]" as a word: no text yields it, since brackets are set apart.
        words = tf.where(chars.row_lengths() > self._longest_word, UNKNOWN, words)
        pieces = self._pieces.tokenize(words)
        pieces = pieces.with_values(tf.gather(self._token_ids, pieces.values))
        return tf.RaggedTensor.from_value_rowids(
            pieces,
            tf.boolean_mask(text_of, starts),
            nrows=tf.size(texts, out_type=tf.int64),
            validate=False,
        ).merge_dims(1, 2)

    def model_inputs(self, texts_a, texts_b=None, *, max_seq_length, pad_to_max=False):
        """What an encoder takes, as `bert_tools.inputs.features.convert_texts` makes it.

        Args:
          texts_a: string Tensor [n].
          texts_b: string Tensor [n] or None; a text without tokens leaves a single text.
          max_seq_length: int, at least 3. Pairs lose tokens of the longer text first.
          pad_to_max: bool, whether every row is max_seq_length wide, or as wide as the longest.

        Returns:
          dict of int32 Tensors [n, width], padded with 0: input_ids; input_mask, 1 for a token;
          segment_ids, 0 for [CLS] a [SEP], 1 for b [SEP].

        Raises:
          UserError: max_seq_length is below 3.
        """
        check_max_seq_length(max_seq_length)
        a = self.tokenize(texts_a)
        b = a[:, :0] if texts_b is None else self.tokenize(texts_b)
        lengths = (tf.cast(ids.row_lengths(), tf.int32) for ids in (a, b))
        a_kept, b_kept = truncated(*lengths, max_seq_length, xp=tf)
        a, b = _heads(a, a_kept), _heads(b, b_kept)
        one = tf.ones([a.nrows(), 1], tf.int32)
        first = tf.concat([self._cls_id * one, a, self._sep_id * one], 1)
        second = tf.concat([b, _heads(self._sep_id * one, tf.minimum(b_kept, 1))], 1)
        segments = tf.concat([tf.zeros_like(first), tf.ones_like(second)], 1)
        ids = tf.concat([first, second], 1)
        shape = [None, max_seq_length if pad_to_max else None]
        return {
            "input_ids": ids.to_tensor(shape=shape),
            "input_mask": tf.ones_like(ids).to_tensor(shape=shape),
            "segment_ids": segments.to_tensor(shape=shape),
        }

    def _clean(self, texts):
        """Code points of all texts one after another, _BEGIN before each; white space is " "."""
        codes = tf.strings.unicode_decode(texts, "UTF-8", errors="replace")
        kinds = codes.with_values(self._cleaned(codes.values))
        codes = codes.with_values(tf.where(kinds.values == _SPACE, ord(" "), codes.values))
        codes = tf.ragged.boolean_mask(codes, kinds != _DROPPED)
        return tf.concat([tf.fill([codes.nrows(), 1], _BEGIN), codes], 1).values

    def _final_sigmas(self, codes):
        """Σ to ς where str.lower() does: after a cased character and not before one, whatever
        ignorable ones are between.
        """
        case = self._case(codes)
        counted = case != _CASE_IGNORABLE
        around = tf.concat([[_UNCASED], tf.boolean_mask(case, counted), [_UNCASED]], 0)
        at = tf.where(codes == _SIGMA)
        rank = tf.gather_nd(tf.cumsum(tf.cast(counted, tf.int32)), at)  # Of Σ itself in `around`.
        final = (tf.gather(around, rank - 1) == _CASED) & (tf.gather(around, rank + 1) != _CASED)
        return tf.tensor_scatter_nd_update(codes, at, tf.where(final, _FINAL_SIGMA, _SIGMA))

    def _fold(self, codes):
        folded = codes + self._folding(codes)
        spelling = tf.gather(self._spellings, tf.maximum(folded - _CODES + 1, 0))
        first = tf.where(folded < _CODES, folded, spelling[:, 0])
        spelling = tf.concat([first[:, tf.newaxis], spelling[:, 1:]], 1)
        return tf.boolean_mask(spelling, spelling >= 0)

    def _without_accents(self, codes, kinds):
        """Drops accents, and brings the marks that stay into the order of NFD: by combining class
        between two characters of class 0 (which may be accents, so they count before they go).
        """
        combining, kept = self._combining(codes), kinds != _DROPPED
        at = tf.where((combining > 0) & kept)
        run = tf.gather_nd(tf.cumsum(tf.cast(combining == 0, tf.int64)), at)
        order = tf.argsort(256 * run + tf.gather_nd(tf.cast(combining, tf.int64), at), stable=True)
        marks = tf.gather(tf.gather_nd(codes, at), order)
        codes = tf.boolean_mask(tf.tensor_scatter_nd_update(codes, at, marks), kept)
        return codes, self._kept(codes)


class _CodeTable:
    """An int for every code point. Blocks of 128 that are equal are stored once: most are."""

    _BLOCK = 128

    def __init__(self, values):
        blocks = {}
        index = [
            blocks.setdefault(tuple(block), len(blocks))
            for block in np.reshape(values, (-1, self._BLOCK)).tolist()
        ]
        self._values = tf.constant(np.ravel(list(blocks)), tf.int32)
        self._starts = tf.constant(self._BLOCK * np.array(index), tf.int32)

    def __call__(self, codes):
        return tf.gather(
            self._values, tf.gather(self._starts, codes // self._BLOCK) + codes % self._BLOCK
        )


def _kind(char, value):
    """What FullTokenizer makes of a character, when `value` is what it puts in its place."""
    if not value:
        return _DROPPED
    if value.isspace():
        return _SPACE
    return _PLAIN if value == char else _ALONE


def _case(char):
    """What str.lower() takes a character for when it decides about a Σ behind it."""
    if f"{char}Σ".lower()[-1] == "ς":
        return _CASED
    return _CASE_IGNORABLE if f"A{char}Σ".lower()[-1] == "ς" else _UNCASED


def _heads(rows, lengths):
    """The first lengths[i] values of each row i: RaggedTensor [n, None]."""
    rows = tf.RaggedTensor.from_tensor(rows) if isinstance(rows, tf.Tensor) else rows
    starts = rows.row_starts()
    return tf.gather(rows.values, tf.ragged.range(starts, starts + tf.cast(lengths, tf.int64)))
