"""hf://org/name[@revision]: repositories of the Hugging Face hub, or of $HF_ENDPOINT.

What Hugging Face's own cache ($HF_HOME) has whole is used where it lies.
"""

import hashlib
import os
import re
import shutil

from bert_tools import files
from bert_tools.errors import UserError
from bert_tools.hub import cache

_FIRST_ANSWER = 5  # Seconds to wait for a server: offline must be known quickly.
_CHUNK = 1 << 20
_ADDRESS = re.compile(
    r"hf://(?P<repository>[A-Za-z0-9][\w.-]*(/[\w.-]+)?)(@(?P<revision>[\w][\w./-]*))?"
)
_WEIGHTS = "model.safetensors"
_SHARD_INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_TOKENIZERS = (
    "vocab.txt",
    "tokenizer.json",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_DESCRIPTIONS = re.compile(
    r"(bert_)?config\.json|bert_tools\.json|vocab\.txt|vocab\.json|merges\.txt|tokenizer\.json"
    r"|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|spiece\.model"
    r"|sentencepiece\.bpe\.model|modules\.json|\w*sentence_\w+\.json|\d+_\w+/config\.json"
)
_GOOGLE = re.compile(r"checkpoint|[\w.-]*\.ckpt(-\d+)?\.(index|data-\d+-of-\d+)")
_NEEDED = "config.json, model.safetensors and the tokenizer's files"


def folder(address):
    """The folder of hf://org/name[@revision].

    Raises:
      UserError: no such form of address, or see cache.folder_of.
    """
    from huggingface_hub.utils import validate_repo_id

    match = _ADDRESS.fullmatch(address)
    if not match or ".." in address:
        raise UserError(
            f"{address}: expected hf://org/name or hf://org/name@revision; correct the address"
        )
    repository, revision = match["repository"], match["revision"]
    try:
        validate_repo_id(repository)
    except ValueError as error:
        raise UserError(f"{address}: no name of a repository ({error}); correct it") from error
    return cache.folder_of(
        address,
        lambda target: _fetch(repository, revision, target),
        lambda: _in_their_cache(repository, revision),
        _NEEDED,
    )


def _in_their_cache(repository, revision):
    """The snapshot that Hugging Face's cache holds, if the whole model is there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "config.json", revision=revision)
    if not isinstance(found, str):
        return None
    snapshot = os.path.dirname(found)
    there = os.listdir(snapshot)
    shards = [_WEIGHTS]
    if _WEIGHTS not in there:
        if _SHARD_INDEX not in there:
            return None
        shards = files.read_json(os.path.join(snapshot, _SHARD_INDEX)).get("weight_map")
        shards = map(str, shards.values()) if isinstance(shards, dict) else ["absent"]
    tokenizer = not set(_TOKENIZERS).isdisjoint(there)
    # A link whose file is gone does not exist.
    whole = all(os.path.exists(os.path.join(snapshot, name)) for name in shards)
    return snapshot if whole and tokenizer else None


def _fetch(repository, revision, target):
    import huggingface_hub

    endpoint = huggingface_hub.constants.ENDPOINT
    try:
        api = huggingface_hub.HfApi()
        info = api.model_info(
            repository, revision=revision, timeout=_FIRST_ANSWER, files_metadata=True
        )
        siblings = {sibling.rfilename: sibling for sibling in info.siblings}
        for name in _wanted(repository, list(siblings)):
            huggingface_hub.hf_hub_download(
                repository,
                name,
                revision=info.sha,
                local_dir=target,
                etag_timeout=_FIRST_ANSWER,
            )
            _check(siblings[name], os.path.join(target, name))
    except (cache.Unavailable, UserError):
        raise
    except Exception as error:  # Its HTTP library, and with it the errors, changes with releases.
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise cache.Unavailable(f"{endpoint}: {reason.rstrip('.')}") from error
    # Its notes on what it downloaded.
    shutil.rmtree(os.path.join(target, ".cache"), ignore_errors=True)


def _wanted(repository, names):
    """The files of a repository that make up the model, as far as this project reads them."""
    descriptions = [name for name in names if _DESCRIPTIONS.fullmatch(name)]
    if _WEIGHTS in names:
        return [*descriptions, _WEIGHTS]
    if _SHARD_INDEX in names:
        return [*descriptions, _SHARD_INDEX, *filter(_SHARD.fullmatch, names)]
    if checkpoint := [name for name in names if _GOOGLE.fullmatch(name)]:
        return [*descriptions, *checkpoint]
    pickles = [name for name in names if name.endswith((".bin", ".h5", ".msgpack"))]
    raise UserError(
        f"hf://{repository}: holds no {_WEIGHTS}, "
        + (
            f"only {', '.join(sorted(pickles)[:3])}; fetch it and convert it to safetensors where "
            "transformers is installed (from_pretrained, then save_pretrained), and give the folder"
            if pickles
            else "and no other weights that are read here; give another repository"
        )
    )


def _check(sibling, path):
    """Compares a file with the size and the sum that the hub states: SHA-256 of large files, Git's
    SHA-1 of the others.
    """
    size = os.path.getsize(path)
    if sibling.lfs:
        digest, stated = hashlib.sha256(), sibling.lfs.sha256
    else:
        digest, stated = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False), sibling.blob_id
    with open(path, "rb") as reader:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
    if sibling.size is not None and size != sibling.size:
        raise cache.Unavailable(
            f"{sibling.rfilename} has {size} bytes, the hub states {sibling.size}"
        )
    if stated and digest.hexdigest() != stated:
        raise cache.Unavailable(f"{sibling.rfilename} has another sum than the hub states")
