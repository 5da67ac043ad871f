"""A data set: which files a task's splits lie in and how their rows are read. The tables of them
are in tasks/; here is their reading, and the data sets that flags describe.
"""

import os
import typing

from bert_tools.errors import UserError
from bert_tools.inputs import examples, tables

SPLITS = ("train", "dev", "test")
_CSV_SUFFIXES = ("tsv", "csv", "jsonl", "json", "ndjson")


class DataSet(typing.NamedTuple):
    """A row of a task's table.

    train, dev, test: (file name, examples.Layout); the file may be gzipped, with or without .gz.
      Of several names, in a tuple, the first that is there counts.
    dev_mm, test_mm: the same for a second dev and test set, or None.
    value_range: (low, high) of a regression's values, or None for 0..1.
    labels: the classes in the order of their columns, or None.
    aliases: ((spelling in the files, label), ...), or None.
    has_bad_lines: bool, the files as they ship have damaged rows, which everybody skips.
    """

    train: tuple
    dev: tuple
    test: tuple
    dev_mm: tuple | None = None
    test_mm: tuple | None = None
    value_range: tuple | None = None
    labels: tuple | None = None
    aliases: tuple | None = None
    has_bad_lines: bool = False

    def load(self, data_dir, split, parse_label, on_bad_line="error"):
        """Reads one split.

        Args:
          data_dir: str.
          split: one of SPLITS, or dev_mm or test_mm; a test file needs no label, and what stands
            there is not read.
          parse_label: see examples.read_examples.
          on_bad_line: "error" or "skip".

        Returns:
          (path, list of InputExample).

        Raises:
          UserError: see examples.load_examples.
        """
        names, layout = getattr(self, split)
        path = _existing(data_dir, names)
        parse_label = None if split.startswith("test") else parse_label
        on_bad_line = "skip" if self.has_bad_lines else on_bad_line
        return path, examples.load_examples(path, layout, split, parse_label, on_bad_line)

    def has(self, data_dir, split):
        """Whether the file of a split is there."""
        place = getattr(self, split)
        return place is not None and os.path.exists(_existing(data_dir, place[0]))

    def layout(self, split, path):
        """The Layout of a file elsewhere that has the form of a split's."""
        del path
        return getattr(self, split)[1]


class OwnFiles(typing.NamedTuple):
    """--task_name=csv: data_dir/{train,dev,test}.{tsv,csv,jsonl}, with columns of one's own.

    columns: examples.Layout; its kind is decided by each file's name.
    """

    columns: examples.Layout
    value_range: tuple | None = None
    labels: tuple | None = None
    aliases: tuple | None = None

    def load(self, data_dir, split, parse_label, on_bad_line="error"):
        """See DataSet.load."""
        path = _existing(data_dir, self._names(split))
        parse_label = None if split == "test" else parse_label
        layout = self.layout(split, path)
        return path, examples.load_examples(path, layout, split, parse_label, on_bad_line)

    def has(self, data_dir, split):
        """See DataSet.has."""
        return split in SPLITS and os.path.exists(_existing(data_dir, self._names(split)))

    def layout(self, split, path):
        """See DataSet.layout."""
        del split
        return self.columns._replace(kind=tables.format_of(path))

    def _names(self, split):
        return tuple(f"{split}.{suffix}" for suffix in _CSV_SUFFIXES)


class OwnReader(typing.NamedTuple):
    """--task_module: a DataProcessor of a user's own."""

    processor: typing.Any
    path: str
    value_range: tuple | None = None
    aliases: tuple | None = None

    @property
    def labels(self):
        """See DataSet.labels; None where the processor does not say."""
        return examples.labels_of_processor(self.processor, self.path)

    def load(self, data_dir, split, parse_label, on_bad_line="error"):
        """See DataSet.load; on_bad_line is the processor's own affair."""
        del on_bad_line
        parse_label = None if split == "test" else parse_label
        read = examples.examples_of_processor(
            self.processor, split, data_dir, parse_label, self.path
        )
        return self.path, read

    def has(self, data_dir, split):
        """See DataSet.has; a processor has every split but a second dev or test set."""
        del data_dir
        return split in SPLITS

    def layout(self, split, path):
        """See DataSet.layout. Files outside of data_dir have no form that is known."""
        raise UserError(
            f"{path}: with --task_module its columns are not known; name them with --text_column, "
            "--text_pair_column and --value_column or --label_column"
        )


def _existing(data_dir, names):
    """The first of several file names (a tuple, or one str) that data_dir holds, plain or gzipped;
    where none, the first of them all, for the error of whoever opens it.
    """
    names = (names,) if isinstance(names, str) else names
    if not os.path.isdir(data_dir):
        raise UserError(f"--data_dir={data_dir}: no such folder; check the path")
    for name in names:
        for path in (os.path.join(data_dir, name), os.path.join(data_dir, f"{name}.gz")):
            if os.path.exists(path):
                return path
    return os.path.join(data_dir, names[0])
