"""A token classifier in Hugging Face's layout, as run_ner takes it; numbers pinned from
transformers 4.57.6 (BertForTokenClassification on the same weights and ids, torch 2.13, float32).
"""

import json

import hub_toys as toys
import numpy as np
import pytest

from bert_tools import encoder, hub
from bert_tools.cli import app, run_ner

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
WORDS = ["the", "cats", "é", ".", "猫", "e", "cat"]
TAGS = ["B-LOC", "B-LOC", "B-LOC", "O", "B-LOC", "B-LOC", "O"]
LOGITS = [
    [4.83707, -1.334318, -5.722175, 2.890965, -1.877291],
    [1.736093, -0.249776, -3.270133, 2.383111, 1.163452],
    [2.955899, -3.022817, -3.292365, 5.431823, 1.664781],
    [3.639899, -0.756804, -5.218272, 2.45967, -1.003669],
    [1.425305, -0.254614, -3.985026, 2.419248, -0.091356],
    [4.173354, 0.000103, -3.700312, 2.604656, 1.10405],
    [0.383968, -1.722081, -4.352942, 2.282999, -0.72905],
    [4.150456, -3.493114, -4.849409, 4.742392, -0.021628],
    [4.543287, -1.264436, -4.716232, 4.298523, -0.44169],
    [-1.522453, -1.230911, -1.295547, 4.356616, 2.626956],
]


@pytest.fixture
def write(tmp_path):
    """function(labels, **config) -> a folder as transformers' save_pretrained leaves it: no
    pooler.
    """

    def write(labels=LABELS, **config):
        rng = np.random.default_rng(7)
        tensors = {
            f"bert.{name}": (0.4 * rng.normal(size=shape) + name.endswith("Norm.weight")).astype(
                np.float32
            )
            for name, shape in toys.huggingface_shapes().items()
            if "pooler" not in name
        }
        for name, shape in (("weight", (len(labels), 8)), ("bias", (len(labels),))):
            tensors[f"classifier.{name}"] = rng.normal(size=shape).astype(np.float32)
        said = {
            "architectures": ["BertForTokenClassification"],
            "id2label": {str(index): label for index, label in enumerate(labels)},
            "label2id": {label: index for index, label in enumerate(labels)},
        }
        folder = toys.write_huggingface(tmp_path / "model", tensors, {**said, **config})
        toys.write_json(f"{folder}/tokenizer_config.json", {"do_lower_case": False})
        return folder

    return write


@pytest.fixture
def run(capsys, monkeypatch):
    """function(**flags) -> (exit status, stdout, stderr)."""

    def run(**flags):
        monkeypatch.setattr(app.log, "handlers", [])
        capsys.readouterr()
        status = run_ner.main([f"--{n}={v}" for n, v in {"max_seq_length": 16, **flags}.items()])
        return (status, *capsys.readouterr())

    return run


def test_logits_of_transformers(write):
    model = hub.load(write())
    ids = [[2, *model.tokenizer.encode_batch([" ".join(WORDS)])[0], 3]]
    assert ids == [[2, 5, 6, 7, 8, 12, 11, 9, 6, 3]]
    batch = {
        "input_ids": np.array(ids, np.int32),
        "input_mask": np.ones((1, 10), np.int32),
        "segment_ids": np.zeros((1, 10), np.int32),
    }
    hidden = encoder.encode(model.config, model.weights, batch).sequence_output
    logits = hidden[0] @ model.weights["output_weights"].T + model.weights["output_bias"]
    np.testing.assert_allclose(logits, LOGITS, atol=1e-5)


def test_tags_of_transformers(run, write, tmp_path):
    """Without training: its labels are those of config.json, and its words' tags transformers'."""
    path = tmp_path / "words.txt"
    path.write_text("\n".join(WORDS) + "\n", "utf-8")
    status, printed, err = run(bert=write(), predict_file=path)
    assert status == 0, err
    assert printed == "".join(f"{word} {tag}\n" for word, tag in zip(WORDS, TAGS, strict=True))


def test_evaluation(run, write, tmp_path):
    lines = [f"{word} {tag}" for word, tag in zip(WORDS, TAGS, strict=True)]
    right, wrong = tmp_path / "right.txt", tmp_path / "wrong.txt"
    right.write_text("\n".join(lines) + "\n", "utf-8")
    lines[0] = "the B-LOC" if TAGS[0] != "B-LOC" else "the O"
    wrong.write_text("\n".join(lines) + "\n", "utf-8")
    status, printed, err = run(bert=write(), eval_file=f"{right},{wrong}")
    assert status == 0, err
    first, second = map(json.loads, printed.splitlines())
    assert first["f1_score"] == first["eval_accuracy"] == 1.0
    assert second["f1_score"] < 1 and second["eval_accuracy"] == pytest.approx(6 / 7)


@pytest.mark.parametrize("begin", ["B", "I"])
def test_evaluation_of_a_model_without_b(run, write, tmp_path, begin):
    """Its entities are runs of I-, whatever the file calls their first word."""
    path = tmp_path / "dev.txt"
    path.write_text("\n".join(WORDS) + "\n", "utf-8")
    bert = write(["I-LOC", "O", "I-PER"])
    status, printed, err = run(bert=bert, predict_file=path)
    assert status == 0, err
    assert " B-" in printed
    path.write_text(printed.replace(" B-", f" {begin}-"), "utf-8")
    status, printed, err = run(bert=bert, eval_file=path)
    assert status == 0, err
    results = json.loads(printed)
    assert results["f1_score"] == results["eval_accuracy"] == 1.0


def test_training_goes_on_with_its_columns(run, write, tmp_path):
    """Where the training set has the same tags, in the model's order and from its head."""
    labels = ["B-LOC", "I-LOC", "O"]
    (tmp_path / "train.txt").write_text("the O\ncat B-LOC\n\n" * 2)
    source = write(labels)
    status, _, err = run(
        bert=source,
        do_train=True,
        data_dir=tmp_path,
        output_dir=tmp_path / "out",
        train_batch_size=2,
        num_train_epochs=1,
        learning_rate=0,
    )
    assert status == 0, err
    trained = hub.load(str(tmp_path / "out"))
    assert trained.meta["labels"] == labels
    expected = hub.load(source).weights["output_weights"]
    np.testing.assert_array_equal(trained.weights["output_weights"], expected)


@pytest.mark.parametrize(
    ("labels", "config", "message"),
    [
        (["NOUN", "VERB"], {}, "does not say what its tags are (in BIO or BIOES)"),
        (["LABEL_0", "LABEL_1"], {}, "does not say what its tags are"),
        (["O", "B-X"], {"architectures": ["BertForSequenceClassification"]}, "does not say what"),
        (["O", "I-Y"], {}, "dev.txt:1: the tag 'B-X' is none of the model's: O, I-Y"),
    ],
)
def test_labels_that_are_no_tags(run, write, tmp_path, labels, config, message):
    (tmp_path / "dev.txt").write_text("the B-X\n")
    status, printed, err = run(bert=write(labels, **config), eval_file=tmp_path / "dev.txt")
    assert (status, printed) == (1, "") and message in err
