"""gs://bucket/path: folders and archives (.zip, .tar.gz) of Google Cloud Storage, read through
tf.io.gfile.
"""

import os
import posixpath

from bert_tools.hub import cache, download
from bert_tools.hub.sources import web

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
# What a model's folder holds, in any layout; a training folder has much more in it.
_WANTED = (".json", ".txt", ".model", ".safetensors", ".index", ".pb")
_FOLDERS = ("assets", "variables")
_NEEDED = "the model's files"


def folder(address):
    """The folder of a gs:// address.

    Raises:
      UserError: see cache.folder_of.
    """
    address = address.rstrip("/")
    found = cache.folder_of(address, lambda target: _fetch(address, target), lambda: None, _NEEDED)
    return web.only_folder(found)


def _fetch(address, target):
    import tensorflow as tf

    try:
        if address.endswith(_ARCHIVES):
            archive = os.path.join(target, ".archive")
            _copy(address, archive)
            download.unpack(archive, target, address)
            os.unlink(archive)
            return
        # The last part of the address may say how the model was cased.
        target = os.path.join(target, posixpath.basename(address))
        if not tf.io.gfile.isdir(address):
            raise cache.Unavailable("no such folder")
        _copy_folder(address, target)
    except tf.errors.OpError as error:
        raise cache.Unavailable(error.message.partition("\n")[0]) from error


def _copy_folder(address, target):
    import tensorflow as tf

    os.makedirs(target)
    for name in tf.io.gfile.listdir(address):
        name = name.rstrip("/")
        path = posixpath.join(address, name)
        wanted = name.endswith(_WANTED) or name == "checkpoint" or ".data-" in name
        if tf.io.gfile.isdir(path):
            if name in _FOLDERS or name.endswith("_Pooling"):
                _copy_folder(path, os.path.join(target, name))
        elif wanted or posixpath.basename(address) in _FOLDERS:
            _copy(path, os.path.join(target, name))


def _copy(path, target):
    import tensorflow as tf

    tf.io.gfile.copy(path, target)
    size, stated = os.path.getsize(target), tf.io.gfile.stat(path).length
    if size != stated:
        raise cache.Unavailable(f"{path} broke off after {size} of {stated} bytes")
