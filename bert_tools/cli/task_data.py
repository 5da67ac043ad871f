"""The data of a command that trains: its flags, the data set that they name, and its examples."""

import glob
import json
import logging
import math
import os

from bert_tools import files
from bert_tools.cli import shared_flags
from bert_tools.errors import UserError
from bert_tools.inputs import examples, tables
from bert_tools.inputs.data_sets import OwnFiles, OwnReader
from bert_tools.tasks import heads

log = logging.getLogger("bert_tools")
_SPLITS = {"train": "train", "eval": "dev", "predict": "test"}
# Second sets, which a data set may have: mnli's mismatched ones.
_SECOND_SPLITS = {"eval": "dev_mm", "predict": "test_mm"}


def define_flags(command, tasks, label_flag):
    """The flags of data_dir and its columns.

    Args:
      tasks: names of the table's data sets.
      label_flag: "value_column" or "label_column".
    """
    command.group("Data")
    command.string("data_dir", None, "Folder of the task's files.")
    command.string(
        "task_name",
        None,
        f"The task, in any case: {', '.join(tasks)}; or csv: data_dir/{{train,dev,test}}.tsv, .csv "
        "or .jsonl with columns of your own; or a name of --task_module.",
    )
    command.string(
        "task_module", None, "Your own .py file with a DataProcessor that reads the examples."
    )
    command.string("output_dir", None, "Folder of checkpoints and results; made when absent.")
    command.string(
        "text_column",
        None,
        "Column of the text, for --task_name=csv and for files to score: a number from 0, or a "
        "name (the first line is then a header).",
    )
    command.string("text_pair_column", None, "Column of the second text, where there are pairs.")
    command.string(label_flag, None, "Column of what is to be learnt.")
    command.bool("header", False, "Skip the first line, where columns are given by number.")
    command.float(
        "dev_fraction",
        0.0,
        "Share of the training set that is the dev set when there is no dev file.",
        lower_bound=0,
        upper_bound=0.9,
    )
    command.enum(
        "on_bad_line",
        "error",
        ("error", "skip"),
        "what a malformed line does; skipped ones are counted, and predicted as nan.",
    )
    command.enum(
        "long_text",
        "truncate",
        ("truncate", "windows"),
        "what is done with a text over max_seq_length when scoring; windows: the longer text of a "
        "pair is cut into windows that overlap by a quarter, and the prediction is the mean over "
        "them.",
    )
    command.integer("max_train_examples", 0, "Train on the first so many; 0: all.", lower_bound=0)
    command.integer("max_eval_examples", 0, "Evaluate the first so many; 0: all.", lower_bound=0)
    command.bool(
        "pad_records",
        False,
        "Write *.tf_record padded to max_seq_length, as the originals can read them.",
    )


def phases(command, required=("task_name", "data_dir", "output_dir")):
    """The phases over data_dir whose examples are needed: of "train", "eval" and "predict"; "eval"
    for --eval_steps too.

    Args:
      required: flags that such a phase needs.

    Raises:
      UserError: nothing is asked for, a flag that the phases need is missing, or a file to score
        is, which would else be noticed after hours of training.
    """
    asked = [phase for phase in _SPLITS if getattr(command, f"do_{phase}")]
    for name in ("predict_file", "eval_file", "predict_output"):
        if command.given(name) and not (getattr(command, name) or "").strip(","):
            raise UserError(f"--{name} is empty; name a file, or leave the flag out")
    if command.given("predict_output") and not command.predict_file:
        raise UserError(
            f"--predict_output={command.predict_output}: is of --predict_file, which is missing; "
            "give it, or leave this out"
        )
    if command.predict_file and not command.data_dir and "predict" in asked:
        asked.remove("predict")  # --do_predict --predict_file=FILE: the file is what to predict.
    if not asked and not command.predict_file and not command.eval_file:
        raise UserError(
            "no phase is asked for; pass --do_train=true, --do_eval=true or --do_predict=true "
            "(or --eval_file or --predict_file)"
        )
    if asked:
        command.require(*required)
    for path in eval_files(command):
        tables.require_file(path, "--eval_file")
    if command.predict_file:
        if command.predict_file != "-":
            tables.require_file(command.predict_file, "--predict_file")
        shared_flags.require_place(command, "predict_output", "predict_file")
    if command.do_train and (command.eval_steps or command.best_metric) and "eval" not in asked:
        asked.insert(1, "eval")
    return asked


def eval_files(command):
    """The files that the comma-separated paths and globs of --eval_file name.

    Raises:
      UserError: a glob matches nothing.
    """
    paths = []
    for pattern in (command.eval_file or "").split(","):
        if os.path.exists(pattern) or not glob.has_magic(pattern):
            paths += [pattern] if pattern else []
            continue
        found = sorted(glob.glob(pattern))
        if not found:
            raise UserError(f"--eval_file={pattern}: no file matches; check the pattern")
        paths += found
    return paths


def description(command, kind):
    """bert_tools.json of the model that is scored with, {} when training or when there is none.

    output_dir counts before --bert, as its checkpoint does.

    Args:
      kind: str or tuple of str, the name of the command's task, or of its tasks.

    Raises:
      UserError: the model is one of another kind of task.
    """
    return {} if command.do_train else described(command.output_dir, command.bert, kind)


def goes_on(command):
    """Whether output_dir holds a checkpoint, from which a training goes on."""
    return os.path.exists(os.path.join(command.output_dir or "", "checkpoint"))


def described(output_dir, handle, kind):
    """bert_tools.json of described_folder(output_dir, handle), else {}; see `description`."""
    folder = described_folder(output_dir, handle)
    if folder is None:
        return {}
    path = os.path.join(folder, "bert_tools.json")
    stored = files.read_json(path)
    check_description(stored, path)
    kinds = (kind,) if isinstance(kind, str) else kind
    if stored.get("task") not in (None, *kinds):
        raise UserError(
            f"{path}: the model was trained for another kind of task ({stored['task']}, "
            f"this command's is {' or '.join(kinds)}); run the command that trained it"
        )
    return stored


def described_folder(output_dir, handle):
    """The first folder with a bert_tools.json: output_dir (str or None), what the handle (str or
    None) stands for; None where neither has one.
    """
    from bert_tools.hub import handles

    for folder in (output_dir, handle and handles.resolve(handle)):
        if folder and os.path.exists(os.path.join(folder, "bert_tools.json")):
            return folder
    return None


def check_description(stored, path):
    """The values of a bert_tools.json that commands read, as UserError when one is of no use."""
    columns = stored.get("columns")
    numbers = (int, float)
    checks = {
        "task": ("a str", lambda value: isinstance(value, str)),
        "task_name": ("a str", lambda value: isinstance(value, str)),
        "max_seq_length": ("a number from 3", lambda value: type(value) is int and value >= 3),
        "pairs": ("true or false", lambda value: isinstance(value, bool)),
        "use_sigmoid_act": ("true or false", lambda value: isinstance(value, bool)),
        "head_pooling": (
            f"one of {', '.join(heads.POOLINGS)}",
            lambda value: value in list(heads.POOLINGS),
        ),
        "objective": ("a str", lambda value: isinstance(value, str)),
        "loss": ("a str", lambda value: isinstance(value, str)),
        "version_2_with_negative": ("true or false", lambda value: isinstance(value, bool)),
        "doc_stride": ("a number from 1", lambda value: type(value) is int and value >= 1),
        "max_query_length": ("a number from 1", lambda value: type(value) is int and value >= 1),
        "null_score_diff_threshold": (
            "a finite number",
            lambda value: type(value) in numbers and math.isfinite(value),
        ),
        "value_range": (
            "null or [low, high]",
            lambda value: (
                value is None
                or (
                    isinstance(value, list)
                    and len(value) == 2
                    and all(type(number) in numbers for number in value)
                    and value[0] < value[1]
                )
            ),
        ),
        "labels": (
            "null or a list of str",
            lambda value: (
                value is None
                or (isinstance(value, list) and all(isinstance(label, str) for label in value))
            ),
        ),
        "positive_label": ("a str", lambda value: isinstance(value, str)),
        "label_separator": ("a str", lambda value: isinstance(value, str) and value),
        "thresholds": (
            "a list of numbers",
            lambda value: (
                isinstance(value, list) and all(type(number) in numbers for number in value)
            ),
        ),
        "word_column": ("a number", lambda value: type(value) is int),
        "columns": (
            "an object with text_a, text_b, label and header",
            lambda _: (
                isinstance(columns, dict)
                and columns.keys() - {"further"} == {"text_a", "text_b", "label", "header"}
                and isinstance(columns.get("further", []), list)
                and isinstance(columns["text_a"], int | str)
                and all(isinstance(columns[name], int | str | None) for name in ("text_b", "label"))
                and isinstance(columns["header"], bool)
            ),
        ),
        "dev_split": (
            "an object with fraction and seed",
            lambda value: (
                isinstance(value, dict)
                and value.keys() == {"fraction", "seed"}
                and type(value["fraction"]) in numbers
                and type(value["seed"]) is int
            ),
        ),
    }
    for name, (expected, holds) in checks.items():
        if name in stored and not holds(stored[name]):
            raise UserError(
                f"{path}: {name} is {stored[name]!r}, expected {expected}; restore the file"
            )


def agree(command, name, value, source="bert_tools.json"):
    """Gives a flag the value that the model was trained with, or refuses another one.

    Args:
      name: str, the flag.
      value: what the model says of it, as the flag would have it.
      source: str, the name of the model's file that says so.
    """
    given = getattr(command, name)
    if command.given(name) and given != value:
        shown = [str(v).lower() if isinstance(v, bool) else v for v in (given, value)]
        raise UserError(
            f"--{name}={shown[0]}: the model was trained with {shown[1]} ({source}); leave the "
            "flag out"
        )
    command.adopt(name, value)


def require_pairs(command, data):
    """UserError for --pooling=pair where an example is a text alone.

    Args:
      data: dict of `load`.
    """
    for path, found in data.values():
        alone = next((e for e in found if e.text_b is None), None)
        if command.pooling == "pair" and alone is not None:
            raise UserError(
                f"--pooling=pair: {path} has a text without a second one ({alone.guid}); give "
                "--text_pair_column, or another --pooling"
            )


def agree_on_pooling(command, stored):
    """As `agree`, for --pooling; a folder that says nothing was trained with the default."""
    if stored.get("task"):
        agree(command, "pooling", stored.get("head_pooling", heads.POOLINGS[0]))


def data_set(command, table, stored, label_flag, needs_label=True):
    """What --task_name and its like stand for: DataSet, OwnFiles or OwnReader.

    Args:
      table: {task name: DataSet}.
      stored: dict of `description`; says what flags leave open.
      label_flag: "value_column" or "label_column".
      needs_label: bool, whether training and evaluation need that column.

    Raises:
      UserError: no such task, columns are missing, or columns are given that nothing would read.
    """
    _refuse_columns(command, label_flag)
    if command.task_module:
        processor = examples.load_processor(command.task_module, command.task_name)
        return OwnReader(processor, command.task_module)
    name = (command.task_name or stored.get("task_name") or "").lower()
    if name == "csv":
        columns = columns_given(command, label_flag)
        if columns is None and stored.get("columns"):
            further = tuple(stored["columns"].get("further", ()))
            columns = examples.Layout(**{**stored["columns"], "further": further})
        if columns is None:
            raise UserError("--text_column is missing; --task_name=csv needs it, see --help")
        learns = command.do_train or command.do_eval or command.eval_file
        if needs_label and columns.label is None and learns:
            raise UserError(f"--{label_flag} is missing; name the column that is to be learnt")
        return OwnFiles(columns)
    if name in table:
        return table[name]
    listed = ", ".join([*sorted(table), "csv"])
    if command.task_name:
        raise UserError(
            f"--task_name={command.task_name}: no such task; tasks: {listed}, "
            "or one of your own with --task_module"
        )
    return None


def _refuse_columns(command, label_flag):
    """--text_column and its like are for --task_name=csv and for files to score."""
    if command.header and not command.text_column:
        raise UserError("--header: needs --text_column, by number; give it, or leave this out")
    named = (command.task_name or "csv").lower()
    if command.eval_file or command.predict_file or (named == "csv" and not command.task_module):
        return
    for name in ("text_column", "text_pair_column", label_flag, "negative_columns"):
        if getattr(command, name, None) is not None:
            raise UserError(
                f"--{name}={getattr(command, name)}: the columns of --task_name={named} are "
                "fixed; leave it out, or give --task_name=csv"
            )


def load(command, source, asked, parse_label):
    """The examples of each phase: {phase: (path, list of InputExample)}; where the data set has a
    second dev or test set, as "eval_mm" and "predict_mm".

    Args:
      source: of `data_set`.
      asked: of `phases`, or a part of it.
      parse_label: see examples.read_examples.
    """
    data = {}
    fraction, split_seed = _split(command)
    for phase in asked:
        split, second = _SPLITS[phase], _SECOND_SPLITS.get(phase)
        if fraction and split in ("train", "dev") and not source.has(command.data_dir, "dev"):
            path, read = source.load(command.data_dir, "train", parse_label, command.on_bad_line)
            data[phase] = path, _share(read, fraction, split_seed, split)
            if not data[phase][1]:
                raise UserError(
                    f"--dev_fraction={fraction:g}: leaves no {split} example of {len(read)}; "
                    "change it"
                )
        else:
            data[phase] = source.load(command.data_dir, split, parse_label, command.on_bad_line)
        if second and source.has(command.data_dir, second):
            data[f"{phase}_mm"] = source.load(
                command.data_dir, second, parse_label, command.on_bad_line
            )
    for phase, limit in (
        ("train", command.max_train_examples),
        ("eval", command.max_eval_examples),
        ("eval_mm", command.max_eval_examples),
    ):
        if limit and phase in data:
            data[phase] = data[phase][0], data[phase][1][:limit]
    return data


def _split(command):
    """(fraction, seed) of --dev_fraction's split: those of the run whose checkpoints lie in
    output_dir, so that no example of its training set is ever one of the dev set.
    """
    folder = command.output_dir or ""
    path = os.path.join(folder, "bert_tools.json")
    if not os.path.exists(os.path.join(folder, "checkpoint")) or not os.path.exists(path):
        return command.dev_fraction, command.seed
    stored = files.read_json(path)
    check_description(stored, path)
    kept = stored.get("dev_split", {"fraction": command.dev_fraction, "seed": command.seed})
    if command.dev_fraction and command.dev_fraction != kept["fraction"]:
        raise UserError(
            f"--dev_fraction={command.dev_fraction:g}: the model in --output_dir={folder} was "
            f"trained with {kept['fraction']:g}; give that, or choose an empty folder"
        )
    return kept["fraction"], kept["seed"]


def scored_layout(command, source, stored, path, split, label_flag):
    """The Layout of a file of --predict_file (split "test") or --eval_file (split "dev").

    Columns that the flags name count first; then the form of the task's file of that split. Lines
    of stdin are `text TAB second text` where the flags say nothing.
    """
    form = command.input_format if command.input_format != "auto" else tables.format_of(path)
    columns = columns_given(command, label_flag)
    if columns is not None:
        return columns._replace(kind=form)
    pairs = stored.get("pairs", True)
    plain = examples.Layout(0, 1 if pairs else None, 2 if pairs else 1)
    if source is None and form == "jsonl":
        raise UserError(
            f"{path}: holds JSON lines; name what is read of them with --text_column and its like"
        )
    if source is None or (path == "-" and form == "tsv" and not command.task_name):
        return plain._replace(kind=form)
    layout = source.layout(split, path)
    if isinstance(source, OwnFiles):
        return layout._replace(kind=form)
    if form not in ("tsv", layout.kind):
        raise UserError(
            f"{path}: a .{form} file, and those of the task are .{layout.kind}; name its columns "
            "with --text_column and its like"
        )
    return layout


def meta(command, source, data):
    """What bert_tools.json keeps of the data."""
    kept = {"task_name": command.task_name.lower()}
    fraction, seed = _split(command)  # That of an earlier run stays.
    if fraction:
        kept["dev_split"] = {"fraction": fraction, "seed": seed}
    if isinstance(source, OwnFiles):
        names = ("text_a", "text_b", "label", "header")
        kept["columns"] = {name: getattr(source.columns, name) for name in names}
        if source.columns.further:
            kept["columns"]["further"] = list(source.columns.further)
    if "train" in data:
        kept["pairs"] = any(example.text_b is not None for example in data["train"][1])
    return kept


def columns_given(command, label_flag):
    """The Layout that the column flags give, or None."""
    given = [getattr(command, name) for name in ("text_column", "text_pair_column", label_flag)]
    further = getattr(command, "negative_columns", None)  # A flag of run_siamese alone.
    given += further.split(",") if further is not None else []
    columns = [int(name) if name and name.isdecimal() else name for name in given]
    if columns[0] is None:
        if any(column is not None for column in columns):
            raise UserError("--text_column is missing; give it beside the other columns")
        return None
    named = any(isinstance(column, str) for column in columns)
    return examples.Layout(*columns[:3], header=command.header or named, further=tuple(columns[3:]))


def _share(read, fraction, seed, split):
    """The part of a training set that is split off as "dev", or the rest ("train"); of each label
    the same share.
    """
    import numpy as np

    groups = {}
    for index, example in enumerate(read):
        # Values of a regression are no classes: one group.
        label = example.label if isinstance(example.label, str) else None
        groups.setdefault(label, []).append(index)
    rng, chosen = np.random.default_rng(seed), set()
    for label in sorted(groups, key=json.dumps):
        members = groups[label]
        chosen.update(rng.permutation(members)[: round(len(members) * fraction)].tolist())
    return [e for index, e in enumerate(read) if (index in chosen) == (split == "dev")]
