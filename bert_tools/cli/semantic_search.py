"""semantic_search: the texts of a corpus that are nearest in meaning to each query.

semantic_search --corpus=answers.txt --queries=questions.txt --bert=minilm --top_k=5

A row for each: query, rank, score, id, text; as TSV, or JSON lines in an --output_file that ends in
.jsonl. The corpus and the queries are texts, a line each, or columns of tables; or vectors that
extract_cls made: .npy with its texts, .npz, or JSON lines (then --bert is not needed):
  extract_cls --input_file=answers.txt --output_file=- --bert=minilm --pooling=auto |
    semantic_search --corpus=- --queries=questions.txt --bert=minilm

Every text is compared, so what is found are the nearest, ties in the corpus's order. Of millions of
texts, keep an approximate index (extra: search), which is memory-mapped and may be added to:
  semantic_search --corpus=answers.txt --index=answers.index --bert=minilm
  semantic_search --corpus=more.txt --index=answers.index --add=true --bert=minilm
  semantic_search --index=answers.index --queries=- --bert=minilm < questions.txt

A model of pairs that run_reg trained may judge what was found: --rerank=DIR --rerank_top_k=50.
"""

import sys

from bert_tools import files
from bert_tools.cli import app, shared_flags, task_data, vector_sources
from bert_tools.errors import UserError

_SOURCES = ("corpus", "corpus_texts", "queries")
_TOGETHER = 256  # Queries that are looked up and judged together.


def flags():
    """The command's flags."""
    command = app.CommandFlags()
    shared_flags.define_model_flags(command)
    command.group("Corpus")
    command.string(
        "corpus", None, "Texts, a table, or vectors: .npy, .npz, JSON lines; - is stdin."
    )
    command.string("corpus_texts", None, "The texts of a .npy, in the same order.")
    vector_sources.define_text_flags(command)
    command.string(
        "index",
        None,
        "Folder of an approximate index: with --corpus it is built, without it is searched.",
    )
    command.bool("add", False, "Add the corpus to the index that is there; its ids go on.")
    command.group("Queries")
    command.string("queries", None, "As --corpus; - is answered line by line.")
    command.string("query_column", None, "Column of the queries, as --text_column.")
    command.bool("interactive", False, "Ask for queries, one a line.")
    vector_sources.define_vector_flags(command)
    command.string("query_prefix", "", 'Set before each query: "query: ".')
    command.group("Results")
    command.integer("top_k", 10, "Texts for each query.", lower_bound=1)
    command.float("threshold", None, "Leave out texts with a lower score.")
    command.string("rerank", None, "Order by the values that this model of run_reg gives.")
    command.integer(
        "rerank_top_k", 0, "Texts that are given to it for each query; 0: top_k.", lower_bound=0
    )
    command.string("output_file", "-", "Where rows go; - is stdout.")
    command.enum(
        "output_format",
        "auto",
        vector_sources.FORMATS,
        "auto: jsonl by the file's name, else tsv. jsonl has the query's id too, and with "
        "--rerank the similarity.",
    )
    shared_flags.define_compute_flags(command, batching=False)
    return command


def run(command):
    """The command; see the module's docstring."""
    _check(command)
    form = vector_sources.form_of(command, *_SOURCES)
    encode = vector_sources.Vectorizer(command)
    corpus = None
    if command.corpus:
        corpus = vector_sources.read(command, "corpus", "corpus_texts")
    # Queries of a file are looked at before any work; those of stdin are answered as they come.
    queries = None
    if command.queries and command.queries != "-":
        queries = [vector_sources.read(command, "queries", column="query_column")]
    if corpus is not None and not command.add and (command.queries or command.interactive):
        _check_top_k(command, len(corpus), corpus.name)

    if command.index:
        found = _indexed(command, corpus, encode)
        if not command.queries and not command.interactive:
            return
    else:
        from bert_tools.sentence.search import Exact

        found = _Searched(Exact(encode(corpus), command.similarity), corpus)
    reranker = _reranker(command)
    if queries is None:
        flag = "queries" if command.queries else "interactive"
        queries = vector_sources.read_windows(command, "-", flag, "query_column")
    with files.text_writer(command.output_file) as write:
        for window in _prompted(queries) if command.interactive else queries:
            vectors = encode(window, command.query_prefix)
            vector_sources.check_widths((found.name, found.width), (window.name, vectors.shape[1]))
            for start in range(0, len(window), _TOGETHER):
                stop = min(start + _TOGETHER, len(window))
                rows = _answers(command, form, found, reranker, window, vectors, start, stop)
                write("".join(vector_sources.row(form, row) for row in rows))


def _check(command):
    """What contradicts itself, as UserError, before any work."""
    if not command.corpus and not command.index:
        raise UserError("--corpus is missing; give it, or an --index")
    if command.interactive and command.queries:
        raise UserError("--interactive and --queries: both say what to ask; leave one of them out")
    asked = command.queries or command.interactive
    if not asked and not (command.corpus and command.index):
        raise UserError("--queries is missing; give it, or --interactive")
    for flag in ("corpus", "corpus_texts"):
        if command.interactive and getattr(command, flag) == "-":
            raise UserError(f"--{flag}=-: stdin is where queries are typed; name a file")
    if command.add and not (command.corpus and command.index):
        raise UserError("--add: needs --corpus and --index; give both")
    if command.rerank_top_k and not command.rerank:
        raise UserError(f"--rerank_top_k={command.rerank_top_k}: needs --rerank; give it")
    if command.rerank_top_k and command.rerank_top_k < command.top_k:
        raise UserError(
            f"--rerank_top_k={command.rerank_top_k}: is less than --top_k={command.top_k}; raise it"
        )
    vector_sources.require_source(command, *_SOURCES)
    if command.rerank:
        from bert_tools.tasks import regress

        task_data.described(None, command.rerank, regress.Regression.name)
    if command.index:
        if command.similarity != "cosine":
            raise UserError(
                f"--similarity={command.similarity}: an index is of the cosine; leave it out, or "
                "search without --index"
            )
        from bert_tools.sentence import index

        index.require_library("index")
        if command.corpus:
            index.check_target(command.index, command.add)


def _check_top_k(command, count, name):
    """top_k and rerank_top_k of what there is; asked for by flag, more is an error."""
    for flag in ("top_k", "rerank_top_k"):
        if command.given(flag) and getattr(command, flag) > count:
            raise UserError(
                f"--{flag}={getattr(command, flag)}: {name} holds {count} texts; lower it"
            )
    command.adopt("top_k", min(command.top_k, count))


class _Searched:
    """An Exact over a Collection, its texts at hand."""

    def __init__(self, exact, corpus):
        self.search, self.width, self._corpus = exact.search, exact.width, corpus
        self.name = corpus.name

    def text(self, place):
        """(id, text) of a row."""
        return self._corpus.ids[place], self._corpus.text(place)


class _Indexed:
    """An index on disk."""

    def __init__(self, folder, found):
        self.search, self.width, self.name = found.search, found.width, folder
        self.text = found.texts.__getitem__


def _indexed(command, corpus, encode):
    """Builds or enlarges the index where there is a corpus; opens it."""
    from bert_tools.sentence import index

    if corpus is not None:
        vectors = encode(corpus)
        texts = ((corpus.ids[n], corpus.text(n) or None) for n in range(len(corpus)))
        index.build(command.index, vectors, texts, command.add)
    found = index.Index(command.index)
    app.log.info("%s: %d texts", command.index, len(found))
    if command.queries or command.interactive:
        _check_top_k(command, len(found), command.index)
    return _Indexed(command.index, found)


def _reranker(command):
    if not command.rerank:
        return None
    app.import_tensorflow()
    from bert_tools.sentence.rerank import Reranker

    return Reranker(command.rerank, shared_flags.precision(command))


def _answers(command, form, found, reranker, queries, vectors, start, stop):
    """The rows of some queries of a Collection, as dicts."""
    scores, places = found.search(vectors[start:stop], command.rerank_top_k or command.top_k)
    hits = [
        [
            (score, *found.text(place))
            for score, place in zip(*pair, strict=True)
            if place >= 0 and (command.threshold is None or score >= command.threshold)
        ]
        for pair in zip(scores.tolist(), places.tolist(), strict=True)
    ]
    values = [score for of_query in hits for score, _, _ in of_query]
    if reranker:
        asked = zip(range(start, stop), hits, strict=True)
        values = reranker.scores(
            [_texts(queries, n, hit) for n, of_query in asked for hit in of_query]
        ).tolist()
    rows, begun = [], 0
    for number, of_query in zip(range(start, stop), hits, strict=True):
        own = values[begun : begun + len(of_query)]
        begun += len(of_query)
        # Sorting keeps the order of the first stage among equal values.
        order = sorted(range(len(own)), key=lambda place, own=own: -own[place])
        for rank, place in enumerate(order[: command.top_k], 1):
            similarity, identity, text = of_query[place]
            query = queries.text(number) or str(queries.ids[number])
            row = {"query": query, "rank": rank, "score": own[place]}
            row |= {"id": identity, "text": text or ""}
            if form == "jsonl":
                row = {"query_id": queries.ids[number], **row}
                row |= {"similarity": similarity} if reranker else {}
            rows.append(row)
    return rows


def _texts(queries, number, hit):
    """The pair that the second stage judges."""
    pair = queries.text(number), hit[2]
    if not all(pair):
        raise UserError(
            "--rerank: needs the texts of queries and corpus, and one of them has vectors alone; "
            "give its texts"
        )
    return pair


def _prompted(windows):
    """The windows, and a prompt before each at a terminal."""
    while True:
        if sys.stdin is not None and sys.stdin.isatty():
            print("query: ", end="", file=sys.stderr, flush=True)
        window = next(windows, None)
        if window is None:
            return
        yield window


def main(arguments=None):
    """The console command; returns the exit status."""
    return app.run(__doc__, flags(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
