"""Classes of sentences from Python, with a model that is loaded once.

classifier = Classifier.load("/tmp/reviews")
for sentence, _, probabilities, label, _ in classifier.get_prediction(["A fine film."]):
    print(sentence, label, probabilities)
"""

import typing

import numpy as np

from bert_tools import hub
from bert_tools.errors import UserError
from bert_tools.estimator import Estimator, RunConfig
from bert_tools.inputs.batches import input_fn_builder
from bert_tools.inputs.examples import InputExample
from bert_tools.inputs.features import convert_examples_to_features
from bert_tools.model_fn import model_fn_builder
from bert_tools.tasks.classify import Classification


class Prediction(typing.NamedTuple):
    """What is predicted of a sentence.

    sentence: str or (str, str), as given.
    log_probabilities, probabilities: float32 array [labels], in the order of Classifier.labels.
    label: str, the most probable one.
    pooled_output: float32 array [hidden].
    """

    sentence: typing.Any
    log_probabilities: np.ndarray
    probabilities: np.ndarray
    label: str
    pooled_output: np.ndarray


class Classifier:
    """Predicts with an Estimator, which keeps its graph and weights from call to call.

    Args:
      estimator: Estimator whose model_fn is that of a Classification with the default
        predict_fields.
      tokenizer: FullTokenizer.
      labels: sequence of str, the names of the classes in the order of their columns.
      max_seq_length: int.
    """

    def __init__(self, estimator, tokenizer, labels, max_seq_length=128):
        self.labels = list(labels)
        self._estimator, self._tokenizer = estimator, tokenizer
        self._max_seq_length = max_seq_length

    @classmethod
    def load(cls, handle, max_seq_length=None, precision="float32", labels=None):
        """A Classifier of a trained model.

        Args:
          handle: str, an output_dir of run_classifier, or another model that has a classifier's
            head.
          max_seq_length: int, or None: as it was trained.
          precision: see RunConfig.
          labels: sequence of str, for a model that does not say what its classes are.

        Raises:
          UserError: it cannot be loaded, is no classifier, labels are missing, or it has fewer
            positions.
        """
        model = hub.load(handle)
        if model.meta.get("task") not in (None, Classification.name):
            raise UserError(f"{handle}: the model's task is {model.meta['task']}, no classifier")
        if "output_weights" not in model.weights:
            raise UserError(f"{handle}: has no classifier's head (output_weights); train one first")
        labels = labels or model.meta.get("labels")
        if not labels:
            raise UserError(f"{handle}: does not say what its classes are; give labels")
        task = Classification(labels, pooling=model.meta.get("head_pooling", "pooled"))
        task.separator_id = model.tokenizer.sep_id
        model_fn = model_fn_builder(model.config, len(labels), model.weights, task=task)
        estimator = Estimator(model_fn, RunConfig(None, precision=precision))
        positions = model.config.max_position_embeddings
        if max_seq_length and max_seq_length > positions:
            raise UserError(
                f"{handle}: has {positions} positions, max_seq_length is {max_seq_length}; give at "
                f"most {positions}"
            )
        width = max_seq_length or min(model.meta.get("max_seq_length", 128), positions)
        return cls(estimator, model.tokenizer, labels, width)

    def get_prediction(self, sentences):
        """Predicts the class of each sentence.

        Args:
          sentences: iterable of str, or of (str, str) for pairs.

        Returns:
          list of Prediction, a tuple (sentence, log_probabilities, probabilities, label,
          pooled_output), in the order of the sentences.
        """
        sentences = list(sentences)
        if not sentences:
            return []
        pairs = [(s, None) if isinstance(s, str) else tuple(s) for s in sentences]
        examples = [InputExample(str(index), *pair) for index, pair in enumerate(pairs)]
        features = convert_examples_to_features(
            examples, self.labels, self._max_seq_length, self._tokenizer
        )
        input_fn = input_fn_builder(features, self._max_seq_length, False)
        return [
            Prediction(
                sentence,
                found["log_probabilities"],
                found["probabilities"],
                self.labels[found["labels"]],
                found["pooled_output"],
            )
            for sentence, found in zip(sentences, self._estimator.predict(input_fn), strict=True)
        ]
