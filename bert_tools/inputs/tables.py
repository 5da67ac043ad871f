"""Rows of TSV, CSV and JSON-lines files and streams, each with its line number; gzip is read as it
is.

A row that cannot be read is given as the UserError that says so, and reading goes on behind it:
whoever reads decides whether one bad line ends the run.
"""

import collections
import contextlib
import csv
import json
import os
import select
import sys
import zlib

from bert_tools.errors import UserError

FORMATS = ("tsv", "csv", "jsonl")
_SUFFIXES = {".csv": "csv", ".json": "jsonl", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_BLOCK = 1 << 18  # Bytes a read; a pipe gives what it has.
# Lines of a stream that are answered together: enough to fill rows by length, few enough for flat
# memory and for an end within a second or two. It begins small: the first answer comes soon.
_FIRST_WINDOW, _WINDOW = 32, 1024
_GZIP = b"\x1f\x8b"
_LONGEST_FIELD = 1 << 24  # Characters; csv's own limit of 2 ** 17 is less than some documents.


def format_of(path):
    """The format that a file's name stands for; "tsv" where it says nothing."""
    name = path.lower().removesuffix(".gz")
    return _SUFFIXES.get(os.path.splitext(name)[1], "tsv")


def require_file(path, flag="--data_dir"):
    """Raises UserError unless `path` is a file that can be read."""
    if os.path.isdir(path):
        raise UserError(f"{path}: is a folder, expected a file; check {flag}")
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file; check {flag}")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path}: cannot be read; check its permissions")


@contextlib.contextmanager
def opened(path, flag="--data_dir"):
    """Opens a file, or stdin for "-", as Lines.

    Raises:
      UserError: no such file; names `flag`.
    """
    if path == "-":
        if sys.stdin is None:
            what = f"{flag}=-: stdin" if flag.startswith("--") else flag
            raise UserError(f"{what} is closed; pipe the lines in")
        # Unbuffered: a thread that waits in a buffered read makes the interpreter's end fail.
        yield Lines(getattr(sys.stdin.buffer, "raw", sys.stdin.buffer), "stdin")
    else:
        require_file(path, flag)
        with open(path, "rb", buffering=0) as reader:
            yield Lines(reader, path)


def checked(found, on_bad_line):
    """Yields what `found` gives, UserErrors for bad lines among it.

    Raises:
      UserError: the first of them, unless on_bad_line is "skip".
    """
    for one in found:
        if isinstance(one, UserError) and on_bad_line == "error":
            raise one
        yield one


def ready_windows(found, lines):
    """Yields lists of what `found` gives: what can be read without waiting, so that the first line
    is answered before the last one is written. The first lists are short.

    Args:
      found: iterator that reads from `lines`; None stands for a line that is left out.
      lines: Lines.

    Raises:
      UserError: what `found` raises; what came before is given first.
    """
    window, size = [], _FIRST_WINDOW
    try:
        for one in found:
            if one is not None:
                window.append(one)
            if window and (len(window) >= size or not lines.ready):
                yield window
                window, size = [], min(2 * size, _WINDOW)
    except UserError:
        if window:
            yield window
        raise
    if window:
        yield window


class Lines:
    """An iterator over the lines of UTF-8 text: (number from 1, str without its line end).

    Only \\n and \\r\\n end a line; a byte order mark is skipped; gzip is unpacked. A line that is
    not UTF-8 is given as a UserError in place of the str.

    Args:
      reader: unbuffered binary file; read(n) gives what is there.
      name: str, what errors call it.
      number: int, lines that the reader has left behind.

    Attributes:
      offset: int, the bytes, unpacked, that the lines so far took.

    Raises:
      UserError: the gzip data is damaged or cut short.
    """

    def __init__(self, reader, name, number=0):
        self.name = name
        self.offset = 0
        self._reader = reader
        self._number = number
        self._lines = collections.deque()
        self._given_back = collections.deque()
        self._begun = []  # Pieces of a line that has not ended yet.
        self._ended = False
        self._gzip = None

    def __iter__(self):
        return self

    def __next__(self):
        if self._given_back:
            return self._given_back.popleft()
        while not self._lines:
            if self._ended:
                raise StopIteration
            self._read()
        self._number += 1
        raw = self._lines.popleft()
        self.offset += len(raw) + 1
        if self._number == 1 and raw.startswith(b"\xef\xbb\xbf"):
            raw = raw[3:]
        try:
            return self._number, raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            wide = self._number == 1 and raw[:2] in (b"\xff\xfe", b"\xfe\xff")
            return self._number, UserError(
                f"{self.name}:{self._number}: not UTF-8 at byte {error.start} of the line; "
                f"convert the file, for example: iconv -f {'utf-16' if wide else 'latin1'} -t utf-8"
            )

    @property
    def ready(self):
        """Whether the next line is there without waiting for whoever writes it."""
        return bool(self._given_back or self._lines)

    def give_back(self, lines):
        """Puts (number, line) that were read last before all that follows, to be read again."""
        self._given_back.extendleft(reversed(lines))

    def _read(self):
        block = self._reader.read(_BLOCK)
        if block is None:  # Somebody who shares the pipe made it one that does not wait.
            select.select([self._reader], [], [])
            return
        if not block:
            self._ended = True
            if self._gzip and not self._gzip.eof:
                raise UserError(f"{self.name}: the gzip data is cut short; restore the file")
            last = b"".join(self._begun)
            self._lines.extend([last] if last else [])
            return
        if self._gzip is None:
            # The first block alone decides; False from there on.
            self._gzip = zlib.decompressobj(31) if block.startswith(_GZIP) else False
        if self._gzip:
            block = self._unpacked(block)
        head, *complete = block.split(b"\n")
        self._begun.append(head)
        if complete:
            self._lines.append(b"".join(self._begun))
            self._begun = [complete.pop()]
            self._lines.extend(complete)

    def _unpacked(self, block):
        parts = []
        try:
            while block:
                if self._gzip.eof:  # Files packed one after another, as `cat a.gz b.gz` gives.
                    self._gzip = zlib.decompressobj(31)
                parts.append(self._gzip.decompress(block))
                block = self._gzip.unused_data
        except zlib.error as error:
            raise UserError(
                f"{self.name}: damaged gzip data ({error}); restore the file"
            ) from error
        return b"".join(parts)


def rows(lines, kind):
    """The cells of each row.

    Args:
      lines: Lines.
      kind: one of FORMATS. tsv: split at every tab, no quoting, as the original reads; csv: RFC
        4180, a quoted cell may hold commas and line ends; jsonl: an object or a list a line.

    Yields:
      (number, cells): the number of the line that the row begins on, and a list of str; for jsonl
      a dict or a list of any JSON values; for a blank line None; or the UserError that says what
      is wrong with the line.
    """
    if kind == "csv":
        yield from _csv_rows(lines)
        return
    for number, line in lines:
        if isinstance(line, UserError) or not line:
            yield number, line or None
        elif kind == "tsv":
            yield number, line.split("\t")
        else:
            yield number, _json_cells(line, lines.name, number)


def _csv_rows(lines):
    taken = []  # The lines of the row that is being read.

    def texts():
        for number, line in lines:
            taken.append((number, line))
            # Python 3.10 refuses NUL, and the tokenizer drops it anyway.
            yield "\n" if isinstance(line, UserError) else line.replace("\0", "") + "\n"

    limit = csv.field_size_limit(_LONGEST_FIELD)
    try:
        reader = csv.reader(texts(), strict=True)
        while True:
            taken.clear()
            try:
                cells = next(reader) or None
            except StopIteration:
                return
            except csv.Error as error:
                number = taken[0][0]
                cells = UserError(
                    f"{lines.name}:{number}: not a CSV row ({error}); correct the quoting"
                )
                # A quote that nothing closes took in the rows behind it.
                lines.give_back(taken[1:])
                del taken[1:]
                reader = csv.reader(texts(), strict=True)
            bad = (line for _, line in taken if isinstance(line, UserError))
            yield taken[0][0], next(bad, cells)
    finally:
        csv.field_size_limit(limit)


def _json_cells(line, name, number):
    try:
        cells = json.loads(line)
        if "\\ud" in line.lower():  # Half of a surrogate pair fits in no UTF-8 output.
            json.dumps(cells, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        told = getattr(error, "msg", getattr(error, "reason", error))
        reason = "nested too deeply" if isinstance(error, RecursionError) else told
        return UserError(
            f"{name}:{number}: not a JSON value ({reason}): {shown(line)}; correct the line"
        )
    if not isinstance(cells, dict | list):
        return UserError(
            f"{name}:{number}: expected a JSON object, found {shown(line)}; correct the line"
        )
    return cells


def listed(names):
    """A sequence of str for a message: the first ten."""
    return ", ".join(names[:10]) + (", ..." if names[10:] else "")


def shown(text, limit=60):
    """A text as an error message shows it: quoted, and cut when it is long."""
    return repr(text if len(text) <= limit else f"{text[: limit - 3]}...")
