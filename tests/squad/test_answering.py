"""Answers from Python."""

import dataclasses

import numpy as np
import pytest

from bert_tools import encoder, hub
from bert_tools.errors import UserError
from bert_tools.hub import google, huggingface
from bert_tools.squad import QuestionAnswerer, answer_question

CONTEXT = "a b, c d. " * 8
# Start and end scores of two questions, see test_logits_of_transformers.
THEIRS = (
    "-0.2475531 -0.7741936 -1.6291008 -0.5015807 -1.1327693 -1.0258911 0.3140475 -0.5520367 "
    "-0.8714748 -0.0838346",
    "1.1375754 1.0104718 0.8701693 0.7168683 0.8513826 1.1165204 0.3239865 0.8650753 "
    "1.1408652 0.3649524",
    "0.1334213 -0.3589043 -1.8049483 1.706414 -0.4339215 1.8747525 0.3307747 -0.5809174 "
    "0.1689601 1.8946149 0.7025753 -0.4452892 -0.967265",
    "1.0667336 0.7831972 0.7377639 0.419344 0.6398787 0.25599 1.1240281 1.5754225 0.5660094 "
    "0.033456 0.3981395 0.8685673 1.0191953",
)


def made_up_weights(config):
    """Weights with a head that finds answers, the same ones always."""
    shapes = encoder.weight_shapes(config)
    shapes |= {"cls/squad/output_weights": (2, 16), "cls/squad/output_bias": (2,)}
    rng = np.random.RandomState(3)
    return {
        name: (rng.standard_normal(shapes[name]) * 0.3 + name.endswith("gamma")).astype(np.float32)
        for name in sorted(shapes)
    }


@pytest.fixture(scope="session")
def qa_weights(toy_config):
    return made_up_weights(toy_config)


@pytest.fixture(scope="session")
def qa_folder(tmp_path_factory, toy_model, qa_weights):
    """A BertForQuestionAnswering in Hugging Face's layout, with made-up weights."""
    folder = str(tmp_path_factory.mktemp("qa") / "model")
    model = hub.load(toy_model)
    config = dataclasses.replace(model.config, hidden_act="gelu_erf")
    huggingface.write(folder, model._replace(config=config, weights=qa_weights))
    return folder


def test_answers(qa_folder):
    reader = QuestionAnswerer.load(qa_folder, max_seq_length=24, doc_stride=8, max_query_length=8)
    answer = answer_question("a b?", CONTEXT, reader)
    assert answer.text and CONTEXT[answer.begin : answer.end] == answer.text
    assert answer.null_odds is None and 0 < answer.probability < 1
    # a b [UNK], and six tokens eight times.
    assert answer.token_count == 3 + 3 + 48
    assert answer.tokens[:5] == ["[CLS]", "a", "b", "[UNK]", "[SEP]"]
    assert len(answer.tokens) == len(answer.start_scores) == len(answer.ids) <= 24
    assert answer.segments == [0] * 5 + [1] * (len(answer.tokens) - 5)
    best = answer.n_best[0]
    assert best.start_logit in answer.start_scores and best.end_logit in answer.end_scores
    pair = reader.answer([("a b?", CONTEXT), ("d", "a"), ("c c", CONTEXT)])
    assert pair[0].text == answer.text and pair[1].text == "a"
    assert pair[0].probability == pytest.approx(answer.probability, abs=1e-5)
    assert reader.answer([]) == []


def test_only_a_model_that_was_trained_so_says_that_there_is_no_answer(qa_folder):
    settings = {"max_seq_length": 24, "max_query_length": 8, "null_score_diff_threshold": -1e6}
    never = QuestionAnswerer.load(qa_folder, **settings)
    assert answer_question("a", "b c", never).text != ""
    may = QuestionAnswerer.load(qa_folder, version_2_with_negative=True, **settings)
    answer = answer_question("a", "b c", may)
    assert (answer.text, answer.begin, answer.end) == ("", -1, -1)
    assert answer.tokens == ["[CLS]", "a", "[SEP]", "b", "c", "[SEP]"]


def test_what_cannot_answer(toy_model, qa_folder):
    with pytest.raises(UserError, match="has no head that finds answers"):
        QuestionAnswerer.load(toy_model)
    with pytest.raises(UserError, match="--max_seq_length=64: the model has 32 positions"):
        QuestionAnswerer.load(qa_folder, max_seq_length=64)
    with pytest.raises(UserError, match="must be greater than --max_query_length"):
        QuestionAnswerer.load(qa_folder)
    reader = QuestionAnswerer.load(qa_folder, max_query_length=8)
    with pytest.raises(UserError, match="its context holds no word"):
        answer_question("a", " \u200b", reader)


def test_google_and_hugging_face_layouts_score_alike(qa_folder, tmp_path):
    folder = str(tmp_path / "google")
    google.write(folder, hub.load(qa_folder))
    answers = [
        answer_question("a", CONTEXT, QuestionAnswerer.load(path, max_query_length=8))
        for path in (folder, qa_folder)
    ]
    np.testing.assert_allclose(answers[0].start_scores, answers[1].start_scores, atol=1e-4)


def test_logits_of_transformers(qa_folder):
    """As transformers 4.57.6's BertForQuestionAnswering gives them for the same folder."""
    reader = QuestionAnswerer.load(qa_folder, max_query_length=8)
    answers = reader.answer([("a b?", "c d. a"), ("c", "ab, cd be. ab c d")])
    found = [side for answer in answers for side in (answer.start_scores, answer.end_scores)]
    assert [answer.ids for answer in answers] == [
        [2, 5, 6, 1, 3, 7, 8, 12, 5, 3],
        [2, 7, 3, 1, 11, 1, 6, 9, 12, 1, 7, 8, 3],
    ]
    for ours, theirs in zip(found, THEIRS, strict=True):
        np.testing.assert_allclose(ours, np.array(theirs.split(), float), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("doc_stride", 0),
        ("max_query_length", -5),
        ("n_best_size", 0),
        ("max_answer_length", 0),
        ("null_score_diff_threshold", float("nan")),
    ],
)
def test_settings_out_of_range(toy_model, qa_weights, tmp_path, name, value):
    model = hub.load(toy_model)._replace(weights=qa_weights)
    google.write(str(tmp_path / "qa"), model)
    with pytest.raises(UserError, match=f"^{name}="):
        QuestionAnswerer.load(str(tmp_path / "qa"), max_seq_length=24, **{name: value})
