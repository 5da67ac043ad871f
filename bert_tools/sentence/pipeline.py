"""Texts to vectors as an Apache Beam pipeline, for as many machines as its runner has.

Shard i of n holds the i-th part of the lines of all files, files by name: shards joined in the
order of their names are the vectors in the order of the lines. A shard is computed by one worker
and appears whole; one that a runner computes twice has the same bytes.
"""

import itertools
import os
import shutil
import tempfile
import typing
import uuid

import apache_beam as beam
import numpy as np
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.utils import shared

from bert_tools.errors import UserError
from bert_tools.inputs import examples, tables


class Part(typing.NamedTuple):
    """The lines of a shard.

    path: str; file: int, its place among the files.
    index: int, the part's place in its file.
    first, rows: int, lines before it in the file, and its own.
    offset: int, where it begins.
    """

    path: str
    file: int
    index: int
    first: int
    rows: int
    offset: int


def matching(patterns):
    """The sorted names of the files that patterns match, on any file system that Beam knows.

    Raises:
      UserError: a pattern matches nothing, or is of a file system that Beam does not have here.
    """
    found = set()
    try:
        matches = FileSystems.match(patterns)
    except (ValueError, BeamIOError) as error:
        raise UserError(f"--input_file={','.join(patterns)}: {error}; correct the name") from error
    for pattern, match in zip(patterns, matches, strict=True):
        if not match.metadata_list:
            raise UserError(f"{pattern}: no such file; check --input_file")
        found.update(file.path for file in match.metadata_list)
    return sorted(found)


def build(pipeline, paths, load, output_file, rows_per_shard, on_bad_line="error", dtype="float32"):
    """Adds the work to a pipeline.

    Args:
      pipeline: beam.Pipeline.
      paths: list of str, text files, a text or pair (`a ||| b`) a line; gzip is unpacked, and such
        a file is one shard.
      load: function() -> sentence.encoder.Encoder, which a worker calls once.
      output_file: str that ends in .npy or .tfrecord: out/v.npy gives out/v-00000-of-00012.npy. A
        .npy is [rows, width]; a record a tf.train.Example of id (int, the number of the line among
        all files' from 0), text (bytes), vector (floats).
      rows_per_shard: int, at most.
      on_bad_line: "error", or "skip": a line that is not UTF-8 has a vector of nan.
      dtype: "float32" or "float16", of .npy.

    Returns:
      PCollection of the shards' names.
    """
    parts = (
        pipeline
        | "Files" >> beam.Create(list(enumerate(paths)))
        | "Split" >> beam.ParDo(_Split(rows_per_shard, on_bad_line)).with_outputs(main="parts")
    )
    return (
        parts.parts
        # Nothing is computed before all lines are checked, and parts go to any worker.
        | "Spread" >> beam.Reshuffle()
        | "Encode" >> beam.ParDo(_Encode(load, output_file, dtype), beam.pvalue.AsDict(parts.sizes))
    )


class _Split(beam.DoFn):
    """(number, path) of a file to its Parts, one at least; "sizes": (number, (parts, rows))."""

    def __init__(self, rows_per_shard, on_bad_line):
        self._rows_per_shard, self._skips = rows_per_shard, on_bad_line == "skip"

    def process(self, file):
        number, path = file
        with _opened(path) as reader:
            packed = reader.read(2) == b"\x1f\x8b"
            reader.seek(0)
            lines = tables.Lines(reader, path)
            index = first = rows = offset = end = 0
            for _, line in lines:
                if isinstance(line, UserError) and not self._skips:
                    raise line
                if rows == self._rows_per_shard and not packed:
                    yield Part(path, number, index, first, rows, offset)
                    index, first, rows, offset = index + 1, first + rows, 0, end
                rows, end = rows + 1, lines.offset
            yield Part(path, number, index, first, rows, offset)
            yield beam.pvalue.TaggedOutput("sizes", (number, (index + 1, first + rows)))


class _Encode(beam.DoFn):
    """A Part to its shard; yields the shard's name."""

    def __init__(self, load, output_file, dtype):
        self._load, self._dtype = load, dtype
        self._stem, self._form = os.path.splitext(output_file)
        self._shared = shared.Shared()  # One model for all threads of a worker.

    def setup(self):
        self._encoder = self._shared.acquire(self._load)

    def process(self, part, sizes):
        # Imported late: the program that starts the pipeline needs no TensorFlow.
        from bert_tools.sentence.encoder import WINDOW

        shards = sum(parts for parts, _ in sizes.values())
        shard = part.index + sum(sizes[number][0] for number in range(part.file))
        row = part.first + sum(sizes[number][1] for number in range(part.file))
        target = f"{self._stem}-{shard:05d}-of-{shards:05d}{self._form}"
        texts = []

        def windows(lines):
            rest = itertools.islice(lines, part.rows)
            while window := [line for _, line in itertools.islice(rest, WINDOW)]:
                texts.append(window)
                yield [
                    ("", None) if isinstance(line, UserError) else examples.text_or_pair(line)
                    for line in window
                ]

        def vectors(lines):
            for found in self._encoder.stream(windows(lines)):
                window = texts.pop(0)
                found[[isinstance(line, UserError) for line in window]] = np.nan
                yield window, found

        with _opened(part.path) as reader, tempfile.NamedTemporaryFile() as local:
            reader.seek(part.offset)
            found = vectors(tables.Lines(reader, part.path, part.first))
            if self._form == ".npy":
                self._write_array(local.name, part.rows, found)
            else:
                _write_records(local.name, row, found)
            _put(local.name, target)
        yield target

    def _write_array(self, path, rows, found):
        from bert_tools.sentence.store import write_array

        with open(path, "wb") as writer:
            shape = (rows, self._encoder.width)
            write_array(writer, shape, np.dtype(self._dtype), (vectors for _, vectors in found))


def _write_records(path, row, found):
    import tensorflow as tf

    train = tf.train
    with tf.io.TFRecordWriter(path) as writer:
        for window, vectors in found:
            for line, vector in zip(window, vectors, strict=True):
                text = b"" if isinstance(line, UserError) else line.encode()
                feature = {
                    "id": train.Feature(int64_list=train.Int64List(value=[row])),
                    "text": train.Feature(bytes_list=train.BytesList(value=[text])),
                    "vector": train.Feature(float_list=train.FloatList(value=vector)),
                }
                example = train.Example(features=train.Features(feature=feature))
                writer.write(example.SerializeToString())
                row += 1


def _opened(path):
    # Lines knows gzip by its first bytes; a name says less.
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def _put(local, target):
    """Copies a local file to its final name, where it appears whole."""
    aside = f"{target}.{uuid.uuid4().hex}"
    try:
        with open(local, "rb") as reader, FileSystems.create(aside) as writer:
            shutil.copyfileobj(reader, writer)
        FileSystems.rename([aside], [target])
    except BaseException:
        if FileSystems.exists(aside):
            FileSystems.delete([aside])
        raise
