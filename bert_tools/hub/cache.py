"""The cache that models are kept in: $BERT_TOOLS_CACHE, else ~/.cache/bert_tools. One folder an
address, complete or absent.
"""

import contextlib
import hashlib
import logging
import os
import shutil
import urllib.parse

from bert_tools import files
from bert_tools.errors import UserError

log = logging.getLogger("bert_tools")
_MARKER = ".complete.json"
_LONGEST_NAME = 250  # With .lock or .part 255.


class Unavailable(Exception):
    """A source does not give the files; the message says why."""


def cache_folder():
    """The folder that models are kept in, as str; it need not exist."""
    default = os.path.join(os.path.expanduser("~"), ".cache", "bert_tools")
    return os.path.expanduser(os.environ.get("BERT_TOOLS_CACHE") or default)


def fetched_entry(folder):
    """The folder of the cache that a folder is or lies in; None where it is elsewhere, or was put
    there by hand.
    """
    root, path = os.path.abspath(cache_folder()), os.path.abspath(folder)
    if os.path.commonpath([root, path]) != root or path == root:
        return None
    entry = os.path.join(root, os.path.relpath(path, root).split(os.sep)[0])
    return entry if os.path.exists(os.path.join(entry, _MARKER)) else None


def folder_of(address, fetch, elsewhere, needed):
    """The folder of an address; fetches it when no cache has it.

    Two processes may do this at once: the second waits for the first. A folder without the marker
    that a fetch leaves was put there by hand, and is taken as it stands.

    Args:
      address: str, with "://".
      fetch: function(folder) that fills an empty folder or raises Unavailable.
      elsewhere: function() -> the folder of another tool's cache that holds all of it, or None.
      needed: str, the files to bring by hand, for the message.

    Raises:
      UserError: the source does not give the files, or the cache cannot be written.
    """
    folder = os.path.join(cache_folder(), _entry(address))
    try:
        if _is_whole(folder, address):
            return folder
        found = elsewhere()
        if found:
            return found
        os.makedirs(cache_folder(), exist_ok=True)
        with locked(f"{folder}.lock"):
            if not _is_whole(folder, address):  # Another process may have been faster.
                _fill(address, folder, fetch)
    except Unavailable as error:
        raise UserError(
            f"{address}: cannot be fetched ({error}); bring {needed} from there into {folder} by "
            "hand, or give --bert a folder that holds them"
        ) from error
    except OSError as error:
        raise UserError(
            f"{folder}: {address} cannot be kept there ({error.strerror or error}); "
            "set BERT_TOOLS_CACHE to a folder with room for the model"
        ) from error
    return folder


@contextlib.contextmanager
def locked(path):
    """Holds a lock file; waits while another process does."""
    import fcntl

    with open(path, "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Given back when the file closes or the process dies.
        yield


def _entry(address):
    """The name of an address's folder: hf://org/name@main -> hf--org--name%40main."""
    name = urllib.parse.quote(address.replace("://", "--").replace("/", "--"), safe="")
    if len(name) <= _LONGEST_NAME:
        return name
    # A signed address, longer than a name of a file may be.
    digest = hashlib.sha256(address.encode()).hexdigest()[:16]
    return f"{name[: _LONGEST_NAME - len(digest) - 1]}-{digest}"


def _is_whole(folder, address):
    """Whether all that was fetched from there is still there, or something was brought by hand."""
    if not os.path.exists(os.path.join(folder, _MARKER)):
        return os.path.isdir(folder) and bool(os.listdir(folder))
    try:
        marker = files.read_json(os.path.join(folder, _MARKER))
        sizes = marker["sizes"]
        # Two addresses may have one name: a/b and a--b.
        return marker["address"] == address and all(
            os.path.getsize(os.path.join(folder, n)) == size for n, size in sizes.items()
        )
    except (UserError, OSError, KeyError, AttributeError):
        return False


def _fill(address, folder, fetch):
    """The folder appears with all its files or not at all. The caller holds the lock."""
    aside = f"{folder}.part"
    shutil.rmtree(aside, ignore_errors=True)  # What a killed process left.
    os.makedirs(aside)
    try:
        log.info("fetching %s into %s", address, folder)
        fetch(aside)
        sizes = {}
        for parent, _, names in os.walk(aside):
            for name in names:
                path = os.path.join(parent, name)
                sizes[os.path.relpath(path, aside)] = os.path.getsize(path)
        files.write_json(os.path.join(aside, _MARKER), {"address": address, "sizes": sizes})
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
