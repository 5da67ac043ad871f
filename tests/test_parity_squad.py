"""The original run_squad.py's own numbers on TensorFlow 1.15, pinned: what a small made-up
checkpoint says of the development questions in ../shared.
"""

import functools
import gzip
import hashlib
import json
import pathlib

import numpy as np
import pytest

from bert_tools import encoder, hub
from bert_tools.cli import run_squad, squad_phases
from bert_tools.config import BertConfig
from bert_tools.hub import google
from bert_tools.tokenization import FullTokenizer

DATA = pathlib.Path(__file__).parent / "data"
VERSIONS = ("1.1", "2.0")
EVERY = 150  # Of so many windows the scores of one are pinned whole.


def write_model(folder, shared):
    """Two layers of width 16 and a head, in Google's layout, with the real vocabulary.

    The second segment and [CLS] score higher than padding: the original pairs starts and ends
    there, too, and dies where among the best there is nothing else.
    """
    config = BertConfig(
        vocab_size=30522,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=384,
        type_vocab_size=2,
        hidden_act="gelu_tanh",
    )
    shapes = encoder.weight_shapes(config)
    shapes |= {"cls/squad/output_weights": (2, 16), "cls/squad/output_bias": (2,)}
    rng, weights = np.random.RandomState(7), {}
    for name in sorted(shapes):
        drawn = rng.standard_normal(shapes[name]) * (0.2 if "layer_" in name else 1.0)
        weights[name] = (drawn + name.endswith("gamma")).astype(np.float32)
    weights["bert/embeddings/token_type_embeddings"][:, 0] = -3, 3
    weights["bert/embeddings/word_embeddings"][[0, 101], 0] = -12, 6
    weights["cls/squad/output_weights"][:, 0] = 3
    tokenizer = FullTokenizer(str(shared / "vocab/bert-base-uncased/vocab.txt"))
    google.write(str(folder), hub.Model(config, weights, tokenizer, {}, ""))


def flags(version, shared, folder):
    """The command line that the original was given."""
    return [
        "--do_predict=true",
        f"--predict_file={shared / 'data/squad' / f'dev-v{version}-subset.json'}",
        f"--version_2_with_negative={str(version == '2.0').lower()}",
        f"--bert_config_file={folder / 'model' / 'bert_config.json'}",
        f"--vocab_file={folder / 'model' / 'vocab.txt'}",
        f"--init_checkpoint={folder / 'model' / 'bert_model.ckpt'}",
        f"--output_dir={folder / version}",
    ]


def digest(rows):
    """sha256 of rows of ids, one after another."""
    return hashlib.sha256(np.concatenate(rows).astype("<i4").tobytes()).hexdigest()


def some_of(logits, lengths):
    """Scores at four places of each window, from [CLS] to the last [SEP].

    Args:
      logits: float array [2, windows, at least the longest], of starts and ends.
      lengths: int array [windows].
    """
    places = (lengths[:, np.newaxis] - 1) * np.arange(4) // 3
    return np.stack([np.take_along_axis(side, places, axis=1) for side in logits])


def whole(logits, lengths):
    """All scores of every EVERYth window, one after another."""
    numbers = range(0, len(lengths), EVERY)
    return np.concatenate([logits[:, number, : lengths[number]] for number in numbers], axis=1)


@functools.cache
def pinned():
    with gzip.open(DATA / "squad_original.json.gz", "rt", encoding="utf-8") as reader:
        return json.load(reader)


@pytest.fixture(scope="module", params=VERSIONS)
def ran(request, shared, tmp_path_factory):
    """(version, Windows, logits [2, windows, 384], output_dir) of the same command line."""
    folder = tmp_path_factory.mktemp("squad")
    write_model(folder / "model", shared)
    seen = []

    def decode(windows, starts, ends, *options):
        seen.append((windows, np.stack([starts, ends])))
        return original(windows, starts, ends, *options)

    with pytest.MonkeyPatch.context() as patch:
        original = squad_phases.decode.decode
        patch.setattr(squad_phases.decode, "decode", decode)
        assert run_squad.main(flags(request.param, shared, folder)) == 0
    return request.param, *seen[0], folder / request.param


def test_windows(ran):
    version, windows, *_ = ran
    features, expected = windows.features, pinned()[version]
    assert features.lengths.tolist() == expected["lengths"]
    assert digest([features.input_ids]) == expected["input_ids"]
    assert digest([features.segment_ids]) == expected["segment_ids"]


def test_scores(ran):
    """Of every window, within 1e-4."""
    version, windows, logits, _ = ran
    lengths = windows.features.lengths
    with np.load(DATA / "squad_original.npz") as archive:
        for name, found in (("some", some_of(logits, lengths)), ("whole", whole(logits, lengths))):
            expected = archive[f"{version} {name}"]
            assert expected.std() > 0.5
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_answers(ran):
    """The same best span but for ties, the same n best where no text of theirs was re-aligned into
    another's, and the same text but for what the original's re-alignment by words makes.
    """
    version, _, _, out = ran
    expected = pinned()[version]["answers"]
    n_best = json.loads((out / "nbest_predictions.json").read_text("utf-8"))
    assert list(n_best) == list(expected)
    spans, texts, lists = [], [], []
    for qid, rows in expected.items():
        found = [[row["text"], row["start_logit"], row["end_logit"]] for row in n_best[qid]]
        theirs = [row[:3] for row in rows]
        margin = abs(sum(theirs[0][1:]) - sum(theirs[1][1:]))
        if not np.allclose(found[0][1:], theirs[0][1:], rtol=0, atol=1e-4) and margin > 2e-4:
            spans.append(qid)
        if found[0][0] != theirs[0][0]:
            texts.append((found[0][0], theirs[0][0]))
        scores = [[row[1:] for row in side[: len(theirs)]] for side in (found, theirs)]
        if not np.allclose(*scores, rtol=0, atol=1e-4):
            lists.append(qid)
            continue
        np.testing.assert_allclose(
            [row["probability"] for row in n_best[qid][: len(rows)]],
            [row[3] for row in rows],
            rtol=0,
            atol=1e-4,
        )
    assert not spans
    assert len(texts) <= 0.005 * len(expected), texts
    # The one cause: it writes one blank for a line end, or for two blanks.
    assert all(" ".join(ours.split()) == " ".join(theirs.split()) for ours, theirs in texts)
    assert len(lists) <= 0.01 * len(expected), lists


def test_null_odds(ran):
    version, _, _, out = ran
    if version == "1.1":
        assert not (out / "null_odds.json").exists()
        return
    found = json.loads((out / "null_odds.json").read_text("utf-8"))
    expected = pinned()[version]["null_odds"]
    assert list(found) == list(expected)
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=0, atol=2e-4)
