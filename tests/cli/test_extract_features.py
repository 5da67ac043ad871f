"""extract_features from its command line to its JSON lines."""

import io
import json
import os
import pathlib
import shlex
import subprocess
import sys

import numpy as np
import pytest

from bert_tools import encoder, hub
from bert_tools.cli import app, extract_features

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
LINES = ["a b", "c , d ||| ae bf .", "", "  d d d  ", "a ||| b ||| c", "a|||b", "zzz a"]
TOKENS = [
    "[CLS] a b [SEP]",
    "[CLS] c , d [SEP] a ##e b ##f . [SEP]",
    "[CLS] [SEP]",
    "[CLS] d d d [SEP]",
    "[CLS] a [UNK] [UNK] [UNK] b [SEP] c [SEP]",  # The last ||| splits, as in the original.
    "[CLS] a [UNK] [UNK] [UNK] b [SEP]",
    "[CLS] [UNK] a [SEP]",
]


@pytest.fixture
def run(capsys, monkeypatch, toy_model):
    """function(stdin=b"", **flags) -> (exit status, stdout, stderr)."""

    def run(stdin=b"", **flags):
        # Without the handler of an earlier test, which holds that test's stderr.
        monkeypatch.setattr(app.log, "handlers", [])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        flags = {"bert": toy_model, "max_seq_length": 32, **flags}
        arguments = [f"--{name}={value}" for name, value in flags.items() if value is not None]
        return (extract_features.main(arguments), *capsys.readouterr())

    return run


@pytest.fixture
def extracted(run, tmp_path):
    """function(lines, **flags) -> the rows written to a file."""

    def extracted(lines=LINES, **flags):
        (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in lines))
        flags = {"input_file": tmp_path / "in.txt", "output_file": tmp_path / "out.jsonl", **flags}
        status, out, err = run(**flags)
        assert (status, out) == (0, ""), err
        return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]

    return extracted


def tokens(row):
    return " ".join(feature["token"] for feature in row["features"])


def vectors(row):
    """float64 [tokens, layers, hidden]."""
    return np.array([[layer["values"] for layer in f["layers"]] for f in row["features"]])


def assert_refused(result, message):
    status, out, err = result
    assert (status, out) == (1, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err


def test_rows(extracted):
    rows = extracted(layers="-1")
    assert [row["linex_index"] for row in rows] == list(range(len(LINES)))
    assert [tokens(row) for row in rows] == TOKENS
    for row in rows:
        assert list(row) == ["linex_index", "features"]
        assert all(list(feature) == ["token", "layers"] for feature in row["features"])
        assert all(list(f["layers"][0]) == ["index", "values"] for f in row["features"])


@pytest.mark.parametrize("layers", [[-1], [0, 1], [1, -2, -1, 0], [-1, -1]], ids=str)
def test_values_are_the_encoders(extracted, toy_model, layers):
    rows = extracted(layers=",".join(map(str, layers)))
    model = hub.load(toy_model)
    for row in rows:
        names = [feature["token"] for feature in row["features"]]
        ids = np.array([model.tokenizer.convert_tokens_to_ids(names)], np.int32)
        ends = [place for place, name in enumerate(names) if name == "[SEP]"]
        segments = (np.arange(len(names)) > ends[0]).astype(np.int32)[np.newaxis]
        batch = {"input_ids": ids, "segment_ids": segments}
        found = encoder.encode(model.config, model.weights, batch).layers[1:]
        expected = np.stack([found[index][0] for index in layers], 1)
        np.testing.assert_allclose(vectors(row), expected, rtol=0, atol=2e-6)
        for feature in row["features"]:
            assert [layer["index"] for layer in feature["layers"]] == layers


def test_values_have_six_decimals(extracted):
    values = np.concatenate([vectors(row).ravel() for row in extracted(layers="-1")]).tolist()
    assert all(value == round(value, 6) for value in values)
    assert any(value != round(value, 5) for value in values)


@pytest.mark.parametrize(
    "flags",
    [{"batching": "bucket"}, {"batching": "pad"}, {"xla": True}, {"batch_size": 1}, {"seed": 1}],
    ids=str,
)
def test_the_way_does_not_matter(extracted, flags):
    expected = extracted(layers="-1,-2", max_seq_length=24)
    rows = extracted(layers="-1,-2", max_seq_length=24, **flags)
    assert [tokens(row) for row in rows] == TOKENS
    for row, other in zip(rows, expected, strict=True):
        np.testing.assert_allclose(vectors(row), vectors(other), rtol=0, atol=5e-6)


def test_precision(extracted):
    full = np.concatenate([vectors(row).ravel() for row in extracted(layers="-1")])
    rows = extracted(layers="-1", precision="bfloat16")
    half = np.concatenate([vectors(row).ravel() for row in rows])
    assert np.any(np.abs(half - full) > 1e-4)
    np.testing.assert_allclose(half, full, atol=0.1)


def test_many_lines_stay_in_order(extracted):
    """More than are computed together, of all lengths."""
    lines = [" ".join("abcd"[index % 4] * (1 + index * 7 % 20)) for index in range(600)]
    rows = extracted(lines, layers="-1")
    assert [row["linex_index"] for row in rows] == list(range(600))
    assert [tokens(row) for row in rows] == [f"[CLS] {line} [SEP]" for line in lines]


def test_long_lines_are_cut(extracted):
    (row, pair) = extracted(["a " * 40, "a a a a a a a ||| b b b"], layers="-1", max_seq_length=8)
    assert tokens(row) == "[CLS] a a a a a a [SEP]"
    assert tokens(pair) == "[CLS] a a a [SEP] b b [SEP]"


def test_stdin_to_stdout(run, extracted):
    rows = extracted(layers="-1")
    text = "".join(f"{line}\n" for line in LINES).encode()
    status, out, err = run(text, input_file="-", output_file="-", layers="-1")
    assert status == 0, err
    assert [json.loads(line) for line in out.splitlines()] == rows


def test_last_line_without_its_end_and_windows_ends(run):
    text = b"\xef\xbb\xbfa b\r\nc"
    status, out, err = run(text, input_file="-", output_file="-", layers="-1")
    assert status == 0, err
    found = [tokens(json.loads(line)) for line in out.splitlines()]
    assert found == ["[CLS] a b [SEP]", "[CLS] c [SEP]"]


def test_nothing_in_nothing_out(run):
    assert run(b"", input_file="-", output_file="-", layers="-1")[:2] == (0, "")


def test_defaults_are_the_originals():
    command = extract_features.flags()
    command.parse([])
    expected = {
        "input_file": None,
        "output_file": None,
        "layers": "-1,-2,-3,-4",
        "bert_config_file": None,
        "max_seq_length": 128,
        "init_checkpoint": None,
        "vocab_file": None,
        "do_lower_case": True,
        "batch_size": 32,
        "use_tpu": False,
        "master": None,
        "num_tpu_cores": 8,
        "use_one_hot_embeddings": False,
    }
    assert {name: getattr(command, name) for name in expected} == expected


def test_every_flag_of_the_original(extracted, toy_model):
    expected = extracted(layers="-1,-2", max_seq_length=16)
    rows = extracted(
        bert=None,
        bert_config_file=f"{toy_model}/bert_config.json",
        vocab_file=f"{toy_model}/vocab.txt",
        init_checkpoint=f"{toy_model}/bert_model.ckpt",
        do_lower_case=True,
        layers="-1,-2",
        max_seq_length=16,
        batch_size=32,
        use_tpu=False,
        master="grpc://none",
        num_tpu_cores=8,
        use_one_hot_embeddings=True,
    )
    assert rows == expected


# Errors.


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"layers": "-3"}, "--layers=-3: the model has 2 layers; -3 is none of them"),
        ({"layers": "0,2"}, "--layers=0,2: the model has 2 layers; 2 is none of them"),
        ({}, "--layers=-1,-2,-3,-4: the model has 2 layers; -3 is none of them"),
        ({"layers": "first"}, "--layers=first: expected numbers, comma-separated"),
        ({"layers": ""}, "--layers=: expected numbers, comma-separated"),
        ({"input_file": None}, "--input_file is missing"),
        ({"output_file": None}, "--output_file is missing"),
        ({"input_file": "no/such.txt"}, "no/such.txt: no such file; check --input_file"),
        ({"layers": "-1", "bert": None}, "--bert is missing"),
        ({"layers": "-1", "bert": "no/such"}, "no/such: no such model folder"),
        ({"layers": "-1", "max_seq_length": 33}, "--max_seq_length=33: the model has 32 positions"),
        ({"layers": "-1", "max_seq_length": 2}, "--max_seq_length=2: expected at least 3"),
        ({"layers": "-1", "output_file": "no/such/out.jsonl"}, "no/such/out.jsonl: cannot be"),
        ({"no_such_flag": 1}, "Unknown command line flag 'no_such_flag'"),
        ({"batch_size": "many"}, "--batch_size=many"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_flags(run, tmp_path, flags, message):
    (tmp_path / "in.txt").write_text("a\n")
    flags = {"input_file": tmp_path / "in.txt", "output_file": tmp_path / "out.jsonl", **flags}
    assert_refused(run(**flags), message)
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


def test_output_in_place_of_the_input(run, tmp_path):
    (tmp_path / "a").write_text("a b\n")
    status, _, err = run(input_file=tmp_path / "a", output_file=tmp_path / "a")
    assert status == 1 and "a: is --input_file too, which it would take the place of" in err
    assert (tmp_path / "a").read_text() == "a b\n"


def test_line_that_is_not_utf8(run, tmp_path):
    (tmp_path / "in.txt").write_bytes(b"a\nb\xff\n")
    flags = {"input_file": tmp_path / "in.txt", "output_file": tmp_path / "out.jsonl"}
    assert_refused(run(**flags, layers="-1"), "in.txt:2: not UTF-8 at byte 1")
    assert not (tmp_path / "out.jsonl").exists()


def test_rows_before_a_bad_line_of_a_stream_stay(run):
    text = b"a b\n" * 300 + b"b\xff\n"
    status, out, err = run(text, input_file="-", output_file="-", layers="-1")
    assert status == 1
    assert err.startswith("error: stdin:301: not UTF-8") and err.count("\n") == 1
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["linex_index"] for row in rows] == list(range(300))


def test_file_of_a_failed_run_stays_as_it_was(run, tmp_path):
    (tmp_path / "in.txt").write_bytes(b"a\n" * 300 + b"b\xff\n")
    (tmp_path / "out.jsonl").write_text("old\n")
    flags = {"input_file": tmp_path / "in.txt", "output_file": tmp_path / "out.jsonl"}
    assert run(**flags, layers="-1")[0] == 1
    assert (tmp_path / "out.jsonl").read_text() == "old\n"
    assert len(list(tmp_path.iterdir())) == 2


def test_closed_stdout(toy_model, tmp_path):
    """`| head -1` gets its line; nothing is said about the rest."""
    (tmp_path / "in.txt").write_text("a b c\n" * 2000)
    script = shlex.quote(str(ROOT / "scripts" / "extract_features.py"))
    command = (
        f"{shlex.quote(sys.executable)} {script} --bert={shlex.quote(toy_model)} "
        "--layers=-1 --max_seq_length=32 --input_file=- --output_file=- < in.txt | head -1"
    )
    done = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    assert tokens(json.loads(done.stdout)) == "[CLS] a b c [SEP]"
