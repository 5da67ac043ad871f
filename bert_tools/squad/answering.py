"""Answers from Python, with a model that is loaded once.

reader = QuestionAnswerer.load("/tmp/squad")
answer = answer_question("Who wrote it?", "It was written by Ann in May.", reader)
print(answer.text, answer.probability, answer.begin, answer.end)
"""

import logging
import math
import typing

import numpy as np

from bert_tools.errors import UserError
from bert_tools.squad.decode import decode
from bert_tools.squad.examples import Document, SquadExample
from bert_tools.squad.windows import check_lengths, convert_examples_to_features

log = logging.getLogger("bert_tools")
# The settings of QuestionAnswerer, and flags of the commands, that bert_tools.json has of a trained
# model.
REMEMBERED = (
    "max_seq_length",
    "doc_stride",
    "max_query_length",
    "version_2_with_negative",
    "null_score_diff_threshold",
)


class Answer(typing.NamedTuple):
    """What a model answers.

    text: str, cut from the context; "" where it says that the context has no answer.
    probability: float, among the n best.
    begin, end: int, text == context[begin:end]; -1, -1 for no answer.
    n_best: list of decode.Candidate, the best first.
    null_odds: float or None, see decode.Decoded.
    token_count: int, of question and context with [CLS] and both [SEP].
    tokens, ids, segments: lists, those of the window that the answer was found in.
    start_scores, end_scores: float32 arrays [tokens], of that window.
    """

    text: str
    probability: float
    begin: int
    end: int
    n_best: list
    null_odds: float | None
    token_count: int
    tokens: list
    ids: list
    segments: list
    start_scores: np.ndarray
    end_scores: np.ndarray


class QuestionAnswerer:
    """Answers with an Estimator, which keeps its graph and weights from call to call.

    Args:
      estimator: Estimator whose model_fn is that of a Span task of max_seq_length.
      tokenizer: FullTokenizer or SubwordTokenizer.
      max_seq_length, doc_stride, max_query_length: see windows.convert_examples_to_features.
      n_best_size, max_answer_length, version_2_with_negative: see decode.decode.
      null_score_diff_threshold: float, see decode.Decoded.chosen.

    Raises:
      UserError: a number is out of its range.
    """

    def __init__(
        self,
        estimator,
        tokenizer,
        *,
        max_seq_length=384,
        doc_stride=128,
        max_query_length=64,
        n_best_size=20,
        max_answer_length=30,
        version_2_with_negative=False,
        null_score_diff_threshold=0.0,
    ):
        counts = {"doc_stride": doc_stride, "max_query_length": max_query_length}
        counts |= {"n_best_size": n_best_size, "max_answer_length": max_answer_length}
        for name, value in counts.items():
            if value < 1:
                raise UserError(f"{name}={value}: must be at least 1; give another")
        if not math.isfinite(null_score_diff_threshold):
            raise UserError(
                f"null_score_diff_threshold={null_score_diff_threshold}: is no number; give one"
            )
        check_lengths(max_seq_length, max_query_length, tokenizer.pair_separators)
        self._estimator, self._tokenizer = estimator, tokenizer
        self._width = max_seq_length
        self._cut = (max_seq_length, doc_stride, max_query_length)
        self._choice = (n_best_size, max_answer_length, version_2_with_negative)
        self._threshold = null_score_diff_threshold

    @classmethod
    def load(cls, handle, precision="float32", **settings):
        """A QuestionAnswerer of a trained model.

        Args:
          handle: str, an output_dir of run_squad, or another model with such a head (Hugging Face's
            BertForQuestionAnswering).
          precision: see RunConfig.
          settings: those of __init__ that are to differ from how the model was trained, which says
            too whether it may answer "".

        Raises:
          UserError: it cannot be loaded, or has no head for questions.
        """
        from bert_tools import hub
        from bert_tools.estimator import RunConfig

        model = hub.load(handle)
        kept = {name: model.meta[name] for name in REMEMBERED if name in model.meta}
        config = RunConfig(None, precision=precision)
        return cls.of_model(model, handle, config, **(kept | settings))

    @classmethod
    def of_model(cls, model, handle, run_config, **settings):
        """As `load`, of a hub.Model and a RunConfig; errors name `handle`. The model's weights are
        taken out of its dict, so that they are not held twice.
        """
        from bert_tools.estimator import Estimator
        from bert_tools.model_fn import model_fn_builder
        from bert_tools.tasks.span import Span

        shapes = Span(0).head_shapes(model.config)
        for name, shape in shapes.items():
            if name not in model.weights or model.weights[name].shape != shape:
                raise UserError(
                    f"{handle}: has no head that finds answers ({name} of shape {list(shape)}); "
                    "train one with run_squad, or give a BertForQuestionAnswering"
                )
        positions = model.config.max_position_embeddings
        width = settings.setdefault("max_seq_length", min(384, positions))
        if width > positions:
            raise UserError(
                f"--max_seq_length={width}: the model has {positions} positions; give at most "
                f"{positions}"
            )
        model_fn = model_fn_builder(model.config, None, model.weights, task=Span(width))
        estimator = Estimator(model_fn, run_config)
        estimator.load_for_scoring()
        model.weights.clear()
        return cls(estimator, model.tokenizer, **settings)

    def answer(self, questions):
        """Answers questions.

        Args:
          questions: iterable of (question, context), str each. A context longer than the model is
            read in windows.

        Returns:
          list of Answer.

        Raises:
          UserError: a context holds no word, or the model's scores are not finite.
        """
        from bert_tools.inputs.batches import input_fn_builder

        documents, examples = {}, []
        for number, (question, context) in enumerate(questions):
            if context not in documents:
                documents[context] = Document(context)
            examples.append(SquadExample(str(number), question, documents[context]))
        if not examples:
            return []
        windows = convert_examples_to_features(examples, self._tokenizer, *self._cut, False)
        if windows.cut_questions:
            log.warning(
                "%d questions are longer than --max_query_length=%d and are cut off",
                windows.cut_questions,
                self._cut[2],
            )
        for number, example in enumerate(examples):
            if windows.of_example(number).start == windows.of_example(number).stop:
                raise UserError(
                    f"question {example.question_text!r}: its context holds no word; give a text"
                )
        found = list(
            self._estimator.predict(input_fn_builder(windows.features, self._width, False))
        )
        starts = np.stack([row["start_logits"] for row in found])
        ends = np.stack([row["end_logits"] for row in found])
        decoded = decode(windows, starts, ends, *self._choice)
        return [
            self._answer(windows, number, answer, starts, ends)
            for number, answer in enumerate(decoded)
        ]

    def _answer(self, windows, number, decoded, starts, ends):
        chosen = decoded.chosen(self._threshold)
        pieces = windows.pieces[windows.examples[number].document]
        window = decoded.best.window
        row = windows.features.part(window, window + 1)
        length = len(row.input_ids)
        return Answer(
            chosen.text,
            chosen.probability,
            chosen.begin,
            chosen.end,
            decoded.n_best,
            decoded.null_odds,
            int(windows.offsets[window]) + len(pieces.ids) + 1,
            self._tokenizer.convert_ids_to_tokens(row.input_ids.tolist()),
            row.input_ids.tolist(),
            row.segment_ids.tolist(),
            starts[window, :length],
            ends[window, :length],
        )


def answer_question(question, context, model):
    """The answer to one question.

    Args:
      question, context: str.
      model: QuestionAnswerer.

    Returns:
      Answer.

    Raises:
      UserError: the context holds no word.
    """
    return model.answer([(question, context)])[0]
