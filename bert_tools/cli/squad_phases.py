"""The phases of run_squad: training on windows, and answers with their scores."""

import contextlib
import json
import os

import numpy as np

from bert_tools import files
from bert_tools.cli import phases
from bert_tools.cli.app import log
from bert_tools.errors import UserError
from bert_tools.hub import model as models
from bert_tools.inputs import batches, tfrecord
from bert_tools.inputs.examples import InputExample
from bert_tools.squad import decode, pictures, scores
from bert_tools.squad.examples import are_scored
from bert_tools.squad.windows import convert_examples_to_features

_THRESHOLD = "null_score_diff_threshold"


class SquadSession(phases.Session):
    """As phases.Session, over {"train"|"predict": (path, list of SquadExample)}."""

    def run(self):
        """Every phase that the flags ask for, in the original's order."""
        with contextlib.ExitStack() as stack:
            self._folder = self._own_folder(stack)
            if self._command.do_train:
                self._train()
            if self._command.do_predict and self._chief:
                self._predict("predict")

    def _data_meta(self):
        command = self._command
        return {
            "version_2_with_negative": command.version_2_with_negative,
            "doc_stride": command.doc_stride,
            "max_query_length": command.max_query_length,
            # What was tuned on the model that training goes on with, until it is tuned anew.
            **{name: value for name, value in self._stored.items() if name == _THRESHOLD},
        }

    def _stored_baseline(self):
        """None: what no answer scores is known from the scored file alone."""
        return None

    def _starting_baseline(self):
        return None

    def _input_fn(self, phase):
        return batches.input_fn_builder(self._windows(phase).features, self._width, True)

    def _windows(self, phase):
        """The phase's Windows; their features lie in the original's file too."""
        command = self._command
        path, examples = self._data[phase]
        windows = convert_examples_to_features(
            examples,
            self._tokenizer,
            self._width,
            command.doc_stride,
            command.max_query_length,
            phase == "train",
        )
        log.info("%s: %d questions, %d windows", path, len(examples), len(windows))
        if windows.cut_questions:
            log.warning(
                "%s: %d questions are longer than --max_query_length=%d and are cut off",
                path,
                windows.cut_questions,
                command.max_query_length,
            )
        if not len(windows):
            raise UserError(f"{path}: no context holds a word; check the file")
        self._warn_of_texts(path, tfrecord.counts(windows.features, self._tokenizer))
        # By the original's names.
        record_file = self._path("train.tf_record" if phase == "train" else "eval.tf_record")
        key = tfrecord.file_key(
            [_key_example(example) for example in examples],
            self._tokenizer,
            max_seq_length=self._width,
            doc_stride=command.doc_stride,
            max_query_length=command.max_query_length,
            is_training=phase == "train",
            pad_records=command.pad_records,
        )
        if not tfrecord.is_current(record_file, key):
            tfrecord.write_features(
                windows.features, record_file, self._width if command.pad_records else None, key
            )
        return windows

    def _predict(self, phase):
        """Writes the original's files, and the scores where there are reference answers."""
        command = self._command
        path, examples = self._data[phase]
        windows = self._windows(phase)
        input_fn = batches.input_fn_builder(windows.features, self._width, False)
        found = list(self._estimator.predict(input_fn))
        decoded = decode.decode(
            windows,
            np.stack([row["start_logits"] for row in found]),
            np.stack([row["end_logits"] for row in found]),
            command.n_best_size,
            command.max_answer_length,
            command.version_2_with_negative,
        )
        answers = {e.qas_id: d for e, d in zip(examples, decoded, strict=True)}
        self._forget()
        null_odds = None
        if command.version_2_with_negative:
            null_odds = {qid: answer.null_odds for qid, answer in answers.items()}
            self._write("null_odds.json", null_odds)
        references = {example.qas_id: example.answers for example in examples}
        threshold = command.null_score_diff_threshold
        if command.tune_null_threshold:
            best = {qid: answer.best.text for qid, answer in answers.items()}
            threshold = scores.tuned_threshold(references, best, null_odds)
            self._keep(threshold)
        predictions = {qid: answer.chosen(threshold).text for qid, answer in answers.items()}
        self._write("predictions.json", predictions)
        self._write(
            "nbest_predictions.json",
            {qid: [_row(c) for c in answer.n_best] for qid, answer in answers.items()},
        )
        if not are_scored(examples):
            log.info("%s: does not say what is right, so nothing is scored or drawn", path)
            return
        result = self._scores(references, predictions, null_odds)
        result |= self._task.baseline(self._scores, references)
        phases.write_results(self._folder, "", result)
        self._judge("eval_results", result, None)
        if command.plot_dir:
            pictures.plot_null_odds(command.plot_dir, references, predictions, null_odds)

    def _forget(self):
        """Takes files out that speak of earlier predictions, and that these may have none of."""
        for name in ("null_odds.json", "eval_results.txt", "eval_results.json"):
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(self._folder, name))

    def _scores(self, references, predictions, null_odds=None):
        which = self._command.answer_scores
        if which == "auto":
            # CMRC's know no questions without an answer.
            cmrc = all(references.values()) and scores.is_chinese(references)
            which = "cmrc" if cmrc else "squad"
        if which == "cmrc":
            return scores.cmrc_scores(references, predictions)
        return scores.squad_scores(references, predictions, null_odds)

    def _keep(self, threshold):
        log.info("null_score_diff_threshold %g has the highest F1; kept in output_dir", threshold)
        path = self._path(models.OUTPUT_DESCRIPTION)
        files.write_json(path, {**files.read_json(path), _THRESHOLD: threshold})

    def _write(self, name, value):
        files.write_text(os.path.join(self._folder, name), json.dumps(value, indent=4) + "\n")


def _row(candidate):
    """An entry of nbest_predictions.json."""
    return {
        "text": candidate.text,
        "probability": candidate.probability,
        "start_logit": candidate.start_logit,
        "end_logit": candidate.end_logit,
    }


def _key_example(example):
    """What the features of a question depend on."""
    answer = (example.answer_text, example.answer_start, example.is_impossible)
    return InputExample(example.qas_id, example.question_text, example.document.text, answer)
