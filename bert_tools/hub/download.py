"""Files from a web server, checked against what it states of them; archives, unpacked with
suspicion.
"""

import base64
import bz2
import contextlib
import gzip
import hashlib
import http.client
import json
import lzma
import os
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib

from bert_tools.errors import UserError
from bert_tools.hub.cache import Unavailable

STALL = 10  # Seconds without a byte after which a server is given up.
_CHUNK = 1 << 20
_JSON_BYTES = 1 << 20  # An answer of an API.
# Weights hardly shrink: what grows more than this was made to fill the disk.
_GROWTH, _ALLOWANCE = 20, 64 << 20
_MEMBERS = 10_000  # Of an archive.
# Pickles, programs, and other frameworks' weights: nothing here reads them.
_LEFT_OUT = (".bin", ".pt", ".pth", ".pkl", ".py", ".pyc", ".so", ".h5", ".msgpack", ".onnx")
# zipfile raises a RuntimeError for what is encrypted, and a kind of it for unknown compressions.
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    RuntimeError,
    EOFError,
    UnicodeDecodeError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
)


def fetch(url, path):
    """Downloads a file.

    Its length is checked against Content-Length, its sum against the MD5 that Google's storage
    states (x-goog-hash) or Content-MD5.

    Args:
      url: str, http:// or https://; redirections are followed.
      path: str, where to write it; must not exist.

    Raises:
      Unavailable: no connection, an error status, a stall, or the file is not what was stated.
    """
    from tqdm import tqdm

    digest = hashlib.md5(usedforsecurity=False)
    with _open(url) as answer:
        length = answer.headers.get("Content-Length")
        bar = tqdm(
            total=int(length) if length else None,
            unit="B",
            unit_scale=True,
            desc=url,
            disable=not sys.stderr.isatty(),
            leave=False,
        )
        size = 0
        with bar, open(path, "xb") as writer:
            while chunk := answer.read(_CHUNK):
                writer.write(chunk)
                digest.update(chunk)
                size += len(chunk)
                bar.update(len(chunk))
        if length and size != int(length):
            raise Unavailable(f"{url} broke off after {size} of {length} bytes")
        stated = _stated_md5(answer.headers)
        if stated and stated != digest.digest():
            raise Unavailable(f"{url} gave a file with another MD5 sum than its server states")


def read_json(url):
    """What an API answers, a JSON object.

    Raises:
      Unavailable: see fetch; or it is none.
    """
    with _open(url) as answer:
        text = answer.read(_JSON_BYTES)
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Unavailable(f"{url} answers no JSON") from error
    if not isinstance(value, dict):
        raise Unavailable(f"{url} answers no JSON object")
    return value


@contextlib.contextmanager
def _open(url):
    """The open answer; what goes wrong with it, then or while it is read, is Unavailable."""
    request = urllib.request.Request(url, headers={"User-Agent": "bert_tools"})
    try:
        with urllib.request.urlopen(request, timeout=STALL) as answer:
            yield answer
    except urllib.error.HTTPError as error:
        raise Unavailable(f"{url} answers {error.code} {error.reason}") from error
    except TimeoutError as error:
        raise Unavailable(f"{url} sends nothing for {STALL} seconds") from error
    except urllib.error.URLError as error:
        raise Unavailable(f"no connection to {url}: {error.reason}") from error
    except (http.client.HTTPException, ConnectionError, ValueError) as error:
        raise Unavailable(f"{url}: {error or type(error).__name__}") from error


def _stated_md5(headers):
    """The digest in bytes, or None."""
    stated = [headers.get("Content-MD5") or ""]
    for line in headers.get_all("x-goog-hash") or ():
        stated += [part.strip()[4:] for part in line.split(",") if part.strip()[:4] == "md5="]
    found = [text for text in stated if text]
    return base64.b64decode(found[-1]) if found else None


def unpack(path, folder, source):
    """Unpacks a tar archive, compressed or not, or a zip.

    Only plain files are written, without pickles and programs.

    Args:
      path: str, the archive.
      folder: str, must exist.
      source: str, where the archive came from, for messages.

    Raises:
      Unavailable: it is damaged.
      UserError: a name leads out of the folder, something is no plain file, or the content is out
        of all proportion to the archive.
    """
    allowance = _GROWTH * os.path.getsize(path) + _ALLOWANCE
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for count, member in enumerate(archive.infolist()):
                    _require_few(count, source)
                    # The upper half holds the Unix mode: 0o12 is a link.
                    odd = member.external_attr >> 28 == 0o12
                    if target := _target(member.filename, folder, source, member.is_dir(), odd):
                        with archive.open(member) as reader:
                            allowance = _write(reader, target, allowance, source)
        else:
            with _tar(path) as archive:
                for count, member in enumerate(archive):
                    _require_few(count, source)
                    odd = not (member.isreg() or member.isdir())
                    if target := _target(member.name, folder, source, member.isdir(), odd):
                        allowance = _write(archive.extractfile(member), target, allowance, source)
                # tarfile takes a file that is cut between two members, or goes on with something
                # else, for a whole one: at the end there must be a block of zeros.
                archive.fileobj.seek(archive.offset)
                if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("cut short")
                # Behind the padding stands the sum that a gzip file is checked against.
                while chunk := archive.fileobj.read(_CHUNK):
                    allowance = _less(allowance, len(chunk), source)
    except _DAMAGED as error:
        reason = str(error).partition("\n")[0] or "cut short"
        raise Unavailable(f"{source} is no readable archive: {reason}") from error


def _target(name, folder, source, is_folder, odd):
    """The path to write a member to; None for what is left out."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts or name.startswith(("/", "\\")) or "\0" in name:
        raise UserError(
            f"{source}: the archive holds {name!r}, which leads out of its folder; do not use it"
        )
    if odd:
        raise UserError(
            f"{source}: the archive holds {name!r}, a link or device; do not use it, or bring the "
            "model's plain files by hand"
        )
    hidden = any(part.startswith(".") for part in parts)  # ._vocab.txt, which a Mac adds.
    if is_folder or hidden or not parts or name.lower().endswith(_LEFT_OUT):
        return None
    return os.path.join(folder, *parts)


def _write(reader, target, allowance, source):
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "wb") as writer:
        while chunk := reader.read(_CHUNK):
            allowance = _less(allowance, len(chunk), source)
            writer.write(chunk)
    return allowance


def _less(allowance, size, source):
    if size > allowance:
        raise UserError(
            f"{source}: the archive holds more than {_GROWTH} times its own size; do not use it"
        )
    return allowance - size


def _require_few(count, source):
    if count >= _MEMBERS:
        raise UserError(f"{source}: the archive holds over {_MEMBERS} files; do not use it")


@contextlib.contextmanager
def _tar(path):
    """The open TarFile of an archive, compressed or not."""
    with open(path, "rb") as reader:
        begin = reader.read(6)
    openers = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
    openers[b"\x5d\0\0"] = lzma.open  # Its older form.
    opener = next((opener for magic, opener in openers.items() if begin.startswith(magic)), open)
    with opener(path, "rb") as reader, tarfile.open(fileobj=_Bounded(reader), mode="r:") as archive:
        yield archive


class _Bounded:
    """A file whose reads are bounded: a member's extended header is read in one, however long it
    says that it is.
    """

    def __init__(self, reader):
        self.seek, self.tell, self._reader = reader.seek, reader.tell, reader

    def read(self, size=-1):
        if not 0 <= size <= 4 * _CHUNK:
            raise tarfile.ReadError(f"a header of {size} bytes")
        try:
            return self._reader.read(size)
        except OSError as error:
            if error.errno is not None:  # The disk's, and not bz2's of its data.
                raise
            raise tarfile.ReadError(str(error)) from error
