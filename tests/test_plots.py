"""Pictures of an evaluation."""

import numpy as np
import pytest

from bert_tools import plots
from bert_tools.errors import UserError

pytest.importorskip("matplotlib", reason="needs the extra plots")
PICTURES = ("confusion_matrix", "precision_recall", "roc")


def scored(count, rows=12):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(count), rows)
    predictions = {"probabilities": probabilities, "labels": probabilities.argmax(axis=1)}
    return predictions, {"label_ids": np.arange(rows) % count}


@pytest.mark.parametrize("labels", [["no", "yes"], list("abcdef"), ["体育", "娱乐", "政治"]])
def test_pictures(tmp_path, labels):
    from matplotlib import image

    plots.Plotter(str(tmp_path / "new"), labels, labels[-1])(
        "some/dev.set.tsv", *scored(len(labels))
    )
    found = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert found == [f"dev.set_{name}.png" for name in PICTURES]
    for name in found:
        pixels = image.imread(tmp_path / "new" / name)
        assert min(pixels.shape[:2]) > 300 and len(np.unique(pixels)) > 10


def test_files_of_one_name(tmp_path):
    plot = plots.Plotter(str(tmp_path), ["no", "yes"], "yes")
    for path in ("2024/jan.tsv", "2025/jan.tsv", "jan_2.tsv"):
        plot(path, *scored(2))
    names = [f"jan{number}_{name}.png" for number in ("", "_2", "_2_2") for name in PICTURES]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_odd_names_of_classes(tmp_path, monkeypatch):
    """ "$a_$" is no formula, and what begins with "_" has its place in the legend."""
    shown = []
    save = plots.save

    def spy(figure, path):
        legend = figure.axes[0].get_legend()
        if legend:
            shown.extend(text.get_text() for text in legend.texts)
        save(figure, path)

    monkeypatch.setattr(plots, "save", spy)
    plots.Plotter(str(tmp_path), ["$a_$", "_b", "c"], "c")("eval", *scored(3))
    assert [text.split(" (")[0] for text in shown] == 2 * ["$a_$", " _b", "c"]


def test_one_curve_for_two_labels_and_one_for_each_of_more(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        plots.Plotter,
        "_save",
        lambda self, figure, name: drawn.append(
            [line.get_label() for line in figure.axes[0].lines]
        ),
    )
    predictions, features = scored(2)
    predictions["probabilities"] = np.eye(2)[features["label_ids"]]
    plots.Plotter(str(tmp_path), ["no", "yes"], "no")("eval", predictions, features)
    assert drawn == [[], ["no (1.000)"], ["no (1.000)"]]
    drawn.clear()
    predictions, features = scored(3)
    features["label_ids"] = features["label_ids"] % 2  # c has no curve.
    plots.Plotter(str(tmp_path), ["a", "b", "c"], "c")("eval", predictions, features)
    assert [[label[0] for label in labels] for labels in drawn] == [[], ["a", "b"], ["a", "b"]]


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--plot_dir=.*file/plots: cannot be made"):
        plots.Plotter(str(tmp_path / "file" / "plots"), ["a", "b"], "b")
