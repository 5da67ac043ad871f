"""Runs of run_reg in this process, and a folder that one has trained."""

import numpy as np
import pytest
from cli_toys import as_arguments, toy_flags

from bert_tools import encoder
from bert_tools.cli import app, phases, run_reg


@pytest.fixture
def run(capsys, monkeypatch):
    """function(*arguments, **flags) -> (exit status, stdout, stderr)."""

    def run(*arguments, **flags):
        # Without the handler of an earlier test, which holds that test's stderr.
        monkeypatch.setattr(app.log, "handlers", [])
        capsys.readouterr()
        status = run_reg.main([*arguments, *as_arguments(flags)])
        return (status, *capsys.readouterr())

    return run


@pytest.fixture
def sim(run, toy_model, toy_data, tmp_path):
    """As run, with the toy model and data, 12 steps into OUT, and a check that it went well;
    returns stderr.
    """

    def sim(*arguments, **flags):
        flags = {**toy_flags(toy_model, toy_data, tmp_path / "out"), **flags}
        status, out, err = run(*arguments, **flags)
        assert status == 0, err
        assert out == ""
        return err

    return sim


@pytest.fixture
def refused(run, toy_model, toy_data, tmp_path):
    """As sim, with --do_train; checks the manner of the error and returns its sentence."""

    def refused(*arguments, **flags):
        flags = {**toy_flags(toy_model, toy_data, tmp_path / "out"), "do_train": True, **flags}
        status, out, err = run(*arguments, **flags)
        assert (status, out) == (1, ""), err
        (error,) = (line for line in err.splitlines() if not line.startswith(("INFO", "WARNING")))
        assert error.startswith("error: ")
        return error

    return refused


@pytest.fixture
def read(sim, monkeypatch):
    """As sim, but ends where the work would begin; returns the arguments of phases.Session by
    name.
    """

    def read(*arguments, **flags):
        seen = {}

        class Session:
            def __init__(self, command, task, source, data, stored):
                seen.update(command=command, task=task, data=data)

            def run(self):
                pass

        with monkeypatch.context() as patch:
            patch.setattr(phases, "Session", Session)
            seen["err"] = sim(*arguments, **flags)
        return seen

    return read


@pytest.fixture
def no_dropout(monkeypatch):
    monkeypatch.setattr(encoder, "dropout", lambda x, rate, seed: x)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, wide_model):
    """(output_dir, data_dir) of a whole run; not to be written to."""
    folder = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(5)
    for split, rows in (("train", 24), ("dev", 6), ("test", 5)):
        lines = []
        for _ in range(rows):
            texts = [" ".join(rng.choice(list("abcd"), n)) for n in rng.integers(1, 7, 2)]
            third = [f"{rng.integers(0, 5) / 4}"] if split != "test" else []
            lines.append("\t".join([*texts, *third]))
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    flags = toy_flags(wide_model, folder, folder / "out")
    flags.update(do_train=True, do_eval=True, do_predict=True, eval_batch_size=4)
    handlers, app.log.handlers = app.log.handlers, []
    assert run_reg.main(as_arguments(flags)) == 0
    app.log.handlers = handlers
    return folder / "out", folder
