"""run_reg's tasks and what decides how they are trained: columns and readers of one's own, ranges
of values, losses, the best checkpoint.
"""

import csv
import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
from cli_toys import as_arguments, newest, plain, records, results_of, toy_flags, values_of

from bert_tools import encoder, hub
from bert_tools.cli import convert_checkpoint, phases
from bert_tools.hub import google
from bert_tools.tokenization import FullTokenizer


def rows_of(toy_data, split):
    text = pathlib.Path(toy_data, f"{split}.tsv").read_text()
    return [line.split("\t") for line in text.splitlines()]


def write_values(toy_data, change):
    """Changes the third column of train.tsv and dev.tsv."""
    for split in ("train", "dev"):
        lines = [f"{a}\t{b}\t{change(float(v))}\n" for a, b, v in rows_of(toy_data, split)]
        pathlib.Path(toy_data, f"{split}.tsv").write_text("".join(lines))


def description(folder):
    return json.loads((folder / "bert_tools.json").read_text())


ALL = {"do_train": True, "do_eval": True, "do_predict": True, "num_train_epochs": 1}


# --task_name=csv.


def write_own_files(folder, toy_data, kind, names=("premise", "id", "hypothesis", "grade")):
    """The toy data as {train,dev,test}.KIND with columns in another order."""
    folder.mkdir()
    for split in ("train", "dev", "test"):
        rows = [
            [a, str(n), b, *(value if split != "test" else [])]
            for n, (a, b, *value) in enumerate(rows_of(toy_data, split))
        ]
        names_here = names[: len(rows[0])]
        with open(folder / f"{split}.{kind}", "w", encoding="utf-8", newline="") as writer:
            if kind == "jsonl":
                for row in rows:
                    cells = dict(zip(names_here, row, strict=True))
                    if "grade" in cells:
                        cells["grade"] = float(cells["grade"])
                    writer.write(json.dumps(cells) + "\n")
            elif kind == "csv":
                csv.writer(writer, quoting=csv.QUOTE_ALL).writerows([names_here, *rows])
            else:
                writer.writelines("\t".join(row) + "\n" for row in [names_here, *rows])


NAMED = {"text_column": "premise", "text_pair_column": "hypothesis", "value_column": "grade"}


@pytest.mark.parametrize(
    "kind, columns",
    [
        ("csv", NAMED),
        ("jsonl", NAMED),
        ("tsv", NAMED),
        (
            "csv",
            {"text_column": 0, "text_pair_column": 2, "value_column": 3, "header": True},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value["text_column"]),
)
def test_own_columns(read, toy_data, tmp_path, kind, columns):
    """The same examples as task sim reads."""
    write_own_files(tmp_path / "own", toy_data, kind)
    seen = read(**ALL, task_name="csv", data_dir=tmp_path / "own", **columns)
    assert plain(seen["data"]) == plain(read(**ALL)["data"])


def test_one_text(sim, toy_data, toy_model, tmp_path):
    """No pair column: [CLS] text [SEP]."""
    write_own_files(tmp_path / "own", toy_data, "csv")
    columns = {**NAMED, "text_pair_column": None}
    sim(**ALL, task_name="csv", data_dir=tmp_path / "own", **columns)
    assert description(tmp_path / "out")["pairs"] is False
    tokenizer = hub.load(toy_model).tokenizer
    found = records(tmp_path / "out" / "train.tf_record")
    for features, (text, _, value) in zip(found, rows_of(toy_data, "train"), strict=True):
        tokens = ["[CLS]", *tokenizer.tokenize(text), "[SEP]"]
        assert tokenizer.convert_ids_to_tokens(features["input_ids"]) == tokens
        assert set(features["segment_ids"]) == {0} and features["vals"] == [float(value)]
    assert len(values_of(tmp_path / "out" / "test_results.tsv")) == 5


def test_dev_fraction(read, toy_data, tmp_path):
    """A quarter of the training set, drawn by the seed, none of it trained on."""
    write_own_files(tmp_path / "own", toy_data, "csv")
    (tmp_path / "own" / "dev.csv").unlink()
    flags = {"task_name": "csv", "data_dir": tmp_path / "own", **NAMED, "dev_fraction": 0.25}
    flags.update(do_train=True, do_eval=True)
    found = plain(read(**flags)["data"])
    whole = plain(read(do_train=True)["data"])["train"]
    assert (len(found["train"]), len(found["eval"])) == (18, 6)
    assert sorted(found["train"] + found["eval"]) == sorted(whole)
    assert found["train"] == [row for row in whole if row in found["train"]]
    assert plain(read(**flags)["data"]) == found
    assert plain(read(**flags, seed=3)["data"])["eval"] != found["eval"]
    # Later, alone, it is the same share.
    assert plain(read(**{**flags, "do_train": False})["data"]) == {"eval": found["eval"]}


# --task_module.


READER = """
import os
from bert_tools.inputs.examples import DataProcessor, InputExample

class QuestionsProcessor(DataProcessor):
    '''text, value and pair in one column, with bars between.'''

    def get_train_examples(self, data_dir):
        return self._examples(data_dir, "train")

    def get_dev_examples(self, data_dir):
        return self._examples(data_dir, "dev")

    def get_test_examples(self, data_dir):
        return self._examples(data_dir, "test")

    def _examples(self, data_dir, split):
        rows = self._read_tsv(os.path.join(data_dir, split + ".txt"))
        cells = [row[0].split("|") for row in rows]
        if split == "test":
            cells = [(a, "unknown", b) for a, _, b in cells]
        return [InputExample(f"{split}-{n}", a, b, v) for n, (a, v, b) in enumerate(cells)]

class OtherProcessor(DataProcessor):
    pass
"""


@pytest.fixture
def reader(toy_data, tmp_path):
    """Flags of a module and its data, which are the toy data."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "reader.py").write_text(READER)
    for split in ("train", "dev", "test"):
        lines = [f"{a}|{v}|{b}\n" for a, b, v in rows_of(toy_data, split)]
        (tmp_path / "mine" / f"{split}.txt").write_text("".join(lines))
    return {
        "task_module": tmp_path / "mine" / "reader.py",
        "task_name": "questions",
        "data_dir": tmp_path / "mine",
    }


def test_task_module(read, sim, reader, tmp_path):
    assert plain(read(**ALL, **reader)["data"]) == plain(read(**ALL)["data"])
    sim(**ALL, **reader)
    assert len(values_of(tmp_path / "out" / "test_results.tsv")) == 5


@pytest.mark.parametrize(
    "change, message",
    [
        ({"task_name": "no"}, "--task_name=no: --task_module={path} defines no such DataProcessor"),
        ({"task_name": "other"}, "{path}: get_train_examples is not implemented; write it"),
        ("def broken(:", "--task_module={path}: SyntaxError: "),
        ("raise RuntimeError('why')", "--task_module={path}: RuntimeError: why"),
        (READER.replace('f"{split}-{n}", a, b, v', "'one', a, b, 'x'"), "{path}: example one: "),
        (READER.replace("row[0]", "row[9]"), "{path}: get_train_examples: IndexError: "),
        (READER.replace("return [Inp", "return [] and [Inp"), "get_train_examples gave no example"),
        (READER.replace("a, b, v) for", "a, b, 7) for"), "{path}: example train-0: the value 7"),
    ],
    ids=lambda value: str(value)[-30:].strip(),
)
def test_bad_task_module(refused, reader, tmp_path, change, message):
    path = reader["task_module"]
    if isinstance(change, str):
        path.write_text(change)
        change = {}
    assert message.format(path=path) in refused(**{**reader, **change})
    assert not (tmp_path / "out").exists()


# Values and losses.


def test_value_range(sim, toy_data, tmp_path):
    """Trained as the values in 0..1 are, and mapped back on output."""
    sim(**ALL, output_dir=tmp_path / "unit")
    write_values(toy_data, lambda value: 2 + 8 * value)
    sim(**ALL, output_dir=tmp_path / "ranged", value_range="2,10")
    ranged, unit = (
        {
            "records": records(tmp_path / name / "train.tf_record"),
            "values": np.array(values_of(tmp_path / name / "test_results.tsv")),
            **results_of(tmp_path / name / "eval_results.txt"),
        }
        for name in ("ranged", "unit")
    )
    assert ranged["records"] == unit["records"]
    for name, factor in (("eval_loss", 1), ("mae", 8), ("pearson", 1), ("global_step", 1)):
        assert float(ranged[name]) == pytest.approx(factor * float(unit[name]), rel=1e-4)
    np.testing.assert_allclose(ranged["values"], 2 + 8 * unit["values"], rtol=1e-5)
    assert description(tmp_path / "ranged")["value_range"] == [2.0, 10.0]


def test_logistic_loss(sim, toy_data, tmp_path):
    """eval_loss is the cross-entropy of dev.tsv's values with its predictions."""
    shutil.copy(f"{toy_data}/dev.tsv", f"{toy_data}/test.tsv")
    sim(**ALL, loss="logistic")
    values = np.array([float(row[2]) for row in rows_of(toy_data, "dev")])
    output = np.array(values_of(tmp_path / "out" / "test_results.tsv"))
    expected = -np.mean(values * np.log(output) + (1 - values) * np.log(1 - output))
    found = results_of(tmp_path / "out" / "eval_results.txt")
    assert float(found["eval_loss"]) == pytest.approx(expected, rel=1e-4)
    assert description(tmp_path / "out")["loss"] == "logistic"


@pytest.mark.parametrize("pooling", ["mean", "cls", "pair"])
def test_pooling_of_the_head(sim, run, refused, toy_model, tmp_path, pooling):
    """Kept with the model; layouts of others are told that they cannot have it."""
    out = tmp_path / "out"
    sim(**ALL, pooling=pooling)
    assert description(out)["head_pooling"] == pooling
    expected = (out / "test_results.tsv").read_text()
    for flags in ({}, {"pooling": pooling, "batching": "pad"}):
        sim(do_predict=True, bert=None, **flags)
        found = [float(value) for value in (out / "test_results.tsv").read_text().split()]
        assert found == pytest.approx([float(value) for value in expected.split()], abs=1e-6)
    error = refused(do_train=None, do_eval=True, pooling="pooled", bert=None)
    assert f"--pooling=pooled: the model was trained with {pooling}" in error
    head = {n: w.shape for n, w in hub.load(str(out)).weights.items() if not n.startswith("bert/")}
    assert head == {"output_weights": (1, 32 if pooling == "pair" else 16), "output_bias": (1,)}
    written = str(tmp_path / "hf")
    words = [f"--bert={out}", "--to=huggingface", f"--output_dir={written}"]
    assert convert_checkpoint.main(words) == 0
    assert "output_weights" not in hub.load(written).weights


def test_pooling_of_pairs_needs_pairs(refused, run, sim, toy_data, tmp_path):
    write_own_files(tmp_path / "own", toy_data, "csv")
    columns = {**NAMED, "text_pair_column": None}
    flags = {"task_name": "csv", "data_dir": tmp_path / "own", **columns, "pooling": "pair"}
    assert "a text without a second one (train-" in refused(**flags)
    sim(**ALL, pooling="pair")
    status, _, err = run(bert=tmp_path / "out", predict_file=f"{toy_data}/dev.tsv", text_column=0)
    assert status == 1 and "give --text_pair_column too" in err


def test_a_folder_from_before_the_pooling_flag(sim, refused, tmp_path):
    sim(do_train=True, max_train_steps=1)
    path = tmp_path / "out" / "bert_tools.json"
    stored = json.loads(path.read_text())
    del stored["head_pooling"]
    path.write_text(json.dumps(stored))
    assert 'its model has head_pooling "pooled"' in refused(pooling="mean", max_train_steps=2)
    sim(do_train=True, max_train_steps=2)


def test_later_phases_take_the_flags_of_training(sim, read, toy_data, tmp_path):
    """max_seq_length, use_sigmoid_act, value_range and loss that are not given."""
    write_values(toy_data, lambda value: 10 * value - 5)
    out = tmp_path / "out"
    sim(**ALL, value_range="-5,5", loss="logistic", max_seq_length=8)
    expected = {path.name: path.read_bytes() for path in out.glob("*_results.*")}
    assert len(expected) == 3
    for path in out.glob("*_results.*"):
        path.unlink()
    sim(do_eval=True, do_predict=True, bert=None, max_seq_length=None)
    assert {path.name: path.read_bytes() for path in out.glob("*_results.*")} == expected

    stored = description(out)
    stored |= {"use_sigmoid_act": False, "value_range": None, "loss": "mse", "max_seq_length": 7}
    (out / "bert_tools.json").write_text(json.dumps(stored))
    seen = read(do_predict=True, bert=None, max_seq_length=None)
    assert seen["command"].max_seq_length == 7
    kept = {
        "use_sigmoid_act": False,
        "value_range": None,
        "loss": "mse",
        "head_pooling": "pooled",
    }
    assert seen["task"].description() == kept
    # A length that is given wins, and training begins with the defaults.
    assert read(do_predict=True, bert=None, max_seq_length=5)["command"].max_seq_length == 5
    defaults = {**kept, "use_sigmoid_act": True, "value_range": [-9.0, 9.0]}
    seen = read(do_train=True, max_seq_length=None, value_range="-9,9")
    assert seen["command"].max_seq_length == 128
    assert seen["task"].description() == defaults


# Data sets of others.


def small_model(folder, toy_config, vocab_file, **change):
    """Writes a model with random weights for a real vocabulary."""
    tokenizer = FullTokenizer(str(vocab_file))
    config = dataclasses.replace(
        toy_config, vocab_size=len(tokenizer.vocab), initializer_range=0.2, **change
    )
    weights = encoder.initial_weights(config, seed=1)
    google.write(str(folder), hub.Model(config, weights, tokenizer, {}, ""))
    return folder


def test_sts_b(run, shared, toy_config, tmp_path):
    """GLUE's own files (0..5), and the same pairs as task sim has them (0..1)."""
    vocab_file = shared / "vocab" / "bert-base-uncased" / "vocab.txt"
    bert = small_model(tmp_path / "bert", toy_config, vocab_file)
    found = {}
    for name, folder in (("sts-b", "glue/STS-B"), ("sim", "stsb/en")):
        flags = toy_flags(bert, shared / "data" / folder, tmp_path / name)
        flags |= {**ALL, "task_name": name, "max_train_examples": 240, "max_eval_examples": 100}
        status, _, err = run(**flags)
        assert status == 0, err
        values = values_of(tmp_path / name / "test_results.tsv")
        found[name] = np.array(values), results_of(tmp_path / name / "eval_results.txt")
    values, results = found["sts-b"]
    expected, expected_results = found["sim"]
    assert len(values) == 1379 and np.ptp(values) > 0.01
    np.testing.assert_allclose(values / 5, expected, atol=1e-5)
    assert description(tmp_path / "sts-b")["value_range"] == [0.0, 5.0]
    assert results["global_step"] == expected_results["global_step"] == "40"
    for name, factor in (("eval_loss", 1), ("mae", 5), ("pearson", 1), ("spearman", 1)):
        assert float(results[name]) == pytest.approx(
            factor * float(expected_results[name]), rel=1e-3
        )


@pytest.mark.parametrize("sigmoid", [None, "false"])
def test_example_of_the_original(run, shared, toy_config, tmp_path, sigmoid):
    """sim.tsv and the original's command line, word for word."""
    vocab_file = shared / "vocab" / "bert-base-chinese" / "vocab.txt"
    bert = small_model(tmp_path / "bert", toy_config, vocab_file, max_position_embeddings=128)
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "dev", "test"):
        shutil.copy(shared / "data" / "examples" / "sim.tsv", data / f"{split}.tsv")
    words = f"""
        --task_name=sim --do_train=true --do_eval=true --do_predict=true --data_dir={data}
        --vocab_file={bert}/vocab.txt --bert_config_file={bert}/bert_config.json
        --init_checkpoint={bert}/bert_model.ckpt --max_seq_length=128 --train_batch_size=2
        --learning_rate=5e-3 --num_train_epochs=30.0 --output_dir={tmp_path}/out/
    """
    status, _, err = run(*words.split(), use_sigmoid_act=sigmoid)
    assert status == 0, err
    assert "[UNK]" not in err
    first, second = values_of(tmp_path / "out" / "test_results.tsv")
    # 1 and 0.5 are what it learns.
    assert first == pytest.approx(1, abs=0.2) and second == pytest.approx(0.5, abs=0.2)
    results = results_of(tmp_path / "out" / "eval_results.txt")
    assert results["global_step"] == "30"
    losses = (first - 1) ** 2, (second - 0.5) ** 2
    assert float(results["eval_loss"]) == pytest.approx(np.mean(losses), rel=1e-3)


# Training.


def test_evaluation_while_training_and_the_best_checkpoint(sim, tmp_path):
    """At a rate of 0 the first evaluation stays the best: it is kept, scored with, and training
    stops when patience runs out.
    """
    flags = {"learning_rate": 0, "eval_steps": 2, "best_metric": "mae"}
    flags.update(early_stopping_patience=3, save_checkpoints_steps=1)
    err = sim(do_train=True, do_eval=True, **flags)
    assert [n for n in range(1, 13) if f"evaluation at step {n} of 12" in err] == [2, 4, 6, 8]
    assert "stopped early after 3 evaluations without a gain in mae" in err
    assert results_of(tmp_path / "out" / "eval_results.txt")["global_step"] == "2"
    assert newest(tmp_path / "out")["global_step"] == 8
    steps = {int(p.stem.partition("-")[2]) for p in (tmp_path / "out").glob("*.index")}
    assert steps == {2, 4, 5, 6, 7, 8}
    assert "training is finished" in sim(do_train=True, **flags)


def test_max_examples(read, toy_data):
    """The first so many."""
    flags = {"do_train": True, "do_eval": True}
    found = plain(read(**flags, max_train_examples=13, max_eval_examples=4)["data"])
    whole = plain(read(**flags)["data"])
    assert (len(whole["train"]), len(whole["eval"])) == (24, 6)
    assert found == {"train": whole["train"][:13], "eval": whole["eval"][:4]}


def test_training_flags_reach_model_and_estimator(run, toy_model, toy_data, tmp_path, monkeypatch):
    seen = {}

    class Stopped(Exception):
        pass

    class Estimator:
        def __init__(self, model_fn, config, params):
            seen.update(optimizer=model_fn.optimizer, config=config)

        def require_divisible_batch(self):
            pass

        def train(self, input_fn, max_steps, evaluation):
            seen.update(max_steps=max_steps, evaluation=evaluation)
            raise Stopped

    monkeypatch.setattr(phases, "Estimator", Estimator)
    flags = toy_flags(toy_model, toy_data, tmp_path / "out")
    with pytest.raises(Stopped):
        run(
            *as_arguments(flags),
            do_train=True,
            layerwise_lr_decay=0.5,
            freeze_encoder=True,
            correct_bias=True,
            gradient_accumulation_steps=2,
            max_train_steps=9,
            eval_steps=4,
            best_metric="pearson",
            early_stopping_patience=7,
            eval_batch_size=5,
        )
    assert seen["config"].gradient_accumulation_steps == 2
    factor = seen["optimizer"].rate_factor
    assert (factor("bert/encoder/layer_0/x"), factor("output_weights")) == (0.125, 1.0)
    assert not seen["optimizer"].trains("bert/pooler/dense/kernel")
    assert seen["optimizer"].trains("output_weights")
    assert seen["optimizer"].correct_bias
    assert (seen["max_steps"], seen["evaluation"][1:]) == (9, (4, "pearson", 7, 5))
