"""Pictures of an evaluation, by matplotlib (extra: plots)."""

import itertools
import logging
import os
import warnings

import numpy as np

from bert_tools import files
from bert_tools.errors import UserError

log = logging.getLogger("bert_tools")
# Fonts that have Chinese, where one of them is installed.
_FONTS = (
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Arial Unicode MS",
)


class Plotter:
    """Draws the confusion matrix, the ROC curve and the precision-recall curve of an evaluation.

    Args:
      folder: str, made when it is absent.
      labels: list of str.
      positive_label: str, which of two labels the curves are of; of more labels each has its own.

    Raises:
      UserError: matplotlib is not installed, or the folder cannot be made.
    """

    def __init__(self, folder, labels, positive_label):
        require_folder(folder)
        self._folder, self._labels = folder, labels
        self._drawn_of = set()
        self._drawn = [positive_label] if len(labels) == 2 else labels

    def __call__(self, name, predictions, features):
        """Writes {name}_confusion_matrix.png, {name}_roc.png and {name}_precision_recall.png.

        Args:
          name: str; of a path the file's name without its suffix counts, with _2 and so on where
            it comes again.
          predictions: {"probabilities": float array [n, labels], "labels": int [n]}.
          features: {"label_ids": int array [n]}.
        """
        from sklearn import metrics

        stem = os.path.splitext(os.path.basename(name))[0]
        names = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
        name = next(name for name in names if name not in self._drawn_of)  # b/dev.tsv: dev_2.
        self._drawn_of.add(name)
        truth, probabilities = features["label_ids"], predictions["probabilities"]
        with fonts():
            matrix = metrics.confusion_matrix(
                truth, predictions["labels"], labels=range(len(self._labels))
            )
            self._confusion_matrix(f"{name}_confusion_matrix.png", matrix)
            for picture, axes_names, curve in (
                ("roc", ("false positive rate", "true positive rate"), _roc),
                ("precision_recall", ("recall", "precision"), _precision_recall),
            ):
                self._curves(f"{name}_{picture}.png", axes_names, curve, truth, probabilities)

    def _confusion_matrix(self, name, matrix):
        size = max(4.0, 0.5 * len(self._labels) + 2)
        figure, axes = _figure(size)
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        places = range(len(self._labels))
        axes.set_xticks(places, self._labels, rotation=90 if len(self._labels) > 3 else 0)
        axes.set_yticks(places, self._labels)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        for row in places:
            for column in places:
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, matrix[row, column], ha="center", va="center", color=color)
        self._save(figure, name)

    def _curves(self, name, axes_names, curve, truth, probabilities):
        figure, axes = _figure(5.0)
        for label in self._drawn:
            number = self._labels.index(label)
            is_label = truth == number
            if is_label.all() or not is_label.any():
                continue  # Neither curve is defined.
            x, y, area = curve(is_label, probabilities[:, number])
            # A legend leaves out what begins with "_".
            label = f" {label}" if label.startswith("_") else label
            axes.plot(x, y, label=f"{label} ({area:.3f})")
        axes.set_xlabel(axes_names[0])
        axes.set_ylabel(axes_names[1])
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        if axes.lines:
            axes.legend(fontsize="small")
        self._save(figure, name)

    def _save(self, figure, name):
        save(figure, os.path.join(self._folder, name))


def require_folder(folder):
    """Makes the folder of --plot_dir when it is absent.

    Raises:
      UserError: matplotlib is not installed, or the folder cannot be made.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--plot_dir={folder}: needs matplotlib; pip install 'bert-tools[plots]', or leave the "
            "flag out"
        ) from error
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--plot_dir={folder}: cannot be made ({error.strerror}); choose another folder"
        ) from error


def fonts():
    """A context in which figures are drawn with fonts that have Chinese, where there are any, and
    "$" is a character of texts.
    """
    import matplotlib
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    found = [font for font in _FONTS if font in installed]
    settings = {"font.family": ["sans-serif", *found], "text.parse_math": False}
    return matplotlib.rc_context(settings)


def save(figure, path):
    """Writes a figure as PNG; warns where no font has its characters. Call it within `fonts`."""
    with files.aside(path) as temporary, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(temporary, format="png", dpi=150)
    # matplotlib warns of each character.
    if any("missing from font" in str(warning.message) for warning in caught):
        log.warning(
            "%s: no installed font has all characters of the labels; for Chinese install one such "
            "as %s",
            path,
            _FONTS[0],
        )


def _figure(size):
    # Without pyplot, which looks for a screen and keeps every figure.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size, size), layout="constrained")
    return figure, figure.subplots()


def _roc(truth, scores):
    from sklearn import metrics

    x, y, _ = metrics.roc_curve(truth, scores)
    return x, y, metrics.auc(x, y)


def _precision_recall(truth, scores):
    from sklearn import metrics

    precision, recall, _ = metrics.precision_recall_curve(truth, scores)
    return recall, precision, metrics.average_precision_score(truth, scores)
