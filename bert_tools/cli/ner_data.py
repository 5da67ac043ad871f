"""The sentences of run_ner, with what was found wrong about them."""

import logging
import os

from bert_tools.cli import head_labels
from bert_tools.errors import UserError
from bert_tools.inputs import conll, tables
from bert_tools.tasks.tag import Tagging

log = logging.getLogger("bert_tools")
_FILES = {"train": ("train.txt",), "eval": ("dev.txt", "valid.txt"), "predict": ("test.txt",)}


def load(command, asked, labels):
    """The sentences of each phase.

    Args:
      command: CommandFlags.
      asked: list of "train", "eval", "predict".
      labels: list of str, a trained model's tags; not read where there is a training set, which
        has its own.

    Returns:
      (labels, {phase: (path, list of Sentence)}); with tags but for "predict", which has blank
      lines and -DOCSTART- too.

    Raises:
      UserError: see conll.
    """
    data = {}
    for phase in asked:
        path = _file(command.data_dir, _FILES[phase])
        if phase == "predict":
            data[phase] = path, _untagged(command, path)
            continue
        limit = command.max_train_examples if phase == "train" else command.max_eval_examples
        if phase == "train":
            sentences, labels = tagged(command, path, None)
        else:
            sentences, _ = tagged(command, path, labels)
        data[phase] = path, sentences[: limit or None]
    return labels, data


def tagged(command, path, labels, flag="--data_dir"):
    """The sentences of a file with tags of the labels' scheme, and the labels; what had to be
    changed or left out is counted.

    Args:
      labels: list of str, or None: those of the sentences, to train on; as head_labels.adopted
        has them.
    """
    sentences, bad = conll.load_sentences(
        path, command.word_column, command.tag_column, command.on_bad_line, flag
    )
    if labels is None:
        labels = conll.labels_of(sentences)
        if len(labels) < 2:
            raise UserError(
                f"{path}: every tag is O, and there is nothing to learn; check the file"
            )
        labels = head_labels.adopted(command, Tagging.name, None, labels) or labels
    skips = command.on_bad_line == "skip"
    sentences, changed = conll.repaired(sentences, labels, path, bad if skips else None)
    if bad:
        log.warning(
            "%s: %d sentences with a bad line left out; the first: %s", path, len(bad), bad[0]
        )
    if not sentences:
        raise UserError(f"{path}: holds no usable sentence; expected a word and its tag a line")
    if changed:
        (old, new), _ = changed.most_common(1)[0]
        log.warning(
            "%s: %d tags do not fit those beside them and are read otherwise (most often %s as %s)",
            path,
            changed.total(),
            old,
            new,
        )
    return sentences, labels


def _file(folder, names):
    """The first of the files that is there."""
    if not os.path.isdir(folder):
        raise UserError(f"--data_dir={folder}: no such folder; check the path")
    paths = [os.path.join(folder, name) for name in names]
    path = next((path for path in paths if os.path.exists(path)), paths[0])
    tables.require_file(path)
    return path


def _untagged(command, path):
    sentences = []
    with tables.opened(path) as lines:
        for sentence in conll.read_sentences(lines, command.word_column):
            if not isinstance(sentence, UserError):
                sentences.append(sentence)
            elif command.on_bad_line == "error":
                raise sentence
            else:
                log.warning("%s; its sentence is left out", str(sentence).partition(";")[0])
    if not any(sentence.words for sentence in sentences):
        raise UserError(f"{path}: the file is empty; expected a word a line")
    return sentences
