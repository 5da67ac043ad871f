"""cluster_sentences from its command line to its files."""

import json

import numpy as np
import pytest
from vector_toys import as_json_lines, lines_of, make_run, sentence, vectors

from bert_tools import plots
from bert_tools.cli import cluster_sentences
from bert_tools.sentence import pictures

WORDS = ("apple pear", "dog cat", "car bus")


@pytest.fixture
def run(capsys, monkeypatch):
    return make_run(cluster_sentences, capsys, monkeypatch)


@pytest.fixture
def saved(tmp_path):
    """Flags of three blobs, of 12, 8 and 5 texts, and one far from all."""
    rng = np.random.default_rng(0)
    found = np.eye(8)[np.repeat([0, 1, 2], [12, 8, 5])] + 0.05 * rng.normal(size=(25, 8))
    found = np.concatenate([found, -np.ones((1, 8))]).astype(np.float32)
    np.save(tmp_path / "v.npy", found)
    blobs = np.repeat([0, 1, 2], [12, 8, 5])
    texts = [f"the {WORDS[blob]} {place}" for place, blob in enumerate(blobs)]
    (tmp_path / "v.txt").write_text(lines_of([*texts, "lonely"]))
    return {"input_file": tmp_path / "v.npy", "texts": tmp_path / "v.txt"}


def labels_of(text):
    rows = [line.split("\t") for line in text.splitlines()]
    assert [int(row[2]) for row in rows] == list(range(len(rows)))
    return [int(row[0]) for row in rows]


BLOBS = [0] * 12 + [1] * 8 + [2] * 5


def test_k_means(run, saved, tmp_path):
    flags = {**saved, "summary_file": tmp_path / "s.jsonl"}
    status, out, err = run(**flags, clusters="2-6")
    assert status == 0, err
    assert labels_of(out) == [*BLOBS, 3]
    assert "4 clusters: silhouette 0.8412" in err and "6 clusters: silhouette" in err
    assert "26 texts, 4 clusters, silhouette 0.8412" in err
    summary = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [one["size"] for one in summary] == [12, 8, 5, 1]
    scores = [float(line.split("\t")[1]) for line in out.splitlines()]
    for one, words in zip(summary, (*WORDS, "lonely"), strict=True):
        assert set(one["words"]) == set(words.split())
        own = [place for place, label in enumerate(labels_of(out)) if label == one["cluster"]]
        assert scores[one["central_id"]] == max(scores[place] for place in own)
        assert one["central_text"].startswith(
            f"the {words}".removeprefix("the " * (words == "lonely"))
        )
    assert labels_of(run(**saved, clusters=2)[1]).count(0) >= 13


def test_communities(run, saved, tmp_path):
    path = tmp_path / "o.jsonl"
    status, out, err = run(**saved, threshold=0.8, output_file=path)
    assert (status, out) == (0, ""), err
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["cluster"] for row in rows] == [*BLOBS, -1]
    assert rows[-1] == {"cluster": -1, "score": None, "id": 25, "text": "lonely"}
    assert min(row["score"] for row in rows[:-1]) >= 0.8
    assert "26 texts, 3 clusters, 1 texts in none" in err
    assert labels_of(run(**saved, threshold=0.8, min_size=9)[1]) == [0] * 12 + [-1] * 14
    assert labels_of(run(**saved, threshold=2)[1]) == [-1] * 26


def test_map(run, saved, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra plots")
    from matplotlib import image

    assert run(**saved, clusters=4, plot_dir=tmp_path / "plots")[0] == 0
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["map.png"]
    pixels = image.imread(tmp_path / "plots" / "map.png")
    assert min(pixels.shape[:2]) > 600 and len(np.unique(pixels)) > 50


@pytest.mark.parametrize("count", [6, 30, 300])
def test_what_the_map_shows(count):
    pytest.importorskip("matplotlib", reason="needs the extra plots")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    points = np.random.default_rng(0).normal(size=(count, 2))
    labels = np.arange(count) % 3 - 1
    texts = [f"costs $ {place} and $ more " + "x" * 60 for place in range(count)]
    with plots.fonts():
        figure = pictures.map_figure(points, labels, texts, [["a$", "b"], ["c$"]])
        FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    share = count // 3
    names = [f"in none ({share})", f"0: a$, b ({share})", f"1: c$ ({share})"]
    assert [text.get_text() for text in legend.texts] == names
    (axes,) = figure.axes
    shown = [text.get_text() for text in axes.texts]
    if count > 30:
        assert shown == ["0", "1"]
        return
    assert sorted(shown) == sorted(text[:45] + "..." for text in texts)
    # Of the text without its line.
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])


def test_json_lines_from_stdin(run):
    found = vectors(9, seed=1)
    status, out, err = run(as_json_lines(found), input_file="-", clusters=3)
    assert status == 0, err
    assert sorted(set(labels_of(out))) == [0, 1, 2]
    assert run(as_json_lines(found), input_file="-", clusters=3)[1] == out


@pytest.mark.parametrize(
    "flags, message",
    [
        ({}, "exactly one says what clusters are"),
        ({"clusters": 3, "threshold": 0.5}, "exactly one says what clusters are"),
        ({"clusters": "x"}, "--clusters=x: expected a number from 1"),
        ({"clusters": "5-2"}, "--clusters=5-2: expected"),
        ({"clusters": "0"}, "--clusters=0: expected"),
        ({"clusters": 27}, "holds 26 texts; lower it"),
        ({"clusters": 3, "min_size": 3}, "--min_size: is of communities"),
        ({"clusters": 3, "input_file": "no.npy"}, "no.npy: no such file; check --input_file"),
        ({"clusters": 3, "texts": "short.txt"}, "has 1 texts, and"),
        ({"clusters": 3, "plot_dir": "short.txt/x"}, "cannot be made"),
        ({"clusters": 3, "output_file": "no/o.tsv"}, "cannot be written there"),
        ({"clusters": 3, "summary_file": "no/s"}, "cannot be written there"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_wrong_flags(run, saved, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("a\n")
    before = {path.name for path in tmp_path.iterdir()}
    status, out, err = run(**{**saved, "output_file": "out.tsv", **flags})
    assert (status, out) == (1, "")
    assert message in sentence(err)
    assert {path.name for path in tmp_path.iterdir()} == before


# A real score.


def test_six_questions(run, shared, minilm):
    path = shared / "data" / "examples" / "six_questions.txt"
    status, out, err = run(input_file=path, bert=minilm, clusters="2-5")
    assert status == 0, err
    assert labels_of(out) == [0, 0, 0, 1, 1, 1]
    assert "2 clusters: silhouette 0.614" in err
