"""Which class each row of a classifier's head is of. Training that goes on with a head, and scoring
with one, put the classes by name; a row's number says nothing of them.
"""

import logging
import os

from bert_tools import files
from bert_tools.cli import task_data
from bert_tools.hub import handles, huggingface
from bert_tools.inputs import conll
from bert_tools.inputs.tables import listed

log = logging.getLogger("bert_tools")
# What the tasks that have classes put into them; between such, a head can go on.
_OBJECTS = {"classify": "text", "multi_label": "text", "tag": "token", "siamese": "vectors"}


def read(folder, kind):
    """The classes of a model folder's head, in the order of its rows: of its bert_tools.json, else
    of its config.json.

    Args:
      folder: str; it need not have either file.
      kind: str, the name of the command's task; a head of tokens is none for texts, nor the other
        way round, nor is one of vectors either.

    Returns:
      list of str, or None: nothing is said, or it is a head of another kind.

    Raises:
      UserError: a file is damaged.
    """
    path = os.path.join(folder, "bert_tools.json")
    said = files.read_json(path) if os.path.exists(path) else {}
    task_data.check_description(said, path)
    if not said.get("labels"):
        said = huggingface.read_head_description(folder)
    own = said.get("task", "classify")
    if kind not in _OBJECTS or _OBJECTS.get(own) != _OBJECTS[kind]:
        return None
    return said.get("labels") or None


def of_start(command, kind):
    """As `read`, of the head that --init_checkpoint or --bert brings."""
    if command.init_checkpoint:
        path = command.init_checkpoint
        return read(path if os.path.isdir(path) else os.path.dirname(path), kind)
    return read(handles.resolve(command.bert), kind) if command.bert else None


def adopted(command, kind, labels, found):
    """The classes of a training run that is not told them, in the order of the head's rows.

    Where output_dir has a checkpoint, that is the head, as training goes on from there.

    Args:
      command: CommandFlags.
      kind: see `read`.
      labels: list of str, those of the task itself, or None.
      found: list of str, those of the training set in the order that they would have by
        themselves.

    Returns:
      list of str: the head's, where it has the same classes, or all of `found` and more; else
      `labels`, which may be None.
    """
    head, source = None, command.bert or command.init_checkpoint
    if task_data.goes_on(command):
        head, source = read(command.output_dir, kind), command.output_dir
    head = head or of_start(command, kind)
    if not head or (kind == "tag" and not all(map(conll.is_tag, head))):
        return labels
    if set(labels) != set(head) if labels else not set(found) <= set(head):
        return labels
    if head != (labels or found):
        log.info("%s: training goes on with its head; the columns are %s", source, listed(head))
    return head


def difference(head, labels):
    """What there is to say of a head that has other classes than `labels`; None where they are the
    same, in whatever order.
    """
    if sorted(head) == sorted(labels):
        return None
    return f"its head tells {listed(head)} apart, this task's labels are {listed(labels)}"


def of_classes(names):
    """Those of a task's own weights whose rows are classes, list of str: none of a dense layer."""
    return [n for n in names if n.rpartition("/")[-1] in ("output_weights", "output_bias")]


def arranged(weights, names, head, labels):
    """The weights with the rows of a head in the order of `labels`.

    Args:
      weights: dict {name: array}.
      names: the head's weights among them, as far as they are there; [classes, ...].
      head: list of str, of what the rows are.
      labels: list of str, the same in another order; where they are others, rows stay.

    Returns:
      dict {name: array}.
    """
    if difference(head, labels):
        return weights
    rows = [head.index(label) for label in labels]
    return {name: array[rows] if name in names else array for name, array in weights.items()}
