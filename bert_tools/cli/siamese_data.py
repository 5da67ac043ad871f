"""The task and the examples of run_siamese, with what was found wrong about them."""

import functools
import os

from bert_tools import files
from bert_tools.cli import head_labels, shared_flags, task_data
from bert_tools.errors import UserError
from bert_tools.inputs.data_sets import OwnFiles, OwnReader
from bert_tools.inputs.examples import parse_value
from bert_tools.inputs.tables import listed, shown
from bert_tools.inputs.text_features import texts_of
from bert_tools.tasks import classify, regress
from bert_tools.tasks.siamese import DATA_SETS, OBJECTIVES, Options, Siamese

# Flags that a trained model remembers.
_REMEMBERED = ("objective", "margin", "scale", "distance", "symmetric")


def load(command, asked, stored):
    """The task and the examples of each phase.

    Args:
      command: CommandFlags of run_siamese.
      asked: of task_data.phases.
      stored: of task_data.description.

    Returns:
      (Siamese, whose recipe is still to be set; the training set's source, of task_data.data_set;
      {phase: (path, list of InputExample)}).

    Raises:
      UserError: the flags, the objective and the data do not fit each other, or the data are bad.
    """
    _adopt(command, stored)
    _check_flags(command, asked)
    objective = OBJECTIVES[command.objective]
    source = task_data.data_set(command, DATA_SETS, stored, Siamese.label_flag, objective.label)
    if "train" in asked:
        _check_source(command, source, objective)
    value_range = shared_flags.number_range(command, "value_range")
    if "value_range" in stored:
        value_range = _agreed(command, "value_range", value_range, stored["value_range"])
    else:
        value_range = value_range or (source and source.value_range)
    target_range = shared_flags.number_range(command, "target_range")
    if "target_range" in stored:
        target_range = _agreed(command, "target_range", target_range, stored["target_range"])
    if not -1 <= target_range[0] < target_range[1] <= 1:
        raise UserError(
            f"--target_range={command.target_range}: cosines lie in -1..1; give LOW,HIGH inside"
        )
    task = Siamese(
        command.objective,
        Options(command.margin, command.scale, command.distance, command.symmetric),
        dense_width=command.dense_width,
        dimensions=_dimensions(command),
        value_range=value_range,
        target_range=target_range,
        label_list=stored.get("labels"),
    )
    data = {}
    if "train" in asked:
        parse = None if command.teacher else _parser(source, task, objective)
        data |= task_data.load(command, source, ["train"], parse)
        data["train"] = data["train"][0], _trainable(command, objective, *data["train"])
        if objective.label == "class":
            path, examples = data["train"]
            known = task.label_list or (source.labels and list(source.labels))
            found = classify.labels_of(examples, path)
            task.label_list = head_labels.adopted(command, task.name, known, found) or found
    if "eval" in asked:
        data |= _dev_set(command, source, task, objective)
    if "predict" in asked:
        data |= task_data.load(command, source, ["predict"], None)
        _require_pairs(*data["predict"], "--do_predict")
    return task, source, data


def _adopt(command, stored):
    """Defaults that depend on the objective, and what the model was trained with."""
    for name in _REMEMBERED:
        if name in stored:
            task_data.agree(command, name, stored[name])
    if "matryoshka_dimensions" in stored:
        task_data.agree(
            command, "matryoshka_dimensions", ",".join(map(str, stored["matryoshka_dimensions"]))
        )
    if "max_seq_length" in stored:
        command.adopt("max_seq_length", stored["max_seq_length"])
    objective = OBJECTIVES[command.objective]
    if command.margin is None:
        command.adopt("margin", objective.margin)
    if command.distance is None:
        command.adopt("distance", "euclidean" if command.objective == "triplet" else "cosine")
    if command.objective == "triplet" and command.distance == "euclidean" and not stored:
        # A margin of 1 is nothing to vectors of free length, and half the way on the sphere.
        command.adopt("normalize", False)


def _agreed(command, name, given, kept):
    """The range that the model was trained with, (low, high) or None."""
    kept = kept and tuple(kept)
    if command.given(name) and given != kept:
        trained = ",".join(f"{number:g}" for number in kept or ()) or "another objective"
        raise UserError(
            f"--{name}={getattr(command, name)}: the model was trained with {trained} "
            "(bert_tools.json); leave the flag out"
        )
    return kept


def _check_flags(command, asked):
    """Flags that nothing would read, or that leave nothing to learn."""
    readers = {
        "margin": ("triplet", "contrastive"),
        "distance": ("triplet", "contrastive"),
        "scale": ("multiple_negatives", "simcse", "cosent"),
        "symmetric": ("multiple_negatives", "simcse"),
        "value_range": ("cosine_regression",),
        "target_range": ("cosine_regression",),
        "hard_negatives": ("triplet", "multiple_negatives"),
        "teacher": ("distillation", "cosine_regression", "cosent"),
    }
    for name, objectives in readers.items():
        if command.given(name) and command.objective not in objectives:
            raise UserError(
                f"--{name}={getattr(command, name)}: is of --objective={' or '.join(objectives)}, "
                f"not of {command.objective}; leave it out"
            )
    if command.do_train and command.objective == "distillation" and not command.teacher:
        raise UserError("--teacher is missing; --objective=distillation learns its vectors")
    if command.scale == 0:
        raise UserError("--scale=0: leaves nothing of the cosines; give a number above 0")
    for name in ("dev_task_name", "dev_data_dir"):
        if command.given(name) and "eval" not in asked:
            raise UserError(
                f"--{name}={getattr(command, name)}: is of --do_eval=true or --eval_steps, which "
                "are missing; give one, or leave this out"
            )
    if command.teacher and command.given("value_range"):
        raise UserError(
            f"--value_range={command.value_range}: of values of the file, and --teacher gives "
            "others; leave it out"
        )
    if command.teacher:
        _check_teacher(command)


def _dimensions(command):
    text = command.matryoshka_dimensions or ""
    try:
        found = tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        found = (0,)
    if any(number < 1 for number in found) or len(set(found)) < len(found):
        raise UserError(
            f"--matryoshka_dimensions={text}: expected numbers from 1, each once, such as "
            "256,128,64"
        )
    return found


def label_kind(source, objective):
    """Whether the rows of a data set have a "value", a "class" or nothing (None) to learn."""
    if isinstance(source, OwnFiles):
        # What a column of one's own is, is for the objective to say.
        kind = "class" if objective.label == "class" else "value"
        return None if source.columns.label is None else kind
    if source.dev[1].label is None:
        return None
    numbers = source.labels is None or set(source.labels) == {"0", "1"}
    return "value" if numbers else "class"


def _check_source(command, source, objective):
    """Whether the objective can learn from the data set."""
    if isinstance(source, OwnReader) or command.teacher:
        return
    kind = label_kind(source, objective)
    wanted = "value" if objective.label == "binary" else objective.label
    if kind == wanted:
        return
    holds = {
        "value": "pairs with values",
        "class": "pairs with classes",
        None: "texts that belong together, without values",
    }
    raise UserError(
        f"--task_name={command.task_name}: holds {holds[kind]}, and "
        f"--objective={command.objective} learns from {holds[wanted]}; choose another"
    )


def _parser(source, task, objective):
    """parse_label of the training set and of sets like it, or None."""
    if not objective.label:
        return None
    if objective.label == "class":
        aliases = dict(source.aliases or ())

        def parse(cell):
            found = task.parse_label(cell)
            found = aliases.get(found, found)
            if task.label_list and found not in task.label_list:
                raise ValueError(
                    f"the label {shown(found)} is none of the model's: {listed(task.label_list)}"
                )
            return found

        return parse
    return task.parse_label


def _trainable(command, objective, path, examples):
    """The training examples, without empty texts; of each as many texts as the objective takes."""
    kept = [example for example in examples if all(text.strip() for text in texts_of(example))]
    if len(kept) < len(examples):
        count = len(examples) - len(kept)
        task_data.log.warning("%s: %d rows with an empty text are left out", path, count)
    if not kept:
        raise UserError(f"{path}: has no row without an empty text; give other data")
    counts = {len(texts_of(example)) for example in kept}
    if len(counts) != 1:
        raise UserError(f"{path}: rows have {sorted(counts)} texts; give each as many")
    (count,) = counts
    least, most = objective.texts
    if not least <= count + command.hard_negatives or count > (most or count):
        wanted = f"{least}" if least == most else f"{least} or more"
        raise UserError(
            f"{path}: rows have {count} texts, --objective={command.objective} takes {wanted}; "
            "choose another objective or other columns"
        )
    if command.train_batch_size == 1 and not objective.alone and count < 3:
        raise UserError(
            f"--train_batch_size=1: --objective={command.objective} compares the examples of a "
            "step with each other; raise it"
        )
    if command.hard_negatives and count < 2:
        raise UserError(f"--hard_negatives: needs pairs, and {path} holds single texts")
    if command.teacher and objective.label == "value" and count != 2:
        raise UserError(f"--teacher={command.teacher}: judges pairs, and {path} holds none")
    return kept


def _dev_set(command, source, task, objective):
    """{"eval": (path, examples)} of the dev set, which may be of another kind than the training
    set; "eval_mm" of a second one.
    """
    if not (command.dev_task_name or command.dev_data_dir):
        parse = scored_parser(source, task, objective)
        found = task_data.load(command, source, ["eval"], parse)
    else:
        folder = command.dev_data_dir or command.data_dir
        if command.dev_task_name:
            name = command.dev_task_name.lower()
            if name not in DATA_SETS:
                raise UserError(
                    f"--dev_task_name={command.dev_task_name}: no such task; tasks: "
                    f"{', '.join(sorted(DATA_SETS))}"
                )
            source = DATA_SETS[name]
        # Of another kind of data the metrics are told, and the objective nothing.
        parse = scored_parser(source, task, objective)
        if command.dev_task_name and parse is not None:
            parse = parse_value if label_kind(source, objective) == "value" else None
        if not os.path.isdir(folder):
            flag = "dev_data_dir" if command.dev_data_dir else "data_dir"
            raise UserError(f"--{flag}={folder}: no such folder; check the path")
        path, examples = source.load(folder, "dev", parse, command.on_bad_line)
        found = {"eval": (path, examples[: command.max_eval_examples or None])}
    for path, examples in found.values():
        _require_pairs(path, examples, "--do_eval")
    return found


def scored_parser(source, task, objective):
    """parse_label of a set that is scored: what the objective is told where it has been told that
    of the training set, else the values that metrics compare with.
    """
    if isinstance(source, OwnReader):
        return _parser(source, task, objective)
    kind = label_kind(source, objective)
    if kind == "value" and objective.label == "value" and source.value_range:
        return functools.partial(task.parse_label, value_range=source.value_range)
    if kind == ("value" if objective.label == "binary" else objective.label):
        return _parser(source, task, objective)
    return parse_value if kind == "value" else None


def _require_pairs(path, examples, flag):
    if any(len(texts_of(example)) < 2 for example in examples):
        raise UserError(
            f"{path}: holds single texts, and {flag} compares several; give --dev_task_name and "
            "--dev_data_dir of pairs, or extract_cls for the vectors"
        )


def _check_teacher(command):
    """Whether the teacher has what the objective learns, as far as its bert_tools.json tells."""
    task = _task_of(command.teacher)
    vectors = OBJECTIVES[command.objective].label == "vectors"
    if task not in (None, Siamese.name, regress.Regression.name):
        raise UserError(
            f"--teacher={command.teacher}: a model of another kind of task ({task}), which has "
            "neither vectors of texts nor values of pairs; give one of run_siamese or run_reg"
        )
    if vectors and task == regress.Regression.name:
        raise UserError(
            f"--teacher={command.teacher}: a model of run_reg has values of pairs and no "
            "vectors; give --objective=cosine_regression, or a model of vectors"
        )
    if command.given("target_range") and task != regress.Regression.name:
        raise UserError(
            f"--target_range={command.target_range}: of values, and --teacher={command.teacher} "
            "gives cosines; leave it out"
        )


def teaches_values(handle):
    """Whether a teacher is a model of pairs that run_reg trained, by its bert_tools.json."""
    return _task_of(handle) == regress.Regression.name


def _task_of(handle):
    """What bert_tools.json of a teacher says of its task, or None."""
    from bert_tools.hub import handles

    folder = handles.resolve(handle)
    if not os.path.exists(folder):
        raise UserError(f"--teacher={handle}: no such model; check the path")
    path = os.path.join(folder, "bert_tools.json")
    return files.read_json(path).get("task") if os.path.exists(path) else None
