"""What the tests of the commands that compare vectors share."""

import io
import json
import sys

import numpy as np
from cli_toys import as_arguments

from bert_tools.cli import app


def make_run(command, capsys, monkeypatch):
    """function(stdin=b"", **flags) -> (exit status, stdout, stderr) of a command's module."""

    def run(stdin=b"", **flags):
        # Without the handler of an earlier test, which holds that test's stderr.
        monkeypatch.setattr(app.log, "handlers", [])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        return (command.main(as_arguments(flags)), *capsys.readouterr())

    return run


def sentence(err):
    """The error of a command's stderr; checks its manner."""
    (error,) = (line for line in err.splitlines() if not line.startswith(("INFO", "WARNING")))
    assert error.startswith("error: ")
    return error


def vectors(rows, width=8, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def as_json_lines(found, texts=None):
    """What extract_cls writes of vectors, as bytes."""
    texts = texts or [f"text {place}" for place in range(len(found))]
    rows = zip(range(len(found)), texts, found.tolist(), strict=True)
    return "".join(
        json.dumps({"id": place, "text": text, "vector": vector}) + "\n"
        for place, text, vector in rows
    ).encode()


def lines_of(texts):
    return "".join(f"{text}\n" for text in texts)
