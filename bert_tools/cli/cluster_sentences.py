"""cluster_sentences: texts that mean something alike, put together.

cluster_sentences --input_file=lines.txt --bert=minilm --clusters=2-20 --plot_dir=plots

A row for each text: cluster, score, id, text (the score is the cosine with the cluster's centre);
as TSV, or JSON lines in an --output_file that ends in .jsonl. On stderr, and with --summary_file in
JSON lines: the size of each cluster, its central text and its typical words. Texts are lines, or a
column of a table; or vectors that extract_cls made: .npy with its texts, .npz, or JSON lines (then
--bert is not needed).

--clusters=8 asks for so many, by k-means; --clusters=2-20 for the number with the best silhouette.
--threshold=0.75 asks for communities instead: texts with at least this cosine to a central one;
texts in none are in cluster -1.
"""

import json
import re
import sys

from bert_tools import files
from bert_tools.cli import app, shared_flags, vector_sources
from bert_tools.errors import UserError

_WORDS = 5  # Typical ones of a cluster.
_TOLD = 20  # Clusters on stderr.


def flags():
    """The command's flags."""
    command = app.CommandFlags()
    shared_flags.define_model_flags(command)
    command.group("Texts")
    command.string(
        "input_file", None, "Texts, a table, or vectors: .npy, .npz, JSON lines; - is stdin."
    )
    command.string("texts", None, "The texts of a .npy, in the same order.")
    vector_sources.define_text_flags(command)
    vector_sources.define_vector_flags(command, similarity=False)
    command.group("Clusters")
    command.string(
        "clusters", None, "Their number, or FROM-TO: the number with the best silhouette."
    )
    command.float("threshold", None, "Communities instead: the least cosine with the central text.")
    command.integer("min_size", 2, "Texts of a community at least.", lower_bound=1)
    command.string("output_file", "-", "Where rows go; - is stdout.")
    command.enum(
        "output_format",
        "auto",
        vector_sources.FORMATS,
        "auto: jsonl by the file's name, else tsv.",
    )
    command.string(
        "summary_file",
        None,
        "JSON lines: cluster, size, central id and text, typical words; - is stdout.",
    )
    command.string(
        "plot_dir", None, "Folder for a map of the texts: map.png. Needs the extra plots."
    )
    shared_flags.define_compute_flags(command, batching=False)
    return command


def run(command):
    """The command; see the module's docstring."""
    command.require("input_file")
    counts = _counts(command)
    vector_sources.require_source(command, "input_file", "texts")
    form = vector_sources.form_of(command, "input_file", "texts")
    if command.summary_file:
        if command.summary_file == command.output_file == "-":
            raise UserError(
                "--summary_file=- and --output_file=-: there is one stdout; name a file for one"
            )
        shared_flags.require_place(command, "summary_file", "input_file", "texts", "output_file")
    if command.plot_dir:
        from bert_tools import plots

        plots.require_folder(command.plot_dir)
    texts = vector_sources.read(command, "input_file", "texts")
    if counts and counts[-1] > len(texts):
        raise UserError(
            f"--clusters={command.clusters}: {texts.name} holds {len(texts)} texts; lower it"
        )
    vectors = vector_sources.Vectorizer(command)(texts)

    from bert_tools.sentence import clusters

    if counts:
        found, silhouettes = clusters.k_means(vectors, counts, command.seed)
        for count, value in silhouettes.items():
            app.log.info("%d clusters: silhouette %.4f", count, value)
    else:
        found = clusters.communities(vectors, command.threshold, command.min_size)
    words = [[] for _ in found.central]
    if texts.texts:
        words = clusters.typical_words(texts.texts, found.labels, _WORDS)
    summary = _summary(texts, found, words)
    _tell(texts, found, summary)
    with files.text_writer(command.output_file) as write:
        for place, label in enumerate(found.labels.tolist()):
            record = {"cluster": label, "score": float(found.scores[place])}
            if label < 0:
                record["score"] = None if form == "jsonl" else ""
            record |= {"id": texts.ids[place], "text": texts.text(place)}
            write(vector_sources.row(form, record))
    if command.summary_file:
        with files.text_writer(command.summary_file) as write:
            for one in summary:
                write(json.dumps(one, ensure_ascii=False) + "\n")
    if command.plot_dir:
        from bert_tools.sentence import pictures

        places, points = clusters.plane(vectors, command.seed)
        shown = [texts.text(place) or str(texts.ids[place]) for place in places]
        pictures.draw_map(command.plot_dir, points, found.labels[places], shown, words)


def _counts(command):
    """The numbers of clusters to try; empty where communities are asked for."""
    if (command.clusters is None) == (command.threshold is None):
        raise UserError("--clusters or --threshold: exactly one says what clusters are; give one")
    if command.clusters is None:
        return []
    if command.given("min_size"):
        raise UserError("--min_size: is of communities; give --threshold, or leave it out")
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", command.clusters)
    counts = range(int(match[1]), int(match[2] or match[1]) + 1) if match else []
    if not counts or counts[0] < 1:
        raise UserError(
            f"--clusters={command.clusters}: expected a number from 1, or FROM-TO such as 2-20"
        )
    return counts


def _summary(texts, found, words):
    """What is said of each cluster, as dicts."""
    return [
        {
            "cluster": label,
            "size": int((found.labels == label).sum()),
            "central_id": texts.ids[central],
            "central_text": texts.text(central),
            "words": words[label],
        }
        for label, central in enumerate(found.central.tolist())
    ]


def _tell(texts, found, summary):
    quality = "" if found.silhouette is None else f", silhouette {found.silhouette:.4f}"
    alone = int((found.labels < 0).sum())
    outside = f", {alone} texts in none" if alone else ""
    app.log.info("%d texts, %d clusters%s%s", len(texts), len(summary), quality, outside)
    for one in summary[:_TOLD]:
        app.log.info(
            "  %d: %d texts (%s), central: %s",
            one["cluster"],
            one["size"],
            ", ".join(one["words"]),
            one["central_text"] or one["central_id"],
        )
    if len(summary) > _TOLD:
        app.log.info("  and %d smaller ones", len(summary) - _TOLD)


def main(arguments=None):
    """The console command; returns the exit status."""
    return app.run(__doc__, flags(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
