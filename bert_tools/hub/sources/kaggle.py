"""kaggle://owner/model/framework/variation[/version]: public models of Kaggle, or of
$KAGGLE_API_ENDPOINT.

What kagglehub's cache ($KAGGLEHUB_CACHE) has is used where it lies. Its library is not used for
downloads: it unpacks archives without a look at the names in them.
"""

import os
import re

from bert_tools.errors import UserError
from bert_tools.hub import cache, download
from bert_tools.hub.sources import web

_ENDPOINT = "https://www.kaggle.com"
_ADDRESS = re.compile(r"kaggle://(?P<model>([\w.-]+/){3}[\w.-]+)(/(?P<version>\d+))?")
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


def _fetch(model, version, target):
    endpoint = os.environ.get("KAGGLE_API_ENDPOINT") or _ENDPOINT
    url = f"{endpoint.rstrip('/')}/api/v1/models/{model}"
    if version is None:
        version = download.read_json(f"{url}/get").get("versionNumber")
        if not isinstance(version, int):
            raise cache.Unavailable(f"{url}/get states no versionNumber")
    web.fetch_archive(f"{url}/{version}/download", target)


def _in_their_cache(model, version):
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
