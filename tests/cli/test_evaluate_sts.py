"""evaluate_sts from its command line to its table."""

import io
import sys

import numpy as np
import pytest
from scipy import stats

from bert_tools.cli import app, evaluate_sts
from bert_tools.sentence.encoder import Encoder
from bert_tools.sentence.similarity import SIMILARITIES, similarity


@pytest.fixture
def run(capsys, monkeypatch, wide_model):
    """function(stdin=b"", **flags) -> (exit status, stdout, stderr)."""

    def run(stdin=b"", **flags):
        # Without the handler of an earlier test, which holds that test's stderr.
        monkeypatch.setattr(app.log, "handlers", [])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        flags = {"bert": wide_model, "max_seq_length": 32, **flags}
        arguments = [f"--{name}={value}" for name, value in flags.items() if value is not None]
        return (evaluate_sts.main(arguments), *capsys.readouterr())

    return run


def table(text):
    """{(pooling, layer): {column: float}}."""
    (_, _, *heads), *rows = (line.split() for line in text.splitlines())
    return {
        (pooling, layer): dict(zip(heads, map(float, cells), strict=True))
        for pooling, layer, *cells in rows
    }


def pairs(count=40):
    rng = np.random.default_rng(2)
    texts = [[" ".join(rng.choice(list("abcd"), 4)) for _ in range(2)] for _ in range(count)]
    return [(*pair, round(float(rng.uniform(0, 5)), 2)) for pair in texts]


def as_lines(rows):
    return "".join(f"{a}\t{b}\t{value}\n" for a, b, value in rows)


def test_table(run, tmp_path, wide_model):
    rows = pairs()
    (tmp_path / "dev.tsv").write_text(as_lines(rows))
    status, out, err = run(eval_file=tmp_path / "dev.tsv", layers="1,-1")
    assert status == 0, err
    found = table(out)
    layered = [(name, layer) for name in ("cls", "mean", "max") for layer in ("1", "-1")]
    assert set(found) == {*layered, ("pooled", "-"), ("first_last_mean", "-")}
    values = [value for _, _, value in rows]
    for (pooling, layer), cells in found.items():
        layers = [-1] if layer == "-" else [int(layer)]
        encoder = Encoder.load(wide_model, pooling=pooling, layers=layers, max_seq_length=32)
        first, second = (encoder.encode([row[place] for row in rows]) for place in (0, 1))
        assert len(cells) == 8
        for name in SIMILARITIES:
            alike = similarity(first, second, name)
            want = stats.pearsonr(alike, values).statistic
            assert cells[f"{name}_pearson"] == pytest.approx(want, abs=2e-4)
            want = stats.spearmanr(alike, values).statistic
            assert cells[f"{name}_spearman"] == pytest.approx(want, abs=2e-3)


def test_similarity():
    first = np.array([[3.0, 4.0], [1.0, 0.0]], np.float32)
    second = np.array([[4.0, 3.0], [0.0, 2.0]], np.float32)
    expected = {
        "cosine": [0.96, 0],
        "dot": [24, 0],
        "euclidean": [-(2**0.5), -(5**0.5)],
        "manhattan": [-2, -3],
    }
    for name in SIMILARITIES:
        np.testing.assert_allclose(similarity(first, second, name), expected[name], atol=1e-12)


def test_named_columns_and_stdin(run):
    rows = pairs()
    status, plain, err = run(as_lines(rows).encode(), eval_file="-")
    assert status == 0, err
    text = "score,a,b\n" + "".join(f"{value},{a},{b}\n" for a, b, value in rows)
    columns = {"text_column": "a", "text_pair_column": "b", "value_column": "score"}
    status, named, err = run(text.encode(), eval_file="-", input_format="csv", **columns)
    assert status == 0, err
    assert named == plain


def test_normalize_makes_cosine_and_dot_one(run):
    status, out, err = run(
        as_lines(pairs()).encode(), eval_file="-", normalize=True, pooling="mean,max"
    )
    assert status == 0, err
    for cells in table(out).values():
        assert cells["cosine_pearson"] == cells["dot_pearson"]
        assert cells["cosine_spearman"] == pytest.approx(cells["euclidean_spearman"], abs=1e-3)


@pytest.mark.parametrize(
    "stdin, flags, message",
    [
        ("a\tb\tc\n", {}, "stdin:1: expected a number"),
        ("a\tb\n", {}, "stdin:1: expected at least 3 tab-separated columns"),
        ("a\tb\t1\n", {"pooling": "median"}, "--pooling=median: expected"),
        ("a\tb\t1\n", {"layers": "7"}, "--layers=7: the model has 2 layers"),
        ("a\tb\t1\n", {"text_column": "0"}, "needs --text_pair_column and --value_column"),
        ("", {}, "stdin: the file is empty"),
        ("", {"eval_file": None}, "--eval_file is missing"),
        ("", {"eval_file": "no.tsv"}, "no.tsv: no such file; check --eval_file"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_refused(run, stdin, flags, message):
    status, out, err = run(stdin.encode(), **{"eval_file": "-", **flags})
    assert (status, out) == (1, "")
    assert message.replace("stdin:", "") in err


def test_a_trained_folder(run, trained):
    """What run_reg leaves is a model as any other; its vectors are those of its own encoder."""
    rows = pairs()
    status, out, err = run(
        as_lines(rows).encode(), eval_file="-", bert=trained[0], max_seq_length=16
    )
    assert status == 0, err
    found = table(out)
    assert [pooling for pooling, _ in found] == ["cls", "pooled", "mean", "max", "first_last_mean"]
    encoder = Encoder.load(str(trained[0]), pooling="pooled", max_seq_length=16)
    first, second = (encoder.encode([row[place] for row in rows]) for place in (0, 1))
    want = stats.pearsonr(similarity(first, second, "cosine"), [row[2] for row in rows]).statistic
    assert found["pooled", "-"]["cosine_pearson"] == pytest.approx(want, abs=2e-4)


def test_minilm_on_sts_b(run, minilm, shared):
    """sentence-transformers' Spearman of the mean, 0.8203, to four digits."""
    path = shared / "data" / "stsb" / "en" / "test.tsv"
    status, out, err = run(bert=minilm, eval_file=path, pooling="mean", max_seq_length=128)
    assert status == 0, err
    assert table(out)["mean", "-1"]["cosine_spearman"] == 0.8203
