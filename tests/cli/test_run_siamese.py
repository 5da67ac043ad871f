"""run_siamese from its command line to its files, and what other commands make of them."""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from cli_toys import (
    ENVIRONMENT,
    as_arguments,
    assert_equal,
    newest,
    results_of,
    toy_flags,
    values_of,
)

from bert_tools import encoder, hub
from bert_tools.cli import (
    app,
    convert_checkpoint,
    extract_cls,
    run_classifier,
    run_reg,
    run_siamese,
)
from bert_tools.sentence.encoder import Encoder
from bert_tools.sentence.similarity import similarity

GROUPS = ["a b", "c d", ". ,"]


def rows_of(kind, rows, seed):
    """Rows of texts that belong together when they are made of one group's words."""
    rng = np.random.default_rng(seed)

    def text(group):
        return " ".join(rng.choice(GROUPS[group].split(), rng.integers(2, 6)))

    found = []
    for _ in range(rows):
        first, second = rng.choice(len(GROUPS), 2, replace=False)
        same = bool(rng.integers(2))
        if kind == "triplets":
            found.append([text(first), text(first), text(second)])
        elif kind == "pairs":
            found.append([text(first), text(first)])
        elif kind == "texts":
            found.append([text(first)])
        else:
            values = {"sim": ("1", "0"), "nli": ("entailment", "contradiction")}[kind]
            other = first if same else second
            found.append([text(first), text(other), values[0] if same else values[1]])
    return found


def write(folder, kind, splits=(("train", 24), ("dev", 6), ("test", 5))):
    folder.mkdir(exist_ok=True)
    for seed, (split, rows) in enumerate(splits):
        rows = rows_of(kind, rows, seed)
        if kind == "triplets":
            name = {"dev": "validation"}.get(split, split)
            head = "Sentence1,Sentence2,Sentence3\n"
            lines = [",".join(f'"{text}"' for text in row) for row in rows]
            (folder / f"{name}.csv").write_text(head + "\n".join(lines) + "\n")
        else:
            name = f"{split}.txt" if kind == "texts" else f"{split}.tsv"
            (folder / name).write_text("".join("\t".join(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def run(capsys, monkeypatch):
    """function(**flags) -> (exit status, stdout, stderr)."""

    def run(command=run_siamese, **flags):
        monkeypatch.setattr(app.log, "handlers", [])
        capsys.readouterr()
        return (command.main(as_arguments(flags)), *capsys.readouterr())

    return run


@pytest.fixture
def flags(wide_model, tmp_path):
    """function(kind, **flags) -> those of a run over toy files of that kind."""

    def flags(kind, **more):
        given = toy_flags(wide_model, write(tmp_path / kind, kind), tmp_path / "out")
        return {**given, "task_name": kind, **more}

    return flags


def error_of(result):
    status, out, err = result
    assert (status, out) == (1, ""), err
    (error,) = (line for line in err.splitlines() if not line.startswith(("INFO", "WARNING")))
    assert error.startswith("error: ")
    return error


def results(folder):
    return json.loads((folder / "eval_results.json").read_text())


def test_all_phases(run, flags, tmp_path, monkeypatch):
    given = flags("sim", do_train=True, do_eval=True, do_predict=True)
    given |= {"num_train_epochs": 25, "learning_rate": 3e-3}
    out = tmp_path / "out"
    status, printed, err = run(**given)
    assert (status, printed) == (0, ""), err
    found = results(out)
    assert found["pearson"] > 0.6 and found["eval_loss"] < 0.2
    assert results_of(out / "eval_results.txt").keys() == found.keys()
    meta = json.loads((out / "bert_tools.json").read_text())
    assert meta["task"] == "siamese" and meta["pooling"] == "mean"

    # The folder goes straight into the commands of vectors, and gives what was predicted.
    encoded = Encoder.load(str(out))
    rows = [row.split("\t") for row in (tmp_path / "sim" / "test.tsv").read_text().splitlines()]
    cosines = similarity(
        encoded.encode(row[0] for row in rows), encoded.encode(row[1] for row in rows), "cosine"
    )
    np.testing.assert_allclose(values_of(out / "test_results.tsv"), cosines, atol=2e-6)
    source, target = tmp_path / "lines.txt", tmp_path / "vectors.npy"
    source.write_text("".join(f"{row[0]}\n" for row in rows))
    made = {"bert": out, "pooling": "auto", "max_seq_length": 16}
    status, _, err = run(extract_cls, **made, input_file=source, output_file=target)
    assert status == 0, err
    np.testing.assert_allclose(np.load(target), encoded.encode(r[0] for r in rows), atol=1e-6)

    # And scores pairs of a stream and files.
    text = "".join(f"{row[0]}\t{row[1]}\n" for row in rows)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    status, printed, err = run(bert=out, predict_file="-")
    assert status == 0, err
    np.testing.assert_allclose(list(map(float, printed.splitlines())), cosines, atol=2e-6)
    status, printed, err = run(bert=out, eval_file=tmp_path / "sim" / "dev.tsv")
    assert status == 0, err
    (line,) = map(json.loads, printed.splitlines())
    assert line["pearson"] == pytest.approx(found["pearson"], abs=1e-5)


@pytest.mark.parametrize(
    "kind, objective, metric, more",
    [
        ("sim", "cosent", "spearman", {}),
        ("triplets", "triplet", "triplet_accuracy", {}),
        ("triplets", "multiple_negatives", "mrr", {"symmetric": True}),
        ("pairs", "multiple_negatives", "mrr", {"hard_negatives": 1}),
        ("pairs", "triplet", "mrr", {"hard_negatives": 1, "pooling": "max"}),
    ],
)
def test_objectives(run, flags, tmp_path, kind, objective, metric, more):
    """Each lifts the metric of its data, on its own training set."""
    given = flags(kind, objective=objective, num_train_epochs=10, learning_rate=3e-3, **more)
    given["dev_data_dir"] = folder = tmp_path / "same"
    write(folder, kind, (("dev", 24),))
    before = flags(kind, objective=objective, dev_data_dir=folder, output_dir=tmp_path / "before")
    status, _, err = run(**before, do_eval=True)
    assert status == 0, err
    status, _, err = run(**given, do_train=True, do_eval=True)
    assert status == 0, err
    assert results(tmp_path / "out")[metric] > results(tmp_path / "before")[metric]
    # Of pairs alone there is no triplet's loss.
    known = (kind, objective) != ("pairs", "triplet")
    assert ("eval_loss" in results(tmp_path / "out")) == known


@pytest.fixture
def gradient(run, flags, tmp_path, monkeypatch):
    """function(name, kind, **flags) -> the clipped gradient of the first step, by weight."""
    monkeypatch.setattr(encoder, "dropout", lambda x, rate, seed: x)

    def gradient(name, kind, **more):
        given = flags(kind, max_train_steps=1, warmup_proportion=0, num_hidden_layers=1, **more)
        status, _, err = run(**{**given, "output_dir": tmp_path / name}, do_train=True)
        assert status == 0, err
        found = newest(tmp_path / name)
        # What Adam's first step keeps of it.
        return {n: v / 0.1 for n, v in found.items() if n.endswith("/adam_m")}

    return gradient


@pytest.mark.parametrize(
    "kind, objective, more",
    [
        ("triplets", "multiple_negatives", {"symmetric": True, "dense_width": 8}),
        ("nli", "softmax_nli", {}),
    ],
)
def test_cached_gradients_are_those_of_one_shot(gradient, kind, objective, more):
    """In parts and in buckets the step is compared as a whole: the gradient is that of one packed
    batch.
    """
    if kind == "nli":
        columns = {"text_column": "0", "text_pair_column": "1", "value_column": "2"}
        more = {**more, **columns, "task_name": "csv"}
    more = {**more, "objective": objective}
    whole = gradient("whole", kind, **more)
    for name, layout in {
        "parts": {"gradient_accumulation_steps": 3},
        "both": {"batching": "bucket", "gradient_accumulation_steps": 2},
    }.items():
        found = gradient(name, kind, **more, **layout)
        assert found.keys() == whole.keys()
        for weight, value in whole.items():
            np.testing.assert_allclose(found[weight], value, atol=1e-6, err_msg=weight)
    norm = np.sqrt(sum(np.sum(value.astype(np.float64) ** 2) for value in whole.values()))
    assert norm > 0.1
    heads = [n for n in whole if not n.startswith("bert/")]
    assert len(heads) == 2
    assert all(np.abs(whole[name]).max() > 1e-4 for name in heads)


def test_two_devices_compute_the_gradient_of_one(gradient, flags, tmp_path):
    """Texts are compared across devices too."""
    driver = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from bert_tools import encoder
encoder.dropout = lambda x, rate, seed: x
from bert_tools.cli import run_siamese
sys.exit(run_siamese.main(sys.argv[1:]))
"""
    more = {"objective": "multiple_negatives"}
    one = gradient("one", "pairs", **more)
    given = flags("pairs", do_train=True, max_train_steps=1, warmup_proportion=0, **more)
    given |= {"num_hidden_layers": 1, "strategy": "mirrored", "output_dir": tmp_path / "two"}
    command = [sys.executable, "-c", driver, *as_arguments(given)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    two = newest(tmp_path / "two")
    for name, array in one.items():
        np.testing.assert_allclose(two[name] / 0.1, array, atol=1e-5, err_msg=name)


def test_a_run_that_is_taken_up_again_ends_the_same(run, flags, tmp_path):
    """With dropout and parts, from a checkpoint in the middle; with other flags it is refused."""
    given = flags("texts", objective="simcse", do_train=True, num_train_epochs=2)
    given |= {"gradient_accumulation_steps": 2, "save_checkpoints_steps": 4}
    given |= {"num_hidden_layers": 1}
    assert run(**given)[0] == 0
    whole = newest(tmp_path / "out")
    assert whole["global_step"] == 8
    for path in (tmp_path / "out").glob("model.ckpt-8.*"):
        path.unlink()
    (tmp_path / "out" / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-4"\n')
    status, _, err = run(**given)
    assert status == 0 and "going on from global step 4" in err
    assert_equal(newest(tmp_path / "out"), whole)
    error = error_of(run(**{**given, "pooling": "cls"}))
    assert 'its model has pooling "mean" (bert_tools.json), the flags ask for "cls"' in error


def test_best_metric_on_another_dev_set(run, flags, tmp_path):
    """SimCSE learns from texts, and is judged on pairs with values."""
    other = write(tmp_path / "judged", "sim", (("dev", 24),))
    given = flags("texts", objective="simcse", do_train=True, num_train_epochs=2, eval_steps=2)
    given |= {"dev_task_name": "sim", "dev_data_dir": other, "best_metric": "spearman"}
    status, _, err = run(**given, do_eval=True)
    assert status == 0, err
    found = results(tmp_path / "out")
    metrics = {"pearson", "spearman", "average_precision"}
    assert found.keys() == {*metrics, *(f"baseline_{n}" for n in metrics), "global_step"}
    state = json.loads((tmp_path / "out" / "model.ckpt-8.json").read_text())["evaluation"]
    assert state["best"] == pytest.approx(found["spearman"])
    assert state["step"] == found["global_step"]
    assert "single texts" in error_of(run(**{**given, "dev_task_name": "texts"}))


def test_classes(run, flags, tmp_path):
    columns = {"text_column": "0", "text_pair_column": "1", "value_column": "2"}
    given = flags("nli", objective="softmax_nli", num_train_epochs=50, learning_rate=3e-3)
    given |= {**columns, "task_name": "csv", "do_train": True, "do_eval": True}
    status, _, err = run(**given)
    assert status == 0, err
    assert results(tmp_path / "out")["eval_accuracy"] > 0.6
    meta = json.loads((tmp_path / "out" / "bert_tools.json").read_text())
    assert meta["labels"] == ["contradiction", "entailment"]
    status, printed, err = run(bert=tmp_path / "out", eval_file=tmp_path / "nli" / "dev.tsv")
    assert status == 0, err
    assert json.loads(printed)["eval_accuracy"] == results(tmp_path / "out")["eval_accuracy"]

    # Values are compared with cosines, also by what was trained on classes.
    sim = write(tmp_path / "sim", "sim")
    folder = tmp_path / "other"
    of_values = {"dev_task_name": "sim", "dev_data_dir": sim, "output_dir": folder}
    status, _, err = run(**{**given, **of_values, "num_train_epochs": 1})
    assert status == 0, err
    assert "spearman" in results(folder) and "eval_accuracy" not in results(folder)
    status, printed, err = run(
        bert=tmp_path / "out", eval_file=sim / "dev.tsv", task_name="sim", max_seq_length=16
    )
    assert status == 0, err
    assert "spearman" in json.loads(printed)

    # A class that training never had is told before any work, with its place.
    path = tmp_path / "nli" / "dev.tsv"
    path.write_text(path.read_text().replace("entailment", "neutral"))
    error = error_of(run(**{**given, "output_dir": tmp_path / "x"}))
    assert "dev.tsv:" in error and "the label 'neutral' is none of the model's: contr" in error
    assert not (tmp_path / "x").exists()


def test_single_texts_train_what_compares_pairs(run, flags, tmp_path):
    given = flags("texts", objective="simcse", do_train=True, max_train_steps=1)
    assert run(**given)[0] == 0
    pairs = write(tmp_path / "pairs", "pairs") / "test.tsv"
    status, printed, err = run(bert=tmp_path / "out", predict_file=pairs)
    assert status == 0, err
    rows = [row.split("\t") for row in pairs.read_text().splitlines()]
    first, second = (Encoder.load(str(tmp_path / "out")).encode(t) for t in zip(*rows, strict=True))
    found = [float(row) for row in printed.splitlines()]
    np.testing.assert_allclose(found, similarity(first, second, "cosine"), atol=2e-6)
    values = write(tmp_path / "sim", "sim") / "dev.tsv"
    status, printed, err = run(bert=tmp_path / "out", eval_file=values)
    assert status == 0, err
    assert "spearman" in json.loads(printed)
    error = error_of(run(bert=tmp_path / "out", predict_file=pairs, text_column="0"))
    assert "--text_column=0: several texts are compared; give --text_pair_column too" in error


def test_negatives_of_files_to_score(run, flags, tmp_path):
    assert run(**flags("triplets", objective="triplet", do_train=True, max_train_steps=1))[0] == 0
    path = tmp_path / "triplets" / "validation.csv"
    status, plain, err = run(bert=tmp_path / "out", eval_file=path, task_name="triplets")
    assert status == 0, err
    columns = {"text_column": "Sentence1", "text_pair_column": "Sentence2"}
    columns["negative_columns"] = "Sentence3"
    status, named, err = run(bert=tmp_path / "out", eval_file=path, **columns)
    assert status == 0, err
    assert json.loads(named) == json.loads(plain)
    assert "triplet_accuracy" in json.loads(named)
    # One name among numbers: the file has a header.
    columns |= {"text_column": "0", "text_pair_column": "1"}
    status, numbered, err = run(bert=tmp_path / "out", eval_file=path, **columns)
    assert status == 0, err
    assert json.loads(numbered) == json.loads(plain)
    only = {"negative_columns": "Sentence3"}
    error = error_of(run(bert=tmp_path / "out", eval_file=path, **only))
    assert "--text_column is missing; give it beside the other columns" in error
    given = flags("triplets", objective="triplet", do_train=True, **only)
    error = error_of(run(**{**given, "output_dir": tmp_path / "x"}))
    assert "--negative_columns=Sentence3: the columns of --task_name=triplets are fixed" in error


def test_dense_layer_keeps_its_activation(run, flags, tmp_path):
    given = flags("sim", do_train=True, max_train_steps=1, dense_width=8)
    assert run(**given, dense_activation="linear")[0] == 0
    again = {**given, "bert": tmp_path / "out", "output_dir": tmp_path / "again"}
    assert run(**again)[0] == 0
    assert json.loads((tmp_path / "again" / "bert_tools.json").read_text())["dense"] == "linear"
    again = {**again, "output_dir": tmp_path / "tanh", "dense_activation": "tanh"}
    assert run(**again)[0] == 0
    assert json.loads((tmp_path / "tanh" / "bert_tools.json").read_text())["dense"] == "tanh"


def test_ranges_of_a_trained_model(run, flags, tmp_path):
    """They are the model's; of another one an error and not another loss."""
    assert run(**flags("sim", do_train=True, max_train_steps=1))[0] == 0
    path = tmp_path / "sim" / "dev.tsv"
    scored = {"bert": tmp_path / "out", "eval_file": path}
    assert run(**scored, target_range="0,1.0")[0] == 0
    for flag, value in (("target_range", "-1,1"), ("value_range", "0,5")):
        error = error_of(run(**scored, **{flag: value}))
        assert f"--{flag}={value}: the model was trained with" in error


def test_dense_layer_and_fewer_layers(run, flags, tmp_path):
    """They are the folder's from then on: here, and in sentence-transformers' layout and back."""
    given = flags("sim", do_train=True, do_eval=True, num_hidden_layers=1, dense_width=8)
    status, _, err = run(**given, matryoshka_dimensions="4,2", num_train_epochs=1)
    assert status == 0, err
    assert {"spearman", "spearman_4", "spearman_2"} <= results(tmp_path / "out").keys()
    ours = Encoder.load(str(tmp_path / "out"))
    texts = ["a b", "c d c d", ". , a"]
    vectors = ours.encode(texts)
    assert vectors.shape == (3, 8)
    folder = tmp_path / "theirs"
    status, _, err = run(
        convert_checkpoint, bert=tmp_path / "out", to="sentence_transformers", output_dir=folder
    )
    assert status == 0, err
    np.testing.assert_array_equal(Encoder.load(str(folder)).encode(texts), vectors)
    (folder / "bert_tools.json").unlink()  # Their files alone say it too.
    np.testing.assert_array_equal(Encoder.load(str(folder)).encode(texts), vectors)
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 1
    model = hub.load(str(tmp_path / "out"))
    raw = Encoder(model, pooling="mean", max_seq_length=16).encode(texts)
    layer = [hub.load(str(folder)).weights[f"sentence/dense/{part}"] for part in ("kernel", "bias")]
    np.testing.assert_allclose(np.tanh(raw @ layer[0] + layer[1]), vectors, atol=1e-5)


def test_distillation(run, flags, wide_model, tmp_path):
    """Another encoder comes near a teacher's vectors, of translations those of the first text."""
    data = tmp_path / "pairs"
    given = flags("pairs", objective="distillation", teacher=wide_model, num_hidden_layers=1)
    given |= {"num_train_epochs": 20, "learning_rate": 3e-3, "do_train": True, "do_eval": True}
    status, _, err = run(**given)
    assert status == 0, err
    encoded, teacher = Encoder.load(str(tmp_path / "out")), Encoder.load(wide_model)
    student = hub.load(wide_model)
    rows = [row.split("\t") for row in (data / "train.tsv").read_text().splitlines()]
    first, second = zip(*rows, strict=True)
    wanted = teacher.encode(first)
    far = np.mean((encoded.encode(second) - wanted) ** 2)
    assert far < 0.7 * np.mean((Encoder(student).encode(second) - wanted) ** 2)
    assert results(tmp_path / "out")["eval_loss"] > 0
    error = error_of(run(**{**given, "output_dir": tmp_path / "x", "dense_width": 8}))
    assert "its vectors are 16 wide, the model's 8; give --dense_width=16" in error
    assert not (tmp_path / "x" / "bert_tools.json").exists()
    clf = toy_flags(wide_model, write(tmp_path / "nli", "nli"), tmp_path / "clf")
    clf |= {"task_name": "csv", "text_column": "0", "label_column": "2", "do_train": True}
    assert run(run_classifier, **clf, max_train_steps=1)[0] == 0
    error = error_of(run(**{**given, "teacher": tmp_path / "clf"}))
    assert "a model of another kind of task (classify)" in error
    error = error_of(run(**{**given, "teacher": tmp_path / "nowhere"}))
    assert f"--teacher={tmp_path / 'nowhere'}: no such model" in error


def test_classes_of_two_dev_sets(run, flags, tmp_path):
    """MNLI's matched and mismatched; a row of predictions is a cosine, and no classes."""
    folder = tmp_path / "mnli"
    folder.mkdir()
    head = "\t".join(f"c{n}" for n in range(12)) + "\n"
    for name in ("train", "dev_matched", "dev_mismatched", "test_matched", "test_mismatched"):
        cells = [[*"01234567", "a b", "c", "x", label] for label in ("neutral", "entailment")]
        cells += [[*"01234567", "d", "c", "x", "contradiction"]]
        rows = "".join("\t".join(row) + "\n" for row in cells * 3)
        (folder / f"{name}.tsv").write_text(head + rows)
    given = flags("sim", objective="softmax_nli", max_train_steps=1)
    given |= {"task_name": "mnli", "data_dir": folder, "do_train": True, "do_eval": True}
    status, _, err = run(**given, do_predict=True)
    assert status == 0, err
    there = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"eval_results_mm.json", "test_results.tsv", "test_results_mm.tsv"} <= there
    assert "labels.txt" not in there


def test_records_are_made_anew_when_the_teacher_or_the_range_changes(run, flags, tmp_path):
    folder = write(tmp_path / "data", "sim")
    teacher = {**toy_flags(None, folder, tmp_path / "teacher"), "do_train": True}
    given = flags("sim", teacher=tmp_path / "teacher", do_train=True, best_metric="typo")
    seen = []
    for learning_rate, target_range in ((1e-3, "0,1"), (1e-3, "0,1"), (1e-3, "-1,1"), (0.1, "0,1")):
        if len(seen) in (0, 3):
            shutil.rmtree(tmp_path / "teacher", ignore_errors=True)
            changed = {"bert": given["bert"], "learning_rate": learning_rate}
            assert run(run_reg, **{**teacher, **changed})[0] == 0
        error = error_of(run(**given, target_range=target_range))
        assert "--best_metric=typo: no such metric" in error
        seen.append((tmp_path / "out" / "train.tf_record").read_bytes())
    assert seen[0] == seen[1] and len(set(seen)) == 3


def test_teacher_of_pair_scores(run, flags, wide_model, tmp_path, monkeypatch):
    """A model of pairs says what the cosines of unlabelled pairs are to be."""
    folder = write(tmp_path / "data", "sim")
    teacher = {**toy_flags(wide_model, folder, tmp_path / "teacher"), "do_train": True}
    assert run(run_reg, **teacher)[0] == 0
    status, printed, _ = run(run_reg, bert=tmp_path / "teacher", predict_file=folder / "train.tsv")
    said = np.array([float(line) for line in printed.splitlines()])
    given = flags("sim", teacher=tmp_path / "teacher", do_train=True, max_train_steps=1)
    status, _, err = run(**given, target_range="-1,1")
    assert status == 0, err
    from bert_tools.inputs import tfrecord

    kept = tfrecord.read_features(str(tmp_path / "out" / "train.tf_record")).columns["vals"]
    np.testing.assert_allclose(kept[::2], 2 * said - 1, atol=1e-5)


@pytest.mark.parametrize(
    "kind, more, message",
    [
        ("sim", {"objective": "triplet"}, "--task_name=sim: holds pairs with values, and"),
        ("pairs", {}, "learns from pairs with values; choose another"),
        ("pairs", {"objective": "triplet"}, "rows have 2 texts, --objective=triplet takes 3 or"),
        ("triplets", {"objective": "simcse"}, "rows have 3 texts, --objective=simcse takes 1;"),
        ("sim", {"margin": 2}, "--margin=2.0: is of --objective=triplet or contrastive, not of"),
        ("sim", {"objective": "distillation"}, "--teacher is missing"),
        ("sim", {"num_hidden_layers": 3}, "--num_hidden_layers=3: the model has 2; give at most"),
        ("sim", {"value_range": "5"}, "--value_range=5: expected LOW,HIGH, such as 0,5"),
        ("sim", {"matryoshka_dimensions": "8,x"}, "--matryoshka_dimensions=8,x: expected numbers"),
        ("sim", {"matryoshka_dimensions": "8,8"}, "expected numbers from 1, each once"),
        ("sim", {"matryoshka_dimensions": "8,16"}, "the vectors are 16 wide; give smaller numbers"),
        ("sim", {"target_range": ""}, "--target_range=: expected LOW,HIGH"),
        ("sim", {"target_range": "-5,5"}, "--target_range=-5,5: cosines lie in -1..1;"),
        ("sim", {"dense_activation": "tanh"}, "there is no dense layer; give --dense_width"),
        ("sim", {"objective": "cosent", "scale": 0}, "--scale=0: leaves nothing of the cosines"),
        ("sim", {"dev_task_name": "pairs"}, "--dev_task_name=pairs: is of --do_eval=true or"),
        ("sim", {"dev_data_dir": "nowhere", "do_eval": True}, "--dev_data_dir=nowhere: no such"),
        (
            "pairs",
            {"objective": "multiple_negatives", "train_batch_size": 1},
            "--train_batch_size=1: --objective=multiple_negatives compares the examples of a step",
        ),
        ("triplets", {"objective": "triplet", "margin": -1}, "margin"),
        ("pairs", {"objective": "triplet", "hard_negatives": 30}, "different second texts; lower"),
        ("texts", {"objective": "simcse", "do_eval": True}, "holds single texts, and --do_eval"),
    ],
)
def test_refused(run, flags, kind, more, message):
    assert message in error_of(run(**flags(kind, do_train=True, **more)))


def test_columns_by_either_name(run, flags, tmp_path):
    """Quoted commas, and the columns wherever they stand; without one of them an error."""
    given = flags("triplets", objective="triplet", do_train=True, max_train_steps=1)
    folder = tmp_path / "triplets"
    (folder / "train.csv").write_text(
        "id,negative,anchor,positive\n" + '1,"c, d","a, b","a ""b"""\n' * 6
    )
    assert run(**given)[0] == 0
    from bert_tools.inputs import tfrecord

    kept = tfrecord.read_features(str(tmp_path / "out" / "train.tf_record"))
    np.testing.assert_array_equal(kept.lengths[:3], [5, 6, 5])
    (folder / "train.csv").write_text("anchor,positive,other\na,b,c\n")
    assert "no column 'negative' or 'Sentence3'" in error_of(run(**given))
