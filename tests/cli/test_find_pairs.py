"""find_pairs from its command line to its rows."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
from cli_toys import ENVIRONMENT, as_arguments
from vector_toys import as_json_lines, lines_of, make_run, sentence, vectors

from bert_tools.cli import find_pairs
from bert_tools.sentence.encoder import Encoder
from bert_tools.sentence.similarity import similarity

needs_faiss = pytest.mark.skipif(
    importlib.util.find_spec("faiss") is None, reason="needs the extra search"
)
TEXTS = ["a b", "c , d", "d d d", "a b", "c c c c c c", "a b c"]


@pytest.fixture
def run(capsys, monkeypatch):
    return make_run(find_pairs, capsys, monkeypatch)


@pytest.fixture
def saved(tmp_path):
    """Flags of 40 vectors with texts, of which the last five stand there before."""
    found = vectors(40)
    found[35:] = found[:5]
    np.save(tmp_path / "v.npy", found)
    (tmp_path / "v.txt").write_text(lines_of(f"text {place}" for place in range(40)))
    return {"input_file": tmp_path / "v.npy", "texts": tmp_path / "v.txt"}


def brute(first, second=None, name="cosine"):
    """[(score, i, j)] of every pair, the best first, ties by places."""
    other = first if second is None else second
    places = [
        (i, j) for i in range(len(first)) for j in range(len(other)) if second is not None or i < j
    ]
    i, j = np.array(places).T
    scores = similarity(first[i], other[j], name)
    scores = scores.round(12) if name == "cosine" else scores
    return sorted(
        zip(scores.tolist(), i.tolist(), j.tolist(), strict=True), key=lambda p: (-p[0], p[1:])
    )


def rows_of(text):
    """[(score, id, id)]"""
    rows = [line.split("\t") for line in text.splitlines()]
    assert all(row[3:] == [f"text {row[1]}", f"text {row[2]}"] for row in rows)
    return [(float(row[0]), int(row[1]), int(row[2])) for row in rows]


def rounded(pairs):
    return [(round(score, 6), i, j) for score, i, j in pairs]


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_the_most_similar(run, saved, name):
    status, out, err = run(**saved, top_k=12, similarity=name)
    assert status == 0, err
    wanted = brute(np.load(saved["input_file"]), name=name)
    assert rows_of(out) == rounded(wanted[:12])
    if name == "cosine":
        assert [row[1:] for row in rows_of(out)[:5]] == [(i, 35 + i) for i in range(5)]
        assert rows_of(run(**saved)[1]) == rounded(wanted[:100])
    assert "seconds: read" in err


def test_threshold(run, saved):
    wanted = [pair for pair in brute(np.load(saved["input_file"])) if pair[0] >= 0.6]
    status, out, err = run(**saved, threshold=0.6)
    assert status == 0, err
    assert rows_of(out) == sorted(rounded(wanted), key=lambda pair: pair[1:])
    assert 5 < len(wanted) < 100
    assert rows_of(run(**saved, threshold=0.6, top_k=700)[1]) == rounded(wanted)
    assert run(**saved, threshold=1.1)[:2] == (0, "")


def test_two_files(run, saved, tmp_path):
    (tmp_path / "second.jsonl").write_bytes(as_json_lines(vectors(7, seed=2)))
    status, out, err = run(**saved, second_file=tmp_path / "second.jsonl", top_k=9)
    assert status == 0, err
    wanted = brute(np.load(saved["input_file"]), vectors(7, seed=2))
    assert rows_of(out) == rounded(wanted[:9])


def test_every_pair_and_its_distance(run, saved):
    status, out, err = run(**saved, all=True)
    assert status == 0, err
    wanted = {f"{i}:{j}": 1 - score for score, i, j in brute(np.load(saved["input_file"]))}
    rows = dict(line.split("\t") for line in out.splitlines())
    assert list(rows) == [f"{i}:{j}" for i in range(40) for j in range(i + 1, 40)]
    for pair, distance in rows.items():
        assert float(distance) == pytest.approx(wanted[pair], abs=1e-6)
    line = run(**saved, all=True, similarity="manhattan")[1].splitlines()[0]
    found = np.load(saved["input_file"])
    assert float(line.split("\t")[1]) == pytest.approx(np.abs(found[0] - found[1]).sum(), abs=1e-5)


def test_groups(run, tmp_path):
    found = vectors(9, seed=3)
    found[4], found[8], found[7] = found[1], 3 * found[1], found[2]
    status, out, err = run(as_json_lines(found), input_file="-", threshold=0.999, groups=True)
    assert status == 0, err
    rows = [line.split("\t") for line in out.splitlines()]
    assert [(row[0], row[1]) for row in rows] == [
        *[("0", place) for place in "148"],
        *[("1", place) for place in "27"],
    ]
    assert rows[0][2] == "text 1"


def test_texts_into_a_file(run, tmp_path, wide_model):
    (tmp_path / "t.tsv").write_text("n\tt\n" + lines_of(f"0\t{text}" for text in TEXTS))
    flags = {"input_file": tmp_path / "t.tsv", "text_column": "t", "bert": wide_model, "top_k": 3}
    status, out, err = run(**flags, max_seq_length=16, output_file=tmp_path / "o.jsonl")
    assert (status, out) == (0, ""), err
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    wanted = brute(Encoder.load(wide_model, max_seq_length=16).encode(TEXTS))[:3]
    assert [(row["id_a"], row["id_b"]) for row in rows] == [pair[1:] for pair in wanted]
    assert (rows[0]["text_a"], rows[0]["text_b"]) == ("a b", "a b")
    np.testing.assert_allclose([row["score"] for row in rows], [p[0] for p in wanted], atol=1e-5)


def test_vectors_alone_need_no_tensorflow(saved):
    code = "import sys; from bert_tools.cli import find_pairs as f; status = f.main(sys.argv[1:]);"
    code += "sys.exit(status or 'tensorflow' in sys.modules or 'sklearn' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *as_arguments(saved)],
        env=ENVIRONMENT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@needs_faiss
def test_approximate(run, saved, tmp_path):
    exact = rows_of(run(**saved, top_k=50)[1])
    status, out, err = run(**saved, top_k=50, approximate=True)
    assert status == 0, err
    # All are looked at, since each text has fewer than 40 neighbours.
    assert rows_of(out) == exact
    assert "approximate: found 50 of the 5" in err
    err = run(**saved, top_k=5, approximate=True)[2]
    assert "approximate: found 5 of the 5 pairs with a score of 1.0000 or more" in err
    assert "that 40 sampled texts have: 100.00 %" in err
    status, out, err = run(**saved, threshold=0.6, approximate=True)
    assert rows_of(out) == rows_of(run(**saved, threshold=0.6)[1])
    # Two hundred copies have more pairs than neighbours that are looked at.
    np.save(tmp_path / "alike.npy", np.repeat(vectors(1), 200, axis=0))
    flags = {"input_file": tmp_path / "alike.npy", "threshold": 0.9, "approximate": True}
    status, out, err = run(**flags)
    found, wanted = out.count("\n"), 200 * 199 // 2
    assert status == 0 and 100 < found < wanted / 2
    assert f"found {found} of the {wanted} pairs" in err
    status, out, err = run(**saved, threshold=1.5, approximate=True)
    assert (status, out) == (0, "") and "the recall is not known" in err


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"input_file": None}, "--input_file is missing"),
        ({"top_k": 781}, "--top_k=781: there are 780 pairs; lower it"),
        ({"all": True, "top_k": 3}, "--all: gives every pair"),
        ({"all": True, "similarity": "dot"}, "has no distance"),
        ({"groups": True}, "--groups: joins the pairs"),
        ({"groups": True, "threshold": 0.5, "top_k": 3}, "--groups: joins the pairs"),
        ({"texts": "one.txt"}, "has 1 texts, and --input_file="),
        ({"input_file": "one.txt", "texts": None}, "--bert is missing"),
        ({"input_file": "one.npy", "texts": None}, "holds one text, and a pair needs two"),
        ({"input_file": "many.npy", "texts": None, "all": True}, "--all: 2001 texts"),
        ({"input_file": "nan.npy", "texts": None}, "row 0 (from 0) has NaN"),
        ({"input_file": "none.npy", "texts": None}, "holds no text"),
        ({"second_file": "wide.npy"}, "wide.npy: its vectors have 9 numbers"),
        ({"input_file": "-", "texts": None, "second_file": "-"}, "there is one stdin"),
        ({"header": True}, "--header: needs --text_column"),
        ({"output_file": "no/such"}, "cannot be written there"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_wrong_flags(run, saved, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.txt").write_text("a\n")
    np.save(tmp_path / "one.npy", vectors(1))
    np.save(tmp_path / "many.npy", vectors(2001))
    np.save(tmp_path / "nan.npy", vectors(3) * np.nan)
    np.save(tmp_path / "none.npy", vectors(0))
    np.save(tmp_path / "wide.npy", vectors(4, width=9))
    if "--bert" in message:
        (tmp_path / "one.txt").write_text("a\nb\n")
    before = {path.name for path in tmp_path.iterdir()}
    status, out, err = run(**{**saved, "output_file": "out.tsv", **flags})
    assert (status, out) == (1, "")
    assert message in sentence(err)
    assert {path.name for path in tmp_path.iterdir()} == before


# A real score.


def test_four_sentences(run, shared, minilm):
    """Films with films and makers of cars with makers of cars."""
    path = shared / "data" / "examples" / "four_sentences.txt"
    status, out, err = run(input_file=path, bert=minilm, all=True)
    assert status == 0, err
    found = {pair: float(distance) for pair, distance in map(str.split, out.splitlines())}
    assert found["0:1"] == pytest.approx(0.5500, abs=1e-3)
    assert found["2:3"] == pytest.approx(0.6236, abs=1e-3)
    assert min(found[pair] for pair in ("0:2", "0:3", "1:2", "1:3")) > 0.9
