"""run_reg from its command line to its files."""

import glob
import itertools
import json
import os
import pathlib
import signal
import time

import numpy as np
import pytest
import tensorflow as tf
from cli_toys import (
    as_arguments,
    assert_equal,
    newest,
    process,
    records,
    results_of,
    toy_flags,
    values_of,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bert_tools import checkpoints, hub
from bert_tools.cli import phases, run_reg

PHASES = ("do_train", "do_eval", "do_predict")
COMBINATIONS = [c for n in (1, 2, 3) for c in itertools.combinations(PHASES, n)]
RECORDS = {"do_train": "train", "do_eval": "eval", "do_predict": "predict"}


# Phases and files.


@pytest.mark.parametrize("chosen", COMBINATIONS, ids="+".join)
def test_phases(sim, tmp_path, chosen):
    sim(**dict.fromkeys(chosen, True), num_train_epochs=1)
    expected = {f"{RECORDS[p]}.tf_record{suffix}" for p in chosen for suffix in ("", ".json")}
    if "do_train" in chosen:
        expected |= {"bert_config.json", "vocab.txt", "bert_tools.json", "checkpoint"}
        expected |= {"baseline.json"}
        expected |= {f"model.ckpt-4.{s}" for s in ("index", "data-00000-of-00001", "json")}
    if "do_eval" in chosen:
        expected |= {"eval_results.txt", "eval_results.json"}
    if "do_predict" in chosen:
        expected |= {"test_results.tsv"}
    written = {p.name for p in (tmp_path / "out").iterdir() if "tfevents" not in p.name}
    assert written == expected | {".lock"}
    if "do_eval" in chosen:
        step = results_of(tmp_path / "out" / "eval_results.txt")["global_step"]
        assert step == ("4" if "do_train" in chosen else "0")


def test_eval_results(trained):
    folder, _ = trained
    lines = (folder / "eval_results.txt").read_text().splitlines()
    names = [f"baseline_{name}" for name in ("mae", "mse", "pearson", "spearman")]
    names += ["eval_loss", "global_step", "loss", "mae", "pearson", "spearman"]
    assert [line.split(" = ")[0] for line in lines] == names
    found = {name: float(value) for name, value in results_of(folder / "eval_results.txt").items()}
    assert json.loads((folder / "eval_results.json").read_text()) == found
    assert found["global_step"] == 12 and "global_step = 12" in lines


def test_eval_results_are_those_of_the_predictions(trained, run, tmp_path):
    """dev.tsv as a test file: its predictions against its values."""
    folder, data = trained
    (tmp_path / "test.tsv").write_bytes((data / "dev.tsv").read_bytes())
    status, _, err = run(
        task_name="sim",
        do_predict=True,
        data_dir=tmp_path,
        output_dir=tmp_path / "out",
        max_seq_length=16,
        bert=folder,
    )
    assert status == 0, err
    output = np.array(values_of(tmp_path / "out" / "test_results.tsv"))
    rows = [line.split("\t") for line in (data / "dev.tsv").read_text().splitlines()]
    losses = np.square(output - [float(row[2]) for row in rows])
    found = {name: float(value) for name, value in results_of(folder / "eval_results.txt").items()}
    assert found["eval_loss"] == pytest.approx(losses.mean(), rel=1e-4)
    means = [losses[:4].mean(), losses[4:].mean()]
    assert found["loss"] == pytest.approx(np.mean(means), rel=1e-4)
    assert found["loss"] != pytest.approx(found["eval_loss"], rel=1e-4)


def test_test_results(trained):
    """A line for each line of test.tsv, which has no third column here."""
    folder, data = trained
    assert (data / "test.tsv").read_text().count("\t") == 5
    text = (folder / "test_results.tsv").read_text()
    assert text.endswith("\n") and "\t" not in text
    values = values_of(folder / "test_results.tsv")
    assert len(values) == 5 and len(set(values)) > 1 and all(0 < v < 1 for v in values)


def test_description(trained, toy_model, toy_config):
    folder, _ = trained
    model = hub.load(str(folder))
    assert model.config == toy_config
    assert model.source == str(folder / "model.ckpt-12")
    assert (folder / "vocab.txt").read_bytes() == pathlib.Path(toy_model, "vocab.txt").read_bytes()
    meta = json.loads((folder / "bert_tools.json").read_text())
    expected = {
        "family": "bert",
        "task": "regress",
        "task_name": "sim",
        "value_range": None,
        "use_sigmoid_act": True,
        "loss": "mse",
        "pairs": True,
        "max_seq_length": 16,
        "do_lower_case": True,
    }
    assert {name: meta[name] for name in expected} == expected


def test_later_phases_from_the_folder_alone(trained, run, tmp_path):
    """And with the same results: moved elsewhere, without the model it was trained from."""
    folder, data = trained
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in folder.iterdir():
        if "results" not in path.name and "tf_record" not in path.name:
            (moved / path.name).write_bytes(path.read_bytes())
    flags = {"task_name": "sim", "data_dir": data, "output_dir": moved, "max_seq_length": 16}
    status, _, err = run(**flags, do_eval=True, do_predict=True, eval_batch_size=4)
    assert status == 0, err
    for name in ("eval_results.txt", "eval_results.json", "test_results.tsv"):
        assert (moved / name).read_text() == (folder / name).read_text()


def test_checkpoint_as_init_checkpoint(trained, run, toy_model, tmp_path):
    """As pipelines have it: with the original's three flags, $OUT/model.ckpt-12."""
    folder, data = trained
    flags = {"task_name": "sim", "data_dir": data, "output_dir": tmp_path, "max_seq_length": 16}
    flags["bert_config_file"] = f"{toy_model}/bert_config.json"
    flags["vocab_file"] = f"{toy_model}/vocab.txt"
    status, _, err = run(**flags, init_checkpoint=folder / "model.ckpt-12", do_predict=True)
    assert status == 0, err
    assert (tmp_path / "test_results.tsv").read_text() == (folder / "test_results.tsv").read_text()


def test_records(trained, toy_model):
    folder, data = trained
    tokenizer = hub.load(toy_model).tokenizer
    for split, name in (("train", "train"), ("dev", "eval"), ("test", "predict")):
        rows = [line.split("\t") for line in (data / f"{split}.tsv").read_text().splitlines()]
        found = records(folder / f"{name}.tf_record")
        assert len(found) == len(rows)
        for row, features in zip(rows, found, strict=True):
            a, b = (tokenizer.convert_tokens_to_ids(tokenizer.tokenize(t)) for t in row[:2])
            ids = [tokenizer.cls_id, *a, tokenizer.sep_id, *b, tokenizer.sep_id]
            segments = [0] * (len(a) + 2) + [1] * (len(b) + 1)
            value = float(row[2]) if split != "test" else -1.0
            assert features == {
                "input_ids": ids,
                "input_mask": [1] * len(ids),
                "segment_ids": segments,
                "vals": [value],
            }
        assert json.loads((folder / f"{name}.tf_record.json").read_text())["examples"] == len(rows)


def test_pad_records(sim, tmp_path, no_dropout):
    """Padded to max_seq_length, and read back to the same weights."""
    for name in ("unpadded", "padded"):
        sim(
            do_train=True,
            num_train_epochs=1,
            pad_records=name == "padded",
            output_dir=tmp_path / name,
        )
    for row, other in zip(
        records(tmp_path / "padded" / "train.tf_record"),
        records(tmp_path / "unpadded" / "train.tf_record"),
        strict=True,
    ):
        for name in ("input_ids", "input_mask", "segment_ids"):
            assert row[name] == other[name] + [0] * (16 - len(other[name]))
        assert row["vals"] == other["vals"]
    assert_equal(newest(tmp_path / "padded"), newest(tmp_path / "unpadded"))


def test_records_are_used_again_or_made_anew(trained, run, tmp_path):
    folder, _ = trained
    flags = {"task_name": "sim", "do_predict": True, "data_dir": tmp_path, "bert": folder}
    flags["output_dir"] = tmp_path / "out"
    record = tmp_path / "out" / "predict.tf_record"
    stamps = []
    for text, length in (("a\tb\n", 16), ("a\tb\n", 16), ("a\tb\n", 12), ("a\tb c\n", 12)):
        (tmp_path / "test.tsv").write_text(text)
        assert run(**flags, max_seq_length=length)[0] == 0
        stamps.append(record.stat().st_mtime_ns)
    assert stamps[0] == stamps[1] and len(set(stamps[1:])) == 3
    assert len(records(record)[0]["input_ids"]) == 6


# Flags.


def test_every_flag_of_the_original(sim, toy_model, tmp_path):
    sim(
        bert=None,
        bert_config_file=f"{toy_model}/bert_config.json",
        vocab_file=f"{toy_model}/vocab.txt",
        init_checkpoint=f"{toy_model}/bert_model.ckpt",
        do_lower_case=True,
        do_train=True,
        do_eval=True,
        do_predict=True,
        eval_batch_size=3,
        predict_batch_size=2,
        num_train_epochs=1.0,
        warmup_proportion=0.1,
        save_checkpoints_steps=1000,
        iterations_per_loop=1000,
        use_tpu=False,
        tpu_name="none",
        tpu_zone="us-central1-b",
        gcp_project="project",
        master="grpc://none",
        num_tpu_cores=8,
        use_sigmoid_act=True,
    )
    sim(do_train=True, num_train_epochs=1, output_dir=tmp_path / "bert")
    assert_equal(newest(tmp_path / "out"), newest(tmp_path / "bert"))


def test_defaults_are_the_originals():
    command = run_reg.flags()
    command.parse([])
    expected = {
        "data_dir": None,
        "bert_config_file": None,
        "task_name": None,
        "vocab_file": None,
        "output_dir": None,
        "init_checkpoint": None,
        "do_lower_case": True,
        "max_seq_length": 128,
        "do_train": False,
        "do_eval": False,
        "do_predict": False,
        "train_batch_size": 32,
        "eval_batch_size": 8,
        "predict_batch_size": 8,
        "learning_rate": 5e-5,
        "num_train_epochs": 3.0,
        "warmup_proportion": 0.1,
        "save_checkpoints_steps": 1000,
        "iterations_per_loop": 1000,
        "use_tpu": False,
        "tpu_name": None,
        "tpu_zone": None,
        "gcp_project": None,
        "master": None,
        "num_tpu_cores": 8,
        "use_sigmoid_act": True,
    }
    assert {name: getattr(command, name) for name in expected} == expected


def test_words_apart_as_in_old_pipelines(sim, tmp_path):
    """And what is not said to be trained is not."""
    sim("--do_eval", "True", "--task_name", "SIM", "--use_tpu=False", task_name=None)
    assert (tmp_path / "out" / "eval_results.txt").exists()
    assert checkpoints.latest(str(tmp_path / "out")) is None


def test_flagfile(run, toy_model, toy_data, tmp_path):
    path = tmp_path / "sim.flags"
    flags = toy_flags(toy_model, toy_data, tmp_path / "out")
    path.write_text("\n".join(["# From a file.", *as_arguments(flags), "--do_eval=true"]) + "\n")
    status, _, err = run(f"--flagfile={path}", output_dir=tmp_path / "other")
    assert status == 0, err
    assert (tmp_path / "other" / "eval_results.txt").exists()
    assert not (tmp_path / "out").exists()


def test_fractional_epochs_and_schedule(sim, tmp_path):
    """24 examples in steps of 7 over 2.6 epochs: int(8.91) steps, int(8 * 0.4) of warm-up."""
    sim(
        do_train=True,
        train_batch_size=7,
        num_train_epochs=2.6,
        warmup_proportion=0.4,
        learning_rate=0.5e-3,
        save_summary_steps=1,
    )
    assert newest(tmp_path / "out")["global_step"] == 8
    found = EventAccumulator(str(tmp_path / "out")).Reload()
    rates = [float(tf.make_ndarray(event.tensor_proto)) for event in found.Tensors("learning_rate")]
    expected = [t / 3 if t < 3 else 1 - t / 8 for t in range(8)]
    np.testing.assert_allclose(rates, 0.5e-3 * np.array(expected), rtol=1e-5)
    assert {"loss", "examples_per_second"} <= set(found.Tags()["tensors"])


def test_values_beyond_the_sigmoid(sim, toy_data, tmp_path):
    folder = pathlib.Path(toy_data)
    for split in ("train", "dev"):
        rows = [line.split("\t") for line in (folder / f"{split}.tsv").read_text().splitlines()]
        lines = [f"{a}\t{b}\t{5 + 10 * float(value)}\n" for a, b, value in rows]
        (folder / f"{split}.tsv").write_text("".join(lines))
    err = sim(
        **dict.fromkeys(PHASES, True),
        use_sigmoid_act=False,
        learning_rate=0.05,
        num_train_epochs=15,
    )
    assert "pearson" in err
    values = values_of(tmp_path / "out" / "test_results.tsv")
    assert np.mean(values) > 3
    meta = json.loads((tmp_path / "out" / "bert_tools.json").read_text())
    assert meta["value_range"] is None


def test_compute_flags_reach_the_estimator(run, toy_model, toy_data, tmp_path, monkeypatch):
    class Seen(Exception):
        pass

    def stop(model_fn, config, params):
        raise Seen(config, params)

    monkeypatch.setattr(phases, "Estimator", stop)
    flags = toy_flags(toy_model, toy_data, tmp_path / "out")
    expected = {
        "precision": "bfloat16",
        "batching": "bucket",
        "seed": 99,
        "xla": True,
        "save_checkpoints_steps": 11,
        "save_summary_steps": 12,
    }
    with pytest.raises(Seen) as seen:
        run(**flags, **expected, strategy="one_device", do_train=True)
    config, params = seen.value.args
    assert {name: getattr(config, name) for name in expected} == expected
    assert isinstance(config.strategy, tf.distribute.OneDeviceStrategy)
    assert params == {"batch_size": 6}


@pytest.mark.parametrize(
    "flags, tolerance",
    [
        ({"batching": "bucket"}, 1e-5),
        ({"batching": "pad"}, 1e-5),
        ({"xla": True}, 1e-5),
        ({"seed": 4}, 0),
        ({"predict_batch_size": 3}, 0),
        ({"precision": "bfloat16"}, 0.02),
    ],
    ids=str,
)
def test_predictions_are_the_same_whatever_the_way(trained, run, tmp_path, flags, tolerance):
    folder, data = trained
    flags = {**flags, "task_name": "sim", "do_predict": True, "data_dir": data}
    status, _, err = run(**flags, bert=folder, output_dir=tmp_path, max_seq_length=16)
    assert status == 0, err
    expected = values_of(folder / "test_results.tsv")
    assert np.ptp(expected) > 1e-3
    found = values_of(tmp_path / "test_results.tsv")
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_unknown_tokens_warn(sim, toy_data):
    path = pathlib.Path(toy_data, "test.tsv")
    path.write_text("a b c d\ta b c d\n" * 9 + "one two\tthree\n")
    assert "are [UNK]" not in sim(do_predict=True)
    path.write_text("a b c d\tfour\n" * 9)
    err = sim(do_predict=True)
    assert f"WARNING {path}: 12 % of the tokens are [UNK]" in err


# Stopping and going on.


def test_same_command_twice(sim, tmp_path):
    for name in ("one", "two"):
        sim(do_train=True, output_dir=tmp_path / name)
    assert_equal(newest(tmp_path / "one"), newest(tmp_path / "two"))
    begun = newest(tmp_path / "one")["output_weights"]
    sim(do_train=True, output_dir=tmp_path / "other", seed=1)
    assert np.any(newest(tmp_path / "other")["output_weights"] != begun)


def test_finished_run_does_nothing_and_says_so(sim, tmp_path):
    sim(do_train=True, num_train_epochs=1)
    before = newest(tmp_path / "out")
    files = {p: os.stat(p).st_mtime_ns for p in glob.glob(f"{tmp_path}/out/model.ckpt-*")}
    events = len(glob.glob(f"{tmp_path}/out/*tfevents*"))
    err = sim(do_train=True, num_train_epochs=1)
    assert "global step 4: training is finished, nothing to do" in err
    assert {p: os.stat(p).st_mtime_ns for p in glob.glob(f"{tmp_path}/out/model.ckpt-*")} == files
    assert len(glob.glob(f"{tmp_path}/out/*tfevents*")) == events
    assert_equal(newest(tmp_path / "out"), before)


LONG_RUN = {"do_train": True, "num_train_epochs": 50}


@pytest.fixture(scope="module")
def unbroken(toy_model, trained, tmp_path_factory):
    """Weights of LONG_RUN without a break."""
    folder = tmp_path_factory.mktemp("unbroken")
    flags = {**toy_flags(toy_model, trained[1], folder), **LONG_RUN}
    assert run_reg.main(as_arguments(flags)) == 0
    return newest(folder)


@pytest.mark.parametrize(
    "number, status",
    [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)],
    ids=lambda value: getattr(value, "name", None),
)
def test_stopped_run_goes_on_to_the_same_weights(
    sim, trained, unbroken, toy_model, tmp_path, number, status
):
    """Stopped at whatever it was doing, asked to or without warning; dropout is on."""
    flags = {**toy_flags(toy_model, trained[1], tmp_path / "out"), **LONG_RUN}
    flags["save_checkpoints_steps"] = 10
    with process(**flags) as running:
        deadline = time.monotonic() + 100
        while not (tmp_path / "out" / "checkpoint").exists() and time.monotonic() < deadline:
            assert running.poll() is None
            time.sleep(0.005)
        running.send_signal(number)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (status, ""), err
    stopped = int(newest(tmp_path / "out")["global_step"])
    assert 10 <= stopped < 200 and "Traceback" not in err
    if number != signal.SIGKILL:
        # A checkpoint of the step that was reached.
        assert f"{number.name}: stopping after step {stopped}" in err
    err = sim(**flags)
    assert f"going on from global step {stopped} of 200" in err
    assert_equal(newest(tmp_path / "out"), unbroken)
    kept = {p.name for p in (tmp_path / "out").glob("model.ckpt-*.index")}
    assert {f"model.ckpt-{step}.index" for step in (170, 180, 190, 200)} <= kept and len(kept) == 5


# Errors.


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"no_such_flag": 1}, "Unknown command line flag 'no_such_flag'"),
        ({"train_batch_size": "many"}, "--train_batch_size=many"),
        ({"train_batch_size": 0}, "--train_batch_size=0"),
        ({"eval_batch_size": 0}, "--eval_batch_size=0"),
        ({"save_checkpoints_steps": 0}, "--save_checkpoints_steps=0"),
        ({"save_summary_steps": 0}, "--save_summary_steps=0"),
        ({"learning_rate": -1}, "--learning_rate=-1"),
        ({"warmup_proportion": 1.5}, "--warmup_proportion=1.5"),
        ({"seed": -1}, "--seed=-1"),
        ({"precision": "float8"}, "--precision=float8"),
        ({"batching": "heap"}, "--batching=heap"),
        ({"task_name": None}, "--task_name is missing"),
        ({"data_dir": None}, "--data_dir is missing"),
        ({"output_dir": None}, "--output_dir is missing"),
        ({"bert": None}, "--bert is missing; give a model folder or minilm"),
        ({"bert": None, "bert_config_file": "c.json"}, "--vocab_file not given"),
        ({"task_name": "mrpc"}, "--task_name=mrpc: no such task; tasks: sim, sts-b, csv"),
        ({"do_train": None}, "no phase is asked for; pass --do_train=true"),
        ({"data_dir": "no/such"}, "--data_dir=no/such: no such folder; check the path"),
        ({"bert": "no/such"}, "no/such: no such model folder"),
        ({"max_seq_length": 33}, "--max_seq_length=33: the model has 32 positions"),
        ({"max_seq_length": 2}, "--max_seq_length=2: expected at least 3"),
        ({"train_batch_size": 100}, "--train_batch_size=100: there are only 24 training"),
        ({"num_train_epochs": 0.1}, "--num_train_epochs=0.1: 24 examples make no whole step"),
        ({"num_train_epochs": -1}, "--num_train_epochs=-1"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_flags(refused, tmp_path, flags, message):
    assert message in refused(**flags)
    assert not checkpoints.latest(str(tmp_path / "out"))


def test_false_as_a_word_of_its_own(refused):
    assert "--do_eval False" in refused("--do_eval", "False")


@pytest.mark.parametrize(
    "split, text, message",
    [
        ("train", "a\tb\t1\na\tb\n", "train.tsv:2: expected at least 3 tab-separated columns"),
        ("train", "a\tb\thigh\n", "train.tsv:1: expected a number, found 'high'"),
        ("dev", "a\tb\t0\na\tb\t4.2\n", "dev.tsv:2: the value 4.2 lies outside 0..1"),
        ("train", "a\tb\t-0.5\n", "--use_sigmoid_act=false"),
        ("test", "a\n", "test.tsv:1: expected at least 2 tab-separated columns"),
    ],
)
def test_wrong_data(refused, toy_data, tmp_path, split, text, message):
    """Every file is looked at before any work is done."""
    path = pathlib.Path(toy_data, f"{split}.tsv")
    path.write_text(text)
    error = refused(do_eval=True, do_predict=True)
    assert message in error and str(path.parent) in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("split, phase", [("dev", "do_eval"), ("test", "do_predict")])
def test_missing_file_of_a_later_phase(refused, toy_data, tmp_path, split, phase):
    os.unlink(f"{toy_data}/{split}.tsv")
    assert f"{split}.tsv: no such file" in refused(**{phase: True})
    assert not (tmp_path / "out").exists()


def test_files_of_phases_not_asked_for_may_be_missing(sim, toy_data):
    os.unlink(f"{toy_data}/train.tsv")
    os.unlink(f"{toy_data}/test.tsv")
    sim(do_eval=True)


def test_folder_that_is_no_model(refused, toy_data):
    error = refused(bert=toy_data)
    assert error.startswith(f"error: {toy_data}: no model found")


def test_output_dir_that_is_a_file(refused, tmp_path):
    (tmp_path / "out").write_text("")
    assert "out: cannot be written (File exists)" in refused()


def test_loss_that_is_not_finite(refused, tmp_path):
    flags = {"learning_rate": 1e30, "warmup_proportion": 0, "save_checkpoints_steps": 1}
    error = refused(**flags)
    assert "the loss is nan at step 2; lower --learning_rate" in error
    assert checkpoints.latest(str(tmp_path / "out")).endswith("model.ckpt-1")


def test_head_of_another_kind_is_refused(sim, refused, tmp_path):
    sim("--do_train")
    err = refused(do_predict="true", use_sigmoid_act="false", output_dir=tmp_path / "out")
    assert "has use_sigmoid_act true" in err and "ask for false" in err


def test_untrained_head_warns(sim):
    assert "untrained head" in sim("--do_predict")


# A real score.


def test_real_weights_learn_real_data(run, minilm, shared, tmp_path):
    """800 pairs of STS-B, once."""
    status, _, err = run(
        task_name="sim",
        do_train=True,
        do_eval=True,
        data_dir=shared / "data" / "stsb" / "en",
        bert=minilm,
        output_dir=tmp_path / "out",
        max_seq_length=64,
        train_batch_size=16,
        num_train_epochs=1,
        max_train_examples=800,
        max_eval_examples=300,
    )
    assert status == 0, err
    results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert results["global_step"] == 50
    assert results["pearson"] > 0.75
