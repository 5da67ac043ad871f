"""The one checkpoint format, Google's: model.ckpt-N.{index,data-00000-of-00001}, variables by name.

Beside each lies model.ckpt-N.json with what a resumed run needs and a checkpoint cannot hold:

    {"seed": 12345, "examples": 320,
     "loss_scale": {"scale": 32768.0, "good_steps": 40, "skipped": 0},
     "evaluation": {"metric": "pearson", "best": 0.81, "step": 30, "without_gain": 1,
                    "stopped": false}}

(loss_scale in float16 alone, evaluation when a metric picks the best checkpoint). The file
`checkpoint` names the newest, as tf.train.Saver writes it, so that the original scripts find it.
"""

import contextlib
import glob
import logging
import os
import re
import tempfile

import numpy as np
import tensorflow as tf

from bert_tools import files
from bert_tools.errors import UserError

log = logging.getLogger("bert_tools")
KEPT = 5  # The newest so many stay, as tf.estimator kept them.
_SLOTS = ("/adam_m", "/adam_v")
_STATE = {
    "seed": int,
    "examples": int,
    "loss_scale": {"scale": float, "good_steps": int, "skipped": int},
    "evaluation": {
        "metric": str,
        "best": float | None,
        "step": int | None,
        "without_gain": int,
        "stopped": bool,
    },
}


def read(prefix, slots=False):
    """Reads every variable of a TensorFlow 1 or 2 checkpoint (V1 or V2 files) that has a
    Google-style name.

    Args:
      prefix: str, path without ".index", as --init_checkpoint takes it.
      slots: bool, whether the optimiser's adam_m and adam_v are read too.

    Returns:
      dict {name: NumPy array}; global_step is among them when the checkpoint has it.

    Raises:
      UserError: no such checkpoint, or it is damaged.
    """
    try:
        with _openable(prefix) as name_for_tensorflow:
            reader = tf.train.load_checkpoint(name_for_tensorflow)
            names = sorted(reader.get_variable_to_shape_map())
            return {
                name: reader.get_tensor(name)
                for name in names
                if slots or not name.endswith(_SLOTS)
            }
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
        if not os.path.exists(prefix) and not glob.glob(f"{glob.escape(prefix)}.*"):
            raise UserError(
                f"{prefix}: no such checkpoint; give the path without .index or .data"
            ) from error
        raise UserError(
            f"{prefix}: the checkpoint cannot be read ({_plain(error)}); restore it"
        ) from error


def write_variables(prefix, tensors):
    """Writes PREFIX.index and PREFIX.data-00000-of-00001; the index comes last, so a prefix with
    an index is whole.

    Args:
      prefix: str, path without suffix; its folder must exist.
      tensors: dict {name: array or Tensor}.
    """
    folder, name = os.path.split(prefix)
    scratch = os.path.join(folder, f".{name}.{os.getpid()}")
    names = sorted(tensors)
    try:
        tf.raw_ops.SaveV2(
            prefix=scratch,
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=[tf.convert_to_tensor(tensors[name]) for name in names],
        )
        suffixes = (".data-00000-of-00001", ".index")
        for suffix in suffixes:
            with open(scratch + suffix, "rb") as written:
                os.fsync(written.fileno())
        # An old index must not vouch for new data.
        if os.path.exists(f"{prefix}.index"):
            os.unlink(f"{prefix}.index")
        for suffix in suffixes:
            os.replace(scratch + suffix, prefix + suffix)
    except (tf.errors.OpError, OSError) as error:
        # Behind the name of the file aside: "...; File too large".
        reason = _plain(error).rpartition("; ")[2]
        raise UserError(
            f"{prefix}: the checkpoint cannot be written ({reason}); free space and run again"
        ) from error
    finally:
        for left in glob.glob(f"{glob.escape(scratch)}*"):
            os.unlink(left)


def save(folder, step, tensors, state):
    """Writes model.ckpt-STEP with its JSON, names it in `checkpoint`, and removes all but the
    newest KEPT and the one that `state` calls the best.

    Args:
      folder: str, the output folder.
      step: int, stored as the int64 variable global_step.
      tensors: dict {name: array or Tensor}.
      state: dict that JSON can hold: what resuming needs, see this module.

    Returns:
      str, the prefix written.
    """
    prefix = _prefix(folder, step)
    files.write_json(f"{prefix}.json", state)
    try:
        write_variables(prefix, {**tensors, "global_step": np.int64(step)})
    except UserError:
        if not os.path.exists(f"{prefix}.index"):
            os.unlink(f"{prefix}.json")
        raise
    # What was just written counts as the newest, though a longer run may have left higher steps.
    steps = [*sorted({*_steps(folder)} - {step}), step]
    best_step = _best_step(state)
    kept = [old for old in steps if old in steps[-KEPT:] or old == best_step]
    names = [f"model.ckpt-{old}" for old in kept]
    lines = [
        f'model_checkpoint_path: "model.ckpt-{step}"',
        *(f'all_model_checkpoint_paths: "{n}"' for n in names),
    ]
    files.write_text(os.path.join(folder, "checkpoint"), "\n".join(lines) + "\n")
    for old in {*steps}.difference(kept):
        # The index goes first: what has none does not count as a checkpoint any more.
        for suffix in (".index", ".data-00000-of-00001", ".meta", ".json"):
            path = os.path.join(folder, f"model.ckpt-{old}{suffix}")
            if os.path.exists(path):
                os.unlink(path)
    return prefix


def latest(folder):
    """The prefix of a folder's newest whole checkpoint: what `checkpoint` names, else the highest
    model.ckpt-N; or None.
    """
    try:
        with open(os.path.join(folder, "checkpoint"), encoding="utf-8") as reader:
            named = re.search(r'^model_checkpoint_path: "(.*)"', reader.read(), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        named = None
    if named:
        names = [named.group(1), os.path.basename(named.group(1))]
        if os.path.isabs(names[0]):
            # The folder may be a copy, or come from another machine: what lies in it comes first.
            names.reverse()
        for name in names:
            prefix = os.path.join(folder, name)
            if os.path.exists(f"{prefix}.index"):
                return prefix
    steps = _steps(folder)
    return _prefix(folder, max(steps)) if steps else None


def best(folder):
    """The prefix of the checkpoint to score with: the best one, if the newest one's state names it
    and it is there, else the newest; or None.

    Raises:
      UserError: no checkpoint has a state that can be read.
    """

    def choose(prefix):
        best_step = _best_step(read_state(prefix))
        named = prefix if best_step is None else _prefix(os.path.dirname(prefix), best_step)
        return named if os.path.exists(f"{named}.index") else prefix

    return _first_whole(_newest_first(folder), choose)


def read_newest(folder):
    """Reads the newest checkpoint, to go on from: (prefix, {name: array} with slots, state), or
    None when there is none.

    One that cannot be read is named in a warning, and the next older one is taken.

    Raises:
      UserError: there are checkpoints and none can be read; it is the newest one's.
    """
    return _first_whole(
        _newest_first(folder), lambda prefix: (prefix, read(prefix, slots=True), read_state(prefix))
    )


def read_best(folder):
    """Reads the checkpoint to score with, that of `best`: (prefix, {name: array}), or None when
    there is none.

    One that cannot be read is named in a warning, and the newest one that can be is taken.

    Raises:
      UserError: there are checkpoints and none can be read.
    """

    def attempt(prefix):
        read_state(prefix)  # Scoring and resuming are to agree on what is damaged.
        return prefix, read(prefix)

    prefixes = _newest_first(folder)
    return _first_whole([best(folder), *prefixes], attempt) if prefixes else None


def read_state(prefix):
    """The JSON beside a checkpoint, {} when there is none (the original writes none).

    Raises:
      UserError: it is damaged: not JSON, or a value is not of its type.
    """
    path = f"{prefix}.json"
    state = files.read_json(path) if os.path.exists(path) else {}
    _check_types(state, _STATE, path)
    return state


@contextlib.contextmanager
def _openable(prefix):
    """A name under which TensorFlow opens a checkpoint: it looks for the files by a pattern, in
    which "[" and a backslash do not stand for themselves, and then opens them by their names.
    """
    if not {"[", "\\"} & {*prefix}:
        yield prefix
        return
    with tempfile.TemporaryDirectory() as folder:
        for path in glob.glob(f"{glob.escape(prefix)}*"):
            link = os.path.join(folder, f"model{path.removeprefix(prefix)}")
            os.symlink(os.path.abspath(path), link)
        yield os.path.join(folder, "model")


def _check_types(values, kinds, path):
    for name, kind in kinds.items():
        if name not in values:
            continue
        value = values[name]
        nested = isinstance(kind, dict)
        if nested and isinstance(value, dict) and value.keys() == kind.keys():
            _check_types(value, kind, path)
        elif (
            nested or not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
        ):
            expected = (
                f"an object of {', '.join(kind)}" if nested else getattr(kind, "__name__", kind)
            )
            raise UserError(
                f"{path}: {name} is {value!r}, expected {expected}; restore the file or remove "
                "this checkpoint"
            )


def _first_whole(prefixes, attempt):
    """attempt(prefix) of the first prefix where it raises no UserError; warns of those before. If
    there is none, raises the first error; None without prefixes.
    """
    errors = []
    for prefix in dict.fromkeys(prefixes):
        try:
            found = attempt(prefix)
        except UserError as error:
            errors.append(error)
            continue
        for error in errors:
            log.warning("%s; %s is used instead", error, prefix)
        return found
    if errors:
        raise errors[0]
    return None


def _newest_first(folder):
    """The prefixes of a folder's checkpoints from `latest` on backwards."""
    newest = latest(folder) if folder else None
    if newest is None:
        return []
    steps = sorted(_steps(folder), reverse=True)
    prefixes = [_prefix(folder, step) for step in steps]
    if newest in prefixes:
        # Higher steps are of another run: `checkpoint` was set back.
        return prefixes[prefixes.index(newest) :]
    return [newest, *prefixes]


def _best_step(state):
    return state.get("evaluation", {}).get("step")


def _prefix(folder, step):
    return os.path.join(folder, f"model.ckpt-{step}")


def _steps(folder):
    names = os.listdir(folder) if os.path.isdir(folder) else []
    found = (re.fullmatch(r"model\.ckpt-(\d+)\.index", name) for name in names)
    return [int(match.group(1)) for match in found if match]


def _plain(error):
    """The first line of an error, without TensorFlow's names of nodes and operations."""
    return re.sub(r"\{\{.*?\}\}\s*|\s*\[Op:\w+\]", "", str(error).splitlines()[0])
