"""Answers from Python."""

import numpy as np
import pytest

from bert_tools import encoder, hub
from bert_tools.errors import UserError
from bert_tools.hub import google, huggingface
from bert_tools.squad import QuestionAnswerer, answer_question

CONTEXT = "a b, c d. " * 8


@pytest.fixture(scope="session")
def qa_weights(toy_config):
    rng = np.random.default_rng(3)
    weights = encoder.initial_weights(toy_config, seed=2)
    weights = {n: w * 10 if w.ndim == 2 else w for n, w in weights.items()}
    weights["cls/squad/output_weights"] = rng.normal(size=(2, 16)).astype(np.float32)
    weights["cls/squad/output_bias"] = np.array([0.25, -0.25], np.float32)
    return weights


@pytest.fixture(scope="session")
def qa_folder(tmp_path_factory, toy_model, qa_weights):
    """A BertForQuestionAnswering in Hugging Face's layout, with random weights."""
    folder = str(tmp_path_factory.mktemp("qa") / "model")
    huggingface.write(folder, hub.load(toy_model)._replace(weights=qa_weights))
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


def test_google_and_hugging_face_layouts_score_alike(toy_model, qa_folder, qa_weights, tmp_path):
    folder = str(tmp_path / "google")
    google.write(folder, hub.load(toy_model)._replace(weights=qa_weights))
    answers = [
        answer_question("a", CONTEXT, QuestionAnswerer.load(path, max_query_length=8))
        for path in (folder, qa_folder)
    ]
    np.testing.assert_allclose(answers[0].start_scores, answers[1].start_scores, atol=1e-4)


def test_logits_of_transformers(qa_folder):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertForQuestionAnswering.from_pretrained(qa_folder).eval()
    reader = QuestionAnswerer.load(qa_folder, max_query_length=8)
    answer = answer_question("a b?", "c d. a", reader)
    with torch.no_grad():
        expected = theirs(
            input_ids=torch.tensor([answer.ids]), token_type_ids=torch.tensor([answer.segments])
        )
    np.testing.assert_allclose(answer.start_scores, expected.start_logits[0], atol=1e-5)
    np.testing.assert_allclose(answer.end_scores, expected.end_logits[0], atol=1e-5)
