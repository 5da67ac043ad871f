"""The phases of a command that trains: train, evaluate, predict over a task's
files.
"""

import json
import logging
import math
import os
import tempfile

from bert_tools import checkpoints, encoder, files
from bert_tools.cli import shared_flags
from bert_tools.config import BertConfig
from bert_tools.distribution import is_chief
from bert_tools.errors import UserError
from bert_tools.estimator import Estimator, RunConfig
from bert_tools.hub import model as models
from bert_tools.hub import output_folder
from bert_tools.inputs import batches, tfrecord
from bert_tools.model_fn import model_fn_builder

log = logging.getLogger("bert_tools")
_UNKNOWN_SHARE = 0.1  # A larger share of [UNK] means the wrong vocabulary for the language.


class Session:
    """One run of a command: the model, its Estimator, and the examples of each phase.

    Args:
      command: CommandFlags with the groups of shared_flags.define_task_flags.
      task: an object of bert_tools.tasks.
      data: {"train"|"eval"|"predict": (path, list of InputExample)}, the phases asked for.

    Raises:
      UserError: the model cannot be loaded or the flags do not fit it or the data.
    """

    def __init__(self, command, task, data):
        self._command, self._task, self._data = command, task, data
        strategy = shared_flags.strategy(command)
        precision = shared_flags.precision(command)
        model = shared_flags.load_model(command, fallback_dir=command.output_dir)
        self._tokenizer = model.tokenizer
        self._steps = 0
        if "train" in data:
            count = len(data["train"][1])
            self._steps = int(count / command.train_batch_size * command.num_train_epochs)
            if self._steps < 1:
                raise UserError(
                    f"--train_batch_size={command.train_batch_size}: {count} examples make no "
                    "whole step in "
                    f"{command.num_train_epochs:g} epochs; lower it, or raise --num_train_epochs"
                )
            replicas = strategy.num_replicas_in_sync
            if command.train_batch_size % replicas:
                raise UserError(
                    f"--train_batch_size={command.train_batch_size}: {replicas} devices share a "
                    "step; "
                    "give a multiple of that"
                )
        try:
            os.makedirs(command.output_dir, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--output_dir={command.output_dir}: cannot be made ({error.strerror}); choose "
                "another folder"
            ) from error
        model_fn = model_fn_builder(
            model.config,
            task,
            model.weights,
            command.learning_rate,
            self._steps,
            int(self._steps * command.warmup_proportion),
        )
        config = RunConfig(
            command.output_dir,
            command.save_summary_steps,
            command.save_checkpoints_steps,
            strategy=strategy,
            precision=precision,
            batching=command.batching,
            seed=command.seed,
            xla=command.xla,
        )
        self._estimator = Estimator(model_fn, config, {"batch_size": command.train_batch_size})
        meta = {"task": task.name, "task_name": command.task_name.lower(), **task.description()}
        meta["max_seq_length"] = command.max_seq_length
        self._chief = is_chief(strategy)
        # Further workers convert the data for themselves and leave no files behind.
        self._scratch = None if self._chief else tempfile.TemporaryDirectory()
        self._folder = command.output_dir if self._chief else self._scratch.name
        self._require_same_model(model.config)
        if "train" not in data and not checkpoints.latest(command.output_dir):
            self._warn_of_new_weights(model)
        if "train" in data and self._chief:
            output_folder.write_description(command.output_dir, model, meta)

    def train(self):
        """Trains to the number of steps that epochs and batch size give."""
        log.info("training on %d examples, %d steps", len(self._data["train"][1]), self._steps)
        self._estimator.train(self._input_fn("train"), self._steps)

    def evaluate(self):
        """Writes eval_results.txt (the original's lines and more, sorted) and eval_results.json.

        Of several workers the chief does it, as in tf.estimator.
        """
        if not self._chief:
            return
        log.info("evaluating %d examples", len(self._data["eval"][1]))
        result = self._estimator.evaluate(
            self._input_fn("eval"), batch_size=self._command.eval_batch_size
        )
        result = dict(sorted(result.items()))
        lines = [f"{name} = {value}" for name, value in result.items()]
        for line in lines:
            log.info("  %s", line)
        files.write_text(self._path("eval_results.txt"), "".join(f"{line}\n" for line in lines))
        # JSON has no NaN (a correlation with a constant).
        result = {name: None if math.isnan(value) else value for name, value in result.items()}
        files.write_json(self._path("eval_results.json"), result)

    def predict(self):
        """Writes test_results.tsv, a line an example. Of several workers the chief does it."""
        if not self._chief:
            return
        log.info("predicting %d examples", len(self._data["predict"][1]))
        rows = map(self._task.row, self._estimator.predict(self._input_fn("predict")))
        files.write_text(self._path("test_results.tsv"), "".join(f"{row}\n" for row in rows))

    def _require_same_model(self, config):
        """Before anything is written into the folder of another model, or scored with it."""
        folder = self._command.output_dir
        path = os.path.join(folder, models.GOOGLE_CONFIG)
        if not checkpoints.latest(folder) or not os.path.exists(path):
            return
        found = BertConfig.from_json_file(path)
        if encoder.weight_shapes(found) != encoder.weight_shapes(config):
            raise UserError(
                f"--output_dir={folder}: holds checkpoints of a model of another size "
                "(bert_config.json); choose an empty folder"
            )
        path = os.path.join(folder, models.OUTPUT_DESCRIPTION)
        meta = files.read_json(path) if os.path.exists(path) else {}
        for name, value in self._task.description().items():
            if name in meta and meta[name] != value:
                raise UserError(
                    f"--output_dir={folder}: its model has {name} {json.dumps(meta[name])} "
                    f"(bert_tools.json), the flags ask for {json.dumps(value)}; give the flags "
                    "that "
                    "it was trained with, or choose an empty folder"
                )

    def _warn_of_new_weights(self, model):
        """Scoring without a checkpoint is the original's way too, but seldom what is meant."""
        new = [name for name in self._task.head_shapes(model.config) if name not in model.weights]
        if new:
            log.warning("%s: not in the model; the scores are those of an untrained head", new[0])

    def _input_fn(self, phase):
        """Converts the phase's examples to output_dir/PHASE.tf_record, and reads them from
        there.
        """
        command = self._command
        path, examples = self._data[phase]
        record_file = self._path(f"{phase}.tf_record")
        key = tfrecord.file_key(
            [path],
            self._tokenizer,
            task=command.task_name.lower(),
            max_seq_length=command.max_seq_length,
            pad_records=command.pad_records,
        )
        counts = tfrecord.convert_examples(
            examples,
            self._task.example_columns,
            command.max_seq_length,
            self._tokenizer,
            record_file,
            command.pad_records,
            key,
        )
        if counts and counts[1] > _UNKNOWN_SHARE * counts[0]:
            log.warning(
                "%s: %.0f %% of the tokens are [UNK]; the vocabulary does not fit the language",
                path,
                100 * counts[1] / counts[0],
            )
        return batches.file_based_input_fn_builder(
            record_file, command.max_seq_length, phase == "train", self._task.columns
        )

    def _path(self, name):
        return os.path.join(self._folder, name)
