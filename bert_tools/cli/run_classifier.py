"""run_classifier: train, evaluate and predict the class of a text or a pair of texts with BERT.

run_classifier --task_name=mrpc --do_train=true --do_eval=true --do_predict=true \\
  --data_dir=glue/MRPC --bert=minilm --max_seq_length=128 --output_dir=/tmp/mrpc

A table of your own (TSV, CSV or JSON lines), with columns by name or number:
  run_classifier --task_name=csv --text_column=review --label_column=rating --dev_fraction=0.1 \\
    --do_train=true --do_eval=true --data_dir=reviews --bert=minilm --output_dir=/tmp/reviews

Writes into output_dir: checkpoints, eval_results.txt and .json (eval_accuracy, eval_loss, f1_score,
auc, ...), test_results.tsv, a line of class probabilities an example, and labels.txt, the order of
its columns. mnli's mismatched sets give eval_results_mm.txt, test_results_mm.tsv.

Classify with what was trained; on stdout come JSON lines:
  echo "A fine film." | run_classifier --do_predict=true --bert=/tmp/reviews --predict_file=-
"""

import functools
import math
import os
import sys

from bert_tools import files
from bert_tools.cli import app, shared_flags, task_data
from bert_tools.errors import UserError
from bert_tools.inputs import tables


def flags():
    """The command's flags."""
    from bert_tools.tasks import classify

    command = app.CommandFlags()
    shared_flags.define_model_flags(command)
    command.alias("bert_hub_module_handle", "bert")
    task_data.define_flags(command, classify.DATA_SETS, classify.Classification.label_flag)
    shared_flags.define_phase_flags(command, stdout_format="jsonl")
    command.group("Classification")
    command.string(
        "labels",
        None,
        "The classes in the order of their columns: a comma-separated list, or a file with one a "
        "line. Else the task's own, or those of the training set: by value where all are "
        "integers, else in alphabetical (code point) order.",
    )
    command.string(
        "positive_label",
        None,
        "Of two classes the one that precision, recall, f1_score and auc are of; else the last.",
    )
    command.string(
        "class_weights",
        None,
        "Factors of the classes' losses in training: a comma-separated list in the order of the "
        "columns; or balanced: inverse to how frequent each is.",
    )
    command.float(
        "label_smoothing",
        0.0,
        "In training, the share of the target that is spread over all classes evenly.",
        lower_bound=0,
        upper_bound=0.99,
    )
    command.string(
        "predict_fields",
        "probabilities",
        f"What is written of a prediction, comma-separated: of {', '.join(classify.FIELDS)}.",
    )
    command.bool(
        "multi_label",
        False,
        "A text may have any number of labels: none, one, or several in a cell. A trained model "
        "remembers.",
    )
    command.string("label_separator", ",", "What stands between the labels of a cell.")
    command.float(
        "threshold",
        0.5,
        "multi_label: from which probability on a label holds.",
        lower_bound=0,
        upper_bound=1,
    )
    command.bool(
        "tune_thresholds",
        False,
        "multi_label: choose each label's threshold by its F1 on the dev set, evaluate with it, "
        "and keep it in output_dir, where later runs find it.",
    )
    command.integer(
        "folds",
        0,
        "Cross-validation: train on all but one of so many parts of the training set, evaluate on "
        "that one, for each in turn; writes mean and spread to eval_results.txt and the "
        "predictions for all parts to out_of_fold.jsonl. 0: none.",
        lower_bound=0,
    )
    command.string(
        "plot_dir",
        None,
        "Folder for pictures of each evaluation (PNG): confusion matrix, ROC and precision-recall "
        "curves. Needs the extra plots.",
    )
    shared_flags.define_pooling_flag(command)
    shared_flags.define_compute_flags(command)
    return command


def run(command):
    """The command; see the module's docstring."""
    from bert_tools import plots
    from bert_tools.tasks import classify
    from bert_tools.tasks.multi_label import MultiLabel

    # Everything that can be wrong is looked at before TensorFlow is loaded and any work is done.
    asked = task_data.phases(command)
    kinds = (classify.Classification.name, MultiLabel.name)
    stored = task_data.description(command, kinds)
    if "max_seq_length" in stored:
        command.adopt("max_seq_length", stored["max_seq_length"])
    task_data.agree_on_pooling(command, stored)
    if command.predict_output == "-":
        command.adopt("predict_format", "jsonl")
    if command.folds:
        asked = _require_folds(command)
    fields = _fields(command.predict_fields, classify.FIELDS)
    source = task_data.data_set(
        command, classify.DATA_SETS, stored, classify.Classification.label_flag
    )
    said = _own(command)
    for kind, name in ((stored.get("task"), "bert_tools.json"), (said.get("task"), "config.json")):
        if kind in kinds:
            task_data.agree(command, "multi_label", kind == MultiLabel.name, name)
            break
    if command.multi_label:
        command.adopt("label_separator", stored.get("label_separator", ","))
    _check_multi_label(command)
    labels, data = _labels(command, source, stored, said), {}
    if "train" in asked:
        # The training set says which labels there are, before any other file is read.
        parse = _parser(command, source, labels)
        data = task_data.load(command, source, ["train"], parse)
        labels = _training_labels(command, labels, *data["train"])
    if not labels:
        shared_flags.require_model(command)
        raise UserError(
            "--labels is missing; the model does not say what its classes are, list them in the "
            "order of their columns"
        )
    if command.multi_label:
        task = MultiLabel(
            labels,
            command.label_separator,
            _thresholds(command, stored, labels),
            command.tune_thresholds,
            fields,
            command.pooling,
        )
        if "train" in asked:
            task.start_from(data["train"][1])
    else:
        task = _task(
            labels,
            source,
            positive_label=_positive_label(command, stored, labels),
            class_weights=_class_weights(command, labels, data),
            label_smoothing=command.label_smoothing,
            predict_fields=fields,
            pooling=command.pooling,
        )
    further = [phase for phase in asked if phase != "train"]
    data |= task_data.load(command, source, further, task.parse_label)
    task_data.require_pairs(command, data)
    shared_flags.check_training_flags(command)
    on_scored = None
    if command.tune_thresholds:
        on_scored = functools.partial(_keep_thresholds, command, task)
    if command.plot_dir:
        on_scored = plots.Plotter(command.plot_dir, task.label_list, task.positive_label)

    app.import_tensorflow()
    from bert_tools.cli import folds, phases

    if command.multi_label:
        meta = {"label_separator": command.label_separator, "thresholds": list(task.thresholds)}
    else:
        meta = {"positive_label": task.positive_label} if len(labels) == 2 else {}
    if command.folds:
        folds.run(command, task, source, data, meta, on_scored)
    else:
        phases.Session(command, task, source, data, stored, meta=meta, on_scored=on_scored).run()


def _positive_label(command, stored, labels):
    """--positive_label, else that of the model, also of one that is trained further; or None."""
    if command.do_train and task_data.goes_on(command):
        kept = task_data.described(command.output_dir, None, "classify")
        stored = kept if kept.get("labels") == list(labels) else {}
    return command.positive_label or stored.get("positive_label")


def _check_multi_label(command):
    """Flags that contradict --multi_label, or that only it reads, as UserError."""
    if not command.multi_label:
        for name in ("tune_thresholds", "threshold", "label_separator"):
            if command.given(name):
                raise UserError(f"--{name}: is of --multi_label=true, which is missing; give it")
        return
    for name in ("positive_label", "class_weights", "label_smoothing", "folds", "plot_dir"):
        if getattr(command, name):
            raise UserError(
                f"--{name}={getattr(command, name)}: is for one label a text, not for "
                "--multi_label; leave it out"
            )
    if not command.label_separator:
        raise UserError("--label_separator is empty; name what stands between labels")
    if command.tune_thresholds and not command.do_eval:
        raise UserError("--tune_thresholds: chooses them on the dev set; give --do_eval=true")
    described = os.path.join(command.output_dir or "", "bert_tools.json")
    if command.tune_thresholds and not command.do_train and not os.path.exists(described):
        raise UserError(
            f"--tune_thresholds: keeps them in --output_dir={command.output_dir}, beside the "
            "model, and there is none (bert_tools.json); give the folder that training left, or "
            "train with --do_train=true"
        )


def _parser(command, source, labels):
    """What reads a training set's labels, see examples.read_examples; labels may be None."""
    from bert_tools.tasks import classify
    from bert_tools.tasks.multi_label import MultiLabel, parse_labels

    if command.multi_label:
        separator = command.label_separator
        if labels:
            return MultiLabel(labels, separator).parse_label
        return lambda cell: tuple(sorted(parse_labels(cell, separator)))
    return _task(labels, source).parse_label if labels else classify.parse_label


def _training_labels(command, labels, path, examples):
    """The labels of a training run: `labels`, where they are known, else those of its examples; in
    the order of the head that it goes on with, unless --labels says another.
    """
    from bert_tools.cli import head_labels
    from bert_tools.tasks import classify, multi_label
    from bert_tools.tasks.multi_label import MultiLabel

    if command.multi_label:
        task, found = MultiLabel, {label for example in examples for label in example.label}
    else:
        task, found = classify.Classification, set(classify.labels_of(examples, path))
    if not command.labels:
        found = classify.in_order(found)
        labels = head_labels.adopted(command, task.name, labels, found)
    return labels or (multi_label.labels_of(examples, path) if command.multi_label else found)


def _thresholds(command, stored, labels):
    """One for each label, or one for all: --threshold, where it is given, else the model's own;
    a training that goes on in output_dir, or was finished there, keeps what was tuned.
    """
    from bert_tools.tasks import classify
    from bert_tools.tasks.multi_label import MultiLabel

    if command.given("threshold"):
        return command.threshold
    if command.do_train and task_data.goes_on(command):
        kinds = (classify.Classification.name, MultiLabel.name)
        stored = task_data.described(command.output_dir, None, kinds)
        stored = stored if stored.get("labels") == labels else {}
    return stored.get("thresholds") or command.threshold


def _keep_thresholds(command, task, name, predictions, features):
    """After the dev set's evaluation: later runs find them, and other files do not change them."""
    del predictions, features
    if name == "eval":
        task.tune = False
        path = os.path.join(command.output_dir, "bert_tools.json")
        described = {**files.read_json(path), "thresholds": list(task.thresholds)}
        files.write_json(path, described)


def _task(labels, source, **settings):
    from bert_tools.tasks import classify

    return classify.Classification(labels, aliases=source and source.aliases, **settings)


def _labels(command, source, stored, said):
    """The labels as far as they are known before any data is read, or None."""
    given = _listed(command.labels)
    kept = stored.get("labels")
    if given and kept and given != kept:
        raise UserError(
            f"--labels={command.labels}: the model's columns are {', '.join(kept)} "
            "(bert_tools.json); leave it out"
        )
    own = source and source.labels and list(source.labels)
    return given or kept or own or said.get("labels")


def _own(command):
    """What a Hugging Face text classifier's config.json says of its labels when it is scored
    with, see huggingface.read_head_description; else {}.
    """
    from bert_tools.hub import handles, huggingface

    if command.do_train or not command.bert:
        return {}
    said = huggingface.read_head_description(handles.resolve(command.bert))
    return {} if said.get("task") == "tag" else said


def _listed(text):
    """The labels of --labels, or None."""
    if not text:
        return None
    if "," in text and not os.path.exists(text):
        labels = text.split(",")
    else:
        with tables.opened(text, "--labels (a file, or a list with commas)") as lines:
            labels = [label for _, label in lines]
    for label in labels:
        if isinstance(label, UserError):
            raise label
    return [label.strip() for label in labels if label.strip()]


def _fields(text, known):
    """The fields of --predict_fields."""
    fields = tuple(field.strip() for field in text.split(","))
    for field in fields:
        if field not in known:
            raise UserError(f"--predict_fields={text}: expected some of {', '.join(known)}")
    return fields


def _class_weights(command, labels, data):
    """The factors of --class_weights, or None."""
    from bert_tools.tasks import classify

    text = command.class_weights
    if not text or "train" not in data:
        return None
    if text == "balanced":
        return classify.balanced_weights(data["train"][1], labels)
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        weights = [math.nan]
    if not all(0 <= weight < math.inf for weight in weights):
        raise UserError(
            f"--class_weights={text}: expected balanced, or a number for each label, such as 1,2.5"
        )
    return weights


def _require_folds(command):
    """What --folds needs data for; UserError where other flags contradict it."""
    flag = f"--folds={command.folds}"
    if command.folds == 1:
        raise UserError(f"{flag}: expected two or more; raise it")
    if not (command.do_train and command.do_eval):
        raise UserError(f"{flag}: trains and evaluates; give --do_train=true and --do_eval=true")
    if command.do_predict or command.predict_file or command.eval_file:
        raise UserError(
            f"{flag}: leaves several models, and other files are for one; leave --do_predict, "
            "--predict_file and --eval_file out"
        )
    if command.strategy == "multi_worker":
        raise UserError(
            f"{flag}: one machine trains one model after another; leave --strategy=multi_worker out"
        )
    if command.best_metric:
        raise UserError(
            f"{flag}: --best_metric would choose by what is measured; leave one of them out"
        )
    return ["train"]


def main(arguments=None):
    """The console command; returns the exit status."""
    return app.run(__doc__, flags(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
