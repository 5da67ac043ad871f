"""The phases of run_siamese: over texts that go through the encoder one by one."""

import dataclasses
import os

import numpy as np

from bert_tools import inspection
from bert_tools.cli import phases, siamese_data
from bert_tools.cli.app import log
from bert_tools.errors import UserError
from bert_tools.hub import handles
from bert_tools.inputs import batches, text_features, tfrecord
from bert_tools.inputs import examples as inputs
from bert_tools.inputs.data_sets import OwnReader
from bert_tools.sentence import negatives, pooling
from bert_tools.sentence.encoder import Encoder
from bert_tools.sentence.rerank import Reranker
from bert_tools.sentence.similarity import similarity
from bert_tools.tasks.siamese import OBJECTIVES


class SiameseSession(phases.Session):
    """As phases.Session, over examples whose texts are compared."""

    def get_encoder(self):
        """The tower alone (sentence.encoder.Encoder), with the weights that scoring would use."""
        weights, _ = self._estimator.stored_weights()
        meta = {
            **self._model.meta,
            **self._task.description(),
            "max_seq_length": self._width,
        }
        model = self._model._replace(weights=weights, meta=meta)
        return Encoder(model, precision=self._precision)

    def _load_model(self):
        command, model = self._command, super()._load_model()
        if command.num_hidden_layers:
            model = first_layers(model, command.num_hidden_layers)
        recipe = pooling.recipe(model)
        if command.pooling != "auto":
            recipe = recipe._replace(poolings=(command.pooling,), dense=None)
        if command.normalize is not None:
            recipe = recipe._replace(normalize=command.normalize)
        width = model.weights[pooling.DENSE[0]].shape[1] if recipe.dense else 0
        self._task.dense_width = command.dense_width or width
        # A layer that goes on as it is keeps its activation.
        if command.given("dense_activation") or self._task.dense_width != width:
            if not self._task.dense_width:
                raise UserError(
                    f"--dense_activation={command.dense_activation}: there is no dense layer; give "
                    "--dense_width"
                )
            recipe = recipe._replace(dense=command.dense_activation)
        self._task.recipe = recipe
        width = self._task.width(model.config)
        if command.do_train and any(d >= width for d in self._task.dimensions):
            raise UserError(
                f"--matryoshka_dimensions={command.matryoshka_dimensions}: the vectors are {width} "
                "wide; give smaller numbers"
            )
        return model

    def _layout(self, path, split):
        """What is scored are pairs at least, whatever the model was trained on."""
        command, layout = self._command, super()._layout(path, split)
        if layout.text_b is None and command.text_column:
            raise UserError(
                f"--text_column={command.text_column}: several texts are compared; give "
                "--text_pair_column too"
            )
        if layout.text_b is None:
            return inputs.Layout(0, 1, 2 if split == "dev" else None, kind=layout.kind)
        return layout

    def _sample(self, examples):
        """As phases.Session, but all of a set whose texts are ranked: among fewer texts the right
        one ranks higher.
        """
        return None if examples[0].label is None else super()._sample(examples)

    def _vector_lines(self, phase, examples):
        # There are no metrics of vectors where a teacher's or classes are what is learnt.
        if self._taught(phase) or isinstance(examples[0].label, str):
            return {}
        input_fn = batches.input_fn_builder(self._features_to_score(examples), self._width, False)
        # Its copy of the weights goes with it.
        return self._task.vector_baseline(self._new_estimator().evaluate(input_fn))

    def _further_record_flags(self, phase):
        flags = {"texts_numbered": self._copies(phase)}
        if self._command.teacher and (phase == "train" or self._taught(phase)):
            flags |= {"teacher": _state(self._command.teacher), **self._task.description()}
        if phase == "train" and self._command.hard_negatives:
            flags |= {
                "hard_negatives": self._command.hard_negatives,
                "model": inspection.checksum(self._model.weights),
                **self._task.description(),
            }
        return flags

    def _columns(self):
        """A column of test_results.tsv is a cosine, whatever was learnt."""
        return None

    def _copies(self, phase):
        """A text is compared with itself in training alone."""
        return self._task.copies if phase == "train" else 1

    def _taught(self, phase):
        """Whether a teacher's vectors are what the phase's texts are compared with."""
        vectors = OBJECTIVES[self._command.objective].label == "vectors"
        unlabelled = self._data[phase][1][0].label is None
        return bool(self._command.teacher) and vectors and phase != "predict" and unlabelled

    def _write_records(self, phase, examples, record_file, key, flags):
        if tfrecord.is_current(record_file, key):
            return None
        if phase == "train" and self._command.hard_negatives:
            examples = self._with_hard_negatives(examples)
        features = self._features_to_score(examples, self._copies(phase))
        if self._command.teacher and (phase == "train" or self._taught(phase)):
            owners = features.columns[text_features.OWNERS]
            features.columns["vals"] = self._teaching(examples)[owners]
        tfrecord.write_features(
            features, record_file, self._width if flags["pad_records"] else None, key
        )
        return tfrecord.counts(features, self._tokenizer)

    def _features_to_score(self, examples, copies=1):
        return text_features.convert_examples_to_features(
            examples,
            self._task.label_list,
            self._width,
            self._tokenizer,
            self._command.long_text,
            copies,
        )

    def _examples_to_score(self, path):
        command = self._command
        layout = self._layout(path, "dev")
        parse = None
        if layout.label is not None:
            objective = OBJECTIVES[command.objective]
            parse, source = inputs.parse_value, self._source
            own = isinstance(source, OwnReader)
            if own or (source is not None and siamese_data.label_kind(source, objective)):
                parse = siamese_data.scored_parser(source, self._task, objective)
        return inputs.load_examples(path, layout, "dev", parse, command.on_bad_line, "--eval_file")

    def _with_hard_negatives(self, examples):
        count = self._command.hard_negatives
        log.info("looking for %d hard negatives of each of %d examples", count, len(examples))
        return negatives.mined(self.get_encoder(), examples, count)

    def _teaching(self, examples):
        """What the teacher says of each example: float32 [n] of pairs, or [n, width]."""
        command = self._command
        log.info("%s: asking it about %d examples", command.teacher, len(examples))
        if siamese_data.teaches_values(command.teacher):
            teacher = Reranker(command.teacher, self._precision, "teacher")
            values = teacher.scores([(example.text_a, example.text_b) for example in examples])
            return self._task.mapped(values, teacher.value_range).astype(np.float32)
        teacher = Encoder.load(command.teacher, precision=self._precision)
        first = teacher.encode(example.text_a for example in examples)
        if OBJECTIVES[command.objective].label != "vectors":
            second = teacher.encode(example.text_b for example in examples)
            return similarity(first, second, "cosine").astype(np.float32)
        width = self._task.width(self._model.config)
        if first.shape[1] != width:
            raise UserError(
                f"--teacher={command.teacher}: its vectors are {first.shape[1]} wide, the model's "
                f"{width}; give --dense_width={first.shape[1]}"
            )
        return first


def _state(handle):
    """What a teacher's values depend on: its files, each with size and time, without what scoring
    leaves beside them.
    """
    paths = [
        os.path.join(parent, name)
        for parent, _, names in os.walk(handles.resolve(handle))
        for name in names
        if not name.startswith((".", "eval", "test_", "predict", "events."))
    ]
    stats = [(path, os.stat(path)) for path in sorted(paths)]
    return [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats]


def first_layers(model, count):
    """A Model of the encoder's first layers.

    Args:
      model: hub.Model.
      count: int.

    Raises:
      UserError: it has fewer, or cannot be taken apart.
    """
    config = model.config
    if config.graph is not None:
        raise UserError(
            f"--num_hidden_layers={count}: this SavedModel is run whole, as its own graph; leave "
            "it out"
        )
    if count > config.num_hidden_layers:
        raise UserError(
            f"--num_hidden_layers={count}: the model has {config.num_hidden_layers}; give at most "
            "as many"
        )
    config = dataclasses.replace(config, num_hidden_layers=count)
    from bert_tools import encoder

    kept = encoder.weight_shapes(config)
    weights = {
        name: array
        for name, array in model.weights.items()
        if name in kept or not name.startswith("bert/")
    }
    return model._replace(config=config, weights=weights)
