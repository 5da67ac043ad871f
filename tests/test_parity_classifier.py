"""The original run_classifier.py's own numbers on TensorFlow 1.15, pinned: what it made of one
checkpoint (MiniLM and a made-up head) and the files that are written here.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from bert_tools import hub
from bert_tools.cli import run_classifier
from bert_tools.hub import google

DATA = pathlib.Path(__file__).parent / "data"
# Of the made-up head, such that every class is decided for some row.
BIASES = {
    "cola": (1.4, -1.4),
    "mrpc": (1.4, -1.4),
    "mnli": (-1.4, 0.8, 0.7),
    "xnli": (-2.8, -1.8, 4.6),
}
REAL = ("cola", "mrpc")  # Of the data in ../shared; the others are made up here.
WIDTH = 64
NLI = ("contradiction", "entailment", "neutral")
IDS = {"input_ids": WIDTH, "input_mask": WIDTH, "segment_ids": WIDTH}
SCALARS = {"label_ids": 1, "is_real_example": 1}
# Quotes without their other half, accents, full-width forms, a special token's name.
ENGLISH = (
    "the committee,",
    "never agreed",
    '"nobody said',
    "in İstanbul",
    "that 3.5 million",
    "naïve visitors",
    "won't",
    "pay (again)",
    "[MASK]",
    "before Monday's",
    "antidisestablishmentarianism",
    "meeting.",
    "yes",
)
CHINESE = (
    "他在北京的大学里",
    "没有说过",
    "三个人。",
    "“今天",
    "２００８年",
    "上海，",
    "我们都不知道",
    "iPhone 7",
    "天气很好！",
    "中国的一个小公司",
    "ABC大学",
)


def made_up(parts, number):
    """A text of one to nine of the parts, of 30 now and then: too long for WIDTH."""
    count = 30 if number % 25 == 24 else 1 + number % 9
    return " ".join(parts[(number * 5 + place * 7) % len(parts)] for place in range(count))


def write_cola(folder, shared):
    """GLUE's dev set, and its texts once more in the form of GLUE's test file."""
    text = (shared / "data" / "glue" / "CoLA" / "dev.tsv").read_text("utf-8")
    (folder / "dev.tsv").write_text(text, "utf-8")
    texts = [line.split("\t")[3] for line in text.splitlines()]
    rows = [f"{index}\t{text}" for index, text in enumerate(texts)]
    (folder / "test.tsv").write_text("\n".join(["index\tsentence", *rows]) + "\n", "utf-8")


def write_mrpc(folder, shared):
    """GLUE's files as they ship, with their byte order mark and unbalanced quotes."""
    for name in ("dev.tsv", "test.tsv"):
        content = (shared / "data" / "glue" / "MRPC" / name).read_bytes()
        (folder / name).write_bytes(content)


def write_mnli(folder, _):
    """150 rows in GLUE's columns."""
    head = "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse"
    head = [*head.split(), "sentence1_parse", "sentence2_parse", "sentence1", "sentence2"]
    rows = [
        [str(n), *"abcdefg", made_up(ENGLISH, n), made_up(ENGLISH, 3 * n + 1)] for n in range(150)
    ]
    labels = [[NLI[n % 2], NLI[n % 3]] for n in range(150)]
    write_rows(folder / "test_matched.tsv", [head, *rows])
    rows = [[*row, *label] for row, label in zip(rows, labels, strict=True)]
    write_rows(folder / "dev_matched.tsv", [[*head, "label1", "gold_label"], *rows])


def write_xnli(folder, _):
    """120 rows in Chinese, and 40 in another language that nobody asks for."""
    head = "language gold_label sentence1_binary_parse sentence2_binary_parse sentence1_parse"
    head = [*head.split(), "sentence2_parse", "sentence1", "sentence2", "promptID"]
    rows = []
    for n in range(160):
        language, parts = ("en", ENGLISH) if n % 4 == 1 else ("zh", CHINESE)
        texts = [made_up(parts, n), made_up(parts, 3 * n + 1)]
        rows.append([language, NLI[n % 3], "", "", "", "", *texts, str(n)])
    for name in ("xnli.dev.tsv", "xnli.test.tsv"):
        write_rows(folder / name, [head, *rows])


def write_rows(path, rows):
    path.write_text("".join("\t".join(row) + "\n" for row in rows), "utf-8")


WRITERS = {"cola": write_cola, "mrpc": write_mrpc, "mnli": write_mnli, "xnli": write_xnli}


def write_model(folder, minilm, bias):
    """The checkpoint in Google's layout; the original knows the tanh form of GELU alone."""
    model = hub.load(minilm)
    weights = np.random.RandomState(len(bias)).standard_normal((len(bias), 384)) * 2
    head = {
        "output_weights": weights.astype(np.float32),
        "output_bias": np.array(bias, np.float32),
    }
    config = dataclasses.replace(model.config, hidden_act="gelu_tanh")
    model = model._replace(config=config, weights={**model.weights, **head})
    google.write(str(folder), model)


def flags(task, folder):
    """The command line that the original was given, but for the phases."""
    return [
        f"--task_name={task}",
        f"--data_dir={folder / task}",
        f"--bert_config_file={folder / 'model' / 'bert_config.json'}",
        f"--vocab_file={folder / 'model' / 'vocab.txt'}",
        f"--init_checkpoint={folder / 'model' / 'bert_model.ckpt'}",
        f"--max_seq_length={WIDTH}",
        f"--output_dir={folder / 'out'}",
    ]


def digests(path):
    """Of a file of padded records: how many there are, and the sha256 of each feature."""
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
    names = {name for r in records for name in tf.train.Example.FromString(r).features.feature}
    spec = {
        name: tf.io.FixedLenFeature([count], tf.int64) for name, count in (IDS | SCALARS).items()
    }
    found = tf.io.parse_example(records, spec)
    assert names == spec.keys()
    arrays = {name: np.ascontiguousarray(found[name].numpy()) for name in sorted(spec)}
    return {"examples": len(records)} | {
        name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()
    }


def results_of(path):
    lines = path.read_text("ascii").splitlines()
    return {name: float(value) for name, value in (line.split(" = ") for line in lines)}


@functools.cache
def pinned():
    return json.loads((DATA / "classifier_original.json").read_text("ascii"))


@pytest.fixture(scope="module", params=BIASES)
def ran(request, minilm, tmp_path_factory):
    """(task, output_dir) of the same command line."""
    task, folder = request.param, tmp_path_factory.mktemp(request.param)
    (folder / task).mkdir()
    WRITERS[task](folder / task, request.getfixturevalue("shared") if task in REAL else None)
    write_model(folder / "model", minilm, BIASES[task])
    phases = ["--do_eval=true", "--do_predict=true", "--pad_records=true"]
    assert run_classifier.main([*flags(task, folder), *phases]) == 0
    return task, folder / "out"


def test_features(ran):
    task, out = ran
    for phase in ("eval", "predict"):
        assert digests(out / f"{phase}.tf_record") == pinned()[task][phase]


def test_probabilities(ran):
    """Every row of test_results.tsv, within 1e-5."""
    task, out = ran
    expected = np.load(DATA / "classifier_original.npz")[task]
    found = np.loadtxt(out / "test_results.tsv", delimiter="\t", dtype=np.float32)
    assert found.shape == expected.shape
    assert set(expected.argmax(axis=1)) == set(range(len(BIASES[task])))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_evaluation(ran):
    """The original's four lines; `loss` is the mean over batches, as there."""
    task, out = ran
    found, expected = results_of(out / "eval_results.txt"), pinned()[task]["eval_results"]
    assert found.keys() >= expected.keys()
    assert sorted(expected) == ["eval_accuracy", "eval_loss", "global_step", "loss"]
    assert found["eval_accuracy"] == pytest.approx(expected["eval_accuracy"], abs=1e-7)
    for name in ("eval_loss", "loss"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5)
    assert found["global_step"] == expected["global_step"] == 0
