"""TFRecord files of tf.Examples with the original's feature names and types, written and read fast.

A file is unpadded unless asked otherwise; both kinds, and the originals' padded files, are read.
Beside X.tf_record lies X.tf_record.json, the key of what it was made from: the file is used again
while the key is the same, never otherwise.
"""

import concurrent.futures
import contextlib
import hashlib
import itertools
import math
import os

import numpy as np
import tensorflow as tf
from google.protobuf import message

from bert_tools import files
from bert_tools.errors import UserError
from bert_tools.inputs.features import Features, convert_examples_to_features

_CHUNK = 4096  # Examples converted at a time: large enough for NumPy, small enough for flat memory.
_READ_BATCH = 1024
_IDS = ("input_ids", "input_mask", "segment_ids")
_KINDS = {"float_list": tf.float32, "int64_list": tf.int64}
_FRAME = 16  # Bytes of a record besides its content: its length and two checksums.


def file_key(examples, tokenizer, **flags):
    """What a TFRecord file depends on, as a dict that JSON can hold.

    Args:
      examples: list of InputExample; their texts and labels count, not where they were read.
      tokenizer: FullTokenizer.
      flags: further values that decide the content (max_seq_length, pad_records, ...).
    """
    digest = hashlib.sha256()
    for example in examples:
        parts = example.text_a, example.text_b, example.label, *example.further
        digest.update(repr(parts).encode())
    return {
        "format": 2,
        "data": digest.hexdigest(),
        "tokenizer": tokenizer.fingerprint(),
        "flags": flags,
    }


def file_based_convert_examples_to_features(
    examples,
    label_list,
    max_seq_length,
    tokenizer,
    output_file,
    *,
    long_text="truncate",
    pad_records=False,
    key=None,
):
    """Convert a set of `InputExample`s to a TFRecord file, unless the file with this key is there.

    Args:
      examples, label_list, max_seq_length, tokenizer, long_text: see
        features.convert_examples_to_features.
      output_file: str.
      pad_records: bool, pad to max_seq_length, so that the originals can read the file.
      key: dict of `file_key`, or None: always write.

    Returns:
      (tokens, unknown, empty): how many tokens were written, how many of them are [UNK], and how
      many examples have a text without any other token; None when the file was there already.

    Raises:
      UserError: the file cannot be written, or a label is not in label_list.
    """
    if key is not None and is_current(output_file, key):
        return None

    def convert(begin):
        chunk = examples[begin : begin + _CHUNK]
        features = convert_examples_to_features(
            chunk, label_list, max_seq_length, tokenizer, long_text
        )
        if "example_index" in features.columns:
            features.columns["example_index"] += begin
        records = serialize(features, max_seq_length if pad_records else None)
        return records, counts(features, tokenizer)

    totals = np.zeros(3, np.int64)
    with _writer(output_file, key, len(examples)) as write:
        for records, counted in _ahead(convert, range(0, len(examples), _CHUNK)):
            write(records)
            totals += counted
    return tuple(totals.tolist())


def write_features(features, output_file, pad_to=None, key=None):
    """Writes Features to a TFRecord file.

    Args:
      features: Features.
      output_file: str.
      pad_to: int or None, see `serialize`.
      key: dict of `file_key`, or None, to be found by `is_current`.

    Raises:
      UserError: the file cannot be written.
    """

    def convert(begin):
        return serialize(features.part(begin, begin + _CHUNK), pad_to)

    with _writer(output_file, key, len(features)) as write:
        for records in _ahead(convert, range(0, len(features), _CHUNK)):
            write(records)


@contextlib.contextmanager
def _writer(output_file, key, examples):
    """Yields a function that writes records (a list of bytes); the file and its key appear when
    all are written.
    """
    key_file = f"{output_file}.json"
    # The old key must not vouch for a new file when the process dies between the two renames.
    if os.path.exists(key_file):
        os.unlink(key_file)
    with files.aside(output_file) as temporary:
        try:
            with tf.io.TFRecordWriter(temporary) as writer:

                def write(records):
                    for record in records:
                        writer.write(record)

                yield write
        except tf.errors.OpError as error:
            raise OSError(str(error).splitlines()[0]) from error
        size = os.path.getsize(temporary)
    if key is not None:
        files.write_json(key_file, {**key, "examples": examples, "bytes": size})


def counts(features, tokenizer):
    """(tokens, how many of them are [UNK], how many examples have no token but [UNK] and special
    ones).
    """
    special = np.isin(features.input_ids, [tokenizer.cls_id, tokenizer.sep_id])
    unknown = features.input_ids == tokenizer.unk_id
    words = np.concatenate([[0], np.cumsum(~special & ~unknown)])[features.offsets]
    empty = np.count_nonzero(np.diff(words) == 0)
    return len(special), np.count_nonzero(unknown), empty


def serialize(features, pad_to=None):
    """tf.Example messages in wire format, a bytes an example.

    Args:
      features: Features; its columns become features of one value an example, or of several,
        floats as float_list, integers as int64_list.
      pad_to: int or None, the length that the id features are padded to with zeros.
    """
    ids, offsets = _varints(features.input_ids)
    ends = offsets[features.offsets].tolist()
    lengths = features.lengths.tolist()
    segments = features.segment_ids.astype(np.uint8).tobytes()
    token_ends = features.offsets.tolist()
    columns = [_column_entries(name, values) for name, values in sorted(features.columns.items())]
    entries = {name: _EntryHeads(name) for name in ("input_ids", "input_mask", "segment_ids")}
    ids_head, mask_head, segment_head = entries.values()
    ones = b"\x01" * max(lengths, default=0)
    records = []
    for index, length in enumerate(lengths):
        padding = bytes(pad_to - length) if pad_to else b""
        payload = ids[ends[index] : ends[index + 1]] + padding
        total = length + len(padding)
        body = b"".join(
            (
                ids_head[len(payload)],
                payload,
                mask_head[total],
                ones[:length],
                padding,
                segment_head[total],
                segments[token_ends[index] : token_ends[index + 1]],
                padding,
                *(column[index] for column in columns),
            )
        )
        records.append(b"\x0a" + _varint(len(body)) + body)
    return records


def read_features(path):
    """Reads a TFRecord file of tf.Examples, padded or not, into memory.

    Args:
      path: str.

    Returns:
      Features, without padding (input_mask tells what is padding) and without the examples that
      the originals add to fill a TPU's last batch (is_real_example 0); every further feature of
      the file's first record is a column, float32 or int64 [examples] (or [examples, n]).

    Raises:
      UserError: no such file, or it is damaged, or its records are of another kind.
    """
    parts, size = [], 0
    try:
        columns = _columns(path)
        spec = {name: tf.io.RaggedFeature(tf.int64) for name in _IDS} | columns
        records = tf.data.TFRecordDataset(path).batch(_READ_BATCH)
        parsed = records.map(
            lambda batch: (tf.io.parse_example(batch, spec), tf.strings.length(batch)),
            tf.data.AUTOTUNE,
        )
        for batch, lengths in parsed:
            parts.append(_unpadded(batch, columns))
            size += int(np.sum(lengths.numpy() + _FRAME))
        # TensorFlow takes a file that is cut within the head of a record for a whole one.
        if size != os.path.getsize(path):
            raise ValueError(f"cut short after {sum(map(len, parts))} examples")
    except tf.errors.NotFoundError as error:
        raise UserError(f"{path}: no such file; check the path") from error
    except (tf.errors.OpError, ValueError) as error:
        # TensorFlow's message about a record that is no tf.Example may not be UTF-8.
        reason = "no tf.Examples" if isinstance(error, UnicodeError) else str(error).splitlines()[0]
        raise UserError(
            f"{path}: not a readable TFRecord file of a task ({reason}); "
            "remove it, it is made anew from the data"
        ) from error
    if not parts:
        return Features(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(1, np.int64), {})
    return Features.concatenate(parts)


def _columns(path):
    """{name: tf.io.FixedLenFeature} of what a file's first record holds besides the ids."""
    first = next(iter(tf.data.TFRecordDataset(path).take(1)), None)
    if first is None:
        return {}
    try:
        found = tf.train.Example.FromString(first.numpy()).features.feature
    except message.DecodeError as error:
        raise ValueError("no tf.Examples") from error
    columns = {}
    for name, feature in found.items():
        kind = feature.WhichOneof("kind")
        if name not in _IDS and kind in _KINDS:
            count = len(getattr(feature, kind).value)
            columns[name] = tf.io.FixedLenFeature([] if count == 1 else [count], _KINDS[kind])
    return columns


def _unpadded(batch, columns):
    mask = batch["input_mask"]
    for name in ("input_ids", "segment_ids"):
        if not np.array_equal(batch[name].row_splits, mask.row_splits):
            raise ValueError(f"{name} is not as long as input_mask")
    kept = mask.flat_values.numpy() > 0
    splits = mask.row_splits.numpy()
    values = {name: batch[name].numpy() for name in columns}
    real = values.get("is_real_example", np.ones(len(splits) - 1)) > 0
    kept &= np.repeat(real, np.diff(splits))
    offsets = np.concatenate([[0], np.cumsum(kept)])[splits]
    return Features(
        batch["input_ids"].flat_values.numpy()[kept].astype(np.int32),
        batch["segment_ids"].flat_values.numpy()[kept].astype(np.int32),
        np.concatenate([[0], offsets[1:][real]]).astype(np.int64),
        {name: array[real] for name, array in values.items()},
    )


def _ahead(function, items):
    """function(item) of each item, in order, computed by threads a few items ahead."""
    items = iter(items)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = [pool.submit(function, item) for item in itertools.islice(items, 4)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(function, item) for item in itertools.islice(items, 1)]


def is_current(output_file, key):
    """Whether a TFRecord file was made from what `key` (of `file_key`) says, and is whole."""
    key_file = f"{output_file}.json"
    if not (os.path.exists(output_file) and os.path.exists(key_file)):
        return False
    try:
        found = files.read_json(key_file)
    except UserError:
        return False
    return found.pop("bytes", None) == os.path.getsize(output_file) and (
        {name: value for name, value in found.items() if name != "examples"} == key
    )


# tf.Example on the wire (tensorflow/core/example/{example,feature}.proto):
#   Example { features = 1: Features { feature = 1: repeated map entry { key = 1: string, value =
# 2: Feature } } }   Feature { float_list = 2: FloatList { value = 1: packed float }, int64_list =
# 3: Int64List { value = 1: packed } }


class _EntryHeads(dict):
    """{bytes of packed values: everything of a map entry that comes before them}, for one int64
    feature.
    """

    def __init__(self, name):
        super().__init__()
        self._key = b"\x0a" + _varint(len(name)) + name.encode()

    def __missing__(self, size):
        head = b"\x0a" + _varint(size)
        head = b"\x1a" + _varint(len(head) + size) + head
        head = self._key + b"\x12" + _varint(len(head) + size) + head
        self[size] = head = b"\x0a" + _varint(len(head) + size) + head
        return head


def _column_entries(name, values):
    """The whole map entry of a column, for each example."""
    key = b"\x0a" + _varint(len(name)) + name.encode()
    rows = values.reshape(len(values), math.prod(values.shape[1:]))
    if np.issubdtype(values.dtype, np.floating):
        kind, packed = b"\x12", (row.astype("<f4").tobytes() for row in rows)
    else:
        kind = b"\x1a"
        packed = (b"".join(_varint(v & 0xFFFFFFFFFFFFFFFF) for v in row) for row in rows.tolist())
    lists = (b"\x0a" + _varint(len(value)) + value for value in packed)
    payloads = (kind + _varint(len(value)) + value for value in lists)
    bodies = (key + b"\x12" + _varint(len(payload)) + payload for payload in payloads)
    return [b"\x0a" + _varint(len(body)) + body for body in bodies]


def _varint(value):
    """One non-negative integer in base 128, least significant group first."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varints(values):
    """Packed varints of non-negative int32 values.

    Returns:
      (bytes, int64 array [values + 1]): value i is bytes[offsets[i]:offsets[i + 1]].
    """
    values = values.astype(np.int64)
    groups = 1 + (values > 127) + (values > 16383) + (values > 2097151) + (values > 268435455)
    offsets = np.concatenate([[0], np.cumsum(groups)])
    out = np.zeros(offsets[-1], np.uint8)
    for group in range(5):
        rows = groups > group
        part = values[rows] >> 7 * group & 127
        out[offsets[:-1][rows] + group] = part | np.where(groups[rows] > group + 1, 128, 0)
    return out.tobytes(), offsets
