"""extract_cls from its command line to its files."""

import contextlib
import io
import json
import os
import pathlib
import resource
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from cli_toys import ENVIRONMENT, as_arguments

from bert_tools import errors
from bert_tools.cli import app, extract_cls
from bert_tools.sentence import encoder as sentence_encoder
from bert_tools.sentence.encoder import Encoder
from bert_tools.sentence.reduction import Pca
from bert_tools.sentence.store import Growing

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
LINES = ["a b", "c , d ||| ae bf .", "", "  d d d  ", "zzz a", "c c c c c c"]
TEXTS = ["a b", ("c , d", "ae bf ."), "", "d d d", "zzz a", "c c c c c c"]


@pytest.fixture
def run(capsys, monkeypatch, wide_model):
    """function(stdin=b"", **flags) -> (exit status, stdout, stderr)."""

    def run(stdin=b"", **flags):
        # Without the handler of an earlier test, which holds that test's stderr.
        monkeypatch.setattr(app.log, "handlers", [])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        flags = {"bert": wide_model, "max_seq_length": 32, **flags}
        arguments = [f"--{name}={value}" for name, value in flags.items() if value is not None]
        return (extract_cls.main(arguments), *capsys.readouterr())

    return run


@pytest.fixture
def written(run, tmp_path):
    """function(name, lines, **flags) -> the Path of the output."""

    def written(name="out.npy", lines=LINES, **flags):
        (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in lines))
        flags = {"input_file": tmp_path / "in.txt", "output_file": tmp_path / name, **flags}
        status, out, err = run(**flags)
        assert (status, out) == (0, ""), err
        assert not [path for path in tmp_path.iterdir() if ".part" in path.name]
        return tmp_path / name

    return written


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(sentence_encoder, "WINDOW", 16)


def many(count=100):
    rng = np.random.default_rng(4)
    return [" ".join(rng.choice(list("abcd"), 1 + index % 9)) for index in range(count)]


def encoded(handle, texts=TEXTS, **options):
    return Encoder.load(handle, **{"pooling": "cls", "max_seq_length": 32, **options}).encode(texts)


def test_npy(written, wide_model):
    found = np.load(written(), mmap_mode="r")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, encoded(wide_model))


@pytest.mark.parametrize(
    "flags, options",
    [
        ({"pooling": "mean", "normalize": True}, {"pooling": "mean", "normalize": True}),
        ({"pooling": "auto"}, {"pooling": "mean"}),
        ({"layers": "0,-2"}, {"layers": [0, -2]}),
        ({"prefix": "d , "}, {"prefix": "d , "}),
        ({"batching": "pad", "max_seq_length": 16}, {"batching": "pad", "max_seq_length": 16}),
        ({"precision": "bfloat16"}, {"precision": "bfloat16"}),
    ],
    ids=str,
)
def test_what_is_computed(written, wide_model, flags, options):
    np.testing.assert_array_equal(np.load(written(**flags)), encoded(wide_model, **options))


def test_one_line_and_none(written):
    assert np.load(written(lines=["a"])).shape == (1, 16)
    assert np.load(written(lines=[])).shape == (0, 16)
    assert np.load(written("none.npz", lines=[]))["vectors"].shape == (0, 16)
    assert written("none.jsonl", lines=[]).read_text() == ""


def test_npz_with_labels(written, tmp_path, wide_model):
    (tmp_path / "t.csv").write_text('kind,text\ngood,"a , b"\nbad,c d\n')
    columns = {"text_column": "text", "label_column": "kind"}
    found = np.load(written("out.npz", input_file=tmp_path / "t.csv", **columns))
    assert sorted(found) == ["ids", "labels", "vectors"]
    assert found["labels"].tolist() == ["good", "bad"] and found["ids"].tolist() == [0, 1]
    np.testing.assert_array_equal(found["vectors"], encoded(wide_model, ["a , b", "c d"]))
    lines = written("out.tsv", input_file=tmp_path / "t.csv", **columns).read_text().splitlines()
    assert [line.split("\t")[-1] for line in lines] == ["good", "bad"]
    cells = np.array([line.split("\t")[:-1] for line in lines], np.float32)
    np.testing.assert_array_equal(cells, found["vectors"])
    (record, _) = written("o.jsonl", input_file=tmp_path / "t.csv", **columns).open()
    assert json.loads(record)["label"] == "good"


def test_row_for_line_with_labels(written, run, tmp_path):
    (tmp_path / "t.tsv").write_text("a\tx\n\nb\ty\n\n")
    flags = {"input_file": tmp_path / "t.tsv", "text_column": 0, "label_column": 1}
    status, _, err = run(output_file=tmp_path / "out.npy", **flags)
    assert status == 1 and "t.tsv:2: expected at least 2 tab-separated columns, found 0" in err
    found = np.load(written("out.npz", on_bad_line="skip", **flags))
    assert found["labels"].tolist() == ["x", "", "y"]
    assert np.isnan(found["vectors"]).any(axis=1).tolist() == [False, True, False]
    rows = written("out.tsv", on_bad_line="skip", **flags).read_text().splitlines()
    assert [row.split("\t")[16:] for row in rows] == [["x"], [""], ["y"]]


def test_labels_stay_in_their_cell(written, tmp_path):
    (tmp_path / "t.csv").write_text('text,kind\na,"x\ny"\nb,"x\ty"\n')
    columns = {"text_column": "text", "label_column": "kind", "input_file": tmp_path / "t.csv"}
    rows = written("out.tsv", **columns).read_text().splitlines()
    assert [row.split("\t")[16:] for row in rows] == [["x y"], ["x y"]]


def test_stdin_has_its_name(run, tmp_path):
    """And not that of the file which it is kept in meanwhile."""
    flags = {"input_file": "-", "output_file": tmp_path / "out.npy", "on_bad_line": "skip"}
    status, _, err = run(b"x y z\n\xe9\n", **flags)
    assert status == 0 and "stdin: 1 bad lines" in err and "stdin: 43 % of" in err
    assert str(tmp_path) not in err


def test_json_lines_and_stdout(written, run, wide_model):
    text = written("out.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["id"] for row in rows] == list(range(6))
    assert [list(row) for row in rows][:2] == [
        ["id", "text", "vector"],
        ["id", "text", "text_pair", "vector"],
    ]
    vectors = np.array([row["vector"] for row in rows], np.float32)
    np.testing.assert_array_equal(vectors, encoded(wide_model))
    lines = "".join(f"{line}\n" for line in LINES).encode()
    status, out, err = run(lines, input_file="-", output_file="-")
    assert status == 0, err
    assert out == text


def test_npy_from_stdin(run, tmp_path, wide_model):
    lines = "".join(f"{line}\n" for line in LINES).encode()
    assert run(lines, input_file="-", output_file=tmp_path / "v.npy")[:2] == (0, "")
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), encoded(wide_model))
    assert [path.name for path in tmp_path.iterdir()] == ["v.npy"]


def test_float16(written, wide_model):
    found = np.load(written(dtype="float16"))
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, encoded(wide_model).astype(np.float16))


def test_odd_lines(written, wide_model):
    """Empty lines, NUL bytes and 10,000 words have a vector as any other."""
    found = np.load(written(lines=["", "a\0 b", "a " * 10000, ""]))
    assert np.isfinite(found).all() and found.shape == (4, 16)
    np.testing.assert_allclose(found[1], encoded(wide_model, ["a b"])[0], atol=1e-5)
    np.testing.assert_array_equal(found[0], found[3])


# Fewer dimensions.


def test_pca_is_kept_and_used_again(written, tmp_path, wide_model, small_windows, run):
    lines = many()
    whole = encoded(wide_model, lines)
    found = np.load(written(lines=lines, dimensions=5))
    pca = Pca.load(str(tmp_path / "out.npy.pca.npz"))
    assert found.shape == (100, 5) and pca.dimensions == 5 and 0.2 < pca.explained < 1
    np.testing.assert_allclose(found, pca(whole), rtol=0, atol=1e-4)
    # Against the definition: the widest spread of centred vectors, most of it first.
    centred = whole.astype(np.float64) - whole.mean(0, dtype=np.float64)
    spread = np.linalg.svd(centred, compute_uv=False)[:5]
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), spread, rtol=1e-3)
    again = written("again.npy", lines=lines[:7], pca_file=tmp_path / "out.npy.pca.npz")
    np.testing.assert_allclose(np.load(again), found[:7], rtol=0, atol=1e-4)
    flags = {"input_file": "-", "output_file": "-", "pca_file": tmp_path / "out.npy.pca.npz"}
    status, out, err = run(f"{lines[0]}\n".encode(), **flags, normalize=True)
    assert status == 0, err
    np.testing.assert_allclose(np.linalg.norm(json.loads(out)["vector"]), 1, atol=1e-6)


def test_truncation(written, wide_model):
    found = np.load(written(dimensions=3, reduce="truncate", normalize=True))
    want = encoded(wide_model)[:, :3]
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-5)


# Killed runs and parts.


@pytest.mark.parametrize("name", ["out.npy", "out.npz", "out.jsonl"])
def test_resume_gives_the_same_bytes(written, run, tmp_path, monkeypatch, small_windows, name):
    lines = many()
    expected = written(name, lines).read_bytes()
    (tmp_path / name).unlink()
    stream, calls = Encoder.stream, []

    def dies(self, windows):
        for vectors in stream(self, windows):
            if len(calls) == 3:
                raise errors.UserError("killed")
            calls.append(vectors)
            yield vectors

    flags = {"input_file": tmp_path / "in.txt", "output_file": tmp_path / name}
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "stream", dies)
        assert run(**flags)[0] == 1
    assert not (tmp_path / name).exists()
    with open(tmp_path / f"{name}.part", "ab") as part:
        part.write(b"half a row")  # What a kill in the middle of a write leaves.
    status, _, err = run(**flags, resume=True, pooling="mean")
    assert status == 1 and "was begun with another pooling; leave --resume out" in err
    computed = []

    def counted(self, windows):
        for vectors in stream(self, windows):
            computed.append(len(vectors))
            yield vectors

    monkeypatch.setattr(Encoder, "stream", counted)
    status, _, err = run(**flags, resume=True)
    assert status == 0, err
    assert sum(computed) == 100 - 48 and "going on from row 48 of 100" in err
    assert (tmp_path / name).read_bytes() == expected
    assert sorted(os.listdir(tmp_path)) == sorted(["in.txt", name])


def test_shards_make_up_the_whole(run, written, tmp_path):
    lines = many(23)
    whole = np.load(written(lines=lines))
    for shard in range(4):
        flags = {"input_file": tmp_path / "in.txt", "output_file": tmp_path / "s.npz"}
        status, _, err = run(**flags, shard=f"{shard}/4")
        assert status == 0, err
    parts = [np.load(tmp_path / f"s-{shard:05d}-of-00004.npz") for shard in range(4)]
    assert np.concatenate([part["ids"] for part in parts]).tolist() == list(range(23))
    vectors = np.concatenate([part["vectors"] for part in parts])
    np.testing.assert_allclose(vectors, whole, rtol=0, atol=1e-5)


def test_two_processes_do_not_mix(written, run, tmp_path):
    written()
    with Growing(str(tmp_path / "out.npy"), (1, 16), {}):
        flags = {"input_file": tmp_path / "in.txt", "output_file": tmp_path / "out.npy"}
        status, _, err = run(**flags)
    assert status == 1 and "another process is writing it" in err


# Errors.


def test_disk_full(written, run, tmp_path, monkeypatch):
    written(lines=["a"])
    before = (tmp_path / "out.npy").read_bytes()
    room = os.statvfs(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda path: FullDisk(room.f_frsize))
    status, _, err = run(input_file=tmp_path / "in.txt", output_file=tmp_path / "out.npy")
    assert status == 1 and "the disk has 0 MB left; free space" in err
    assert (tmp_path / "out.npy").read_bytes() == before


@pytest.mark.parametrize(
    "name, kilobytes", [("out.npy", 64), ("out.npz", 140), ("out.jsonl", 200), ("out.tsv", 200)]
)
def test_disk_full_on_the_way(run, tmp_path, kilobytes, name):
    """2,000 vectors of 64 bytes (.jsonl and .tsv: of more) do not fit into the largest file that
    there may be: nothing stands under the final name, and --resume goes on when there is room.
    """
    (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in many(2000)))
    flags = {"input_file": tmp_path / "in.txt", "output_file": tmp_path / name}
    with largest_file(1000 * kilobytes):
        status, out, err = run(**flags)
    assert (status, out) == (1, "")
    errors = [line for line in err.splitlines() if not line.startswith("INFO")]
    assert len(errors) == 1 and errors[0].startswith(f"error: {tmp_path / name}")
    assert "cannot be written (File too large); free space" in errors[0]
    left = [f"{name}.part", f"{name}.part.json"]
    assert sorted(os.listdir(tmp_path)) == sorted(["in.txt", *left])
    assert run(**flags, resume=True)[0] == 0
    found = (tmp_path / name).read_bytes()
    assert run(**flags)[0] == 0
    assert (tmp_path / name).read_bytes() == found
    assert sorted(os.listdir(tmp_path)) == sorted(["in.txt", name])


def test_disk_full_of_stdin_and_stdout(run, tmp_path, wide_model):
    lines = "".join(f"{line}\n" for line in many(2000)).encode()
    with largest_file(8000):
        status, _, err = run(lines, input_file="-", output_file=tmp_path / "out.npy")
    assert status == 1 and "what comes from - cannot be kept there (File too large)" in err
    assert os.listdir(tmp_path) == []
    flags = {"bert": wide_model, "max_seq_length": 32, "input_file": "-", "output_file": "-"}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command_of(**flags),
            input=lines,
            stdout=full,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b"error: output: No space left on device; see to it and run again\n"


@contextlib.contextmanager
def largest_file(size):
    """While it lasts, no file of this process grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class FullDisk:
    f_bavail = 0

    def __init__(self, size):
        self.f_frsize = size


def test_bad_line(run, tmp_path, wide_model):
    (tmp_path / "in.txt").write_bytes(b"a\nb\xe9\nc\n")
    flags = {"input_file": tmp_path / "in.txt", "output_file": tmp_path / "out.npy"}
    status, _, err = run(**flags)
    assert status == 1 and "in.txt:2: not UTF-8 at byte 1" in err
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]
    assert run(**flags, on_bad_line="skip")[0] == 0
    found = np.load(tmp_path / "out.npy")
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[[0, 2]], encoded(wide_model, ["a", "c"]), rtol=0, atol=1e-5)
    status, out, err = run(b"a\nb\xe9\nc\n", input_file="-", output_file="-")
    assert status == 1 and out.count("\n") == 1 and err.startswith("error: stdin:2: not UTF-8")
    status, out, _ = run(b"b\xe9\n", input_file="-", output_file="-", on_bad_line="skip")
    assert status == 0 and "not UTF-8" in json.loads(out)["error"]


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"output_file": "out.bin"}, "the name must end in .npy"),
        ({"shard": "4/4"}, "--shard=4/4: expected i/n"),
        ({"layers": "x"}, "--layers=x: expected numbers"),
        ({"layers": "9"}, "--layers=9: the model has 2 layers"),
        ({"resume": True, "input_file": "-"}, "--resume: stdin is read only once"),
        ({"resume": True, "output_file": "-"}, "--resume: stdout cannot go on"),
        ({"shard": "0/2", "output_file": "-"}, "--shard: needs --output_file=FILE"),
        ({"dimensions": 2, "output_file": "-"}, "PCA is fitted on all vectors"),
        ({"dimensions": 17}, "--dimensions=17: PCA needs at least as many texts"),
        ({"dimensions": 17, "reduce": "truncate"}, "--dimensions=17: a vector has 16 numbers"),
        ({"pca_file": "no.npz"}, "no.npz: cannot be read as a PCA"),
        ({"label_column": "1"}, "--text_column is missing"),
        ({"header": True}, "--header: is of a table, and without --text_column each line is a"),
        ({"input_format": "csv"}, "--input_format: is of a table, and without --text_column"),
        ({"input_file": "no.txt"}, "no.txt: no such file; check --input_file"),
        ({"output_file": "no/such/out.npy"}, "=no/such/out.npy: cannot be written there"),
        ({"pooling": "auto", "layers": "0", "bert": None}, "--bert is missing"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_flags(run, tmp_path, flags, message):
    (tmp_path / "in.txt").write_text("a\n")
    flags = {"input_file": tmp_path / "in.txt", "output_file": tmp_path / "out.npy", **flags}
    status, out, err = run(**flags)
    assert (status, out) == (1, "")
    assert message in err and "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


def test_table_without_its_column(run, tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n')
    status, _, err = run(input_file=tmp_path / "t.jsonl", output_file=tmp_path / "out.npy")
    assert status == 1 and "a .jsonl file; name its --text_column" in err


# Processes of their own.


def command_of(**flags):
    script = str(ROOT / "scripts" / "extract_cls.py")
    return [sys.executable, script, *as_arguments(flags)]


def test_kill_and_resume(run, tmp_path, wide_model):
    (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in many(17000)) * 2)
    flags = {"bert": wide_model, "max_seq_length": 32, "input_file": tmp_path / "in.txt"}
    state = tmp_path / "v.npy.part.json"
    with subprocess.Popen(
        command_of(**flags, output_file=tmp_path / "v.npy"),
        env=ENVIRONMENT,
        stderr=subprocess.DEVNULL,
    ) as running:
        while running.poll() is None:
            if state.exists() and json.loads(state.read_text())["rows"]:
                running.kill()
                break
            time.sleep(0.01)
    assert running.returncode == -signal.SIGKILL
    assert not (tmp_path / "v.npy").exists()
    status, _, err = run(**flags, output_file=tmp_path / "v.npy", resume=True)
    assert status == 0, err
    assert "going on from row " in err
    status, _, err = run(**flags, output_file=tmp_path / "whole.npy")
    assert status == 0, err
    assert (tmp_path / "v.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert np.load(tmp_path / "v.npy").shape == (34000, 16)


def test_closed_stdout(wide_model, tmp_path):
    """`| head -1` gets its line; nothing is said about the rest."""
    (tmp_path / "in.txt").write_text("a b c\n" * 5000)
    flags = {"bert": wide_model, "max_seq_length": 32, "input_file": "-", "output_file": "-"}
    command = f"{shlex.join(command_of(**flags))} < in.txt | head -1"
    done = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["id"] == 0
