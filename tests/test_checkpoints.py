"""Checkpoints: round trips, which are kept, what a kill leaves, what damage says."""

import json
import os
import pathlib
import re
import resource
import shutil

import numpy as np
import pytest
import tensorflow as tf

from bert_tools import checkpoints
from bert_tools.errors import UserError

DATA = pathlib.Path(__file__).parent / "data"
TENSORS = {
    "bert/embeddings/word_embeddings": np.arange(12, dtype=np.float32).reshape(4, 3),
    "bert/embeddings/word_embeddings/adam_m": np.full((4, 3), 0.5, np.float32),
    "bert/embeddings/word_embeddings/adam_v": np.full((4, 3), 0.25, np.float32),
    "output_bias": np.zeros(1, np.float32),
}


class Killed(BaseException):
    """Stands for SIGKILL: no handler of the library may catch it."""


@pytest.fixture
def small_disk():
    """Files may not grow beyond 64 KiB, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def save(folder, step, value=None, best=None):
    tensors = dict(TENSORS)
    tensors["output_bias"] = np.full(1, step if value is None else value, np.float32)
    state = {"seed": 7, "step": step}
    if best is not None:
        state["evaluation"] = {
            "metric": "mae",
            "best": 0.5,
            "step": best,
            "without_gain": 0,
            "stopped": False,
        }
    return checkpoints.save(str(folder), step, tensors, state)


def steps_of(folder, suffix):
    return sorted(
        int(name[len("model.ckpt-") : -len(suffix)])
        for name in os.listdir(folder)
        if name.startswith("model.ckpt-") and name.endswith(suffix)
    )


def assert_whole(prefix, values=None):
    """The checkpoint is that of its step, every value of it; values: what output_bias may be."""
    step = int(prefix.rpartition("-")[2])
    found = checkpoints.read(prefix, slots=True)
    assert found.keys() == {*TENSORS, "global_step"}
    assert found["global_step"] == step and found["output_bias"].item() in (values or [step])
    for name in TENSORS.keys() - {"output_bias"}:
        np.testing.assert_array_equal(found[name], TENSORS[name])
    assert checkpoints.read_state(prefix)["step"] == step


def test_round_trip(tmp_path):
    prefix = save(tmp_path, 12)
    assert prefix == str(tmp_path / "model.ckpt-12")
    assert_whole(prefix)
    found = checkpoints.read(prefix)
    assert found.keys() == {"bert/embeddings/word_embeddings", "output_bias", "global_step"}
    assert found["output_bias"].dtype == np.float32 and found["global_step"].dtype == np.int64
    assert found["global_step"].shape == ()
    assert checkpoints.read_state(prefix) == {"seed": 7, "step": 12}
    assert sorted(os.listdir(tmp_path)) == [
        "checkpoint",
        "model.ckpt-12.data-00000-of-00001",
        "model.ckpt-12.index",
        "model.ckpt-12.json",
    ]


def test_dtypes_and_tensors(tmp_path):
    tensors = {
        "a": tf.constant([1.5]),
        "b": np.int32([[3]]),
        "c": tf.Variable(2.0),
        "d": np.zeros((0, 3), np.float32),
    }
    checkpoints.write_variables(str(tmp_path / "x"), tensors)
    found = checkpoints.read(str(tmp_path / "x"))
    assert {name: (v.dtype.name, v.shape) for name, v in found.items()} == {
        "a": ("float32", (1,)),
        "b": ("int32", (1, 1)),
        "c": ("float32", ()),
        "d": ("float32", (0, 3)),
    }


def test_tensorflow_finds_what_we_save(tmp_path):
    for step in (3, 20):
        save(tmp_path, step)
    assert tf.train.latest_checkpoint(str(tmp_path)) == str(tmp_path / "model.ckpt-20")
    state = tf.train.get_checkpoint_state(str(tmp_path))
    expected = [str(tmp_path / f"model.ckpt-{step}") for step in (3, 20)]
    assert list(state.all_model_checkpoint_paths) == expected
    reader = tf.compat.v1.train.NewCheckpointReader(str(tmp_path / "model.ckpt-20"))
    assert reader.get_tensor("global_step") == 20


def test_tensorflow_1_saver_is_read(tmp_path):
    prefix = str(tmp_path / "model.ckpt")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        weight = tf.compat.v1.get_variable("bert/w", initializer=[1.0, 2.0], use_resource=False)
        session.run(weight.initializer)
        saver = tf.compat.v1.train.Saver([weight])
        saver.save(session, prefix, global_step=5)
    assert checkpoints.latest(str(tmp_path)) == f"{prefix}-5"
    assert checkpoints.read(f"{prefix}-5")["bert/w"].tolist() == [1.0, 2.0]
    assert checkpoints.read_state(f"{prefix}-5") == {}


def test_genuine_tensorflow_1_checkpoint(shared):
    prefix = str(shared / "models" / "keras-bert-test-checkpoint" / "bert_model.ckpt")
    pinned = json.loads((DATA / "toy_variables.json").read_text("ascii"))
    found = checkpoints.read(prefix, slots=True)
    assert [[name, list(v.shape), v.dtype.name] for name, v in sorted(found.items())] == pinned
    assert sum(array.size for array in found.values()) == 3 * 701 + 1
    without = checkpoints.read(prefix)
    assert sum(array.size for array in without.values()) == 701 + 1
    assert without.keys() < found.keys()


def test_the_newest_five_are_kept(tmp_path):
    assert checkpoints.KEPT == 5
    for step in (1, 2, 10, 20, 30, 100, 200):
        save(tmp_path, step)
    for suffix in (".index", ".data-00000-of-00001", ".json"):
        assert steps_of(tmp_path, suffix) == [10, 20, 30, 100, 200]
    state = tf.train.get_checkpoint_state(str(tmp_path))
    kept = [os.path.basename(path) for path in state.all_model_checkpoint_paths]
    assert kept == [f"model.ckpt-{step}" for step in (10, 20, 30, 100, 200)]
    assert len(os.listdir(tmp_path)) == 5 * 3 + 1


def test_a_graph_file_of_the_original_goes_with_its_checkpoint(tmp_path):
    for step in range(1, 6):
        save(tmp_path, step)
    (tmp_path / "model.ckpt-1.meta").write_bytes(b"graph")
    (tmp_path / "best.ckpt-1.index").write_bytes(b"another's")
    save(tmp_path, 6)
    assert not [name for name in os.listdir(tmp_path) if name.startswith("model.ckpt-1.")]
    assert (tmp_path / "best.ckpt-1.index").exists()


def test_what_was_just_saved_stays_though_higher_steps_lie_there(tmp_path):
    """`checkpoint` was edited to go back to step 10 of a longer run."""
    for step in (10, 60, 70, 80, 90, 100):
        save(tmp_path, step)
    save(tmp_path, 20)
    assert checkpoints.latest(str(tmp_path)) == str(tmp_path / "model.ckpt-20")
    assert_whole(checkpoints.latest(str(tmp_path)))
    assert len(steps_of(tmp_path, ".index")) == 5


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2, value=-1)
    assert checkpoints.read(save(tmp_path, 2))["output_bias"].tolist() == [2]
    assert steps_of(tmp_path, ".index") == [1, 2]


@pytest.mark.parametrize("again", [False, True], ids=["new step", "same step again"])
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path, monkeypatch, again):
    """Nothing of the program runs after the kill: no renames, no removals, no cleaning up."""
    replace, unlink = os.replace, os.unlink
    last = 5 if again else 6
    moment, found = 0, set()
    while True:
        folder = tmp_path / str(moment)
        folder.mkdir()
        for step in (1, 2, 3, 4):
            save(folder, step)
        save(folder, 5, value=-5)
        left = [moment]

        def until_killed(function, left=left):
            def run(*args, **kwargs):
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return function(*args, **kwargs)

            return run

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", until_killed(replace))
            patch.setattr(os, "unlink", until_killed(unlink))
            try:
                save(folder, last)
                killed = False
            except Killed:
                killed = True
        prefix = checkpoints.latest(str(folder))
        assert_whole(prefix, [-5, 5] if prefix.endswith("-5") else None)
        found.add(prefix[-1])
        save(folder, 7)  # The next run goes on, over whatever was left.
        assert checkpoints.latest(str(folder)) == str(folder / "model.ckpt-7")
        assert_whole(str(folder / "model.ckpt-7"))
        if not killed:
            break
        moment += 1
    assert moment >= 4 and found == ({"4", "5"} if again else {"5", "6"})


def test_data_without_an_index_is_no_checkpoint(tmp_path):
    save(tmp_path, 1)
    whole = save(tmp_path, 2)
    newer = tmp_path / "model.ckpt-3.data-00000-of-00001"
    shutil.copyfile(f"{whole}.data-00000-of-00001", newer)
    assert checkpoints.latest(str(tmp_path)) == whole
    os.unlink(tmp_path / "checkpoint")
    assert checkpoints.latest(str(tmp_path)) == whole


@pytest.mark.parametrize(
    "line, expected",
    [
        ('model_checkpoint_path: "model.ckpt-1"', 1),
        ('model_checkpoint_path: "{folder}/model.ckpt-1"', 1),
        ('model_checkpoint_path: "/gone/elsewhere/model.ckpt-1"', 1),
        ('model_checkpoint_path: "/gone/elsewhere/model.ckpt-9"', 10),
        ('model_checkpoint_path: "model.ckpt-9"', 10),
        ('all_model_checkpoint_paths: "model.ckpt-1"', 10),
        ("", 10),
        ("\xff\xfe", 10),
        (None, 10),
    ],
)
def test_latest(tmp_path, line, expected):
    for step in (1, 2, 10):
        save(tmp_path, step)
    if line is None:
        os.unlink(tmp_path / "checkpoint")
    else:
        text = line.replace("{folder}", str(tmp_path)) + '\nall_model_checkpoint_paths: "x"\n'
        (tmp_path / "checkpoint").write_bytes(text.encode("latin1"))
    assert checkpoints.latest(str(tmp_path)) == str(tmp_path / f"model.ckpt-{expected}")


def test_latest_of_nothing(tmp_path):
    assert checkpoints.latest(str(tmp_path)) is None
    assert checkpoints.latest(str(tmp_path / "none")) is None
    (tmp_path / "model.ckpt-x.index").write_bytes(b"")
    assert checkpoints.latest(str(tmp_path)) is None


def test_what_lies_in_the_folder_comes_before_an_absolute_path(tmp_path):
    """A copied folder, whose original is still there."""
    original, copy = tmp_path / "original", tmp_path / "copy"
    for folder in (original, copy):
        folder.mkdir()
        save(folder, 1)
        save(folder, 2)
    (copy / "checkpoint").write_text(f'model_checkpoint_path: "{original}/model.ckpt-1"\n')
    assert checkpoints.latest(str(copy)) == str(copy / "model.ckpt-1")
    (copy / "model.ckpt-1.index").unlink()
    assert checkpoints.latest(str(copy)) == str(original / "model.ckpt-1")


def test_folder_with_characters_of_patterns(tmp_path):
    folder = tmp_path / "run[1] *?\\"
    folder.mkdir()
    for step in range(1, 8):
        prefix = save(folder, step)
    assert checkpoints.latest(str(folder)) == prefix == str(folder / "model.ckpt-7")
    assert_whole(prefix)
    assert steps_of(folder, ".index") == [3, 4, 5, 6, 7]
    assert not [name for name in os.listdir(folder) if name.startswith(".")]
    assert checkpoints.read_newest(str(folder))[0] == prefix
    damage(prefix, "data")
    with pytest.raises(UserError, match=r"run\[1\].*-7: the checkpoint cannot be read"):
        checkpoints.read(prefix)


# The best one.


def test_the_best_is_kept_besides_the_newest(tmp_path):
    for step, best in ((1, None), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (7, 4), (8, 4), (9, 4)):
        save(tmp_path, step, best=best)
    for step in (10, 11):
        save(tmp_path, step, best=4)
        for suffix in (".index", ".data-00000-of-00001", ".json"):
            assert steps_of(tmp_path, suffix) == [4, *range(step - 4, step + 1)]
    state = tf.train.get_checkpoint_state(str(tmp_path))
    kept = [os.path.basename(path) for path in state.all_model_checkpoint_paths]
    assert kept == [f"model.ckpt-{step}" for step in (4, 7, 8, 9, 10, 11)]
    save(tmp_path, 12, best=12)
    assert steps_of(tmp_path, ".index") == [8, 9, 10, 11, 12]


def test_best(tmp_path):
    assert checkpoints.best(str(tmp_path)) is None
    save(tmp_path, 1)
    assert checkpoints.best(str(tmp_path)) == str(tmp_path / "model.ckpt-1")
    save(tmp_path, 2, best=1)
    assert checkpoints.best(str(tmp_path)) == str(tmp_path / "model.ckpt-1")
    assert checkpoints.latest(str(tmp_path)) == str(tmp_path / "model.ckpt-2")
    prefix, values = checkpoints.read_best(str(tmp_path))
    assert prefix.endswith("-1") and values["global_step"] == 1
    assert not any(name.endswith("adam_m") for name in values)
    save(tmp_path, 3)  # Trained on without a metric.
    assert checkpoints.best(str(tmp_path)) == str(tmp_path / "model.ckpt-3")
    save(tmp_path, 4, best=1)
    (tmp_path / "model.ckpt-1.index").unlink()
    assert checkpoints.best(str(tmp_path)) == str(tmp_path / "model.ckpt-4")


def test_damaged_best_gives_way_to_the_newest(tmp_path, warnings):
    for step in (1, 2, 3):
        save(tmp_path, step, best=2)
    damage(tmp_path / "model.ckpt-2", "data")
    prefix, values = checkpoints.read_best(str(tmp_path))
    assert prefix == str(tmp_path / "model.ckpt-3") and values["output_bias"] == [3]
    assert re.search(r"model\.ckpt-2: .*cannot be read.*model\.ckpt-3 is used", warnings.text)


# Damage.


@pytest.fixture
def warnings(caplog, monkeypatch):
    monkeypatch.setattr(checkpoints.log, "propagate", True)
    return caplog


def damage(prefix, kind):
    """kind: data, index or json are cut, or {name: value} for the state."""
    if isinstance(kind, dict):
        state = checkpoints.read_state(str(prefix))
        pathlib.Path(f"{prefix}.json").write_text(json.dumps({**state, **kind}))
        return
    suffix = {"data": ".data-00000-of-00001", "index": ".index", "json": ".json"}[kind]
    path = pathlib.Path(f"{prefix}{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


EVALUATION = {"metric": "mae", "best": 0.5, "step": 1, "without_gain": 0, "stopped": False}


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("data", "the checkpoint cannot be read"),
        ("index", "the checkpoint cannot be read"),
        ("json", "not a readable JSON file"),
        ({"seed": "7"}, "seed is '7', expected int"),
        ({"seed": True}, "seed is True, expected int"),
        ({"loss_scale": 2.0}, "loss_scale is 2.0, expected an object of scale, good_steps"),
        (
            {"loss_scale": {"scale": "big", "good_steps": 1, "skipped": 0}},
            "scale is 'big', expected float",
        ),
        ({"evaluation": {}}, "evaluation is {}, expected an object of metric, best"),
        ({"evaluation": {**EVALUATION, "step": "1"}}, r"step is '1', expected int \| None"),
        ({"evaluation": {**EVALUATION, "stopped": 1}}, "stopped is 1, expected bool"),
    ],
)
def test_damaged_newest_gives_way_to_the_next_older(tmp_path, warnings, kind, reason):
    for step in (1, 2, 9):
        save(tmp_path, step)
    save(tmp_path, 3)  # 9 is of a longer run that was gone back on.
    damage(tmp_path / "model.ckpt-3", kind)
    older = str(tmp_path / "model.ckpt-2")
    prefix, values, state = checkpoints.read_newest(str(tmp_path))
    assert prefix == older and values["output_bias"] == [2] and state["step"] == 2
    assert any(name.endswith("/adam_m") for name in values)
    assert re.search(rf"model\.ckpt-3.*{reason}.*; {re.escape(older)} is used", warnings.text)
    warnings.clear()
    prefix, values = checkpoints.read_best(str(tmp_path))
    assert prefix == older and values["output_bias"] == [2]
    assert re.search(rf"model\.ckpt-3.*{reason}", warnings.text)


def test_nothing_but_damage(tmp_path):
    for step in (1, 2):
        damage(save(tmp_path, step), "data")
    for read in (checkpoints.read_newest, checkpoints.read_best):
        with pytest.raises(UserError, match=r"model\.ckpt-2: the checkpoint cannot be read"):
            read(str(tmp_path))
    for read in (checkpoints.read_newest, checkpoints.read_best):
        assert read(str(tmp_path / "none")) is None


def test_absent_checkpoint(tmp_path):
    with pytest.raises(
        UserError, match=r"model\.ckpt-1: no such checkpoint; give the path without"
    ):
        checkpoints.read(str(tmp_path / "model.ckpt-1"))
    save(tmp_path, 10)
    with pytest.raises(UserError, match=r"model\.ckpt-1: no such checkpoint"):
        checkpoints.read(str(tmp_path / "model.ckpt-1"))


@pytest.mark.parametrize(
    "damage",
    [
        "index cut",
        "index empty",
        "index noise",
        "data cut",
        "data gone",
        "data flipped",
        "index gone",
    ],
)
def test_damaged_checkpoint(tmp_path, damage):
    prefix = save(tmp_path, 1)
    part, what = damage.split()
    path = f"{prefix}.index" if part == "index" else f"{prefix}.data-00000-of-00001"
    with open(path, "rb") as reader:
        content = reader.read()
    os.unlink(path)
    if what != "gone":
        flipped = bytes([content[0] ^ 1]) + content[1:]
        half = content[: len(content) // 2]
        wrong = {"cut": half, "empty": b"", "noise": b"?" * 500, "flipped": flipped}
        with open(path, "wb") as writer:
            writer.write(wrong[what])
    with pytest.raises(UserError, match=r"model\.ckpt-1: the checkpoint cannot be read \(.+\); "):
        checkpoints.read(prefix, slots=True)


def test_full_disk(tmp_path, small_disk):
    older = save(tmp_path, 1)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(UserError, match=r"big: the checkpoint cannot be written \(.+\); free"):
        checkpoints.write_variables(str(tmp_path / "big"), {"a": np.zeros(1 << 16, np.float32)})
    assert sorted(os.listdir(tmp_path)) == before
    assert_whole(older)
    with pytest.raises(UserError, match="cannot be written"):
        checkpoints.save(str(tmp_path), 2, {"a": np.zeros(1 << 16, np.float32)}, {})
    assert checkpoints.latest(str(tmp_path)) == older
    assert_whole(older)


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        save(tmp_path / "none", 1)
