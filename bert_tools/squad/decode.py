"""From start and end scores to answers, as the original's write_predictions, for all windows at
once.
"""

import typing

import numpy as np

from bert_tools.errors import UserError
from bert_tools.squad.windows import max_context

_CHUNK = 1024  # Windows at a time: n_best_size ** 2 candidates each.
# What null_odds.json says of a context without any word, where there is no other answer. The
# original's "no score yet".
_NO_SCORE = 1000000.0


class Candidate(typing.NamedTuple):
    """One of the n best answers.

    text: str, cut from the context; "" is "the text has no answer".
    begin, end: int, text == context[begin:end]; -1, -1 for no answer.
    start_logit, end_logit: float.
    window: int, the number of the window in which it was found.
    probability: float, among the n best.
    """

    text: str
    begin: int
    end: int
    start_logit: float
    end_logit: float
    window: int
    probability: float


class Decoded(typing.NamedTuple):
    """What is said of one question.

    n_best: list of Candidate, the best first; never empty.
    null_odds: float or None, the score of "no answer" minus that of the best answer; None where
      the model knows only questions with an answer.
    """

    n_best: list
    null_odds: float | None

    @property
    def best(self):
        """The best Candidate that is an answer; with a context without words the empty one."""
        answers = [candidate for candidate in self.n_best if candidate.text]
        return answers[0] if answers else self.n_best[0]

    def chosen(self, threshold=0.0):
        """The Candidate to predict: no answer where null_odds is above `threshold`."""
        if self.null_odds is not None and self.null_odds > threshold:
            return next(candidate for candidate in self.n_best if not candidate.text)
        return self.best


def decode(
    windows,
    start_logits,
    end_logits,
    n_best_size=20,
    max_answer_length=30,
    version_2_with_negative=False,
):
    """The n best answers of each question.

    Of each window the n_best_size highest starts are paired with as many ends: both in the context,
    the end not before the start, at most max_answer_length pieces, the start where its window is
    the one that sees the most around it. Where none of these pairs is an answer, all starts and
    ends are looked at.

    Args:
      windows: Windows.
      start_logits, end_logits: float array [windows, at least the longest window].
      n_best_size, max_answer_length: int, from 1.
      version_2_with_negative: bool, whether "no answer" ([CLS], in the window where it scores
        least) is a candidate.

    Returns:
      list of Decoded, one an example.

    Raises:
      UserError: a score is not finite; names the question.
    """
    start_logits = np.asarray(start_logits, np.float64)
    end_logits = np.asarray(end_logits, np.float64)
    _require_finite(windows, start_logits, end_logits)
    best_around = _best_around(windows)
    found = _pairs(windows, best_around, start_logits, end_logits, n_best_size, max_answer_length)
    decoded = []
    for number in range(len(windows.examples)):
        of = windows.of_example(number)
        pairs = found[slice(*np.searchsorted(found[:, 0], [of.start, of.stop]))]
        if not len(pairs) and of.start < of.stop:
            pairs = _all_pairs(windows, best_around, of, end_logits, max_answer_length)
        decoded.append(
            _decoded(
                windows,
                number,
                pairs,
                start_logits,
                end_logits,
                n_best_size,
                version_2_with_negative,
            )
        )
    return decoded


def _require_finite(windows, start_logits, end_logits):
    broken = ~(np.isfinite(start_logits) & np.isfinite(end_logits)).all(axis=1)
    if broken.any():
        example = windows.examples[windows.owners[np.flatnonzero(broken)[0]]]
        raise UserError(
            f"question {example.qas_id}: the model's scores are not finite; take an earlier "
            "checkpoint, or --precision=float32"
        )


def _best_around(windows):
    """bool [windows, widest]: whether a place of a row is a piece of the context that no other
    window sees more around.
    """
    widest = int((windows.offsets + windows.sizes).max(initial=0))
    places = np.arange(widest)
    begin = windows.offsets[:, np.newaxis]
    inside = (places >= begin) & (places < begin + windows.sizes[:, np.newaxis])
    numbers, counts = np.unique(windows.owners, return_counts=True)
    for number in numbers[counts > 1]:
        best = max_context(windows, number)
        of = windows.of_example(number)
        for window in range(of.start, of.stop):
            begin, size = windows.offsets[window], windows.sizes[window]
            pieces = best[windows.starts[window] : windows.starts[window] + size]
            inside[window, begin : begin + size] = pieces == window
    return inside


def _pairs(windows, best_around, start_logits, end_logits, n_best_size, max_answer_length):
    """int64 [pairs, 3]: window, start and end of each candidate, windows ascending, and within a
    window in the order of the starts' and then the ends' scores.
    """
    found = [np.zeros((0, 3), np.int64)]
    for chunk in range(0, len(windows), _CHUNK):
        rows = slice(chunk, chunk + _CHUNK)
        starts = _highest(start_logits[rows], windows.features.lengths[rows], n_best_size)
        ends = _highest(end_logits[rows], windows.features.lengths[rows], n_best_size)
        begin, size = windows.offsets[rows, np.newaxis], windows.sizes[rows, np.newaxis]
        last = begin + size
        start_good = np.take_along_axis(
            best_around[rows], np.minimum(starts, best_around.shape[1] - 1), 1
        )
        start_good &= (starts >= begin) & (starts < last)
        end_good = (ends >= begin) & (ends < last)
        length = ends[:, np.newaxis, :] - starts[:, :, np.newaxis] + 1
        good = (length >= 1) & (length <= max_answer_length)
        good &= start_good[:, :, np.newaxis] & end_good[:, np.newaxis, :]
        window, start, end = np.nonzero(good)
        pairs = [window + chunk, starts[window, start], ends[window, end]]
        found.append(np.stack(pairs, axis=1))
    return np.concatenate(found)


def _highest(logits, lengths, count):
    """int64 [rows, count]: the places of the highest logits among the first `lengths`, the first
    of equals first; with fewer than count tokens, places behind the end among them.
    """
    logits = np.where(np.arange(logits.shape[1]) < lengths[:, np.newaxis], logits, -np.inf)
    return np.argsort(-logits, axis=1, kind="stable")[:, :count]


def _all_pairs(windows, best_around, of, end_logits, max_answer_length):
    """As `_pairs` for the windows of one example, with the best end of each start."""
    pairs = []
    for window in range(of.start, of.stop):
        last = int(windows.offsets[window] + windows.sizes[window])
        for start in np.flatnonzero(best_around[window]).tolist():
            ends = end_logits[window, start : min(last, start + max_answer_length)]
            pairs.append((window, start, start + int(np.argmax(ends))))
    return np.array(pairs, np.int64).reshape(-1, 3)


def _decoded(windows, number, pairs, start_logits, end_logits, n_best_size, version_2):
    of, example = windows.of_example(number), windows.examples[number]
    window, start, end = pairs.T
    begins, lasts = start_logits[window, start], end_logits[window, end]
    order = np.argsort(-(begins + lasts), kind="stable")
    null = None
    if version_2 and of.start < of.stop:
        least = of.start + int(np.argmin(start_logits[of, 0] + end_logits[of, 0]))
        null = ("", -1, -1, float(start_logits[least, 0]), float(end_logits[least, 0]), least)
        null_score = null[3] + null[4]
    pieces = windows.pieces[example.document]
    chosen, seen = [], set()
    for index in order.tolist():
        if null and null not in chosen and begins[index] + lasts[index] < null_score:
            chosen.append(null)
        if len(chosen) >= n_best_size and seen:
            break
        shift = windows.starts[window[index]] - windows.offsets[window[index]]
        place = pieces.span(start[index] + shift)[0]
        stop = pieces.span(end[index] + shift)[1]
        text = example.document.text[place:stop]
        if text not in seen:
            seen.add(text)
            scores = (float(begins[index]), float(lasts[index]))
            chosen.append((text, place, stop, *scores, int(window[index])))
    if null and null not in chosen:
        chosen.append(null)
    if not chosen:
        chosen = [("", -1, -1, 0.0, 0.0, -1)]
    scores = np.array([start_logit + end_logit for *_, start_logit, end_logit, _ in chosen])
    weights = np.exp(scores - scores.max())
    n_best = [
        Candidate(*fields, float(probability))
        for fields, probability in zip(chosen, weights / weights.sum(), strict=True)
    ]
    if not version_2:
        return Decoded(n_best, None)
    answers = [candidate for candidate in n_best if candidate.text]
    if not answers:
        return Decoded(n_best, _NO_SCORE)
    return Decoded(n_best, null_score - answers[0].start_logit - answers[0].end_logit)
