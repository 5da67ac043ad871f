"""The classification task: its files, labels, head, loss and rows."""

import numpy as np
import pytest
import tensorflow as tf

from bert_tools.errors import UserError
from bert_tools.inputs.examples import InputExample
from bert_tools.tasks import classify
from bert_tools.tasks.classify import DATA_SETS, Classification


def read(task_name, folder, split):
    source = DATA_SETS[task_name]
    parse_label = Classification(source.labels, aliases=source.aliases).parse_label
    return source.load(str(folder), split, parse_label)[1]


def as_tuples(examples):
    return [(e.text_a, e.text_b, e.label) for e in examples]


# Files as they ship. Each text names the column that it stands in.

NLI = "index\tpromptID\tpairID\tgenre\ts1_b\ts2_b\ts1_p\ts2_p\tsentence1\tsentence2\t"


@pytest.mark.parametrize(
    "task_name, files, expected",
    [
        (
            "cola",
            {
                "train.tsv": "gj04\t1\t\tOne.\ngj04\t0\t*\tTwo.\n",
                "test.tsv": "index\tsentence\n0\tThree.\n",
            },
            {"train": [("One.", None, "1"), ("Two.", None, "0")], "test": [("Three.", None, None)]},
        ),
        (
            "mrpc",
            {
                "train.tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
                '1\t1\t2\tA "b\tC\n',
                "test.tsv": "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\tD\tE\n",
            },
            {"train": [('A "b', "C", "1")], "test": [("D", "E", None)]},
        ),
        (
            "mnli",
            {
                "train.tsv": NLI
                + "label1\tgold_label\n0\t1\t2\t3\t4\t5\t6\t7\tA\tB\tneutral\tentailment\n",
                "dev_matched.tsv": NLI
                + "label1\tgold_label\n0\t1\t2\t3\t4\t5\t6\t7\tA\tB\tx\tneutral\n",
                "dev_mismatched.tsv": NLI
                + "label1\tgold_label\n0\t1\t2\t3\t4\t5\t6\t7\tM\tN\tx\tneutral\n",
                "test_matched.tsv": NLI.strip() + "\n0\t1\t2\t3\t4\t5\t6\t7\tC\tD\n",
                "test_mismatched.tsv": NLI.strip() + "\n0\t1\t2\t3\t4\t5\t6\t7\tO\tP\n",
            },
            {
                "train": [("A", "B", "entailment")],
                "dev": [("A", "B", "neutral")],
                "dev_mm": [("M", "N", "neutral")],
                "test": [("C", "D", None)],
                "test_mm": [("O", "P", None)],
            },
        ),
        (
            "xnli",
            {
                "multinli/multinli.train.zh.tsv": "premise\thypo\tlabel\n我\t你\tcontradictory\n",
                "xnli.dev.tsv": "language\tgold_label\t2\t3\t4\t5\tsentence1\tsentence2\n"
                "ar\tneutral\t\t\t\t\tx\ty\nzh\tneutral\t\t\t\t\t他\t她\n",
                "xnli.test.tsv": "language\tgold_label\t2\t3\t4\t5\tsentence1\tsentence2\n"
                "zh\tneutral\t\t\t\t\t甲\t乙\nde\tneutral\t\t\t\t\tx\ty\n",
            },
            {
                "train": [("我", "你", "contradiction")],
                "dev": [("他", "她", "neutral")],
                "test": [("甲", "乙", None)],
            },
        ),
        (
            "sst-2",
            {
                "dev.tsv": "sentence\tlabel\nfine \t1\n",
                "test.tsv": "index\tsentence\n0\tbad\n",
            },
            {"dev": [("fine ", None, "1")], "test": [("bad", None, None)]},
        ),
        (
            "qqp",
            {
                "train.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
                "1\t2\t3\tA?\tB?\t0\n4\t5\t6\tbroken\n7\t8\t9\tC?\tD?\t1\n",
                "test.tsv": "id\tquestion1\tquestion2\n0\tE?\tF?\n",
            },
            {"train": [("A?", "B?", "0"), ("C?", "D?", "1")], "test": [("E?", "F?", None)]},
        ),
        (
            "qnli",
            {
                "train.tsv": "index\tquestion\tsentence\tlabel\n0\tQ?\tS\tnot_entailment\n",
                "test.tsv": "index\tquestion\tsentence\n0\tQ?\tS\n",
            },
            {"train": [("Q?", "S", "not_entailment")], "test": [("Q?", "S", None)]},
        ),
        (
            "rte",
            {"dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA\tB\tentailment\n"},
            {"dev": [("A", "B", "entailment")]},
        ),
        (
            "wnli",
            {"dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA\tB\t1\n"},
            {"dev": [("A", "B", "1")]},
        ),
        (
            "lcqmc",
            {"dev.tsv": "问\t答\t1\n", "test.tsv": "问\t答\n"},
            {"dev": [("问", "答", "1")], "test": [("问", "答", None)]},
        ),
        (
            "chnsenticorp",
            {"dev.tsv": "label\ttext_a\n1\t很好\n", "test.tsv": "label\ttext_a\n\t不好\n"},
            {"dev": [("很好", None, "1")], "test": [("不好", None, None)]},
        ),
        (
            "ocnli",
            {
                "train.3k.json": '{"sentence1": "small", "sentence2": "b", "label": "neutral"}\n',
                "train.50k.json": '{"sentence1": "a", "sentence2": "b", "label": "neutral"}\n'
                '{"sentence1": "c", "sentence2": "d", "label": "-"}\n',
                "test.json": '{"sentence1": "e", "sentence2": "f", "id": 0}\n',
            },
            {"train": [("a", "b", "neutral")], "test": [("e", "f", None)]},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_columns(tmp_path, task_name, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    for split, tuples in expected.items():
        assert as_tuples(read(task_name, tmp_path, split)) == tuples


def test_every_task_is_tested_and_the_originals_orders_stay():
    names = "cola mnli mrpc xnli sst-2 qqp qnli rte wnli lcqmc chnsenticorp ocnli"
    assert " ".join(DATA_SETS) == names
    for name in ("mnli", "xnli"):
        assert DATA_SETS[name].labels == ("contradiction", "entailment", "neutral")
    for name in ("cola", "mrpc"):
        assert DATA_SETS[name].labels == ("0", "1")


@pytest.mark.parametrize(
    "task_name, folder, split, count, positive",
    [
        ("mrpc", "glue/MRPC", "train", 3668, 2474),
        ("mrpc", "glue/MRPC", "dev", 408, 279),
        ("mrpc", "glue/MRPC", "test", 1725, 0),
        ("sst-2", "glue/SST-2", "train", 67349, 37569),
        ("sst-2", "glue/SST-2", "dev", 872, 444),
        ("cola", "glue/CoLA", "train", 8551, 6023),
        ("cola", "glue/CoLA", "dev", 1043, 721),
        ("chnsenticorp", "chnsenticorp", "train", 9600, 4799),
        ("chnsenticorp", "chnsenticorp", "dev", 1200, 593),
        ("lcqmc", "lcqmc", "dev", 8802, 4402),
    ],
)
def test_whole_real_files(shared, task_name, folder, split, count, positive):
    found = read(task_name, shared / "data" / folder, split)
    assert len(found) == count
    assert sum(example.label == "1" for example in found) == positive
    assert all(example.text_a for example in found)


def test_whole_real_quora_pairs(shared, tmp_path):
    (tmp_path / "train.tsv").symlink_to(shared / "data" / "quora" / "quora_pairs_subset.tsv")
    found = read("qqp", tmp_path, "train")
    assert len(found) == 15000 and all(example.text_b for example in found)


@pytest.mark.parametrize("split, count, unlabelled", [("train", 2994, 6), ("dev", 2950, 50)])
def test_whole_real_ocnli(shared, caplog, split, count, unlabelled):
    caplog.set_level("INFO", logger="bert_tools")
    found = read("ocnli", shared / "data" / "ocnli", split)
    assert len(found) == count
    assert {example.label for example in found} == {"contradiction", "entailment", "neutral"}
    assert f"{unlabelled} examples without a label left out" in caplog.text


def test_unlabelled_rows_are_no_bad_lines(tmp_path):
    (tmp_path / "dev.json").write_text('{"sentence1": "a", "sentence2": "b", "label": "-"}\n')
    with pytest.raises(UserError, match=r"dev\.json: holds no usable line"):
        read("ocnli", tmp_path, "dev")


# Labels.


@pytest.mark.parametrize(
    "cell, label",
    [
        ("1", "1"),
        (" spam ", "spam"),
        (0, "0"),
        (True, "true"),
        (np.int64(3), "3"),
        ("体育", "体育"),
    ],
)
def test_parse_label(cell, label):
    assert classify.parse_label(cell) == label


@pytest.mark.parametrize("cell", ["", "  ", None, float("nan"), ["a"], {"a": 1}])
def test_no_label(cell):
    with pytest.raises(ValueError, match="expected a label, found"):
        classify.parse_label(cell)


@pytest.mark.parametrize(
    "labels, order",
    [
        (["10", "9", "-1"], ["-1", "9", "10"]),
        (["10", "9", "x"], ["10", "9", "x"]),
        (["b", "B", "ä", "a"], ["B", "a", "b", "ä"]),
        (["1.5", "1"], ["1", "1.5"]),
    ],
)
def test_labels_of(labels, order):
    examples = [InputExample("", "a", None, label) for label in [*labels, labels[0]]]
    assert classify.labels_of(examples, "train.tsv") == order


def test_one_label_alone():
    with pytest.raises(UserError, match=r"train\.tsv: every example has the label 'x'"):
        classify.labels_of([InputExample("", "a", None, "x")] * 3, "train.tsv")


def test_unknown_label():
    with pytest.raises(ValueError, match=r"the label 'c' is none of the model's: a, b$"):
        Classification(["a", "b"]).parse_label("c")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"labels": ["a"]}, "--labels=a: expected two labels or more"),
        ({"labels": ["a", "b", "a"]}, "--labels=a,b,a: expected two labels or more, each once"),
        ({"labels": ["a", "b"], "positive_label": "c"}, "--positive_label=c: expected one of a, b"),
        ({"labels": "abc", "positive_label": "c"}, "--positive_label=c: there are 3 labels"),
        ({"labels": "abc", "class_weights": [1, 2]}, "--class_weights: 2 weights for 3 labels"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        Classification(**arguments)


def test_balanced_weights():
    """8 examples of 2 labels: 6 and 2."""
    examples = [InputExample("", "a", None, label) for label in "aaaaaabb"]
    assert classify.balanced_weights(examples, ["a", "b"]) == [8 / 2 / 6, 8 / 2 / 2]


# Head and loss.

WEIGHTS = {
    "output_weights": tf.constant([[1.0, 0], [0, 1], [1, 1]]),
    "output_bias": tf.constant([0.0, 0.5, -1]),
}
POOLED = np.array([[1, 2], [3, -1]], np.float32)
LOGITS = np.array([[1, 2.5, 2], [3, -0.5, 1]])
LOG_PROBABILITIES = LOGITS - np.log(np.exp(LOGITS).sum(axis=1, keepdims=True))


def apply(label_ids=(2, 0), training=False, **arguments):
    task = Classification(["x", "y", "z"], **arguments)
    features = {"label_ids": tf.constant(label_ids, tf.int64)}
    loss, predictions = task.apply(WEIGHTS, tf.constant(POOLED), features, training)
    return loss.numpy(), {name: value.numpy() for name, value in predictions.items()}


def test_predictions():
    loss, found = apply()
    names = {"log_probabilities", "probabilities", "labels", "pooled_output"}
    assert found.keys() == names
    np.testing.assert_allclose(found["log_probabilities"], LOG_PROBABILITIES, rtol=1e-6)
    np.testing.assert_allclose(found["probabilities"], np.exp(LOG_PROBABILITIES), rtol=1e-6)
    assert found["labels"].tolist() == [1, 0] and found["labels"].dtype == np.int32
    np.testing.assert_array_equal(found["pooled_output"], POOLED)
    np.testing.assert_allclose(loss, -LOG_PROBABILITIES[[0, 1], [2, 0]], rtol=1e-6)


def test_predict_fields():
    _, found = apply(predict_fields=("logits",))
    assert found.keys() == {"logits", "probabilities", "labels"}
    np.testing.assert_allclose(found["logits"], LOGITS)


def test_class_weights_and_smoothing_count_in_training_alone():
    plain = -LOG_PROBABILITIES[[0, 1], [2, 0]]
    smooth = 0.7 * plain - 0.3 * LOG_PROBABILITIES.mean(axis=1)
    arguments = {"class_weights": [2.0, 1.0, 0.5], "label_smoothing": 0.3}
    loss, _ = apply(training=True, **arguments)
    np.testing.assert_allclose(loss, smooth * [0.5, 2.0], rtol=1e-6)
    np.testing.assert_allclose(apply(**arguments)[0], plain, rtol=1e-6)


# Rows.

PREDICTION = {
    "probabilities": np.array([0.1, 0.7, 0.2], np.float32),
    "log_probabilities": np.array([-2.3, -0.35, -1.6], np.float32),
    "labels": np.int32(1),
    "pooled_output": np.array([0.5, -0.25], np.float32),
}


def test_row():
    assert Classification(["x", "y", "z"]).row(PREDICTION) == "0.1\t0.7\t0.2"
    fields = ("labels", "log_probabilities", "pooled_output")
    row = Classification(["x", "y", "z"], predict_fields=fields).row(PREDICTION)
    assert row == "y\t-2.3\t-0.35\t-1.6\t0.5\t-0.25"


def test_record():
    assert Classification(["x", "y", "z"]).record(PREDICTION) == {
        "label": "y",
        "probability": 0.7,
        "probabilities": {"x": 0.1, "y": 0.7, "z": 0.2},
    }
    task = Classification(["x", "y", "z"], predict_fields=("labels", "pooled_output"))
    assert task.record(PREDICTION) == {
        "label": "y",
        "probability": 0.7,
        "pooled_output": [0.5, -0.25],
    }


def test_combine_windows():
    """What windows said, as means, where the first field's mean is no prediction any more."""
    means = {
        "probabilities": np.array([[0.5, 0.3, 0.2], [0.0, 0.0, 1.0]], np.float32),
        "log_probabilities": np.array([[-9, -9, -9], [-9, -9, -9]], np.float32),
        "labels": np.array([0.7, 1.2], np.float32),
        "per_example_loss": np.array([1.0, 2.0], np.float32),
    }
    found = Classification(["x", "y", "z"]).combine_windows(means)
    assert found["labels"].tolist() == [0, 2] and found["labels"].dtype == np.int32
    np.testing.assert_allclose(found["log_probabilities"][0], np.log([0.5, 0.3, 0.2]), rtol=1e-6)
    assert np.isfinite(found["log_probabilities"]).all()
    np.testing.assert_array_equal(found["probabilities"], means["probabilities"])
    np.testing.assert_array_equal(found["per_example_loss"], [1, 2])
