"""Shared fixtures: a toy model, the real one, the folder of real data; each skips with a reason
when absent.
"""

import dataclasses
import pathlib

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
TOY_WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "b",
    "c",
    "d",
    "##e",
    "##f",
    ",",
    ".",
]


@pytest.fixture(scope="session")
def shared():
    """The folder of real data, vocabularies and the toy TF1 checkpoint, as a Path."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder ../shared")
    return SHARED


@pytest.fixture(scope="session")
def minilm():
    """The folder of the real MiniLM weights, as a str."""
    from bert_tools.errors import UserError
    from bert_tools.hub import names

    try:
        return names.resolve("minilm")
    except UserError as error:
        pytest.skip(f"needs the real MiniLM weights: {error}")


@pytest.fixture(scope="session")
def toy_config():
    """A BertConfig of 2 layers, 2 heads, width 16, a vocabulary of TOY_WORDS and 32 positions."""
    from bert_tools.config import BertConfig

    return BertConfig(
        vocab_size=len(TOY_WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        type_vocab_size=2,
    )


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory, toy_config):
    """A folder in Google's layout with random weights of toy_config, as a str."""
    from bert_tools import encoder, hub
    from bert_tools.hub import google
    from bert_tools.tokenization import FullTokenizer

    folder = tmp_path_factory.mktemp("toy_model")
    tokenizer = FullTokenizer(vocab={word: index for index, word in enumerate(TOY_WORDS)})
    weights = encoder.initial_weights(toy_config, seed=1)
    google.write(str(folder), hub.Model(toy_config, weights, tokenizer, {}, ""))
    return str(folder)


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory, toy_model, toy_config):
    """A folder as toy_model, with larger weights and a head, so that predictions vary."""
    from bert_tools import encoder, hub
    from bert_tools.hub import google

    folder = str(tmp_path_factory.mktemp("wide_model"))
    config = dataclasses.replace(toy_config, initializer_range=0.3)
    weights = encoder.initial_weights(config, seed=1)
    weights["output_weights"] = np.linspace(-1, 1, config.hidden_size, dtype=np.float32)[np.newaxis]
    google.write(folder, hub.load(toy_model)._replace(weights=weights))
    return folder


@pytest.fixture
def toy_data(tmp_path):
    """A folder with {train,dev,test}.tsv of task sim in TOY_WORDS: 24, 6 and 5 rows; as a str."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data"
    folder.mkdir()
    for split, rows in (("train", 24), ("dev", 6), ("test", 5)):
        lines = []
        for _ in range(rows):
            texts = [
                " ".join(rng.choice(["a", "b", "c", "d", "ae", "bf"], n))
                for n in rng.integers(1, 7, 2)
            ]
            lines.append("\t".join([*texts, f"{rng.integers(0, 5) / 4}"]))
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder)
