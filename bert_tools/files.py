"""Files and folders that appear whole or not at all: written beside their name, then renamed."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import sys
import tempfile
import tokenize
import zipfile
import zlib

from bert_tools.errors import UserError

# The largest description or vocabulary that is in use (XLM-R's tokenizer.json) has 17 MB.
_DESCRIPTION_BYTES = 64 << 20
# What numpy.load raises for a damaged .npy or .npz.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
_LEFT_OVER = re.compile(
    r"\.(model\.ckpt-\d+\.\d+\..*"
    r"|(model\.ckpt-\d+\.json|checkpoint|vocab\.txt|labels\.txt|saved_model\.pb"
    r"|[a-z_]+\.(json|tf_record(\.json)?)"
    r"|(eval|test)_results\w*\.(txt|json|tsv)|test_predictions\.txt|out_of_fold\.jsonl"
    r"|(graph|texts|offsets)-\d+\.(faiss|jsonl|npy))"
    r"\.[a-z0-9_]{8})"
)


@contextlib.contextmanager
def aside(path):
    """Yields the name of a temporary file in `path`'s folder; renames it to `path` when the block
    ends well.

    Args:
      path: str, the final name. Its folder must exist.

    Raises:
      UserError: the file cannot be written (no folder, no permission, disk full).
    """
    # A link stays a link, and a device or pipe (/dev/null, a FIFO) is written to, not replaced.
    require_own_name(path)
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        yield path
        return
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=folder)
        # mkstemp makes files for the owner alone; results get what the umask grants, like any
        # other file.
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(handle, 0o666 & ~mask)
        os.close(handle)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); "
            "free space or choose another place"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def require_own_name(path):
    """Raises UserError for a name such as /dev/stdout of a file that the shell has open: it would
    be replaced, with what others wrote there.
    """
    file = os.path.realpath(path)
    if os.path.abspath(path).startswith(("/dev/", "/proc/")) and os.path.isfile(file):
        raise UserError(f"{path}: is {file} by another name; give that, or - for stdout")


def check_new_folder(path):
    """Whether a folder can be written with aside_folder, as far as can be known before any work.

    Args:
      path: str.

    Raises:
      UserError: it is no folder, not empty, or in no place for one.
    """
    above = os.path.realpath(path)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        raise UserError(f"{path}: cannot be made, since {above} is a file; choose another place")
    if above != os.path.realpath(path):
        return
    there = sorted(os.listdir(path))
    if there:
        raise UserError(f"{path}: is not empty ({there[0]}); choose another folder or empty it")
    if os.path.ismount(path):
        raise UserError(
            f"{path}: is a mount point, which no finished folder can take the place of; give a "
            "folder inside it"
        )


@contextlib.contextmanager
def aside_folder(path):
    """Yields the name of an empty folder beside `path`; renames it to `path` when the block ends
    well.

    Args:
      path: str, the final name: absent (folders above it are made), or an empty folder.

    Raises:
      UserError: `path` is something else, or cannot be written.
    """
    path = os.path.realpath(path)
    parent = os.path.dirname(path)
    temporary = None
    try:
        check_new_folder(path)
        os.makedirs(parent, exist_ok=True)
        temporary = tempfile.mkdtemp(prefix=f".{os.path.basename(path)}.", dir=parent)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o777 & ~mask)
        yield temporary
        os.replace(temporary, path)
    except UserError as error:
        # To the user the folder has one name.
        raise UserError(str(error).replace(temporary or path, path)) from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); "
            "free space or choose another place"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def locked(folder, flag):
    """Makes the folder when it is absent, and keeps other processes from writing into it.

    Args:
      folder: str.
      flag: str, the one that names it.

    Raises:
      UserError: another process has it, or it cannot be written.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        lock = open(os.path.join(folder, ".lock"), "a", encoding="utf-8")  # noqa: SIM115 (below)
    except OSError as error:
        raise UserError(
            f"--{flag}={folder}: cannot be written ({error.strerror}); choose another folder"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"--{flag}={folder}: another process is writing there; wait for it, or choose "
                "another folder"
            ) from error
        remove_left_overs(folder)
        yield folder


def remove_left_overs(folder):
    """Removes what killed processes left in a folder: the temporary files of this module and of
    checkpoints.write_variables. Call it when no other process writes there.
    """
    for name in os.listdir(folder):
        if _LEFT_OVER.fullmatch(name):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, name))


def write_text(path, text):
    """Writes a UTF-8 text file, whole or not at all."""
    with aside(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as writer:
        writer.write(text)


@contextlib.contextmanager
def text_writer(path):
    """Yields a function that writes a str: for "-" to stdout, at once; else to a UTF-8 file that
    appears when all is done.
    """
    if path == "-":

        def write(text):
            sys.stdout.write(text)
            sys.stdout.flush()

        yield write
    else:
        with (
            aside(path) as temporary,
            open(temporary, "w", encoding="utf-8", newline="\n") as writer,
        ):
            yield writer.write


def write_json(path, value):
    """Writes a JSON file, keys in the order given, indented, ending in a newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def require_small(path):
    """Raises UserError when a description or vocabulary is larger than any that is meant: reading
    it could take all memory.
    """
    size = os.path.getsize(path) if os.path.exists(path) else 0
    if size > _DESCRIPTION_BYTES:
        raise UserError(
            f"{path}: has {size} bytes, at most {_DESCRIPTION_BYTES} are read; restore it from its "
            "source"
        )


def read_json(path):
    """Reads a JSON object.

    Raises:
      UserError: the file is absent, is not JSON, holds something else than an object, or is of no
      sensible size.
    """
    require_small(path)
    try:
        with open(path, encoding="utf-8") as reader:
            value = json.load(reader)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; check the path") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: not a readable JSON file ({error}); restore it from its source"
        ) from error
    if not isinstance(value, dict):
        raise UserError(
            f"{path}: holds a JSON {type(value).__name__}, expected an object; restore it"
        )
    return value
