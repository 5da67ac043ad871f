"""run_classifier from its command line to its files."""

import contextlib
import io
import json
import os
import pathlib
import resource
import subprocess
import sys

import numpy as np
import pytest
from cli_toys import ROOT, as_arguments, newest, records, results_of

from bert_tools import hub
from bert_tools.cli import app, run_classifier
from bert_tools.hub import google, huggingface

MRPC = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
# Each class has its word; commas, line ends and quotes in the texts.
WORDS = {"体育": "a", "娱乐": "b", "政治": "c"}


@pytest.fixture
def run(capsys, monkeypatch):
    """function(*arguments, **flags) -> (exit status, stdout, stderr)."""

    def run(*arguments, **flags):
        # Without the handler of an earlier test, which holds that test's stderr.
        monkeypatch.setattr(app.log, "handlers", [])
        capsys.readouterr()
        status = run_classifier.main([*arguments, *as_arguments(flags)])
        return (status, *capsys.readouterr())

    return run


def news(rows, seed):
    """A CSV as spreadsheets write it, with a Chinese header."""
    rng = np.random.default_rng(seed)
    lines = ["编号,标题,类别"]
    for index in range(rows):
        label = list(WORDS)[index % 3]
        words = [*rng.choice(["d", ".", "d d"], 2), WORDS[label]]
        lines.append(f'{index},"{words[0]}, {words[2]}\n{words[1]} """,{label}')
    return "\n".join(lines) + "\n"


def news_flags(model, folder):
    return {
        "task_name": "csv",
        "text_column": "标题",
        "label_column": "类别",
        "data_dir": folder,
        "bert": model,
        "output_dir": folder / "out",
        "max_seq_length": 16,
        "train_batch_size": 6,
        "learning_rate": 2e-3,
        "num_train_epochs": 24,
        "do_train": True,
    }


@pytest.fixture(scope="session")
def wide_encoder(tmp_path_factory, wide_model):
    """A folder as toy_model, with larger weights: it tells words apart before it is trained."""
    folder = str(tmp_path_factory.mktemp("wide_encoder"))
    model = hub.load(wide_model)
    weights = {name: w for name, w in model.weights.items() if name.startswith("bert/")}
    google.write(folder, model._replace(weights=weights))
    return folder


@pytest.fixture(scope="session")
def news_run(tmp_path_factory, wide_encoder):
    """(data_dir, stdout, stderr) of a whole run of three classes; not to be written to."""
    folder = tmp_path_factory.mktemp("news")
    for seed, (split, rows) in enumerate((("train", 36), ("dev", 9), ("test", 7))):
        (folder / f"{split}.csv").write_text(news(rows, seed), encoding="utf-8")
    flags = news_flags(wide_encoder, folder) | {"do_eval": True, "do_predict": True}
    handlers, app.log.handlers = app.log.handlers, []
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        assert run_classifier.main(as_arguments(flags)) == 0, err.getvalue()
    app.log.handlers = handlers
    return folder, out.getvalue(), err.getvalue()


def mrpc_row(label, a, b):
    return f"{label}\t1\t2\t{a}\t{b}\n"


@pytest.fixture
def mrpc(run, toy_model, tmp_path):
    """function(*arguments, **flags) -> (exit status, stdout, stderr) over toy files of mrpc."""
    rng = np.random.default_rng(0)
    for split, rows in (("train", 24), ("dev", 8), ("test", 5)):
        lines = [MRPC]
        for index in range(rows):
            texts = (" ".join(rng.choice(list("abcd"), n)) for n in rng.integers(1, 6, 2))
            lines.append(mrpc_row(index % 2, *texts))
        (tmp_path / f"{split}.tsv").write_text("\ufeff" + "".join(lines), encoding="utf-8")
    flags = {
        "task_name": "MRPC",
        "data_dir": tmp_path,
        "bert": toy_model,
        "output_dir": tmp_path / "out",
        "max_seq_length": 16,
        "train_batch_size": 6,
        "num_train_epochs": 1,
    }
    return lambda *arguments, **further: run(*arguments, **{**flags, **further})


def error_of(result):
    status, out, err = result
    assert (status, out) == (1, ""), err
    (error,) = (line for line in err.splitlines() if not line.startswith(("INFO", "WARNING")))
    assert error.startswith("error: ")
    return error


# Training, files and results.


def test_own_table_of_three_classes(news_run):
    folder, out, err = news_run
    assert out == ""
    results = json.loads((folder / "out" / "eval_results.json").read_text())
    assert results["eval_accuracy"] == 1.0 and results["f1_score_macro"] == 1.0
    assert results["confusion_matrix"] == [[3, 0, 0], [0, 3, 0], [0, 0, 3]]
    assert list(results["per_class"]) == sorted(WORDS)
    lines = [line.split() for line in err.splitlines()]
    row = next(line for line in lines if "体育" in line)
    assert row[1:] == ["体育", "1", "1", "1", "1", "1", "3"]
    text = results_of(folder / "out" / "eval_results.txt")
    assert list(text) == sorted(text) and not {"per_class", "confusion_matrix"} & text.keys()
    assert {name: float(value) for name, value in text.items()} == {
        name: value for name, value in results.items() if name in text
    }
    assert {"eval_accuracy", "eval_loss", "global_step", "loss"} <= text.keys()


def test_test_results(news_run):
    """A row of probabilities an example, in the order of labels.txt."""
    folder, _, _ = news_run
    labels = (folder / "out" / "labels.txt").read_text(encoding="utf-8").split()
    assert labels == sorted(WORDS)
    rows = np.loadtxt(folder / "out" / "test_results.tsv", delimiter="\t")
    assert rows.shape == (7, 3)
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-6)
    assert [labels[i] for i in rows.argmax(axis=1)] == [list(WORDS)[i % 3] for i in range(7)]


def test_description(news_run):
    folder, _, _ = news_run
    meta = json.loads((folder / "out" / "bert_tools.json").read_text(encoding="utf-8"))
    expected = {
        "task": "classify",
        "task_name": "csv",
        "labels": sorted(WORDS),
        "pairs": False,
        "max_seq_length": 16,
        "columns": {"text_a": "标题", "text_b": None, "label": "类别", "header": True},
    }
    assert {name: meta.get(name) for name in expected} == expected
    assert "positive_label" not in meta


def test_records(mrpc, toy_model, tmp_path):
    """The original's features and types; padded where asked."""
    status, _, err = mrpc(do_train=True, do_predict=True, pad_records=True)
    assert status == 0, err
    tokenizer = hub.load(toy_model).tokenizer
    for split, name in (("train", "train"), ("test", "predict")):
        rows = [line.split("\t") for line in (tmp_path / f"{split}.tsv").read_text().splitlines()]
        found = records(tmp_path / "out" / f"{name}.tf_record")
        for row, features in zip(rows[1:], found, strict=True):
            a, b = (tokenizer.convert_tokens_to_ids(tokenizer.tokenize(t)) for t in row[3:])
            ids = [tokenizer.cls_id, *a, tokenizer.sep_id, *b, tokenizer.sep_id]
            padding = [0] * (16 - len(ids))
            assert features == {
                "input_ids": ids + padding,
                "input_mask": [1] * len(ids) + padding,
                "segment_ids": [0] * (len(a) + 2) + [1] * (len(b) + 1) + padding,
                "label_ids": [int(row[0]) if split == "train" else 0],
                "is_real_example": [1],
            }


def test_two_classes(mrpc, tmp_path):
    """Metrics are those of the predictions; the positive label is kept for later runs."""
    status, _, err = mrpc(do_train=True, do_eval=True, positive_label="0")
    assert status == 0, err
    results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    dev = (tmp_path / "dev.tsv").read_text()
    (tmp_path / "test.tsv").write_text(dev)
    assert mrpc(do_predict=True)[0] == 0
    rows = np.loadtxt(tmp_path / "out" / "test_results.tsv", delimiter="\t")
    truth = np.array([int(line[0]) for line in dev.lstrip("\ufeff").splitlines()[1:]])
    decided = rows.argmax(axis=1)
    assert results["eval_accuracy"] == np.mean(truth == decided)
    assert results["true_positives"] == np.sum((truth == 0) & (decided == 0))
    assert results["false_positives"] == np.sum((truth == 1) & (decided == 0))
    below = rows[truth == 0, 0][:, np.newaxis] > rows[truth == 1, 0]
    assert results["auc"] == pytest.approx(below.mean())
    losses = -np.log(rows[range(len(truth)), truth])
    assert results["eval_loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert mrpc(do_eval=True)[0] == 0
    assert json.loads((tmp_path / "out" / "eval_results.json").read_text()) == results
    assert mrpc(do_eval=True, positive_label="1")[0] == 0
    other = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert other["true_positives"] == results["true_negatives"]


def test_mismatched_sets(run, toy_model, tmp_path):
    header = "\t".join(["index", *"1234567", "sentence1", "sentence2", "label1", "gold_label"])

    def write(name, labels):
        rows = ["\t".join([*"01234567", "a b", "c", "x", label]) for label in labels]
        (tmp_path / f"{name}.tsv").write_text("\n".join([header, *rows]) + "\n")

    write("train", ["neutral", "entailment", "contradiction"] * 2)
    write("dev_matched", ["neutral"] * 3)
    write("dev_mismatched", ["entailment"] * 4)
    write("test_matched", [""] * 2)
    write("test_mismatched", [""] * 5)
    status, _, err = run(
        *("--do_train", "--do_eval", "--do_predict"),
        task_name="mnli",
        data_dir=tmp_path,
        bert=toy_model,
        output_dir=tmp_path / "out",
        max_seq_length=16,
        train_batch_size=6,
        num_train_epochs=1,
    )
    assert status == 0, err
    for suffix, label, count in (("", "neutral", 3), ("_mm", "entailment", 4)):
        results = json.loads((tmp_path / "out" / f"eval_results{suffix}.json").read_text())
        assert results["per_class"][label]["examples"] == count
        assert results["per_class"][label]["auc"] is None
    counts = [
        (tmp_path / "out" / f"test_results{suffix}.tsv").read_text().count("\n")
        for suffix in ("", "_mm")
    ]
    assert counts == [2, 5]


def test_best_metric(mrpc, tmp_path):
    """An evaluation while training has tables too, which are no metrics."""
    status, _, err = mrpc(do_train=True, eval_steps=2, best_metric="auc")
    assert status == 0, err
    assert "evaluation at step 2 of 4: auc 0." in err
    error = error_of(mrpc(do_train=True, best_metric="per_class", output_dir=tmp_path / "other"))
    assert "--best_metric=per_class: no such metric; this task's are auc, auc_hard" in error


def test_class_weights_and_smoothing_change_training(mrpc, tmp_path):
    heads = []
    settings = [{}, *({"class_weights": text} for text in ("1,1", "balanced", "1,5"))]
    for number, flags in enumerate([*settings, {"label_smoothing": 0.2}]):
        out = tmp_path / f"out{number}"
        assert mrpc(do_train=True, output_dir=out, **flags)[0] == 0
        heads.append(newest(out)["output_weights"])
    # 12 examples of each label: balanced is 1 for both.
    np.testing.assert_array_equal(heads[0], heads[1])
    np.testing.assert_array_equal(heads[0], heads[2])
    assert np.any(heads[0] != heads[3]) and np.any(heads[0] != heads[4])


def test_hub_handle_is_bert(mrpc, toy_model, tmp_path):
    for name in ("bert", "bert_hub_module_handle"):
        flags = {"bert": None, name: toy_model}
        assert mrpc(do_train=True, output_dir=tmp_path / name, **flags)[0] == 0
    np.testing.assert_array_equal(
        newest(tmp_path / "bert")["output_weights"],
        newest(tmp_path / "bert_hub_module_handle")["output_weights"],
    )


def test_labels_of_a_processor(run, toy_model, tmp_path):
    """The notebook's labels are numbers."""
    (tmp_path / "mine.py").write_text(
        "from bert_tools.inputs.examples import DataProcessor, InputExample\n"
        "class MineProcessor(DataProcessor):\n"
        "    def get_train_examples(self, data_dir):\n"
        "        return [InputExample(None, 'a b', None, i % 2) for i in range(8)]\n"
        "    def get_labels(self):\n"
        "        return [1, 0]\n"
    )
    status, _, err = run(
        "--do_train",
        task_name="mine",
        task_module=tmp_path / "mine.py",
        data_dir=tmp_path,
        bert=toy_model,
        output_dir=tmp_path / "out",
        max_seq_length=16,
        train_batch_size=8,
        num_train_epochs=1,
    )
    assert status == 0, err
    assert json.loads((tmp_path / "out" / "bert_tools.json").read_text())["labels"] == ["1", "0"]
    ids = [features["label_ids"] for features in records(tmp_path / "out" / "train.tf_record")]
    assert ids == [[1], [0]] * 4
    # Of other files it is not known what they hold.
    (tmp_path / "new.jsonl").write_text('{"text": "a b"}\n')
    scored = {"bert": tmp_path / "out", "predict_file": tmp_path / "new.jsonl"}
    assert "new.jsonl: holds JSON lines; name what is read" in error_of(run(**scored))
    (tmp_path / "new.csv").write_text('"a, b"\n')
    status, out, err = run(**{**scored, "predict_file": tmp_path / "new.csv"})
    assert status == 0, err
    assert json.loads(out)["text"] == "a, b"


# Scoring.


def predictions_of(out):
    return [json.loads(line) for line in out.splitlines()]


def test_a_text_on_stdin_gets_its_label(news_run):
    folder, _, _ = news_run
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "scripts" / "run_classifier.py")),
            *("--do_predict=true", f"--bert={folder / 'out'}", "--predict_file=-"),
        ],
        input="d , b d\na",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = predictions_of(done.stdout)
    assert (first["id"], first["text"], first["label"]) == ("predict-0", "d , b d", "娱乐")
    assert (second["text"], second["label"]) == ("a", "体育")
    assert first["probability"] == max(first["probabilities"].values()) > 0.5
    assert list(first["probabilities"]) == sorted(WORDS)


def test_predict_file(news_run, run, tmp_path):
    """Lines as test_results.tsv has them, with the columns of training."""
    folder, _, _ = news_run
    flags = {"bert": folder / "out", "predict_file": folder / "test.csv"}
    expected = (folder / "out" / "test_results.tsv").read_text()
    status, out, err = run(**flags, predict_format="tsv")
    assert (status, out) == (0, expected), err
    assert run(**flags, predict_output=tmp_path / "out.tsv")[0] == 0
    assert (tmp_path / "out.tsv").read_text() == expected
    fields = "labels,logits,pooled_output"
    status, out, _ = run(**flags, predict_fields=fields)
    record = predictions_of(out)[0]
    assert record.keys() == {"id", "text", "label", "probability", "logits", "pooled_output"}
    assert len(record["pooled_output"]) == 16
    logits = np.array([*record["logits"].values()])
    probability = np.exp(logits).max() / np.exp(logits).sum()
    assert record["probability"] == pytest.approx(probability, rel=1e-5)
    _, out, _ = run(**flags, predict_fields=fields, predict_format="tsv")
    row = out.splitlines()[0].split("\t")
    assert row[0] == record["label"] and len(row) == 1 + 3 + 16


def test_eval_file(news_run, run):
    folder, _, _ = news_run
    status, out, err = run(bert=folder / "out", eval_file=folder / "dev.csv")
    assert status == 0, err
    (line,) = predictions_of(out)
    results = json.loads((folder / "out" / "eval_results.json").read_text())
    del results["global_step"]
    assert line == {"file": str(folder / "dev.csv"), "examples": 9, **results}


def test_long_text(news_run, run, tmp_path):
    """Two windows of one text: the mean of their probabilities, and its label."""
    folder, _, _ = news_run
    (tmp_path / "long.csv").write_text("标题\n" + "a " * 14 + "b " * 10 + "\n", encoding="utf-8")
    flags = {"bert": folder / "out", "predict_file": tmp_path / "long.csv"}
    fields = {"predict_fields": "probabilities,log_probabilities"}
    _, out, _ = run(**flags, **fields, long_text="windows")
    (found,) = predictions_of(out)
    assert found["label"] == max(found["probabilities"], key=found["probabilities"].get)
    assert found["probability"] == found["probabilities"][found["label"]]
    logs = [*found["log_probabilities"].values()]
    np.testing.assert_allclose(np.exp(logs), [*found["probabilities"].values()], rtol=1e-5)
    _, out, _ = run(**flags)
    assert predictions_of(out)[0]["probabilities"] != found["probabilities"]


def test_model_that_does_not_say_its_classes(mrpc, run, tmp_path):
    """A checkpoint of the original scripts: labels of the task, else of --labels."""
    assert mrpc(do_train=True)[0] == 0
    (tmp_path / "out" / "bert_tools.json").unlink()
    (tmp_path / "texts.tsv").write_text("a b\tc\n")
    flags = {"bert": tmp_path / "out", "max_seq_length": 16}
    status, out, err = run(**flags, task_name="mrpc", predict_file=tmp_path / "test.tsv")
    assert status == 0, err
    assert {record["label"] for record in predictions_of(out)} <= {"0", "1"}
    flags["predict_file"] = tmp_path / "texts.tsv"
    assert "--labels is missing" in error_of(run(**flags))
    (tmp_path / "labels.txt").write_text("no\nyes\n")
    status, out, err = run(**flags, labels=tmp_path / "labels.txt")
    assert status == 0, err
    assert {record["label"] for record in predictions_of(out)} <= {"no", "yes"}


# Folds.


def test_folds(run, toy_model, tmp_path):
    (tmp_path / "train.csv").write_text(news(20, 3), encoding="utf-8")
    flags = news_flags(toy_model, tmp_path) | {"folds": 3, "do_eval": True, "train_batch_size": 4}
    status, _, err = run(**flags)
    assert status == 0, err
    out = tmp_path / "out"
    lines = predictions_of((out / "out_of_fold.jsonl").read_text(encoding="utf-8"))
    assert [line["id"] for line in lines] == [f"train-{index}" for index in range(20)]
    assert [line["true_label"] for line in lines] == [list(WORDS)[i % 3] for i in range(20)]
    results = json.loads((out / "eval_results.json").read_text(encoding="utf-8"))
    accuracies = []
    for fold in (1, 2, 3):
        own = json.loads((out / f"fold-{fold}" / "eval_results.json").read_text())
        held_out = [line for line in lines if line["fold"] == fold]
        assert sum(own["per_class"][label]["examples"] for label in WORDS) == len(held_out)
        right = [line["label"] == line["true_label"] for line in held_out]
        assert own["eval_accuracy"] == pytest.approx(np.mean(right))
        assert own == results["folds"][fold - 1]
        accuracies.append(own["eval_accuracy"])
        # None of them was trained on.
        assert len(records(out / f"fold-{fold}" / "train.tf_record")) == 20 - len(held_out)
        # Of each label its share: 7, 7 and 6 examples in three parts.
        counts = [own["per_class"][label]["examples"] for label in WORDS]
        assert set(counts) <= {2, 3}
    assert results["eval_accuracy"] == pytest.approx(np.mean(accuracies))
    assert results["eval_accuracy_std"] == pytest.approx(np.std(accuracies, ddof=1))
    assert "eval_accuracy_std" in results_of(out / "eval_results.txt")
    # Each fold has the baseline of its own training part; the mean alone is judged.
    baselines = [fold["baseline_accuracy"] for fold in results["folds"]]
    assert results["baseline_accuracy"] == pytest.approx(np.mean(baselines))
    assert {"baseline_accuracy_std", "baseline_f1_score_macro"} <= results.keys()
    fails = results["eval_accuracy"] <= results["baseline_accuracy"]
    assert err.count("does not beat its baseline") == fails


def test_folds_that_lack_a_class(run, toy_model, tmp_path):
    """Whose area under the curve is no number, which JSON has none for."""
    rows = ["a\tx"] * 8 + ["b\ty"] * 8 + ["c\tz"]
    (tmp_path / "train.tsv").write_text("".join(f"{row}\n" for row in rows))
    flags = {"bert": toy_model, "data_dir": tmp_path, "output_dir": tmp_path / "out"}
    flags |= {"task_name": "csv", "text_column": 0, "label_column": 1, "max_seq_length": 8}
    flags |= {"train_batch_size": 4, "max_train_steps": 1, "folds": 2}
    status, _, err = run(**flags, do_train=True, do_eval=True)
    assert status == 0, err

    def refuse(name):
        raise AssertionError(name)

    text = (tmp_path / "out" / "eval_results.json").read_text()
    found = json.loads(text, parse_constant=refuse)
    assert None in [fold["per_class"]["z"]["auc"] for fold in found["folds"]]


def test_a_stopped_cross_validation_goes_on(run, toy_model, tmp_path):
    (tmp_path / "train.csv").write_text(news(12, 3), encoding="utf-8")
    flags = news_flags(toy_model, tmp_path) | {"folds": 2, "do_eval": True, "num_train_epochs": 1}
    assert run(**flags)[0] == 0
    before = (tmp_path / "out" / "out_of_fold.jsonl").read_text(encoding="utf-8")
    status, _, err = run(**flags)
    assert status == 0 and err.count("training is finished") == 2
    assert (tmp_path / "out" / "out_of_fold.jsonl").read_text(encoding="utf-8") == before
    # Folds that are dealt otherwise would be scored with models that have seen them.
    for change in ({"folds": 3}, {"seed": 8}, {"max_train_examples": 10}):
        error = error_of(run(**{**flags, **change}))
        assert "holds folds of another number, seed or training set" in error
    (tmp_path / "out" / "folds.json").unlink()
    assert "does not say how they were dealt" in error_of(run(**flags))


def test_the_positive_label_stays(mrpc, tmp_path):
    """When training goes on, or has nothing to do, without the flag."""
    assert mrpc(do_train=True, positive_label="0")[0] == 0
    for epochs in (1, 2):
        assert mrpc(do_train=True, do_eval=True, num_train_epochs=epochs)[0] == 0
        meta = json.loads((tmp_path / "out" / "bert_tools.json").read_text())
        assert meta["positive_label"] == "0"
        found = json.loads((tmp_path / "out" / "eval_results.json").read_text())
        truth = found["per_class"]["0"]["examples"]
        assert found["true_positives"] + found["false_negatives"] == truth
        assert found["recall"] == pytest.approx(found["per_class"]["0"]["recall"])


def test_scores_that_are_no_numbers(mrpc):
    """The first step's loss is finite, and its update is not."""
    flags = {"learning_rate": 1e38, "warmup_proportion": 0, "eval_steps": 1}
    error = error_of(mrpc(do_train=True, do_eval=True, **flags))
    assert "not finite" in error and "lower --learning_rate" in error


def test_no_model_at_all(run, tmp_path):
    (tmp_path / "x.tsv").write_text("a\n")
    assert "--bert is missing" in error_of(run(predict_file=tmp_path / "x.tsv"))


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"folds": 1}, "--folds=1: expected two or more"),
        ({"do_eval": None}, "--folds=3: trains and evaluates; give --do_train=true and --do_eval"),
        ({"do_predict": True}, "--folds=3: leaves several models"),
        ({"strategy": "multi_worker"}, "--folds=3: one machine trains one model after another"),
        ({"best_metric": "auc"}, "--folds=3: --best_metric would choose by what is measured"),
        ({"folds": 25}, "--folds=25: there are only 24 examples; lower it"),
    ],
    ids=str,
)
def test_wrong_folds(mrpc, flags, message):
    flags = {"do_train": True, "do_eval": True, "folds": 3, **flags}
    assert message in error_of(mrpc(**flags))


# Pictures.


def test_plots(mrpc, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra plots")
    status, _, err = mrpc(do_train=True, do_eval=True, plot_dir=tmp_path / "plots")
    assert status == 0, err
    names = {f"eval_{name}.png" for name in ("confusion_matrix", "roc", "precision_recall")}
    assert {path.name for path in (tmp_path / "plots").iterdir()} == names
    for name in names:
        assert (tmp_path / "plots" / name).read_bytes().startswith(b"\x89PNG")


def test_plots_without_matplotlib(mrpc, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    error = error_of(mrpc(do_train=True, do_eval=True, plot_dir=tmp_path / "plots"))
    assert "needs matplotlib; pip install 'bert-tools[plots]'" in error
    assert not (tmp_path / "out").exists()


# Errors.


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"labels": "0"}, "0: no such file; check --labels (a file, or a list with commas)"),
        ({"labels": "0,0"}, "--labels=0,0: expected two labels or more, each once"),
        ({"labels": "0,2"}, "train.tsv:3: the label '1' is none of the model's: 0, 2"),
        ({"positive_label": "2"}, "--positive_label=2: expected one of 0, 1"),
        ({"class_weights": "heavy"}, "--class_weights=heavy: expected balanced, or a number"),
        ({"class_weights": "1,-1"}, "--class_weights=1,-1: expected balanced, or a number"),
        ({"class_weights": "1,2,3"}, "--class_weights: 3 weights for 2 labels (0, 1)"),
        ({"label_smoothing": 1}, "--label_smoothing=1"),
        ({"predict_fields": "label"}, "--predict_fields=label: expected some of probabilities"),
        ({"task_name": "sim"}, "--task_name=sim: no such task; tasks: chnsenticorp, cola"),
        ({"task_name": "csv"}, "--text_column is missing; --task_name=csv needs it"),
        ({"task_name": "csv", "text_column": 3}, "--label_column is missing"),
    ],
    ids=str,
)
def test_wrong_flags(mrpc, tmp_path, flags, message):
    assert message in error_of(mrpc(do_train=True, **flags))
    assert not (tmp_path / "out").exists()


def test_label_that_training_never_had(run, toy_model, tmp_path):
    """Names the line on which the row begins; a quoted line end is not a row's."""
    (tmp_path / "train.csv").write_text(news(6, 0), encoding="utf-8")
    (tmp_path / "dev.csv").write_text(news(2, 0) + "2,a,科技\n", encoding="utf-8")
    flags = news_flags(toy_model, tmp_path) | {"do_eval": True}
    error = error_of(run(**flags))
    assert "dev.csv:6: the label '科技' is none of the model's: 体育, 娱乐, 政治" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("task_name", ["csv", "mrpc"])
def test_one_class_alone(mrpc, tmp_path, task_name):
    (tmp_path / "train.tsv").write_text(MRPC + mrpc_row(1, "a", "b") * 6)
    columns = {} if task_name == "mrpc" else {"text_column": 3, "label_column": 0, "header": True}
    error = error_of(mrpc(do_train=True, task_name=task_name, **columns))
    assert "train.tsv: every example has the label '1'" in error
    assert not (tmp_path / "out").exists()


def test_labels_of_a_model_stay(news_run, run):
    folder, _, _ = news_run
    error = error_of(run(bert=folder / "out", labels="a,b,c", predict_file=folder / "test.csv"))
    assert "--labels=a,b,c: the model's columns are 体育, 娱乐, 政治" in error


def test_labels_of_a_hugging_face_classifier(run, news_run, tmp_path):
    folder, _, _ = news_run
    huggingface.write(str(tmp_path / "model"), hub.load(str(folder / "out")))
    (tmp_path / "model" / "bert_tools.json").unlink()
    flags = {"predict_file": folder / "test.csv", "text_column": "标题", "max_seq_length": 16}
    results = [run(bert=model, **flags) for model in (folder / "out", tmp_path / "model")]
    labels = [[json.loads(line)["label"] for line in out.splitlines()] for _, out, _ in results]
    assert labels[0] == labels[1] and set(labels[0]) <= {"体育", "娱乐", "政治"}
    assert labels[0]


def test_model_of_another_kind_of_task(run, trained):
    """One of run_reg."""
    folder, data = trained
    error = error_of(run(bert=folder, labels="a,b", predict_file=data / "test.tsv"))
    assert "trained for another kind of task (regress, this command's is classify or " in error


ROW = mrpc_row(1, "a b", "c")


# What test_bad_input.py has of run_reg holds here by the same code: one of each kind.


@pytest.mark.parametrize(
    "split, content, message",
    [
        ("train", ROW + "1\t1\t2\ta\n", ":3: has 4 columns, none for 4 (counted from 0)"),
        ("dev", "1\n", ":2: has 1 columns, none for 3"),
        ("test", ROW + "0\t1\t2\ta\n", ":3: has 4 columns, none for 4 (counted from 0)"),
        ("train", ROW + mrpc_row("yes", "a", "b"), ":3: the label 'yes' is none of the model's"),
        ("train", ROW + mrpc_row("", "a", "b"), ":3: expected a label, found ''"),
        ("dev", ROW.encode() + b"1\t1\t2\ta\xe9\tb\n", ":3: not UTF-8 at byte 7 of the line"),
        ("test", "", ": the file is empty; expected an example a line"),
    ],
)
def test_bad_line(mrpc, tmp_path, split, content, message):
    """In any split, though training comes first."""
    arguments = {"do_train": True, "do_eval": True, "do_predict": True}
    mrpc(do_train=False)  # Makes the files.
    path = tmp_path / f"{split}.tsv"
    content = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(MRPC.encode() + content)
    assert f"error: {path}{message}" in error_of(mrpc(**arguments))
    assert not (tmp_path / "out").exists()


def test_bad_lines_are_skipped_when_asked(mrpc, tmp_path):
    path = tmp_path / "dev.tsv"
    rows = [ROW, "1\n", mrpc_row(0, "b", "c"), mrpc_row("yes", "a", "b")]
    path.write_text(MRPC + "".join(rows))
    status, _, err = mrpc(do_train=True, do_eval=True, on_bad_line="skip")
    assert status == 0, err
    assert f"WARNING {path}: 2 bad lines skipped; the first: {path}:3: has 1 columns" in err
    results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert np.sum(results["confusion_matrix"]) == 2


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"data_dir": "gone"}, "--data_dir=gone: no such folder; check the path"),
        ({"eval_file": "gone.tsv"}, "gone.tsv: no such file; check --eval_file"),
        ({"predict_file": "gone.tsv"}, "gone.tsv: no such file; check --predict_file"),
        ({"max_seq_length": 33}, "the model has 32 positions; give at most 32"),
        ({"train_batch_size": 25}, "--train_batch_size=25: there are only 24 training examples"),
        ({"do_train": False}, "no phase is asked for; pass --do_train=true"),
        ({"init_checkpoint": "gone.ckpt"}, "gone.ckpt: no such checkpoint"),
        ({"output_dir": "/dev/null/out"}, "--output_dir=/dev/null/out: cannot be written ("),
        ({"best_metric": "bleu"}, "--best_metric=bleu: no such metric; this task's are"),
    ],
    ids=str,
)
def test_files_and_flags(mrpc, tmp_path, flags, message):
    assert message in error_of(mrpc(**{"do_train": True, **flags}))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("model.ckpt*"))


def test_disk_full(mrpc, tmp_path):
    """Nothing half-written; the run goes on where there is room again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        error = error_of(mrpc(do_train=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"{tmp_path / 'out' / 'train.tf_record'}: " in error and "cannot be written" in error
    assert not list((tmp_path / "out").glob("*tf_record*"))
    assert mrpc(do_train=True)[0] == 0
    assert newest(tmp_path / "out")["global_step"] == 4


def test_help_loads_neither_tensorflow_nor_numpy():
    code = (
        "import sys; from bert_tools.cli import run_classifier\n"
        "assert run_classifier.main(['--help']) == 0\n"
        "assert not {'tensorflow', 'numpy', 'sklearn'} & sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "--bert_hub_module_handle=" in done.stdout


# A real score.


def test_real_weights_learn_real_data(run, minilm, shared, tmp_path):
    """2,000 phrases of SST-2, one epoch: an accuracy of 0.76 and an AUC of 0.85."""
    source = shared / "data" / "glue" / "SST-2"
    for split, rows in (("train", 2001), ("dev", 401)):
        lines = pathlib.Path(source, f"{split}.tsv").read_bytes().splitlines(keepends=True)
        (tmp_path / f"{split}.tsv").write_bytes(b"".join(lines[:rows]))
    status, _, err = run(
        *("--do_train", "--do_eval"),
        task_name="SST-2",
        data_dir=tmp_path,
        bert=minilm,
        output_dir=tmp_path / "out",
        max_seq_length=48,
        num_train_epochs=1,
        learning_rate=1e-4,
    )
    assert status == 0, err
    results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert results["global_step"] == 62
    assert results["eval_accuracy"] > 0.7 and results["auc"] > 0.8
