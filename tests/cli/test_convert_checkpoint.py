"""A model that run_reg trained, in every layout; the layouts themselves are tested in tests/hub."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from cli_toys import toy_flags, values_of

from bert_tools import checkpoints, hub
from bert_tools.cli import app, convert_checkpoint
from bert_tools.hub import tf_hub


@pytest.fixture
def converted(tmp_path, trained, monkeypatch, capsys):
    """function(layout, source=what run_reg wrote) -> folder."""

    def converted(layout, source=trained[0]):
        monkeypatch.setattr(app.log, "handlers", [])
        folder = str(tmp_path / layout)
        arguments = [f"--bert={source}", f"--to={layout}", f"--output_dir={folder}"]
        assert convert_checkpoint.main(arguments) == 0, capsys.readouterr().err
        return folder

    return converted


@pytest.mark.parametrize("layout", ["google", "huggingface", "sentence_transformers"])
def test_predictions_stay(converted, run, tmp_path, trained, layout):
    """There and back, with what the task needs to know."""
    out, data = trained
    there = converted(layout)
    back = converted({"google": "huggingface"}.get(layout, "google"), there)
    for folder in (there, back):
        found = tmp_path / "values.txt"
        status, _, err = run(
            bert=folder, predict_file=data / "test.tsv", predict_output=found, max_seq_length=16
        )
        assert status == 0, err
        np.testing.assert_allclose(values_of(found), values_of(out / "test_results.tsv"), atol=1e-6)
        found.unlink()
    saved = checkpoints.read(checkpoints.latest(str(out)))
    for name, array in hub.load(back).weights.items():
        assert array.tobytes() == saved[name].tobytes(), name


def test_a_trained_encoder_as_a_saved_model(converted, trained):
    loaded = tf.saved_model.load(converted("tf_hub"))
    found = {variable.name.removesuffix(":0"): variable for variable in loaded.variables}
    saved = checkpoints.read(checkpoints.latest(str(trained[0])))
    encoder = {name: array for name, array in saved.items() if name.startswith("bert/")}
    assert len(found) == len(encoder)
    for name, array in encoder.items():
        assert found[tf_hub.model_garden_name(name)].numpy().tobytes() == array.tobytes()


@pytest.mark.parametrize("layout", ["google", "sentence_transformers", "tf_hub"])
def test_training_does_not_go_into_a_converted_model(converted, run, toy_model, trained, layout):
    """Which has a bert_tools.json too."""
    folder = pathlib.Path(converted(layout))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    flags = toy_flags(toy_model, trained[1], folder)
    status, _, err = run(**flags, do_train=True)
    assert status == 1 and f"--output_dir={folder}: holds another model (" in err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
