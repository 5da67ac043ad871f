"""beam_extract on Beam's DirectRunner."""

import gzip
import subprocess
import sys

import numpy as np
import pytest
from cli_toys import ENVIRONMENT

from bert_tools.cli import app, beam_extract
from bert_tools.sentence.encoder import Encoder

FILES = {
    "a.txt": b"a b\nc , d ||| ae bf .\n\n",
    "b.txt": b"",
    "d.txt": b"\xef\xbb\xbfd\r\nzzz\nc c",
}
TEXTS = ["a b", ("c , d", "ae bf ."), "", *(["a"] * 5), "d", "zzz", "c c"]


@pytest.fixture
def run(capsys, monkeypatch, wide_model, tmp_path):
    """function(**flags) -> (exit status, stderr); reads FILES and c.txt.gz."""
    pytest.importorskip("apache_beam", reason="needs the extra beam", exc_type=ImportError)
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"a\n" * 5))

    def run(**flags):
        monkeypatch.setattr(app.log, "handlers", [])
        flags = {
            "bert": wide_model,
            "max_seq_length": 32,
            "input_file": f"{tmp_path}/*.txt,{tmp_path}/c*",
            "output_file": tmp_path / "out" / "v.npy",
            "rows_per_shard": 2,
            "runner": "DirectRunner",
            # Else Beam downloads a program for this runner first, and uses it.
            "beam_options": "--prism_location=/none",
            **flags,
        }
        status = beam_extract.main([f"--{name}={value}" for name, value in flags.items()])
        return status, capsys.readouterr().err

    return run


def shards(tmp_path):
    return sorted(path for path in (tmp_path / "out").iterdir())


def test_npy(run, tmp_path, wide_model):
    status, err = run(pooling="mean")
    assert status == 0, err
    found = shards(tmp_path)
    assert [path.name for path in found] == [f"v-{n:05d}-of-00006.npy" for n in range(6)]
    parts = [np.load(path) for path in found]
    assert [part.shape for part in parts] == [(2, 16), (1, 16), (0, 16), (5, 16), (2, 16), (1, 16)]
    want = Encoder.load(wide_model, pooling="mean", max_seq_length=32).encode(TEXTS)
    np.testing.assert_allclose(np.concatenate(parts), want, rtol=0, atol=1e-5)

    before = [path.read_bytes() for path in found]
    assert run(pooling="mean")[0] == 0
    assert [path.read_bytes() for path in shards(tmp_path)] == before


def test_records(run, tmp_path, wide_model):
    import tensorflow as tf

    status, err = run(output_file=tmp_path / "out" / "v.tfrecord", normalize=True, prefix="d ")
    assert status == 0, err
    names = [str(path) for path in shards(tmp_path)]
    assert len(names) == 6 and names[0].endswith("v-00000-of-00006.tfrecord")
    ids, texts, vectors = [], [], []
    for record in tf.data.TFRecordDataset(names).as_numpy_iterator():
        feature = tf.train.Example.FromString(record).features.feature
        ids += feature["id"].int64_list.value
        texts += feature["text"].bytes_list.value
        vectors.append(feature["vector"].float_list.value)
    assert ids == list(range(11))
    assert texts[:2] == [b"a b", b"c , d ||| ae bf ."] and texts[-3:] == [b"d", b"zzz", b"c c"]
    encoder = Encoder.load(
        wide_model, pooling="cls", normalize=True, prefix="d ", max_seq_length=32
    )
    np.testing.assert_allclose(vectors, encoder.encode(TEXTS), rtol=0, atol=1e-5)


def test_bad_line(run, tmp_path):
    (tmp_path / "d.txt").write_bytes(b"a\nb\nc\nd\xe9\n")
    status, err = run()
    assert status == 1
    assert err.splitlines()[-1].startswith(f"error: {tmp_path}/d.txt:4: not UTF-8 at byte 1")
    assert not (tmp_path / "out").exists()
    status, err = run(on_bad_line="skip")
    assert status == 0, err
    last = np.load(shards(tmp_path)[-1])
    assert np.isnan(last[1]).all() and np.isfinite(last[0]).all()


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"input_file": "no/*.txt"}, "no/*.txt: no such file; check --input_file"),
        ({"output_file": "v.npz"}, "--output_file=v.npz: the name must end in .npy or .tfrecord"),
        ({"input_file": "foo://x"}, "--input_file=foo://x: Unable to get filesystem"),
        ({"runner": "DirectRuner"}, "--runner=DirectRuner: Beam has no such runner"),
        ({"beam_options": '--x="y'}, "No closing quotation; quote them as a shell wants it"),
        ({"bert": ""}, "--bert is missing"),
        ({"bert": "no/model"}, "no/model"),
        ({"pooling": "mean", "layers": "9"}, "--layers=9: the model has 2 layers"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_refused(run, tmp_path, flags, message):
    status, err = run(**flags)
    assert status == 1
    assert err.splitlines()[-1].startswith("error: ") and message in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_without_beam(tmp_path):
    """One sentence that says what to install."""
    code = (
        "import sys; sys.modules['apache_beam'] = None; "
        "from bert_tools.cli import beam_extract; sys.exit(beam_extract.main(sys.argv[1:]))"
    )
    flags = ["--bert=minilm", "--input_file=a.txt", "--output_file=v.npy"]
    done = subprocess.run(
        [sys.executable, "-c", code, *flags],
        env=ENVIRONMENT,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: Apache Beam cannot be imported")
    assert done.stderr.count("\n") == 1 and "pip install -e '.[beam]'" in done.stderr
