"""Command lines over the toy model, and the reading of what a run leaves."""

import contextlib
import functools
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import tensorflow as tf

from bert_tools import checkpoints

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}


def toy_flags(toy_model, toy_data, output_dir):
    return {
        "task_name": "sim",
        "data_dir": toy_data,
        "bert": toy_model,
        "output_dir": output_dir,
        "max_seq_length": 16,
        "train_batch_size": 6,
        "learning_rate": 1e-3,
    }


def as_arguments(flags):
    return [f"--{name}={value}" for name, value in flags.items() if value is not None]


def command_line(**flags):
    """The words of run_reg as a process of its own."""
    return [sys.executable, str(ROOT / "scripts" / "run_reg.py"), *as_arguments(flags)]


@contextlib.contextmanager
def process(**flags):
    """run_reg in a process of its own, its three streams pipes; killed at the end."""
    with subprocess.Popen(
        command_line(**flags),
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background jobs, such as this test run, with SIGINT ignored.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def plain(data):
    """{phase: [(first text, second text, label)]} of what task_data.load gives."""
    return {
        phase: [(example.text_a, example.text_b, example.label) for example in examples]
        for phase, (_, examples) in data.items()
    }


def newest(folder):
    return checkpoints.read(checkpoints.latest(str(folder)), slots=True)


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for name, array in left.items():
        np.testing.assert_array_equal(array, right[name], err_msg=name)


def values_of(path):
    return [float(line) for line in path.read_text().splitlines()]


def results_of(path):
    lines = path.read_text().splitlines()
    return dict(line.split(" = ") for line in lines)


def records(path):
    """The features of each tf.Example of a file, as {name: list}."""
    found = []
    for record in tf.data.TFRecordDataset(str(path)):
        features = tf.train.Example.FromString(record.numpy()).features.feature
        found.append({n: list(getattr(f, f.WhichOneof("kind")).value) for n, f in features.items()})
    return found
