"""Handles: what each stands for, one cache, and servers on localhost that misbehave."""

import base64
import functools
import gzip
import hashlib
import io
import json
import multiprocessing
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile

import hub_server
import hub_toys as toys
import pytest
import saved_model_toys
import test_families

from bert_tools import hub
from bert_tools.errors import UserError
from bert_tools.hub import cache, download, handles
from bert_tools.hub.sources import huggingface, kaggle, storage, web

REPOSITORY = "org/toy"
FILES = ("config.json", "vocab.txt", "model.safetensors")
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server, and no cache but an empty one."""
    from huggingface_hub import constants

    monkeypatch.setenv("BERT_TOOLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kagglehub"))
    monkeypatch.delenv("TFHUB_CACHE_DIR", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr(download, "STALL", 0.5)
    with hub_server.running() as server:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setenv("KAGGLE_API_ENDPOINT", server.url)
        yield server


@pytest.fixture
def files(tmp_path):
    """{name: bytes} of a model in Hugging Face's layout."""
    folder = pathlib.Path(toys.write_huggingface(tmp_path / "origin"))
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture
def google(tmp_path, toy_model):
    """A folder in Google's layout, named as Google's."""
    folder = tmp_path / "google" / "cased_L-2_H-8_A-2"
    hub.google.write(str(folder), toy_model)
    return folder


def kept(tmp_path):
    """What the cache holds, without locks."""
    names = os.listdir(tmp_path / "cache")
    return sorted(name for name in names if not name.endswith(".lock"))


# What a handle stands for.


def test_the_table_of_short_names():
    for name in (
        "bert-base-uncased",
        "bert-base-cased",
        "bert-base-chinese",
        "bert-base-multilingual-cased",
        "bert-large-uncased-whole-word-masking-finetuned-squad",
        "roberta-base",
        "roberta_base_en",
        "albert-base-v2",
    ):
        assert huggingface._ADDRESS.fullmatch(handles.SHORT_NAMES[name])
    assert handles.SHORT_NAMES["bert-base-uncased"] == "hf://google-bert/bert-base-uncased"
    assert handles.SHORT_NAMES["roberta_base_en"] == handles.SHORT_NAMES["roberta-base"]


def test_a_short_name(server, files, monkeypatch):
    monkeypatch.setitem(handles.SHORT_NAMES, "toy-base", f"hf://{REPOSITORY}")
    server.add_repository(REPOSITORY, files)
    assert hub.load("toy-base").source == hub.load(f"hf://{REPOSITORY}").source


@pytest.mark.parametrize(
    "handle, match",
    [
        ("s3://bucket/model", "no such kind of address; known: hf://"),
        ("hf://", "expected hf://org/name"),
        ("hf://../../etc", "expected hf://org/name"),
        ("hf://a/b/c", "expected hf://org/name"),
        ("kaggle://google/bert", "expected kaggle://owner/model"),
        ("kaggle://../a/b/c", "expected kaggle://owner/model"),
        ("http://[bad/x.zip", r"x\.zip: is no address \(Invalid IPv6 URL\); correct it"),
        ("no-such-model", "no such model folder; give a folder, an address"),
    ],
)
def test_handles_that_stand_for_nothing(handle, match):
    with pytest.raises(UserError, match=match):
        hub.load(handle)


@pytest.mark.parametrize(
    "encoder, preprocessor",
    [
        ("tensorflow/bert_en_uncased_L-12_H-768_A-12/4", "bert_en_uncased_preprocess/3"),
        ("tensorflow/bert_en_wwm_cased_L-24_H-1024_A-16/4", "bert_en_cased_preprocess/3"),
        ("tensorflow/small_bert/bert_en_uncased_L-2_H-128_A-2/2", "bert_en_uncased_preprocess/3"),
        ("tensorflow/bert_zh_L-12_H-768_A-12/4", "bert_zh_preprocess/3"),
        ("tensorflow/bert_multi_cased_L-12_H-768_A-12/4", "bert_multi_cased_preprocess/3"),
        ("tensorflow/albert_en_base/3", "albert_en_preprocess/3"),
        ("google/albert_base/3", None),
        ("google/bert_uncased_L-12_H-768_A-12/1", None),
    ],
)
def test_preprocessors_of_the_public_encoders(encoder, preprocessor):
    found = web.preprocessor_of(f"https://tfhub.dev/{encoder}")
    assert found == (preprocessor and f"https://tfhub.dev/tensorflow/{preprocessor}")


@pytest.mark.parametrize(
    "variation, preprocessor",
    [
        ("en-uncased-l-12-h-768-a-12", "en-uncased-preprocess"),
        ("bert-en-wwm-cased-l-24-h-1024-a-16", "en-cased-preprocess"),
        ("multi-cased-l-12-h-768-a-12", "multi-cased-preprocess"),
        ("en-uncased-preprocess", None),
    ],
)
def test_preprocessors_of_kaggles_encoders(variation, preprocessor):
    found = kaggle.preprocessor_of(f"tensorflow/bert/tensorFlow2/{variation}")
    assert found == (preprocessor and f"tensorflow/bert/tensorFlow2/{preprocessor}")


@pytest.mark.parametrize(
    "url",
    [
        "https://www.kaggle.com/models/tensorflow/bert/TensorFlow2/x-l-12/4",
        "https://kaggle.com/models/tensorflow/bert/frameworks/TensorFlow2/variations/x-l-12/versions/4",
    ],
)
def test_kaggles_pages(url):
    assert kaggle.address_of_page(url) == "kaggle://tensorflow/bert/TensorFlow2/x-l-12/4"
    assert kaggle.address_of_page("https://tfhub.dev/google/bert/1") is None


# Hugging Face.


def test_a_repository_is_fetched_once_and_used_offline(server, files, tmp_path):
    server.add_repository(
        REPOSITORY,
        {**files, "pytorch_model.bin": b"pickle", "modeling.py": b"code", "README.md": b"#"},
    )
    first = hub.load(f"hf://{REPOSITORY}")
    toys.assert_same(first, hub.load(str(tmp_path / "origin")))
    assert sorted(os.listdir(first.source)) == sorted([*FILES, ".complete.json"])
    assert not [path for path in server.asked if path.endswith((".bin", ".py", ".md"))]
    asked = len(server.asked)
    server.close()
    toys.assert_same(first, hub.load(f"hf://{REPOSITORY}"))
    assert len(server.asked) == asked
    assert kept(tmp_path) == ["hf--org--toy"]


def test_a_revision(server, files, tmp_path):
    server.add_repository(REPOSITORY, files, revision="v2")
    assert hub.load(f"hf://{REPOSITORY}@v2").source.endswith("hf--org--toy%40v2")
    with pytest.raises(UserError, match="cannot be fetched"):
        hub.load(f"hf://{REPOSITORY}@v3")
    assert kept(tmp_path) == ["hf--org--toy%40v2"]


@pytest.mark.parametrize("trouble", ["stall", "truncate", "error"])
def test_a_repository_that_does_not_come(server, files, tmp_path, trouble, monkeypatch):
    from huggingface_hub import file_download

    monkeypatch.setattr(file_download.time, "sleep", lambda _: None)
    commit = server.add_repository(REPOSITORY, files)
    server.trouble[f"/{REPOSITORY}/resolve/{commit}/model.safetensors"] = trouble
    with pytest.raises(UserError) as raised:
        hub.load(f"hf://{REPOSITORY}")
    assert re.fullmatch(
        rf"hf://org/toy: cannot be fetched \({server.url}: [^\n]+\); bring config\.json, "
        rf"model\.safetensors and the tokenizer's files from there into {tmp_path}/cache/"
        r"hf--org--toy by hand, or give --bert a folder that holds them",
        str(raised.value),
    )
    assert kept(tmp_path) == []
    server.trouble.clear()
    hub.load(f"hf://{REPOSITORY}")
    assert kept(tmp_path) == ["hf--org--toy"]


def test_a_missing_repository(server, tmp_path):
    with pytest.raises(UserError, match=r"hf://org/none: cannot be fetched \(.*404"):
        hub.load("hf://org/none")
    assert kept(tmp_path) == []


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_with_another_sum_is_not_kept(server, files, tmp_path, name):
    commit = server.add_repository(REPOSITORY, files)
    path = f"/{REPOSITORY}/resolve/{commit}/{name}"
    content, headers = server.pages[path]
    server.pages[path] = content[:-1] + bytes([content[-1] ^ 1]), headers
    with pytest.raises(UserError, match=f"{name} has another sum than the hub states"):
        hub.load(f"hf://{REPOSITORY}")
    assert kept(tmp_path) == []


def test_a_repository_of_pickles(server, files, tmp_path):
    del files["model.safetensors"]
    server.add_repository(REPOSITORY, {**files, "pytorch_model.bin": b"pickle"})
    with pytest.raises(UserError, match=r"holds no model.safetensors, only pytorch_model.bin;"):
        hub.load(f"hf://{REPOSITORY}")
    assert [path for path in server.asked if "/resolve/" in path] == []


def test_shards(server, files, tmp_path):
    weights = files.pop("model.safetensors")
    index = {"weight_map": {"x": "model-00001-of-00001.safetensors"}}
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    server.add_repository(REPOSITORY, {**files, "model-00001-of-00001.safetensors": weights})
    toys.assert_same(hub.load(f"hf://{REPOSITORY}"), hub.load(str(tmp_path / "origin")))


@pytest.mark.parametrize("family", test_families.FAMILIES)
def test_every_family_through_an_address(server, tmp_path, family):
    folder = pathlib.Path(test_families.write(tmp_path / "model", family))
    server.add_repository(REPOSITORY, {path.name: path.read_bytes() for path in folder.iterdir()})
    toys.assert_same(hub.load(f"hf://{REPOSITORY}"), hub.load(str(folder)))


def test_offline_with_a_cold_cache(server, tmp_path):
    server.close()
    with pytest.raises(UserError, match=r"cannot be fetched .* by hand, or give --bert a folder"):
        hub.load(f"hf://{REPOSITORY}")
    with pytest.raises(UserError, match=r"no connection to http.*bring the unpacked archive"):
        hub.load(f"{server.url}/google/bert/1")


def snapshot(files, root):
    """A snapshot as Hugging Face's cache holds it: links to blobs."""
    base = root / "models--org--toy"
    folder = base / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (base / "blobs").mkdir()
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text("abc")
    for name, content in files.items():
        blob = base / "blobs" / hashlib.sha1(content).hexdigest()
        blob.write_bytes(content)
        os.symlink(os.path.relpath(blob, folder), folder / name)
    return folder


def test_what_huggingface_has_cached_is_used_in_place(server, files, tmp_path):
    folder = snapshot(files, tmp_path / "huggingface")
    server.close()
    assert hub.load(f"hf://{REPOSITORY}").source == str(folder)
    os.unlink(os.path.realpath(folder / "model.safetensors"))
    with pytest.raises(UserError, match="cannot be fetched"):
        hub.load(f"hf://{REPOSITORY}")


def test_what_huggingface_has_in_part_is_not_used(server, files, tmp_path):
    weights = files.pop("model.safetensors")
    index = {"weight_map": {"x": "model-00001-of-00002.safetensors", "y": "gone.safetensors"}}
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    files["model-00001-of-00002.safetensors"] = weights
    folder = snapshot(files, tmp_path / "huggingface")
    assert huggingface._in_their_cache(REPOSITORY, None) is None
    for text in ("{}", '{"weight_map": []}'):
        (folder / "model.safetensors.index.json").write_text(text)
        assert huggingface._in_their_cache(REPOSITORY, None) is None


# TF Hub and other archives.


@pytest.fixture
def module(server, tmp_path):
    """The address of a TF1-format module on the server."""
    folder = saved_model_toys.tf1_module(tmp_path / "module")
    content = hub_server.archive(folder)
    digest = base64.b64encode(hashlib.md5(content).digest()).decode()
    headers = {"x-goog-hash": f"crc32c=AAAAAA==,md5={digest}"}
    server.pages["/google/bert/1?tf-hub-format=compressed"] = content, headers
    return f"{server.url}/google/bert/1"


def test_a_module_is_fetched_once(server, module, tmp_path):
    first = hub.load(module)
    toys.assert_same(first, hub.load(str(tmp_path / "module")))
    assert server.asked == ["/google/bert/1?tf-hub-format=compressed"]
    server.close()
    toys.assert_same(first, hub.load(module))


@pytest.mark.parametrize(
    "trouble, match",
    [
        ("stall", "sends nothing for 0.5 seconds"),
        ("truncate", r"broke off after \d+ of \d+ bytes"),
        ("error", "answers 500"),
        ("missing", "answers 404"),
        ("sum", "another MD5 sum than its server states"),
    ],
)
def test_a_module_that_does_not_come(server, module, tmp_path, trouble, match):
    path = "/google/bert/1?tf-hub-format=compressed"
    content, headers = server.pages[path]
    if trouble == "missing":
        del server.pages[path]
    elif trouble == "sum":
        server.pages[path] = content[:-1] + b"x", headers
    else:
        server.trouble[path] = trouble
    with pytest.raises(UserError, match=match):
        hub.load(module)
    assert kept(tmp_path) == []


def test_what_tf_hub_has_cached_is_used_in_place(server, tmp_path, monkeypatch):
    address = f"{server.url}/google/bert/1"
    folder = tmp_path / "tfhub" / hashlib.sha1(address.encode()).hexdigest()
    saved_model_toys.tf1_module(folder)
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "tfhub"))
    server.close()
    assert hub.load(address).source == str(folder)
    # Half deleted, as cleaners of /tmp do.
    os.unlink(folder / "variables" / "variables.index")
    with pytest.raises(UserError, match="no connection"):
        hub.load(address)


def test_what_is_lost_from_the_cache_is_fetched_again(server, module):
    os.truncate(os.path.join(hub.load(module).source, "saved_model.pb"), 10)
    hub.load(module)
    assert len(server.asked) == 2


def test_files_brought_by_hand(server, module, tmp_path):
    server.close()
    shutil.copytree(tmp_path / "module", tmp_path / "cache" / cache._entry(module))
    assert hub.load(module).config.hidden_size == 8


def test_a_zip_of_googles_keeps_its_folder(server, google):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in google.iterdir():
            archive.write(path, f"{google.name}/{path.name}")
    server.pages["/2018/cased_L-2_H-8_A-2.zip"] = content.getvalue()
    model = hub.load(f"{server.url}/2018/cased_L-2_H-8_A-2.zip")
    assert os.path.basename(os.path.dirname(model.source)) == google.name
    toys.assert_same(model, hub.load(str(google)))


def test_a_cache_in_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("BERT_TOOLS_CACHE", "~/models")
    assert cache.cache_folder() == "/home/me/models"


def test_an_archive_without_a_model(server, tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("top/notes.txt", "x")
    server.pages["/x.zip"] = content.getvalue()
    url = f"{server.url}/x.zip"
    with pytest.raises(UserError, match="no model found") as raised:
        hub.load(url)
    (name,) = kept(tmp_path)
    assert str(raised.value).endswith(f"; to fetch {url} anew, delete {tmp_path}/cache/{name}")


def member(name, kind=tarfile.REGTYPE, content=b"x"):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(content), "/etc/passwd"
    return info, io.BytesIO(content)


@pytest.mark.parametrize(
    "name, kind, match",
    [
        ("../evil", tarfile.REGTYPE, "leads out of its folder"),
        ("a/../../evil", tarfile.REGTYPE, "leads out of its folder"),
        ("/tmp/evil", tarfile.REGTYPE, "leads out of its folder"),
        ("..\\evil", tarfile.REGTYPE, "leads out of its folder"),
        ("link", tarfile.SYMTYPE, "a link or device"),
        ("link", tarfile.LNKTYPE, "a link or device"),
        ("pipe", tarfile.FIFOTYPE, "a link or device"),
    ],
)
def test_hostile_tars(server, module, tmp_path, name, kind, match):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.addfile(*member("saved_model.pb"))
        archive.addfile(*member(name, kind, b"" if kind != tarfile.REGTYPE else b"x"))
    server.pages["/google/bert/1?tf-hub-format=compressed"] = content.getvalue()
    with pytest.raises(UserError, match=match):
        hub.load(module)
    assert kept(tmp_path) == [] and not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("hostile", ["../evil", "link", "bomb"])
def test_hostile_zips(tmp_path, hostile):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo(hostile)
        if hostile == "link":
            info.external_attr = 0o120777 << 16
        content = bytes(80 << 20) if hostile == "bomb" else b"/etc/passwd"
        archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    (tmp_path / "out").mkdir()
    match = {"link": "a link or device", "bomb": "more than 20 times"}.get(hostile, "leads out")
    with pytest.raises(UserError, match=match):
        download.unpack(str(tmp_path / "x.zip"), str(tmp_path / "out"), "x")


def test_archives_are_unpacked_without_pickles_and_programs(tmp_path):
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        hidden = (".complete.json", ".archive", "a/._vocab.txt", ".git/config.json")
        for name in ("a/vocab.txt", "a/pytorch_model.bin", "a/x.pkl", "hubconf.py", *hidden):
            archive.addfile(*member(name))
    (tmp_path / "out").mkdir()
    download.unpack(str(tmp_path / "x.tar.gz"), str(tmp_path / "out"), "x")
    assert [str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")] == [
        "a/vocab.txt"
    ]
    (tmp_path / "half.tar.gz").write_bytes((tmp_path / "x.tar.gz").read_bytes()[:100])
    with pytest.raises(cache.Unavailable, match="no readable archive"):
        download.unpack(str(tmp_path / "half.tar.gz"), str(tmp_path / "out"), "x")


@pytest.mark.parametrize(
    "place, value, match", [(6, 1, "is encrypted"), (8, 93, "compression method")]
)
def test_zips_that_zipfile_does_not_read(tmp_path, place, value, match):
    """The flag of an encrypted member, and a compression (Zstandard) that Python 3.11 lacks."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("vocab.txt", "x")
    data = bytearray(content.getvalue())
    for header, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        data[data.index(header) + place + shift] = value
    (tmp_path / "x.zip").write_bytes(data)
    (tmp_path / "out").mkdir()
    with pytest.raises(cache.Unavailable, match=f"x is no readable archive: .*{match}"):
        download.unpack(str(tmp_path / "x.zip"), str(tmp_path / "out"), "x")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("end", [b"", bytes(100), b"x" * 1024])
def test_a_tar_without_its_end(tmp_path, mode, end):
    """Two members of a block and a header each, whole; then what is not the end of an archive."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(*member("config.json"))
        archive.addfile(*member("vocab.txt"))
    data = content.getvalue()[:2048] + end
    (tmp_path / "x.tar").write_bytes(data if mode == "w" else gzip.compress(data))
    (tmp_path / "out").mkdir()
    with pytest.raises(cache.Unavailable, match="x is no readable archive: cut short"):
        download.unpack(str(tmp_path / "x.tar"), str(tmp_path / "out"), "x")


@pytest.mark.parametrize("damage", ["content", "sum", "end"])
def test_a_tar_is_checked_against_the_sum_of_gzip(tmp_path, damage):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(*member("vocab.txt", content=os.urandom(3 << 20)))
    # Not compressed, so that a changed byte changes the content alone.
    data = bytearray(gzip.compress(content.getvalue(), 0))
    if damage == "end":
        del data[-4:]
    else:
        data[1 << 20 if damage == "content" else -8] ^= 1
    (tmp_path / "x.tgz").write_bytes(data)
    (tmp_path / "out").mkdir()
    with pytest.raises(cache.Unavailable, match=r"x is no readable archive: (CRC|Comp|cut)"):
        download.unpack(str(tmp_path / "x.tgz"), str(tmp_path / "out"), "x")


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_tar_of_any_compression(tmp_path, mode):
    with tarfile.open(tmp_path / "x", mode) as archive:
        archive.addfile(*member("a/vocab.txt", content=b"[PAD]\n"))
    (tmp_path / "out").mkdir()
    download.unpack(str(tmp_path / "x"), str(tmp_path / "out"), "x")
    assert (tmp_path / "out" / "a" / "vocab.txt").read_bytes() == b"[PAD]\n"


def test_a_tar_with_a_header_of_no_sensible_size(tmp_path):
    """It would be read into memory as a whole."""
    info, _ = member("vocab.txt")
    info.pax_headers = {"comment": "x" * (50 << 20)}
    with tarfile.open(tmp_path / "x.tgz", "w:gz", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(b"x"))
    (tmp_path / "out").mkdir()
    with pytest.raises(cache.Unavailable, match="a header of 524"):
        download.unpack(str(tmp_path / "x.tgz"), str(tmp_path / "out"), "x")


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_of_too_many_files(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(download, "_MEMBERS", 3)
    if kind == "tar":
        with tarfile.open(tmp_path / "x", "w") as archive:
            for number in range(4):
                archive.addfile(*member(f"{number}.txt"))
    else:
        with zipfile.ZipFile(tmp_path / "x", "w") as archive:
            for number in range(4):
                archive.writestr(f"{number}.txt", "x")
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="holds over 3 files"):
        download.unpack(str(tmp_path / "x"), str(tmp_path / "out"), "x")


def test_addresses_of_one_name(tmp_path, monkeypatch):
    """a/b.zip and a--b.zip; and one that is longer than the name of a file may be."""
    monkeypatch.setenv("BERT_TOOLS_CACHE", str(tmp_path))
    fetched = []

    def folder_of(address):
        def fetch(folder):
            fetched.append(address)
            (pathlib.Path(folder) / "vocab.txt").write_text(address)

        found = cache.folder_of(address, fetch, lambda: None, "files")
        return (pathlib.Path(found) / "vocab.txt").read_text()

    addresses = ["https://h/a/b.zip", "https://h/a--b.zip", "https://h/a.zip?key=" + "x" * 400]
    for address in addresses * 2:
        assert folder_of(address) == address
    assert fetched.count(addresses[2]) == 1
    assert folder_of(addresses[2][:-1]) == addresses[2][:-1]


@pytest.mark.parametrize("name", ["org/bert.git", "org/a--b", "org/name-", "x" * 97])
def test_names_that_the_hub_does_not_know(server, name):
    with pytest.raises(UserError, match=f"hf://{name}: no name of a repository"):
        handles.resolve(f"hf://{name}")


def test_progress_is_for_terminals(server, tmp_path, monkeypatch, capsys):
    server.pages["/x"] = bytes(3 << 20)
    download.fetch(f"{server.url}/x", str(tmp_path / "silent"))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    download.fetch(f"{server.url}/x", str(tmp_path / "shown"))
    assert f"\r{server.url}/x:   0%|" in capsys.readouterr().err


# Kaggle.


def test_kaggle(server, module, tmp_path):
    base = "/api/v1/models/google/bert/tensorFlow1/uncased"
    server.pages[f"{base}/get"] = b'{"versionNumber": 3}'
    server.pages[f"{base}/3/download"] = hub_server.archive(tmp_path / "module")
    address = "kaggle://google/bert/tensorFlow1/uncased"
    first = hub.load(address)
    assert server.asked == [f"{base}/get", f"{base}/3/download"]
    hub.load(f"{address}/3")
    with pytest.raises(UserError, match=r"uncased/2/download answers 404"):
        hub.load(f"{address}/2")
    server.close()
    toys.assert_same(first, hub.load(address))


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("hub_of", ["tfhub", "kaggle"])
def test_an_encoder_comes_with_its_preprocessor(server, tmp_path, monkeypatch, hub_of, cached):
    import tensorflow as tf

    module = hub.load(saved_model_toys.tf1_module(tmp_path / "module"))
    vocab_file = str(tmp_path / "module" / "assets" / "vocab.txt")
    gelu = functools.partial(tf.nn.gelu, approximate=True)
    saved_model_toys.write_pair(str(tmp_path / "pair"), vocab_file, module.weights, 4, gelu)
    archives = [hub_server.archive(tmp_path / "pair" / name) for name in ("encoder", "preprocess")]
    if hub_of == "tfhub":
        base, suffix = "/tensorflow/bert_en_", "?tf-hub-format=compressed"
        names = ("cased_L-2_H-8_A-4/4", "cased_preprocess/3")
        address = f"{server.url}{base}{names[0]}"
        folders = [hashlib.sha1(f"{server.url}{base}{name}".encode()).hexdigest() for name in names]
        caches = tmp_path / "tfhub"
        monkeypatch.setenv("TFHUB_CACHE_DIR", str(caches))
    else:
        base, suffix = "/api/v1/models/tensorflow/bert/tensorFlow2/", "/download"
        names = ("en-cased-l-2-h-8-a-4/4", "en-cased-preprocess/3")
        address, folders = f"kaggle://tensorflow/bert/tensorFlow2/{names[0]}", names
        caches = tmp_path / "kagglehub/models/tensorflow/bert/tensorFlow2"
    for name, archive in zip(names, archives, strict=True):
        server.pages[f"{base}{name}{suffix}"] = archive
    if cached:
        for folder, part in zip(folders, ("encoder", "preprocess"), strict=True):
            shutil.copytree(tmp_path / "pair" / part, caches / folder)
            (caches / f"{folder}.complete").touch()
        server.pages.clear()
    model = hub.load(address)
    assert model.tokenizer.vocab == module.tokenizer.vocab
    assert len(server.asked) == (0 if cached else 2)
    assert os.path.dirname(model.source) == str(tmp_path / "cache")


def test_what_kagglehub_has_cached_is_used_in_place(server, tmp_path):
    folder = tmp_path / "kagglehub/models/google/bert/tensorFlow1/uncased"
    for version in (2, 10, 11):
        saved_model_toys.tf1_module(folder / str(version))
    (folder / "2.complete").touch()
    (folder / "10.complete").touch()
    server.close()
    address = "kaggle://google/bert/tensorFlow1/uncased"
    assert hub.load(address).source == str(folder / "10")
    assert hub.load(f"{address}/2").source == str(folder / "2")
    with pytest.raises(UserError, match="no connection"):
        hub.load(f"{address}/11")


# Google Cloud Storage: its client is TensorFlow's, of which ram:// is another file system.


def test_storage(server, google, tmp_path, monkeypatch):
    import tensorflow as tf

    bucket = f"ram://bucket-{os.getpid()}"
    tf.io.gfile.makedirs(f"{bucket}/{google.name}")
    for path in google.iterdir():
        tf.io.gfile.copy(str(path), f"{bucket}/{google.name}/{path.name}")
    with tf.io.gfile.GFile(f"{bucket}/{google.name}/train.tf_record", "w") as writer:
        writer.write("x")
    monkeypatch.setitem(handles._SOURCES, "ram://", storage)
    model = hub.load(f"{bucket}/{google.name}/")
    toys.assert_same(model, hub.load(str(google)))
    assert "train.tf_record" not in os.listdir(os.path.dirname(model.source))
    with pytest.raises(UserError, match=r"cannot be fetched \(no such folder\)"):
        hub.load(f"{bucket}/none")


# One cache for many processes.


def _load(address, started, results):
    started.wait()
    results.put(handles.resolve(address))


def test_two_processes_at_once(server, module, tmp_path):
    server.slow = 0.3
    context = multiprocessing.get_context("fork")
    started, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_load, args=(module, started, results)) for _ in range(2)]
    for process in processes:
        process.start()
    found = {results.get(timeout=20) for _ in processes}
    for process in processes:
        process.join()
    assert len(found) == 1 and len(server.asked) == 1


def test_a_process_that_is_killed_leaves_nothing_that_counts(server, files, tmp_path):
    commit = server.add_repository(REPOSITORY, files)
    path = f"/{REPOSITORY}/resolve/{commit}/model.safetensors"
    server.trouble[path] = "stall"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": server.url}
    code = "from bert_tools.hub import handles; handles.resolve('hf://org/toy')"
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as process:
        waiting = threading.Event()
        for _ in range(300):
            if path in server.asked:
                break
            waiting.wait(0.1)
        process.kill()
    assert path in server.asked and kept(tmp_path) == ["hf--org--toy.part"]
    server.trouble.clear()
    hub.load(f"hf://{REPOSITORY}")
    assert kept(tmp_path) == ["hf--org--toy"]


def test_a_command_with_an_address(server, files, tmp_path):
    server.add_repository(REPOSITORY, files)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "hf_home"),
    }
    script = str(ROOT / "scripts" / "extract_features.py")
    command = [
        sys.executable,
        script,
        "--input_file=-",
        "--output_file=-",
        f"--bert=hf://{REPOSITORY}",
    ]
    command += ["--max_seq_length=8", "--layers=-1"]
    run = subprocess.run(
        command, input="the cat", env=environment, capture_output=True, text=True, check=True
    )
    assert len(json.loads(run.stdout)["features"]) == 4
    assert "%|" not in run.stderr  # No progress bar, since stderr is no terminal.
