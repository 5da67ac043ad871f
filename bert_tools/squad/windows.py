"""Windows: a question beside as much of its context as fits, as the original's
convert_examples_to_features cuts them.
"""

import dataclasses
import math

import numpy as np

from bert_tools.errors import UserError
from bert_tools.inputs.features import Features, ranges

FIRST_UNIQUE_ID = 1_000_000_000  # As the original counts.


@dataclasses.dataclass
class Windows:
    """The windows of many questions; those of a question follow each other.

    Attributes:
      features: Features, a row a window; columns unique_ids, and when made for training
        start_positions, end_positions (places in the row; 0, 0: not in this window) and
        is_impossible, all int64 [windows].
      examples: list of SquadExample.
      owners: int64 [windows], the example of each.
      starts: int64 [windows], its first piece, counted in the context's pieces.
      sizes: int64 [windows], how many pieces of the context it has.
      offsets: int64 [windows], where these begin in the row.
      pieces: dict {Document: WordPieces or SpanPieces}.
      cut_questions: int, how many questions were longer than max_query_length.
    """

    features: Features
    examples: list
    owners: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray
    pieces: dict
    cut_questions: int

    def __len__(self):
        return len(self.owners)

    def of_example(self, number):
        """slice of the windows of one example."""
        return slice(*np.searchsorted(self.owners, [number, number + 1]))


class WordPieces:
    """The pieces of a context whose words are tokenised one by one, as the original does.

    Attributes:
      ids: int32 [pieces].
      first: int64 [words + 1], the first piece of each word.
      owner: int64 [pieces], the word of each (the original's token_to_orig_map).
    """

    def __init__(self, document, tokenizer, ids, first):
        self.ids, self.first = ids, first
        self.owner = np.repeat(np.arange(len(first) - 1), np.diff(first))
        self._document, self._tokenizer, self._spans = document, tokenizer, {}

    def span(self, piece):
        """(begin, end): which characters of the context a piece is made of."""
        word = int(self.owner[piece])
        if word not in self._spans:
            self._spans[word] = self._tokenizer.encode_spans(self._document.words[word])[1]
        begin, end = self._spans[word][piece - int(self.first[word])]
        start = int(self._document.word_starts[word])
        return start + begin, start + end

    def answer(self, example):
        """The first and the last piece of an answer: of its words, or, where the answer's own
        pieces stand among these ("1895" in "(1895-1943)."), of those.

        Where they stand there more than once, the original takes the first place; here it is the
        one that answer_start names: a Chinese context is one word.
        """
        document, start = self._document, example.answer_start
        if not len(self.ids):
            return 0, -1
        last_char = start + len(example.answer_text) - 1
        begin = int(self.first[document.word_at(start)])
        end = int(self.first[document.word_at(last_char) + 1]) - 1
        wanted = np.array(self._tokenizer.encode(example.answer_text), np.int32)
        within = self.ids[begin : end + 1]
        if len(wanted) and len(wanted) <= len(within):
            views = np.lib.stride_tricks.sliding_window_view(within, len(wanted))
            places = begin + np.flatnonzero((views == wanted).all(axis=1))
            if len(places):
                exact = [at for at in places if len(places) > 1 and self.span(at)[0] == start]
                place = int(exact[0] if exact else places[0])
                return place, place + len(wanted) - 1
        return begin, end


class SpanPieces:
    """The pieces of a context that is tokenised as a whole, as transformers does for the families
    whose pieces hold the blank before them.

    Attributes:
      ids: int32 [pieces].
    """

    def __init__(self, document, tokenizer):
        ids, spans = tokenizer.encode_spans(document.text)
        self.ids = np.array(ids, np.int32)
        self._begins, self._ends = np.array(spans, np.int64).reshape(-1, 2).T

    def span(self, piece):
        """(begin, end): which characters of the context a piece is made of."""
        return int(self._begins[piece]), int(self._ends[piece])

    def answer(self, example):
        """The first and the last piece that have characters of the answer."""
        start = example.answer_start
        stop = start + len(example.answer_text)
        inside = np.flatnonzero((self._ends > start) & (self._begins < stop))
        return (int(inside[0]), int(inside[-1])) if len(inside) else (0, -1)


def convert_examples_to_features(
    examples, tokenizer, max_seq_length, doc_stride, max_query_length, is_training
):
    """Cuts windows.

    A context longer than the room beside its question is cut into windows that begin doc_stride
    pieces apart.

    Args:
      examples: list of SquadExample.
      tokenizer: FullTokenizer or SubwordTokenizer.
      max_seq_length: int, more than max_query_length + 3 (4 with two separators).
      doc_stride: int, from 1.
      max_query_length: int; further pieces of a question are cut off.
      is_training: bool, add the columns to learn.

    Returns:
      Windows. A context without a piece has none.

    Raises:
      UserError: max_seq_length is too small.
    """
    separators = tokenizer.pair_separators
    check_lengths(max_seq_length, max_query_length, separators)
    query_ids, query_ends = tokenizer.encode_batch(example.question_text for example in examples)
    query_lengths = np.diff(query_ends)
    cut_questions = int(np.count_nonzero(query_lengths > max_query_length))
    query_lengths = np.minimum(query_lengths, max_query_length)
    pieces = _document_pieces(examples, tokenizer)
    of_example = [pieces[example.document] for example in examples]
    totals = np.array([len(found.ids) for found in of_example], np.int64)

    room = max_seq_length - query_lengths - 2 - separators
    stride = np.minimum(room, min(doc_stride, max_seq_length))
    counts = np.where(totals <= room, 1, 1 - (room - totals) // stride)
    counts = np.where(totals == 0, 0, counts)
    owners = np.repeat(np.arange(len(examples)), counts)
    starts = ranges(np.zeros_like(counts), counts) * stride[owners]
    sizes = np.minimum(room[owners], totals[owners] - starts)
    offsets = query_lengths[owners] + 1 + separators

    all_ids = [found.ids for found in pieces.values()]
    begins = dict(zip(pieces, np.cumsum([0, *map(len, all_ids)]).tolist(), strict=False))
    begins = np.array([begins[example.document] for example in examples], np.int64)
    all_ids = np.concatenate(all_ids) if all_ids else np.zeros(0, np.int32)

    ends = np.cumsum(offsets + sizes + 1)
    rows = np.concatenate([[0], ends])
    first = rows[:-1]
    ids = np.empty(rows[-1], np.int32)
    ids[first] = tokenizer.cls_id
    asked = query_lengths[owners]
    ids[ranges(first + 1, asked)] = query_ids[ranges(query_ends[owners], asked)]
    ids[ranges(first + 1 + asked, np.full_like(asked, separators))] = tokenizer.sep_id
    ids[ends - 1] = tokenizer.sep_id
    ids[ranges(first + offsets, sizes)] = all_ids[ranges(begins[owners] + starts, sizes)]
    segments = np.repeat(
        np.tile(np.array([0, tokenizer.second_segment], np.int32), len(owners)),
        np.stack([offsets, sizes + 1], 1).ravel(),
    )
    columns = {"unique_ids": FIRST_UNIQUE_ID + np.arange(len(owners))}
    windows = Windows(
        Features(ids, segments, rows, columns),
        examples,
        owners,
        starts,
        sizes,
        offsets,
        pieces,
        cut_questions,
    )
    if is_training:
        columns.update(_targets(windows, of_example))
    return windows


def check_lengths(max_seq_length, max_query_length, separators=1):
    """Raises UserError where a question may leave no room for its context, as the original."""
    if max_seq_length <= max_query_length + 2 + separators:
        raise UserError(
            f"--max_seq_length={max_seq_length}: must be greater than --max_query_length "
            f"({max_query_length}) + {2 + separators}; raise it"
        )


def max_context(windows, number):
    """Which window sees the most around a piece, for all pieces of one example.

    Of the windows that hold a piece, the one with the larger min(pieces to its left, to its right)
    + 0.01 * size; the first of equals.

    Returns:
      int64 [pieces], numbers of windows.
    """
    of = windows.of_example(number)
    starts, sizes = windows.starts[of, np.newaxis], windows.sizes[of, np.newaxis]
    places = np.arange(int((starts + sizes).max(initial=0)))
    ends = starts + sizes - 1
    scores = np.minimum(places - starts, ends - places) + 0.01 * sizes
    scores = np.where((places >= starts) & (places <= ends), scores, -math.inf)
    return of.start + np.argmax(scores, axis=0) if len(places) else places


def _document_pieces(examples, tokenizer):
    """{Document: its pieces}, each document once."""
    documents = list(dict.fromkeys(example.document for example in examples))
    if not tokenizer.blanks_separate:
        return {document: SpanPieces(document, tokenizer) for document in documents}
    ids, ends = tokenizer.encode_batch(word for found in documents for word in found.words)
    pieces, word = {}, 0
    for document in documents:
        first = ends[word : word + len(document.words) + 1]
        word += len(document.words)
        pieces[document] = WordPieces(
            document, tokenizer, ids[first[0] : first[-1]], first - first[0]
        )
    return pieces


def _targets(windows, of_example):
    """The columns to learn."""
    spans = [
        (-1, -1) if example.is_impossible else found.answer(example)
        for example, found in zip(windows.examples, of_example, strict=True)
    ]
    begin, end = np.array(spans, np.int64).reshape(-1, 2)[windows.owners].T
    inside = (begin >= windows.starts) & (end < windows.starts + windows.sizes) & (begin >= 0)
    shift = windows.offsets - windows.starts
    impossible = np.array([example.is_impossible for example in windows.examples], np.int64)
    return {
        "start_positions": np.where(inside, begin + shift, 0),
        "end_positions": np.where(inside, end + shift, 0),
        "is_impossible": impossible[windows.owners],
    }
