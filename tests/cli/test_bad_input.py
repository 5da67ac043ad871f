"""What users get wrong: one sentence that says where and what to do, exit status 1, before any
training and with nothing half-written.
"""

import codecs
import contextlib
import dataclasses
import fcntl
import gzip
import json
import os
import pathlib
import resource
import shutil
import subprocess

import numpy as np
import pytest
from cli_toys import ENVIRONMENT, command_line, newest, plain, process, toy_flags

from bert_tools import checkpoints, encoder, files, hub
from bert_tools.cli import phases
from bert_tools.hub import google, huggingface

ROW = "a b\tc\t0.5\n"


def write(data_dir, split, text):
    path = pathlib.Path(data_dir, f"{split}.tsv")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# Lines.


@pytest.mark.parametrize(
    "split, text, message",
    [
        ("train", "a\tb\n", ":3: expected at least 3 tab-separated columns, found 2 ('a\\tb')"),
        ("dev", "a b 0.5\n", ":3: expected at least 3 tab-separated columns, found 1 ('a b 0.5')"),
        ("test", "a\n", ":3: expected at least 2 tab-separated columns, found 1 ('a')"),
        ("train", "a\tb\thigh\n", ":3: expected a number, found 'high'"),
        ("train", "a\tb\t\n", ":3: expected a number, found ''"),
        ("train", "a\tb\tNaN\n", ":3: expected a number, found 'NaN'"),
        ("dev", "a\tb\tinf\n", ":3: expected a number, found 'inf'"),
        ("train", "a\tb\t1,5\n", ":3: expected a number, found '1,5'"),
        ("train", "a\tb\t5\n", ":3: the value 5 lies outside 0..1"),
        ("train", b"a\tb\xe9\t1\n", ":3: not UTF-8 at byte 3 of the line; convert the file"),
        ("test", b"a\tb\xe9\n", ":3: not UTF-8 at byte 3 of the line; convert the file"),
        # Lines that a stray carriage return ends in some editors are one line here.
        ("train", "a\tb\t1\ra\tb\t1\n", ":3: expected a number, found '1\\ra'"),
    ],
)
def test_bad_line(refused, toy_data, tmp_path, split, text, message):
    """In any split, though training comes first."""
    text = text if isinstance(text, bytes) else text.encode()
    path = write(toy_data, split, 2 * ROW.encode() + text)
    error = refused(do_eval=True, do_predict=True)
    assert f"error: {path}{message}" in error and error.count(";") >= 1
    assert not (tmp_path / "out").exists()


def test_value_outside_names_both_remedies(refused, toy_data):
    write(toy_data, "train", "a\tb\t4.2\n")
    error = refused()
    assert "the value 4.2" in error
    assert "--value_range=LOW,HIGH" in error and "--use_sigmoid_act=false" in error


def test_bad_lines_are_skipped_when_asked(read, toy_data):
    path = write(toy_data, "dev", ROW + "a\tb\n" + ROW + "a\tb\tnan\n" + ROW + "a\n")
    seen = read(do_eval=True, on_bad_line="skip")
    assert f"WARNING {path}: 3 bad lines skipped; the first: {path}:2: expected" in seen["err"]
    assert plain(seen["data"]) == {"eval": [("a b", "c", 0.5)] * 3}


def test_nothing_but_bad_lines(refused, toy_data):
    path = write(toy_data, "train", "a\n")
    assert f"{path}: holds no usable line" in refused(on_bad_line="skip")


# Files.


@pytest.mark.parametrize("split", ["train", "dev", "test"])
@pytest.mark.parametrize("text", ["", "\n\n\r\n"], ids=["empty", "blank"])
def test_empty_file(refused, toy_data, tmp_path, split, text):
    path = write(toy_data, split, text)
    error = refused(do_eval=True, do_predict=True)
    assert f"{path}: " in error and "empty" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_missing_file(refused, toy_data, tmp_path, split):
    path = pathlib.Path(toy_data, f"{split}.tsv")
    path.unlink()
    error = refused(do_eval=True, do_predict=True)
    assert error == f"error: {path}: no such file; check --data_dir"
    assert not (tmp_path / "out").exists()


def test_missing_folder(refused, tmp_path):
    gone = tmp_path / "gone"
    assert refused(data_dir=gone) == f"error: --data_dir={gone}: no such folder; check the path"


def test_folder_in_place_of_a_file(refused, toy_data):
    path = pathlib.Path(toy_data, "train.tsv")
    path.unlink()
    path.mkdir()
    assert f"{path}: is a folder, expected a file" in refused()


@pytest.mark.parametrize(
    "flag, value, message",
    [
        ("eval_file", "gone.tsv", "gone.tsv: no such file; check --eval_file"),
        ("eval_file", "gone/*.tsv", "--eval_file=gone/*.tsv: no file matches"),
        ("predict_file", "gone.tsv", "gone.tsv: no such file; check --predict_file"),
    ],
)
def test_missing_file_to_score(refused, tmp_path, flag, value, message):
    """Before training, too."""
    assert message in refused(**{flag: value})
    assert not (tmp_path / "out").exists()


def test_missing_folder_of_the_predictions(refused, toy_data, tmp_path):
    target = tmp_path / "gone" / "values.tsv"
    error = refused(predict_file=f"{toy_data}/test.tsv", predict_output=target)
    assert (
        error
        == f"error: --predict_output={target}: cannot be written there; name a file in a folder"
    )
    assert not (tmp_path / "out").exists()


CLEAN = [(f"a b {n}", "d \x85\u2028c", n / 8) for n in range(6)]
LINES = [f"{a}\t{b}\t{value}" for a, b, value in CLEAN]


@pytest.mark.parametrize(
    "text",
    [
        codecs.BOM_UTF8 + "\n".join(LINES).encode() + b"\n",
        "\r\n".join(LINES).encode() + b"\r\n",
        "\n\n\r\n".join(["", *LINES, ""]).encode(),
        "\n".join(LINES).encode(),
        gzip.compress("\n".join(LINES).encode()),
    ],
    ids=["byte order mark", "CRLF", "blank lines", "no newline at the end", "gzip"],
)
def test_readable_dirt(read, toy_data, text):
    """Only \\n and \\r\\n end a line."""
    write(toy_data, "dev", text)
    assert plain(read(do_eval=True)["data"]) == {"eval": CLEAN}


def test_stray_carriage_return(read, toy_data):
    """Within a text it is a blank."""
    write(toy_data, "dev", "a\rb\tc\t1\n")
    assert plain(read(do_eval=True)["data"]) == {"eval": [("a\rb", "c", 1.0)]}


def test_gzip_by_its_own_name(read, toy_data):
    path = pathlib.Path(toy_data, "dev.tsv")
    path.unlink()
    pathlib.Path(toy_data, "dev.tsv.gz").write_bytes(gzip.compress("\n".join(LINES).encode()))
    assert plain(read(do_eval=True)["data"]) == {"eval": CLEAN}


def test_gzip_cut_short(refused, toy_data):
    packed = gzip.compress(os.urandom(9000).hex().encode())
    path = write(toy_data, "train", packed[:-2000])
    assert f"{path}: the gzip data is cut short" in refused()


def test_texts_that_are_empty_or_unknown_are_counted(sim, toy_data):
    path = write(toy_data, "dev", 9 * "a b c\tc d a\t1\n" + "\t\t0.5\nxyz\tzyx\t0\n\t \t1\n")
    err = sim(do_eval=True)
    assert f"WARNING {path}: 3 examples have no text that the vocabulary knows" in err


# The model.


def test_vocabulary_that_is_too_large(refused, toy_model, tmp_path):
    path = tmp_path / "vocab.txt"
    words = pathlib.Path(toy_model, "vocab.txt").read_text()
    path.write_text(words + "more\nand more\n")
    error = refused(vocab_file=path)
    assert f"{path}: holds 15 tokens, the model's config has vocab_size 13" in error
    assert not (tmp_path / "out").exists()


def write_checkpoint(path, **weights):
    checkpoints.write_variables(
        str(path), {name: np.asarray(value, np.float32) for name, value in weights.items()}
    )
    return path


def test_checkpoint_without_an_encoder(refused, tmp_path):
    path = write_checkpoint(tmp_path / "model.ckpt", output_weights=np.ones((1, 16)))
    error = refused(init_checkpoint=path)
    assert f"{path}: holds no weights of a BERT encoder" in error and "bert/..." in error
    assert not (tmp_path / "out").exists()


def test_checkpoint_with_another_head(sim, refused, toy_config, tmp_path):
    weights = encoder.initial_weights(toy_config, seed=1)
    weights |= {"output_weights": np.ones((3, 16)), "output_bias": np.ones(3)}
    weights["cls/predictions/output_bias"] = np.ones(13)
    path = write_checkpoint(tmp_path / "model.ckpt", **weights)
    reason = f"{path}: its output_weights has shape [3, 16], this task's has [1, 16]; "
    error = refused(init_checkpoint=path, do_train=False, do_eval=True)
    assert f"{reason}give the checkpoint of the encoder" in error
    assert not (tmp_path / "out").exists()
    err = sim(init_checkpoint=path, do_train=True)
    assert f"WARNING {reason}training starts with a new head" in err
    assert (
        f"WARNING {path}: has another task's head, which is left out (1 weights, the first" in err
    )


@pytest.mark.parametrize(
    "kind, task", [("TokenClassification", "tag"), ("MultipleChoice", "choose")]
)
def test_a_head_of_another_kind_with_the_same_shape(
    sim, refused, toy_model, tmp_path, monkeypatch, kind, task
):
    """As transformers writes them."""
    model = hub.load(str(toy_model))
    weights = {**model.weights, "output_weights": np.ones((1, 16)), "output_bias": np.ones(1)}
    folder = tmp_path / "model"
    huggingface.write(str(folder), model._replace(weights=weights, meta={}))
    config = json.loads((folder / "config.json").read_text())
    files.write_json(str(folder / "config.json"), {**config, "architectures": [f"BertFor{kind}"]})
    reason = f"{folder}: its output_weights was trained for another kind of task ({task}, this"
    assert reason in refused(bert=folder, do_train=False, do_eval=True)
    monkeypatch.setattr(phases.Session, "run", lambda self: None)
    err = sim(bert=folder, do_train=True)
    assert f"WARNING {reason} command's is regress); training starts with a new head" in err


def test_missing_checkpoint(refused, tmp_path):
    path = tmp_path / "model.ckpt"
    assert f"{path}: no such checkpoint" in refused(init_checkpoint=path)


def test_more_tokens_than_positions(refused, tmp_path):
    error = refused(max_seq_length=33)
    assert "--max_seq_length=33: the model has 32 positions; give at most 32" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name, flag", [("uncased", False), ("cased", True)])
def test_casing_against_the_name_of_the_checkpoint(refused, toy_model, tmp_path, name, flag):
    """As the original refuses it."""
    folder = tmp_path / f"{name}_L-2_H-16_A-2"
    shutil.copytree(toy_model, folder)
    error = refused(
        bert=None,
        bert_config_file=folder / "bert_config.json",
        vocab_file=folder / "vocab.txt",
        init_checkpoint=folder / "bert_model.ckpt",
        do_lower_case=flag,
    )
    assert f"--do_lower_case={str(flag).lower()}" in error and f"{name}_L-2_H-16_A-2" in error
    assert not (tmp_path / "out").exists()


# Flags.


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"train_batch_size": 0}, "--train_batch_size=0"),
        ({"train_batch_size": 25}, "--train_batch_size=25: there are only 24 training examples"),
        ({"eval_batch_size": 0}, "--eval_batch_size=0"),
        ({"warmup_proportion": 1.01}, "--warmup_proportion=1.01"),
        ({"warmup_proportion": -0.1}, "--warmup_proportion=-0.1"),
        ({"do_train": False}, "no phase is asked for; pass --do_train=true"),
        ({"value_range": "5,0"}, "--value_range=5,0: expected LOW,HIGH, such as 0,5"),
        ({"value_range": "5"}, "--value_range=5: expected LOW,HIGH"),
        ({"value_range": "0,inf"}, "--value_range=0,inf: expected LOW,HIGH"),
        ({"value_range": "0,0.5"}, "lies outside --value_range=0,0.5"),
        ({"loss": "logistic", "use_sigmoid_act": False}, "--loss=logistic needs the sigmoid"),
        ({"early_stopping_patience": 2}, "--early_stopping_patience=2: needs --best_metric"),
        ({"best_metric": "accuracy"}, "--best_metric=accuracy: no such metric; this task's are"),
        (
            {"gradient_accumulation_steps": 4},
            "--train_batch_size=6: 1 devices and --gradient_accumulation_steps=4",
        ),
        ({"dev_fraction": 0.95}, "--dev_fraction=0.95"),
        ({"task_name": "csv"}, "--text_column is missing; --task_name=csv needs it"),
        ({"task_name": "csv", "text_column": 0}, "--value_column is missing"),
        (
            {"text_column": 1},
            "--text_column=1: the columns of --task_name=sim are fixed; leave it out, or give "
            "--task_name=csv",
        ),
        (
            {"task_name": "csv", "text_pair_column": 1},
            "--text_column is missing; give it beside the other columns",
        ),
        ({"task_module": "gone.py"}, "gone.py: no such file; check --task_module"),
        (
            {"eval_file": "{data}/dev.tsv", "predict_file": "{data}/test.tsv"},
            "--eval_file and --predict_file both write to stdout; give --predict_output=FILE",
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_flags(refused, toy_data, tmp_path, flags, message):
    flags = {
        name: value.format(data=toy_data) if isinstance(value, str) else value
        for name, value in flags.items()
    }
    assert message in refused(**flags)
    assert not checkpoints.latest(str(tmp_path / "out"))


def test_missing_flagfile(refused, tmp_path):
    path = tmp_path / "gone.flags"
    error = refused("--flagfile", str(path))
    assert error == f"error: --flagfile={path}: cannot be read (No such file or directory); " + (
        "check the path"
    )


# The output folder.


def test_output_dir_of_another_model(sim, refused, toy_model, toy_config, tmp_path):
    sim(do_train=True, max_train_steps=1)
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    model = hub.load(toy_model)
    config = dataclasses.replace(toy_config, num_hidden_layers=1)
    weights = encoder.initial_weights(config, seed=1)
    google.write(str(tmp_path / "small"), model._replace(config=config, weights=weights))
    for flags, message in (
        ({"bert": tmp_path / "small"}, "holds checkpoints of a model of another size"),
        ({"do_lower_case": False}, "was trained with another vocabulary or casing"),
        ({"use_sigmoid_act": False}, "its model has use_sigmoid_act true"),
        ({"value_range": "0,2"}, "its model has value_range null (bert_tools.json), the flags"),
        ({"loss": "logistic"}, 'its model has loss "mse" (bert_tools.json), the flags ask for'),
    ):
        error = refused(**flags)
        assert f"--output_dir={tmp_path / 'out'}: " in error and message in error
        assert "choose an empty folder" in error
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


def test_two_processes_in_one_output_dir(refused, sim, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with open(out / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        error = refused()
        assert f"--output_dir={out}: another process is writing there; wait for it" in error
        assert [p.name for p in out.iterdir()] == [".lock"]
    sim(do_train=True, max_train_steps=1)


@pytest.mark.parametrize("way", ["below a file", "in /proc", "without permission"])
def test_output_dir_that_cannot_be_written(refused, tmp_path, way):
    folder = {
        "below a file": tmp_path / "file" / "out",
        "in /proc": pathlib.Path("/proc/out"),
        "without permission": tmp_path / "closed" / "out",
    }[way]
    (tmp_path / "file").write_text("")
    (tmp_path / "closed").mkdir(mode=0o555)
    if way == "without permission" and os.access(tmp_path / "closed", os.W_OK):
        pytest.skip("root may write everywhere")
    if way == "in /proc" and not folder.parent.is_dir():
        pytest.skip("there is no /proc")
    error = refused(output_dir=folder)
    assert f"--output_dir={folder}: cannot be written (" in error
    assert "choose another folder" in error


# A full disk.


def assert_nothing_half_written(folder):
    """What is there is whole: no checkpoint without its parts, no file under a temporary name."""
    names = {p.name for p in folder.iterdir() if "tfevents" not in p.name}
    whole = {"bert_config.json", "vocab.txt", "bert_tools.json", "baseline.json", ".lock"}
    assert names <= whole | {"train.tf_record", "train.tf_record.json"}
    assert checkpoints.latest(str(folder)) is None


@pytest.mark.parametrize("size, what", [(1024, "train.tf_record"), (1 << 16, "model.ckpt-4")])
def test_disk_full(refused, sim, tmp_path, size, what):
    """Files may not grow beyond a size; then they may, and the run goes on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        error = refused(num_train_epochs=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"{tmp_path / 'out' / what}: " in error and "cannot be written (" in error
    assert "too large); free space" in error and "{{" not in error and "[Op:" not in error
    assert "free space" in error
    assert_nothing_half_written(tmp_path / "out")
    sim(do_train=True, num_train_epochs=1)
    assert newest(tmp_path / "out")["global_step"] == 4


@contextlib.contextmanager
def small_disk(folder, size):
    """A file system of so many bytes."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a tmpfs cannot be mounted here: {error}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_disk_full_for_real(refused, tmp_path):
    with small_disk(tmp_path / "disk", 100 << 10) as disk:
        error = refused(num_train_epochs=1, output_dir=disk / "out")
        assert f"{disk}/out/model.ckpt-4: the checkpoint cannot be written" in error
        assert_nothing_half_written(disk / "out")


# In a process of its own.


def test_closed_stdout(trained):
    """As a shell closes it."""
    folder, data = trained
    scoring = command_line(bert=folder, predict_file=f"{data}/test.tsv")
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *scoring],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "error: output: Bad file descriptor; see to it and run again\n"


def test_bad_line_in_a_process_of_its_own(toy_model, toy_data, tmp_path):
    """Exit status and streams as a shell sees them."""
    path = write(toy_data, "train", "a\tb\n")
    flags = toy_flags(toy_model, toy_data, tmp_path / "out")
    with process(do_train=True, **flags) as running:
        out, err = running.communicate()
    assert (running.returncode, out) == (1, "")
    assert err.startswith(f"error: {path}:1: ") and err.count("\n") == 1
