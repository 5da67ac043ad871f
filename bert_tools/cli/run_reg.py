"""run_reg: train, evaluate and predict a number for pairs of sentences with BERT.

run_reg --task_name=sim --do_train=true --do_eval=true --do_predict=true \\
  --data_dir=data/sim-en --bert=minilm --max_seq_length=64 --output_dir=/tmp/sim

Files of task sim: data_dir/{train,dev,test}.tsv, no header, text_a TAB text_b TAB value (test:
value may be absent).
Writes into output_dir: checkpoints, eval_results.txt and .json (eval_loss, mae, pearson, spearman,
...), and test_results.tsv, one value a line.
"""

from bert_tools.cli import app, shared_flags
from bert_tools.errors import UserError


def flags():
    """The command's flags."""
    command = app.CommandFlags()
    shared_flags.define_model_flags(command)
    shared_flags.define_task_flags(command, tasks=("sim",))
    command.group("Regression")
    command.bool(
        "use_sigmoid_act", True, "A sigmoid on the output; false when the values are not in 0..1."
    )
    shared_flags.define_compute_flags(command)
    return command


def run(command):
    """The command; see the module's docstring."""
    from bert_tools.tasks import regress

    # Everything that can be wrong is looked at before TensorFlow is loaded and any work is done.
    phases = [phase for phase in ("train", "eval", "predict") if getattr(command, f"do_{phase}")]
    if not phases:
        raise UserError(
            "no phase is asked for; pass --do_train=true, --do_eval=true or --do_predict=true"
        )
    command.require("task_name", "data_dir", "output_dir")
    row = regress.data_set(command.task_name)
    splits = {"train": "train", "eval": "dev", "predict": "test"}
    data = {phase: regress.read_examples(row, command.data_dir, splits[phase]) for phase in phases}
    for phase in phases:
        if phase != "predict" and command.use_sigmoid_act:
            regress.require_sigmoid_range(*data[phase])

    app.import_tensorflow()
    from bert_tools.cli import phases as steps

    task = regress.Regression(command.use_sigmoid_act)
    session = steps.Session(command, task, data)
    if command.do_train:
        session.train()
    if command.do_eval:
        session.evaluate()
    if command.do_predict:
        session.predict()


def main(arguments=None):
    """The console command; returns the exit status."""
    return app.run(__doc__, flags(), run, arguments)
