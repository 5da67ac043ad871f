"""answer_questions from its command line to stdout."""

import importlib.util
import io
import json

import numpy as np
import pytest
from cli_toys import as_arguments

from bert_tools import encoder, hub
from bert_tools.cli import answer_questions, app
from bert_tools.hub import huggingface

CONTEXT = "a b, c d.\r\na ae b\n"


@pytest.fixture(scope="session")
def qa_model(tmp_path_factory, toy_model, toy_config):
    folder = str(tmp_path_factory.mktemp("qa") / "model")
    weights = encoder.initial_weights(toy_config, seed=2)
    weights["cls/squad/output_weights"] = np.random.default_rng(0).normal(size=(2, 16))
    weights["cls/squad/output_bias"] = np.zeros(2, np.float32)
    weights = {name: np.asarray(weight, np.float32) for name, weight in weights.items()}
    huggingface.write(folder, hub.load(toy_model)._replace(weights=weights))
    return folder


@pytest.fixture
def run(capsys, monkeypatch, qa_model, tmp_path):
    """function(stdin, **flags) -> (status, list of JSON objects of stdout, stderr)."""
    (tmp_path / "text.txt").write_bytes(CONTEXT.encode())

    def run(stdin="", **flags):
        monkeypatch.setattr(app.log, "handlers", [])
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        flags = {"bert": qa_model, "max_seq_length": 24, "max_query_length": 8, **flags}
        capsys.readouterr()
        status = answer_questions.main(as_arguments(flags))
        out, err = capsys.readouterr()
        return status, [json.loads(line) for line in out.splitlines()], err

    return run


def test_one_question(run, tmp_path):
    plots = tmp_path / "plots" if importlib.util.find_spec("matplotlib") else None
    status, (answer,), err = run(
        question="a d",
        context_file=tmp_path / "text.txt",
        show_tokens=True,
        verbose=True,
        plot_dir=plots,
    )
    assert status == 0
    assert list(answer) == ["question", "answer", "probability", "start", "end"]
    # Places in the file as it stands, line ends and all.
    assert CONTEXT[answer["start"] : answer["end"]] == answer["answer"] != ""
    assert "question 1: 15 tokens" in err
    table = [line.split() for line in err.splitlines() if line.split()[-1:] in (["0"], ["1"])]
    assert table[0] == ["[CLS]", "2", "0"] and table[4][0] == "a" and len(table) == 15
    if plots:
        names = sorted(path.name for path in plots.iterdir())
        assert names == ["question_1.png", "question_1.tsv"]


def test_a_stream_and_its_bad_line(run):
    lines = [json.dumps({"question": q, "context": "a b c"}) for q in ("a", "b", "c d")]
    status, answers, _ = run("\n".join(lines))
    assert status == 0 and [answer["question"] for answer in answers] == ["a", "b", "c d"]
    status, answers, err = run("\n".join([lines[0], '{"question": "a"}', lines[1]]))
    assert status == 1 and len(answers) == 1
    assert "error: stdin:2: expected a text for 'context', found 'None'; correct the line" in err


def test_a_line_without_an_answer_is_named(run):
    """Those before it have theirs, however many are computed together."""
    contexts = ["a b", "c d", "\u200b", "a"]
    lines = [json.dumps({"question": "a", "context": context}) for context in contexts]
    status, answers, err = run("\n".join(lines))
    assert status == 1 and [answer["answer"] != "" for answer in answers] == [True, True]
    assert err.splitlines()[-1] == (
        "error: stdin:3: question 'a': its context holds no word; give a text"
    )


def test_a_question_that_is_cut(run):
    line = json.dumps({"question": "a b c d a b c d e", "context": "a b"})
    status, _, err = run(line)
    assert status == 0
    assert "WARNING 1 questions are longer than --max_query_length=8 and are cut off" in err


def test_typed_questions(run, tmp_path):
    status, answers, _ = run("a\n\nb c\n", interactive=True, context_file=tmp_path / "text.txt")
    assert status == 0 and [answer["question"] for answer in answers] == ["a", "b c"]


def test_a_text_from_stdin_may_have_no_answer(run):
    status, (answer,), _ = run(
        "a b c",
        question="d",
        context_file="-",
        version_2_with_negative=True,
        null_score_diff_threshold=-1e6,
    )
    assert status == 0
    assert (answer["answer"], answer["start"], answer["end"]) == ("", -1, -1)
    assert isinstance(answer["null_odds"], float)


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        ({"question": "a"}, "--context_file is missing"),
        ({"context_file": "x"}, "--question is missing"),
        ({"question": "a", "context_file": "no.txt"}, "no.txt: no such file"),
        ({"question": "a", "context_file": "-"}, "--context_file=-: holds no text"),
        ({"interactive": True, "context_file": "-"}, "stdin is where questions come from"),
        ({"interactive": True, "question": "a"}, "both say what to ask"),
        ({"question": " ", "context_file": "-"}, "--question= : holds no word"),
        ({"question": ""}, "--question=: holds no word"),
        ({"question": "Gr\udcf6\udcdfe", "context_file": "-"}, "is not text in this shell's"),
        ({"max_query_length": 30}, "--max_seq_length=24: must be greater"),
    ],
)
def test_flags_that_cannot_be(run, flags, error):
    status, answers, err = run(**flags)
    assert status == 1 and answers == [] and error in err
    assert err.splitlines()[-1].startswith("error: ")


def test_a_model_without_such_a_head(run, toy_model):
    status, _, err = run(bert=toy_model, question="a", context_file="-", stdin="a b")
    assert status == 1 and "has no head that finds answers" in err


def test_a_model_of_fewer_positions_than_the_default_length(run, tmp_path):
    """The toy's 32, and 384."""
    status, answers, err = run(
        question="a d", context_file=tmp_path / "text.txt", max_seq_length=None
    )
    assert (status, len(answers)) == (0, 1), err


def test_closed_stdin(run, qa_model, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", None)
    flags = {"bert": qa_model, "question": "a", "context_file": "-"}
    assert answer_questions.main(as_arguments(flags)) == 1
    assert "--context_file=-: stdin is closed; pipe the text in" in capsys.readouterr().err
