"""Pictures of question answering, by matplotlib (extra: plots)."""

import os

import numpy as np

from bert_tools import files
from bert_tools.plots import fonts, save
from bert_tools.squad import scores

_INCHES_A_TOKEN = 0.14  # So that labels of 7 points do not touch.


def plot_scores(folder, name, tokens, start_scores, end_scores):
    """Writes {name}.png, a bar for every token's score, and {name}.tsv with the same numbers.

    Args:
      folder: str, made by plots.require_folder.
      name: str.
      tokens: list of str, [CLS] and [SEP] included.
      start_scores, end_scores: float arrays [tokens].
    """
    with fonts():
        figure = score_figure(tokens, start_scores, end_scores)
        save(figure, os.path.join(folder, f"{name}.png"))
    rows = ["index\ttoken\tstart_score\tend_score"]
    for index, (token, start, end) in enumerate(zip(tokens, start_scores, end_scores, strict=True)):
        rows.append(f"{index}\t{token}\t{start}\t{end}")
    files.write_text(os.path.join(folder, f"{name}.tsv"), "\n".join(rows) + "\n")


def score_figure(tokens, start_scores, end_scores):
    """The matplotlib Figure of `plot_scores`: two panels, start above end."""
    from matplotlib.figure import Figure

    width = max(8.0, 1.0 + _INCHES_A_TOKEN * len(tokens))
    figure = Figure(figsize=(width, 9.0), layout="constrained")
    places = np.arange(len(tokens))
    labels = [f"{token} - {index}" for index, token in enumerate(tokens)]
    panels = (("Start Word Scores", start_scores), ("End Word Scores", end_scores))
    for axes, (title, values) in zip(figure.subplots(2), panels, strict=True):
        axes.bar(places, values)
        axes.set_title(title)
        axes.set_xticks(places, labels, rotation=90, fontsize=7)
        axes.set_xlim(-1, len(tokens))
        axes.grid(True, alpha=0.4)
        axes.set_axisbelow(True)
    return figure


def plot_null_odds(folder, references, predictions, null_odds):
    """Writes null_precision_recall.png (answers taken in by ascending null odds: how many of the
    answers so far are right, how many of all are found; by exact match, F1, and whether there is an
    answer at all; not where no question has one) and null_odds.png (histogram).

    Args:
      folder: str, made by plots.require_folder.
      references, predictions, null_odds: see scores.squad_scores.
    """
    from matplotlib.figure import Figure

    with fonts():
        if any(references.values()):
            figure = _recall_figure(references, predictions, null_odds)
            save(figure, os.path.join(folder, "null_precision_recall.png"))
        figure = Figure(figsize=(6.0, 5.0), layout="constrained")
        axes = figure.subplots()
        groups = {"with an answer": [], "without an answer": []}
        for qid, texts in references.items():
            groups["with an answer" if texts else "without an answer"].append(null_odds[qid])
        axes.hist(list(groups.values()), bins=30, label=list(groups))
        axes.set_xlabel("null odds (score of no answer minus that of the best answer)")
        axes.set_ylabel("questions")
        axes.legend(fontsize="small")
        save(figure, os.path.join(folder, "null_odds.png"))


def _recall_figure(references, predictions, null_odds):
    from matplotlib.figure import Figure

    by_question = scores.question_scores(references, predictions)
    by_question["answerable"] = {qid: float(bool(texts)) for qid, texts in references.items()}
    figure = Figure(figsize=(6.0, 5.0), layout="constrained")
    axes = figure.subplots()
    for name, values in by_question.items():
        recall, precision, area = scores.precision_recall(references, values, null_odds)
        axes.step(recall, precision, where="post", label=f"{name} ({area:.3f})")
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.legend(fontsize="small")
    return figure
