"""The samples in data/ of pairs with a similarity."""

import collections
import pathlib
import re

import pytest

DATA = pathlib.Path(__file__).resolve().parent.parent / "data"


def rows_of(name):
    lines = (DATA / name).read_text("utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    assert all(len(row) == 3 for row in rows), name
    return rows


def plain(text):
    return " ".join(re.findall(r"\w+", text.lower()))


@pytest.mark.parametrize("folder", ["sim-en", "sim-zh"])
def test_no_text_is_in_two_splits(folder):
    texts = {
        split: {plain(text) for row in rows_of(f"{folder}/{split}.tsv") for text in row[:2]}
        for split in ("train", "dev", "test", "later")
    }
    for first, second in (("train", "dev"), ("train", "test"), ("dev", "test"), ("train", "later")):
        assert not texts[first] & texts[second], (first, second)


@pytest.mark.parametrize("folder", ["sim-en", "sim-zh"])
def test_values(folder):
    for split in ("train", "dev", "test", "later"):
        counts = collections.Counter(row[2] for row in rows_of(f"{folder}/{split}.tsv"))
        assert counts.keys() <= {"0", "0.2", "0.4", "0.6", "0.8", "1"}
        assert min(counts["0"], counts["1"]) > 0.2 * counts.total()
