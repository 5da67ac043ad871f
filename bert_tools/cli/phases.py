"""The phases of a command that trains: train, evaluate, predict over a task's files, and the
scoring of further files.
"""

import contextlib
import functools
import gc
import glob
import json
import logging
import math
import os
import tempfile

from bert_tools import checkpoints, encoder, files
from bert_tools.cli import head_labels, scoring, shared_flags, task_data
from bert_tools.distribution import is_chief
from bert_tools.errors import UserError
from bert_tools.estimator import Estimator, Evaluation, RunConfig
from bert_tools.estimator.evaluation import scalars
from bert_tools.hub import huggingface, output_folder, tf_hub
from bert_tools.hub import model as models
from bert_tools.inputs import batches, features, tables, tfrecord
from bert_tools.inputs import examples as inputs
from bert_tools.model_fn import model_fn_builder
from bert_tools.sentence.encoder import Encoder
from bert_tools.tasks import baselines

log = logging.getLogger("bert_tools")
_OF_WEIGHTS = ("bert_model.ckpt.index", "*.safetensors", "variables")
# What tells of a model of somebody's, where no bert_tools.json does.
_OF_MODELS = (
    models.GOOGLE_CONFIG,
    models.HUGGINGFACE_CONFIG,
    models.VOCABULARY,
    models.TOKENIZER,
    tf_hub.MODEL,
)
_APART = {"tag", huggingface.CHOICE}  # Their heads have the names of classifiers of texts.


class Session:
    """One run of a command: the model, its Estimator, and the examples of each phase.

    Args:
      command: CommandFlags with the groups of shared_flags and task_data.
      task: an object of bert_tools.tasks.
      source: of task_data.data_set.
      data: {"train"|"eval"|"predict": (path, list of InputExample)}, of task_data.load.
      stored: dict of task_data.description.
      meta: dict, what else bert_tools.json is to keep.
      output_dir: str, in place of --output_dir.
      on_scored: function(name, predictions, features) or None, called after each evaluation, see
        Estimator.evaluate; its name is "eval", "eval_mm" or the path of an --eval_file.
      warns: bool, whether an evaluation that does not beat its baseline gives a warning.

    Raises:
      UserError: the model cannot be loaded or the flags do not fit it or the data.
    """

    def __init__(
        self,
        command,
        task,
        source,
        data,
        stored,
        *,
        meta=None,
        output_dir=None,
        on_scored=None,
        warns=True,
    ):
        self._command, self._task, self._source = command, task, source
        self._data, self._stored = data, stored
        self._meta, self._on_scored, self._warns = meta or {}, on_scored, warns
        self._input_fns = {}
        self._output_dir = output_dir or command.output_dir
        self._strategy = strategy = shared_flags.strategy(command)
        self._precision = precision = shared_flags.precision(command)
        self._model = model = self._with_head_that_fits(self._load_model())
        self._tokenizer, self._width = model.tokenizer, command.max_seq_length
        task.separator_id = model.tokenizer.sep_id  # Known once the model is loaded.
        features.check_max_seq_length(self._width, self._tokenizer.pair_separators)
        self._steps = self._planned_steps() if "train" in data else 0
        self._chief = is_chief(strategy)
        model_fn = model_fn_builder(
            model.config,
            None,
            model.weights,
            command.learning_rate,
            self._steps,
            int(self._steps * command.warmup_proportion),
            task=task,
            layerwise_lr_decay=command.layerwise_lr_decay,
            freeze_encoder=command.freeze_encoder,
            correct_bias=command.correct_bias,
        )
        config = RunConfig(
            self._output_dir,
            command.save_summary_steps,
            command.save_checkpoints_steps,
            strategy=strategy,
            precision=precision,
            batching=command.batching,
            seed=command.seed,
            xla=command.xla,
            gradient_accumulation_steps=command.gradient_accumulation_steps,
        )
        self._new_estimator = functools.partial(
            Estimator, model_fn, config, {"batch_size": command.train_batch_size}
        )
        self._estimator = self._new_estimator()
        if "train" in data:
            self._estimator.require_divisible_batch()
        self._require_same_model(model)
        self._baseline = self._stored_baseline()

    def run(self):
        """Every phase that the flags ask for, in the original's order.

        Returns:
          dict: the results of the evaluation of the dev set, {} when there was none.
        """
        command = self._command
        with contextlib.ExitStack() as stack:
            if self._output_dir and self._data:
                self._folder = self._own_folder(stack)
            if command.do_train:
                self._train()
            # Of several workers the chief does the rest, as in tf.estimator.
            if not self._chief:
                return {}
            results = {}
            if command.do_eval:
                results = {phase: self._evaluate(phase) for phase in self._phases("eval")}
            if command.do_predict:
                for phase in self._phases("predict"):
                    self._predict(phase)
            if command.eval_file:
                self._score_files()
            if command.predict_file:
                self._stream()
            return results.get("eval", {})

    def _load_model(self):
        return shared_flags.load_model(self._command, fallback_dir=self._output_dir)

    def _own_folder(self, stack):
        """The folder that this process writes into, while `stack` is open."""
        # Further workers convert the data for themselves and leave no files behind.
        return stack.enter_context(
            files.locked(self._output_dir, "output_dir")
            if self._chief
            else tempfile.TemporaryDirectory()
        )

    def _phases(self, name):
        """The phases of this name that there is data of: of a second set too."""
        return [phase for phase in (name, f"{name}_mm") if phase in self._data]

    def _planned_steps(self):
        """Training steps by epochs and batch size, as the original counts them."""
        command, count = self._command, len(self._data["train"][1])
        size = command.train_batch_size
        if size > count:
            raise UserError(
                f"--train_batch_size={size}: there are only {count} training examples; lower it"
            )
        steps = int(count / size * command.num_train_epochs)
        if steps < 1:
            raise UserError(
                f"--num_train_epochs={command.num_train_epochs:g}: {count} examples make no whole "
                f"step of --train_batch_size={size}; raise it"
            )
        return min(steps, command.max_train_steps) if command.max_train_steps else steps

    def _train(self):
        command = self._command
        # Before the folder says that it is a model's.
        train_set = self._input_fn("train")
        begins = self._chief and not checkpoints.latest(self._output_dir)
        if begins:  # Before there are variables and slots in memory too.
            self._baseline = self._starting_baseline()
            gc.collect()  # Graphs hold their weights in reference cycles.

        def begin(params):
            """The training data; asked for only where there is a step to make, and what a finished
            folder says of its model stays as it is.
            """
            if self._chief:
                meta = {
                    "task": self._task.name,
                    **self._data_meta(),
                    **self._task.description(),
                    **self._meta,
                    "max_seq_length": self._width,
                }
                output_folder.write_description(self._output_dir, self._model, meta)
            if begins and self._baseline:
                baselines.write(self._output_dir, self._task, self._baseline)
            return train_set(params)

        log.info("training on %d examples, %d steps", len(self._data["train"][1]), self._steps)
        evaluation = None
        if "eval" in self._data and (command.eval_steps or command.best_metric):
            evaluation = Evaluation(
                self._input_fn("eval"),
                command.eval_steps,
                command.best_metric,
                command.early_stopping_patience or None,
                command.eval_batch_size,
            )
        self._estimator.train(begin, self._steps, evaluation)

    def _data_meta(self):
        """What bert_tools.json keeps of the data."""
        return task_data.meta(self._command, self._source, self._data)

    def _evaluate(self, phase):
        """Writes eval_results.txt (the original's lines and more, sorted) and eval_results.json,
        which has the tables too.
        """
        path, examples = self._data[phase]
        log.info("evaluating %d examples (%s)", len(examples), path)
        result, sampled = self._scored_result(phase, examples, self._input_fn(phase))
        suffix = phase.removeprefix("eval")
        write_results(self._folder, suffix, result)
        self._judge(f"eval_results{suffix}", result, sampled)
        return result

    def _scored_result(self, name, examples, input_fn):
        """(the result of an evaluation with its baseline lines; where these are of a sample the
        metrics of just that, else None).
        """
        sampled = None
        vectors = self._baseline and self._baseline.of_vectors(examples)

        def scored(predictions, features):
            nonlocal sampled
            if self._on_scored:
                self._on_scored(name, predictions, features)
            if vectors and vectors.sampled:
                picks = baselines.sample(len(examples))
                parts = [{n: v[picks] for n, v in all.items()} for all in (predictions, features)]
                sampled = self._task.metrics(*parts)

        result = self._estimator.evaluate(
            input_fn, batch_size=self._command.eval_batch_size, on_scored=scored
        )
        lines = self._baseline.lines(self._task, examples) if self._baseline else {}
        return result | lines, sampled

    def _judge(self, name, result, sampled):
        """A warning where the result does not beat its baseline."""
        if self._warns:
            baselines.judge(name, self._task, result, sampled)

    def _stored_baseline(self):
        """The baselines.Baseline of the model that is evaluated, or None; read before any work."""
        command = self._command
        if not (command.do_eval or command.eval_file):
            return None
        if command.do_train:  # One that goes on; one that begins writes it.
            folder = self._output_dir if checkpoints.latest(self._output_dir) else None
        else:
            folder = task_data.described_folder(self._output_dir, command.bert)
        return baselines.read(folder, self._task)

    def _starting_baseline(self):
        """The baselines.Baseline of a training that begins."""
        vectors = []
        for phase in self._phases("eval"):
            _, examples = self._data[phase]
            picks = self._sample(examples)
            sampled = examples if picks is None else [examples[index] for index in picks]
            lines = self._vector_lines(phase, sampled)
            if lines:
                count = None if picks is None else len(sampled)
                vectors.append(baselines.VectorBaseline(baselines.digest(examples), count, lines))
        statistics = self._task.baseline_statistics(self._data["train"][1])
        return baselines.Baseline(statistics, vectors)

    def _sample(self, examples):
        """Which examples the vectors' part of the baseline is of, see baselines.sample."""
        return baselines.sample(len(examples))

    def _vector_lines(self, phase, examples):
        """The baseline lines of the examples' vectors under the weights that training starts from;
        {} where the task compares none.
        """
        del phase
        task = self._task
        if not hasattr(task, "vector_baseline") or any(e.text_b is None for e in examples):
            return {}
        try:
            encoder = Encoder(
                self._model._replace(weights=dict(self._model.weights)),
                max_seq_length=self._width,
                precision=self._precision,
                xla=self._command.xla,
                devices=self._strategy.extended.worker_devices[:1],
            )
        except UserError as error:
            # A folder may ask for vectors that are not computed here, which training does not need.
            log.info("no baseline of vectors: %s", error)
            return {}
        return task.vector_baseline(encoder.encode, examples)

    def _predict(self, phase):
        """Writes test_results.tsv, a line an example, and labels.txt, which says what its columns
        are.
        """
        log.info("predicting %d examples (%s)", len(self._data[phase][1]), self._data[phase][0])
        rows = map(self._task.row, self._estimator.predict(self._input_fn(phase)))
        name = f"test_results{phase.removeprefix('predict')}.tsv"
        files.write_text(self._path(name), "".join(f"{row}\n" for row in rows))
        if self._columns():
            labels = "".join(f"{label}\n" for label in self._columns())
            files.write_text(self._path("labels.txt"), labels)

    def _columns(self):
        """What the columns of test_results.tsv are, where labels.txt is to say it."""
        return self._task.label_list

    def _score_files(self):
        """--eval_file: a JSON line a file on stdout."""
        command = self._command
        for path in task_data.eval_files(command):
            examples = self._examples_to_score(path)
            if command.max_eval_examples:
                examples = examples[: command.max_eval_examples]
            converted = self._features_to_score(examples)
            self._warn_of_texts(path, tfrecord.counts(converted, self._tokenizer))
            input_fn = batches.input_fn_builder(converted, self._width, False)
            result, sampled = self._scored_result(path, examples, input_fn)
            result.pop("global_step")  # Of training that lies elsewhere.
            line = {"file": path, "examples": len(examples), **_without_nan(result)}
            print(json.dumps(line, ensure_ascii=False), flush=True)
            self._judge(path, result, sampled)

    def _examples_to_score(self, path):
        command = self._command
        layout, parse = self._layout(path, "dev"), self._task.parse_label
        return inputs.load_examples(path, layout, "dev", parse, command.on_bad_line, "--eval_file")

    def _features_to_score(self, examples):
        labels, long_text = self._task.label_list, self._command.long_text
        return features.convert_examples_to_features(
            examples, labels, self._width, self._tokenizer, long_text
        )

    def _stream(self):
        """--predict_file to --predict_output."""
        command, path = self._command, self._command.predict_file
        layout = self._layout(path, "test")
        with tables.opened(path, "--predict_file") as lines:
            scoring.predict(
                command, self._estimator, self._task, self._features_to_score, lines, layout
            )

    def _layout(self, path, split):
        layout = task_data.scored_layout(
            self._command, self._source, self._stored, path, split, self._task.label_flag
        )
        if layout.text_b is None and getattr(self._task, "pooling", None) == "pair":
            raise UserError(
                f"{path}: the model compares the two texts of a pair (--pooling=pair), and one "
                "column is named; give --text_pair_column too"
            )
        return layout

    def _require_same_model(self, model):
        """Before anything is written into the folder of another model, or scored with it."""
        folder = self._output_dir
        if not folder:
            return
        path = output_folder.config_file(folder)
        described = os.path.exists(os.path.join(folder, models.OUTPUT_DESCRIPTION))
        if "train" in self._data and not (described and checkpoints.latest(folder)):
            # A training that was killed early leaves a description, convert_checkpoint weights too.
            for name in _OF_WEIGHTS if described else _OF_MODELS:
                if glob.glob(os.path.join(glob.escape(folder), name)):
                    raise UserError(
                        f"--output_dir={folder}: holds another model ({name}), which training "
                        "would overwrite; choose an empty folder"
                    )
        if not checkpoints.latest(folder) or not os.path.exists(path):
            return
        found = output_folder.read_config(folder)
        shapes = [encoder.weight_shapes(config) for config in (found, model.config)]
        graphs = [config.graph for config in (found, model.config)]
        same = found.family == model.config.family and graphs[0] == graphs[1]
        if not same or shapes[0] != shapes[1]:
            raise UserError(
                f"--output_dir={folder}: holds checkpoints of a model of another size or "
                f"type ({os.path.basename(path)}); choose an empty folder"
            )
        path = os.path.join(folder, models.OUTPUT_DESCRIPTION)
        meta = files.read_json(path) if os.path.exists(path) else {}
        described = {"task": self._task.name, **self._task.description()}
        if "head_pooling" in described:  # Folders from before that key.
            meta.setdefault("head_pooling", "pooled")
        for name, value in described.items():
            if name in meta and meta[name] != value:
                raise UserError(
                    f"--output_dir={folder}: its model has {name} {json.dumps(meta[name])} "
                    f"(bert_tools.json), the flags ask for {json.dumps(value)}; give the flags "
                    "that it was trained with, or choose an empty folder"
                )
        trained = output_folder.read_tokenizer(folder, found)
        if trained.fingerprint() != model.tokenizer.fingerprint():
            raise UserError(
                f"--output_dir={folder}: its model was trained with another vocabulary or casing; "
                "choose an empty folder, or give the flags that it was trained with"
            )

    def _with_head_that_fits(self, model):
        """Before any work: the model, without a head of another task, which training replaces and
        scoring refuses. Scoring without a trained one is the original's way, but seldom what is
        meant.
        """
        command = self._command
        shapes, others = self._task.head_shapes(model.config), {}
        if self._output_dir and checkpoints.latest(self._output_dir):
            # That has the head; another task's would be in its way.
            weights = model.weights.items()
            kept = {n: w for n, w in weights if n not in shapes or w.shape == shapes[n]}
            return model._replace(weights=kept)
        unused = [n for n in model.weights if not n.startswith("bert/") and n not in shapes]
        if unused:
            log.warning(
                "%s: has another task's head, which is left out (%d weights, the first: %s)",
                model.source,
                len(unused),
                unused[0],
            )
        kind = self._kind_of_head(model)
        labels = head_labels.of_start(command, self._task.name)
        difference = labels and head_labels.difference(labels, self._task.label_list)
        classes = head_labels.of_classes(shapes)
        for name, shape in shapes.items():
            if name not in model.weights:
                continue
            if kind:
                others[name] = (
                    f"{model.source}: its {name} was trained for another kind of task ({kind}, "
                    f"this command's is {self._task.name})"
                )
            elif difference and command.do_train and name in classes:
                others[name] = f"{model.source}: {difference}"
            elif model.weights[name].shape != shape:
                others[name] = (
                    f"{model.source}: its {name} has shape {list(model.weights[name].shape)}, this "
                    f"task's has {list(shape)}"
                )
        if others and not command.do_train:
            raise UserError(
                f"{next(iter(others.values()))}; give the checkpoint of the encoder, or of a model "
                "of the same task"
            )
        if others:
            log.warning("%s; training starts with a new head", next(iter(others.values())))
            # Of a head all goes or nothing.
            gone = {*others, *(classes if others.keys() & set(classes) else ())}
            kept = {name: array for name, array in model.weights.items() if name not in gone}
            return model._replace(weights=kept)
        if labels:
            arranged = head_labels.arranged(model.weights, classes, labels, self._task.label_list)
            model = model._replace(weights=arranged)
        new = [name for name in shapes if name not in model.weights]
        if not new or command.do_train:
            return model
        if not self._data:
            raise UserError(
                f"{command.bert or model.source}: has no {new[0]}, so it was not trained for this; "
                "train it with --do_train=true, and give the output_dir"
            )
        log.warning("%s: not in the model; the scores are those of an untrained head", new[0])
        return model

    def _kind_of_head(self, model):
        """The task of a head that has this task's name and may have its shape, and yet is none of
        its kind: of tokens, or of choices, where this one is of texts, or the other way round. Else
        None.
        """
        if self._command.init_checkpoint:  # Not what the folder of --bert tells of.
            return None
        said = huggingface.read_head_description(model.source) if model.source else {}
        kind, own = model.meta.get("task") or said.get("task"), self._task.name
        return kind if kind and kind != own and {kind, own} & _APART else None

    def _input_fn(self, phase):
        """Converts the phase's examples to output_dir/PHASE.tf_record, and reads them from
        there.
        """
        if phase in self._input_fns:  # The dev set is read once, though training evaluates too.
            return self._input_fns[phase]
        command = self._command
        path, examples = self._data[phase]
        record_file = self._path(f"{phase}.tf_record")
        flags = {
            "label_list": self._task.label_list,
            "max_seq_length": self._width,
            "pad_records": command.pad_records,
            # Training truncates, as its examples are counted by step.
            "long_text": "truncate" if phase == "train" else command.long_text,
            **self._further_record_flags(phase),
        }
        key = tfrecord.file_key(examples, self._tokenizer, **flags)

        def convert(key):
            counted = self._write_records(phase, examples, record_file, key, flags)
            if counted:
                self._warn_of_texts(path, counted)
            return counted

        written = convert(key)
        try:
            found = tfrecord.read_features(record_file)
        except UserError as error:
            if written:
                raise
            log.warning("%s; it is made anew", str(error).partition(" (")[0])
            os.unlink(record_file)
            convert(key)
            found = tfrecord.read_features(record_file)
        self._input_fns[phase] = batches.input_fn_builder(found, self._width, phase == "train")
        return self._input_fns[phase]

    def _further_record_flags(self, phase):
        """What else the content of a phase's records depends on."""
        del phase
        return {}

    def _write_records(self, phase, examples, record_file, key, flags):
        """Writes the file unless the one with this key is there; returns what
        tfrecord.file_based_convert_examples_to_features does.
        """
        del phase
        return tfrecord.file_based_convert_examples_to_features(
            examples,
            flags["label_list"],
            self._width,
            self._tokenizer,
            record_file,
            long_text=flags["long_text"],
            pad_records=flags["pad_records"],
            key=key,
        )

    def _warn_of_texts(self, path, counted):
        tokens, unknown, empty = counted
        if empty:
            log.warning("%s: %d examples have no text that the vocabulary knows", path, empty)
        shared_flags.warn_of_unknown(path, tokens, unknown)

    def _path(self, name):
        return os.path.join(self._folder, name)


def write_results(folder, suffix, result):
    """Writes eval_results{suffix}.txt and .json, and tells what stands there on stderr."""
    result = dict(sorted(result.items()))
    lines = [f"{name} = {value}" for name, value in scalars(result).items()]
    for line in [*lines, *_table(result.get("per_class", {}))]:
        log.info("  %s", line)
    path = os.path.join(folder, f"eval_results{suffix}")
    files.write_text(f"{path}.txt", "".join(f"{line}\n" for line in lines))
    files.write_json(f"{path}.json", _without_nan(result))


def _table(rows):
    """{row: {column: number}} as aligned lines of text."""
    names = list(next(iter(rows.values()), {}))
    cells = [["", *names]]
    cells += [[row, *(f"{value:.4g}" for value in rows[row].values())] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in cells
        if names
    ]


def _without_nan(value):
    """JSON has no NaN (a correlation with a constant)."""
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
