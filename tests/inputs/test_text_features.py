"""Examples of several texts: a row a text, whole examples in a step, vectors back in order."""

import numpy as np
import pytest

from bert_tools.estimator.training_step import in_places
from bert_tools.inputs import tfrecord
from bert_tools.inputs.batches import input_fn_builder
from bert_tools.inputs.examples import InputExample
from bert_tools.inputs.text_features import (
    OWNERS,
    TEXT_NUMBERS,
    convert_examples_to_features,
    texts_of,
)
from bert_tools.tokenization import FullTokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d"]


@pytest.fixture(scope="module")
def tokenizer():
    return FullTokenizer(vocab={word: index for index, word in enumerate(WORDS)})


def triplets(count):
    """Each text says in its length which example it is of, and which place it has there."""
    return [
        InputExample(
            f"{n}", "a " * (3 * n + 1), "a " * (3 * n + 2), float(n), ("a " * (3 * n + 3),)
        )
        for n in range(count)
    ]


def test_a_row_a_text(tokenizer):
    examples = triplets(2)
    found = convert_examples_to_features(examples, None, 16, tokenizer)
    np.testing.assert_array_equal(found.lengths - 2, [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(found.columns[OWNERS], [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(found.columns["vals"], [0, 0, 0, 1, 1, 1])
    assert not found.segment_ids.any()
    twice = convert_examples_to_features(
        [InputExample("0", "a"), InputExample("1", "b")], None, 16, tokenizer, copies=2
    )
    np.testing.assert_array_equal(twice.columns[OWNERS], [0, 0, 1, 1])
    np.testing.assert_array_equal(twice.input_ids, [2, 4, 3] * 2 + [2, 5, 3] * 2)
    assert twice.columns.keys() == {OWNERS, TEXT_NUMBERS}
    same = [InputExample("0", "a", "b"), InputExample("1", "b", "a")]
    same = convert_examples_to_features(same, None, 16, tokenizer)
    np.testing.assert_array_equal(same.columns[TEXT_NUMBERS], [0, 1, 1, 0])
    assert texts_of(InputExample("0", "a", "b", None, ("c", "d"))) == ["a", "b", "c", "d"]


def test_long_texts_in_windows(tokenizer):
    examples = [InputExample("0", "a " * 9, "b"), InputExample("1", "c", "d")]
    found = convert_examples_to_features(examples, None, 6, tokenizer, "windows")
    np.testing.assert_array_equal(found.columns["example_index"], [0, 0, 0, 1, 2, 3])
    np.testing.assert_array_equal(found.columns[OWNERS], [0, 0, 0, 0, 1, 1])


@pytest.mark.parametrize("mode", ["pack", "bucket", "pad"])
@pytest.mark.parametrize("shares", [1, 2])
def test_steps_take_whole_examples(tokenizer, mode, shares, tmp_path):
    """Through a file; over an epoch's end; what is computed comes back as (example, text)."""
    features = convert_examples_to_features(triplets(5), None, 20, tokenizer)
    tfrecord.write_features(features, str(tmp_path / "x.tf_record"))
    features = tfrecord.read_features(str(tmp_path / "x.tf_record"))
    params = {"batching": mode, "static": False, "batch_size": 4, "seed": 7, "num_replicas": shares}
    data = input_fn_builder(features, 20, True)(params)
    seen = []
    for step in range(5):
        parts = data.step(step)
        assert len(parts) == shares
        for blocks in parts:
            # What stands for a text's vector: how many tokens it has, counted in its row.
            lengths = [_lengths(block) for block in blocks]
            columns = [{"vals": block["vals"]} for block in blocks]
            found, columns = in_places([block["places"] for block in blocks], lengths, columns)
            found = np.reshape(found, (4 // shares, 3)) - 2
            examples = (found[:, 0] - 1) // 3
            np.testing.assert_array_equal(found, 3 * examples[:, np.newaxis] + [[1, 2, 3]])
            np.testing.assert_array_equal(np.reshape(columns["vals"], (-1, 3))[:, 0], examples)
            seen += examples.tolist()
    assert sorted(seen) == sorted(4 * list(range(5)))
    assert sorted(seen[:5]) == list(range(5))


def _lengths(block):
    mask = block["input_mask"].ravel()
    width = block["input_mask"].shape[1]
    first = block.get("first_positions", np.arange(len(block["places"])) * width)
    rows = block["input_mask"][first // width]
    return (rows == mask[first][:, np.newaxis]).sum(1).astype(np.int32)
