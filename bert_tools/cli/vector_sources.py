"""Where the commands that compare vectors take them from: text, which a model of --bert encodes;
vectors in a .npy or .npz; or the JSON lines that extract_cls writes, {"id", "text", "vector"}.

TensorFlow is imported only where there is text to encode.
"""

import json
import os
import time
import typing

from bert_tools import files
from bert_tools.cli import app, shared_flags
from bert_tools.errors import UserError
from bert_tools.inputs import examples, tables

# The names that sentence.pooling and sentence.similarity know, repeated since --help must not
# import TensorFlow.
_POOLINGS = ("auto", "cls", "pooled", "mean", "max", "first_last_mean")
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
FORMATS = ("auto", "tsv", "jsonl")
_CHECKED = 8192  # Vectors looked at together.


class Collection(typing.NamedTuple):
    """Texts and their vectors.

    name: str, the file, for errors.
    ids: sequence of str or int; of plain text the number of the line, from 0.
    texts: list of str, or None where nothing but vectors is known.
    vectors: float array [n, width], or None where the texts are still to be encoded.
    """

    name: str
    ids: typing.Any
    texts: list | None
    vectors: typing.Any

    def __len__(self):
        return len(self.ids)

    def text(self, place):
        """A row's text, "" where none is known."""
        return self.texts[place] if self.texts else ""


def define_text_flags(command):
    """How files of text are read."""
    command.string(
        "text_column",
        None,
        "Column of the text: a number from 0, or a name (the first line is then a header, or lines "
        "are JSON objects). Without it each line is a text.",
    )
    command.bool("header", False, "Skip the first line, where columns are given by number.")
    command.enum(
        "input_format",
        "auto",
        ("auto", *tables.FORMATS),
        "of a table; auto: by the name, and tsv for stdin.",
    )
    command.enum("on_bad_line", "error", ("error", "skip"), "what a malformed line does.")


def define_vector_flags(command, similarity=True):
    """How text becomes vectors, and how these are compared."""
    command.group("Vectors")
    command.enum(
        "pooling",
        "auto",
        _POOLINGS,
        "of texts; auto: what the model's folder says, normalising and max_seq_length included, "
        "else mean.",
    )
    command.string("prefix", "", 'Set before each text, as some models want it: "passage: ".')
    if similarity:
        command.enum(
            "similarity",
            "cosine",
            SIMILARITIES,
            "what a score is; of euclidean and manhattan the negative distance (these two take "
            "far longer).",
        )


def form_of(command, *others):
    """ "tsv" or "jsonl", as --output_format or the name of --output_file says; others: as of
    shared_flags.require_place.
    """
    shared_flags.require_place(command, "output_file", *others)
    if command.output_format != "auto":
        return command.output_format
    return "jsonl" if command.output_file.endswith((".jsonl", ".json")) else "tsv"


def row(form, record):
    """A line of output: a JSON object, or its values, tab-joined.

    Args:
      form: "tsv" or "jsonl".
      record: dict.
    """
    if form == "jsonl":
        return json.dumps(record, ensure_ascii=False) + "\n"
    cells = (f"{v:.6f}" if isinstance(v, float) else str(v) for v in record.values())
    return "\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in cells) + "\n"


def read(command, flag, texts_flag=None, column="text_column"):
    """Reads a file of texts or vectors.

    Args:
      command: CommandFlags with those of `define_text_flags`.
      flag: str, the flag that names the file; - is stdin.
      texts_flag: str or None, the flag that names the texts of a .npy.
      column: str, the flag that names the column of a table.

    Returns:
      Collection.

    Raises:
      UserError: a bad line, no row at all, vectors of different widths or with NaN, or another
        number of texts than of vectors.
    """
    path = getattr(command, flag)
    texts = getattr(command, texts_flag) if texts_flag else None
    suffix = os.path.splitext(path)[1].lower()
    if suffix in (".npy", ".npz"):
        found = _matrix(command, path, flag, texts, texts_flag, column)
    elif texts:
        raise UserError(
            f"--{texts_flag}={texts}: goes with vectors in a .npy, and --{flag}={path} brings its "
            "own texts; leave it out"
        )
    else:
        windows = [*read_windows(command, path, flag, column, in_pieces=False)]
        found = windows[0] if windows else Collection(path, [], [], None)
    if not len(found):
        raise UserError(f"{found.name}: holds no text; give at least one")
    return found


def read_windows(command, path, flag, column="text_column", in_pieces=True):
    """Yields Collection after Collection of a file or stream of text or JSON lines: what can be
    read without waiting, or all at once.

    Args:
      command, flag, column: as `read`.
      path: str, the file; - is stdin.

    Raises:
      UserError: as `read`; what stands before a bad line is given first.
    """
    with tables.opened(path, f"--{flag}") as lines:
        name = lines.name
        layout = _layout(command, path, flag, column)
        if layout is None:
            rows = _lines(lines, path, flag, column)
        else:
            found = examples.read_examples(lines, layout, "text")
            rows = (
                one if isinstance(one, UserError) else (index, one.text_a, None)
                for index, one in enumerate(found)
            )
        bad = []
        kept = _kept(tables.checked(rows, command.on_bad_line), bad)
        if in_pieces:
            windows = tables.ready_windows(kept, lines)
        else:
            windows = [[one for one in kept if one is not None]]
        for window in windows:
            if window:
                yield _collected(name, window)
        if bad:
            app.log.warning("%s: %d bad lines left out; the first: %s", name, len(bad), bad[0])


def _kept(rows, bad):
    """Yields rows, None for those without text; collects the bad ones."""
    for one in rows:
        if isinstance(one, UserError):
            bad.append(one)
            yield None
        else:
            yield one if one[2] is not None or one[1].strip() else None


class Vectorizer:
    """Encodes what has no vectors yet; loads the model when it is first needed.

    Args:
      command: CommandFlags with the groups of model, vectors and compute.
    """

    def __init__(self, command):
        self._command, self._encoder = command, None

    def __call__(self, collection, prefix=None):
        """The vectors of a Collection, float array [n, width].

        Args:
          prefix: str, in place of --prefix.
        """
        if collection.vectors is not None:
            return collection.vectors
        encoder = self.encoder()
        prefix = self._command.prefix if prefix is None else prefix
        texts = [prefix + text for text in collection.texts] if prefix else collection.texts
        encoder.tokens = encoder.unknown = 0
        found = encoder.encode(texts)
        shared_flags.warn_of_unknown(collection.name, encoder.tokens, encoder.unknown)
        return found

    def encoder(self):
        """The sentence.encoder.Encoder of --bert."""
        if self._encoder is None:
            command = self._command
            if not command.bert_config_file:
                command.require("bert")
            app.import_tensorflow()
            from bert_tools.sentence.encoder import Encoder

            auto = command.pooling == "auto"
            precision = shared_flags.precision(command)
            devices = shared_flags.strategy(command).extended.worker_devices
            self._encoder = Encoder(
                shared_flags.load_model(command),
                command.pooling,
                max_seq_length=(
                    command.max_seq_length if command.given("max_seq_length") or not auto else None
                ),
                precision=precision,
                xla=command.xla,
                devices=devices,
            )
        return self._encoder


class Clock:
    """Seconds of each phase of a command, told at its end."""

    def __init__(self):
        self._begun, self._laps = time.perf_counter(), []

    def lap(self, name):
        """Ends a phase."""
        now = time.perf_counter()
        self._laps.append(f"{name} {now - self._begun:.2f}")
        self._begun = now

    def tell(self):
        app.log.info("seconds: %s", ", ".join(self._laps))


def check_widths(first, second):
    """UserError unless two Collections' vectors can be compared.

    Args:
      first, second: (name, width).
    """
    if first[1] != second[1]:
        raise UserError(
            f"{second[0]}: its vectors have {second[1]} numbers, those of {first[0]} have "
            f"{first[1]}; give vectors of one model"
        )


def require_source(command, *flags):
    """Before any work: that at most one flag reads stdin, and that files are there."""
    given = [flag for flag in flags if getattr(command, flag)]
    piped = [flag for flag in given if getattr(command, flag) == "-"]
    if len(piped) > 1:
        raise UserError(
            f"--{piped[0]}=- and --{piped[1]}=-: there is one stdin; name a file for one of them"
        )
    for flag in given:
        if getattr(command, flag) != "-":
            tables.require_file(getattr(command, flag), f"--{flag}")


def _layout(command, path, flag, column):
    """examples.Layout of a table; None where each line is a text."""
    name = getattr(command, column)
    kind = command.input_format
    kind = tables.format_of(path) if kind == "auto" else kind
    if name is None:
        # Beside a table of a corpus, queries may be plain lines.
        if command.header and column == "text_column":
            raise UserError(f"--header: needs --{column}, by number; give it, or leave this out")
        if tables.format_of(path) == "csv":
            raise UserError(f"--{flag}={path}: a .csv file; name its --{column}")
        return None
    place = int(name) if name.isdecimal() else name
    return examples.Layout(place, header=command.header or isinstance(place, str), kind=kind)


def _holds_vectors(lines):
    """Whether the first line is one of those that extract_cls writes."""
    first = next(lines, None)
    if first is None:
        return False
    lines.give_back([first])
    if isinstance(first[1], UserError) or not first[1].startswith("{"):
        return False
    try:
        found = json.loads(first[1])
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and ("vector" in found or "error" in found)


def _lines(lines, path, flag, column):
    """Yields (id, text, vector or None), or the UserError of a bad line."""
    if _holds_vectors(lines):
        yield from _vector_lines(lines)
        return
    if tables.format_of(path) == "jsonl":
        raise UserError(
            f"--{flag}={path}: a .jsonl file without vectors; name its --{column}, or write "
            "vectors with extract_cls"
        )
    for number, line in lines:
        yield line if isinstance(line, UserError) else (number - 1, line, None)


def _vector_lines(lines):
    """(id, text, float32 [width]) of JSON lines."""
    import numpy as np

    width = None
    for index, (number, cells) in enumerate(tables.rows(lines, "jsonl")):
        if cells is None or isinstance(cells, UserError):
            if cells is not None:
                yield cells
            continue
        place = f"{lines.name}:{number}"
        found = cells.get("vector") if isinstance(cells, dict) else None
        if isinstance(cells, dict) and "error" in cells and found is None:
            yield UserError(f"{place}: has no vector ({cells['error']}); correct the text")
            continue
        try:
            vector = np.array(found, np.float32)
        except (TypeError, ValueError):
            vector = np.zeros((0, 0), np.float32)
        if not isinstance(found, list) or vector.ndim != 1 or not len(vector):
            yield UserError(
                f'{place}: expected {{"id", "text", "vector"}} as extract_cls writes it, found '
                f"{tables.shown(str(cells))}; correct the line"
            )
        elif not np.isfinite(vector).all():
            yield UserError(f"{place}: the vector has NaN or infinite numbers; correct the line")
        elif width not in (None, len(vector)):
            yield UserError(
                f"{place}: the vector has {len(vector)} numbers, those before have {width}; give "
                "vectors of one model"
            )
        else:
            width = len(vector)
            text = cells.get("text")
            identity = cells.get("id", index)
            known = isinstance(identity, str | int)
            yield (
                identity if known else index,
                text if isinstance(text, str) else None,
                vector,
            )


def _collected(name, window):
    import numpy as np

    ids, texts, vectors = (list(column) for column in zip(*window, strict=True))
    known = all(text is not None for text in texts)
    encoded = None if vectors[0] is None else np.stack(vectors)
    return Collection(name, ids, texts if known else None, encoded)


def _matrix(command, path, flag, texts, texts_flag, column):
    """Collection of a .npy or .npz and of the texts beside it."""
    import numpy as np

    tables.require_file(path, f"--{flag}")
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        ids = None
        if not isinstance(found, np.ndarray):
            with found:
                ids = found.get("ids")
                found = found["vectors"]
    except files.UNREADABLE as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"--{flag}={path}: holds no matrix of vectors ({reason}); give one that extract_cls "
            "wrote"
        ) from error
    if found.ndim != 2 or found.dtype.kind != "f" or not found.shape[1]:
        raise UserError(
            f"--{flag}={path}: holds {found.dtype} of shape {list(found.shape)}; expected a matrix "
            "of float, a row a text"
        )
    for start in range(0, len(found), _CHECKED):
        bad = np.flatnonzero(~np.isfinite(found[start : start + _CHECKED]).all(1))
        if len(bad):
            raise UserError(
                f"--{flag}={path}: row {start + bad[0]} (from 0) has NaN or infinite numbers; "
                "correct the text that it was made from"
            )
    if ids is None:
        ids = range(len(found))
    elif ids.shape == found.shape[:1] and ids.dtype.kind in "iuU":
        ids = ids.tolist()
    else:
        raise UserError(
            f"--{flag}={path}: its ids are {ids.dtype} of shape {list(ids.shape)}, and there are "
            f"{len(found)} vectors; expected a number or text for each"
        )
    if not texts:
        return Collection(path, ids, None, found)
    with tables.opened(texts, f"--{texts_flag}") as lines:
        layout = _layout(command, texts, texts_flag, column)
        if layout is None:
            read = ["" if isinstance(line, UserError) else line for _, line in lines]
        else:
            rows = examples.read_examples(lines, layout, "text")
            read = ["" if isinstance(one, UserError) else one.text_a for one in rows]
    if len(read) != len(found):
        raise UserError(
            f"--{texts_flag}={texts}: has {len(read)} texts, and --{flag}={path} has {len(found)} "
            "vectors; give the file that they were made from"
        )
    return Collection(path, ids, read, found)
