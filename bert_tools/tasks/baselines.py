"""Baselines: what a result has to beat before training has paid.

output_dir/baseline.json is written when a training starts, and read by each later evaluation of
the folder:

    {"format_version": 1, "task": "regress", "statistics": {"mean": 0.52},
     "vectors": [{"examples": "SHA-256", "sampled": null,
                  "lines": {"baseline_pearson": 0.83, "baseline_spearman": 0.81}}]}

`statistics` are those of the training set's labels (baseline_statistics of the task), from which
the baseline of any evaluated set is computed. `vectors` has numbers of evaluated sets under the
weights that training starts from; they are shown for exactly these examples.
"""

import hashlib
import json
import logging
import math
import os
import typing

from bert_tools import files
from bert_tools.errors import UserError

log = logging.getLogger("bert_tools")

FILE = "baseline.json"
PREFIX = "baseline_"
FORMAT_VERSION = 1
# Up to this many examples all of a set are encoded before training, else a tenth of it.
_WHOLE = 200
# The same vectors computed in other batches differ by rounding, and so do their correlations.
_ROUNDING = 1e-6
MORE_TRAINING = "more epochs or a higher --learning_rate, more or cleaner training data"


class Comparison(typing.NamedTuple):
    """The metric that says whether training has paid.

    metric: str, its name in the result.
    baseline: str, the name of the line that it has to beat.
    source: str, where the baseline comes from, for messages.
    remedies: str, what to try, for messages.
    lower_is_better: bool.
    """

    metric: str
    baseline: str
    source: str
    remedies: str
    lower_is_better: bool = False


class VectorBaseline(typing.NamedTuple):
    """Metrics of one evaluated set under the weights that training starts from.

    examples: str, `digest` of the set.
    sampled: int or None, how many examples were encoded; None: all.
    lines: {"baseline_...": float}.
    """

    examples: str
    sampled: int | None
    lines: dict


class Baseline(typing.NamedTuple):
    """What baseline.json holds.

    statistics: dict that JSON can hold, of the task's baseline_statistics.
    vectors: list of VectorBaseline.
    """

    statistics: dict
    vectors: list

    def of_vectors(self, examples):
        """The VectorBaseline of exactly these examples, or None."""
        if not self.vectors:
            return None
        found = digest(examples)
        return next((one for one in self.vectors if one.examples == found), None)

    def lines(self, task, examples):
        """The lines that stand next to an evaluation's.

        Args:
          task: of bert_tools.tasks.
          examples: list of InputExample or Sentence, the evaluated set.

        Returns:
          {"baseline_...": float}; with baseline_examples int where vectors are of a sample.
        """
        lines = task.baseline(self.statistics, examples)
        vectors = self.of_vectors(examples)
        if vectors:
            lines |= vectors.lines
            if vectors.sampled:
                lines["baseline_examples"] = vectors.sampled
        return lines


def sample(count):
    """Which of `count` examples are encoded before training, evenly spaced: int array, or None for
    all.
    """
    import numpy as np

    if count <= _WHOLE:
        return None
    return np.linspace(0, count - 1, max(_WHOLE, count // 10)).astype(np.int64)


def digest(examples):
    """A SHA-256 of the texts and labels of a list of InputExample, as str."""
    rows = [[e.text_a, e.text_b, *e.further, e.label] for e in examples]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def write(folder, task, baseline):
    """Writes baseline.json of a Baseline, whole or not at all."""
    vectors = [
        # JSON has no NaN (a correlation with a constant).
        {**one._asdict(), "lines": {n: None if math.isnan(v) else v for n, v in one.lines.items()}}
        for one in baseline.vectors
    ]
    description = {
        "format_version": FORMAT_VERSION,
        "task": task.name,
        "statistics": baseline.statistics,
        "vectors": vectors,
    }
    files.write_json(os.path.join(folder, FILE), description)


def read(folder, task):
    """The Baseline of a folder, or None where it has no baseline.json.

    Args:
      folder: str or None.
      task: of bert_tools.tasks; its baseline_form says what the statistics hold.

    Raises:
      UserError: the file is damaged, of another task or of a newer version.
    """
    path = os.path.join(folder or "", FILE)
    if not folder or not os.path.exists(path):
        return None
    found = files.read_json(path)
    version = found.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise UserError(
            f"{path}: format_version is {version!r}, this bert_tools reads {FORMAT_VERSION}; "
            "restore the file, or delete it to evaluate without baselines"
        )
    expected = {
        "task": found.get("task") == task.name,
        "statistics": _holds(found.get("statistics"), task.baseline_form),
        "vectors": isinstance(found.get("vectors"), list)
        and all(map(_is_vector_baseline, found["vectors"])),
    }
    for name, holds in expected.items():
        if not holds:
            raise UserError(
                f"{path}: {name} is missing or not what {task.name} needs; restore the file, or "
                "delete it to evaluate without baselines"
            )
    vectors = [
        VectorBaseline(
            one["examples"],
            one["sampled"],
            {name: math.nan if v is None else v for name, v in one["lines"].items()},
        )
        for one in found["vectors"]
    ]
    return Baseline(found["statistics"], vectors)


def _is_vector_baseline(value):
    return (
        isinstance(value, dict)
        and value.keys() == set(VectorBaseline._fields)
        and isinstance(value["examples"], str)
        and (value["sampled"] is None or type(value["sampled"]) is int)
        and isinstance(value["lines"], dict)
        and all(
            name.startswith(PREFIX) and (number is None or type(number) in (int, float))
            for name, number in value["lines"].items()
        )
    )


def _holds(value, form):
    """Whether a JSON value has a form: a type (float: any finite number), {str: form} for a dict
    of any names, or {name: form} for these.
    """
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return False
        if str in form:
            return all(_holds(inner, form[str]) for inner in value.values())
        return form.keys() <= value.keys() and all(_holds(value[n], f) for n, f in form.items())
    if form is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is form


def beats(comparison, value, baseline):
    """Whether a metric's value (float) is better than the baseline (float); nan never is, and any
    number is better than nan.
    """
    if math.isnan(value):
        return False
    gain = baseline - value if comparison.lower_is_better else value - baseline
    return math.isnan(gain) or gain > _ROUNDING


def judge(name, task, result, sampled_metrics=None):
    """Warns where a result does not beat its baseline.

    Args:
      name: str, of the evaluation, for the message ("eval_results").
      task: of bert_tools.tasks.
      result: {name: number}, an evaluation's result with its baseline lines.
      sampled_metrics: {name: number}, where the baseline is of a sample of the set the metrics of
        just that; None: the result's are compared.
    """
    comparison = task.compared(result)
    if comparison is None:
        return
    sampled = sampled_metrics is not None
    value = float((sampled_metrics if sampled else result)[comparison.metric])
    baseline = float(result[comparison.baseline])
    if not beats(comparison, value, baseline):
        log.warning(
            "%s: %s %.4g%s does not beat its baseline %.4g (%s): training has not paid; likely "
            "remedies: %s",
            name,
            comparison.metric,
            value,
            f" of the baseline's {result['baseline_examples']} examples" if sampled else "",
            baseline,
            comparison.source,
            comparison.remedies,
        )
