"""TFRecord files: read by the originals' own parser, padded or not, reused, damaged, no space."""

import hashlib
import json
import os
import pathlib
import resource

import numpy as np
import pytest
import tensorflow as tf

from bert_tools.errors import UserError
from bert_tools.inputs import tfrecord
from bert_tools.inputs.examples import InputExample, Layout, load_examples
from bert_tools.inputs.features import Features, convert_examples_to_features
from bert_tools.tokenization import FullTokenizer

DATA = pathlib.Path(__file__).parent.parent / "data"
IDS = ("input_ids", "input_mask", "segment_ids")
SPLITS = {"train": "train", "eval": "dev", "predict": "test"}


@pytest.fixture
def small_disk():
    """Files may not grow beyond 64 KiB, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def uncased(shared):
    return FullTokenizer(str(shared / "vocab" / "bert-base-uncased" / "vocab.txt"))


def toy_tokenizer(more=()):
    words = ["[UNK]", "[CLS]", "[SEP]", *(f"w{index}" for index in range(300)), *more]
    return FullTokenizer(vocab={word: index for index, word in enumerate(words)})


def toy_examples(count=40, seed=0):
    rng = np.random.default_rng(seed)

    def text(most):
        return " ".join(f"w{i}" for i in rng.integers(0, 301, rng.integers(0, most)))

    return [
        InputExample(f"train-{index}", text(9), text(9) if index % 3 else None, index / 64)
        for index in range(count)
    ]


def convert(path, examples, length=12, pad=False, key=None, tokenizer=None):
    tokenizer = toy_tokenizer() if tokenizer is None else tokenizer
    return tfrecord.file_based_convert_examples_to_features(
        examples, None, length, tokenizer, str(path), pad_records=pad, key=key
    )


def features_of(examples, length=12):
    return convert_examples_to_features(examples, None, length, toy_tokenizer())


def assert_same(found, expected):
    assert isinstance(found, Features) and found.columns.keys() == expected.columns.keys()
    pairs = [(getattr(found, n), getattr(expected, n)) for n in (*IDS[::2], "offsets")]
    pairs += [(found.columns[name], expected.columns[name]) for name in expected.columns]
    for one, other in pairs:
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def original_spec(length):
    """name_to_features of the original run_reg.py."""
    return {
        "input_ids": tf.io.FixedLenFeature([length], tf.int64),
        "input_mask": tf.io.FixedLenFeature([length], tf.int64),
        "segment_ids": tf.io.FixedLenFeature([length], tf.int64),
        "vals": tf.io.FixedLenFeature([], tf.float32),
    }


def write_original(path, examples, length):
    """Writes a padded file as the original does: tf.train.Example, one after another."""

    def int64s(values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=list(values)))

    features = features_of(examples, length)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for index, example in enumerate(examples):
            part = slice(*features.offsets[index : index + 2])
            ids, segments = features.input_ids[part].tolist(), features.segment_ids[part].tolist()
            padding = [0] * (length - len(ids))
            feature = {
                "input_ids": int64s(ids + padding),
                "input_mask": int64s([1] * len(ids) + padding),
                "segment_ids": int64s(segments + padding),
                "vals": tf.train.Feature(
                    float_list=tf.train.FloatList(value=[float(example.label)])
                ),
            }
            message = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(message.SerializeToString())
    return features


def records(path):
    return list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())


def test_padded_records_parse_with_the_original_spec(tmp_path):
    examples = toy_examples()
    convert(tmp_path / "x", examples, pad=True)
    expected = features_of(examples)
    found = records(tmp_path / "x")
    assert len(found) == len(examples)
    for index, record in enumerate(found):
        parsed = tf.io.parse_single_example(record, original_spec(12))
        length = expected.lengths[index]
        part = slice(*expected.offsets[index : index + 2])
        padding = [0] * (12 - length)
        ids, segments = expected.input_ids[part].tolist(), expected.segment_ids[part].tolist()
        assert parsed["input_ids"].numpy().tolist() == ids + padding
        assert parsed["segment_ids"].numpy().tolist() == segments + padding
        assert parsed["input_mask"].numpy().tolist() == [1] * length + padding
        assert parsed["vals"].numpy() == np.float32(examples[index].label)


@pytest.mark.parametrize("pad", [False, True])
def test_records_are_what_protobuf_writes(tmp_path, pad):
    """Each message, parsed by protobuf and written again, holds the four features and no more."""
    examples = toy_examples()
    convert(tmp_path / "x", examples, pad=pad)
    lengths = features_of(examples).lengths
    for index, record in enumerate(records(tmp_path / "x")):
        message = tf.train.Example.FromString(record)
        assert sorted(message.features.feature) == [
            "input_ids",
            "input_mask",
            "segment_ids",
            "vals",
        ]
        for name in IDS:
            count = len(message.features.feature[name].int64_list.value)
            assert count == (12 if pad else lengths[index])
        assert len(record) == len(message.SerializeToString())


@pytest.mark.parametrize("split", SPLITS)
def test_stsb_as_the_original_wrote_it(tmp_path, shared, uncased, split):
    """At length 128, padded: every bit of the tensors that the original's file gives."""
    pinned = json.loads((DATA / "stsb_records.json").read_text("ascii"))[split]
    path = str(shared / "data" / "stsb" / "en" / f"{SPLITS[split]}.tsv")
    labelled = split != "predict"
    examples = load_examples(
        path, Layout(0, 1, 2 if labelled else None), split, float if labelled else None
    )
    arrays = {}
    for pad in (False, True):
        counts = convert(tmp_path / f"{pad}", examples, 128, pad, tokenizer=uncased)
        features = tfrecord.read_features(str(tmp_path / f"{pad}"))
        assert counts == (len(features.input_ids), 0, 0)
        places = np.arange(128) < features.lengths[:, None]
        arrays[pad] = {name: np.zeros((len(features), 128), np.int64) for name in IDS}
        arrays[pad]["input_ids"][places] = features.input_ids
        arrays[pad]["input_mask"][places] = 1
        arrays[pad]["segment_ids"][places] = features.segment_ids
        arrays[pad]["vals"] = features.columns["vals"]
    parsed = tf.io.parse_example(records(tmp_path / "True"), original_spec(128))
    arrays["original"] = {name: tensor.numpy() for name, tensor in parsed.items()}
    assert len(examples) == pinned["examples"]
    for found in arrays.values():
        assert sorted(found) == pinned["names"]
        for name, array in found.items():
            digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
            assert digest == pinned[f"{name}_sha256"], name


def test_the_originals_padded_files_are_read(tmp_path):
    examples = toy_examples(2500)  # More than are parsed at a time.
    expected = write_original(tmp_path / "x", examples, 16)
    assert_same(tfrecord.read_features(str(tmp_path / "x")), expected)


def test_examples_that_fill_a_batch_are_none(tmp_path):
    """The originals' run_classifier adds empty ones on a TPU, with is_real_example 0."""
    kinds = [1, 0, 1, 1, 0, 0]
    with tf.io.TFRecordWriter(str(tmp_path / "eval.tf_record")) as writer:
        for number, real in enumerate(kinds):
            ids = [number + 5] * (number + 1) * real
            columns = {
                "input_ids": ids + [0] * (8 - len(ids)),
                "input_mask": [1] * len(ids) + [0] * (8 - len(ids)),
                "segment_ids": [0] * 8,
                "label_ids": [number],
                "is_real_example": [real],
            }
            features = {
                name: tf.train.Feature(int64_list=tf.train.Int64List(value=values))
                for name, values in columns.items()
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())
    found = tfrecord.read_features(str(tmp_path / "eval.tf_record"))
    assert found.columns["label_ids"].tolist() == [0, 2, 3]
    assert found.lengths.tolist() == [1, 3, 4]
    assert found.input_ids.tolist() == [5] + [7] * 3 + [8] * 4


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("count", [0, 1, 40, 5000])
def test_round_trip(tmp_path, pad, count):
    examples = toy_examples(count)
    tokens, unknown, empty = convert(tmp_path / "x", examples, pad=pad)
    expected = features_of(examples)
    found = tfrecord.read_features(str(tmp_path / "x"))
    if count:
        assert_same(found, expected)
    else:
        assert len(found) == 0 and found.columns == {}
    # Ids 0 to 2 are [UNK], [CLS] and [SEP].
    rows = np.split(expected.input_ids, expected.offsets[1:-1])
    assert empty == (sum(max(row) <= 2 for row in rows) if count else 0)
    assert tokens == len(expected.input_ids)
    assert unknown == np.count_nonzero(expected.input_ids == 0)
    assert unknown > 0 or count < 40
    assert os.listdir(tmp_path) == ["x"]  # Without a key there is none beside it.


def test_padding_makes_the_file_larger(tmp_path):
    examples = toy_examples()
    convert(tmp_path / "short", examples)
    convert(tmp_path / "padded", examples, pad=True)
    assert (tmp_path / "short").stat().st_size < (tmp_path / "padded").stat().st_size


def test_every_size_of_number(tmp_path):
    """Ids and labels at the edges of the wire format's groups of seven bits."""
    edges = [0, 1, 127, 128, 16383, 16384, 2097151, 2097152, 268435455, 268435456, 2**31 - 1]
    labels = np.array([0, 1, -1, 127, 128, 2**31, -(2**31), 2**62, -(2**63), 300, -300], np.int64)
    floats = np.array([0, -0.0, 1e-45, 3e38, -1, 0.1, 5, np.inf, -2.5, 1 / 3, 7], np.float32)
    features = Features(
        np.array(edges * 2, np.int32),
        np.zeros(22, np.int32),
        np.arange(0, 23, 2),
        {"label_ids": labels, "vals": floats},
    )
    for pad_to in (None, 5):
        path = tmp_path / f"{pad_to}"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in tfrecord.serialize(features, pad_to):
                writer.write(record)
        assert_same(tfrecord.read_features(str(path)), features)


def test_longest_records(tmp_path):
    """512 tokens of three bytes each: lengths themselves take several bytes on the wire."""
    ids = np.arange(20000, 20512, dtype=np.int32)
    segments = (ids > 20300).astype(np.int32)
    vals = {"vals": np.ones(1, np.float32)}
    features = Features(ids, segments, np.array([0, 512]), vals)
    (record,) = tfrecord.serialize(features, 512)
    parsed = tf.io.parse_single_example(record, original_spec(512))
    np.testing.assert_array_equal(parsed["input_ids"], ids)
    np.testing.assert_array_equal(parsed["segment_ids"], segments)


@pytest.fixture
def keyed(tmp_path):
    """Function that converts with a key of the given circumstances; returns what was written."""
    record_file = tmp_path / "train.tf_record"

    def run(tokenizer=None, length=12, pad=False, count=40, change=None):
        tokenizer = toy_tokenizer() if tokenizer is None else tokenizer
        examples = toy_examples(count)
        if change:
            setattr(examples[7], *change)
        key = tfrecord.file_key(examples, tokenizer, max_seq_length=length, pad_records=pad)
        return convert(record_file, examples, length, pad, key, tokenizer)

    run.record_file = record_file
    return run


def state(path):
    status = os.stat(path)
    return status.st_mtime_ns, status.st_ino, path.read_bytes()


def test_nothing_changed_the_file_is_used_again(keyed):
    assert keyed() is not None
    before = state(keyed.record_file)
    assert keyed() is None
    assert state(keyed.record_file) == before
    kept = json.loads(keyed.record_file.with_name("train.tf_record.json").read_text())
    assert kept["examples"] == 40 and kept["bytes"] == len(before[2])


@pytest.mark.parametrize(
    "change",
    [
        lambda keyed: {"change": ("text_a", "w1")},
        lambda keyed: {"change": ("text_b", None)},
        lambda keyed: {"change": ("label", 0.5)},
        lambda keyed: {"tokenizer": toy_tokenizer(["more"])},
        lambda keyed: {"length": 11},
        lambda keyed: {"pad": True},
        lambda keyed: os.truncate(keyed.record_file, keyed.record_file.stat().st_size - 1),
        lambda keyed: keyed.record_file.write_bytes(b""),
        lambda keyed: keyed.record_file.unlink(),
        lambda keyed: keyed.record_file.with_name("train.tf_record.json").unlink(),
        lambda keyed: keyed.record_file.with_name("train.tf_record.json").write_text("{"),
        lambda keyed: keyed.record_file.with_name("train.tf_record.json").write_text("{}"),
    ],
    ids=[
        "text",
        "second text",
        "label",
        "tokenizer",
        "length",
        "padding",
        "cut short",
        "emptied",
        "removed",
        "no key",
        "key cut short",
        "empty key",
    ],
)
def test_something_changed_the_file_is_made_anew(keyed, change):
    keyed()
    whole = keyed.record_file.read_bytes()
    changed = change(keyed)
    arguments = changed if isinstance(changed, dict) else {}
    before = os.stat(keyed.record_file).st_ino if keyed.record_file.exists() else None
    assert keyed(**arguments) is not None
    assert os.stat(keyed.record_file).st_ino != before or before is None
    assert (keyed.record_file.read_bytes() == whole) == (
        not {"length", "pad", "change"} & arguments.keys()
    )
    assert keyed(**arguments) is None


def test_an_old_key_never_vouches_for_a_new_file(keyed, monkeypatch):
    """A kill between the records and their key: the file is made anew the next time."""
    keyed()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tfrecord.files, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            keyed(length=11)
    assert not keyed.record_file.with_name("train.tf_record.json").exists()
    assert keyed() is not None


def test_key_depends_on_content_alone():
    one, same, other = ([InputExample(guid, text)] for guid, text in ("ax", "bx", "ay"))
    keys = [tfrecord.file_key(e, toy_tokenizer(), task="sim") for e in (one, same, other)]
    assert keys[0] == keys[1] != keys[2]
    assert keys[0] != tfrecord.file_key(one, toy_tokenizer(), task="cola")
    json.dumps(keys)


def damaged(tmp_path, how):
    path = tmp_path / "x"
    convert(path, toy_examples())
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(
        {
            "cut in a record": content[:half],
            "cut in a length": content[:5],
            "cut in the last head": content[: -len(records(path)[-1]) - 10],
            "a bit": content[:half] + bytes([content[half] ^ 4]) + content[half + 1 :],
            "noise": b"\x01\x02\x03" * 100,
            "text": b"a\tb\t0.5\n" * 10,
        }[how]
    )
    return str(path)


@pytest.mark.parametrize(
    "how", ["cut in a record", "cut in a length", "cut in the last head", "a bit", "noise", "text"]
)
def test_damaged_file(tmp_path, how):
    with pytest.raises(UserError, match=r"x: not a readable TFRecord file .+; remove it"):
        tfrecord.read_features(damaged(tmp_path, how))


@pytest.mark.parametrize(
    "how", ["other columns", "no Example", "uneven", "no input_ids", "mask of text"]
)
def test_records_of_something_else(tmp_path, how):
    path = tmp_path / "x"

    def ints(*values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    feature = {name: ints(1, 1) for name in IDS}
    feature["vals"] = tf.train.Feature(float_list=tf.train.FloatList(value=[1]))
    message = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
    first = [message] if how == "other columns" else []
    if how == "other columns":
        del feature["vals"]
    elif how == "uneven":
        feature["input_ids"] = ints(1, 1, 1)
    elif how == "no input_ids":
        del feature["input_ids"]
    elif how == "mask of text":
        feature["input_mask"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"a"]))
    message = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in [*first, b"\xff\xff\xff" if how == "no Example" else message]:
            writer.write(record)
    with pytest.raises(UserError, match=r"x: not a readable TFRecord file .+; remove it"):
        tfrecord.read_features(str(path))


def test_absent_file(tmp_path):
    with pytest.raises(UserError, match="none: no such file"):
        tfrecord.read_features(str(tmp_path / "none"))


def test_full_disk_leaves_nothing(tmp_path, small_disk):
    with pytest.raises(UserError, match=r"x: cannot be written \(.+\); free space"):
        convert(tmp_path / "x", toy_examples(3000), pad=True)
    assert os.listdir(tmp_path) == []


def test_full_disk_keeps_the_old_file_without_its_key(keyed, small_disk):
    keyed()
    before = keyed.record_file.read_bytes()
    with pytest.raises(UserError, match="cannot be written"):
        keyed(count=3000, pad=True)
    names = sorted(os.listdir(keyed.record_file.parent))
    assert keyed.record_file.read_bytes() == before
    assert names == ["train.tf_record"]


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        convert(tmp_path / "none" / "x", toy_examples())
    assert os.listdir(tmp_path) == []


def test_unwritable_place(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        convert(tmp_path / "file" / "x", toy_examples())
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="Permission denied"):
            convert(tmp_path / "x", toy_examples())
    finally:
        tmp_path.chmod(0o700)
    assert os.listdir(tmp_path) == []


def test_an_unknown_label_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match=r"train-1 has the label 0\.015625; the labels are 0, 1"):
        tfrecord.file_based_convert_examples_to_features(
            toy_examples(), [0, 1], 12, toy_tokenizer(), f"{tmp_path}/x"
        )
    assert os.listdir(tmp_path) == []


def test_features_are_written_as_they_are(tmp_path):
    """More than a chunk of them, and with their own columns."""
    count = 5000
    lengths = np.random.default_rng(0).integers(1, 9, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    features = Features(
        np.arange(offsets[-1], dtype=np.int32) % 30000,
        np.arange(offsets[-1], dtype=np.int32) % 2,
        offsets,
        {"unique_ids": np.arange(count) + 10**9},
    )
    path, key = str(tmp_path / "x.tf_record"), {"made": "so"}
    assert not tfrecord.is_current(path, key)
    tfrecord.write_features(features, path, key=key)
    assert tfrecord.is_current(path, key) and not tfrecord.is_current(path, {"made": "otherwise"})
    found = tfrecord.read_features(path)
    np.testing.assert_array_equal(found.input_ids, features.input_ids)
    np.testing.assert_array_equal(found.segment_ids, features.segment_ids)
    np.testing.assert_array_equal(found.offsets, features.offsets)
    np.testing.assert_array_equal(found.columns["unique_ids"], features.columns["unique_ids"])
