"""Files that appear whole or not at all."""

import errno
import os
import stat

import pytest

from bert_tools import files
from bert_tools.errors import UserError


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_write_text(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(str(path), "é\n中\r\n")
    assert path.read_bytes() == "é\n中\r\n".encode()
    assert os.listdir(tmp_path) == ["a.txt"]


def test_write_text_beside_the_program(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_text("a.txt", "x")
    assert (tmp_path / "a.txt").read_text() == "x"


def test_json_round_trip(tmp_path):
    path = tmp_path / "a.json"
    value = {"b": [1, 2.5, None], "a": "中"}
    files.write_json(str(path), value)
    assert files.read_json(str(path)) == value
    assert list(files.read_json(str(path))) == ["b", "a"]
    assert path.read_text("utf-8").endswith("}\n") and "中" in path.read_text("utf-8")


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with files.aside(str(path)) as temporary:
        with open(temporary, "w") as writer:
            writer.write("half")
        assert path.read_text() == "old"
        assert os.path.dirname(temporary) == str(tmp_path) and temporary != str(path)
    assert path.read_text() == "half"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, UserError])
def test_a_failing_block_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), files.aside(str(path)) as temporary:
        with open(temporary, "w") as writer:
            writer.write("half")
        raise error("stop")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_the_users_to_mend(tmp_path, monkeypatch, call):
    path = tmp_path / "a.txt"
    path.write_text("old")
    monkeypatch.setattr(os, call, full_disk)
    with pytest.raises(UserError, match=r"a\.txt: cannot be written \(No space left"):
        files.write_text(str(path), "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match=r"none/a\.txt: cannot be written \(No such file"):
        files.write_text(str(tmp_path / "none" / "a.txt"), "x")


def test_a_folder_of_that_name(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        files.write_text(str(tmp_path / "a"), "x")
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="Permission denied"):
            files.write_text(str(tmp_path / "a.txt"), "x")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_what_the_umask_grants(tmp_path, mask, mode):
    previous = os.umask(mask)
    try:
        files.write_text(str(tmp_path / "a.txt"), "x")
        assert os.umask(mask) == mask  # Left as it was.
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "not a readable JSON file"),
        (b'{"a": ', "not a readable JSON file"),
        (b'{"a": "\xff"}', "not a readable JSON file"),
        (b"[1]", "holds a JSON list, expected an object"),
        (b"null", "holds a JSON NoneType, expected an object"),
    ],
)
def test_bad_json(tmp_path, content, said):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.json: {said}"):
        files.read_json(str(path))


def test_absent_json(tmp_path):
    with pytest.raises(UserError, match=r"a\.json: no such file"):
        files.read_json(str(tmp_path / "a.json"))
    with pytest.raises(UserError, match="not a readable JSON file"):
        files.read_json(str(tmp_path))


def test_pipe_is_written_to_and_not_replaced(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with files.aside(str(path)) as name:
        assert name == str(path)
    assert stat.S_ISFIFO(os.stat(path).st_mode)


def test_link_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    files.write_text(str(tmp_path / "link"), "text\n")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "text\n"


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_appears_when_it_is_whole(tmp_path, there):
    path = tmp_path / "above" / "new"
    if there:
        path.mkdir(parents=True)
    with files.aside_folder(str(path)) as temporary:
        with open(os.path.join(temporary, "a"), "w") as writer:
            writer.write("x")
        assert not path.exists() or not os.listdir(path)
    assert os.listdir(path) == ["a"] and os.listdir(path.parent) == ["new"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~mask


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, UserError])
def test_a_failing_block_leaves_no_folder(tmp_path, error):
    with pytest.raises(error), files.aside_folder(str(tmp_path / "new")) as temporary:
        with open(os.path.join(temporary, "a"), "w") as writer:
            writer.write("x")
        raise error("stop")
    assert os.listdir(tmp_path) == []


def test_an_error_names_the_folder_as_it_will_be(tmp_path):
    path = str(tmp_path / "new")
    with pytest.raises(UserError, match=f"^{path}/a: full$"), files.aside_folder(path) as temporary:
        raise UserError(f"{temporary}/a: full")
    with pytest.raises(UserError, match=f"^{path}: cannot be written"), files.aside_folder(path):
        full_disk()


def test_a_folder_that_something_else_filled_meanwhile(tmp_path):
    path = tmp_path / "new"
    with pytest.raises(UserError, match="cannot be written"), files.aside_folder(str(path)):
        path.mkdir()
        (path / "theirs").write_text("x")
    assert os.listdir(tmp_path) == ["new"] and os.listdir(path) == ["theirs"]


def test_places_for_no_new_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    for path, match in (
        (tmp_path, r"is not empty \(file\)"),
        (tmp_path / "file", "is a file; choose another place"),
        (tmp_path / "file" / "a" / "b", "is a file; choose another place"),
    ):
        with pytest.raises(UserError, match=match):
            files.check_new_folder(str(path))
    files.check_new_folder(str(tmp_path / "a" / "b"))


def test_a_mount_point_is_no_new_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "ismount", lambda path: path == str(tmp_path))
    with pytest.raises(UserError, match="give a folder inside it"):
        files.check_new_folder(str(tmp_path))
