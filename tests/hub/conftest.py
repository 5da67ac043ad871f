"""Models that several tests of the loader share."""

import os

import hub_toys
import pytest

from bert_tools.config import BertConfig
from bert_tools.errors import UserError
from bert_tools.hub import names
from bert_tools.hub.model import Model
from bert_tools.tokenization import FullTokenizer

TOY_CHECKPOINT = os.path.join(
    os.path.dirname(__file__), "../../../shared/models/keras-bert-test-checkpoint"
)


@pytest.fixture
def toy_model():
    """A Model with a classifier's head of three classes."""
    from bert_tools import encoder

    config = BertConfig.from_huggingface({**hub_toys.CONFIG, "hidden_act": "gelu_new"})
    shapes = {**encoder.weight_shapes(config), "output_bias": (3,), "output_weights": (3, 8)}
    weights = {
        name: hub_toys.toy_array(shape, place) for place, (name, shape) in enumerate(shapes.items())
    }
    vocab = {token: index for index, token in enumerate(hub_toys.TOKENS)}
    tokenizer = FullTokenizer(vocab=vocab, do_lower_case=False, tokenize_chinese_chars=False)
    return Model(config, weights, tokenizer, {}, "")


@pytest.fixture
def toy_checkpoint():
    """The folder of a genuine TensorFlow 1 pre-training checkpoint of 701 weights."""
    if not os.path.isdir(TOY_CHECKPOINT):
        pytest.skip("needs ../shared/models/keras-bert-test-checkpoint")
    return os.path.abspath(TOY_CHECKPOINT)


@pytest.fixture(scope="session")
def minilm_folder(tmp_path_factory):
    """The folder of the real all-MiniLM-L6-v2: from the cache, else fetched into a temporary one
    (never into the user's)."""
    cached = os.path.join(names.cache_folder(), "minilm")
    if os.path.isdir(cached):
        return names.resolve("minilm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BERT_TOOLS_CACHE", str(tmp_path_factory.mktemp("cache")))
        try:
            return names.resolve("minilm")
        except UserError as error:
            pytest.skip(f"needs the real minilm: {error}")
