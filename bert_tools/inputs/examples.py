"""InputExample, and the reader of tab-separated files that every task's data sets go through."""

import os

from bert_tools.errors import UserError


class InputExample:
    """One example of a task, as in the original run_classifier.py.

    Attributes:
      guid: str, unique within the set ("train-0").
      text_a: str.
      text_b: str or None, the second text of a pair.
      label: str, float or None (nothing to learn from: prediction).
    """

    __slots__ = ("guid", "label", "text_a", "text_b")

    def __init__(self, guid, text_a, text_b=None, label=None):
        self.guid = guid
        self.text_a = text_a
        self.text_b = text_b
        self.label = label


def read_tsv(path, columns):
    """Reads a tab-separated file without quoting, as the original's DataProcessor._read_tsv.

    Lines end in \\n or \\r\\n; a byte order mark is skipped; blank lines are skipped.

    Args:
      path: str.
      columns: int, how many columns a line needs at least; further ones are left alone.

    Yields:
      (number, cells): the line's number in the file, from 1, and its list of str.

    Raises:
      UserError: no such file, not UTF-8, too few columns, or nothing in it.
    """
    seen = False
    require_file(path)
    with open(path, "rb") as reader:
        for number, line in text_lines(reader, path):
            cells = line.split("\t")
            if len(cells) < columns:
                raise UserError(
                    f"{path}:{number}: expected at least {columns} tab-separated columns, found "
                    f"{len(cells)} ({_shown(line)}); correct the line"
                )
            seen = True
            yield number, cells
    if not seen:
        raise UserError(
            f"{path}: the file is empty; expected at least one line of {columns} columns"
        )


def parse_value(cell, path, number):
    """Reads a number of a TSV cell as float.

    Raises:
      UserError: naming file and line, when the cell is no finite number.
    """
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise UserError(
            f"{path}:{number}: expected a number, found {_shown(cell)}; correct the line"
        )
    return value


def require_file(path, flag="--data_dir"):
    """Raises UserError unless `path` is a file that can be read."""
    if os.path.isdir(path):
        raise UserError(f"{path}: is a folder, expected a file; check {flag}")
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file; check {flag}")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path}: cannot be read; check its permissions")


def text_lines(reader, name, keep_blank=False):
    """Decodes lines of UTF-8 text.

    Args:
      reader: binary file or other iterable of bytes, a line each.
      name: str, what errors call it.
      keep_blank: bool, whether blank lines count as lines.

    Yields:
      (number from 1, str without its line end).

    Raises:
      UserError: naming the line, when it is not UTF-8.
    """
    for number, raw in enumerate(reader, 1):
        if number == 1 and raw.startswith(b"\xef\xbb\xbf"):
            raw = raw[3:]
        try:
            line = raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name}:{number}: not UTF-8 at byte {error.start} of the line; "
                "convert the file, for example: iconv -f latin1 -t utf-8"
            ) from error
        if line or keep_blank:
            yield number, line


def _shown(text, limit=60):
    """A text as an error message shows it: quoted, and cut when it is long."""
    return repr(text if len(text) <= limit else f"{text[: limit - 3]}...")
