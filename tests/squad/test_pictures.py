"""Pictures of scores: what is drawn, and that it is written."""

import itertools

import numpy as np
import pytest

from bert_tools.squad import pictures

pytest.importorskip("matplotlib", reason="needs the extra plots")
TOKENS = ["[CLS]", "who", "[SEP]", "$", "340", "##m", "[SEP]"]
STARTS = np.linspace(-3, 4, 7).astype(np.float32)


def test_bars_and_labels():
    figure = pictures.score_figure(TOKENS, STARTS, -STARTS)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["Start Word Scores", "End Word Scores"]
    for axes, values in zip(figure.axes, (STARTS, -STARTS), strict=True):
        np.testing.assert_array_equal([bar.get_height() for bar in axes.patches], values)
        centres = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
        np.testing.assert_allclose(centres, range(7), atol=1e-9)
        labels = axes.get_xticklabels()
        assert [label.get_text() for label in labels] == [
            f"{token} - {index}" for index, token in enumerate(TOKENS)
        ]
        assert {label.get_rotation() for label in labels} == {90}
        assert axes.xaxis.get_gridlines()[0].get_visible()


def test_labels_of_250_tokens_do_not_overlap():
    figure = pictures.score_figure(["token"] * 250, np.ones(250), np.ones(250))
    figure.canvas.draw()
    for axes in figure.axes:
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
        for left, right in itertools.pairwise(boxes):
            assert left.x1 <= right.x0


def test_files(tmp_path):
    from matplotlib import image

    pictures.plot_scores(str(tmp_path), "question_1", TOKENS, STARTS, -STARTS)
    lines = (tmp_path / "question_1.tsv").read_text().splitlines()
    assert lines[0] == "index\ttoken\tstart_score\tend_score"
    assert [line.split("\t")[1] for line in lines[1:]] == TOKENS
    np.testing.assert_array_equal([float(line.split("\t")[2]) for line in lines[1:]], STARTS)
    pixels = image.imread(tmp_path / "question_1.png")
    assert min(pixels.shape[:2]) > 300 and len(np.unique(pixels)) > 10


def test_null_odds(tmp_path):
    from matplotlib import image

    pictures.plot_null_odds(
        str(tmp_path),
        {"1": ["x"], "2": [], "3": ["y"]},
        {"1": "x", "2": "", "3": "z"},
        {"1": -1.0, "2": 3.0, "3": 0.5},
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "null_odds.png",
        "null_precision_recall.png",
    ]
    for path in tmp_path.iterdir():
        assert len(np.unique(image.imread(path))) > 10
