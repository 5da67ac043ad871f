"""run_reg: train, evaluate and predict a number for a text or a pair of texts with BERT.

run_reg --task_name=sim --do_train=true --do_eval=true --do_predict=true \\
  --data_dir=data/sim-en --bert=minilm --max_seq_length=64 --output_dir=/tmp/sim

Files of task sim: data_dir/{train,dev,test}.tsv, no header, text_a TAB text_b TAB value (test:
value may be absent). Writes into output_dir: checkpoints, eval_results.txt and .json (eval_loss,
mae, pearson, spearman, ...), and test_results.tsv, one value a line.

Score with what was trained, in a pipeline:
  cut -f1,2 pairs.tsv | run_reg --bert=/tmp/sim --predict_file=- > values.txt
"""

import sys

from bert_tools.cli import app, shared_flags, task_data
from bert_tools.errors import UserError


def flags():
    """The command's flags."""
    from bert_tools.tasks import regress

    command = app.CommandFlags()
    shared_flags.define_model_flags(command)
    task_data.define_flags(command, regress.DATA_SETS, regress.Regression.label_flag)
    shared_flags.define_phase_flags(command)
    command.group("Regression")
    command.bool(
        "use_sigmoid_act", True, "A sigmoid on the output; false when the values are not in 0..1."
    )
    command.string(
        "value_range",
        None,
        "LOW,HIGH of the values: mapped to 0..1 for training and back in predictions; eval_loss "
        "is of the mapped values. sts-b implies 0,5.",
    )
    command.enum(
        "loss",
        "mse",
        regress.LOSSES,
        "mse as the original; logistic: the cross-entropy of the sigmoid with the value.",
    )
    shared_flags.define_pooling_flag(command)
    shared_flags.define_compute_flags(command)
    return command


def run(command):
    """The command; see the module's docstring."""
    from bert_tools.tasks import regress

    # Everything that can be wrong is looked at before TensorFlow is loaded and any work is done.
    asked = task_data.phases(command)
    stored = task_data.description(command, regress.Regression.name)
    if "max_seq_length" in stored:
        command.adopt("max_seq_length", stored["max_seq_length"])
    for name in ("use_sigmoid_act", "loss"):
        if name in stored:
            task_data.agree(command, name, stored[name])
    task_data.agree_on_pooling(command, stored)
    label_flag = regress.Regression.label_flag
    source = task_data.data_set(command, regress.DATA_SETS, stored, label_flag)
    value_range = shared_flags.number_range(command, "value_range")
    if "value_range" in stored:
        kept = stored["value_range"] and tuple(stored["value_range"])
        if value_range not in (None, kept):
            raise UserError(
                f"--value_range={command.value_range}: the model was trained with {kept} "
                "(bert_tools.json); leave the flag out"
            )
        value_range = kept
    else:
        value_range = value_range or (source and source.value_range)
    task = regress.Regression(command.use_sigmoid_act, value_range, command.loss, command.pooling)
    data = task_data.load(command, source, asked, task.parse_label)
    task_data.require_pairs(command, data)
    shared_flags.check_training_flags(command)

    app.import_tensorflow()
    from bert_tools.cli import phases

    phases.Session(command, task, source, data, stored).run()


def main(arguments=None):
    """The console command; returns the exit status."""
    return app.run(__doc__, flags(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
