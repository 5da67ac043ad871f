"""The regression task: its data sets, the mapping of values, head, losses, metrics and rows."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from bert_tools.errors import UserError
from bert_tools.tasks.regress import DATA_SETS, Regression

RANGE = (-1.0, 4.0)


def write(folder, text, split="train"):
    (folder / f"{split}.tsv").write_bytes(text.encode() if isinstance(text, str) else text)


def read(folder, split="train", name="sim"):
    source = DATA_SETS[name]
    return source.load(str(folder), split, Regression(value_range=source.value_range).parse_label)


def as_tuples(examples):
    return [(e.guid, e.text_a, e.text_b, e.label) for e in examples]


def test_reads_pairs_and_values(tmp_path):
    write(tmp_path, 'one\ttwo\t0.5\n"three\ttoo " four\t1\tfurther\tcolumns\r\n\n五\t六\t0\n')
    path, examples = read(tmp_path)
    assert path == str(tmp_path / "train.tsv")
    assert as_tuples(examples) == [
        ("train-0", "one", "two", 0.5),
        ("train-1", '"three', 'too " four', 1.0),
        ("train-2", "五", "六", 0.0),
    ]


def test_first_line_is_no_header(tmp_path):
    write(tmp_path, "text_a\ttext_b\tvalue\na\tb\t1\n")
    with pytest.raises(UserError, match=r"train\.tsv:1: expected a number, found 'value'"):
        read(tmp_path)


@pytest.mark.parametrize("third", ["", "\t0.5", "\tnot a number", "\t\tx"])
def test_value_of_a_test_file_is_not_read(tmp_path, third):
    write(tmp_path, f"a\tb{third}\n", "test")
    assert as_tuples(read(tmp_path, "test")[1]) == [("test-0", "a", "b", None)]


@pytest.mark.parametrize(
    "split, text, message",
    [
        ("train", "a\tb\t1\na\tb\n", r"train\.tsv:2: expected at least 3 tab-separated columns"),
        ("dev", "a b 1\n", r"dev\.tsv:1: expected at least 3 .*found 1 \('a b 1'\)"),
        ("test", "a\tb\n\na\tb\n", r"test\.tsv:2: expected at least 2 .*found 0 \(''\)"),
        ("train", "a\tb\t\n", r"train\.tsv:1: expected a number, found ''"),
        ("train", "a\tb\tnan\n", r"train\.tsv:1: expected a number, found 'nan'"),
        (
            "dev",
            "a\tb\t0\na\tb\t4.2\n",
            r"dev\.tsv:2: the value 4\.2 lies outside 0\.\.1, .*--value_",
        ),
        ("train", "a\tb\t0\na\xe9\tb\t1\n".encode("latin1"), r"train\.tsv:2: not UTF-8"),
        ("train", "\n\n", r"train\.tsv: the file is empty"),
    ],
)
def test_malformed_file(tmp_path, split, text, message):
    write(tmp_path, text, split)
    with pytest.raises(UserError, match=message):
        read(tmp_path, split)


def test_glue_sts_b_is_the_benchmark(shared):
    """GLUE's files beside another copy of the data, whose scores are rounded after the mapping."""
    for split, count in (("train", 5749), ("dev", 1500), ("test", 1379)):
        _, glue = read(shared / "data/glue/STS-B", split, "sts-b")
        _, other = read(shared / "data/stsb/en", split)
        assert len(glue) == count
        assert [(e.guid, e.text_a, e.text_b) for e in glue] == [
            (e.guid, e.text_a, e.text_b) for e in other
        ]
        if split == "test":
            assert {e.label for e in glue} == {None}
        else:
            values = np.array([e.label for e in glue])
            np.testing.assert_allclose(values, [e.label for e in other], rtol=0, atol=5e-5)
            assert (values.min(), values.max()) == (0, 1)


@pytest.mark.parametrize(
    "task, cell, label",
    [
        (Regression(), "0.25", 0.25),
        (Regression(), "1", 1.0),
        (Regression(use_sigmoid_act=False), "-7.5", -7.5),
        (Regression(value_range=RANGE), "-1", 0.0),
        (Regression(value_range=RANGE), "4", 1.0),
        (Regression(value_range=RANGE), 1.5, 0.5),
        (Regression(False, value_range=RANGE), "1.5", 0.5),
    ],
)
def test_parse_label(task, cell, label):
    assert task.parse_label(cell) == label


@pytest.mark.parametrize(
    "task, cell, message",
    [
        (Regression(), "-0.001", r"the value -0\.001 lies outside 0\.\.1, .*use_sigmoid_act=false"),
        (Regression(), "1.001", r"the value 1\.001 lies outside 0\.\.1, .*--value_range=LOW,HIGH"),
        (Regression(value_range=RANGE), "4.5", "the value 4.5 lies outside --value_range=-1,4"),
        (Regression(False, value_range=RANGE), "-2", "the value -2 lies outside --value_range=-1,"),
        (Regression(use_sigmoid_act=False), "1e999", "expected a number, found '1e999'"),
        (Regression(), None, "expected a number, found 'None'"),
    ],
)
def test_labels_that_are_refused(task, cell, message):
    with pytest.raises(ValueError, match=message):
        task.parse_label(cell)


@pytest.mark.parametrize("value_range", [None, RANGE])
@pytest.mark.parametrize(
    "use_sigmoid_act, loss", [(True, "mse"), (False, "mse"), (True, "logistic")]
)
def test_head_and_loss(toy_config, use_sigmoid_act, loss, value_range):
    task = Regression(use_sigmoid_act, value_range, loss)
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in task.head_shapes(toy_config).items()
    }
    assert {n: w.shape for n, w in weights.items()} == {
        "output_weights": (1, toy_config.hidden_size),
        "output_bias": (1,),
    }
    pooled = rng.normal(size=(4, toy_config.hidden_size)).astype(np.float32)
    vals = np.array([0, 0.3, 0.6, 1], np.float32)
    losses, predictions = task.apply(weights, tf.constant(pooled), {"vals": tf.constant(vals)})
    output = pooled.astype(np.float64) @ weights["output_weights"][0] + weights["output_bias"]
    if use_sigmoid_act:
        output = 1 / (1 + np.exp(-output))
    if loss == "mse":
        expected = np.square(output - vals)
    else:
        expected = -vals * np.log(output) - (1 - vals) * np.log(1 - output)
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-6)
    in_units = output if value_range is None else -1 + 5 * output
    np.testing.assert_allclose(predictions["output"], in_units, rtol=1e-5, atol=1e-6)
    assert predictions["output"].dtype == losses.dtype == tf.float32


def test_logistic_loss_far_from_zero():
    """Where the sigmoid is 0 or 1 in float32 the loss is still the distance, and finite."""
    weights = {
        "output_weights": np.ones((1, 1), np.float32),
        "output_bias": np.zeros(1, np.float32),
    }
    pooled = tf.constant([[200.0], [-200.0], [200.0], [0.0]])
    losses, _ = Regression(loss="logistic").apply(
        weights, pooled, {"vals": tf.constant([0.0, 1.0, 1.0, 0.5])}
    )
    np.testing.assert_allclose(losses, [200, 200, 0, np.log(2)], rtol=1e-6)


def test_logistic_loss_needs_the_sigmoid():
    with pytest.raises(UserError, match=r"--loss=logistic needs the sigmoid; .*--loss=mse"):
        Regression(use_sigmoid_act=False, loss="logistic")


@pytest.mark.parametrize("value_range", [None, RANGE])
def test_values_come_back_in_their_units(value_range):
    """A model that is right predicts the values of the file, with no error."""
    task = Regression(False, value_range)
    values = [-1.0, 0.3, 2.0, 4.0]
    vals = np.array([task.parse_label(value) for value in values], np.float32)
    weights = {
        "output_weights": np.ones((1, 1), np.float32),
        "output_bias": np.zeros(1, np.float32),
    }
    _, predictions = task.apply(weights, tf.constant(vals[:, None]), {"vals": tf.constant(vals)})
    output = predictions["output"].numpy()
    np.testing.assert_allclose(output, values, rtol=1e-6)
    assert task.metrics({"output": output}, {"vals": vals})["mae"] == pytest.approx(0, abs=1e-6)
    assert float(task.row({"output": output[1]})) == pytest.approx(0.3)


@pytest.mark.parametrize("value_range, scale, shift", [(None, 1, 0), (RANGE, 5, -1)])
def test_metrics(value_range, scale, shift):
    rng = np.random.default_rng(0)
    vals = rng.random(50).astype(np.float32)
    output = (scale * (vals + rng.normal(0, 0.3, 50)) + shift).astype(np.float32)
    found = Regression(value_range=value_range).metrics({"output": output}, {"vals": vals})
    in_units = scale * vals + shift
    assert found == pytest.approx(
        {
            "mae": np.abs(output - in_units).mean(),
            "pearson": stats.pearsonr(output, in_units).statistic,
            "spearman": stats.spearmanr(output, in_units).statistic,
        },
        rel=1e-5,
    )
    assert all(type(value) is float for value in found.values())


@pytest.mark.parametrize("output, vals", [([0.5, 0.5], [0, 1]), ([0, 1], [1, 1]), ([0.2], [0.4])])
def test_correlation_of_constants_is_nan(recwarn, output, vals):
    predictions = {"output": np.array(output, np.float32)}
    found = Regression().metrics(predictions, {"vals": np.array(vals, np.float32)})
    assert np.isnan(found["pearson"]) and np.isnan(found["spearman"])
    assert np.isfinite(found["mae"])
    assert not recwarn.list


def test_what_is_written_of_an_example():
    value = np.float32(0.123456789)
    row = Regression().row({"output": value})
    assert np.float32(row) == value and len(row) < 13
    record = Regression().record({"output": value})
    assert record == {"value": float(value)} and type(record["value"]) is float


def test_description():
    assert Regression().description() == {
        "value_range": None,
        "use_sigmoid_act": True,
        "loss": "mse",
        "head_pooling": "pooled",
    }
    assert Regression(True, (0.0, 5.0), "logistic").description() == {
        "value_range": [0.0, 5.0],
        "use_sigmoid_act": True,
        "loss": "logistic",
        "head_pooling": "pooled",
    }
