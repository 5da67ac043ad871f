"""The regression task: its files, head, loss, metrics and rows."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from bert_tools.errors import UserError
from bert_tools.inputs.examples import InputExample
from bert_tools.tasks import regress

SIM = regress.DATA_SETS["sim"]


def write(folder, text, split="train"):
    path = folder / f"{split}.tsv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def read(folder, split="train"):
    return regress.read_examples(SIM, str(folder), split)[1]


def as_tuples(examples):
    return [(e.guid, e.text_a, e.text_b, e.label) for e in examples]


@pytest.mark.parametrize("name", ["sim", "SIM", "Sim"])
def test_task_name_in_any_case(name):
    assert regress.data_set(name) is SIM


def test_no_such_task():
    with pytest.raises(UserError, match=r"--task_name=mrpc: no such task; tasks of run_reg: sim"):
        regress.data_set("mrpc")


def test_reads_pairs_and_values(tmp_path):
    path = write(
        tmp_path, 'one\ttwo\t0.5\n"three\ttoo " four\t1\tfurther\tcolumns\r\n\n五\t六\t0\n'
    )
    found, examples = regress.read_examples(SIM, str(tmp_path), "train")
    assert found == path
    assert as_tuples(examples) == [
        ("train-0", "one", "two", 0.5),
        ("train-1", '"three', 'too " four', 1.0),
        ("train-2", "五", "六", 0.0),
    ]


def test_first_line_is_no_header(tmp_path):
    write(tmp_path, "text_a\ttext_b\tvalue\na\tb\t1\n")
    with pytest.raises(UserError, match=r"train\.tsv:1: expected a number, found 'value'"):
        read(tmp_path)


def test_dev_file(tmp_path):
    write(tmp_path, "a\tb\t0.25\n", "dev")
    assert as_tuples(read(tmp_path, "dev")) == [("dev-0", "a", "b", 0.25)]


@pytest.mark.parametrize("third", ["", "\t0.5", "\tnot a number", "\t\tx"])
def test_value_of_a_test_file_is_not_read(tmp_path, third):
    write(tmp_path, f"a\tb{third}\n", "test")
    assert as_tuples(read(tmp_path, "test")) == [("test-0", "a", "b", None)]


@pytest.mark.parametrize(
    "split, text, message",
    [
        ("train", "a\tb\t1\na\tb\n", r"train\.tsv:2: expected at least 3 tab-separated columns"),
        ("dev", "a b 1\n", r"dev\.tsv:1: expected at least 3 .*found 1 \('a b 1'\)"),
        ("test", "a\tb\n\nonly\n", r"test\.tsv:3: expected at least 2 .*found 1 \('only'\)"),
        ("train", "a\tb\tone\n", r"train\.tsv:1: expected a number, found 'one'"),
        ("train", "a\tb\t\n", r"train\.tsv:1: expected a number, found ''"),
        ("train", "a\tb\tnan\n", r"train\.tsv:1: expected a number, found 'nan'"),
        ("train", "a\tb\t1e999\n", r"train\.tsv:1: expected a number, found '1e999'"),
        ("train", "a\tb\t0\na\xe9\tb\t1\n".encode("latin1"), r"train\.tsv:2: not UTF-8"),
        ("train", "", r"train\.tsv: the file is empty"),
        ("train", "\n\n", r"train\.tsv: the file is empty"),
    ],
)
def test_malformed_file(tmp_path, split, text, message):
    write(tmp_path, text, split)
    with pytest.raises(UserError, match=message):
        read(tmp_path, split)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"train\.tsv: no such file; check --data_dir"):
        read(tmp_path)


@pytest.mark.parametrize("value", [-0.001, 1.001, 5.0])
def test_values_that_a_sigmoid_cannot_meet(value):
    examples = [InputExample("dev-0", "a", "b", 0.0), InputExample("dev-1", "a", "b", value)]
    with pytest.raises(UserError, match=rf"f\.tsv: example dev-1 .*{value}.*use_sigmoid_act=false"):
        regress.require_sigmoid_range("f.tsv", examples)
    examples[1].label = 1.0
    regress.require_sigmoid_range("f.tsv", examples)


def test_record_columns():
    examples = [InputExample("", "a", label=0.3), InputExample("", "b", label=None)]
    (name, values), *rest = regress.Regression().example_columns(examples).items()
    assert (name, rest) == ("vals", [])
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, np.array([0.3, -1], np.float32))


@pytest.mark.parametrize("use_sigmoid_act", [True, False])
def test_head(toy_config, use_sigmoid_act):
    task = regress.Regression(use_sigmoid_act)
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
    loss, predictions = task.apply(weights, tf.constant(pooled), {"vals": tf.constant(vals)})
    expected = pooled @ weights["output_weights"][0] + weights["output_bias"]
    if use_sigmoid_act:
        expected = 1 / (1 + np.exp(-expected))
    np.testing.assert_allclose(predictions["output"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(loss, np.square(expected - vals), rtol=1e-4, atol=1e-6)


def test_metrics():
    rng = np.random.default_rng(0)
    vals = rng.random(50).astype(np.float32)
    output = (vals + rng.normal(0, 0.3, 50)).astype(np.float32)
    found = regress.Regression().metrics({"output": output}, {"vals": vals})
    assert found == pytest.approx(
        {
            "mae": np.abs(output - vals).mean(),
            "pearson": stats.pearsonr(output, vals).statistic,
            "spearman": stats.spearmanr(output, vals).statistic,
        },
        rel=1e-5,
    )
    assert all(type(value) is float for value in found.values())


@pytest.mark.parametrize("output, vals", [([0.5, 0.5], [0, 1]), ([0, 1], [1, 1]), ([0.2], [0.4])])
def test_correlation_of_constants_is_nan(recwarn, output, vals):
    predictions = {"output": np.array(output, np.float32)}
    found = regress.Regression().metrics(predictions, {"vals": np.array(vals, np.float32)})
    assert np.isnan(found["pearson"]) and np.isnan(found["spearman"])
    assert np.isfinite(found["mae"])
    assert not recwarn.list


def test_row_is_the_float32_value_in_full():
    value = np.float32(0.123456789)
    row = regress.Regression().row({"output": value})
    assert np.float32(row) == value and len(row) < 13


def test_description():
    assert regress.Regression().description() == {"value_range": [0.0, 1.0]}
    assert regress.Regression(use_sigmoid_act=False).description() == {"value_range": None}
