"""--folds: cross-validation over the training set."""

import hashlib
import json
import logging
import math
import os

import numpy as np

from bert_tools import files
from bert_tools.cli import phases, scoring
from bert_tools.errors import UserError
from bert_tools.estimator.evaluation import scalars
from bert_tools.tasks import baselines

log = logging.getLogger("bert_tools")


def run(command, task, source, data, meta, on_scored=None):
    """Trains a model on all but each fold, into output_dir/fold-N, and evaluates it on that fold.

    Writes into output_dir: eval_results.txt and .json, of each number its mean over the folds and
    as NAME_std its sample standard deviation (.json: also each fold's own); and out_of_fold.jsonl,
    for each training example in order what the model predicts that did not see it; and folds.json,
    which says how they were dealt. A run that was stopped goes on where it was.

    Args:
      command, task, source, data, meta, on_scored: see phases.Session; `data` holds "train".

    Raises:
      UserError: there are fewer examples than folds, or output_dir holds others.
    """
    path, examples = data["train"]
    fold_of = assign(examples, command.folds, command.seed)
    lines, results = [None] * len(examples), []
    with files.locked(command.output_dir, "output_dir"):
        _require_same_folds(command, examples)
        for fold in range(command.folds):
            log.info("fold %d of %d", fold + 1, command.folds)
            held_out = np.flatnonzero(fold_of == fold).tolist()
            parts = {
                "train": (path, [e for e, f in zip(examples, fold_of, strict=True) if f != fold]),
                "eval": (path, [examples[index] for index in held_out]),
            }

            def scored(name, predictions, features, fold=fold, held_out=held_out):
                for place, index in enumerate(held_out):
                    prediction = {key: values[place] for key, values in predictions.items()}
                    lines[index] = {
                        **scoring.texts(examples[index]),
                        "fold": fold + 1,
                        "true_label": examples[index].label,
                        **task.record(prediction),
                    }
                if on_scored:
                    on_scored(f"fold-{fold + 1}", predictions, features)

            folder = os.path.join(command.output_dir, f"fold-{fold + 1}")
            session = phases.Session(
                command,
                task,
                source,
                parts,
                {},
                meta=meta,
                output_dir=folder,
                on_scored=scored,
                warns=False,  # The mean over the folds is judged.
            )
            results.append(session.run())
        text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
        files.write_text(os.path.join(command.output_dir, "out_of_fold.jsonl"), text)
        means = summary(results)
        phases.write_results(command.output_dir, "", {**means, "folds": results})
        baselines.judge("eval_results", task, means)


def _require_same_folds(command, examples):
    """A model of an earlier dealing has seen what it would be scored on here."""
    told = [[e.text_a, e.text_b, e.label] for e in examples]
    digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    dealt = {"folds": command.folds, "seed": command.seed, "examples": digest}
    path = os.path.join(command.output_dir, "folds.json")
    if os.path.exists(path):
        if files.read_json(path) != dealt:
            raise UserError(
                f"--folds={command.folds}: --output_dir={command.output_dir} holds folds of "
                "another number, seed or training set; choose an empty folder"
            )
    elif os.path.exists(os.path.join(command.output_dir, "fold-1")):
        raise UserError(
            f"--folds={command.folds}: --output_dir={command.output_dir} holds folds, and does not "
            "say how they were dealt (folds.json); choose an empty folder"
        )
    else:
        files.write_json(path, dealt)


def assign(examples, count, seed):
    """Deals examples to folds, of each label the same share and as many in all.

    Args:
      examples: list of InputExample.
      count, seed: int.

    Returns:
      int64 array [examples], the fold of each, from 0.

    Raises:
      UserError: there are fewer examples than folds.
    """
    if len(examples) < count:
        raise UserError(f"--folds={count}: there are only {len(examples)} examples; lower it")
    order = np.random.default_rng(seed).permutation(len(examples)).tolist()
    order.sort(key=lambda index: str(examples[index].label))
    folds = np.empty(len(examples), np.int64)
    folds[order] = np.arange(len(examples)) % count
    return folds


def summary(results):
    """{name: mean, name_std: sample standard deviation} over dicts of numbers, of the names that
    all have.
    """
    found = {}
    for name in scalars(results[0]):
        # A fold that an earlier version trained has no baseline.
        if not all(name in result for result in results):
            continue
        values = [float(result[name]) for result in results]
        found[name] = math.fsum(values) / len(values)
        found[f"{name}_std"] = float(np.std(values, ddof=1))
    return found
