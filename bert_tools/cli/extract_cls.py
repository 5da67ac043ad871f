"""extract_cls: text in, a vector a line out, at any size.

extract_cls --input_file=lines.txt --output_file=vectors.npy --bert=minilm

One text a line, a pair split at " ||| "; or TSV, CSV and JSON lines with --text_column. The name
of the output says its form: .npy (a float32 matrix, row n for line n), .npz (vectors, labels, ids),
.jsonl ({"id", "text", "vector"} a line), .tsv (numbers, the label last); - writes JSON lines to
stdout as soon as they are there.

Without --pooling a vector is what the name says: the last layer's [CLS], not normalised. It suits
as a feature of the classifier that the model was fine-tuned for. For comparing sentences take
--pooling=auto with a sentence model such as minilm: on STS-B the raw [CLS] of a BERT that nobody
tuned for sentences has a Spearman of 16, the mean of its tokens 46, a siamese fine-tuned model 85.

A file appears whole or not at all. What a killed run did is in FILE.part, and the same command with
--resume goes on from there, to the same bytes. Several processes or machines share the work with
--shard=0/4 ... --shard=3/4, each its part of the lines into FILE-00000-of-00004.npy and so on.
"""

import collections
import contextlib
import functools
import hashlib
import itertools
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile

import tqdm

from bert_tools import files
from bert_tools.cli import app, shared_flags, task_data
from bert_tools.errors import UserError
from bert_tools.inputs import examples, tables

# The names that sentence.pooling knows, repeated since --help must not import TensorFlow.
_POOLINGS = ("cls", "pooled", "mean", "max", "first_last_mean", "auto")
_FORMS = {".npy": "npy", ".npz": "npz", ".jsonl": "jsonl", ".json": "jsonl", ".tsv": "tsv"}


def flags():
    """The command's flags."""
    command = app.CommandFlags()
    shared_flags.define_model_flags(command)
    command.group("Text")
    command.string("input_file", None, "Text, a line each, or a table; - is stdin.")
    command.string(
        "text_column",
        None,
        "Column of the text: a number from 0, or a name (the first line is then a header, or lines "
        "are JSON objects). Without it each line is a text.",
    )
    command.string("text_pair_column", None, "Column of the second text, where there are pairs.")
    command.string("label_column", None, "Column that is carried along into .npz, .jsonl and .tsv.")
    command.bool("header", False, "Skip the first line, where columns are given by number.")
    command.enum(
        "input_format",
        "auto",
        ("auto", *tables.FORMATS),
        "of a table; auto: by the name, and tsv for stdin.",
    )
    command.enum(
        "on_bad_line",
        "error",
        ("error", "skip"),
        "what a malformed line does; a skipped one has a vector of nan.",
    )
    command.string("prefix", "", 'Set before each text, as some models want it: "query: ".')
    command.group("Vectors")
    command.string("output_file", None, ".npy, .npz, .jsonl or .tsv; - is stdout.")
    command.enum(
        "pooling",
        "cls",
        _POOLINGS,
        "cls: the first token; pooled: tanh(dense(cls)), as classifiers see it; mean, max: over "
        "all tokens; first_last_mean: of the first and last layer; auto: what the model's folder "
        "says, normalising and max_seq_length included, else mean.",
    )
    command.string(
        "layers",
        "-1",
        "Whose tokens, by number, comma-separated: 0 is the embeddings, -1 the last layer. Several "
        "are joined.",
    )
    command.bool("normalize", False, "Scale vectors to length 1.")
    command.enum("dtype", "float32", ("float32", "float16"), "of .npy and .npz.")
    command.integer("dimensions", 0, "Reduce vectors to so many numbers; 0: all.", lower_bound=0)
    command.enum(
        "reduce",
        "pca",
        ("pca", "truncate"),
        "how: by principal components fitted on these vectors (kept in FILE.pca.npz), or the first "
        "ones alone.",
    )
    command.string("pca_file", None, "Reduce by this .pca.npz of an earlier run instead.")
    command.group("Large inputs")
    command.bool("resume", False, "Go on where a killed run of the same command ended.")
    command.string("shard", "0/1", "i/n: the i-th (from 0) of n parts of the lines.")
    shared_flags.define_compute_flags(command, batching=False)
    command.enum(
        "batching",
        "bucket",
        ("bucket", "pack", "pad"),
        "how texts are laid out; pad: in one shape, so that a vector never changes by a bit.",
    )
    return command


def run(command):
    """The command; see the module's docstring."""
    command.require("input_file", "output_file")
    job = _Job(command)
    if command.output_file == "-":
        with tables.opened(command.input_file, "--input_file") as lines:
            _stream(job, lines)
    else:
        with _spooled(command) as path:
            _extract(job, path)


class _Job:
    """What the flags ask for, checked before any work is done."""

    def __init__(self, command):
        self.command = command
        self.name = "stdin" if command.input_file == "-" else command.input_file
        self.layers = shared_flags.layer_numbers(command)
        shared_flags.require_place(command, "output_file", "input_file")
        self.shard, self.shards = _shard(command.shard)
        self.output = command.output_file
        self.form = "jsonl" if self.output == "-" else _form(self.output)
        if self.shards > 1 and self.output != "-":
            stem, suffix = os.path.splitext(self.output)
            self.output = f"{stem}-{self.shard:05d}-of-{self.shards:05d}{suffix}"
        self.layout = task_data.columns_given(command, "label_column")
        kind = tables.format_of(command.input_file)
        if self.layout is not None:
            if command.input_format != "auto":
                kind = command.input_format
            self.layout = self.layout._replace(kind=kind)
        elif command.header or command.input_format in ("csv", "jsonl"):
            flag = "header" if command.header else "input_format"
            raise UserError(
                f"--{flag}: is of a table, and without --text_column each line is a text; give "
                "that, or leave this out"
            )
        elif kind != "tsv" and command.input_format == "auto":
            raise UserError(
                f"--input_file={command.input_file}: a .{kind} file; name its --text_column"
            )
        if command.pca_file and command.reduce != "pca":
            raise UserError("--pca_file and --reduce=truncate exclude each other; give one")
        self.fits = bool(command.dimensions) and command.reduce == "pca" and not command.pca_file
        if self.output == "-" and command.resume:
            raise UserError("--resume: stdout cannot go on where it ended; give --output_file=FILE")
        if self.output == "-" and self.shards > 1:
            raise UserError("--shard: needs --output_file=FILE; stdout has no parts")
        if command.input_file == "-" and (command.resume or self.shards > 1):
            flag = "resume" if command.resume else "shard"
            raise UserError(f"--{flag}: stdin is read only once; give --input_file=FILE")
        if self.fits and (self.output == "-" or self.shards > 1):
            raise UserError(
                "--dimensions: PCA is fitted on all vectors, which a stream or a part has not; fit "
                "it on a sample in a file first and give its --pca_file"
            )

    def encoder(self):
        """(sentence Encoder, what the weights and tokenizer are known by)."""
        app.import_tensorflow()
        from bert_tools.sentence.encoder import Encoder

        command = self.command
        precision = shared_flags.precision(command)
        strategy = shared_flags.strategy(command)
        model = shared_flags.load_model(command)
        fingerprint = _fingerprint(model) if self.output != "-" else None
        auto = command.pooling == "auto"
        encoder = Encoder(
            model,
            command.pooling,
            self.layers,
            command.normalize if command.given("normalize") or not auto else None,
            command.max_seq_length if command.given("max_seq_length") or not auto else None,
            precision,
            command.batching,
            command.xla,
            command.prefix,
            strategy.extended.worker_devices,
        )
        if command.dimensions > encoder.width:
            raise UserError(
                f"--dimensions={command.dimensions}: a vector has {encoder.width} numbers; give "
                "fewer"
            )
        return encoder, {"model": fingerprint, "precision": precision}

    def reducer(self, encoder):
        """The Pca or Truncation that is known beforehand, or None."""
        from bert_tools.sentence.reduction import Pca, Truncation

        command = self.command
        if command.pca_file:
            pca = Pca.load(command.pca_file)
            if command.dimensions not in (0, pca.dimensions) or len(pca.mean) != encoder.width:
                raise UserError(
                    f"--pca_file={command.pca_file}: reduces {len(pca.mean)} numbers to "
                    f"{pca.dimensions}, and vectors have {encoder.width}, --dimensions is "
                    f"{command.dimensions}; give the one that belongs to this model"
                )
            return pca
        if command.dimensions and command.reduce == "truncate":
            return Truncation(command.dimensions)
        return None

    def read(self, lines):
        """Yields InputExample, or the UserError of a bad line."""
        if self.layout is not None:
            parse = _label if self.layout.label is not None else None
            yield from examples.read_examples(lines, self.layout, "text", parse, every_line=True)
            return
        for number, line in lines:
            if isinstance(line, UserError):
                yield line
            else:
                yield examples.InputExample(f"text-{number - 1}", *examples.text_or_pair(line))

    @contextlib.contextmanager
    def opened(self, path):
        """tables.opened, under the name that the user knows."""
        with tables.opened(path, "--input_file") as lines:
            lines.name = self.name
            yield lines


def _stream(job, lines):
    encoder, _ = job.encoder()
    kept = tables.checked(job.read(lines), job.command.on_bad_line)
    finish = _Finish(job.reducer(encoder), encoder.normalize)
    with tqdm.tqdm(desc="encoding", unit="line", disable=not sys.stderr.isatty()) as bar:
        number = 0
        for window, vectors in _encoded(encoder, tables.ready_windows(kept, lines)):
            rows = zip(itertools.count(number), window, finish(vectors), strict=False)
            sys.stdout.write("".join(f"{_record(*row)}\n" for row in rows))
            sys.stdout.flush()
            number += len(window)
            bar.update(len(window))
    shared_flags.warn_of_unknown(lines.name, encoder.tokens, encoder.unknown)


def _extract(job, path):
    # Read once before any work, for the bad lines and the number of rows.
    count, labels = _checked(job, path)
    if job.fits and count < job.command.dimensions:
        raise UserError(
            f"--dimensions={job.command.dimensions}: PCA needs at least as many texts, there are "
            f"{count}; give fewer, or --reduce=truncate"
        )
    first, last = (count * place // job.shards for place in (job.shard, job.shard + 1))
    encoder, known = job.encoder()
    reducer = job.reducer(encoder)

    from bert_tools.sentence.encoder import WINDOW
    from bert_tools.sentence.store import Growing

    rows = last - first
    key = {**_key(job, encoder, path), **known}
    with Growing(job.output, (rows, encoder.width), key, job.command.resume) as growing:
        if growing.done:
            app.log.info("%s: going on from row %d of %d", job.output, growing.done, rows)
        bar = tqdm.tqdm(
            desc="encoding",
            unit="line",
            initial=growing.done,
            total=rows,
            disable=not sys.stderr.isatty(),
        )
        with bar, job.opened(path) as lines:
            left = itertools.islice(job.read(lines), first + growing.done, last)
            windows = iter(lambda: list(itertools.islice(left, WINDOW)), [])
            for window, vectors in _encoded(encoder, windows):
                growing.append(vectors)
                bar.update(len(window))
        if growing.done != rows:
            raise UserError(f"{job.name}: was changed while it was read; run again")
        shared_flags.warn_of_unknown(job.name, encoder.tokens, encoder.unknown)
        if job.fits:
            reducer = _fitted(growing, rows, job.command.dimensions)
            reducer.save(job.output + ".pca.npz")
            app.log.info(
                "%s: %d dimensions keep %.1f %% of the variance",
                job.output,
                reducer.dimensions,
                100 * reducer.explained,
            )
        if job.form == "npy" and reducer is None and job.command.dtype == "float32":
            growing.become(job.output)
            return
        finish = _Finish(reducer, encoder.normalize)
        width = reducer.dimensions if reducer else encoder.width
        _write(job, path, growing, finish, (first, last), width, labels)
        growing.remove()


def _encoded(encoder, windows):
    """Yields (window, float32 [len(window), width]), with nan for bad lines."""
    seen = collections.deque()

    def texts():
        for window in windows:
            seen.append(window)
            yield [
                ("", None) if isinstance(example, UserError) else (example.text_a, example.text_b)
                for example in window
            ]

    for vectors in encoder.stream(texts()):
        window = seen.popleft()
        vectors[[isinstance(example, UserError) for example in window]] = float("nan")
        yield window, vectors


def _checked(job, path):
    """(number of rows, the label of each or None); logs the bad lines that are skipped.

    Raises:
      UserError: a bad line.
    """
    count, bad, labels = 0, [], []
    wanted = job.layout is not None and job.layout.label is not None
    with job.opened(path) as lines:
        for example in tables.checked(job.read(lines), job.command.on_bad_line):
            count += 1
            if isinstance(example, UserError):
                bad.append(count)
            if wanted and job.form == "npz":
                labels.append("" if isinstance(example, UserError) else example.label)
    if bad:
        app.log.warning("%s: %d bad lines, the first in row %d", job.name, len(bad), bad[0] - 1)
    return count, labels if wanted else None


def _fitted(growing, rows, dimensions):
    import numpy as np

    from bert_tools.sentence import reduction

    # Evenly spaced, so that a file in some order is fitted as a whole.
    wanted = np.unique(np.linspace(0, rows - 1, min(rows, reduction.FITTED_ON)).astype(int))
    start, parts = 0, []
    for chunk in growing.read():
        inside = wanted[(wanted >= start) & (wanted < start + len(chunk))]
        parts.append(chunk[inside - start])
        start += len(chunk)
    vectors = np.concatenate(parts) if parts else np.zeros((0, dimensions), np.float32)
    return reduction.Pca.fit(vectors, dimensions)


def _write(job, path, growing, finish, span, width, labels):
    """Writes the output from the whole of the vectors."""
    import numpy as np

    from bert_tools.sentence.store import write_array

    first, last = span
    shape, dtype = (last - first, width), np.dtype(job.command.dtype)
    chunks = map(finish, growing.read())
    if job.form == "npy":
        with files.aside(job.output) as temporary, open(temporary, "wb") as writer:
            write_array(writer, shape, dtype, chunks)
    elif job.form == "npz":
        arrays = {"ids": np.arange(first, last)}
        if labels is not None:
            arrays["labels"] = np.array(labels[first:last], np.str_)
        with (
            files.aside(job.output) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
        ):
            # ZipInfo's fixed date: the same vectors are the same bytes.
            with archive.open(zipfile.ZipInfo("vectors.npy"), "w", force_zip64=True) as writer:
                write_array(writer, shape, dtype, chunks)
            for name, array in arrays.items():
                member = zipfile.ZipInfo(f"{name}.npy")
                with archive.open(member, "w", force_zip64=True) as writer:
                    write_array(writer, array.shape, array.dtype, [array])
    else:
        labelled = functools.partial(_cells, labels is not None)
        write_row = _record if job.form == "jsonl" else labelled
        with files.text_writer(job.output) as write, job.opened(path) as lines:
            texts = itertools.islice(job.read(lines), first, last)
            vectors = itertools.chain.from_iterable(chunks)
            rows = zip(range(first, last), texts, vectors, strict=True)
            for row in rows:
                write(f"{write_row(*row)}\n")


def _record(number, example, vector):
    if isinstance(example, UserError):
        return json.dumps({"id": number, "error": str(example)}, ensure_ascii=False)
    record = {"id": number, "text": example.text_a}
    if example.text_b is not None:
        record["text_pair"] = example.text_b
    if example.label is not None:
        record["label"] = example.label
    head = json.dumps(record, ensure_ascii=False)
    return f'{head[:-1]}, "vector": [{_numbers(vector, ", ")}]}}'


def _cells(labelled, _, example, vector):
    label = getattr(example, "label", "")  # A bad line has none, and yet all rows one width.
    label = label and label.replace("\t", " ").replace("\n", " ")
    return _numbers(vector, "\t") + (f"\t{label}" if labelled else "")


def _numbers(vector, separator):
    # Nine digits tell float32 numbers apart.
    return separator.join(["%.9g"] * len(vector)) % tuple(vector.tolist())


class _Finish:
    """What follows the encoder: fewer dimensions, and then length 1 again."""

    def __init__(self, reducer, normalize):
        self._reducer, self._normalize = reducer, normalize

    def __call__(self, vectors):
        import numpy as np

        if self._reducer is None:
            return vectors
        vectors = self._reducer(vectors)
        if self._normalize:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors


@contextlib.contextmanager
def _spooled(command):
    """The path of the input as a file that can be read twice: what comes from stdin or another pipe
    is first put beside the output.
    """
    path = command.input_file
    if path != "-":
        tables.require_file(path, "--input_file")
    if os.path.isfile(path):
        yield path
        return
    if path == "-" and sys.stdin is None:
        raise UserError("--input_file=-: stdin is closed; pipe the lines in")
    folder = os.path.dirname(os.path.abspath(command.output_file))
    with contextlib.ExitStack() as stack:
        try:
            reader = sys.stdin.buffer if path == "-" else stack.enter_context(open(path, "rb"))
            spool = stack.enter_context(tempfile.NamedTemporaryFile(prefix=".stdin.", dir=folder))
            shutil.copyfileobj(reader, spool)
            spool.flush()
        except OSError as error:
            raise UserError(
                f"{folder}: what comes from {path} cannot be kept there ({error.strerror}); free "
                "space or choose another --output_file"
            ) from error
        yield spool.name


def _key(job, encoder, path):
    """All that the rows depend on, for --resume."""
    command = job.command
    digest = hashlib.sha256()
    with open(path, "rb") as reader:
        while block := reader.read(1 << 20):
            digest.update(block)
    return {
        "input_file": digest.hexdigest(),
        "columns": None if job.layout is None else list(map(str, job.layout)),
        "on_bad_line": command.on_bad_line,
        "shard": f"{job.shard}/{job.shards}",
        "pooling": list(encoder.poolings),
        "layers": list(encoder.layers),
        "normalize": encoder.normalize,
        "max_seq_length": encoder.max_seq_length,
        "prefix": command.prefix,
        "batching": command.batching,
        "xla": command.xla,
    }


def _fingerprint(model):
    digest = hashlib.sha256(repr((model.config, model.tokenizer.fingerprint())).encode())
    for name, array in sorted(model.weights.items()):
        digest.update(name.encode())
        digest.update(array)
    return digest.hexdigest()


def _label(value):
    if not isinstance(value, str | int | float):
        raise ValueError(f"expected a label, found {tables.shown(repr(value))}")
    return str(value)


def _shard(text):
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not int(found[1]) < int(found[2]):
        raise UserError(f"--shard={text}: expected i/n with i from 0 to n-1, such as 0/4")
    return int(found[1]), int(found[2])


def _form(path):
    form = _FORMS.get(os.path.splitext(path)[1].lower())
    if form is None:
        raise UserError(
            f"--output_file={path}: the name must end in {', '.join(_FORMS)}, or be - for stdout"
        )
    return form


def main(arguments=None):
    """The console command; returns the exit status."""
    return app.run(__doc__, flags(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
