"""Vectors of BERT's relatives, whose weights and pairs are of another shape."""

import dataclasses

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from bert_tools import encoder as encoders
from bert_tools import hub
from bert_tools.hub import huggingface
from bert_tools.inputs.features import convert_texts
from bert_tools.sentence.encoder import Encoder
from bert_tools.tokenization_subword import SubwordTokenizer

PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁a", "▁b", "▁c", "▁d", "e", "f", "▁"]
TEXTS = ["a b", ("c d", "ae bf"), "", "d d d", ("a", ""), "b c a d c a b", "c c"]
FAMILIES = {
    "roberta": {"type_vocab_size": 1, "position_offset": 2},
    "xlm-roberta": {"type_vocab_size": 1, "position_offset": 2},
    "distilbert": {"type_vocab_size": 0},
    "albert": {"embedding_size": 6, "num_hidden_layers": 4, "num_hidden_groups": 2},
    "electra": {"embedding_size": 6},
}


def subwords():
    library = tokenizers.Tokenizer(models.Unigram([(piece, -1.0) for piece in PIECES], unk_id=3))
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return SubwordTokenizer(library.to_str(), "")


@pytest.fixture(params=FAMILIES)
def folder(request, tmp_path, toy_model):
    """A folder of the family in Hugging Face's layout, with random weights."""
    toy = hub.load(toy_model)
    config = dataclasses.replace(
        toy.config, family=request.param, initializer_range=0.3, **FAMILIES[request.param]
    )
    tokenizer = toy.tokenizer
    if config.position_offset:
        tokenizer = subwords()
        config = dataclasses.replace(config, vocab_size=len(PIECES))
    weights = encoders.initial_weights(config, seed=1)
    for name in ("bert/pooler/dense/kernel", "bert/pooler/dense/bias"):
        if request.param in ("distilbert", "electra"):
            del weights[name]
    path = str(tmp_path / "model")
    huggingface.write(path, hub.Model(config, weights, tokenizer, {}, ""))
    return path


@pytest.mark.parametrize("options", [{}, {"batching": "pack"}, {"batching": "pad"}], ids=str)
def test_vectors(folder, options):
    """Those of each text computed alone, from the weights as they were read."""
    options = {"max_seq_length": 16, "pooling": ["mean", "cls"], **options}
    found = Encoder.load(folder, **options).encode(TEXTS)
    model = hub.load(folder)
    for text, vector in zip(TEXTS, found, strict=True):
        first, second = (text, None) if isinstance(text, str) else text
        features = convert_texts([first], [second], 16, model.tokenizer)
        batch = {
            "input_ids": features.input_ids[np.newaxis],
            "segment_ids": features.segment_ids[np.newaxis],
        }
        (tokens,) = encoders.encode(model.config, model.weights, batch).sequence_output.numpy()
        want = np.concatenate([tokens.mean(0), tokens[0]])
        np.testing.assert_allclose(vector, want, rtol=0, atol=1e-5, err_msg=str(text))
    distances = np.abs(found[:, np.newaxis] - found).max(-1) + np.eye(len(found))
    assert distances.min() > 1e-4


@pytest.mark.parametrize("folder", ["roberta", "albert"], indirect=True)
def test_bfloat16(folder):
    options = {"max_seq_length": 16, "pooling": "mean", "normalize": True}
    full = Encoder.load(folder, **options).encode(TEXTS)
    half = Encoder.load(folder, precision="bfloat16", **options).encode(TEXTS)
    assert np.sum(half * full, axis=1).min() > 0.995


@pytest.mark.parametrize("folder", ["roberta"], indirect=True)
def test_pairs_of_a_roberta(folder):
    """<s> a </s></s> b </s>: a pair is cut for four special tokens, and is not its first text."""
    encoder = Encoder.load(folder, pooling="cls", max_seq_length=8)
    long = encoder.encode([("a a a a a a a", "b b b b b b b"), ("a a", "b b")])
    np.testing.assert_allclose(long[0], long[1], rtol=0, atol=1e-5)
    alone, pair = encoder.encode(["a a", ("a a", "b b")])
    assert np.abs(alone - pair).max() > 1e-3
