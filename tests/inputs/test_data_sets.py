"""Data sets: which file a split is read from, and how."""

import gzip

import pytest

from bert_tools.errors import UserError
from bert_tools.inputs.data_sets import DataSet, OwnFiles, OwnReader
from bert_tools.inputs.examples import DataProcessor, InputExample, Layout, parse_value

TABLE = DataSet(
    train=("train.tsv", Layout(0, 1, 2)),
    dev=("dev_matched.tsv", Layout(1, 2, 0, header=True)),
    test=("test.tsv", Layout(1, 2, 3)),
)
OWN = OwnFiles(Layout("t", "u", "v", header=True))


class Reader(DataProcessor):
    def get_train_examples(self, data_dir):
        return [InputExample("0", data_dir, label="1")]

    def get_test_examples(self, data_dir):
        return [InputExample("0", data_dir, label="unknown")]


def as_tuples(loaded):
    return [(e.guid, e.text_a, e.text_b, e.label) for e in loaded]


def test_each_split_has_its_file_and_layout(tmp_path):
    contents = {"train.tsv": "a\tb\t1\n", "dev_matched.tsv": "v\tt\tu\n0\tc\td\n"}
    # The label of a test file is not read.
    contents["test.tsv"] = "9\te\tf\n8\tg\th\tunknown\n"
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    loaded = [TABLE.load(str(tmp_path), split, parse_value) for split in ("train", "dev", "test")]
    assert [path for path, _ in loaded] == [str(tmp_path / name) for name in contents]
    assert [as_tuples(examples) for _, examples in loaded] == [
        [("train-0", "a", "b", 1.0)],
        [("dev-0", "c", "d", 0.0)],
        [("test-0", "e", "f", None), ("test-1", "g", "h", None)],
    ]


def test_layout_of_a_file_elsewhere():
    assert TABLE.layout("dev", "x.csv") == TABLE.dev[1]
    assert OWN.layout("dev", "-") == OWN.columns
    assert OWN.layout("test", "x.csv.gz") == OWN.columns._replace(kind="csv")
    with pytest.raises(UserError, match=r"x\.tsv: with --task_module its columns are not known"):
        OwnReader(Reader(), "p.py").layout("test", "x.tsv")


def test_gzipped_files_of_a_table(tmp_path):
    assert not TABLE.has(str(tmp_path), "train")
    (tmp_path / "train.tsv.gz").write_bytes(gzip.compress(b"a\tb\t1\n"))
    assert TABLE.has(str(tmp_path), "train") and not TABLE.has(str(tmp_path), "dev")
    path, examples = TABLE.load(str(tmp_path), "train", parse_value)
    assert path == str(tmp_path / "train.tsv.gz") and len(examples) == 1


CONTENTS = {
    "tsv": b't\tu\tv\n"a\tb\t1\n',
    "csv": b'v,u,t\n1,b,"""a"\n',
    "jsonl": b'{"t": "\\"a", "u": "b", "v": 1}\n',
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("suffix", ["tsv", "csv", "jsonl", "json", "ndjson"])
def test_files_of_ones_own(tmp_path, suffix, packed):
    content = CONTENTS.get(suffix, CONTENTS["jsonl"])
    path = tmp_path / f"dev.{suffix}{'.gz' * packed}"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert OWN.has(str(tmp_path), "dev") and not OWN.has(str(tmp_path), "train")
    found, examples = OWN.load(str(tmp_path), "dev", parse_value)
    assert found == str(path)
    assert as_tuples(examples) == [("dev-0", '"a', "b", 1.0)]


def test_test_file_of_ones_own_needs_no_label(tmp_path):
    (tmp_path / "test.tsv").write_text("t\tu\na\tb\n")
    _, examples = OWN.load(str(tmp_path), "test", parse_value)
    assert as_tuples(examples) == [("test-0", "a", "b", None)]


@pytest.mark.parametrize("source", [TABLE, OWN])
def test_bad_lines(tmp_path, source):
    header = "t\tu\tv\n" if source is OWN else ""
    (tmp_path / "train.tsv").write_text(f"{header}a\tb\t1\na\n")
    assert len(source.load(str(tmp_path), "train", parse_value, "skip")[1]) == 1
    with pytest.raises(UserError, match=rf"train\.tsv:{3 if header else 2}: "):
        source.load(str(tmp_path), "train", parse_value)


@pytest.mark.parametrize("source", [TABLE, OWN])
def test_missing_files(tmp_path, source):
    with pytest.raises(UserError, match=r"train\.tsv: no such file; check --data_dir"):
        source.load(str(tmp_path), "train", parse_value)
    with pytest.raises(UserError, match=r"--data_dir=.*no: no such folder; check the path"):
        source.load(str(tmp_path / "no"), "train", parse_value)


def test_reader_of_ones_own():
    source = OwnReader(Reader(), "p.py")
    assert source.has("folder", "dev")
    path, examples = source.load("folder", "train", parse_value)
    assert path == "p.py" and as_tuples(examples) == [("0", "folder", None, 1.0)]
    _, examples = source.load("folder", "test", parse_value)
    assert as_tuples(examples) == [("0", "folder", None, None)]
    with pytest.raises(UserError, match=r"p\.py: get_dev_examples is not implemented"):
        source.load("folder", "dev", parse_value)
