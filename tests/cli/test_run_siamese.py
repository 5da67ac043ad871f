"""run_siamese from its command line to its files, and what other commands make of them."""

import io
import json
import sys

import numpy as np
import pytest
from cli_toys import as_arguments, newest, results_of, toy_flags, values_of

from bert_tools import encoder
from bert_tools.cli import app, extract_cls, run_siamese
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
    assert found["pearson"] > 0.8 and found["eval_loss"] < 0.1
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
        ("sim", "contrastive", "average_precision", {}),
        ("triplets", "triplet", "triplet_accuracy", {}),
        ("triplets", "multiple_negatives", "mrr", {"symmetric": True}),
        ("pairs", "multiple_negatives", "recall@5", {}),
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
