"""Reading tab-separated files: what counts as a line, and what an error names."""

import io
import os

import pytest

from bert_tools.errors import UserError
from bert_tools.inputs import examples


def write(tmp_path, content):
    path = tmp_path / "train.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_example_has_the_original_attributes():
    example = examples.InputExample("train-0", "a", text_b="b", label=0.5)
    assert (example.guid, example.text_a, example.text_b, example.label) == (
        "train-0",
        "a",
        "b",
        0.5,
    )
    example = examples.InputExample(guid="train-1", text_a="a")
    assert example.text_b is None and example.label is None


@pytest.mark.parametrize(
    "content, rows",
    [
        ("a\tb\nc\td\n", [(1, ["a", "b"]), (2, ["c", "d"])]),
        ("a\tb\nc\td", [(1, ["a", "b"]), (2, ["c", "d"])]),
        ("a\tb\r\nc\td\r\n", [(1, ["a", "b"]), (2, ["c", "d"])]),
        ("\ufeffa\tb\n", [(1, ["a", "b"])]),
        ("a\tb\n\n\r\nc\td\n", [(1, ["a", "b"]), (4, ["c", "d"])]),
        ('"a\tb"\tc\n', [(1, ['"a', 'b"', "c"])]),
        ("a\tb\tc\td\n", [(1, ["a", "b", "c", "d"])]),
        ("\t\n", [(1, ["", ""])]),
        # Only \n ends a line: these are characters like any other.
        ("a\u2028b\t\x0b\x0c\x1c\x85\n", [(1, ["a\u2028b", "\x0b\x0c\x1c\x85"])]),
        ("a\rb\tc\n", [(1, ["a\rb", "c"])]),
        (" a \t中国\n", [(1, [" a ", "中国"])]),
    ],
)
def test_read_tsv(tmp_path, content, rows):
    assert list(examples.read_tsv(write(tmp_path, content), 2)) == rows


def test_too_few_columns_names_line_and_content(tmp_path):
    path = write(tmp_path, "a\tb\tc\n\nd\te\nf\tg\th\n")
    reader = examples.read_tsv(path, 3)
    assert next(reader) == (1, ["a", "b", "c"])
    with pytest.raises(UserError) as caught:
        next(reader)
    assert str(caught.value) == (
        f"{path}:3: expected at least 3 tab-separated columns, found 2 ('d\\te'); correct the line"
    )


def test_a_long_line_is_shown_cut(tmp_path):
    with pytest.raises(UserError) as caught:
        list(examples.read_tsv(write(tmp_path, "x" * 10000), 2))
    assert "xxx..." in str(caught.value) and len(str(caught.value)) < 250 + len(str(tmp_path))


def test_not_utf_8_names_line_and_remedy(tmp_path):
    path = write(tmp_path, b"a\tb\nc\xe9\td\n")
    with pytest.raises(UserError, match=r"train\.tsv:2: not UTF-8 at byte 1 .*iconv"):
        list(examples.read_tsv(path, 2))


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff", "\r\n"])
def test_nothing_in_the_file(tmp_path, content):
    with pytest.raises(UserError, match=r"train\.tsv: the file is empty; expected .* 3 columns"):
        list(examples.read_tsv(write(tmp_path, content), 3))


def test_require_file(tmp_path):
    examples.require_file(write(tmp_path, "a"))
    with pytest.raises(UserError, match="none: no such file; check --data_dir"):
        examples.require_file(str(tmp_path / "none"))
    with pytest.raises(UserError, match="is a folder, expected a file; check --input_file"):
        examples.require_file(str(tmp_path), "--input_file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_no_permission(tmp_path):
    path = write(tmp_path, "a\tb\n")
    os.chmod(path, 0)
    with pytest.raises(UserError, match="check its permissions"):
        list(examples.read_tsv(path, 2))


@pytest.mark.parametrize(
    "cell, value", [("0.8", 0.8), ("1", 1.0), ("-2e-3", -0.002), (" 0.5 ", 0.5), ("٠.٥", 0.5)]
)
def test_parse_value(cell, value):
    assert examples.parse_value(cell, "x.tsv", 1) == value


@pytest.mark.parametrize("cell", ["", "good", "0,5", "nan", "inf", "-inf", "1e999", "0x1"])
def test_parse_bad_value(cell):
    with pytest.raises(UserError) as caught:
        examples.parse_value(cell, "x.tsv", 7)
    said = f"x.tsv:7: expected a number, found {cell!r}; correct the line"
    assert str(caught.value) == said


def test_text_lines_keeps_blank_lines_when_asked():
    content = b"\xef\xbb\xbfa\n\n b \r\n"
    assert list(examples.text_lines(io.BytesIO(content), "stdin")) == [(1, "a"), (3, " b ")]
    kept = list(examples.text_lines(io.BytesIO(content), "stdin", keep_blank=True))
    assert kept == [(1, "a"), (2, ""), (3, " b ")]
    with pytest.raises(UserError, match="stdin:1: not UTF-8"):
        list(examples.text_lines(io.BytesIO(b"\xff\n"), "stdin"))
