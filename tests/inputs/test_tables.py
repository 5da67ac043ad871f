"""Rows of TSV, CSV and JSON lines: what ends a line, gzip, streams, and what an error names."""

import csv
import gzip
import io
import json
import os
import random
import sys
import threading

import pytest

from bert_tools.errors import UserError
from bert_tools.inputs import tables

# What str.splitlines splits at and a TSV or CSV file does not, but for \n and \r.
NO_LINE_ENDS = "\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def encoded(content):
    return content if isinstance(content, bytes) else content.encode()


class Trickle(io.RawIOBase):
    """A stream that gives a few bytes a read, as a pipe may."""

    def __init__(self, content, size):
        super().__init__()
        self._left, self._size = content, size

    def readable(self):
        return True

    def read(self, size=-1):
        block, self._left = self._left[: self._size], self._left[self._size :]
        return block


def lines_of(content):
    return list(tables.Lines(io.BytesIO(encoded(content)), "f"))


def rows_of(content, kind):
    """Rows, an error as its text."""
    rows = tables.rows(tables.Lines(io.BytesIO(encoded(content)), "f"), kind)
    return [(n, str(cells) if isinstance(cells, UserError) else cells) for n, cells in rows]


@pytest.mark.parametrize(
    "name, kind",
    [
        ("a/b.tsv", "tsv"),
        ("a/b.txt", "tsv"),
        ("b", "tsv"),
        ("-", "tsv"),
        ("b.csv", "csv"),
        ("B.CSV", "csv"),
        ("b.csv.gz", "csv"),
        ("b.json", "jsonl"),
        ("b.jsonl", "jsonl"),
        ("b.ndjson.gz", "jsonl"),
        ("b.tsv.gz", "tsv"),
        ("csv/b", "tsv"),
    ],
)
def test_format_of(name, kind):
    assert tables.format_of(name) == kind


@pytest.mark.parametrize(
    "content, expected",
    [
        ("a\nb\n", ["a", "b"]),
        ("a\nb", ["a", "b"]),
        ("a\r\nb\r\n", ["a", "b"]),
        ("a\rb\n", ["a\rb"]),
        ("\ufeffa\n\ufeffb\n", ["a", "\ufeffb"]),
        ("\n\r\na\n\n", ["", "", "a", ""]),
        ("", []),
        ("\ufeff", [""]),
        (f"a{NO_LINE_ENDS}b\n", [f"a{NO_LINE_ENDS}b"]),
        ("a\0b\n", ["a\0b"]),
        ("中国\n😀", ["中国", "😀"]),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_lines(content, expected, size):
    lines = tables.Lines(Trickle(encoded(content), size), "f")
    assert list(lines) == list(enumerate(expected, 1))
    assert not lines.ready


def test_line_of_many_blocks():
    line = "".join(random.Random(0).choices("ab中😀", k=1_000_000))
    assert lines_of(f"x\n{line}\ny") == [(1, "x"), (2, line), (3, "y")]


def test_reading_goes_on_at_an_offset():
    content = "\ufeffa\nä\r\n\nlast".encode()
    lines = tables.Lines(io.BytesIO(content), "f")
    for expected in (1, "a"), (2, "ä"), (3, ""):
        assert next(lines) == expected
        rest = tables.Lines(io.BytesIO(content[lines.offset :]), "f", expected[0])
        assert list(rest) == [(1, "a"), (2, "ä"), (3, ""), (4, "last")][expected[0] :]


def test_not_utf_8_is_one_line_of_others():
    first, (number, error), last = lines_of(b"a\nc\xe9\td\nb\n")
    assert (first, number, last) == ((1, "a"), 2, (3, "b"))
    assert isinstance(error, UserError)
    assert str(error).startswith("f:2: not UTF-8 at byte 1 of the line; convert the file")


@pytest.mark.parametrize(
    "content, expected",
    [
        ("a\tb\nc\td\n", [(1, ["a", "b"]), (2, ["c", "d"])]),
        ('"a\tb"\tc\n"\n', [(1, ['"a', 'b"', "c"]), (2, ['"'])]),
        ("\t\n", [(1, ["", ""])]),
        (" a \n", [(1, [" a "])]),
        ("a\n\n\r\nb\n\n", [(1, ["a"]), (2, None), (3, None), (4, ["b"]), (5, None)]),
        (f"a{NO_LINE_ENDS}b\tc\rd\0e\n", [(1, [f"a{NO_LINE_ENDS}b", "c\rd\0e"])]),
    ],
)
def test_tsv(content, expected):
    assert rows_of(content, "tsv") == expected


@pytest.mark.parametrize(
    "content, expected",
    [
        ('a,"b, c",d\n', [(1, ["a", "b, c", "d"])]),
        ('"say ""hi""",\n""\n', [(1, ['say "hi"', ""]), (2, [""])]),
        ('"a\nb",c\nd,e\n', [(1, ["a\nb", "c"]), (3, ["d", "e"])]),
        ('"a\r\n\r\nb",c\r\nd,e', [(1, ["a\n\nb", "c"]), (4, ["d", "e"])]),
        ('"a\rb",c\n', [(1, ["a\rb", "c"])]),
        ("\ufeffa,b\n", [(1, ["a", "b"])]),
        ("a\n\nb\n", [(1, ["a"]), (2, None), (3, ["b"])]),
        (f'a{NO_LINE_ENDS}b,"c{NO_LINE_ENDS}"\n', [(1, [f"a{NO_LINE_ENDS}b", f"c{NO_LINE_ENDS}"])]),
        ("a\0b,c\n", [(1, ["ab", "c"])]),
    ],
)
def test_csv(content, expected):
    assert rows_of(content, "csv") == expected


@pytest.mark.parametrize(
    "content, where",
    [
        ('a,1\n"b,2\nc,3\nd,4\n', [2]),  # Open to the end of the file.
        ('a,1\n"b" x,2\nc,3\nd,4\n', [2]),
        ("a,1\nb\rb,2\nc,3\nd,4\n", [2]),
        ('a,1\n"b,2\n"c,3\n"d",4\n', [2, 3]),
        ('a,1\n"b\nb\nb",2\n"c,3\nd,4\n', [5]),
    ],
)
def test_unbalanced_quote_is_one_bad_row(content, where):
    found = rows_of(content, "csv")
    assert [n for n, cells in found if isinstance(cells, str)] == where
    bad = next(cells for n, cells in found if n == where[0])
    assert bad.startswith(f"f:{where[0]}: not a CSV row (") and "correct the quoting" in bad
    # The others are what they are without the bad lines.
    good = [line for n, line in enumerate(content.split("\n"), 1) if n not in where]
    expected = list(csv.reader(io.StringIO("\n".join(good))))
    assert [cells for _, cells in found if isinstance(cells, list)] == expected


def test_csv_with_lines_that_are_not_utf_8():
    found = rows_of(b'a,1\nb\xff,2\n"c\n\xff",3\nd,4\n', "csv")
    assert found[0] == (1, ["a", "1"]) and found[-1] == (5, ["d", "4"])
    assert [(n, cells[:15]) for n, cells in found[1:-1]] == [
        (2, "f:2: not UTF-8 "),
        (3, "f:3: not a CSV "),  # The closing quote stood in the bad line.
        (4, "f:4: not UTF-8 "),
    ]


def test_long_fields_and_the_limit_of_csv(monkeypatch):
    before = csv.field_size_limit()
    long = "x" * 2_000_000
    assert rows_of(f'"{long}",{long}\n', "csv") == [(1, [long, long])]
    assert rows_of(f"{long}\tb\n", "tsv") == [(1, [long, "b"])]
    monkeypatch.setattr(tables, "_LONGEST_FIELD", 1000)
    found = rows_of(f"{long},1\na,2\n", "csv")
    assert found[0][1].startswith("f:1: not a CSV row (field larger") and found[1] == (
        2,
        ["a", "2"],
    )
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("kind", ["tsv", "csv"])
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_rows_are_those_of_the_csv_module(kind, size):
    """Any cells, written by the standard library."""
    rng = random.Random(size)
    alphabet = f"ab ,'中{NO_LINE_ENDS}" + ('"\n' if kind == "csv" else '"')
    rows = [
        ["x", *("".join(rng.choices(alphabet, k=rng.randrange(9))) for _ in range(3))]
        for _ in range(200)
    ]
    text = io.StringIO()
    if kind == "csv":
        csv.writer(text, lineterminator="\r\n").writerows(rows)
    else:
        text.write("".join("\t".join(row) + "\n" for row in rows))
    lines = tables.Lines(Trickle(text.getvalue().encode(), size), "f")
    assert [cells for _, cells in tables.rows(lines, kind)] == rows


def test_jsonl():
    values = [{"text": "a\n\u2028,\t", "v": 0.5}, ["a", 1, None], {}, []]
    content = "".join(json.dumps(v, ensure_ascii=False) + "\n" for v in values)
    assert rows_of(content, "jsonl") == list(enumerate(values, 1))
    assert rows_of('\ufeff{"a":1}\r\n\n[2]', "jsonl") == [(1, {"a": 1}), (2, None), (3, [2])]


@pytest.mark.parametrize(
    "line, message",
    [
        ("{'a': 1}", "f:2: not a JSON value (Expecting property name"),
        ('{"a": 1', "f:2: not a JSON value (Expecting ',' delimiter): '{\"a\": 1'; correct the"),
        ("  ", "f:2: not a JSON value (Expecting value)"),
        ("[" * 100_000, "f:2: not a JSON value (nested too deeply): '[[["),
        ('{"a": ' + "1" * 5000 + "}", "f:2: not a JSON value (Exceeds the limit"),
        (r'{"a": "\ud83d"}', "f:2: not a JSON value (surrogates not allowed)"),
        ("5", "f:2: expected a JSON object, found '5'; correct the line"),
        ('"text"', "f:2: expected a JSON object, found '\"text\"'"),
        ("null", "f:2: expected a JSON object, found 'null'"),
    ],
)
def test_bad_json(line, message):
    found = rows_of(f'{{"a": 1}}\n{line}\n{{"a": 2}}\n', "jsonl")
    assert [found[0], found[2]] == [(1, {"a": 1}), (3, {"a": 2})]
    assert found[1][0] == 2 and found[1][1].startswith(message) and len(found[1][1]) < 250


def test_surrogate_pairs_are_characters():
    assert rows_of(r'{"a": "\ud83d\ude00"}', "jsonl") == [(1, {"a": "😀"})]


@pytest.mark.parametrize("size", [2, 11, 1000])
@pytest.mark.parametrize("name", ["t.tsv.gz", "t.tsv"])
def test_gzip(tmp_path, name, size):
    members = [b"a\tb\nc", b"", "中\td\n".encode(), b"e" * 100_000]
    packed = b"".join(map(gzip.compress, members))
    expected = [["a", "b"], ["c中", "d"], ["e" * 100_000]]
    assert [line.split("\t") for _, line in tables.Lines(Trickle(packed, size), "f")] == expected
    path = tmp_path / name
    path.write_bytes(packed)
    with tables.opened(str(path)) as lines:
        assert [cells for _, cells in tables.rows(lines, "tsv")] == expected


def test_name_of_gzip_and_plain_content(tmp_path):
    path = tmp_path / "t.tsv.gz"
    path.write_bytes(b"a\tb\n")
    with tables.opened(str(path)) as lines:
        assert list(lines) == [(1, "a\tb")]


PACKED = gzip.compress(bytes(random.Random(0).choices(b"abcd\n", k=10_000)))


@pytest.mark.parametrize(
    "packed, message",
    [
        (PACKED[:-1], "f: the gzip data is cut short; restore the file"),
        (PACKED[:5], "f: the gzip data is cut short"),
        (PACKED + PACKED[:100], "f: the gzip data is cut short"),
        (PACKED[:50] + b"\xff" * 50 + PACKED[100:], "f: damaged gzip data"),
        (PACKED[:-8] + bytes(8), "f: damaged gzip data"),
        (PACKED + b"garbage", "f: damaged gzip data"),
    ],
    ids=["one byte short", "head alone", "half a member", "noise", "checksum", "garbage"],
)
@pytest.mark.parametrize("kind", tables.FORMATS)
def test_damaged_gzip(packed, message, kind):
    with pytest.raises(UserError) as caught:
        rows_of(packed, kind)
    assert str(caught.value).startswith(message)


def test_require_file(tmp_path):
    (tmp_path / "a").write_text("a")
    tables.require_file(str(tmp_path / "a"))
    with pytest.raises(UserError, match="none: no such file; check --data_dir"):
        tables.require_file(str(tmp_path / "none"))
    with (
        pytest.raises(UserError, match="is a folder, expected a file; check --input_file"),
        tables.opened(str(tmp_path), "--input_file"),
    ):
        pass


def test_no_permission(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("a")
    # Root may read anything.
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK)
    with pytest.raises(UserError, match="a: cannot be read; check its permissions"):
        tables.require_file(str(tmp_path / "a"))


@pytest.fixture
def stdin(monkeypatch):
    """The writing end of a pipe that is stdin, a raw file."""
    reading, writing = os.pipe()
    with open(reading, encoding="ascii") as reader, open(writing, "wb", buffering=0) as writer:
        monkeypatch.setattr(sys, "stdin", reader)
        yield writer


def test_stdin(stdin):
    stdin.write("\ufeffa\tb\n中\xff\n".encode() + b"\xff\n")
    stdin.close()
    with tables.opened("-") as lines:
        first, second, (number, bad) = list(lines)
    assert (first, second, number) == ((1, "a\tb"), (2, "中\xff"), 3)
    assert str(bad).startswith("stdin:3: not UTF-8")


def test_stdin_that_is_no_file(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\nb")))
    with tables.opened("-") as lines:
        assert list(lines) == [(1, "a"), (2, "b")]


@pytest.mark.parametrize(
    "kind, first, second, end",
    [
        ("tsv", b"a\tb\nc\n", [["a", "b"], ["c"]], ["d"]),
        ("csv", b'a,"b"\n"c\nc"\n', [["a", "b"], ["c\nc"]], ["d"]),
        ("jsonl", b'["a", "b"]\n["c"]\n', [["a", "b"], ["c"]], ["d"]),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_rows_of_a_pipe_come_before_its_end(stdin, kind, first, second, end, packed):
    """The writer waits for both rows before it goes on, or for a timeout when they do not come."""
    last = b'["d"]\n' if kind == "jsonl" else b"d\n"
    read, came = threading.Event(), []

    def write():
        stdin.write(gzip.compress(first) if packed else first)
        came.append(read.wait(20))
        stdin.write(gzip.compress(last) if packed else last)
        stdin.close()

    writer = threading.Thread(target=write)
    writer.start()
    with tables.opened("-") as lines:
        rows = tables.rows(lines, kind)
        assert [next(rows)[1] for _ in second] == second
        assert not lines.ready  # The next row would be waited for.
        read.set()
        assert [cells for _, cells in rows] == [end]
    writer.join()
    assert came == [True]


def test_ready_says_what_needs_no_waiting():
    lines = tables.Lines(Trickle(b"a\nb\nc", 4), "f")
    assert not lines.ready
    assert next(lines) == (1, "a") and lines.ready
    assert next(lines) == (2, "b") and not lines.ready
    lines.give_back([(1, "a"), (2, "b")])
    assert lines.ready and list(lines) == [(1, "a"), (2, "b"), (3, "c")]


def test_shown():
    assert tables.shown("a\tb") == r"'a\tb'"
    assert tables.shown("x" * 60) == repr("x" * 60)
    assert tables.shown("x" * 61) == repr("x" * 57 + "...")


def test_a_pipe_that_does_not_wait():
    """Somebody who shares it may have made it so."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with open(reading, "rb", buffering=0) as reader, open(writing, "wb", buffering=0) as writer:
        lines = tables.Lines(reader, "stdin")
        writer.write(b"a\n")
        assert next(lines) == (1, "a")
        late = threading.Timer(0.3, lambda: (writer.write(b"b\n"), writer.close()))
        late.start()
        assert list(lines) == [(2, "b")]
        late.join()
