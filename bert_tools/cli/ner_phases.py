"""The phases of run_ner: over sentences of words in place of texts."""

import os

from bert_tools import files
from bert_tools.cli import ner_data, phases, scoring
from bert_tools.cli.app import log
from bert_tools.errors import UserError
from bert_tools.inputs import batches, conll, tables, tfrecord
from bert_tools.inputs.word_features import convert_sentences_to_features


class NerSession(phases.Session):
    """As phases.Session, over {"train"|"eval": (path, list of Sentence with tags), "predict":
    (path, list of Sentence)}.
    """

    def _load_model(self):
        model = super()._load_model()
        # Only now: a model may have fewer positions than the flag's default.
        self._task.max_seq_length = self._command.max_seq_length
        return model

    def _data_meta(self):
        return {"word_column": self._command.word_column}

    def _input_fn(self, phase):
        if phase not in self._input_fns:
            path, sentences = self._data[phase]
            converted = self._features_to_score(sentences, phase == "train")
            self._warn_of_texts(path, tfrecord.counts(converted, self._tokenizer))
            self._input_fns[phase] = batches.input_fn_builder(
                converted, self._width, phase == "train"
            )
        return self._input_fns[phase]

    def _features_to_score(self, examples, is_training=False):
        return convert_sentences_to_features(
            examples, self._task.label_list, self._width, self._tokenizer, is_training
        )

    def _examples_to_score(self, path):
        labels = self._task.label_list
        return ner_data.tagged(self._command, path, labels, "--eval_file")[0]

    def _predict(self, phase):
        """Writes test_predictions.txt: the file as it is, with a column of tags added."""
        path, sentences = self._data[phase]
        log.info("predicting %d sentences (%s)", sum(bool(s.words) for s in sentences), path)
        _, text = self._tagged(sentences, self._warn_of_texts)
        files.write_text(os.path.join(self._folder, "test_predictions.txt"), text)

    def _stream(self):
        command, path = self._command, self._command.predict_file

        def scored(window):
            bad, text = self._tagged(window)
            return len(window), bad, text

        with tables.opened(path, "--predict_file") as lines:
            found = conll.read_sentences(lines, command.word_column)
            skipped = scoring.write_in_order(command, found, lines, scored)
        if skipped:
            log.warning("%s: %d sentences with a bad line left out", lines.name, skipped)

    def _tagged(self, window, warn=None):
        """(how many are bad, the text of the others with their tags)."""
        good = [sentence for sentence in window if not isinstance(sentence, UserError)]
        asked = [sentence._replace(tags=None) for sentence in good if sentence.words]
        tags = {}
        if asked:
            converted = self._features_to_score(asked)
            if warn:
                warn(self._data["predict"][0], tfrecord.counts(converted, self._tokenizer))
            input_fn = batches.input_fn_builder(converted, self._width, False)
            rows = list(self._estimator.predict(input_fn, parallel=warn is not None))
            predictions = {"labels": [row["labels"] for row in rows]}
            tags = self._task.words(predictions, converted.columns)
        number, parts = 0, []
        for sentence in good:
            named = []
            if sentence.words:
                named = [self._task.label_list[tag] for tag in tags[number]]
                # An I- that continues nothing is how the model begins an entity.
                scheme = conll.scheme_of(self._task.label_list)
                named = conll.tags_of(conll.entities(named), len(named), scheme)
                number += 1
            parts.append(sentence.tagged(named))
        return len(window) - len(good), "".join(parts)
