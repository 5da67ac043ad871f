"""semantic_search from its command line to its rows."""

import fcntl
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
from cli_toys import ENVIRONMENT, ROOT, as_arguments
from vector_toys import as_json_lines, lines_of, make_run, sentence, vectors

from bert_tools.cli import extract_cls, semantic_search
from bert_tools.sentence.encoder import Encoder
from bert_tools.sentence.search import Exact

needs_faiss = pytest.mark.skipif(
    importlib.util.find_spec("faiss") is None, reason="needs the extra search"
)
CORPUS = ["a b", "c , d", "d d d", "zzz a", "c c c c c c", "a b c", "b", "d a"]
QUERIES = ["a b b", "d c"]


@pytest.fixture
def run(capsys, monkeypatch):
    return make_run(semantic_search, capsys, monkeypatch)


@pytest.fixture
def saved(tmp_path):
    """Flags of 30 vectors with texts and of 4 queries without, in files."""
    np.save(tmp_path / "c.npy", vectors(30))
    np.save(tmp_path / "q.npy", vectors(4, seed=1))
    (tmp_path / "c.txt").write_text(lines_of(f"text {place}" for place in range(30)))
    return {
        "corpus": tmp_path / "c.npy",
        "corpus_texts": tmp_path / "c.txt",
        "queries": tmp_path / "q.npy",
    }


def rows_of(text):
    """[(query, rank, score, id, text)]"""
    rows = [line.split("\t") for line in text.splitlines()]
    return [(q, int(rank), float(score), i, t) for q, rank, score, i, t in rows]


def expected(corpus, queries, k):
    scores, places = Exact(corpus).search(queries, k)
    return list(
        zip(
            np.tile(np.arange(1, k + 1), len(queries)).tolist(),
            scores.ravel().round(6).tolist(),
            map(str, places.ravel().tolist()),
            strict=True,
        )
    )


def test_vectors(run, saved):
    status, out, err = run(**saved, top_k=3)
    assert status == 0, err
    rows = rows_of(out)
    assert [row[1:4] for row in rows] == expected(vectors(30), vectors(4, seed=1), 3)
    assert [row[0] for row in rows] == [str(place // 3) for place in range(12)]
    assert [row[4] for row in rows] == [f"text {row[3]}" for row in rows]


def test_texts_and_files(run, tmp_path, wide_model):
    (tmp_path / "c.txt").write_text(lines_of([*CORPUS[:3], "", "  ", *CORPUS[3:]]))
    (tmp_path / "q.csv").write_text("n,query\n1,a b b\n2,d c\n")
    flags = {"corpus": tmp_path / "c.txt", "queries": tmp_path / "q.csv", "bert": wide_model}
    flags |= {"query_column": "query", "max_seq_length": 16, "top_k": 2}
    flags |= {"query_prefix": "c ", "prefix": "d "}
    status, out, err = run(**flags, output_file=tmp_path / "o.jsonl")
    assert (status, out) == (0, ""), err
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert list(rows[0]) == ["query_id", "query", "rank", "score", "id", "text"]
    encoder = Encoder.load(wide_model, max_seq_length=16)
    corpus = encoder.encode(["d " + text for text in CORPUS])
    scores, places = Exact(corpus).search(encoder.encode(["c " + text for text in QUERIES]), 2)
    assert [row["text"] for row in rows] == [CORPUS[place] for place in places.ravel()]
    # Blank lines count, and are no texts.
    assert [row["id"] for row in rows] == [p + 2 * (p > 2) for p in places.ravel().tolist()]
    np.testing.assert_allclose([row["score"] for row in rows], scores.ravel(), atol=1e-5)
    assert [(row["query"], row["rank"]) for row in rows] == [
        (q, r) for q in QUERIES for r in (1, 2)
    ]


def test_table_with_header_and_plain_queries(run, tmp_path, wide_model):
    (tmp_path / "c.tsv").write_text("n\ttext\n" + lines_of(f"0\t{text}" for text in CORPUS))
    (tmp_path / "q.txt").write_text(lines_of(QUERIES))
    flags = {"corpus": tmp_path / "c.tsv", "queries": tmp_path / "q.txt", "bert": wide_model}
    status, out, err = run(**flags, text_column=1, header=True, max_seq_length=16, top_k=1)
    assert status == 0, err
    assert [row[0] for row in rows_of(out)] == QUERIES
    assert rows_of(out)[0][4] in CORPUS


def test_from_extract_cls(run, tmp_path, wide_model, capsys, monkeypatch):
    """extract_cls ... --output_file=- | semantic_search --corpus=-"""
    (tmp_path / "c.txt").write_text(lines_of(CORPUS))
    (tmp_path / "q.txt").write_text(lines_of(QUERIES))
    flags = {"bert": wide_model, "max_seq_length": 16}
    piped = make_run(extract_cls, capsys, monkeypatch)(
        input_file=tmp_path / "c.txt", output_file="-", pooling="auto", **flags
    )[1].encode()
    flags |= {"queries": tmp_path / "q.txt", "top_k": 3}
    status, out, err = run(piped, corpus="-", **flags)
    assert status == 0, err
    assert rows_of(out) == rows_of(run(corpus=tmp_path / "c.txt", **flags)[1])


def test_queries_are_answered_as_they_come(run, tmp_path, wide_model):
    (tmp_path / "c.txt").write_text(lines_of(CORPUS))
    flags = {"corpus": tmp_path / "c.txt", "bert": wide_model, "max_seq_length": 16, "top_k": 2}
    status, out, err = run(lines_of(QUERIES).encode(), queries="-", **flags)
    assert status == 0, err
    assert [row[:2] for row in rows_of(out)] == [(q, r) for q in QUERIES for r in (1, 2)]
    assert run(lines_of(QUERIES).encode(), interactive=True, **flags)[1] == out
    # The answers before a bad line stay.
    status, out, err = run(b"a b b\n\xe9\nd c\n", queries="-", **flags)
    assert status == 1 and sentence(err).startswith("error: stdin:2: not UTF-8")
    assert [row[0] for row in rows_of(out)] == ["a b b"] * 2


def test_one_answer_before_the_next_question(saved, tmp_path):
    arguments = as_arguments({**saved, "queries": "-", "top_k": 1})
    with subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "semantic_search.py"), *arguments],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        for line in as_json_lines(vectors(2, seed=1), ["first", "second"]).splitlines():
            process.stdin.write(line + b"\n")
            process.stdin.flush()
            answer = process.stdout.readline().decode()
            assert answer.startswith(json.loads(line)["text"])
        process.stdin.close()
        assert process.wait() == 0


def test_vectors_alone_need_no_tensorflow(saved):
    code = (
        "import sys; from bert_tools.cli import semantic_search as s; status = s.main(sys.argv[1:])"
        "; sys.exit(status or 'tensorflow' in sys.modules)"
    )
    arguments = as_arguments({**saved, "top_k": 1})
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(rows_of(done.stdout)) == 4


def test_threshold_and_similarity(run, saved):
    status, out, err = run(**saved, top_k=5, threshold=-2.5, similarity="euclidean")
    assert status == 0, err
    corpus, queries = vectors(30), vectors(4, seed=1)
    wanted = [-np.linalg.norm(corpus - query, axis=1) for query in queries]
    near = [sorted(scores[scores >= -2.5], reverse=True)[:5] for scores in wanted]
    assert 0 < sum(map(len, near)) < 20
    np.testing.assert_allclose([row[2] for row in rows_of(out)], np.concatenate(near), atol=1e-5)


def test_ties_come_in_the_order_of_the_corpus(run, saved, tmp_path):
    np.save(tmp_path / "c.npy", np.tile(vectors(3), (10, 1)))
    rows = rows_of(run(**saved, top_k=30)[1])[:30]
    assert [int(row[3]) % 3 for row in rows] == np.repeat(
        [int(r[3]) % 3 for r in rows[::10]], 10
    ).tolist()
    for start in (0, 10, 20):
        ids = [int(row[3]) for row in rows[start : start + 10]]
        assert ids == sorted(ids)


# The second stage.


def test_rerank(run, tmp_path, trained, wide_model, capsys, monkeypatch):
    from bert_tools.cli import run_reg

    (tmp_path / "c.txt").write_text(lines_of(CORPUS))
    (tmp_path / "q.txt").write_text(lines_of(QUERIES))
    flags = {"corpus": tmp_path / "c.txt", "queries": tmp_path / "q.txt", "bert": wide_model}
    flags |= {"max_seq_length": 16, "output_format": "jsonl"}
    before = [json.loads(line) for line in run(**flags, top_k=5)[1].splitlines()]
    status, out, err = run(**flags, top_k=3, rerank=trained[0], rerank_top_k=5)
    assert status == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    (tmp_path / "pairs.tsv").write_text(
        lines_of(f"{row['query']}\t{row['text']}" for row in before)
    )
    score = make_run(run_reg, capsys, monkeypatch)
    values = score(bert=trained[0], predict_file=tmp_path / "pairs.tsv")[1].split()
    judged = zip(map(float, values), before, strict=True)
    order = sorted(judged, key=lambda pair: (pair[1]["query_id"], -pair[0]))
    wanted = [*order[:3], *order[5:8]]
    assert [row["text"] for row in rows] == [row["text"] for _, row in wanted]
    np.testing.assert_allclose([r["score"] for r in rows], [v for v, _ in wanted], atol=1e-6)
    assert [row["similarity"] for row in rows] == pytest.approx([r["score"] for _, r in wanted])
    assert [row["rank"] for row in rows] == [1, 2, 3, 1, 2, 3]


# The index.


@needs_faiss
def test_index_is_built_searched_and_added_to(run, tmp_path):
    found, asked = vectors(400), vectors(20, seed=1)
    folder = tmp_path / "index"
    assert run(as_json_lines(found[:250]), corpus="-", index=folder)[:2] == (0, "")
    before = {path.name for path in folder.iterdir()}
    np.save(tmp_path / "q.npy", asked)
    flags = {"index": folder, "queries": tmp_path / "q.npy", "top_k": 4}
    status, out, err = run(**flags)
    assert status == 0, err
    exact = expected(found[:250], asked, 4)
    rows = rows_of(out)
    assert len(set(exact) & {row[1:4] for row in rows}) >= 76  # Of 80, an approximate index.
    assert [row[4] for row in rows] == [f"text {row[3]}" for row in rows]
    np.save(tmp_path / "more.npy", found[250:])
    (tmp_path / "more.txt").write_text(lines_of(f"more {place}" for place in range(150)))
    more = {"corpus": tmp_path / "more.npy", "corpus_texts": tmp_path / "more.txt"}
    flags["top_k"] = 160  # More than what is added.
    assert run(**flags, **more, add=True)[0] == 0
    flags["top_k"] = 4
    status, out, err = run(**flags)
    assert status == 0, err
    left = before & {path.name for path in folder.iterdir()}
    assert left == {"index.json", ".lock"}
    rows = rows_of(out)
    assert len(set(expected(found, asked, 4)) & {row[1:4] for row in rows}) >= 76
    assert [row[4] for row in rows] == [
        f"text {row[3]}" if int(row[3]) < 250 else f"more {int(row[3]) - 250}" for row in rows
    ]


@needs_faiss
def test_wrong_index(run, tmp_path, saved):
    folder = tmp_path / "index"
    queries = {"queries": saved["queries"]}
    assert "no such index" in sentence(run(index=folder, **queries)[2])
    assert "no such index" in sentence(run(**saved, index=folder, add=True)[2])
    assert not folder.exists()
    assert run(corpus=saved["corpus"], index=folder)[0] == 0
    assert "there is one; give --add=true" in sentence(run(**saved, index=folder)[2])
    np.save(tmp_path / "wide.npy", vectors(5, width=9))
    error = sentence(run(index=folder, queries=tmp_path / "wide.npy", top_k=1)[2])
    assert "wide.npy: its vectors have 9 numbers" in error and "have 8" in error
    error = sentence(run(index=folder, corpus=tmp_path / "wide.npy", add=True)[2])
    assert "its vectors have 8 numbers, these have 9" in error
    assert "holds 30 texts; lower it" in sentence(run(index=folder, **queries, top_k=31)[2])
    assert "is of the cosine" in sentence(run(index=folder, **queries, similarity="dot")[2])
    with open(folder / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        error = sentence(run(corpus=saved["corpus"], index=folder, add=True)[2])
        assert f"--index={folder}: another process is writing there" in error
    description = json.loads((folder / "index.json").read_text())
    (tmp_path / "secret").write_text("mine")
    for name in ("texts", "graph", "offsets"):
        for path in ("../secret", str(tmp_path / "secret")):
            (folder / "index.json").write_text(json.dumps({**description, name: path}))
            for flags in (queries, {"corpus": saved["corpus"], "add": True}):
                error = sentence(run(index=folder, **flags)[2])
                assert f"{name} is {path!r}, no file of its folder" in error
    assert (tmp_path / "secret").read_text() == "mine"
    (folder / "index.json").write_text(json.dumps({**description, "count": 29}))
    for flags in (queries, {"corpus": saved["corpus"], "add": True}):
        assert "do not fit each other" in sentence(run(index=folder, **flags)[2])
    (folder / "index.json").write_text(json.dumps(description))
    target = tmp_path / "secret" / "index"
    error = sentence(run(corpus=saved["corpus"], index=target)[2])
    assert f"--index={target}: cannot be made in {tmp_path / 'secret'}" in error
    (graph,) = folder.glob("graph-*")
    graph.write_bytes(graph.read_bytes()[:100])
    assert "cannot be read as an index" in sentence(run(index=folder, **queries)[2])


def test_index_without_its_library(run, tmp_path, saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    error = sentence(run(**saved, index=tmp_path / "index")[2])
    assert "needs faiss; pip install 'bert-tools[search]'" in error


# Errors.


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"corpus": None, "corpus_texts": None}, "--corpus is missing"),
        ({"queries": None}, "--queries is missing"),
        ({"corpus": "-", "queries": "-", "corpus_texts": None}, "there is one stdin"),
        ({"interactive": True}, "both say what to ask"),
        ({"add": True}, "--add: needs --corpus and --index"),
        ({"top_k": 31}, "--top_k=31: "),
        ({"rerank_top_k": 12}, "--rerank_top_k=12: needs --rerank"),
        ({"rerank": "x", "rerank_top_k": 3}, "is less than --top_k=10"),
        ({"queries": "no.txt"}, "no.txt: no such file; check --queries"),
        ({"queries": "t.txt"}, "--bert is missing"),
        ({"corpus_texts": "t.txt"}, "has 1 texts, and --corpus="),
        ({"corpus": "t.txt"}, "brings its own texts"),
        ({"corpus": "empty.txt", "corpus_texts": None}, "empty.txt: holds no text"),
        ({"corpus": "t.csv", "corpus_texts": None}, "name its --text_column"),
        ({"corpus": "t.csv", "corpus_texts": None, "text_column": "no"}, "no column 'no'"),
        ({"corpus": "t.jsonl", "corpus_texts": None}, "name its --text_column"),
        ({"queries": "t.csv"}, "name its --query_column"),
        ({"queries": "nan.npy"}, "row 2 (from 0) has NaN"),
        ({"queries": "wide.npy"}, "its vectors have 9 numbers"),
        ({"queries": "flat.npy"}, "holds float32 of shape [8]"),
        ({"queries": "bad.npy"}, "holds no matrix of vectors"),
        ({"output_file": "no/such.tsv"}, "cannot be written there"),
        ({"rerank": "."}, "cannot be loaded"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_wrong_flags(run, saved, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("a\n")
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "t.csv").write_text("text\na\n")
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n')
    broken = vectors(4, seed=1)
    broken[2, 3] = np.nan
    np.save(tmp_path / "nan.npy", broken)
    np.save(tmp_path / "wide.npy", vectors(4, width=9))
    np.save(tmp_path / "flat.npy", vectors(1)[0])
    (tmp_path / "bad.npy").write_bytes(b"no")
    if "cannot be loaded" in message:
        message = "no model found"
    before = {path.name for path in tmp_path.iterdir()}
    status, out, err = run(**{**saved, "output_file": "out.tsv", **flags})
    assert (status, out) == (1, "")
    assert message in sentence(err)
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"id": 1, "text": "b", "vector": [1, NaN]}', "stdin:2: the vector has NaN"),
        ('{"id": 1, "text": "b", "vector": [1, 2, 3]}', "the vector has 3 numbers, those before"),
        ('{"id": 1, "text": "b", "vector": "no"}', "stdin:2: expected"),
        ('{"id": 1, "text": "b"}', "stdin:2: expected"),
        ('{"id": 1, "error": "in.txt:2: not UTF-8"}', "stdin:2: has no vector (in.txt:2: not"),
        ("[1, 2]", "stdin:2: expected"),
        ("no", "stdin:2: not a JSON value"),
    ],
)
def test_bad_json_line(run, tmp_path, line, message):
    lines = f'{{"id": 0, "text": "a", "vector": [1, 2]}}\n{line}\n'.encode()
    np.save(tmp_path / "q.npy", vectors(1, width=2))
    status, out, err = run(lines, corpus="-", queries=tmp_path / "q.npy")
    assert (status, out) == (1, "") and message in sentence(err)
    status, out, err = run(lines, corpus="-", queries=tmp_path / "q.npy", on_bad_line="skip")
    assert status == 0 and len(rows_of(out)) == 1 and "1 bad lines left out" in err


# A real score.


def test_meal(run, shared, minilm):
    examples = shared / "data" / "examples"
    flags = {"corpus": examples / "meal.txt", "queries": examples / "meal_query.txt"}
    status, out, err = run(**flags, bert=minilm)
    assert status == 0, err
    rows = rows_of(out)
    assert [row[3] for row in rows] == ["2", "1", "0"]
    np.testing.assert_allclose([row[2] for row in rows], [0.8316, 0.2564, 0.0438], atol=1e-3)
