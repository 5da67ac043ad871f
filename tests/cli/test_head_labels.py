"""Training that goes on with a classifier's head: each class keeps its row, whatever the order."""

import json

import numpy as np
import pytest
from cli_toys import as_arguments, newest

from bert_tools import hub
from bert_tools.cli import app, run_classifier, run_ner, run_siamese
from bert_tools.hub import google, huggingface
from bert_tools.sentence import pooling

OLD = ["sport", "politics", "film"]
TAGS = ["B-X", "O", "I-X"]
COMMANDS = {
    "classify": run_classifier,
    "multi_label": run_classifier,
    "tag": run_ner,
    "siamese": run_siamese,
}
KINDS = [*COMMANDS]
# run_siamese's dense layer, whose rows are no classes: there are as many as a head has below.
WIDTH = 3
DENSE = (np.arange(48, dtype=np.float32).reshape(16, 3) / 48, np.arange(3, dtype=np.float32))


@pytest.fixture
def write(toy_model, tmp_path):
    """function(kind, labels, theirs) -> (a folder with a head: its bert_tools.json says of what,
    or where theirs its config.json alone; {name: array} of the head).
    """

    def write(kind, labels, theirs=False):
        model = hub.load(toy_model)
        rng = np.random.default_rng(3)
        scope, inputs = ("siamese/", 3 * WIDTH) if kind == "siamese" else ("", 16)
        weights = rng.normal(size=(len(labels), inputs)).astype(np.float32)
        bias = np.arange(len(labels), dtype=np.float32)
        head = {f"{scope}output_weights": weights, f"{scope}output_bias": bias}
        meta = {"task": kind, "labels": labels}
        others = {}
        if kind == "siamese":
            meta |= {"objective": "softmax_nli", "pooling": "mean", "dense": "linear"}
            others = dict(zip(pooling.DENSE, DENSE, strict=True))
        weights = {**model.weights, **head, **others}
        folder = tmp_path / "old"
        form = google if kind == "siamese" else huggingface
        form.write(str(folder), model._replace(weights=weights, meta=meta))
        if theirs:
            (folder / "bert_tools.json").unlink()
        return folder, head

    return write


@pytest.fixture
def train(capsys, monkeypatch, tmp_path):
    """function(kind, classes of the data, model folder, **flags) -> (labels, head, stderr) after a
    step in which nothing is learnt.
    """

    def train(kind, classes, bert, **flags):
        data = tmp_path / "data"
        data.mkdir()
        if kind == "tag":
            text = "".join(f"a {label}\n\n" for label in classes)
            (data / "train.txt").write_text(text * 6)
        else:
            rows = "".join(f"a b\tc\t{label}\n" for label in classes)
            (data / "train.tsv").write_text("text\tother\tlabel\n" + rows * 6)
            columns = {"task_name": "csv", "text_column": "text", "label_column": "label"}
            if kind == "siamese":
                columns = {"task_name": "csv", "text_column": "text", "text_pair_column": "other"}
                columns |= {"value_column": "label", "objective": "softmax_nli"}
            flags = {**columns, "multi_label": True if kind == "multi_label" else None, **flags}
        flags = {
            "data_dir": data,
            "bert": bert,
            "output_dir": tmp_path / "out",
            "do_train": True,
            "max_seq_length": 8,
            "train_batch_size": 2,
            "max_train_steps": 1,
            "learning_rate": 0,
            **flags,
        }
        monkeypatch.setattr(app.log, "handlers", [])
        status = COMMANDS[kind].main(as_arguments(flags))
        err = capsys.readouterr().err
        assert status == 0, err
        meta = json.loads((tmp_path / "out" / "bert_tools.json").read_text())
        return meta["labels"], newest(tmp_path / "out"), err

    return train


def assert_rows(weights, head, rows):
    for name in head:
        np.testing.assert_array_equal(weights[name], head[name][rows], err_msg=name)
    assert_dense(weights)


def assert_dense(weights):
    for name, array in zip(pooling.DENSE, DENSE, strict=True):
        np.testing.assert_array_equal(weights.get(name, array), array, err_msg=name)


@pytest.mark.parametrize(
    "kind, theirs", [(kind, False) for kind in KINDS] + [(kind, True) for kind in KINDS[:3]]
)
def test_the_order_of_the_head_stays(write, train, kind, theirs):
    old = TAGS if kind == "tag" else OLD
    folder, head = write(kind, old, theirs)
    labels, weights, err = train(kind, sorted(old), folder)
    assert labels == old
    assert_rows(weights, head, [0, 1, 2])
    assert f"INFO {folder}: training goes on with its head; the columns are {', '.join(old)}" in err


@pytest.mark.parametrize("kind", KINDS)
def test_classes_that_the_new_data_lacks_stay(write, train, kind):
    """Of tags: those of BIOES, where the data is in BIO."""
    old = ["S-X", "I-X", "O", "B-X", "E-X"] if kind == "tag" else [*OLD, "art"]
    folder, head = write(kind, old)
    labels, weights, _ = train(kind, ["O", "B-X"] if kind == "tag" else OLD[1:], folder)
    assert labels == old
    assert_rows(weights, head, [*range(len(old))])


@pytest.mark.parametrize("kind", KINDS[:2])
def test_labels_reorder_the_head(write, train, kind):
    folder, head = write(kind, OLD)
    labels, weights, _ = train(kind, OLD, folder, labels="film,sport,politics")
    assert labels == ["film", "sport", "politics"]
    assert_rows(weights, head, [2, 0, 1])


@pytest.mark.parametrize("kind", KINDS)
def test_other_classes_get_a_new_head(write, train, kind):
    """As many as the old head has rows."""
    old, new = (["O", "B-Z", "I-Z"], TAGS) if kind == "tag" else (OLD, ["sport", "art", "food"])
    folder, head = write(kind, old)
    labels, weights, err = train(kind, new, folder)
    assert sorted(labels) == sorted(new)
    reason = f"its head tells {', '.join(old)} apart, this task's labels are {', '.join(labels)}"
    source = folder / "bert_model.ckpt" if kind == "siamese" else folder
    assert f"WARNING {source}: {reason}; training starts with a new head" in err
    kernel, bias = head
    assert not np.any(weights[kernel] == head[kernel])
    # Of several labels, each begins with how frequent it is: 1 of 3.
    expected = np.log(6.5 / 12.5) if kind == "multi_label" else 0
    np.testing.assert_allclose(weights[bias], expected, rtol=1e-6)
    assert_dense(weights)


@pytest.mark.parametrize("name", ["bert_model.ckpt", ""])
def test_a_checkpoint_of_a_folder_that_names_its_classes(write, train, toy_model, tmp_path, name):
    """--init_checkpoint in place of --bert; a folder stands for its newest checkpoint."""
    folder, head = write("classify", OLD)
    google.write(str(tmp_path / "google"), hub.load(str(folder)))
    flags = {"bert_config_file": f"{toy_model}/bert_config.json"}
    flags |= {"vocab_file": f"{toy_model}/vocab.txt"}
    folder = tmp_path / "google"
    (folder / "checkpoint").write_text('model_checkpoint_path: "bert_model.ckpt"\n')
    flags |= {"init_checkpoint": folder / name}
    labels, weights, _ = train("classify", OLD[1:], None, **flags)
    assert labels == OLD
    assert_rows(weights, head, [0, 1, 2])


def test_a_task_with_labels_of_its_own(write, train, tmp_path):
    """mnli's are in another order."""
    folder, head = write("classify", ["entailment", "neutral", "contradiction"])
    header = "\t".join(["index", *"1234567", "sentence1", "sentence2", "label1", "gold_label"])
    (tmp_path / "mnli").mkdir()
    rows = "".join(
        "\t".join([*"01234567", "a b", "c", "x", n]) + "\n" for n in ("neutral", "entailment")
    )
    (tmp_path / "mnli" / "train.tsv").write_text(f"{header}\n{rows}{rows}")
    columns = {"task_name": "mnli", "text_column": None, "label_column": None}
    labels, weights, _ = train("classify", [], folder, **columns, data_dir=tmp_path / "mnli")
    assert labels == ["entailment", "neutral", "contradiction"]
    assert_rows(weights, head, [0, 1, 2])


def test_scoring_with_labels_in_another_order(write, capsys, monkeypatch, tmp_path):
    """The numbers of a class are its own, whichever column they are put in."""
    folder, _ = write("classify", OLD, theirs=True)
    (tmp_path / "texts.tsv").write_text("a b\nc\n")
    found = []
    for labels in (None, "film,sport,politics"):
        monkeypatch.setattr(app.log, "handlers", [])
        flags = {"bert": folder, "predict_file": tmp_path / "texts.tsv", "max_seq_length": 8}
        flags.update(text_column=0, labels=labels)
        assert run_classifier.main(as_arguments(flags)) == 0
        lines = map(json.loads, capsys.readouterr().out.splitlines())
        found.append([(line["label"], line["probabilities"]) for line in lines])
    assert list(found[0][0][1]) == OLD and list(found[1][0][1]) == ["film", "sport", "politics"]
    for (label, values), (other, others) in zip(*found, strict=True):
        assert label == other and values == pytest.approx(others, rel=1e-4)
