"""Files that the commands on vectors read and write: those that cannot be meant."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from bert_tools.cli import (
    app,
    cluster_sentences,
    evaluate_sts,
    extract_cls,
    find_pairs,
    semantic_search,
)
from bert_tools.errors import UserError
from bert_tools.sentence import store


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """function(command, flags) -> (exit status, stdout, stderr), in a folder with v.npy and
    texts.txt.
    """
    monkeypatch.chdir(tmp_path)
    np.save("v.npy", np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32))
    (tmp_path / "texts.txt").write_text("".join(f"text {n}\n" for n in range(6)))

    def run(command, *flags):
        monkeypatch.setattr(app.log, "handlers", [])
        capsys.readouterr()
        status = command.main([*flags])
        return (status, *capsys.readouterr())

    return run


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.arange(4), "its ids are int64 of shape [4], and there are 6 vectors"),
        (np.arange(8), "its ids are int64 of shape [8], and there are 6 vectors"),
        (np.int64(3), "its ids are int64 of shape []"),
        (np.array([b"x"] * 6), "its ids are |S1 of shape [6]"),
    ],
)
def test_ids_of_npz(run, ids, message):
    np.savez("a.npz", vectors=np.load("v.npy"), ids=ids)
    for command, flags in (
        (find_pairs, ["--input_file=a.npz", "--output_format=jsonl"]),
        (semantic_search, ["--corpus=a.npz", "--queries=v.npy"]),
        (cluster_sentences, ["--input_file=a.npz", "--clusters=2"]),
    ):
        status, out, err = run(command, *flags)
        assert (status, out) == (1, "")
        assert message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        (
            semantic_search,
            ["--corpus=v.npy", "--corpus_texts=-", "--queries=-"],
            "--corpus_texts=- and --queries=-: there is one stdin",
        ),
        (
            semantic_search,
            ["--corpus=v.npy", "--corpus_texts=-", "--interactive"],
            "--corpus_texts=-: stdin is where queries are typed",
        ),
        (
            find_pairs,
            ["--input_file=v.npy", "--texts=-", "--second_file=v.npy", "--second_texts=-"],
            "--texts=- and --second_texts=-: there is one stdin",
        ),
        (
            cluster_sentences,
            ["--input_file=v.npy", "--clusters=2", "--summary_file=s", "--output_file=s"],
            "--summary_file=s: is --output_file too",
        ),
        (
            cluster_sentences,
            ["--input_file=v.npy", "--clusters=2", "--summary_file=-"],
            "--summary_file=- and --output_file=-: there is one stdout",
        ),
        (
            find_pairs,
            ["--input_file=v.npy", "--texts=texts.txt", "--output_file=./texts.txt"],
            "--output_file=./texts.txt: is --texts too",
        ),
        (
            extract_cls,
            ["--bert=x", "--input_file=texts.txt", "--output_file=texts.txt"],
            "--output_file=texts.txt: is --input_file too",
        ),
        (
            extract_cls,
            ["--bert=x", "--input_file=texts.txt", "--output_file=gone/v.npy"],
            "--output_file=gone/v.npy: cannot be written there",
        ),
        (
            semantic_search,
            ["--corpus=v.npy", "--index=texts.txt"],
            "--index=texts.txt: cannot be made in",
        ),
        (find_pairs, ["--input_file=texts.txt"], "--bert is missing"),
        (evaluate_sts, ["--eval_file=sts.tsv", "--pooling=auto"], "--pooling=auto: expected all"),
    ],
)
def test_contradictions(run, tmp_path, command, flags, message):
    if "--index=texts.txt" in flags:
        pytest.importorskip("faiss", reason="needs the extra search")
    (tmp_path / "sts.tsv").write_text("a\tb\t1\n")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    status, out, err = run(command, *flags)
    assert (status, out) == (1, "")
    assert message in err and err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_summary_on_stdout(run):
    flags = ["--input_file=v.npy", "--clusters=2", "--summary_file=-", "--output_file=rows.tsv"]
    status, out, _ = run(cluster_sentences, *flags)
    assert status == 0
    assert [json.loads(line)["cluster"] for line in out.splitlines()] == [0, 1]


def test_names_of_open_files(run, tmp_path):
    """/dev/stdout is a pipe that is written to, but never a file that is replaced."""
    code = "import sys; from bert_tools.cli import find_pairs; sys.exit(find_pairs.main())"
    command = [sys.executable, "-c", code, "--input_file=v.npy", "--output_file=/dev/stdout"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 15
    (tmp_path / "log").write_text("before\n")
    with open("log", "a", encoding="utf-8") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1 and "/dev/stdout: is " in done.stderr
    assert (tmp_path / "log").read_text() == "before\n"


@pytest.mark.parametrize("rows", ["5", None, 2.5, -3, 7, True])
def test_damaged_state(tmp_path, rows):
    path = str(tmp_path / "v.npy")
    with store.Growing(path, (6, 4), {}) as growing:
        growing.append(np.zeros((2, 4)))
    (tmp_path / "v.npy.part.json").write_text(json.dumps({"rows": rows, "key": {}}))
    with (
        pytest.raises(UserError, match=r"part\.json: rows is .* leave --resume out"),
        store.Growing(path, (6, 4), {}, resume=True),
    ):
        pass


@pytest.mark.parametrize("apart", [False, True])
def test_a_link_stays_one(tmp_path, monkeypatch, apart):
    """Also one to another file system, which a file cannot be renamed to."""
    (tmp_path / "v.npy").symlink_to(tmp_path / "elsewhere.npy")
    replace = os.replace

    def refused(source, target):
        if source.endswith(".npy.part"):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    if apart:
        monkeypatch.setattr(store.os, "replace", refused)
    with store.Growing(str(tmp_path / "v.npy"), (2, 4), {}) as growing:
        growing.append(np.ones((2, 4)))
        growing.become(str(tmp_path / "v.npy"))
    assert (tmp_path / "v.npy").is_symlink()
    np.testing.assert_array_equal(np.load(tmp_path / "elsewhere.npy"), np.ones((2, 4)))


def test_a_file_that_another_process_finishes_meanwhile(tmp_path, monkeypatch):
    """Between opening and locking it: what is then locked is the other one's result."""
    path = str(tmp_path / "v.npy")

    def lock(file, how):
        os.rename(path + ".part", path)

    monkeypatch.setattr(store.fcntl, "flock", lock)
    (tmp_path / "v.npy.part").write_bytes(b"result")
    with (
        pytest.raises(UserError, match="another process has just finished it"),
        store.Growing(path, (6, 4), {}),
    ):
        pass
    assert (tmp_path / "v.npy").read_bytes() == b"result"


def test_damaged_texts_of_an_index(run, tmp_path):
    pytest.importorskip("faiss", reason="needs the extra search")
    assert run(semantic_search, "--corpus=v.npy", "--index=ix")[0] == 0
    path = tmp_path / "ix" / "texts-6.jsonl"
    path.write_bytes(path.read_bytes()[:20])
    status, _, err = run(semantic_search, "--index=ix", "--queries=v.npy", "--top_k=6")
    assert status == 1
    assert "texts-6.jsonl: cannot be read as an index" in err.splitlines()[-1]
