"""Features of sentences that are words already, with a tag a word."""

import itertools

import numpy as np

from bert_tools.inputs.features import Features, ranges


def convert_sentences_to_features(
    sentences, label_list, max_seq_length, tokenizer, is_training=False
):
    """Tokenises words one by one, and cuts sentences that are too long into windows.

    Windows begin and end between words and overlap by about a quarter. A word has a tag in each of
    them to learn from, and to be scored in the one that sees more around it; none is lost. A word
    without a piece (one control character) is the unknown token; one longer than a window loses
    its end.

    Args:
      sentences: list of conll.Sentence, each with a word at least.
      label_list: list of str, the tags in the order of their numbers.
      max_seq_length: int, at least 3.
      tokenizer: FullTokenizer or SubwordTokenizer.
      is_training: bool.

    Returns:
      Features, a row a window, with the columns label_ids int32 [rows, max_seq_length] (at the
      first piece of each word that counts there 1 + its tag's number, where tags are not known 1;
      else 0), sentence int64 [rows] (by number in `sentences`) and words_per_row float32 [rows],
      the mean number of words that count in a row, the same for all.
    """
    room = max_seq_length - 2
    numbers = {label: number for number, label in enumerate(label_list)}
    tags = [
        numbers[tag]
        for sentence in sentences
        for tag in (sentence.tags or [label_list[0]] * len(sentence.words))
    ]
    ids, ends = _pieces([word for sentence in sentences for word in sentence.words], tokenizer)
    sizes = np.minimum(np.diff(ends), room)

    rows, base = [], 0
    for number, sentence in enumerate(sentences):
        count = len(sentence.words)
        for begin, end, first, last in _windows(sizes[base : base + count], room):
            kept = (begin, end) if is_training else (first, last)
            rows.append((number, base + begin, base + end, base + kept[0], base + kept[1]))
        base += count
    owners, begins, stops, first, last = np.array(rows, np.int64).reshape(-1, 5).T

    # Where each word's pieces begin once all are cut to the room.
    starts = np.concatenate([[0], np.cumsum(sizes)])
    pieces = ids[ranges(ends[:-1], sizes)]
    lengths = starts[stops] - starts[begins]
    offsets = np.concatenate([[0], np.cumsum(lengths + 2)])
    input_ids = np.empty(offsets[-1], np.int32)
    input_ids[offsets[:-1]] = tokenizer.cls_id
    input_ids[offsets[1:] - 1] = tokenizer.sep_id
    input_ids[ranges(offsets[:-1] + 1, lengths)] = pieces[ranges(starts[begins], lengths)]

    label_ids = np.zeros((len(rows), max_seq_length), np.int32)
    counted = ranges(first, last - first)
    row = np.repeat(np.arange(len(rows)), last - first)
    label_ids[row, 1 + starts[counted] - starts[begins][row]] = 1 + np.array(tags)[counted]
    columns = {
        "label_ids": label_ids,
        "sentence": owners,
        "words_per_row": np.full(len(rows), len(counted) / max(len(rows), 1), np.float32),
    }
    return Features(input_ids, np.zeros_like(input_ids), offsets, columns)


def _pieces(words, tokenizer):
    """(ids, ends) of all words, as encode_batch gives them; each has one piece at least."""
    if not tokenizer.blanks_separate:
        # Their pieces hold the blank before them, as in the texts that the model learnt from.
        words = [f" {word}" for word in words]
    ids, ends = tokenizer.encode_batch(words)
    empty = np.flatnonzero(np.diff(ends) == 0)
    if len(empty):
        ids = np.insert(ids, ends[empty], tokenizer.unk_id)
        ends = ends + np.searchsorted(empty, np.arange(len(ends)))
    return ids, ends


def _windows(sizes, room):
    """(begin, end, first, last) of each window of a sentence whose words have so many pieces: it
    holds the words begin to end - 1, of which first to last - 1 are scored there.
    """
    if sizes.sum() <= room:
        return [(0, len(sizes), 0, len(sizes))]
    ends, begin, found = np.concatenate([[0], np.cumsum(sizes)]), 0, []
    while True:
        end = int(np.searchsorted(ends, ends[begin] + room, side="right")) - 1
        found.append((begin, end))
        if end == len(sizes):
            break
        begin = max(begin + 1, int(np.searchsorted(ends, ends[end] - room // 4)))
        # Words that no window would hold beside others do not overlap.
        begin = min(begin, end)
    middles = [(end + begin + 1) // 2 for (_, end), (begin, _) in itertools.pairwise(found)]
    return [
        (*window, first, last)
        for window, first, last in zip(found, [0, *middles], [*middles, len(sizes)], strict=True)
    ]
