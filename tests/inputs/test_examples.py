"""Examples of rows: columns by number and name, blank lines, bad lines, processors of one's own."""

import gzip
import io
import json
import logging

import pytest

from bert_tools.errors import UserError
from bert_tools.inputs import examples, tables
from bert_tools.inputs.examples import InputExample, Layout, parse_value

PAIR = Layout(0, 1, 2)


def read(content, layout, parse_label=parse_value, split="train"):
    """(text_a, text_b, label) of each example, a bad row as its text."""
    content = content if isinstance(content, bytes) else content.encode()
    lines = tables.Lines(io.BytesIO(content), "f")
    return [
        str(e) if isinstance(e, UserError) else (e.text_a, e.text_b, e.label)
        for e in examples.read_examples(lines, layout, split, parse_label)
    ]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_example_has_the_original_attributes():
    example = InputExample("train-0", "a", text_b="b", label=0.5)
    assert (example.guid, example.text_a, example.text_b, example.label) == (
        "train-0",
        "a",
        "b",
        0.5,
    )
    example = InputExample(guid="train-1", text_a="a")
    assert example.text_b is None and example.label is None


@pytest.mark.parametrize(
    "content, layout, expected",
    [
        ('"a\tb\t1\tmore\n中\t"\t0.5\r\n', PAIR, [('"a', "b", 1.0), ("中", '"', 0.5)]),
        ("a\tb\t1\n\n\r\nc\td\t0\n\n", PAIR, [("a", "b", 1.0), ("c", "d", 0.0)]),
        ("0\ta\n", Layout(1, None, 0), [("a", None, 0.0)]),
        ('"a, b","c\nd",1\n', PAIR._replace(kind="csv"), [("a, b", "c\nd", 1.0)]),
        ("x\ty\tz\na\tb\t1\n", PAIR._replace(header=True), [("a", "b", 1.0)]),
        (
            "\ufeffv,t2,more, t1 \r\n1,b,x,a\r\n",
            Layout("t1", "t2", "v", True, "csv"),
            [("a", "b", 1.0)],
        ),
        ("t\tv\na\t1\n", Layout("t", None, 1, True), [("a", None, 1.0)]),
        (
            '{"t": "a", "v": 1}\n\n{"v": "0.5", "t": "b", "x": []}\n',
            Layout("t", None, "v", True, "jsonl"),
            [("a", None, 1.0), ("b", None, 0.5)],
        ),
        ('["a", "b", 1]\n', PAIR._replace(kind="jsonl"), [("a", "b", 1.0)]),
        ('{"0": "a", "2": 1, "1": "b"}\n', PAIR._replace(kind="jsonl"), [("a", "b", 1.0)]),
        ("zh\ta\t1\nen\tb\t1\n", Layout(1, None, 2, only=(0, "en")), [("b", None, 1.0)]),
    ],
)
def test_read_examples(content, layout, expected):
    assert read(content, layout) == expected


def test_guids_count_the_examples():
    content = b"a\t1\n\nb\tbad\nc\t0\n"
    lines = tables.Lines(io.BytesIO(content), "f")
    found = list(examples.read_examples(lines, Layout(0, None, 1), "dev", parse_value))
    assert [found[0].guid, found[2].guid] == ["dev-0", "dev-2"]


@pytest.mark.parametrize(
    "content, layout, message",
    [
        (
            "d\te\n",
            PAIR,
            r"f:2: expected at least 3 tab-separated columns, found 2 ('d\te'); correct the line",
        ),
        (
            "d,e\n",
            PAIR._replace(kind="csv"),
            r"f:2: expected at least 3 comma-separated columns, found 2 ('d\te'); correct the line",
        ),
        ("x" * 10_000 + "\n", PAIR, f"found 1 ('{'x' * 57}...'); correct the line"),
        ("a\tb\tgood\n", PAIR, "f:2: expected a number, found 'good'; correct the line"),
        (b"\xff\tb\t1\n", PAIR, "f:2: not UTF-8 at byte 0"),
        ('"a,b\n', PAIR._replace(kind="csv"), "f:2: not a CSV row ("),
        ("5\n", PAIR._replace(kind="jsonl"), "f:2: expected a JSON object, found '5'"),
        ('["a"]\n', PAIR._replace(kind="jsonl"), "f:2: has 1 columns, none for 1 (counted from 0)"),
        ("[]\n", PAIR._replace(kind="jsonl"), "f:2: has 0 columns, none for 0 (counted from 0)"),
    ],
)
def test_bad_row_is_one_of_others(content, layout, message):
    good = {"tsv": b"a\tb\t1\n", "csv": b"a,b,1\n", "jsonl": b'["a", "b", 1]\n'}[layout.kind]
    content = content if isinstance(content, bytes) else content.encode()
    first, bad, *rest = read(good + content + good, layout)
    assert first == rest[-1] == ("a", "b", 1.0)
    assert message in bad and len(bad) < 200


@pytest.mark.parametrize(
    "record, message",
    [
        ({"t": "a"}, "f:1: has no value for 'v'; correct the line"),
        ({"t": None, "v": 1}, "f:1: has no value for 't'; correct the line"),
        ({"t": 5, "v": 1}, "f:1: expected a text, found '5'; correct the line"),
        ({"t": ["a"], "v": 1}, "f:1: expected a text, found "),
        ({"t": "a", "v": "x"}, "f:1: expected a number, found 'x'; correct the line"),
        ({"t": "a", "v": [1]}, "f:1: expected a number, found '[1]'; correct the line"),
        ({"t": "a", "v": None}, "f:1: expected a number, found 'None'; correct the line"),
        ({}, "f:1: has no value for 't'; correct the line"),
    ],
)
def test_bad_record(record, message):
    (bad,) = read(json.dumps(record), Layout("t", None, "v", kind="jsonl"))
    assert bad.startswith(message)


@pytest.mark.parametrize("kind, tab", [("tsv", "\t"), ("csv", ",")])
def test_missing_column(kind, tab):
    with pytest.raises(UserError) as caught:
        read(tab.join(["text", "score"]) + f"\na{tab}1\n", Layout("text", None, "v", True, kind))
    assert str(caught.value) == (
        "f:1: no column 'v' in the header, which has 'text', 'score'; "
        "check --text_column and its like"
    )


def test_header_cases():
    layout = Layout("t", None, "v", header=True)
    assert read("t\n", layout, None) == []  # The label's column is not needed.
    assert read("t\tv\na\n", layout) == ["f:2: has 1 columns, none for 'v'; correct the line"]
    for content, message in (
        (b"t\xff\tv\n", "f:1: not UTF-8"),
        (b"\nt\tv\n", "f:1: no column 't'"),
    ):
        with pytest.raises(UserError, match=message):
            read(content, layout)


@pytest.mark.parametrize("third", ["", "\t0.5", "\tno number", "\t\tx"])
def test_labels_are_not_read_in_prediction(third):
    assert read(f"a\tb{third}\n", PAIR, None) == [("a", "b", None)]


@pytest.mark.parametrize(
    "content, layout",
    [
        ("a\n\nb\n\r\n\n", Layout(0)),
        ("a\n\nb\n\n\n", Layout(0, kind="csv")),
        ("t\na\n\nb\n\n\n", Layout("t", header=True)),
        ("t,u\na,1\n\nb,2\n\n\n", Layout("t", header=True, kind="csv")),
    ],
)
def test_blank_lines_of_one_column_are_empty_texts(content, layout):
    """Output line n is of input line n."""
    assert [row[0] for row in read(content, layout, None)] == ["a", "", "b", "", ""]


@pytest.mark.parametrize(
    "content, layout, where, message",
    [
        ("\na\tb\n\n\nc\td\n\n\n", Layout(0, 1), [1, 3, 4], "expected at least 2 tab-sep"),
        ("0\ta\n\n1\tb\n\n", Layout(1), [2], "expected at least 2 tab-separated columns, found 0"),
        ("v,t\n0,a\n\n1,b\n\n", Layout("t", None, None, True, "csv"), [3], "none for 't'"),
        ('{"t": "a"}\n\n{"t": "b"}\n\n', Layout("t", kind="jsonl"), [2], "none for 't'"),
    ],
)
def test_blank_lines_of_several_columns_are_bad_rows(content, layout, where, message):
    """But for those at the end."""
    bad = [row for row in read(content, layout, None) if isinstance(row, str)]
    assert [row.split(" ")[0] for row in bad] == [f"f:{number}:" for number in where]
    assert all(message in row for row in bad)


def test_empty_records_are_bad_rows_in_prediction():
    found = read('{"t": "a"}\n{}\n', Layout("t", kind="jsonl"), None)
    assert found == [("a", None, None), "f:2: has no value for 't'; correct the line"]


def test_load_examples(tmp_path):
    path = write(tmp_path / "train.tsv", gzip.compress(b"a\tb\t1\nc\td\t0\n"))
    found = examples.load_examples(path, PAIR, "train", parse_value)
    assert [(e.guid, e.text_a, e.text_b, e.label) for e in found] == [
        ("train-0", "a", "b", 1.0),
        ("train-1", "c", "d", 0.0),
    ]


BAD = b"a\tb\t1\na\tb\nc\td\tx\n\xff\ne\tf\t0\n"


def test_bad_lines_end_the_reading(tmp_path):
    path = write(tmp_path / "train.tsv", BAD)
    with pytest.raises(UserError, match=r"train\.tsv:2: expected at least 3 tab-separated"):
        examples.load_examples(path, PAIR, "train", parse_value)


def test_bad_lines_are_skipped_and_counted(tmp_path, caplog):
    path = write(tmp_path / "train.tsv", BAD)
    with caplog.at_level(logging.WARNING, "bert_tools"):
        found = examples.load_examples(path, PAIR, "train", parse_value, "skip")
    assert [e.text_a for e in found] == ["a", "e"]
    (record,) = caplog.records
    assert record.getMessage().startswith(
        f"{path}: 3 bad lines skipped; the first: {path}:2: expected at least 3"
    )


@pytest.mark.parametrize(
    "content, on_bad_line, message",
    [
        ("", "error", "the file is empty; expected an example a line"),
        ("\n\r\n", "error", "the file is empty"),
        ("\ufeff", "skip", "the file is empty"),
        ("a\nb\n", "skip", "holds no usable line; expected an example a line"),
    ],
)
def test_nothing_in_the_file(tmp_path, content, on_bad_line, message):
    path = write(tmp_path / "train.tsv", content)
    with pytest.raises(UserError, match=f"{path}: {message}"):
        examples.load_examples(path, PAIR, "train", parse_value, on_bad_line)


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match=r"no: no such file; check --eval_file"):
        examples.load_examples(str(tmp_path / "no"), PAIR, "dev", parse_value, flag="--eval_file")


@pytest.mark.parametrize(
    "cell, value",
    [("0.8", 0.8), ("1", 1.0), ("-2e-3", -0.002), (" 0.5 ", 0.5), ("٠.٥", 0.5), (2, 2.0)],
)
def test_parse_value(cell, value):
    found = parse_value(cell)
    assert found == value and type(found) is float


@pytest.mark.parametrize(
    "cell", ["", "good", "0,5", "nan", "inf", "-inf", "1e999", "0x1", None, [1], 10**400]
)
def test_parse_bad_value(cell):
    with pytest.raises(ValueError) as caught:
        parse_value(cell)
    assert str(caught.value) == f"expected a number, found {tables.shown(str(cell))}"


PROCESSOR = """
from __future__ import annotations
import dataclasses
from bert_tools.inputs.examples import DataProcessor, InputExample

@dataclasses.dataclass
class Row:  # No processor; needs its module in sys.modules.
    text: str

class MineProcessor(DataProcessor):
    def get_train_examples(self, data_dir):
        rows = self._read_tsv(data_dir)
        return [InputExample(str(n), Row(a).text, b, v) for n, (a, b, v) in enumerate(rows)]
"""
OTHER = (
    PROCESSOR
    + """
class Other(MineProcessor):
    pass
"""
)


@pytest.mark.parametrize(
    "source, name, found",
    [
        (PROCESSOR, "mine", "MineProcessor"),
        (PROCESSOR, "another name", "MineProcessor"),
        (PROCESSOR, None, "MineProcessor"),
        (OTHER, "MINE", "MineProcessor"),
        (OTHER, "MineProcessor", "MineProcessor"),
        (OTHER, "other", "Other"),
        (OTHER, "otherprocessor", "Other"),
    ],
)
def test_load_processor(tmp_path, source, name, found):
    path = write(tmp_path / "mine.py", source)
    assert type(examples.load_processor(path, name)).__name__ == found


@pytest.mark.parametrize(
    "source, name, message",
    [
        (OTHER, "third", "--task_name=third: .*no such DataProcessor .there is mine, other.; name"),
        ("", "mine", "there is none"),
        ("from bert_tools.inputs.examples import DataProcessor", "mine", "there is none"),
        ("def f(:", "mine", r"--task_module=.*mine\.py: SyntaxError: .*; correct it"),
        ("import no_such_thing_at_all", "mine", "ModuleNotFoundError: No module named 'no_such"),
        ("1 / 0", "mine", "ZeroDivisionError: division by zero; correct it"),
        (
            PROCESSOR + "    def __init__(self): raise ValueError('no folder')",
            "mine",
            r"MineProcessor\(\): ValueError: no folder; correct it",
        ),
    ],
)
def test_task_module_that_is_wrong(tmp_path, source, name, message):
    with pytest.raises(UserError, match=message):
        examples.load_processor(write(tmp_path / "mine.py", source), name)


def test_task_module_that_is_no_python_file(tmp_path):
    with pytest.raises(UserError, match=r"no\.py: no such file; check --task_module"):
        examples.load_processor(str(tmp_path / "no.py"), "mine")
    with pytest.raises(UserError, match=r"mine\.txt: expected a \.py file"):
        examples.load_processor(write(tmp_path / "mine.txt", PROCESSOR), "mine")


def test_examples_of_processor(tmp_path):
    processor = examples.load_processor(write(tmp_path / "mine.py", PROCESSOR), "mine")
    path = write(tmp_path / "rows.tsv", '"a\tb\t5\n\nc\td\t2.5\n')
    found = examples.examples_of_processor(processor, "train", path, lambda v: float(v) / 5)
    assert [(e.guid, e.text_a, e.text_b, e.label) for e in found] == [
        ("0", '"a', "b", 1.0),
        ("1", "c", "d", 0.5),
    ]


class Given(examples.DataProcessor):
    """Gives what it is made of for train and test."""

    def __init__(self, given):
        self._given = given

    def get_train_examples(self, data_dir):
        if isinstance(self._given, Exception):
            raise self._given
        return self._given

    get_test_examples = get_train_examples


def test_labels_of_the_same_objects_are_parsed_once():
    processor = Given([InputExample("0", "a", label="5")])
    for _ in range(2):
        (found,) = examples.examples_of_processor(processor, "train", "", lambda v: float(v) / 5)
        assert found.label == 1.0


def test_labels_of_a_test_set_are_not_passed_on():
    (found,) = examples.examples_of_processor(Given([InputExample("0", "a", "b", "x")]), "test", "")
    assert (found.guid, found.text_a, found.text_b, found.label) == ("0", "a", "b", None)


@pytest.mark.parametrize(
    "given, message",
    [
        (None, "p.py: get_train_examples: TypeError: 'NoneType' object is not iterable; correct"),
        (KeyError("x"), "p.py: get_train_examples: KeyError: 'x'; correct it"),
        (NotImplementedError(), "p.py: get_train_examples is not implemented; write it"),
        (UserError("own words"), "own words"),
        ([], "p.py: get_train_examples gave no example; check --data_dir=folder"),
        (["text"], "p.py: get_train_examples gave \"'text'\"; expected InputExample"),
        ([InputExample("0", None, label=1)], "expected InputExample"),
        ([InputExample("0", "a", 5, label=1)], "expected InputExample"),
        ([InputExample("0", "a")], "p.py: example 0: expected a number, found 'None'; correct"),
        ([InputExample("7", "a", label="x")], "p.py: example 7: expected a number, found 'x'"),
    ],
)
def test_processor_that_fails(given, message):
    with pytest.raises(UserError) as caught:
        examples.examples_of_processor(Given(given), "train", "folder", parse_value, "p.py")
    assert message in str(caught.value)


def test_error_of_the_system_names_the_processor():
    with pytest.raises(UserError, match=r"p\.py: get_train_examples: FileNotFoundError: f; cor"):
        examples.examples_of_processor(Given(FileNotFoundError("f")), "train", "", path="p.py")


@pytest.mark.parametrize("processor", [examples.DataProcessor(), object()])
def test_split_that_a_processor_lacks(processor):
    with pytest.raises(UserError, match=r"p\.py: get_dev_examples is not implemented; write it"):
        examples.examples_of_processor(processor, "dev", "", parse_value, "p.py")
