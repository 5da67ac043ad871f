"""Hard negatives: texts that lie near one that they do not belong to."""

import collections

import numpy as np

from bert_tools.errors import UserError
from bert_tools.inputs.examples import InputExample
from bert_tools.sentence.search import Exact


def mined(encoder, examples, count):
    """Adds to each example the nearest texts of all examples' second column.

    What stands beside the same first text anywhere does not count, nor the text itself. A text
    that lies nearer than the example's own second one may well belong to it too: such come last.

    Args:
      encoder: Encoder.
      examples: list of InputExample with a second text.
      count: int, how many texts are added.

    Returns:
      list of InputExample.

    Raises:
      UserError: there are not so many texts.
    """
    queries = list(dict.fromkeys(example.text_a for example in examples))
    corpus = list(dict.fromkeys(example.text_b for example in examples))
    known = collections.defaultdict(set)
    for example in examples:
        known[example.text_a] |= {example.text_a, example.text_b}
    if len(corpus) < count + max(map(len, known.values())):
        raise UserError(
            f"--hard_negatives={count}: there are only {len(corpus)} different second texts; lower "
            "it"
        )
    # As many again as may belong to it, so that there are others.
    depth = min(len(corpus), max(4 * count, 10) + max(map(len, known.values())))
    found, places = Exact(encoder.encode(corpus)).search(encoder.encode(queries), depth)
    near = {
        query: [
            (score, corpus[place])
            for score, place in zip(*row, strict=True)
            if corpus[place] not in known[query]
        ]
        for query, *row in zip(queries, found.tolist(), places.tolist(), strict=True)
    }
    own = _own_scores(examples, queries, corpus, found, places)
    added = []
    for example, limit in zip(examples, own, strict=True):
        row = near[example.text_a]
        ordered = [text for score, text in row if score <= limit]
        ordered += [text for score, text in reversed(row) if score > limit]
        added.append(
            InputExample(
                example.guid,
                example.text_a,
                example.text_b,
                example.label,
                (*example.further, *ordered[:count]),
            )
        )
    return added


def _own_scores(examples, queries, corpus, found, places):
    """The score of each example's second text with its first; where it was not found, the lowest
    that was: everything found lies nearer.
    """
    query_of = {text: place for place, text in enumerate(queries)}
    place_of = {text: place for place, text in enumerate(corpus)}
    scores = np.empty(len(examples))
    for number, example in enumerate(examples):
        query = query_of[example.text_a]
        hit = np.flatnonzero(places[query] == place_of[example.text_b])
        scores[number] = found[query, hit[0]] if len(hit) else -np.inf
    return scores
