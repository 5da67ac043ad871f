"""The baseline lines of evaluations, from command lines to files."""

import json

import numpy as np
import pytest
from cli_toys import as_arguments, toy_flags

from bert_tools.cli import app, evaluate_sts, run_classifier, run_ner, run_reg, run_siamese
from bert_tools.sentence.encoder import Encoder
from bert_tools.sentence.similarity import similarity
from bert_tools.tasks.regress import correlations

WARNING = "does not beat its baseline"


@pytest.fixture
def call(capsys, monkeypatch):
    """function(command, **flags) -> (stdout, the warnings about baselines)."""

    def call(command, **flags):
        monkeypatch.setattr(app.log, "handlers", [])
        capsys.readouterr()
        status = command.main(as_arguments(flags))
        out, err = capsys.readouterr()
        assert status == 0, err
        return out, [line for line in err.splitlines() if WARNING in line]

    return call


def pairs(rows, seed, value):
    """Lines of pairs of toy words; value(first words, second words) -> float."""
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(rows):
        first, second = (rng.choice(list("abcd"), rng.integers(2, 7)) for _ in range(2))
        lines.append(f"{' '.join(first)}\t{' '.join(second)}\t{value(first, second):.2f}\n")
    return "".join(lines)


def write(folder, dev_rows=8):
    """Pairs with values that no training is needed for, nor of use to: random ones."""
    rng = np.random.default_rng(9)
    folder.mkdir()
    for split, rows in (("train", 24), ("dev", dev_rows)):
        (folder / f"{split}.tsv").write_text(pairs(rows, rows, lambda *_: rng.uniform()))
    return folder


def results(folder):
    return json.loads((folder / "eval_results.json").read_text())


def read(path):
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    return [row[0] for row in rows], [row[1] for row in rows], np.array([float(r[2]) for r in rows])


def test_run_reg(call, wide_model, tmp_path, capsys):
    """By hand; by the stored file in later runs; of other examples what training values give."""
    data, out = write(tmp_path / "data"), tmp_path / "out"
    flags = {**toy_flags(wide_model, data, out), "learning_rate": 0, "do_eval": True}
    _, warnings = call(run_reg, **flags, do_train=True, num_train_epochs=1)
    found = results(out)
    mean = read(data / "train.tsv")[2].mean()
    first, second, values = read(data / "dev.tsv")
    assert found["baseline_mse"] == pytest.approx(np.square(values - mean).mean())
    assert found["baseline_mae"] == pytest.approx(np.abs(values - mean).mean())
    encoder = Encoder.load(wide_model, max_seq_length=16)
    cosines = similarity(encoder.encode(first), encoder.encode(second), "cosine")
    expected = correlations(cosines, values)
    for name in ("pearson", "spearman"):
        assert found[f"baseline_{name}"] == pytest.approx(expected[name], abs=1e-6)
    loses = found["spearman"] <= found["baseline_spearman"]
    assert len(warnings) == loses and "baseline_examples" not in found
    assert (out / "eval_results.txt").read_text().count("baseline_") == 4

    before = (out / "baseline.json").read_bytes()
    call(run_reg, **flags, do_train=True, num_train_epochs=2)  # Goes on.
    assert (out / "baseline.json").read_bytes() == before
    call(run_reg, **{**flags, "bert": None})
    assert results(out) == pytest.approx({**found, "global_step": 8}, rel=1e-5)
    files = f"{data}/dev.tsv,{data}/train.tsv"
    text, warnings = call(run_reg, bert=out, eval_file=files)
    dev, train = map(json.loads, text.splitlines())
    ours = {name for name in found if name.startswith("baseline_")}
    assert {n: dev[n] for n in ours} == {n: found[n] for n in ours}
    assert train.keys() & ours == {"baseline_mse", "baseline_mae"}
    loses = [
        dev["spearman"] <= dev["baseline_spearman"],
        train["eval_loss"] >= train["baseline_mse"],
    ]
    assert len(warnings) == sum(loses)

    (out / "baseline.json").write_text('{"format_version": 1}')
    assert run_reg.main(as_arguments({"bert": out, "eval_file": data / "dev.tsv"})) == 1
    assert f"error: {out}/baseline.json: task is missing" in capsys.readouterr().err
    (out / "baseline.json").unlink()
    text, warnings = call(run_reg, bert=out, eval_file=files)
    assert "baseline_" not in text and not warnings


def test_real_weights_as_evaluate_sts_has_them(call, minilm, tmp_path):
    rows = [
        "A man is eating food.\tA man eats a piece of bread.\t0.8\n",
        "A man is eating food.\tThe girl is carrying a baby.\t0.1\n",
        "Two dogs run through a field.\tDogs are running outside.\t0.7\n",
        "A plane is taking off.\tAn air plane takes off.\t1.0\n",
        "A woman slices an onion.\tStocks fell sharply on Monday.\t0.0\n",
        "How are you?\tHow old are you?\t0.4\n",
    ]
    for split in ("train", "dev"):
        (tmp_path / f"{split}.tsv").write_text("".join(rows))
    flags = {"task_name": "sim", "data_dir": tmp_path, "bert": minilm, "max_seq_length": 12}
    flags |= {"output_dir": tmp_path / "out", "train_batch_size": 2, "max_train_steps": 1}
    _, warnings = call(run_reg, **flags, learning_rate=0, do_train=True, do_eval=True)
    found = results(tmp_path / "out")
    table, _ = call(
        evaluate_sts,
        bert=minilm,
        eval_file=tmp_path / "dev.tsv",
        pooling="mean",
        max_seq_length=12,
    )
    _, _, *cells = table.splitlines()[1].split()
    shown = [f"{found[f'baseline_{name}']:.4f}" for name in ("pearson", "spearman")]
    assert shown == cells[:2]
    # A head that is drawn at random knows less than these vectors.
    assert len(warnings) == 1
    assert f"eval_results: spearman {found['spearman']:.4g} does not beat" in warnings[0]
    assert "using the starting model's vectors as they are (extract_cls" in warnings[0]


@pytest.mark.parametrize("rows", [8, 230])
def test_run_siamese_that_learns_nothing(call, wide_model, tmp_path, rows):
    """The vectors stay the baseline's; of many rows a part is encoded, and judged."""
    data, out = write(tmp_path / "data", rows), tmp_path / "out"
    flags = {**toy_flags(wide_model, data, out), "learning_rate": 0, "num_train_epochs": 1}
    flags |= {"pooling": "cls", "dense_width": 6}
    _, (warning,) = call(run_siamese, **flags, do_train=True, do_eval=True)
    found = results(out)
    assert found.get("baseline_examples") == (200 if rows > 200 else None)
    assert ("of the baseline's 200 examples" in warning) == (rows > 200)
    if rows < 200:
        for name in ("pearson", "spearman"):
            assert found[f"baseline_{name}"] == pytest.approx(found[name], abs=1e-6)


def test_run_siamese_that_learns(call, wide_model, tmp_path):
    """Rankings are of whole sets; the later run shows the same."""
    rng = np.random.default_rng(0)
    for split, rows in (("train", 48), ("dev", 210)):
        lines = []
        for _ in range(rows):
            texts = [rng.choice(list(words), 4) for words in ("ab", "ab", "cd")]
            lines.append(",".join(" ".join(text) for text in texts))
        (tmp_path / f"{split}.csv").write_text("a,b,c\n" + "\n".join(lines) + "\n")
    flags = {**toy_flags(wide_model, tmp_path, tmp_path / "out"), "objective": "triplet"}
    flags |= {"task_name": "csv", "text_column": "a", "text_pair_column": "b"}
    flags |= {"negative_columns": "c", "num_train_epochs": 4, "max_train_steps": 30}
    _, warnings = call(run_siamese, **flags, do_train=True, do_eval=True)
    found = results(tmp_path / "out")
    names = {"triplet_accuracy", "recall@1", "recall@5", "recall@10", "mrr"}
    assert {f"baseline_{n}" for n in names} == {n for n in found if n.startswith("baseline_")}
    assert len(warnings) == (found["triplet_accuracy"] <= found["baseline_triplet_accuracy"])
    text, _ = call(run_siamese, bert=tmp_path / "out", eval_file=tmp_path / "dev.csv")
    line = json.loads(text)
    assert {n: line[f"baseline_{n}"] for n in names} == {n: found[f"baseline_{n}"] for n in names}


def test_run_classifier(call, wide_model, tmp_path, capsys):
    """One class in four rows; words say which, and a model that learns them gets no warning."""
    rng = np.random.default_rng(0)
    for split, rows in (("train", 48), ("dev", 12)):
        labels = ["x" if n % 4 else "y" for n in range(rows)]
        texts = (" ".join(rng.choice(["a b", "c d"][label == "y"].split(), 4)) for label in labels)
        lines = [f"{text}\t{label}\n" for text, label in zip(texts, labels, strict=True)]
        (tmp_path / f"{split}.tsv").write_text("".join(lines))
    flags = {**toy_flags(wide_model, tmp_path, tmp_path / "out"), "task_name": "csv"}
    flags |= {"text_column": 0, "label_column": 1, "num_train_epochs": 20, "learning_rate": 3e-3}
    _, warnings = call(run_classifier, **flags, do_train=True, do_eval=True, positive_label="x")
    found = results(tmp_path / "out")
    assert found["baseline_accuracy"] == 0.75
    assert found["baseline_f1_score"] == pytest.approx(6 / 7)
    assert found["eval_accuracy"] > 0.75 and not warnings
    flags |= {"output_dir": tmp_path / "frozen", "learning_rate": 0, "num_train_epochs": 1}
    _, warnings = call(run_classifier, **flags, do_train=True, do_eval=True)
    found = results(tmp_path / "frozen")
    assert len(warnings) == (found["eval_accuracy"] <= 0.75)
    # No baseline is a metric to train by.
    flags |= {"best_metric": "baseline_accuracy", "output_dir": tmp_path / "other"}
    assert run_classifier.main(as_arguments({**flags, "do_train": True, "eval_steps": 1})) == 1
    error = capsys.readouterr().err
    assert "no such metric" in error and "baseline" not in error.partition("task's are")[2]


def test_run_ner_and_multi_label(call, toy_model, tmp_path):
    """What the training set's words and shares give stands in a folder that later runs read."""
    for split in ("train", "dev"):
        (tmp_path / f"{split}.txt").write_text("a B-X\nc O\n\nb B-X\nc O\n\nb O\nd B-X\n\nb O\n\n")
    flags = {"data_dir": tmp_path, "bert": toy_model, "output_dir": tmp_path / "ner"}
    flags |= {"max_seq_length": 8, "train_batch_size": 2, "max_train_steps": 1, "learning_rate": 0}
    _, warnings = call(run_ner, **flags, do_train=True, do_eval=True)
    found = results(tmp_path / "ner")
    # a and d are right, b is mostly O.
    assert (found["baseline_precision"], found["baseline_recall"]) == (1, pytest.approx(2 / 3))
    assert found["baseline_f1_score"] == pytest.approx(0.8) and len(warnings) == 1
    assert "the most frequent tag of each word in the training set" in warnings[0]
    text, _ = call(run_ner, bert=tmp_path / "ner", eval_file=tmp_path / "dev.txt")
    assert json.loads(text)["baseline_f1_score"] == pytest.approx(0.8)

    for split in ("train", "dev"):
        (tmp_path / f"{split}.tsv").write_text("a\tx\nb\tx y\nc\tx\nd\t\n")
    flags |= {"task_name": "csv", "text_column": 0, "label_column": 1, "label_separator": " "}
    flags |= {"multi_label": True, "output_dir": tmp_path / "labels"}
    call(run_classifier, **flags, do_train=True, do_eval=True)
    found = results(tmp_path / "labels")
    # x for all: right in three of four, y never.
    assert found["baseline_f1_score_macro"] == pytest.approx((6 / 7) / 2)
    assert found["baseline_average_precision_macro"] == pytest.approx((3 / 4 + 1 / 4) / 2)
