"""The batch planner: every example once, budgets kept, rows laid out right, steps by seed alone."""

import itertools
import math
import types

import numpy as np
import pytest

from bert_tools.inputs import batches, tfrecord
from bert_tools.inputs.features import Features

WIDTH = 32
PARAMS = {
    "batching": "pack",
    "static": False,
    "batch_size": 4,
    "seed": 3,
    "num_replicas": 1,
    "token_budget": 100,
}


def lengths_like(kind, count):
    """Numbers of tokens of `count` examples, at most WIDTH."""
    rng = np.random.default_rng(count)
    if kind == "random":
        return rng.integers(3, WIDTH + 1, count)
    if kind == "short":
        return np.minimum(3 + rng.geometric(0.5, count), WIDTH)
    return np.full(count, {"longest": WIDTH, "same": 7}[kind])


def features_of(lengths, seed=0):
    """Features whose ids tell the example and the place apart: 1000 * example + place + 1."""
    lengths = np.asarray(lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    examples = np.repeat(np.arange(len(lengths)), lengths)
    places = np.arange(offsets[-1]) - offsets[examples]
    segments = np.random.default_rng(seed).integers(0, 2, offsets[-1]).astype(np.int32)
    vals = np.arange(len(lengths), dtype=np.float32) / 8
    ids = (1000 * examples + places + 1).astype(np.int32)
    return Features(ids, segments, offsets, {"vals": vals})


def ids_of(features, example):
    return features.input_ids[slice(*features.offsets[example : example + 2])]


def assert_lays_out(features, blocks, width, static=False):
    """The blocks hold every example once, without overlap, within their rectangles."""
    order = np.concatenate([block.examples for block in blocks])
    assert sorted(order.tolist()) == list(range(len(features)))
    for block in blocks:
        assert len(block.examples) == len(block.rows) == len(block.starts) > 0
        rows, columns = block.shape
        assert columns == width if static else columns <= width
        taken = np.zeros((rows, columns), int)
        last = (-1, 0)
        for example, row, start in zip(block.examples, block.rows, block.starts, strict=True):
            assert (row, start) >= last  # Row by row, as `assemble` numbers them.
            last = (row, start)
            assert start + features.lengths[example] <= columns
            taken[row, start : start + features.lengths[example]] += 1
        assert taken.max() == 1
        if not block.packed:
            assert (block.starts == 0).all()
            assert block.rows.tolist() == list(range(len(block.examples)))
        if not static:
            assert taken.any(1).all()  # No empty row.


def assert_assembled(features, block, batch):
    """`assemble` against an example-by-example, token-by-token layout."""
    rows, width = block.shape
    expected = {
        name: np.zeros((rows, width), int)
        for name in ("input_ids", "input_mask", "segment_ids", "position_ids")
    }
    in_row = [0] * rows
    for example, row, start in zip(block.examples, block.rows, block.starts, strict=True):
        in_row[row] += 1
        offset = features.offsets[example]
        for place in range(features.lengths[example]):
            expected["input_ids"][row, start + place] = features.input_ids[offset + place]
            expected["segment_ids"][row, start + place] = features.segment_ids[offset + place]
            expected["input_mask"][row, start + place] = in_row[row]
            expected["position_ids"][row, start + place] = place
    assert ("position_ids" in batch) == block.packed
    if not block.packed:
        del expected["position_ids"]
    for name, array in expected.items():
        np.testing.assert_array_equal(batch[name], array, err_msg=name)
        assert batch[name].dtype == np.int32
    if "first_positions" in batch:
        assert batch["first_positions"].dtype == np.int32
        firsts = batch["input_ids"].ravel()[batch["first_positions"]]
        assert firsts.tolist() == [ids_of(features, example)[0] for example in block.examples]
    else:  # The encoder then takes each row's first token.
        assert not block.packed and rows == len(block.examples)
    assert batch["vals"].tolist() == [example / 8 for example in block.examples]
    assert batch["vals"].dtype == np.float32


@pytest.mark.parametrize("static", [False, True], ids=["", "static"])
@pytest.mark.parametrize("mode", batches.MODES)
@pytest.mark.parametrize("budget", [None, 1, 40, 257, 100000])
def test_every_example_once_and_laid_out_right(mode, budget, static):
    for kind in ("random", "short", "longest", "same"):
        for count in (1, 2, 3, 4, 7, 32, 61):
            features = features_of(lengths_like(kind, count))
            blocks = batches.plan(features.lengths, mode, budget, WIDTH, static)
            assert_lays_out(features, blocks, WIDTH, static)
            for block in blocks:
                assert block.packed or mode != "pack" or budget is not None
                assert not block.packed or mode == "pack"
                assert_assembled(features, block, batches.assemble(features, block))


@pytest.mark.parametrize("mode", batches.MODES)
def test_no_examples(mode):
    assert batches.plan([], mode, 100, WIDTH) == []
    assert batches.plan([], mode, None, WIDTH) == []


@pytest.mark.parametrize("kind", ["random", "short", "longest", "same"])
@pytest.mark.parametrize("mode", batches.MODES)
def test_budget_is_kept(mode, kind):
    """A block holds as many examples as fit, at least one."""
    lengths = lengths_like(kind, 200)
    for budget in (1, 33, 64, 100, 640):
        blocks = batches.plan(lengths, mode, budget, WIDTH)
        for block in blocks:
            used = lengths[block.examples].sum() if mode == "pack" else math.prod(block.shape)
            assert used <= budget or len(block.examples) == 1
        # One more would have been too much.
        for block, following in itertools.pairwise(blocks):
            if mode == "pack":
                more = lengths[block.examples].sum() + lengths[following.examples].max()
            else:
                more = (block.shape[0] + 1) * block.shape[1]
            assert more > budget


@pytest.mark.parametrize("kind", ["random", "short", "same"])
def test_packed_rows_waste_little(kind):
    lengths = lengths_like(kind, 300)
    for block in batches.plan(lengths, "pack", 1024, WIDTH):
        assert math.prod(block.shape) <= 1.35 * lengths[block.examples].sum() + WIDTH


def test_pad_keeps_the_order_and_the_full_width():
    blocks = batches.plan([5, 32, 3, 4, 9], "pad", 64, WIDTH)
    assert [block.examples.tolist() for block in blocks] == [[0, 1], [2, 3], [4]]
    assert [block.shape for block in blocks] == [(2, 32), (2, 32), (1, 32)]


def test_bucket_is_as_wide_as_its_longest():
    blocks = batches.plan([5, 32, 3, 4, 9], "bucket", 64, WIDTH)
    assert [block.examples.tolist() for block in blocks] == [[1, 4], [0, 3, 2]]
    assert [block.shape for block in blocks] == [(2, 32), (3, 5)]


def test_longest_come_first_so_that_too_little_memory_shows_at_once():
    lengths = lengths_like("random", 100)
    for mode in ("bucket", "pack"):
        heads = [lengths[b.examples].max() for b in batches.plan(lengths, mode, 100, WIDTH)]
        assert heads == sorted(heads, reverse=True)


@pytest.mark.parametrize("mode", ["pad", "bucket", "pack"])
@pytest.mark.parametrize("budget", [256, 1000])
def test_static_scoring_has_one_shape(mode, budget):
    """A compiler sees the same shape, whatever the data; the last block is padded with rows."""
    shapes = set()
    for seed in range(20):
        lengths = np.random.default_rng(seed).integers(3, WIDTH + 1, 150)
        shapes |= {b.shape for b in batches.plan(lengths, mode, budget, WIDTH, static=True)}
    assert shapes == {(budget // WIDTH, WIDTH)}


@pytest.mark.parametrize("mode", ["pad", "pack", "bucket"])
def test_static_shapes_of_training_are_few(mode):
    features = features_of(lengths_like("random", 200))
    shapes = set()
    training = batches.TrainingBatches(features, 32, 1, mode, WIDTH, static=True)
    for step in range(40):
        for block in training.step(step)[0]:
            shapes.add(block["input_ids"].shape)
    assert {width for _, width in shapes} == {WIDTH}
    assert len(shapes) <= 4 and (mode == "pack" or len(shapes) == 1)


def examples_of(blocks):
    """The examples of a step's blocks, by the ids that features_of gave them."""
    return [round(val * 8) for block in blocks for val in block["vals"].tolist()]


@pytest.mark.parametrize("mode", batches.MODES)
def test_a_step_is_always_batch_size_examples_and_the_same_in_every_mode(mode):
    features = features_of(lengths_like("random", 50))
    reference = batches.TrainingBatches(features, 16, 5, "pad", WIDTH)
    training = batches.TrainingBatches(features, 16, 5, mode, WIDTH)
    for step in range(12):
        (blocks,) = training.step(step)
        assert sorted(examples_of(blocks)) == sorted(examples_of(reference.step(step)[0]))
        assert len(examples_of(blocks)) == 16
        for block in blocks:
            tokens = int(np.count_nonzero(block["input_mask"]))
            indexes = [round(val * 8) for val in block["vals"].tolist()]
            assert tokens == features.lengths[indexes].sum()


@pytest.mark.parametrize("mode, count", [("pack", 1), ("pad", 1), ("bucket", 4)])
def test_every_step_has_the_same_number_of_blocks(mode, count):
    """Replicas that share a step run the same number of calls."""
    features = features_of(lengths_like("random", 200))
    training = batches.TrainingBatches(features, 32, 1, mode, WIDTH, num_replicas=2)
    for step in range(20):
        replicas = training.step(step)
        assert [len(blocks) for blocks in replicas] == [count, count]
        keys = {frozenset(block) for blocks in replicas for block in blocks}
        assert len(keys) == 1  # One structure: packed is packed even when no row is shared.
        if mode == "bucket":
            assert {len(b["vals"]) for blocks in replicas for b in blocks} == {4}


def test_every_example_once_an_epoch():
    features = features_of(lengths_like("random", 50))
    for batch_size in (1, 7, 10, 16, 50, 64, 120):
        training = batches.TrainingBatches(features, batch_size, 2, "pad", WIDTH)
        steps = math.ceil(150 / batch_size)
        stream = [e for step in range(steps) for e in examples_of(training.step(step)[0])]
        epochs = [stream[start : start + 50] for start in (0, 50, 100)]
        for epoch in epochs:
            assert sorted(epoch) == list(range(50))
        assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(range(50))


@pytest.mark.parametrize("mode", batches.MODES)
def test_a_step_is_a_function_of_seed_and_step_alone(mode):
    features = features_of(lengths_like("random", 30))

    def training(seed=9):
        return batches.TrainingBatches(features, 8, seed, mode, WIDTH)

    def flat(step):
        return [(name, a.tolist()) for block in step[0] for name, a in sorted(block.items())]

    in_order = training()
    steps = [flat(in_order.step(step)) for step in range(12)]
    backwards = training()
    for step in (11, 3, 7, 0, 3):
        assert flat(backwards.step(step)) == steps[step] == flat(training().step(step))
    assert flat(training(seed=10).step(0)) != steps[0]


def test_replicas_share_a_step():
    features = features_of(lengths_like("random", 40))
    alone = batches.TrainingBatches(features, 12, 4, "pad", WIDTH)
    shared = batches.TrainingBatches(features, 12, 4, "pad", WIDTH, num_replicas=3)
    for step in range(8):
        replicas = [examples_of(blocks) for blocks in shared.step(step)]
        assert [len(examples) for examples in replicas] == [4, 4, 4]
        assert list(itertools.chain(*replicas)) == examples_of(alone.step(step)[0])


@pytest.mark.parametrize("mode", batches.MODES)
def test_scoring_gives_every_example_once(mode):
    features = features_of(lengths_like("random", 50))
    scoring = batches.ScoringBatches(features, mode, WIDTH, 100)
    for _ in range(2):  # As often as one likes.
        found = []
        for indices, batch in scoring:
            assert batch["vals"].tolist() == [index / 8 for index in indices]
            found += indices.tolist()
        assert sorted(found) == list(range(50))
    assert len(scoring) == len(list(scoring)) > 5


def test_input_fn_reads_a_file(tmp_path):
    features = features_of([5, 9, 3, 32])
    path = str(tmp_path / "x")
    with tfrecord.tf.io.TFRecordWriter(path) as writer:
        for record in tfrecord.serialize(features, WIDTH):
            writer.write(record)
    input_fn = batches.file_based_input_fn_builder(path, WIDTH, False)
    ((indices, batch),) = list(input_fn({**PARAMS, "token_budget": 1000}))
    assert_assembled(features, types.SimpleNamespace(**block_of(batch, indices)), batch)
    input_fn = batches.file_based_input_fn_builder(path, WIDTH, True)
    training = input_fn({**PARAMS, "batching": "bucket"})
    assert isinstance(training, batches.TrainingBatches)
    assert sorted(examples_of(training.step(0)[0])) == [0, 1, 2, 3]
    assert [len(blocks) for blocks in training.step(0)] == [4]


def block_of(batch, indices):
    """The fields of a Block, read off a batch."""
    first, width = batch["first_positions"], batch["input_ids"].shape[1]
    return {
        "examples": indices,
        "rows": first // width,
        "starts": first % width,
        "shape": batch["input_ids"].shape,
        "packed": True,
    }


def test_params_reach_the_batches():
    features = features_of(lengths_like("random", 40))
    params = {**PARAMS, "batch_size": 8, "num_replicas": 2, "seed": 6, "batching": "pad"}
    training = batches.input_fn_builder(features, WIDTH, True)(params)
    expected = batches.TrainingBatches(features, 8, 6, "pad", WIDTH, 2)
    for one, other in zip(training.step(2), expected.step(2), strict=True):
        assert examples_of(one) == examples_of(other)
        assert one[0]["input_ids"].shape == (4, WIDTH)
    static = batches.input_fn_builder(features, WIDTH, False)({**PARAMS, "static": True})
    assert {batch["input_ids"].shape[1] for _, batch in static} == {WIDTH}
    assert len(static) == len(batches.plan(features.lengths, "pack", 100, WIDTH, True))
