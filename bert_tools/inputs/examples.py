"""InputExample, and the reading of examples: from the files of a data set, from a stream, or by a
user's own DataProcessor.
"""

import importlib.util
import inspect
import logging
import math
import re
import sys
import typing

from bert_tools.errors import UserError
from bert_tools.inputs import tables
from bert_tools.inputs.tables import shown

log = logging.getLogger("bert_tools")
_PAIR = re.compile(r"^(.*) \|\|\| (.*)$")


class InputExample:
    """One example of a task, as in the original run_classifier.py.

    Attributes:
      guid: str, unique within the set ("train-0").
      text_a: str.
      text_b: str or None, the second text of a pair.
      label: str, float or None (nothing to learn from: prediction).
      further: tuple of str, the texts behind the second one, for tasks that compare more.
    """

    __slots__ = ("further", "guid", "label", "text_a", "text_b")

    def __init__(self, guid, text_a, text_b=None, label=None, further=()):
        self.guid = guid
        self.text_a = text_a
        self.text_b = text_b
        self.label = label
        self.further = further


class DataProcessor:
    """The original's reader of a data set, to be derived from for one's own (--task_module)."""

    def get_train_examples(self, data_dir):
        """A list of InputExample, the training set."""
        raise NotImplementedError

    def get_dev_examples(self, data_dir):
        """A list of InputExample, the dev set."""
        raise NotImplementedError

    def get_test_examples(self, data_dir):
        """A list of InputExample, for prediction."""
        raise NotImplementedError

    def get_labels(self):
        """The list of labels, in the order of their columns; regression has none."""
        raise NotImplementedError

    @classmethod
    def _read_tsv(cls, input_file, quotechar=None):
        """The cells of a tab-separated file: a list of lists of str."""
        del quotechar  # The original's own processors never give one.
        with tables.opened(input_file) as lines:
            return [_raised(cells) for _, cells in tables.rows(lines, "tsv") if cells]


def text_or_pair(line):
    """(text, second text or None) of a line of extract_features and its like: a pair is split at
    the last " ||| ".
    """
    line = line.strip()
    pair = _PAIR.match(line)
    return pair.groups() if pair else (line, None)


class Layout(typing.NamedTuple):
    """Where a file's rows hold what.

    text_a, text_b, label: a column, by number (from 0; -1 is the last) or by name (of the header,
      or a JSON key), or a tuple of names, of which the header has one; text_b is None where there
      is one text, label where there is none.
    header: bool, the first row names the columns.
    kind: one of tables.FORMATS.
    only: None, or (column, value): rows with another value there are left out.
    unlabelled: None, or what stands in the label column of a row that nobody could label.
    further: tuple of columns, of the texts behind the second one.
    """

    text_a: int | str
    text_b: int | str | None = None
    label: int | str | None = None
    header: bool = False
    kind: str = "tsv"
    only: tuple | None = None
    unlabelled: str | None = None
    further: tuple = ()


def read_examples(lines, layout, split, parse_label=None, every_line=None):
    """Reads examples row by row.

    Blank lines are left out, or where output line n is to be input line n (`every_line`) a blank
    line is an empty text, and in a layout of several columns a bad row, but for those at the end,
    which are left out.

    Args:
      lines: tables.Lines.
      layout: Layout; its label column is read only with parse_label.
      split: str, what guids begin with ("train-0").
      parse_label: function(str or JSON value, null as None) -> label; it raises ValueError with
        what was expected, and behind a ";" the remedy where it is another than to correct the line.
        None: rows need no label, and label is None.
      every_line: bool; None: where no labels are read.

    Yields:
      InputExample, whose label is None where the layout says unlabelled; or the UserError of a row
      that is none.

    Raises:
      UserError: the header lacks a column.
    """
    label = layout.label if parse_label else None
    columns = [layout.text_a, layout.text_b, label, *layout.further]
    every_line = parse_label is None if every_line is None else every_line
    names, blank, index = None, [], 0
    for number, cells in tables.rows(lines, layout.kind):
        if layout.header and layout.kind != "jsonl" and names is None:
            names = _header(_raised(cells) or [], lines.name, number, columns)
            continue
        if cells is None:
            first = (names or {}).get(layout.text_a, layout.text_a)
            if every_line and layout.text_b is None and label is None and first == 0:
                yield InputExample(f"{split}-{index}", "")
                index += 1
            elif every_line:
                blank.append(number)
            continue
        for number_of_blank in blank:
            yield _example([], number_of_blank, lines, layout, columns, names, split, index)
            index += 1
        blank.clear()
        if isinstance(cells, UserError):
            yield cells
        elif layout.only and _cell(cells, layout.only[0], names) != layout.only[1]:
            continue
        else:
            yield _example(cells, number, lines, layout, columns, names, split, index, parse_label)
        index += 1


def load_examples(path, layout, split, parse_label=None, on_bad_line="error", flag="--data_dir"):
    """All examples of a file, as a list.

    Args:
      path, flag: see tables.opened.
      layout, split, parse_label: see `read_examples`.
      on_bad_line: "error", or "skip": bad rows are left out, and a warning counts them.

    Rows that nobody could label are left out and counted too, where labels are read.

    Raises:
      UserError: a bad row (unless skipped), no such file, or nothing in it.
    """
    examples, bad, unlabelled = [], [], 0
    with tables.opened(path, flag) as lines:
        for example in read_examples(lines, layout, split, parse_label):
            if not isinstance(example, UserError):
                if parse_label and example.label is None:
                    unlabelled += 1
                else:
                    examples.append(example)
            elif on_bad_line == "skip":
                bad.append(example)
            else:
                raise example
    if bad:
        log.warning("%s: %d bad lines skipped; the first: %s", path, len(bad), bad[0])
    if unlabelled:
        log.info("%s: %d examples without a label left out", path, unlabelled)
    if not examples:
        what = "holds no usable line" if bad or unlabelled else "the file is empty"
        raise UserError(f"{path}: {what}; expected an example a line")
    return examples


def parse_value(cell):
    """A finite number from a cell, as float.

    Raises:
      ValueError: it is none.
    """
    try:
        # Python reads 1_0 as ten, and takes true for one.
        value = math.nan if isinstance(cell, bool) or "_" in str(cell) else float(cell)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"expected a number, found {shown(str(cell))}")
    return value


def load_processor(path, task_name):
    """Makes the DataProcessor of a user's own Python file (--task_module).

    The class is the one whose name is task_name, with or without "Processor", in any case; where
    the file defines one class alone, that one.

    Args:
      path: str, a .py file; it is run.
      task_name: str or None.

    Returns:
      An instance; it has get_train_examples and its like.

    Raises:
      UserError: no such file, it fails, or it holds no such class.
    """
    tables.require_file(path, "--task_module")
    spec = importlib.util.spec_from_file_location("task_module", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--task_module={path}: expected a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look it up there.
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"--task_module={path}: {type(error).__name__}: {error}; correct it"
        ) from error
    found = {
        name.lower().removesuffix("processor"): value
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and value.__module__ == module.__name__
        and hasattr(value, "get_train_examples")
    }
    wanted = (task_name or "").lower().removesuffix("processor")
    if wanted not in found and len(found) == 1:
        wanted = next(iter(found))
    if wanted not in found:
        listed = ", ".join(sorted(found)) or "none"
        raise UserError(
            f"--task_name={task_name}: --task_module={path} defines no such DataProcessor (there "
            f"is {listed}); name a class that derives from bert_tools.inputs.examples.DataProcessor"
        )
    try:
        return found[wanted]()
    except Exception as error:
        raise UserError(
            f"--task_module={path}: {found[wanted].__name__}(): {type(error).__name__}: {error}; "
            "correct it"
        ) from error


def examples_of_processor(processor, split, data_dir, parse_label=None, path=""):
    """The examples of one split ("train", "dev", "test") that a DataProcessor reads.

    Args:
      parse_label: as in `read_examples`; applied to each example's label, which must not be None;
        without it labels become None.
      path: str, what errors name.

    Returns:
      A list of InputExample, made anew: a processor may give the same objects twice.

    Raises:
      UserError: the processor fails, returns something else, or a label is bad.
    """
    method = getattr(processor, f"get_{split}_examples", None)
    try:
        if method is None:
            raise NotImplementedError
        given = list(method(data_dir))
    except NotImplementedError as error:
        raise UserError(f"{path}: get_{split}_examples is not implemented; write it") from error
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{path}: get_{split}_examples: {type(error).__name__}: {error}; correct it"
        ) from error
    if not given:
        raise UserError(
            f"{path}: get_{split}_examples gave no example; check --data_dir={data_dir}"
        )
    examples = []
    for example in given:
        guid, text_a, text_b, label = (
            getattr(example, name, None) for name in ("guid", "text_a", "text_b", "label")
        )
        further = tuple(getattr(example, "further", ()))
        texts = isinstance(text_a, str) and isinstance(text_b, str | None)
        if not texts or not all(isinstance(text, str) for text in further):
            raise UserError(
                f"{path}: get_{split}_examples gave {shown(repr(example))}; expected InputExample, "
                "its text_a a str and its text_b a str or None"
            )
        try:
            label = parse_label(label) if parse_label else None
        except ValueError as error:
            raise UserError(f"{path}: example {guid}: {error}; correct the data") from error
        examples.append(InputExample(guid, text_a, text_b, label, further))
    return examples


def labels_of_processor(processor, path):
    """What a DataProcessor's get_labels says, as a tuple of str; None where it has none.

    Raises:
      UserError: it fails; names `path`.
    """
    try:
        labels = processor.get_labels()
    except (AttributeError, NotImplementedError):
        return None
    except Exception as error:
        raise UserError(
            f"{path}: get_labels: {type(error).__name__}: {error}; correct it"
        ) from error
    return None if labels is None else tuple(map(str, labels))


def _raised(cells):
    if isinstance(cells, UserError):
        raise cells
    return cells


def _header(cells, name, number, columns):
    """{column name: its place}; the columns wanted must be there."""
    cells = [cell.strip() for cell in cells]
    names = {cell: place for place, cell in enumerate(cells)}
    for column in columns:
        spellings = column if isinstance(column, tuple) else (column,)
        found = next((spelling for spelling in spellings if spelling in names), None)
        if cells.count(found) > 1:
            raise UserError(
                f"{name}:{number}: the header has {found!r} {cells.count(found)} times; rename "
                "one, or name the columns by number, with --header=true"
            )
        if found is not None:
            names[column] = names[found]
        elif isinstance(column, str | tuple):
            raise UserError(
                f"{name}:{number}: no column {' or '.join(map(repr, spellings))} in the header, "
                f"which has {', '.join(map(repr, cells))}; check --text_column and its like"
            )
    return names


def _cell(cells, column, names):
    """A row's cell, or None when the row has none there."""
    if isinstance(cells, dict):
        return cells.get(str(column))
    place = column if isinstance(column, int) else (names or {}).get(column)
    return cells[place] if place is not None and place < len(cells) else None


def _has_cell(cells, column, names):
    """Whether a row has a cell there, if only a null."""
    if isinstance(cells, dict):
        return str(column) in cells
    place = column if isinstance(column, int) else (names or {}).get(column)
    return place is not None and place < len(cells)


def _example(cells, number, lines, layout, columns, names, split, index, parse_label=None):
    """InputExample of a row, or a UserError."""
    found = [None if column is None else _cell(cells, column, names) for column in columns]
    for column, value in zip(columns, found, strict=True):
        if column is None or value is not None:
            continue
        if parse_label and column == layout.label and _has_cell(cells, column, names):
            continue  # A null, which may say that there is no label.
        if isinstance(cells, dict):
            what = f"has no value for {column!r}"
        elif names is not None or layout.kind == "jsonl":
            counted = " (counted from 0)" if isinstance(column, int) else ""
            what = f"has {len(cells)} columns, none for {column!r}{counted}"
        else:
            needed = 1 + max(c for c in columns if c is not None)
            kind = "tab-separated" if layout.kind == "tsv" else "comma-separated"
            row = shown("\t".join(cells))
            other = "" if parse_label else ", or name the columns with --text_column"
            return UserError(
                f"{lines.name}:{number}: expected at least {needed} {kind} columns, found "
                f"{len(cells)} ({row}); correct the line{other}"
            )
        return UserError(f"{lines.name}:{number}: {what}; correct the line")
    text_a, text_b, label, *further = found
    for text in (text_a, text_b, *further):
        if text is not None and not isinstance(text, str):
            return UserError(
                f"{lines.name}:{number}: expected a text, found {shown(repr(text))}; "
                "correct the line"
            )
    if parse_label and label is not None and label == layout.unlabelled:
        label = None
    elif parse_label:
        try:
            label = parse_label(label)
        except ValueError as error:
            remedy = "" if ";" in str(error) else "; correct the line"
            return UserError(f"{lines.name}:{number}: {error}{remedy}")
    return InputExample(f"{split}-{index}", text_a, text_b, label, tuple(further))
