"""--eval_file, --predict_file and --long_text=windows: scoring with what was trained."""

import gzip
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from cli_toys import ENVIRONMENT, command_line, process, results_of, values_of

from bert_tools.inputs import tables
from bert_tools.tasks.regress import Regression

PAIRS = ["a b\tc", "d\td", "b b b\ta c", "c\tc d a"]


@pytest.fixture
def score(run, trained):
    """function(**flags) -> stdout of scoring with the trained folder, which goes well."""

    def score(**flags):
        status, out, err = run(**{"bert": trained[0], **flags})
        assert status == 0, err
        return out

    return score


@pytest.fixture
def stream(score, tmp_path):
    """function(lines, **flags) -> the lines that --predict_file gives for them."""

    def stream(lines, name="lines.tsv", **flags):
        path = tmp_path / name
        path.write_text("".join(f"{line}\n" for line in lines))
        return score(predict_file=path, **flags).splitlines()

    return stream


# --eval_file.


def test_eval_file(score, trained):
    """A JSON line for each file, with what --do_eval found."""
    folder, data = trained
    out = score(eval_file=f"{data}/dev.tsv,{data}/t[r]ain.tsv", eval_batch_size=4)
    dev, train = map(json.loads, out.splitlines())
    assert (dev["file"], dev["examples"]) == (f"{data}/dev.tsv", 6)
    assert (train["file"], train["examples"]) == (f"{data}/train.tsv", 24)
    expected = {n: float(v) for n, v in results_of(folder / "eval_results.txt").items()}
    found = {name: dev[name] for name in dev.keys() - {"file", "examples"}}
    assert found == pytest.approx({n: v for n, v in expected.items() if n != "global_step"})
    assert train["mae"] != pytest.approx(dev["mae"])


def test_eval_file_with_globs(score, trained, tmp_path):
    text = (trained[1] / "dev.tsv").read_bytes()
    for name in ("b.tsv", "a.tsv", "c.txt", "odd[1].tsv"):
        (tmp_path / name).write_bytes(text)
    out = score(eval_file=f"{tmp_path}/[ab].tsv,{tmp_path}/odd[1].tsv", max_eval_examples=4)
    found = [json.loads(line) for line in out.splitlines()]
    assert [line["file"].removeprefix(f"{tmp_path}/") for line in found] == [
        "a.tsv",
        "b.tsv",
        "odd[1].tsv",
    ]
    assert [line["examples"] for line in found] == [4, 4, 4]


def test_eval_file_that_is_constant(score, tmp_path):
    """A correlation that there is none of is null: JSON has no NaN."""
    (tmp_path / "same.tsv").write_text("a\tb\t0.5\nb\ta\t0.5\n")
    found = json.loads(score(eval_file=tmp_path / "same.tsv"))
    assert found["pearson"] is None and found["spearman"] is None and found["mae"] >= 0


def test_eval_file_with_a_bad_line(run, trained, tmp_path):
    """What was said of the files before it stays."""
    path = tmp_path / "bad.tsv"
    path.write_text("a\tb\t0.5\na\tb\n")
    flags = {"bert": trained[0], "eval_file": f"{trained[1]}/dev.tsv,{path}"}
    status, out, err = run(**flags)
    assert status == 1 and json.loads(out)["examples"] == 6
    assert f"error: {path}:2: expected at least 3 tab-separated columns" in err
    status, out, err = run(**flags, on_bad_line="skip")
    assert status == 0 and json.loads(out.splitlines()[1])["examples"] == 1


# --predict_file.


def test_predict_file(stream, trained):
    """In the order of the lines, the values of --do_predict."""
    lines = (trained[1] / "test.tsv").read_text().splitlines()
    expected = values_of(trained[0] / "test_results.tsv")
    assert np.ptp(expected) > 1e-3
    found = [float(value) for value in stream(lines)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    found = [float(value) for value in stream(lines[::-1] * 3)]
    np.testing.assert_allclose(found, expected[::-1] * 3, rtol=1e-5)


def test_windows_of_lines_are_written_in_order(stream, monkeypatch):
    """More windows than threads, each of a few lines."""
    monkeypatch.setattr(tables, "_WINDOW", 2)
    lines = [PAIRS[index % 4] for index in range(101)]
    found = [float(value) for value in stream(lines)]
    one = [float(value) for value in stream(PAIRS)]
    np.testing.assert_allclose(found, [one[index % 4] for index in range(101)], rtol=1e-5)


def test_lines_that_end_in_blank_ones(stream):
    assert len(stream([*PAIRS, "", ""])) == 4


def test_bad_line_in_the_middle(run, trained, tmp_path, monkeypatch):
    """The rows before it stay on stdout."""
    path = tmp_path / "lines.tsv"
    path.write_text("\n".join([*PAIRS, "alone", *PAIRS]) + "\n")
    status, out, err = run(bert=trained[0], predict_file=path)
    assert (status, len(out.splitlines())) == (1, 4)
    assert err == f"error: {path}:5: expected at least 2 tab-separated columns, found 1 " + (
        "('alone'); correct the line, or name the columns with --text_column\n"
    )


@pytest.mark.parametrize("bad", ["alone", ""], ids=["one column", "blank"])
def test_bad_lines_that_are_skipped(stream, bad):
    """Line n of the output is of line n of the input."""
    lines = [bad, *PAIRS[:2], bad, *PAIRS[2:]]
    good = stream(PAIRS)
    found = stream(lines, on_bad_line="skip")
    assert [index for index, value in enumerate(found) if value == "nan"] == [0, 3]
    values = [float(value) for value in found if value != "nan"]
    np.testing.assert_allclose(values, [float(value) for value in good], rtol=1e-5)
    records = [
        json.loads(line) for line in stream(lines, on_bad_line="skip", predict_format="jsonl")
    ]
    assert ["error" in record for record in records] == [n in (0, 3) for n in range(6)]
    assert "lines.tsv:4: expected at least 2" in records[3]["error"]
    assert stream([bad, "alone"], on_bad_line="skip") == ["nan", "nan"]


def test_json_lines(stream):
    values = [float(value) for value in stream(PAIRS)]
    records = [json.loads(line) for line in stream(PAIRS, predict_format="jsonl")]
    assert [(record["text"], record["text_pair"]) for record in records] == [
        tuple(pair.split("\t")) for pair in PAIRS
    ]
    assert len({record["id"] for record in records}) == 4
    np.testing.assert_allclose([record["value"] for record in records], values, rtol=1e-6)


def test_predict_output(score, tmp_path):
    """A file of its own; JSON lines by its name."""
    path = tmp_path / "pairs.tsv"
    path.write_text("\n".join(PAIRS))
    expected = score(predict_file=path)
    assert score(predict_file=path, predict_output=tmp_path / "out.txt") == ""
    assert (tmp_path / "out.txt").read_text() == expected
    score(predict_file=path, predict_output=tmp_path / "out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [str(np.float32(record["value"])) for record in found] == expected.split()


def test_predict_output_in_place_of_the_input(run, trained, tmp_path):
    (tmp_path / "x.tsv").write_text("a\tb\n")
    (tmp_path / "link").symlink_to(tmp_path / "x.tsv")
    for name in ("x.tsv", "link"):
        flags = {"predict_file": tmp_path / "x.tsv", "predict_output": tmp_path / name}
        status, _, err = run(bert=trained[0], **flags)
        assert status == 1 and "is --predict_file too, which it would take the place of" in err
    assert (tmp_path / "x.tsv").read_text() == "a\tb\n"


def test_predict_output_is_whole_or_absent(run, trained, tmp_path, monkeypatch):
    """A run that fails leaves what was there before."""
    monkeypatch.setattr(tables, "_WINDOW", 2)
    path, target = tmp_path / "lines.tsv", tmp_path / "values.tsv"
    path.write_text("\n".join([*PAIRS, "alone"]) + "\n")
    flags = {"bert": trained[0], "predict_file": path, "predict_output": target}
    assert run(**flags)[0] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["lines.tsv"]
    target.write_text("before\n")
    assert run(**flags)[0] == 1
    assert target.read_text() == "before\n"
    assert run(**flags, on_bad_line="skip")[0] == 0
    assert len(target.read_text().splitlines()) == 5


def test_gzip(score, stream, tmp_path):
    (tmp_path / "packed.tsv.gz").write_bytes(gzip.compress("\n".join(PAIRS).encode()))
    found = predicted(score(predict_file=tmp_path / "packed.tsv.gz"))
    np.testing.assert_allclose(found, [float(value) for value in stream(PAIRS)], rtol=1e-5)


def test_named_columns(stream):
    """CSV and JSON lines, the pair in another order."""
    expected = stream(PAIRS)
    pairs = [pair.split("\t") for pair in PAIRS]
    columns = {"text_column": "first", "text_pair_column": "second"}
    table = ["second,n,first", *(f'"{b}",{n},"{a}"' for n, (a, b) in enumerate(pairs))]
    assert stream(table, "table.csv", **columns) == expected
    objects = [json.dumps({"second": b, "first": a}) for a, b in pairs]
    assert stream(objects, "table.jsonl", **columns) == expected
    numbered = [f"{n}\t{b}\t{a}" for n, (a, b) in enumerate(pairs)]
    assert stream(numbered, text_column=2, text_pair_column=1) == expected


def test_missing_column(run, trained, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("one,two\na,b\n")
    status, out, err = run(bert=trained[0], predict_file=path, text_column="first")
    assert (status, out) == (1, "")
    assert f"{path}:1: no column 'first' in the header, which has 'one', 'two'" in err


def test_columns_of_training_are_used_later(run, score, wide_model, tmp_path):
    """--task_name=csv stores them in bert_tools.json."""
    rows = ["score,kind,text", *(f"{n % 5},x,{'a ' * (n % 5)}b" for n in range(12))]
    for name in ("train.csv", "later.csv"):
        (tmp_path / name).write_text("\n".join(rows) + "\n")
    out = tmp_path / "out"
    status, _, err = run(
        task_name="csv",
        data_dir=tmp_path,
        bert=wide_model,
        output_dir=out,
        do_train=True,
        text_column="text",
        value_column="score",
        value_range="0,4",
        max_seq_length=8,
        train_batch_size=6,
        num_train_epochs=1,
    )
    assert status == 0, err
    meta = json.loads((out / "bert_tools.json").read_text())
    columns = {"text_a": "text", "text_b": None, "label": "score", "header": True}
    assert (meta["columns"], meta["pairs"]) == (columns, False)
    found = score(bert=out, predict_file=tmp_path / "later.csv").splitlines()
    assert len(found) == 12
    # The same text, up to how a machine's products round in another row of a batch.
    assert float(found[0]) == pytest.approx(float(found[5]), abs=1e-6)
    assert float(found[0]) != pytest.approx(float(found[1]), abs=1e-6)
    line = json.loads(score(bert=out, eval_file=tmp_path / "later.csv"))
    values = np.array([n % 5 for n in range(12)])
    assert line["mae"] == pytest.approx(np.abs(np.array(found, float) - values).mean(), rel=1e-4)
    # A stream has one text a line, as the model was trained.
    (tmp_path / "texts.txt").write_text("b\na b\n")
    with open(tmp_path / "texts.txt", "rb") as texts, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", texts_as_stdin(texts))
        streamed = predicted(score(bert=out, predict_file="-"))
    assert streamed == pytest.approx(np.array(found[:2], float), rel=1e-5)


def texts_as_stdin(reader):
    class Stdin:
        buffer = reader

    return Stdin


# Long texts.


def predicted(out):
    return np.array(out.split(), float)


@pytest.mark.parametrize("pair", [False, True])
def test_windows(score, trained, tmp_path, pair):
    """The mean over windows that overlap by a quarter, against windows that are cut by hand."""
    tokens = list("abcddcbaabdcabdcbbaacdbacdba")
    # [CLS] window [SEP], or [CLS] window [SEP] c d [SEP]; 12 tokens.
    room = 12 - (5 if pair else 2)
    count = 1
    while room + (count - 1) * (room - room // 4) < len(tokens):
        count += 1
    begins = [index * (len(tokens) - room) // (count - 1) for index in range(count)]
    assert begins[0] == 0 and begins[-1] + room == len(tokens) and count > 2
    assert max(b - a for a, b in itertools.pairwise(begins)) <= room - room // 4
    other = "\tc d" if pair else "\t"
    windows = [" ".join(tokens[begin : begin + room]) + other for begin in begins]
    (tmp_path / "windows.tsv").write_text("\n".join(windows) + "\n")
    (tmp_path / "long.tsv").write_text(" ".join(tokens) + other + "\na b" + other + "\n")
    (tmp_path / "short.tsv").write_text("a b" + other + "\n")
    parts = predicted(score(predict_file=tmp_path / "windows.tsv", max_seq_length=12))
    assert np.ptp(parts) > 1e-4
    flags = {"predict_file": tmp_path / "long.tsv", "max_seq_length": 12}
    long, short = predicted(score(**flags, long_text="windows"))
    assert long == pytest.approx(parts.mean(), rel=1e-5)
    # A text that fits is one window.
    assert short == pytest.approx(
        predicted(score(predict_file=tmp_path / "short.tsv"))[0], rel=1e-5
    )
    truncated = predicted(score(**flags))[0]
    assert truncated == pytest.approx(parts[0], rel=1e-5)


def test_windows_in_evaluation(score, tmp_path):
    """The metrics are over texts, not over windows."""
    texts = ["a b c d " * 9, "d c b a " * 7, "c", "b b a d " * 8]
    values = [0.0, 1.0, 0.5, 0.25]
    path = tmp_path / "long.tsv"
    path.write_text("".join(f"{t}\tb\t{v}\n" for t, v in zip(texts, values, strict=True)))
    line = json.loads(score(eval_file=path, long_text="windows", eval_batch_size=3))
    found = predicted(score(predict_file=path, long_text="windows"))
    assert (line["examples"], len(found)) == (4, 4)
    assert line["mae"] == pytest.approx(np.abs(found - values).mean(), rel=1e-5)
    assert line["pearson"] == pytest.approx(np.corrcoef(found, values)[0, 1], rel=1e-5)
    truncated = json.loads(score(eval_file=path))
    assert truncated["mae"] != pytest.approx(line["mae"], rel=1e-4)


# What is refused.


def test_model_without_a_head(run, toy_model, trained):
    for flag in ("predict_file", "eval_file"):
        status, out, err = run(bert=toy_model, **{flag: trained[1] / "dev.tsv"}, max_seq_length=16)
        assert (status, out) == (1, "")
        assert err.startswith(f"error: {toy_model}: has no output_weights") and "--do_train" in err
    parts = {
        "bert_config_file": f"{toy_model}/bert_config.json",
        "vocab_file": f"{toy_model}/vocab.txt",
        "init_checkpoint": f"{toy_model}/bert_model.ckpt",
    }
    status, _, err = run(predict_file=trained[1] / "dev.tsv", max_seq_length=16, **parts)
    assert status == 1 and err.startswith(f"error: {parts['init_checkpoint']}: has no output_w")


# Pipes.


def test_stream(trained):
    """Stdin to stdout: each line is answered while the next is not written yet."""
    folder, data = trained
    lines = (data / "test.tsv").read_text().splitlines()
    expected = values_of(folder / "test_results.tsv")
    with process(bert=folder, predict_file="-", predict_output="-") as running:
        for line, value in zip(lines, expected, strict=True):
            running.stdin.write(f"{line}\n")
            running.stdin.flush()
            assert float(running.stdout.readline()) == pytest.approx(value, rel=1e-5)
        out, err = running.communicate("a\tb\nalone\n")
    assert running.returncode == 1 and len(out.splitlines()) == 1
    assert err == "error: stdin:7: expected at least 2 tab-separated columns, found 1 " + (
        "('alone'); correct the line, or name the columns with --text_column\n"
    )


def test_head_of_a_long_stream(trained):
    """A reader that has seen enough ends it, quietly, though lines keep coming."""
    command = 'yes "a b\tc" | { "$@"; echo "status $?" >&2; } | head -n 3'
    done = subprocess.run(
        ["sh", "-c", command, "sh", *command_line(bert=trained[0], predict_file="-")],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr == "status 1\n"


def test_no_more_lines_are_in_work_than_a_fixed_number(score, tmp_path, monkeypatch):
    """However long the stream is, memory does not grow."""
    path = tmp_path / "lines.tsv"
    path.write_text("a\tb\n" * 1600)
    monkeypatch.setattr(tables, "_WINDOW", 8)
    monkeypatch.setattr(tables, "_BLOCK", 64)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    read, ahead = 0, []
    following, row = tables.Lines.__next__, Regression.row

    def counted_line(lines):
        nonlocal read
        read += 1
        return following(lines)

    def counted_row(task, prediction):
        ahead.append(read - len(ahead))
        return row(task, prediction)

    monkeypatch.setattr(tables.Lines, "__next__", counted_line)
    monkeypatch.setattr(Regression, "row", counted_row)
    assert len(score(predict_file=path).splitlines()) == len(ahead) == 1600
    assert max(ahead) < 200
