"""scripts/batch_eval.sh: a shell pipeline over a folder."""

import json
import shutil
import subprocess
import sys

import pytest
from cli_toys import ENVIRONMENT, ROOT, results_of

SCRIPT = str(ROOT / "scripts" / "batch_eval.sh")


def batch_eval(command, *arguments):
    """The finished process of a shell command in which "$@" is the script with its arguments."""
    return subprocess.run(
        ["bash", "-c", command, "bash", SCRIPT, *map(str, arguments)],
        env={**ENVIRONMENT, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_line_a_file(trained, tmp_path):
    folder, data = trained
    tables = tmp_path / "a folder"
    tables.mkdir()
    for name in ("may.tsv", "june.tsv"):
        shutil.copy(data / "dev.tsv", tables / name)
    (tables / "notes.txt").write_text("not a table")
    # What jq would be asked: `jq -r '[.file, .pearson] | @tsv' | sort`.
    reader = "import json, sys; [print(json.loads(line)['pearson']) for line in sys.stdin]"
    done = batch_eval(
        '"$@" | python3 -c "$READER" | sort -u'.replace("$READER", reader), folder, tables
    )
    assert done.returncode == 0, done.stderr
    expected = float(results_of(folder / "eval_results.txt")["pearson"])
    assert [float(line) for line in done.stdout.split()] == [pytest.approx(expected, rel=1e-4)]
    lines = [json.loads(line) for line in batch_eval('"$@"', folder, tables).stdout.splitlines()]
    assert [line["file"] for line in lines] == [str(tables / n) for n in ("june.tsv", "may.tsv")]


def test_errors(trained, tmp_path):
    done = batch_eval('"$@"', trained[0])
    assert done.returncode == 1 and done.stderr.startswith("usage: batch_eval.sh MODEL FOLDER")
    done = batch_eval('"$@"', trained[0], tmp_path)
    assert done.returncode == 1 and "no .tsv file; check the folder" in done.stderr
