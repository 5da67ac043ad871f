"""The batch planner: which examples are computed together, and how they are laid out in rows.

A training step is always batch_size examples, fixed by seed and step. The mode only decides their
layout:

pad     one example a row, every row as wide as max_seq_length;
bucket  one example a row, split by length into blocks, each as wide as its longest example;
pack    several examples a row, kept apart by a block-diagonal mask and restarted positions.

With dropout off, all three give the same loss and gradients to rounding.
"""

import math
import typing

import numpy as np

from bert_tools.inputs import tfrecord
from bert_tools.inputs.features import ranges
from bert_tools.inputs.text_features import OWNERS

MODES = ("pack", "bucket", "pad")
# A token costs as much as its matrix products plus its attention, which grows with the row's
# width. At this width attention costs about as much as the rest (measured on MiniLM and BERT-base,
# CPU).
_ATTENTION_WIDTH = 768
_TRAIN_BUCKETS = 4
_WIDTHS = 24  # Layouts that packing compares; all widths would save one percent more.


class Block(typing.NamedTuple):
    """A rectangle of tokens that is computed in one call.

    Attributes:
      examples: int64 [n], which examples, by index.
      rows, starts: int64 [n], the row and the column where each begins; row by row.
      shape: (rows, width).
      packed: bool, whether a row may hold several examples.
    """

    examples: np.ndarray
    rows: np.ndarray
    starts: np.ndarray
    shape: tuple
    packed: bool


def plan(lengths, mode, budget, width, static=False):
    """Lays examples out in blocks. The one place where pad, bucket and pack differ.

    Args:
      lengths: int array [examples], tokens of each.
      mode: "pack", "bucket" or "pad".
      budget: int, tokens a block, padding included; a block holds one example at least. None: a
        training step, which is one block (bucket: four, equal in examples), so that every step has
        the same structure.
      width: int, the widest row (max_seq_length); no example is longer.
      static: bool, every block `width` wide and of few different heights, for XLA and TPU.

    Returns:
      list of Block; together they hold every example once.
    """
    lengths = np.asarray(lengths)
    order = np.arange(len(lengths)) if mode == "pad" else np.argsort(-lengths, kind="stable")
    blocks, start = [], 0
    while start < len(order):
        longest = width if static or mode == "pad" else int(lengths[order[start]])
        if budget is None:
            count = math.ceil(len(order) / _TRAIN_BUCKETS) if mode == "bucket" else len(order)
        elif mode == "pack":
            tokens = np.cumsum(lengths[order[start:]])
            count = max(1, int(np.searchsorted(tokens, budget, side="right")))
            if static:  # As many as fit into the rows of the one shape.
                rows, _ = _first_fit(lengths[order[start : start + count]], width)
                over = np.flatnonzero(rows >= max(1, budget // width))
                count = int(over[0]) if len(over) else count
        else:
            count = max(1, budget // longest)
        members = order[start : start + count]
        if mode == "pack":
            unit = None
            if static:
                # One shape to compile; in training four at most, by quarters of one example a row.
                unit = math.ceil(count / 4) if budget is None else max(1, budget // width)
            blocks.append(_pack(members, lengths[members], width, unit, budget is None))
        else:
            blocks.append(_one_a_row(members, longest, count if static else len(members)))
        start += count
    return blocks


def assemble(features, block):
    """The arrays of a block, as the encoder and the tasks take them.

    Args:
      features: Features.
      block: Block.

    Returns:
      dict: input_ids, input_mask, segment_ids int32 [rows, width]; for packed rows position_ids
      likewise and first_positions int32 [n]; the columns of the block's examples [n].
    """
    rows, width = block.shape
    lengths = features.lengths[block.examples]
    source = ranges(features.offsets[block.examples], lengths)
    places = ranges(block.rows * width + block.starts, lengths)

    def laid_out(values):
        flat = np.zeros(rows * width, np.int32)
        flat[places] = values
        return flat.reshape(rows, width)

    numbers = np.ones(len(lengths), np.int64)
    if block.packed:
        first_in_row = np.searchsorted(block.rows, block.rows)
        numbers += np.arange(len(lengths)) - first_in_row
    batch = {
        "input_ids": laid_out(features.input_ids[source]),
        "input_mask": laid_out(np.repeat(numbers, lengths)),
        "segment_ids": laid_out(features.segment_ids[source]),
    }
    if block.packed:
        batch["position_ids"] = laid_out(ranges(np.zeros_like(lengths), lengths))
    if block.packed or rows > len(block.examples):
        batch["first_positions"] = (block.rows * width + block.starts).astype(np.int32)
    for name, values in features.columns.items():
        batch[name] = values[block.examples]
    return batch


class TrainingBatches:
    """The batches of a training run, each a function of (seed, step) alone, so that a run can go
    on anywhere.

    The examples are shuffled anew each epoch and cut into steps of batch_size; as in the original,
    an epoch's end may lie inside a step. Where the rows of `features` are texts (text_features),
    examples stay whole, and each block has `places` int32 [n] too: where its texts stand in the
    share, whose texts are in order (example, text).

    Args:
      features: Features.
      batch_size: int, examples a step, over all replicas; a multiple of num_replicas.
      seed: int.
      mode: one of MODES.
      width: int, max_seq_length.
      num_replicas: int, into how many equal shares a step is cut: devices, times the parts of
        gradient accumulation.
      static: bool, see `plan`.
    """

    def __init__(self, features, batch_size, seed, mode, width, num_replicas=1, static=False):
        self._features, self._batch_size, self._seed = features, batch_size, seed
        self._mode, self._width, self._replicas, self._static = mode, width, num_replicas, static
        self._epoch, self._order = None, None
        owners = features.columns.get(OWNERS)
        self._of_texts = owners is not None
        # Where each example's rows begin.
        self._starts = np.arange(len(features))
        if self._of_texts:
            self._starts = np.flatnonzero(np.diff(owners, prepend=-1))

    def step(self, step):
        """Step `step` (from 0): a list with, for each replica, its list of blocks (dicts of
        `assemble`).
        """
        count = len(self._starts)
        stream = np.arange(step * self._batch_size, (step + 1) * self._batch_size)
        examples = np.array([self._permutation(place // count)[place % count] for place in stream])
        return [self._blocks(share) for share in np.split(examples, self._replicas)]

    def _blocks(self, examples):
        ends = np.append(self._starts, len(self._features))
        rows = ranges(ends[examples], np.diff(ends)[examples])
        blocks = []
        for block in plan(
            self._features.lengths[rows], self._mode, None, self._width, self._static
        ):
            batch = assemble(self._features, block._replace(examples=rows[block.examples]))
            if self._of_texts:
                batch["places"] = block.examples.astype(np.int32)
            blocks.append(batch)
        return blocks

    def _permutation(self, epoch):
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self._starts))
        return self._order


class ScoringBatches:
    """The blocks of an evaluation or prediction; every example once, the longest first.

    Iterating gives (indices, batch): which examples, and the dict of `assemble`.
    """

    def __init__(self, features, mode, width, budget, static=False):
        self.features = features
        self._blocks = plan(features.lengths, mode, budget, width, static)

    def __len__(self):
        return len(self._blocks)

    def __iter__(self):
        for block in self._blocks:
            yield block.examples, assemble(self.features, block)


def file_based_input_fn_builder(input_file, seq_length, is_training, drop_remainder=False):
    """Creates an `input_fn` closure to be passed to Estimator, over a TFRecord file.

    Args:
      input_file: str, written by tfrecord.file_based_convert_examples_to_features or by the
        originals (padded).
      seq_length, is_training, drop_remainder: see `input_fn_builder`.

    Returns:
      input_fn(params) -> TrainingBatches or ScoringBatches.
    """

    def input_fn(params):
        features = tfrecord.read_features(input_file)
        return input_fn_builder(features, seq_length, is_training, drop_remainder)(params)

    return input_fn


def input_fn_builder(features, seq_length, is_training, drop_remainder=False):
    """Creates an `input_fn` closure to be passed to Estimator, over features in memory.

    Args:
      features: Features, of convert_examples_to_features.
      seq_length: int, max_seq_length.
      is_training: bool.
      drop_remainder: bool, without effect: a training step is always whole, and scoring leaves no
        example out.

    Returns:
      input_fn(params) -> TrainingBatches or ScoringBatches. Of params it reads batch_size
      (training), and batching, seed, num_replicas, token_budget and static, which Estimator sets.
    """
    del drop_remainder

    def input_fn(params):
        mode, static = params["batching"], params["static"]
        if is_training:
            return TrainingBatches(
                features,
                params["batch_size"],
                params["seed"],
                mode,
                seq_length,
                params["num_replicas"],
                static,
            )
        return ScoringBatches(features, mode, seq_length, params["token_budget"], static)

    return input_fn


def _one_a_row(examples, width, height):
    rows = np.arange(len(examples))
    return Block(examples, rows, np.zeros_like(rows), (height, width), False)


def _pack(examples, lengths, width, unit, packed):
    """One block of several examples a row; `lengths` descend. The width is the one that costs
    least.

    unit: int or None; what the number of rows is a multiple of, and every row is `width` wide.
    packed: bool, whether it counts as packed even when no two examples share a row.
    """
    longest = int(lengths[0])
    widths = [width] if unit else _candidate_widths(longest, width)
    layouts = [_first_fit(lengths, candidate) for candidate in widths]
    costs = [
        (rows.max() + 1) * candidate * (_ATTENTION_WIDTH + candidate)
        for (rows, _), candidate in zip(layouts, widths, strict=True)
    ]
    best = int(np.argmin(costs))
    rows, starts = layouts[best]
    order = np.lexsort((starts, rows))
    height = int(rows.max()) + 1
    packed = packed or height < len(examples)
    if unit:
        height = math.ceil(height / unit) * unit
    return Block(examples[order], rows[order], starts[order], (height, widths[best]), packed)


def _candidate_widths(longest, width):
    """Widths of rows that are compared: some from the longest example to the widest row."""
    count = min(_WIDTHS, width - longest + 1)
    return sorted({*np.linspace(longest, width, count).astype(int).tolist()})


def _first_fit(lengths, width):
    """First-fit of descending lengths into rows of `width`: (rows, starts), int64 [examples]."""
    filled = np.zeros(len(lengths), np.int64)
    rows = np.empty(len(lengths), np.int64)
    starts = np.empty(len(lengths), np.int64)
    for index, length in enumerate(lengths.tolist()):
        row = int(np.argmax(filled + length <= width))
        rows[index], starts[index] = row, filled[row]
        filled[row] += length
    return rows, starts
