"""Reading of SQuAD's and CMRC's JSON, good and bad."""

import json
import pathlib

import pytest
from squad_toys import question, squad, write

from bert_tools.errors import UserError
from bert_tools.squad.examples import Document, read_squad_examples

CONTEXT = "Ann wrote it in May, and Bob read it in May."


def test_words_are_split_as_the_original_splits_them():
    document = Document(" one\ttwo\u202fthree\u00a0four ")
    assert document.words == ["one", "two", "three\u00a0four"]
    assert document.word_starts.tolist() == [1, 5, 9]
    # A blank belongs to the word before it.
    assert [document.word_at(place) for place in (0, 1, 4, 5, 20)] == [0, 0, 0, 1, 2]


def test_training_and_prediction(tmp_path):
    path = write(
        tmp_path / "x.json",
        squad((CONTEXT, [question("1", "Who wrote?", [("Ann", 0)]), question("2", "Who?")])),
    )
    examples, findings = read_squad_examples(path, False)
    assert [e.qas_id for e in examples] == ["1", "2"]
    assert examples[0].document is examples[1].document
    assert [e.answers for e in examples] == [["Ann"], []]
    assert list(findings.lines()) == []
    with pytest.raises(UserError, match=r"question 2: has no answer to learn; give --version_2"):
        read_squad_examples(path, True)
    examples, _ = read_squad_examples(path, True, version_2_with_negative=True)
    assert [(e.answer_text, e.answer_start, e.is_impossible) for e in examples] == [
        ("Ann", 0, False),
        ("", -1, True),
    ]


def test_an_impossible_question_is_none_without_the_flag(tmp_path):
    asked = question("1", "Who wrote?", [("Ann", 0)], is_impossible=True)
    path = write(tmp_path / "x.json", squad((CONTEXT, [asked])))
    assert not read_squad_examples(path, True)[0][0].is_impossible
    assert read_squad_examples(path, True, True)[0][0].is_impossible


@pytest.mark.parametrize(
    ("answer", "start", "found", "kind"),
    [
        ("Ann", 0, 0, None),
        ("May", 17, 16, "realigned"),  # The nearer of two.
        ("May", 35, 40, "realigned"),
        ("May", -1, 16, "realigned"),
        ("May", 4000, 40, "realigned"),
        ("in  May", 13, 13, None),  # White space differs: the original takes it.
        ("Eve", 0, None, "unaligned"),
        ("", 0, None, "unaligned"),
    ],
)
def test_alignment(tmp_path, answer, start, found, kind):
    context = CONTEXT
    asked = [question("good", "?", [("Ann", 0)]), question("x", "?", [(answer, start)])]
    path = write(tmp_path / "x.json", squad((context, asked)))
    examples, findings = read_squad_examples(path, True)
    starts = {e.qas_id: e.answer_start for e in examples}
    assert starts == ({"good": 0} if found is None else {"good": 0, "x": found})
    for name in ("realigned", "unaligned"):
        assert getattr(findings, name) == (["x"] if name == kind else [])


def test_what_is_counted_is_told(tmp_path):
    asked = [
        question("1", "?", [("Ann", 3)]),
        question("2", "?", [("Bob", 1)]),
        question("3", "?", [("Eve", 1)]),
        question("4", "?", [("Ann", 0), ("it", 10)]),
        question("4", "?", [("Ann", 0)]),
    ]
    path = write(
        tmp_path / "x.json", squad((CONTEXT, asked), (" ", [question("5", "?", [(" ", 0)])]))
    )
    _, findings = read_squad_examples(path, True)
    told = list(findings.lines())
    assert [line[:9] for line in told] == [
        "2 answers",
        "2 answers",
        "1 questio",
        *["1 questio"] * 2,
    ]
    assert "(the first: 1)" in told[0] and "1, 2" in next(iter(findings.lines(verbose=True)))
    assert findings.unaligned == ["3", "5"] and findings.empty_contexts == ["5"]
    assert findings.several_answers == ["4"] and findings.repeated == ["4"]


def test_a_repeated_id_has_nowhere_to_be_filed(tmp_path):
    path = write(tmp_path / "x.json", squad((CONTEXT, [question("1"), question("1")])))
    with pytest.raises(UserError, match=r"x\.json: the id 1 occurs twice"):
        read_squad_examples(path, False)


def test_cmrc_own_layout(tmp_path):
    entry = {
        "context_id": "TRIAL_1",
        "context_text": "北京是首都。",
        "qas": [{"query_id": "Q", "query_text": "首都？", "answers": ["北京", "北京是"]}],
    }
    examples, findings = read_squad_examples(write(tmp_path / "x.json", [entry]), True)
    assert (examples[0].question_text, examples[0].answer_start) == ("首都？", 0)
    assert examples[0].answers == ["北京", "北京是"] and not findings.realigned


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", r"x\.json:1: is not JSON"),
        ("[" * 100_000, r"x\.json: is nested too deeply"),
        ("{}", r"x\.json: the file: lacks 'data'"),
        ("3", r"x\.json: the file: data is '3'"),
        ('{"data": 3}', r"the file: data is '3', expected a list"),
        ('{"data": [{}]}', r"data 0: lacks 'paragraphs'"),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}', r"data 0, paragraph 0: lacks 'context'"),
        ('{"data": []}', r"holds no usable question"),
        (json.dumps(squad((CONTEXT, [{"question": "?"}]))), r"question 0 of .*: lacks 'id'"),
        (json.dumps(squad((CONTEXT, [{"id": "7"}]))), r"question 7: lacks 'question'"),
        (
            json.dumps(squad((CONTEXT, [question("7", "?", [("Ann", "0")])]))),
            r"question 7: answer_start is .*, expected a number",
        ),
        (
            json.dumps(squad((CONTEXT, [question("7", "?", [(3, 0)])]))),
            r"question 7: text is '3', expected a text",
        ),
        (
            json.dumps(squad((CONTEXT, [question("7", "?", [("Ann", 0)], is_impossible=1)]))),
            r"question 7: is_impossible is '1', expected true or false",
        ),
    ],
)
def test_bad_files(tmp_path, text, error):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=error):
        read_squad_examples(str(tmp_path / "x.json"), True)


def test_no_file_and_no_utf_8(tmp_path):
    with pytest.raises(UserError, match=r"no such file"):
        read_squad_examples(str(tmp_path / "x.json"), True)
    (tmp_path / "x.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(UserError, match=r"is not UTF-8"):
        read_squad_examples(str(tmp_path / "x.json"), True)


@pytest.mark.parametrize(
    ("name", "asked", "impossible"),
    [
        ("squad-en/train", 480, 180),
        ("squad-en/dev", 104, 37),
        ("squad-zh/train", 185, 50),
        ("squad-zh/dev", 64, 19),
    ],
)
def test_samples(name, asked, impossible):
    """As data/README.md describes them, and nothing is wrong with them."""
    path = pathlib.Path(__file__).resolve().parents[2] / "data" / f"{name}.json"
    examples, findings = read_squad_examples(str(path), True, version_2_with_negative=True)
    assert list(findings.lines()) == []
    assert (len(examples), sum(e.is_impossible for e in examples)) == (asked, impossible)


def test_cmrc_as_published(shared):
    """Of the trial set's 1002 answer_start five do not point at the answer."""
    examples, findings = read_squad_examples(str(shared / "data/cmrc2018/trial.json"), True)
    assert len(examples) == 1002 and len(findings.realigned) == 5 and not findings.unaligned
    for found in examples:
        assert found.document.text.startswith(found.answer_text, found.answer_start)


@pytest.mark.parametrize("answers", ["北京", {"text": "北京"}, 5, True, 1.5])
def test_answers_of_cmrc_are_a_list(tmp_path, answers):
    qa = {"query_id": "Q1", "query_text": "北?", "answers": answers}
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"context_text": "北京", "qas": [qa]}]))
    with pytest.raises(UserError, match=r"x.json: question Q1: answers is .*, expected a list"):
        read_squad_examples(str(path), False)
    qa["answers"] = None
    path.write_text(json.dumps([{"context_text": "北京", "qas": [qa]}]))
    examples, _ = read_squad_examples(str(path), False)
    assert examples[0].answers == []


def test_a_number_of_thousands_of_digits(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"data": ' + "1" * 5000 + "}")
    with pytest.raises(UserError, match=r"x.json: is not JSON \(Exceeds the limit"):
        read_squad_examples(str(path), False)
