"""find_pairs: the pairs of texts that are nearest in meaning.

find_pairs --input_file=lines.txt --bert=minilm --top_k=100

A row for each pair: score, id, id, text, text; as TSV, or JSON lines in an --output_file that ends
in .jsonl. Texts are lines, or a column of a table; or vectors that extract_cls made: .npy with its
texts, .npz, or JSON lines (then --bert is not needed). Every two texts are compared, in memory that
does not grow with their square; ties come in the order of the texts.

  find_pairs --input_file=lines.txt --bert=minilm --threshold=0.9            # all that are so alike
  find_pairs --input_file=new.txt --second_file=old.txt --bert=minilm        # across two files
  find_pairs --input_file=lines.txt --bert=minilm --threshold=0.9 --groups   # duplicates, joined
  find_pairs --input_file=few.txt --bert=minilm --all                        # 0:1 and its distance
"""

import sys

from bert_tools import files
from bert_tools.cli import app, shared_flags, vector_sources
from bert_tools.errors import UserError

_SOURCES = ("input_file", "texts", "second_file", "second_texts")
_ALL = 2000  # Texts that --all is for: two million pairs.
_TOP_K = 100


def flags():
    """The command's flags."""
    command = app.CommandFlags()
    shared_flags.define_model_flags(command)
    command.group("Texts")
    command.string(
        "input_file", None, "Texts, a table, or vectors: .npy, .npz, JSON lines; - is stdin."
    )
    command.string("texts", None, "The texts of a .npy, in the same order.")
    command.string("second_file", None, "Pairs of a text of input_file and one of this.")
    command.string("second_texts", None, "As --texts, of second_file.")
    vector_sources.define_text_flags(command)
    vector_sources.define_vector_flags(command)
    command.group("Pairs")
    command.integer(
        "top_k",
        None,
        f"The most similar pairs, so many; without --threshold and --all {_TOP_K}.",
        lower_bound=1,
    )
    command.float("threshold", None, "All pairs with at least this score, in the texts' order.")
    command.bool(
        "all",
        False,
        f"Every pair, i:j and its distance (1 - cosine), of at most {_ALL} texts.",
    )
    command.bool(
        "groups",
        False,
        "Join pairs above --threshold that share a text: a row a text, group, id, text; texts "
        "without a pair are left out.",
    )
    command.bool(
        "approximate",
        False,
        "Compare each text with its neighbours in an index alone (extra: search), for hundreds of "
        "thousands of texts; how many pairs that finds is measured on a sample, and told.",
    )
    command.string("output_file", "-", "Where rows go; - is stdout.")
    command.enum(
        "output_format",
        "auto",
        vector_sources.FORMATS,
        "auto: jsonl by the file's name, else tsv.",
    )
    shared_flags.define_compute_flags(command, batching=False)
    return command


def run(command):
    """The command; see the module's docstring."""
    _check(command)
    form = vector_sources.form_of(command, *_SOURCES)
    clock = vector_sources.Clock()
    first = vector_sources.read(command, "input_file", "texts")
    second = None
    if command.second_file:
        second = vector_sources.read(command, "second_file", "second_texts")
    _check_counts(command, first, second)
    clock.lap("read")

    from bert_tools.sentence.search import Rows

    encode = vector_sources.Vectorizer(command)
    if any(found is not None and found.vectors is None for found in (first, second)):
        encode.encoder()
        clock.lap("load")
    rows = [Rows(encode(first), command.similarity), None]
    if second is not None:
        rows[1] = Rows(encode(second), command.similarity)
        widths = [found.vectors.shape[1] for found in rows]
        vector_sources.check_widths((first.name, widths[0]), (second.name, widths[1]))
    clock.lap("encode")
    other = first if second is None else second
    with files.text_writer(command.output_file) as write:
        if command.groups:
            lines = _groups(form, first, _found(command, *rows))
        else:
            lines = _pairs(command, form, first, other, _found(command, *rows))
        for line in lines:
            write(line)
    clock.lap("pairs")
    clock.tell()


def _check(command):
    """What contradicts itself, as UserError, before any work."""
    command.require("input_file")
    vector_sources.require_source(command, *_SOURCES)
    given = [flag for flag in ("top_k", "threshold") if getattr(command, flag) is not None]
    if command.all and (given or command.groups or command.approximate):
        raise UserError("--all: gives every pair; leave --top_k, --threshold and the like out")
    if command.all and command.similarity == "dot":
        raise UserError("--all: a dot product has no distance; give another --similarity")
    if command.groups and (given != ["threshold"] or command.second_file):
        raise UserError(
            "--groups: joins the pairs of one file that are above --threshold; give that, and "
            "neither --top_k nor --second_file"
        )
    if command.approximate:
        if command.similarity != "cosine" or command.second_file:
            raise UserError(
                "--approximate: finds pairs of one file by the cosine; leave --similarity and "
                "--second_file out"
            )
        from bert_tools.sentence import index

        index.require_library("approximate")


def _check_counts(command, first, second):
    count = len(first)
    pairs = count * (count - 1) // 2 if second is None else count * len(second)
    if not pairs:
        raise UserError(f"{first.name}: holds one text, and a pair needs two; give more")
    if command.top_k is not None and command.top_k > pairs:
        raise UserError(f"--top_k={command.top_k}: there are {pairs} pairs; lower it")
    most = max(count, 0 if second is None else len(second))
    if command.all and most > _ALL:
        raise UserError(
            f"--all: {most} texts, at most {_ALL} make sense; give --top_k or --threshold"
        )


def _found(command, first, second):
    """Yields (places in the first, places in the second, scores) of the pairs asked for."""
    import numpy as np

    from bert_tools.sentence.search import best_pairs, pairs_above

    k = command.top_k
    if k is None and command.threshold is None and not command.all:
        k = _TOP_K
    threshold = -np.inf if command.threshold is None else command.threshold
    if command.approximate:
        yield _approximate(first, k, threshold)
    elif k is None:
        yield from pairs_above(first, threshold, second)
    else:
        yield best_pairs(first, k, second, threshold)


def _approximate(rows, k, threshold):
    """The pairs that an index finds; tells their recall."""
    from bert_tools.sentence import index

    found = index.near_pairs(rows, k, threshold)
    floor = threshold if k is None or len(found[2]) < k else float(found[2][-1])
    hit, wanted, sampled = index.recall(rows, found, floor)
    pairs = f"pairs with a score of {floor:.4f} or more that {sampled} sampled texts have"
    if wanted:
        share = 100 * hit / wanted
        app.log.info("approximate: found %d of the %d %s: %.2f %%", hit, wanted, pairs, share)
    else:
        app.log.info("approximate: the recall is not known, for there are no %s", pairs)
    return found


def _pairs(command, form, first, second, found):
    """Yields lines of output, a part at a time."""
    for i, j, scores in found:
        lines = []
        for a, b, score in zip(i.tolist(), j.tolist(), scores.tolist(), strict=True):
            if command.all:
                distance = 1 - score if command.similarity == "cosine" else -score
                record = {"pair": f"{first.ids[a]}:{second.ids[b]}", "distance": distance}
            else:
                record = {"score": score, "id_a": first.ids[a], "id_b": second.ids[b]}
                record |= {"text_a": first.text(a), "text_b": second.text(b)}
            lines.append(vector_sources.row(form, record))
        yield "".join(lines)


def _groups(form, texts, found):
    """Yields lines of output: a row a text, groups in the order of their first texts."""
    import numpy as np

    from bert_tools.sentence.clusters import groups

    heads = groups(found, len(texts))
    order = np.lexsort((np.arange(len(heads)), heads))
    sizes = np.bincount(heads, minlength=len(heads))
    order = order[sizes[heads[order]] > 1]
    _, numbers = np.unique(heads[order], return_inverse=True)
    for number, place in zip(numbers.tolist(), order.tolist(), strict=True):
        record = {"group": number, "id": texts.ids[place], "text": texts.text(place)}
        yield vector_sources.row(form, record)


def main(arguments=None):
    """The console command; returns the exit status."""
    return app.run(__doc__, flags(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
