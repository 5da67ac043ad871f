"""The one checkpoint format, Google's: model.ckpt-N.{index,data-00000-of-00001}, variables by name.

Beside each lies model.ckpt-N.json with what a resumed run needs and a checkpoint cannot hold
(seed, data position). The file `checkpoint` names the newest, as tf.train.Saver writes it, so that
the original scripts find it.
"""

import glob
import os
import re

import numpy as np
import tensorflow as tf

from bert_tools import files
from bert_tools.errors import UserError

KEPT = 5  # The newest so many stay, as tf.estimator kept them.
_SLOTS = ("/adam_m", "/adam_v")


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
        reader = tf.train.load_checkpoint(prefix)
        names = sorted(reader.get_variable_to_shape_map())
        return {
            name: reader.get_tensor(name) for name in names if slots or not name.endswith(_SLOTS)
        }
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
        if not glob.glob(f"{glob.escape(prefix)}*"):
            raise UserError(
                f"{prefix}: no such checkpoint; give the path without .index or .data"
            ) from error
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{prefix}: the checkpoint cannot be read ({reason}); restore it"
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
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{prefix}: the checkpoint cannot be written ({reason}); free space and run again"
        ) from error
    finally:
        for left in glob.glob(f"{glob.escape(scratch)}*"):
            os.unlink(left)


def save(folder, step, tensors, state):
    """Writes model.ckpt-STEP with its JSON, names it in `checkpoint`, and removes all but the
    newest KEPT.

    Args:
      folder: str, the output folder.
      step: int, stored as the int64 variable global_step.
      tensors: dict {name: array or Tensor}.
      state: dict that JSON can hold: what resuming needs.

    Returns:
      str, the prefix written.
    """
    prefix = os.path.join(folder, f"model.ckpt-{step}")
    files.write_json(f"{prefix}.json", state)
    write_variables(prefix, {**tensors, "global_step": np.int64(step)})
    # What was just written counts as the newest, though a longer run may have left higher steps.
    steps = [*sorted({*_steps(folder)} - {step}), step]
    names = [f"model.ckpt-{kept}" for kept in steps[-KEPT:]]
    lines = [
        f'model_checkpoint_path: "model.ckpt-{step}"',
        *(f'all_model_checkpoint_paths: "{n}"' for n in names),
    ]
    files.write_text(os.path.join(folder, "checkpoint"), "\n".join(lines) + "\n")
    for old in steps[:-KEPT]:
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
        prefix = os.path.join(folder, named.group(1))
        if os.path.exists(f"{prefix}.index"):
            return prefix
        # A path that was absolute on another machine: the file of that name lies here now.
        prefix = os.path.join(folder, os.path.basename(named.group(1)))
        if os.path.exists(f"{prefix}.index"):
            return prefix
    steps = _steps(folder)
    return os.path.join(folder, f"model.ckpt-{max(steps)}") if steps else None


def read_state(prefix):
    """The JSON beside a checkpoint, {} when there is none (the original writes none)."""
    path = f"{prefix}.json"
    return files.read_json(path) if os.path.exists(path) else {}


def _steps(folder):
    names = os.listdir(folder) if os.path.isdir(folder) else []
    found = (re.fullmatch(r"model\.ckpt-(\d+)\.index", name) for name in names)
    return [int(match.group(1)) for match in found if match]
