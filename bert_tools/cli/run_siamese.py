"""run_siamese: train sentence vectors, so that texts of one meaning lie near each other.

run_siamese --objective=cosine_regression --task_name=sts-b --do_train=true --do_eval=true \\
  --data_dir=GLUE/STS-B --bert=minilm --output_dir=/tmp/vectors
run_siamese --objective=triplet --task_name=triplets --do_train=true --do_eval=true \\
  --data_dir=data/triplets-en --bert=minilm --output_dir=/tmp/vectors

The folder is a model for the commands that make and compare vectors:
  semantic_search --bert=/tmp/vectors --corpus=answers.txt --queries=questions.txt

objective            columns                         learns
  cosine_regression    text, text, value               cosine as the value says
  cosent               text, text, value               cosines in the order of the values
  contrastive          text, text, 1 or 0              near or at least a margin apart
  triplet              anchor, positive, negatives     nearer to the positive by a margin
  multiple_negatives   anchor, positive (, negatives)  the right one among those of the batch
  softmax_nli          text, text, class               to classify (u, v, |u - v|)
  simcse               text                            itself, among others, under dropout
  distillation         text (, translations)           vectors as --teacher's

Writes into output_dir: checkpoints, eval_results.txt and .json (pearson and spearman of the cosine
for pairs with values; recall@1, @5, @10 and mrr for pairs, triplet_accuracy for triplets), and
test_results.tsv, the cosines of each example's first text and its others.
"""

import sys

from bert_tools.cli import app, shared_flags, task_data

_DISTANCES = ("euclidean", "cosine")
_POOLINGS = ("auto", "cls", "mean", "max")
_DENSE = ("linear", "tanh")


def flags():
    """The command's flags."""
    from bert_tools.tasks import siamese

    command = app.CommandFlags()
    shared_flags.define_model_flags(command)
    task_data.define_flags(command, siamese.DATA_SETS, siamese.Siamese.label_flag)
    command.string(
        "negative_columns",
        None,
        "Columns of further texts for --task_name=csv, comma-separated: those that do not belong "
        "to the first (triplet, multiple_negatives), or translations (distillation).",
    )
    command.string("dev_task_name", None, "As --task_name, of the dev set; else the same.")
    command.string("dev_data_dir", None, "Folder of the dev set; else data_dir.")
    shared_flags.define_phase_flags(command)
    command.group("Objective")
    command.enum(
        "objective",
        "cosine_regression",
        siamese.OBJECTIVES,
        "what is learnt; see above, and bert_tools/tasks/objectives.py.",
    )
    command.float(
        "margin", None, "Of triplet (default 1) and contrastive (default 0.5).", lower_bound=0
    )
    command.float(
        "scale",
        20.0,
        "What cosines are multiplied by in multiple_negatives, simcse and cosent.",
        lower_bound=0,
    )
    command.enum(
        "distance",
        None,
        _DISTANCES,
        "of triplet (default: euclidean, of vectors that are not normalised unless --normalize "
        "says so) and contrastive (default: cosine).",
    )
    command.bool("symmetric", False, "multiple_negatives in both directions.")
    command.string(
        "value_range", None, "LOW,HIGH of cosine_regression's values. sts-b implies 0,5, else 0,1."
    )
    command.string(
        "target_range", "0,1", "LOW,HIGH: the cosines that the ends of value_range stand for."
    )
    command.string(
        "matryoshka_dimensions",
        None,
        "Comma-separated: what vectors begin with is trained too, so that they may be cut.",
    )
    command.integer(
        "hard_negatives",
        0,
        "Add to each example of triplet or multiple_negatives so many texts of the second column: "
        "the nearest to its first text, as the model sees it at the start, that do not belong to "
        "it.",
        lower_bound=0,
    )
    command.string(
        "teacher",
        None,
        "A model whose vectors are learnt (distillation), or whose values of the pairs are "
        "(cosine_regression, cosent): those of a run_reg model, or cosines.",
    )
    command.group("Vectors")
    command.enum(
        "pooling", "auto", _POOLINGS, "how a text's vector is made; auto: as the model says."
    )
    command.bool("normalize", None, "Scale vectors to length 1; else as the model says.")
    command.integer(
        "dense_width",
        0,
        "A dense layer behind the pooling, of vectors so wide; 0: none.",
        lower_bound=0,
    )
    command.enum("dense_activation", "tanh", _DENSE, "of that layer.")
    command.integer(
        "num_hidden_layers",
        0,
        "Keep the encoder's first so many layers; 0: all.",
        lower_bound=0,
    )
    shared_flags.define_compute_flags(command)
    return command


def run(command):
    """The command; see the module's docstring."""
    from bert_tools.cli import siamese_data

    # Everything that can be wrong is looked at before TensorFlow is loaded and any work is done.
    asked = task_data.phases(command)
    stored = task_data.description(command, "siamese")
    task, source, data = siamese_data.load(command, asked, stored)
    shared_flags.check_training_flags(command)

    app.import_tensorflow()
    from bert_tools.cli import siamese_phases

    siamese_phases.SiameseSession(command, task, source, data, stored).run()


def main(arguments=None):
    """The console command; returns the exit status."""
    return app.run(__doc__, flags(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
