"""Several devices and several processes train to the weights of one device."""

import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import test_estimator as toys

from bert_tools import checkpoints, distribution, encoder
from bert_tools.errors import UserError
from bert_tools.estimator import Estimator, Evaluation, RunConfig

ROOT = pathlib.Path(__file__).resolve().parent.parent
# run_reg without dropout, whose masks would differ from one number of replicas to another; on so
# many virtual CPUs.
DRIVER = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
devices = [tf.config.LogicalDeviceConfiguration()] * int(sys.argv[1])
tf.config.set_logical_device_configuration(cpu, devices)
from bert_tools import encoder
encoder.dropout = lambda x, rate, seed: x
from bert_tools.cli import run_reg
sys.exit(run_reg.main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Toy data of task sim with values in 0..20, so that gradients are far over the norm of 1."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, rows in (("train", 24), ("dev", 6), ("test", 5)):
        lines = [
            "\t".join([*(" ".join(rng.choice(list("abcd"), n)) for n in lengths), str(value)])
            for lengths, value in zip(
                rng.integers(1, 7, (rows, 2)), 5.0 * rng.integers(0, 5, rows), strict=True
            )
        ]
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return str(folder)


def arguments(toy_model, data_dir, output_dir, **flags):
    flags = {
        "task_name": "sim",
        "do_train": True,
        "data_dir": data_dir,
        "bert": toy_model,
        "output_dir": output_dir,
        "use_sigmoid_act": False,
        "max_seq_length": 16,
        "train_batch_size": 4,
        "num_train_epochs": 1.5,
        "learning_rate": 1e-3,
        **flags,
    }
    return [f"--{name}={value}" for name, value in flags.items()]


def start(devices, command, **environment):
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(devices), *command],
        env={**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(devices, command):
    process = start(devices, command)
    log, _ = process.communicate(timeout=100)
    assert process.returncode == 0, log
    return log


def newest(folder):
    return checkpoints.read(checkpoints.latest(str(folder)), slots=True)


@pytest.fixture(scope="module")
def one_device(tmp_path_factory, toy_model, data_dir):
    """The checkpoint of a run on one device."""
    folder = str(tmp_path_factory.mktemp("one"))
    run(1, arguments(toy_model, data_dir, folder, strategy="one_device"))
    values = newest(folder)
    assert values["global_step"] == 9
    return values


def assert_same_training(values, one_device, toy_model):
    assert values.keys() == one_device.keys()
    for name, array in one_device.items():
        np.testing.assert_allclose(values[name], array, rtol=0, atol=1e-6, err_msg=name)
    begun = checkpoints.read(os.path.join(toy_model, "bert_model.ckpt"))
    moved = [np.abs(values[name] - array).max() for name, array in begun.items()]
    assert max(moved) > 1e-3, "the runs are alike because nothing was learnt"
    # adam_v sums up 0.001 * gradient**2: of norm 1 after clipping (nearly: words that occur twice
    # count twice in the norm), in each of 9 steps.
    squares = sum(array.sum() for name, array in values.items() if name.endswith("/adam_v"))
    assert squares == pytest.approx(0.009, rel=0.1), "clipping was not active in every step"


def test_mirrored(tmp_path, toy_model, data_dir, one_device):
    """In blocks, which each device sums up before the devices do."""
    command = arguments(
        toy_model, data_dir, str(tmp_path), strategy="mirrored", batching="bucket", do_predict=True
    )
    run(2, command)
    assert_same_training(newest(str(tmp_path)), one_device, toy_model)
    assert len((tmp_path / "test_results.tsv").read_text().splitlines()) == 5


def train_toys(strategy, folder, runs):
    """Trains toy models for 3 steps; runs: {name: settings of RunConfig, freeze_encoder}."""
    config = dataclasses.replace(toys.small_config(), initializer_range=0.2)
    for name, settings in runs.items():
        frozen = settings.pop("freeze_encoder", False)
        model_fn = toys.toy_model_fn(config, 3, sigmoid=False, freeze_encoder=frozen)
        run = RunConfig(f"{folder}/{name}", strategy=strategy, save_summary_steps=1, **settings)
        evaluation = Evaluation(toys.input_fn(toys.DEV), 1, "mae")
        estimator = Estimator(model_fn, run, {"batch_size": 8})
        estimator.train(toys.input_fn(toys.TRAIN, True), 3, evaluation)


TOYS_DRIVER = """
import json
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
devices = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, devices)
sys.path.insert(0, sys.argv[1])
import test_distribution
from bert_tools import distribution, encoder
encoder.dropout = lambda x, rate, seed: x
strategy = distribution.make_strategy("mirrored")
test_distribution.train_toys(strategy, sys.argv[2], json.loads(sys.argv[3]))
"""


def train_toys_on_two_devices(folder, runs):
    process = subprocess.run(
        [sys.executable, "-c", TOYS_DRIVER, str(ROOT / "tests"), str(folder), json.dumps(runs)],
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "XLA_FLAGS": f"--xla_dump_to={folder}/hlo",
        },
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert process.returncode == 0, process.stderr


def test_parts_and_xla_on_several_devices(tmp_path, monkeypatch):
    monkeypatch.setattr(encoder, "dropout", lambda x, rate, seed: x)
    frozen, parts = {"freeze_encoder": True}, {"gradient_accumulation_steps": 2}
    strategy = tf.distribute.OneDeviceStrategy("/CPU:0")
    train_toys(strategy, tmp_path / "one", {"plain": {}, "frozen": dict(frozen)})
    runs = {
        "two parts": parts,
        "four parts": {"batching": "pad", "gradient_accumulation_steps": 4},
        "frozen": {"batching": "bucket", **frozen, **parts},
    }
    train_toys_on_two_devices(tmp_path / "two", runs)
    assert not (tmp_path / "two" / "hlo").exists()
    compiled = {"xla": {"xla": True}, "xla in parts": {"xla": True, **parts}}
    train_toys_on_two_devices(tmp_path / "compiled", compiled)
    modules = [path.name for path in (tmp_path / "compiled" / "hlo").iterdir()]
    assert any("differentiate" in name for name in modules), modules
    for folder, names in (("two", runs), ("compiled", compiled)):
        for name in names:
            found = tmp_path / folder / name
            expected = tmp_path / "one" / ("frozen" if name == "frozen" else "plain")
            losses = [list(toys.events(path)["loss"].values()) for path in (found, expected)]
            np.testing.assert_allclose(*losses, rtol=1e-5)
            toys.assert_close(newest(found), newest(expected), 2e-6)
            state = [
                checkpoints.read_state(checkpoints.latest(str(path))) for path in (found, expected)
            ]
            best = [kept["evaluation"].pop("best") for kept in state]
            assert best[0] == pytest.approx(best[1], rel=1e-5) and state[0] == state[1]


def test_devices_must_divide_the_batch(tmp_path, toy_model, data_dir):
    command = arguments(
        toy_model, data_dir, str(tmp_path / "out"), strategy="mirrored", train_batch_size=3
    )
    process = start(2, command)
    log, _ = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "error: --train_batch_size=3: 2 devices and --gradient_accumulation_steps=1" in log
    assert "Traceback" not in log
    assert not (tmp_path / "out").exists()


def test_two_workers(tmp_path, toy_model, data_dir, one_device):
    workers = []
    with socket.socket() as one, socket.socket() as other:
        for port in (one, other):
            port.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{port.getsockname()[1]}" for port in (one, other)]
    command = arguments(
        toy_model,
        data_dir,
        str(tmp_path / "out"),
        strategy="multi_worker",
        do_eval=True,
        do_predict=True,
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for index in range(2):
        task = {"type": "worker", "index": index}
        settings = json.dumps({"cluster": {"worker": addresses}, "task": task})
        workers.append(start(1, command, TF_CONFIG=settings, TMPDIR=str(scratch)))
    try:
        logs = [worker.communicate(timeout=120)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(logs)
    assert_same_training(newest(str(tmp_path / "out")), one_device, toy_model)
    assert "evaluating" in logs[0] and "evaluating" not in logs[1]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"eval_results.txt", "test_results.tsv", "train.tf_record", "vocab.txt"} <= written
    assert "baseline_spearman = " in (tmp_path / "out" / "eval_results.txt").read_text()
    (summaries,) = (name for name in written if name.startswith("events.out.tfevents"))
    assert f".{workers[0].pid}." in summaries, "the chief alone writes summaries"
    assert not list(scratch.iterdir()), "the other worker leaves nothing behind"


# In this process.


def test_one_device():
    strategy = distribution.make_strategy("one_device")
    assert strategy.num_replicas_in_sync == 1
    assert distribution.is_chief(strategy)


def test_no_such_strategy():
    with pytest.raises(UserError, match=r"--strategy=many: no such strategy; expected one of auto"):
        distribution.make_strategy("many")


def test_no_tpu():
    with pytest.raises(UserError, match=r"--tpu_name=: no TPU can be reached"):
        distribution.make_strategy("tpu")


def test_precision(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    for has, best in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(distribution, "_cpu_has_bfloat16", lambda has=has: has)
        assert distribution.resolve_precision("auto") == best
        assert distribution.resolve_precision("float16") == "float16"


@pytest.mark.parametrize(
    "capability, best", [((8, 0), "bfloat16"), ((7, 5), "float16"), ((6, 1), "float32")]
)
def test_precision_of_gpus(monkeypatch, capability, best):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU:0"])
    details = {"compute_capability": capability}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: details)
    assert distribution.resolve_precision("auto") == best


def test_slow_bfloat16_warns(monkeypatch, caplog):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setattr(distribution, "_cpu_has_bfloat16", lambda: False)
    monkeypatch.setattr(distribution.log, "propagate", True)
    assert distribution.resolve_precision("bfloat16") == "bfloat16"
    assert "this CPU has no bfloat16 instructions" in caplog.text


@pytest.mark.parametrize(
    "jobs, task, chief",
    [
        (["worker"], ("worker", 0), True),
        (["worker"], ("worker", 1), False),
        (["chief", "worker"], ("chief", 0), True),
        (["chief", "worker"], ("worker", 0), False),
        (None, ("", 0), True),
    ],
)
def test_there_is_one_chief(jobs, task, chief):
    """By tf.distribute's rules: the first worker, unless there is a job of that name."""

    class Strategy:
        cluster_resolver = None

    if jobs:
        cluster = tf.train.ClusterSpec({job: ["localhost:1", "localhost:2"] for job in jobs})
        Strategy.cluster_resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            cluster, task_type=task[0], task_id=task[1]
        )
    assert distribution.is_chief(Strategy()) == chief
