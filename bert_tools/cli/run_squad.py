"""run_squad: find the answer to a question in a text with BERT: train, predict, score.

run_squad --do_train=true --train_file=train-v1.1.json --do_predict=true \\
  --predict_file=dev-v1.1.json --bert=minilm --output_dir=/tmp/squad

SQuAD v1.1, v2.0 (--version_2_with_negative=true) and CMRC 2018 JSON. Writes into output_dir:
checkpoints, predictions.json, nbest_predictions.json, null_odds.json (v2.0), and where predict_file
has answers their official scores in eval_results.txt and .json.

Put questions to what was trained:
  answer_questions --bert=/tmp/squad --question="Who wrote it?" --context_file=text.txt
"""

import os
import sys

from bert_tools.cli import app, shared_flags, task_data
from bert_tools.errors import UserError


def flags():
    """The command's flags."""
    command = app.CommandFlags()
    shared_flags.define_model_flags(command, max_seq_length=384)
    command.group("Data")
    command.string("train_file", None, "JSON to learn from, such as train-v1.1.json.")
    command.string("predict_file", None, "JSON to answer, such as dev-v1.1.json.")
    command.string("output_dir", None, "Folder of checkpoints and results; made when absent.")
    shared_flags.define_window_flags(command)
    command.bool(
        "pad_records",
        False,
        "Write *.tf_record padded to max_seq_length, as the originals can read them.",
    )
    command.bool("verbose_logging", False, "List every question with a warning, not the first.")
    command.group("Phases (at least one)")
    command.bool("do_train", False, "Train; goes on from output_dir's newest checkpoint.")
    command.bool("do_predict", False, "Answer predict_file, and score where it has answers.")
    command.group("Answers")
    shared_flags.define_answer_flags(command)
    command.bool(
        "tune_null_threshold",
        False,
        "Choose the null_score_diff_threshold with the highest F1 on predict_file, use it, and "
        "keep it in output_dir, where later runs find it.",
    )
    command.enum(
        "answer_scores",
        "auto",
        ("auto", "squad", "cmrc"),
        "which official scores; auto: CMRC's where the answers are mostly Chinese.",
    )
    command.string(
        "plot_dir",
        None,
        "Folder for pictures of v2.0's null odds (PNG): precision-recall curve and histogram. "
        "Needs the extra plots.",
    )
    shared_flags.define_training_flags(command)
    shared_flags.define_compute_flags(command)
    return command


def run(command):
    """The command; see the module's docstring."""
    from bert_tools import plots
    from bert_tools.squad import examples, windows
    from bert_tools.tasks.span import Span

    # Everything that can be wrong is looked at before TensorFlow is loaded and any work is done.
    if not (command.do_train or command.do_predict):
        raise UserError("no phase is asked for; pass --do_train=true or --do_predict=true")
    command.require("output_dir")
    if command.do_train:
        command.require("train_file")
    if command.do_predict:
        command.require("predict_file")
    stored = task_data.description(command, Span.name)
    if command.do_train and task_data.goes_on(command):
        # Training goes on there, or is finished: it stays the model that it is.
        stored = task_data.described(command.output_dir, None, Span.name)
        if "version_2_with_negative" in stored:
            task_data.agree(command, "version_2_with_negative", stored["version_2_with_negative"])
    shared_flags.adopt_answer_flags(command, stored)
    windows.check_lengths(command.max_seq_length, command.max_query_length)
    _check_null_flags(command)
    if command.plot_dir:
        plots.require_folder(command.plot_dir)
    data = {}
    for phase, path in (("train", command.train_file), ("predict", command.predict_file)):
        if getattr(command, f"do_{phase}"):
            found, findings = examples.read_squad_examples(
                path, phase == "train", command.version_2_with_negative
            )
            for line in findings.lines(command.verbose_logging):
                app.log.warning("%s: %s", path, line)
            data[phase] = path, found
    if command.tune_null_threshold and not examples.are_scored(data["predict"][1]):
        raise UserError(
            f"--tune_null_threshold: {command.predict_file} does not say what is right; give a "
            "file with answers"
        )

    app.import_tensorflow()
    from bert_tools.cli import squad_phases

    task = Span(command.max_seq_length)
    squad_phases.SquadSession(command, task, None, data, stored).run()


def _check_null_flags(command):
    """Flags of impossible questions that nothing would read."""
    v2_only = ("tune_null_threshold", "plot_dir")
    for name in v2_only:
        if getattr(command, name) and not command.version_2_with_negative:
            raise UserError(
                f"--{name}: is about questions without an answer; give "
                "--version_2_with_negative=true, or leave it out"
            )
    if command.tune_null_threshold:
        if not command.do_predict:
            raise UserError("--tune_null_threshold: needs predictions; give --do_predict=true")
        folder = command.output_dir
        if not command.do_train and not os.path.exists(os.path.join(folder, "bert_tools.json")):
            raise UserError(
                f"--tune_null_threshold: --output_dir={folder} holds no model to keep the "
                "threshold with; give the folder of the trained one"
            )


def main(arguments=None):
    """The console command; returns the exit status."""
    return app.run(__doc__, flags(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
