"""Predictions from Python, and model_fn_builder's own choice of a task."""

import numpy as np
import pytest
import tensorflow as tf

from bert_tools import encoder, hub
from bert_tools.classifier import Classifier
from bert_tools.errors import UserError
from bert_tools.estimator import Estimator, RunConfig
from bert_tools.hub import google
from bert_tools.inputs.batches import input_fn_builder
from bert_tools.inputs.examples import InputExample
from bert_tools.inputs.features import convert_examples_to_features
from bert_tools.model_fn import model_fn_builder

SENTENCES = ["a b c d a b c", "b", "", ("c , d", "a"), "d . d"]


@pytest.fixture(scope="module")
def toy_classifier(tmp_path_factory, toy_model, toy_config):
    """A folder in Google's layout with a head of two labels."""
    folder = str(tmp_path_factory.mktemp("toy_classifier"))
    model = hub.load(toy_model)
    head = np.random.default_rng(3).normal(size=(2, toy_config.hidden_size)).astype(np.float32)
    weights = {**model.weights, "output_weights": head, "output_bias": np.float32([0.5, -0.5])}
    google.write(folder, model._replace(weights=weights))
    return folder


def test_get_prediction(toy_classifier, toy_config):
    """In the order given, and the numbers of the encoder itself."""
    found = Classifier.load(toy_classifier, 16, labels=["bad", "good"]).get_prediction(SENTENCES)
    assert [prediction[0] for prediction in found] == SENTENCES
    model = hub.load(toy_classifier)
    for sentence, log_probabilities, probabilities, label, pooled_output in found:
        texts = [sentence, None] if isinstance(sentence, str) else sentence
        ids = [model.tokenizer.cls_id]
        segments = [0]
        for number, text in enumerate(texts):
            if text is not None:
                part = model.tokenizer.encode(text)
                ids += [*part, model.tokenizer.sep_id]
                segments += [number] * (len(part) + 1)
        batch = {
            "input_ids": tf.constant([ids], tf.int32),
            "input_mask": tf.ones([1, len(ids)], tf.int32),
            "segment_ids": tf.constant([segments], tf.int32),
        }
        pooled = encoder.encode(toy_config, model.weights, batch).pooled_output.numpy()[0]
        logits = model.weights["output_weights"] @ pooled + model.weights["output_bias"]
        np.testing.assert_allclose(pooled_output, pooled, atol=1e-5)
        expected = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)
        np.testing.assert_allclose(log_probabilities, np.log(expected), atol=1e-5)
        assert label == ["bad", "good"][int(logits.argmax())]


def test_the_model_is_loaded_once(toy_classifier, monkeypatch):
    classifier = Classifier.load(toy_classifier, 16, labels=["bad", "good"])
    first = classifier.get_prediction(SENTENCES)
    monkeypatch.setattr(hub, "load", None)
    monkeypatch.setattr(encoder, "encode", None)  # Runs when the graph is built.
    again = classifier.get_prediction(reversed(SENTENCES))
    for one, other in zip(first, reversed(again), strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-6)
    assert classifier.get_prediction([]) == []


def test_models_that_are_no_classifiers(toy_model, toy_classifier, trained_regression):
    with pytest.raises(UserError, match="does not say what its classes are"):
        Classifier.load(toy_classifier)
    with pytest.raises(UserError, match="has no classifier's head"):
        Classifier.load(toy_model, labels=["a", "b"])
    with pytest.raises(UserError, match="the model's task is regress, no classifier"):
        Classifier.load(trained_regression)


@pytest.fixture(scope="module")
def trained_regression(tmp_path_factory, toy_model):
    from bert_tools.hub import output_folder

    folder = str(tmp_path_factory.mktemp("regression"))
    model = hub.load(toy_model)
    google.write(folder, model)
    output_folder.write_description(folder, model, {"task": "regress"})
    return folder


def test_model_fn_builder_by_num_labels(toy_classifier, tmp_path):
    """The notebook's way, with its labels 0 and 1: train, evaluate, predict."""
    model = hub.load(toy_classifier)
    weights = {name: w for name, w in model.weights.items() if name.startswith("bert/")}
    examples = [InputExample(None, "ab"[i % 2] + " d" * (i % 3), None, i % 2) for i in range(12)]
    features = convert_examples_to_features(examples, [0, 1], 16, model.tokenizer)
    model_fn = model_fn_builder(model.config, 2, weights, 1e-3, 4, 1)
    estimator = Estimator(model_fn, RunConfig(str(tmp_path)), {"batch_size": 6})
    estimator.train(input_fn_builder(features, 16, True), 4)
    scored = {}
    result = estimator.evaluate(
        input_fn_builder(features, 16, False),
        on_scored=lambda predictions, features: scored.update(predictions, **features),
    )
    assert {"eval_accuracy", "f1_score", "auc", "auc_hard", "true_positives"} <= result.keys()
    np.testing.assert_array_equal(scored["label_ids"], [0, 1] * 6)
    assert result["eval_accuracy"] == np.mean(scored["labels"] == scored["label_ids"])
    predictions = list(estimator.predict(input_fn_builder(features, 16, False)))
    keys = {"log_probabilities", "probabilities", "labels", "pooled_output"}
    assert all(prediction.keys() == keys for prediction in predictions)
    assert [prediction["labels"] for prediction in predictions] == scored["labels"].tolist()
    classifier = Classifier(estimator, model.tokenizer, ["Negative", "Positive"], 16)
    found = classifier.get_prediction([example.text_a for example in examples])
    assert [p.label == "Positive" for p in found] == (scored["labels"] == 1).tolist()
