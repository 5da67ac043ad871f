"""run_ner: find names of persons, places and the like with BERT: a tag a word, trained, scored.

run_ner --do_train=true --do_eval=true --do_predict=true --data_dir=conll --bert=minilm \\
  --output_dir=/tmp/ner

data_dir holds train.txt, dev.txt (or valid.txt) and test.txt in CoNLL's columns: a word a line
(Chinese: a character), blank lines between sentences, tags as BIO or BIOES. Writes into output_dir:
checkpoints, eval_results.txt and .json (precision, recall, f1_score of entities, and for each
type), and test_predictions.txt, which is test.txt with a column of tags added.

Tag with what was trained, or with a token classifier of Hugging Face, from a pipe; a sentence is
answered at its blank line:
  tr ' ' '\\n' < sentence.txt | run_ner --bert=/tmp/ner --predict_file=-
"""

import sys

from bert_tools.cli import app, shared_flags, task_data
from bert_tools.errors import UserError


def flags():
    """The command's flags."""
    command = app.CommandFlags()
    shared_flags.define_model_flags(command)
    command.group("Data")
    command.string("data_dir", None, "Folder of train.txt, dev.txt (or valid.txt) and test.txt.")
    command.string("output_dir", None, "Folder of checkpoints and results; made when absent.")
    command.integer("word_column", 0, "Column of the word, from 0; -1 is the last.")
    command.integer("tag_column", -1, "Column of the tag, from 0; -1 is the last.")
    command.enum(
        "on_bad_line",
        "error",
        ("error", "skip"),
        "what a malformed line does; skip leaves its sentence out, and counts it.",
    )
    command.integer("max_train_examples", 0, "Train on the first so many; 0: all.", lower_bound=0)
    command.integer("max_eval_examples", 0, "Evaluate the first so many; 0: all.", lower_bound=0)
    command.group("Phases (at least one, or --eval_file or --predict_file)")
    command.bool("do_train", False, "Train; goes on from output_dir's newest checkpoint.")
    command.bool("do_eval", False, "Evaluate on the dev set: eval_results.txt and .json.")
    command.bool("do_predict", False, "Tag the test set: test_predictions.txt.")
    command.group("Scoring")
    command.string(
        "eval_file",
        None,
        "Files or globs, comma-separated, with tags: a JSON line of metrics a file on stdout.",
    )
    command.string(
        "predict_file",
        None,
        "A file, or - for stdin: its lines with a column of tags added, sentence by sentence.",
    )
    command.string("predict_output", "-", "Where those go; - is stdout.")
    shared_flags.define_training_flags(command)
    shared_flags.define_evaluation_flags(command)
    shared_flags.define_compute_flags(command)
    return command


def run(command):
    """The command; see the module's docstring."""
    # Everything that can be wrong is looked at before TensorFlow is loaded and any work is done.
    from bert_tools.cli import ner_data
    from bert_tools.tasks.tag import Tagging

    asked = task_data.phases(command, ("data_dir", "output_dir"))
    stored = task_data.description(command, Tagging.name)
    for name in ("max_seq_length", "word_column"):
        if name in stored:
            command.adopt(name, stored[name])
    labels = stored.get("labels")
    if not command.do_train:
        labels = labels or _own_labels(command)
        if not labels:
            shared_flags.require_model(command)
            raise UserError(
                f"--bert={command.bert}: does not say what its tags are (in BIO or BIOES), so it "
                "was not trained for this; train it with --do_train=true, and give the output_dir"
            )
    labels, data = ner_data.load(command, asked, labels)
    shared_flags.check_training_flags(command)

    app.import_tensorflow()
    from bert_tools.cli import ner_phases

    task = Tagging(labels)
    ner_phases.NerSession(command, task, None, data, stored).run()


def _own_labels(command):
    """The tags that a Hugging Face token classifier's config.json names, or None."""
    from bert_tools.cli import head_labels
    from bert_tools.hub import handles
    from bert_tools.inputs import conll
    from bert_tools.tasks.tag import Tagging

    if not command.bert:
        return None
    labels = head_labels.read(handles.resolve(command.bert), Tagging.name) or []
    return labels if all(map(conll.is_tag, labels)) else None


def main(arguments=None):
    """The console command; returns the exit status."""
    return app.run(__doc__, flags(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
