"""kaggle://owner/model/framework/variation[/version], or the address of that page: public models of
Kaggle, or of $KAGGLE_API_ENDPOINT.

What kagglehub's cache ($KAGGLEHUB_CACHE) has is used where it lies. Its library is not used for
downloads: it unpacks archives without a look at the names in them.
"""

import os
import re
import shutil

from bert_tools.errors import UserError
from bert_tools.hub import cache, download
from bert_tools.hub.sources import web

_ENDPOINT = "https://www.kaggle.com"
_ADDRESS = re.compile(r"kaggle://(?P<model>([\w.-]+/){3}[\w.-]+)(/(?P<version>\d+))?")
# https://www.kaggle.com/models/google/bert/tensorFlow1/x/1, and its long form.
_PAGE = re.compile(
    r"https://(www\.)?kaggle\.com/models/([\w.-]+/[\w.-]+)/(?:frameworks/)?([\w.-]+)"
    r"/(?:variations/)?([\w.-]+)(?:/(?:versions/)?(\d+))?/?"
)
# The encoders of this model come without their vocabulary, which another variation has.
_ENCODER = re.compile(
    r"(?P<model>tensorflow/bert/tensorflow2/)(bert-)?"
    r"(?P<text>(en|zh|multi)(-wwm)?(-cased|-uncased)?)-l-\d+-h-\d+-a-\d+",
    re.IGNORECASE,
)
_PREPROCESSOR_VERSION = "3"
_NEEDED = "the unpacked archive"


def folder(address):
    """The folder of kaggle://owner/model/framework/variation[/version]; without a version the
    newest one that kagglehub's cache has, else the newest that there is.

    Raises:
      UserError: no such form of address, or see cache.folder_of.
    """
    match = _ADDRESS.fullmatch(address)
    if not match or ".." in address:
        raise UserError(
            f"{address}: expected kaggle://owner/model/framework/variation or "
            "kaggle://owner/model/framework/variation/version; correct the address"
        )
    model, version = match["model"], match["version"]
    found = cache.folder_of(
        address,
        lambda target: _fetch(model, version, target),
        lambda: _in_their_cache(model, version),
        _NEEDED,
    )
    return web.only_folder(found)


def address_of_page(url):
    """kaggle://... of a model's page, or None for another address."""
    match = _PAGE.fullmatch(url)
    return match and "kaggle://" + "/".join(part for part in match.groups()[1:] if part)


def preprocessor_of(model):
    """The model (owner/model/framework/variation) that has the vocabulary of a TF2 encoder, or
    None."""
    match = _ENCODER.fullmatch(model)
    return match and f"{match['model']}{match['text'].lower().replace('-wwm', '')}-preprocess"


def _fetch(model, version, target):
    _get(model, version, target)
    preprocessor = preprocessor_of(model)
    if preprocessor and not web.has_vocabulary(target):
        beside = os.path.join(target, "preprocess")
        os.makedirs(beside)
        _get(preprocessor, _PREPROCESSOR_VERSION, beside)


def _get(model, version, target):
    cached = _cached(model, version)
    if cached:
        shutil.copytree(cached, target, dirs_exist_ok=True)
        return
    endpoint = os.environ.get("KAGGLE_API_ENDPOINT") or _ENDPOINT
    url = f"{endpoint.rstrip('/')}/api/v1/models/{model}"
    if version is None:
        version = download.read_json(f"{url}/get").get("versionNumber")
        if not isinstance(version, int):
            raise cache.Unavailable(f"{url}/get states no versionNumber")
    web.fetch_archive(f"{url}/{version}/download", target)


def _in_their_cache(model, version):
    found = _cached(model, version)
    return found if found and (web.has_vocabulary(found) or not preprocessor_of(model)) else None


def _cached(model, version):
    default = os.path.join(os.path.expanduser("~"), ".cache", "kagglehub")
    root = os.path.join(os.environ.get("KAGGLEHUB_CACHE") or default, "models", model)
    if not os.path.isdir(root):
        return None
    # A file VERSION.complete says that all of the folder VERSION is there.
    versions = [
        int(name.removesuffix(".complete"))
        for name in os.listdir(root)
        if re.fullmatch(r"\d+\.complete", name)
        and os.path.isdir(os.path.join(root, name.removesuffix(".complete")))
    ]
    wanted = [found for found in versions if version is None or found == int(version)]
    return os.path.join(root, str(max(wanted))) if wanted else None
