"""run_classifier --multi_label from its command line to its files."""

import json

import numpy as np
import pytest
from cli_toys import ROOT, as_arguments

from bert_tools import hub
from bert_tools.cli import app, run_classifier
from bert_tools.hub import huggingface

WORDS = {"x": "a", "y": "b", "z": "c"}


def rows(count, seed, tagged=True):
    """Texts whose words say which labels they have; some have none."""
    rng = np.random.default_rng(seed)
    lines = ["text\tlabels" if tagged else "text"]
    for _ in range(count):
        labels = [label for label in WORDS if rng.random() < 0.4]
        text = " ".join(rng.permutation(["d", *(WORDS[label] for label in labels)]))
        lines.append(f"{text}\t{'|'.join(labels)}" if tagged else text)
    return "\n".join(lines) + "\n"


@pytest.fixture
def run(capsys, monkeypatch):
    """function(**flags) -> (exit status, stdout, stderr)."""

    def run(**flags):
        monkeypatch.setattr(app.log, "handlers", [])
        capsys.readouterr()
        return (run_classifier.main(as_arguments(flags)), *capsys.readouterr())

    return run


@pytest.fixture
def flags(wide_model, tmp_path):
    for split, count, seed in (("train", 120, 0), ("dev", 16, 1), ("test", 6, 2)):
        (tmp_path / f"{split}.tsv").write_text(rows(count, seed, split != "test"))
    return {
        "task_name": "csv",
        "text_column": "text",
        "label_column": "labels",
        "label_separator": "|",
        "multi_label": True,
        "data_dir": tmp_path,
        "bert": wide_model,
        "output_dir": tmp_path / "out",
        "max_seq_length": 16,
        "train_batch_size": 6,
        "learning_rate": 2e-3,
        "num_train_epochs": 40,
    }


def error_of(result):
    status, out, err = result
    assert (status, out) == (1, ""), err
    (error,) = (line for line in err.splitlines() if not line.startswith(("INFO", "WARNING")))
    return error


def test_all_phases(run, flags, tmp_path, no_dropout):
    out = tmp_path / "out"
    phases = {"do_train": True, "do_eval": True, "do_predict": True, "tune_thresholds": True}
    status, printed, err = run(**flags, **phases)
    assert (status, printed) == (0, ""), err
    results = json.loads((out / "eval_results.json").read_text())
    assert results["eval_accuracy"] == results["f1_score_micro"] == 1.0
    assert list(results["per_class"]) == ["x", "y", "z"]
    thresholds = [scores["threshold"] for scores in results["per_class"].values()]
    meta = json.loads((out / "bert_tools.json").read_text())
    assert meta["task"] == "multi_label" and meta["label_separator"] == "|"
    assert meta["thresholds"] == thresholds and meta["labels"] == ["x", "y", "z"]
    assert (out / "labels.txt").read_text() == "x\ny\nz\n"
    truth = [line.split("\t")[1] for line in rows(6, 2).splitlines()[1:]]
    values = np.loadtxt(out / "test_results.tsv", delimiter="\t")
    found = ["|".join(np.array(["x", "y", "z"])[row >= thresholds]) for row in values]
    assert found == truth

    # The folder alone knows that there may be several, and from where on each holds.
    status, printed, err = run(bert=out, predict_file=tmp_path / "test.tsv")
    assert status == 0, err
    lines = [json.loads(line) for line in printed.splitlines()]
    assert ["|".join(line["labels"]) for line in lines] == truth
    assert set(lines[0]["probabilities"]) == {"x", "y", "z"}
    # So does Hugging Face's layout, by its config.json.
    huggingface.write(str(tmp_path / "theirs"), hub.load(str(out)))
    (tmp_path / "theirs" / "bert_tools.json").unlink()
    their_flags = {"max_seq_length": 16, "input_format": "tsv", "text_column": "text"}
    again = run(bert=tmp_path / "theirs", predict_file=tmp_path / "test.tsv", **their_flags)
    assert again[0] == 0, again[2]
    for line, other in zip(lines, map(json.loads, again[1].splitlines()), strict=True):
        assert other["probabilities"] == pytest.approx(line["probabilities"], abs=1e-5)
        assert other["labels"] == [k for k, v in line["probabilities"].items() if v >= 0.5]
    status, printed, _ = run(bert=out, eval_file=tmp_path / "dev.tsv")
    line = json.loads(printed)
    assert (status, line["f1_score_macro"]) == (0, 1.0)
    status, printed, _ = run(bert=out, predict_file=tmp_path / "test.tsv", threshold=0)
    assert status == 0
    assert all(json.loads(line)["labels"] == ["x", "y", "z"] for line in printed.splitlines())
    error = error_of(run(bert=out, predict_file=tmp_path / "test.tsv", label_separator=""))
    assert "--label_separator is empty" in error


def test_json_lines_have_lists(run, flags, tmp_path):
    for split in ("train", "dev"):
        lines = (tmp_path / f"{split}.tsv").read_text().splitlines()[1:]
        cells = (line.split("\t") for line in lines)
        records = ({"text": a, "labels": b.split("|") if b else None} for a, b in cells)
        text = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / f"{split}.jsonl").write_text(text)
        (tmp_path / f"{split}.tsv").unlink()
    status, _, err = run(**flags | {"num_train_epochs": 1}, do_train=True, do_eval=True)
    assert status == 0, err
    meta = json.loads((tmp_path / "out" / "bert_tools.json").read_text())
    assert meta["labels"] == ["x", "y", "z"] and meta["thresholds"] == [0.5] * 3
    path = tmp_path / "dev.jsonl"
    path.write_text('{"text": "a", "labels": ["x"]}\n{"text": "b", "labels": ["x", null]}\n')
    error = error_of(run(**flags, do_eval=True))
    assert f"error: {path}:2: expected a label, found 'None'; correct the line" in error


def test_tuned_thresholds_outlive_a_repetition(run, flags, tmp_path):
    flags |= {"num_train_epochs": 0.1, "do_train": True, "do_eval": True}

    def kept(**more):
        status, _, err = run(**flags, **more)
        assert status == 0, err
        return json.loads((tmp_path / "out" / "bert_tools.json").read_text())["thresholds"]

    def used():
        results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
        return [scores["threshold"] for scores in results["per_class"].values()]

    tuned = kept(tune_thresholds=True)
    assert tuned != [0.5] * 3
    assert kept() == used() == tuned
    # Nothing is trained any more: a flag counts for the run, and the folder stays as it is.
    assert kept(threshold=0.3) == tuned
    assert used() == [0.3] * 3


@pytest.mark.parametrize(
    "more, message",
    [
        ({"positive_label": "x"}, "--positive_label=x: is for one label a text"),
        ({"folds": 2, "do_eval": True}, "--folds=2: is for one label a text"),
        ({"class_weights": "balanced"}, "--class_weights=balanced: is for one label a text"),
        ({"label_separator": ""}, "--label_separator is empty"),
        ({"tune_thresholds": True}, "--tune_thresholds: chooses them on the dev set"),
        ({"multi_label": None, "label_separator": None, "threshold": 0.3}, "--threshold: is of"),
        ({"threshold": 1.5}, "--threshold=1.5"),
        ({"labels": "x,y"}, "the label 'z' is none of the model's: x, y"),
    ],
    ids=str,
)
def test_wrong_flags(run, flags, tmp_path, more, message):
    assert message in error_of(run(**{"do_train": True, **flags, **more}))
    assert not (tmp_path / "out").exists()


def test_label_that_training_never_had(run, flags, tmp_path):
    path = tmp_path / "dev.tsv"
    path.write_text(path.read_text() + "a\tx|w\n")
    error = error_of(run(**flags, do_train=True, do_eval=True))
    assert f"error: {path}:18: the label 'w' is none of the model's: x, y, z" in error


def test_thresholds_need_the_folder_of_their_model(run, flags, tmp_path):
    flags |= {"bert": "model", "do_eval": True, "tune_thresholds": True, "labels": "x,y,z"}
    error = error_of(run(**flags))
    assert f"error: --tune_thresholds: keeps them in --output_dir={tmp_path / 'out'}" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("theirs", [True, False])
def test_a_model_knows_whether_there_are_several(run, wide_model, tmp_path, several, theirs):
    """bert_tools.json says it, else config.json's problem_type; a flag that says otherwise is
    refused, and one that agrees is none too much.
    """
    model = hub.load(wide_model)
    head = {"output_weights": np.ones((2, 16), np.float32), "output_bias": np.ones(2, np.float32)}
    meta = {"task": "multi_label" if several else "classify", "labels": ["x", "y"]}
    huggingface.write(
        str(tmp_path / "model"), model._replace(weights={**model.weights, **head}, meta=meta)
    )
    if theirs:
        (tmp_path / "model" / "bert_tools.json").unlink()
        config = json.loads((tmp_path / "model" / "config.json").read_text())
        kind = "multi_label" if several else "single_label"
        config["problem_type"] = f"{kind}_classification"
        (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    (tmp_path / "texts.tsv").write_text("a b\n")
    flags = {"bert": tmp_path / "model", "predict_file": tmp_path / "texts.tsv"}
    flags |= {"max_seq_length": 16, "text_column": 0}
    error = error_of(run(**flags, multi_label=not several))
    given, said = (str(value).lower() for value in (not several, several))
    name = "config.json" if theirs else "bert_tools.json"
    assert f"--multi_label={given}: the model was trained with {said} ({name})" in error
    status, out, err = run(**flags, multi_label=several)
    assert status == 0, err
    assert ("labels" if several else "label") in json.loads(out)


def test_one_label_alone(run, flags, tmp_path):
    (tmp_path / "train.tsv").write_text("text\tlabels\na\tx\nb\t\n")
    error = error_of(run(**flags, do_train=True))
    assert "train.tsv: has 1 labels in all, and there is nothing to tell apart" in error
    # But for a list that says what else there is.
    more = {"labels": "x,y", "train_batch_size": 2, "max_train_steps": 1}
    status, _, err = run(**{**flags, **more}, do_train=True)
    assert status == 0, err


def test_real_weights_learn_sample_data(run, minilm, tmp_path):
    """configs/aspects-en.flags; the dev macro F1 was 0.99 when this was written."""
    status, _, err = run(
        flagfile=ROOT / "configs" / "aspects-en.flags",
        data_dir=ROOT / "data" / "aspects-en",
        bert=minilm,
        output_dir=tmp_path / "out",
        precision="bfloat16",
        do_predict=False,
    )
    assert status == 0, err
    results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    print(results["f1_score_macro"])
    assert results["f1_score_macro"] > 0.9
