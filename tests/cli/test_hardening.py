"""What hostile but plausible users did: foreign folders, damaged files, closed streams."""

import io
import json
import pathlib
import shutil
import subprocess
import sys

import pytest
from cli_toys import ENVIRONMENT, command_line, plain, values_of

from bert_tools import files


def write_model(folder):
    folder.mkdir()
    for name in ("bert_config.json", "vocab.txt", "bert_model.ckpt.index"):
        (folder / name).write_text("precious")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_folder_of_another_model_is_not_written_into(refused, tmp_path):
    before = write_model(tmp_path / "out")
    error = refused()
    assert "--output_dir=" in error and "holds another model (bert_config.json)" in error
    kept = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert kept == before


def test_a_split_off_dev_set_stays_the_same(sim, read, toy_data, tmp_path):
    """Whatever --seed says later: rows that were trained on are never evaluated."""
    pathlib.Path(toy_data, "dev.tsv").unlink()
    flags = {"dev_fraction": 0.25, "do_train": True, "num_train_epochs": 1, "seed": 7}
    trained = plain(read(**flags)["data"])["train"]
    sim(**flags)
    sim(do_train=True, num_train_epochs=2)  # Which goes on with that share.
    assert set(plain(read(do_train=True, num_train_epochs=3)["data"])["train"]) == set(trained)
    for later in ({}, {"seed": 8}, {"dev_fraction": 0.25}):
        evaluated = plain(read(do_eval=True, **later)["data"])["eval"]
        assert len(evaluated) == 6 and not set(evaluated) & set(trained)


def test_another_dev_fraction_is_refused(sim, refused, toy_data):
    pathlib.Path(toy_data, "dev.tsv").unlink()
    sim(dev_fraction=0.25, do_train=True, num_train_epochs=1)
    error = refused(dev_fraction=0.5, do_eval=True)
    assert "--dev_fraction=0.5: the model in" in error and "trained with 0.25" in error


def test_left_overs_of_killed_runs_are_removed(sim, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    left = [
        ".model.ckpt-5.4711.data-00000-of-00001.tempstate123",
        ".train.tf_record.ab12_xyz",
        ".bert_tools.json.abcdefgh",
        ".eval_results.txt.abcdefgh",
        ".test_predictions.txt.abcdefgh",
        ".out_of_fold.jsonl.abcdefgh",
    ]
    kept = [".gitignore", ".notes.txt", "model.ckpt-x"]
    for name in [*left, *kept]:
        (folder / name).write_text("x")
    sim(do_train=True, num_train_epochs=0.25)
    there = {path.name for path in folder.iterdir()}
    assert not there & set(left) and set(kept) <= there


def test_left_over_names_are_those_of_aside(tmp_path):
    with files.aside(str(tmp_path / "train.tf_record.json")) as temporary:
        files.remove_left_overs(tmp_path)
        assert not pathlib.Path(temporary).exists()
        pathlib.Path(temporary).write_text("")


@pytest.mark.parametrize("where", ["top", "method"])
def test_task_module_that_exits(refused, tmp_path, where):
    path = tmp_path / "task.py"
    top, inner = ("sys.exit(0)", "pass") if where == "top" else ("", "sys.exit(0)")
    path.write_text(
        f"import sys\n{top}\nclass Own:\n    def get_train_examples(self, data_dir):\n"
        f"        {inner}\n"
    )
    error = refused(task_module=path, task_name="own")
    assert "SystemExit" in error and "correct it" in error


@pytest.mark.parametrize("epochs", ["1e300", "1e308"])
def test_more_epochs_than_anybody_means(refused, epochs):
    assert f"--num_train_epochs={epochs}" in refused(num_train_epochs=epochs)


@pytest.mark.parametrize(
    "name, value",
    [
        ("max_seq_length", "64"),
        ("max_seq_length", None),
        ("max_seq_length", -4),
        ("value_range", "abc"),
        ("value_range", [0]),
        ("value_range", [5, 0]),
        ("use_sigmoid_act", "no"),
        ("task_name", 5),
        ("pairs", "x"),
        ("columns", [1]),
        ("columns", {"text_a": None, "text_b": None, "label": None, "header": False}),
    ],
    ids=str,
)
def test_damaged_description(run, trained, tmp_path, name, value):
    shutil.copytree(trained[0], tmp_path / "model")
    path = tmp_path / "model" / "bert_tools.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    status, out, err = run(bert=tmp_path / "model", predict_file=trained[1] / "test.tsv")
    assert (status, out) == (1, "")
    assert err.startswith(f"error: {path}: {name} is {value!r}, expected ")


@pytest.mark.parametrize(
    "flags", [{"use_sigmoid_act": False}, {"value_range": "0,100"}, {"loss": "logistic"}], ids=str
)
def test_flags_that_contradict_the_model(run, trained, flags):
    status, out, err = run(bert=trained[0], predict_file=trained[1] / "test.tsv", **flags)
    assert (status, out) == (1, "")
    assert f"--{next(iter(flags))}=" in err and "the model was trained with" in err


@pytest.mark.parametrize("name", ["predict_file", "eval_file", "predict_output"])
@pytest.mark.parametrize("value", ["", ",,"])
def test_empty_flags_as_empty_shell_variables_give(run, trained, name, value):
    status, _, err = run(**{"bert": trained[0], "eval_file": "x.tsv", name: value})
    assert status == 1 and f"error: --{name} is empty" in err


def test_folder_as_output(run, trained, tmp_path):
    flags = {"bert": trained[0], "predict_file": trained[1] / "test.tsv"}
    status, _, err = run(**flags, predict_output=tmp_path)
    assert status == 1 and "cannot be written there; name a file in a folder" in err


def test_csv_and_json_lines_on_stdin(run, trained, monkeypatch):
    flags = {"bert": trained[0], "predict_file": "-", "text_column": "x", "text_pair_column": "y"}
    found = []
    for kind, text in (
        ("csv", 'n,x,y\n1,"a, b",c\n'),
        ("jsonl", '{"x": "a, b", "y": "c"}\n'),
    ):
        stdin = io.TextIOWrapper(io.BytesIO(text.encode()))
        monkeypatch.setattr(sys, "stdin", stdin)
        status, out, err = run(**flags, input_format=kind)
        assert status == 0, err
        found += [float(line) for line in out.splitlines()]
    assert len(found) == 2 and found[0] == pytest.approx(found[1], rel=1e-6)


def test_a_header_that_names_a_column_twice(run, trained, tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a,b,a\nc,d,e\n")
    flags = {"bert": trained[0], "predict_file": path, "text_pair_column": "b"}
    status, _, err = run(**flags, text_column="a")
    assert status == 1 and f"{path}:1: the header has 'a' 2 times; rename one, or name" in err


def test_damaged_records_are_made_anew(sim, tmp_path):
    sim(do_train=True, do_predict=True, num_train_epochs=1)
    expected = values_of(tmp_path / "out" / "test_results.tsv")
    path = tmp_path / "out" / "predict.tf_record"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    err = sim(do_predict=True)
    assert "it is made anew" in err and "{{function_node" not in err
    assert values_of(tmp_path / "out" / "test_results.tsv") == expected


def test_skipped_lines_are_counted(run, trained, tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("a\tb\nalone\nc\td\n")
    status, out, err = run(bert=trained[0], predict_file=path, on_bad_line="skip")
    assert (status, out.splitlines()[1]) == (0, "nan")
    assert f"WARNING {path}: 1 bad lines have no prediction" in err


@pytest.mark.parametrize("closed", ["<&-", "2>&-"])
def test_closed_streams(trained, closed):
    folder, data = trained
    source = "-" if closed == "<&-" else f"{data}/test.tsv"
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *command_line(bert=folder, predict_file=source)],
        env={**ENVIRONMENT, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if closed == "<&-":
        assert done.returncode == 1
        assert done.stderr == "error: --predict_file=-: stdin is closed; pipe the lines in\n"
    else:
        assert done.returncode == 0 and len(done.stdout.splitlines()) == 5


def test_results_are_utf_8_in_any_locale(trained, tmp_path):
    path = tmp_path / "zh.tsv"
    path.write_text("中\t国\n")
    done = subprocess.run(
        command_line(bert=trained[0], predict_file=path, predict_format="jsonl"),
        env={**ENVIRONMENT, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode("utf-8"))["text"] == "中"


def test_cluster_that_cannot_be_read(refused, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{bad")
    assert "TF_CONFIG={bad" in refused(strategy="multi_worker")


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"predict_output": "x.txt"}, "--predict_output=x.txt: is of --predict_file"),
        ({"header": True}, "--header: needs --text_column"),
        ({"do_eval": "maybe"}, "Non-boolean argument to boolean flag: maybe"),
    ],
    ids=str,
)
def test_flags_that_nothing_would_read(refused, flags, message):
    assert message in refused(**flags)
