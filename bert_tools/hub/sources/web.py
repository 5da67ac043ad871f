"""https://...: TF Hub's modules (https://tfhub.dev/google/bert_uncased_L-12_H-768_A-12/1) and
archives (.zip, .tar.gz).

What TensorFlow Hub's cache ($TFHUB_CACHE_DIR) has is used where it lies.
"""

import hashlib
import os
import re
import shutil
import urllib.parse

from bert_tools.errors import UserError
from bert_tools.hub import cache, download

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
# The encoders of this publisher come without their vocabulary, which a second module has.
_ENCODER = re.compile(
    r"(?P<publisher>https?://.*/tensorflow/)(small_bert/)?"
    r"((?P<text>bert_(en|zh|multi)(_wwm)?(_cased|_uncased)?)_L-\d+_H-\d+_A-\d+"
    r"|(?P<albert>albert_en)_(base|large|xlarge|xxlarge))/\d+"
)
_PREPROCESSOR_VERSION = 3
_NEEDED = "the unpacked archive"


def folder(address):
    """The folder of a module or archive.

    Raises:
      UserError: it is no address, or see cache.folder_of.
    """
    try:
        urllib.parse.urlsplit(address)
    except ValueError as error:
        raise UserError(f"{address}: is no address ({error}); correct it") from error
    found = cache.folder_of(
        address,
        lambda target: _fetch(address, target),
        lambda: _in_their_cache(address),
        _NEEDED,
    )
    return only_folder(found)


def only_folder(folder):
    """A folder, or the one that is all there is in it: Google's archives have one at the top."""
    inner = [name for name in os.listdir(folder) if not name.startswith(".")]
    path = os.path.join(folder, inner[0]) if len(inner) == 1 else folder
    return path if os.path.isdir(path) else folder


def fetch_archive(url, target):
    """Downloads an archive and unpacks it into an empty folder.

    Raises:
      Unavailable, UserError: see download.fetch and download.unpack.
    """
    archive = os.path.join(target, ".archive")
    download.fetch(url, archive)
    download.unpack(archive, target, url)
    os.unlink(archive)


def preprocessor_of(address):
    """The address of the module that has the vocabulary of a TF2 encoder, or None."""
    match = _ENCODER.fullmatch(address)
    if not match:
        return None
    text = match["albert"] or match["text"].replace("_wwm", "")
    return f"{match['publisher']}{text}_preprocess/{_PREPROCESSOR_VERSION}"


def has_vocabulary(folder):
    """Whether a SavedModel has its vocabulary; the others' is in their preprocessor."""
    assets = os.path.join(folder, "assets")
    names = os.listdir(assets) if os.path.isdir(assets) else []
    return "vocab.txt" in names or any(name.endswith(".model") for name in names)


def _fetch(address, target):
    _get(address, target)
    preprocessor = preprocessor_of(address)
    if preprocessor and not has_vocabulary(target):
        beside = os.path.join(target, "preprocess")
        os.makedirs(beside)
        _get(preprocessor, beside)


def _get(address, target):
    cached = _cached(address)
    if cached:
        shutil.copytree(cached, target, dirs_exist_ok=True)
    else:
        fetch_archive(_download_url(address), target)


def _download_url(address):
    if urllib.parse.urlsplit(address).path.endswith(_ARCHIVES):
        return address
    return f"{address}?tf-hub-format=compressed"


def _in_their_cache(address):
    found = _cached(address)
    return found if found and (has_vocabulary(found) or not preprocessor_of(address)) else None


def _cached(address):
    cache_dir = os.environ.get("TFHUB_CACHE_DIR")
    if not cache_dir:
        return None
    found = os.path.join(cache_dir, hashlib.sha1(address.encode()).hexdigest())
    # Cleaners of /tmp leave half of a module.
    whole = ("saved_model.pb", "variables/variables.index")
    return found if all(os.path.exists(os.path.join(found, name)) for name in whole) else None
