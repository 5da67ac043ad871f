"""The names that old pipelines call by path."""

import os
import pathlib
import subprocess
import sys

import pytest

SCRIPTS = pathlib.Path(__file__).resolve().parent.parent / "scripts"
CLI = SCRIPTS.parent / "bert_tools" / "cli"
MODULES = sorted(path.stem for path in CLI.glob("*.py") if "\ndef main(" in path.read_text())


@pytest.mark.parametrize("name", sorted(path.name for path in SCRIPTS.glob("*.py")))
def test_runs_by_path(tmp_path, name):
    """From any folder; what the command does is tested with the command."""
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS.parent)}
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / name), "--help"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert name.removesuffix(".py") in done.stdout
    assert "--max_seq_length" in done.stdout


def _error(*command, cwd):
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS.parent)}
    done = subprocess.run(
        [sys.executable, *command, "--no_such_flag=1"],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", sorted(path.name for path in SCRIPTS.glob("*.py")))
def test_exit_status_of_an_error(tmp_path, name):
    _error(str(SCRIPTS / name), cwd=tmp_path)


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_commands_too(tmp_path, name):
    """python -m bert_tools.cli.run_reg, and by the path: it must not end well with nothing done."""
    _error("-m", f"bert_tools.cli.{name}", cwd=tmp_path)
    _error(str(CLI / f"{name}.py"), cwd=tmp_path)


def test_the_originals_names_are_there():
    assert {path.name for path in SCRIPTS.glob("*.py")} >= {
        "run_reg.py",
        "extract_features.py",
        "extract_cls.py",
    }
