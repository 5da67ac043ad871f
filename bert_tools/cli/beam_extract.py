"""beam_extract: extract_cls over many files, on a cluster, as an Apache Beam pipeline.

python scripts/beam_extract.py --input_file='texts/*.txt' --output_file=vectors/v.npy --bert=minilm

Files hold one text a line, a pair split at " ||| "; gzip is unpacked. Out come shards,
vectors/v-00000-of-00012.npy and so on: joined in the order of their names, row n is line n of all
files, files by name. With --output_file=vectors/v.tfrecord they are records of tf.train.Example: id
(the line's number among all, from 0), text, vector.

--runner names the cluster (DataflowRunner, FlinkRunner, SparkRunner, ...) and --beam_options what
it wants to know: --beam_options="--project=P --region=R". Its workers need this package installed
with the extra beam, and a model that they can read at the same place, or by its name.
"""

import functools
import os
import re
import shlex
import sys

from bert_tools.cli import app, shared_flags
from bert_tools.errors import UserError

_POOLINGS = ("cls", "pooled", "mean", "max", "first_last_mean", "auto")
_FORMS = (".npy", ".tfrecord")
# What a worker's error looks like when it comes back.
_OF_WORKER = re.compile(r"UserError: (.*?)( \[while running|\n|$)")


def flags():
    """The command's flags."""
    command = app.CommandFlags()
    shared_flags.define_model_flags(command)
    command.group("Text")
    command.string("input_file", None, "Files or patterns, comma-separated.")
    command.enum(
        "on_bad_line",
        "error",
        ("error", "skip"),
        "what a line that is not UTF-8 does; a skipped one has a vector of nan.",
    )
    command.string("prefix", "", 'Set before each text, as some models want it: "query: ".')
    command.group("Vectors")
    command.string("output_file", None, "Ends in .npy or .tfrecord; shards are named after it.")
    command.integer("rows_per_shard", 100_000, "Lines of a shard, at most.", lower_bound=1)
    command.enum("pooling", "cls", _POOLINGS, "as extract_cls has it.")
    command.string("layers", "-1", "as extract_cls has it.")
    command.bool("normalize", False, "Scale vectors to length 1.")
    command.enum("dtype", "float32", ("float32", "float16"), "of .npy.")
    command.group("Compute")
    shared_flags.define_precision_flag(command)
    command.enum(
        "batching", "bucket", ("bucket", "pack", "pad"), "how texts are laid out, see extract_cls."
    )
    command.string("runner", "DirectRunner", "Of Beam; DirectRunner: this machine.")
    command.string("beam_options", "", "Further options of Beam and the runner.")
    return command


def run(command):
    """The command; see the module's docstring."""
    command.require("input_file", "output_file")
    if os.path.splitext(command.output_file)[1] not in _FORMS:
        raise UserError(
            f"--output_file={command.output_file}: the name must end in {' or '.join(_FORMS)}"
        )
    if not command.bert and not command.bert_config_file:
        raise UserError("--bert is missing; give a model folder or minilm")
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.runners import create_runner
    except ImportError as error:
        raise UserError(
            f"Apache Beam cannot be imported ({error}); install it: pip install -e '.[beam]'"
        ) from error
    app.import_tensorflow()
    from bert_tools.sentence import pipeline as pipelines

    auto = command.pooling == "auto"
    lower = command.do_lower_case if command.given("do_lower_case") or not command.bert else None
    load = functools.partial(
        _encoder,
        (
            command.bert,
            command.bert_config_file,
            command.vocab_file,
            command.init_checkpoint,
            lower,
        ),
        command.precision,
        pooling=command.pooling,
        layers=shared_flags.layer_numbers(command),
        normalize=command.normalize if command.given("normalize") or not auto else None,
        max_seq_length=(
            command.max_seq_length if command.given("max_seq_length") or not auto else None
        ),
        batching=command.batching,
        prefix=command.prefix,
    )
    paths = pipelines.matching(command.input_file.split(","))
    try:
        further = shlex.split(command.beam_options)
    except ValueError as error:
        raise UserError(
            f"--beam_options={command.beam_options}: {error}; quote them as a shell wants it"
        ) from error
    options = PipelineOptions([f"--runner={command.runner}", *further], save_main_session=False)
    try:
        create_runner(command.runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(
            f"--runner={command.runner}: Beam has no such runner, or not what it needs ({error}); "
            "correct the name"
        ) from error
    try:
        with beam.Pipeline(options=options) as pipeline:
            pipelines.build(
                pipeline,
                paths,
                load,
                command.output_file,
                command.rows_per_shard,
                command.on_bad_line,
                command.dtype,
            )
    except Exception as error:
        # A worker's UserError comes back as text inside another error.
        found = _OF_WORKER.search(f"{type(error).__name__}: {error}")
        if found is None:
            raise
        raise UserError(found[1]) from error


def _encoder(parts, precision, **options):
    """What a worker computes with."""
    from bert_tools import distribution, hub
    from bert_tools.sentence.encoder import Encoder

    precision = distribution.resolve_precision(precision)
    return Encoder(hub.load_parts(*parts), precision=precision, **options)


def main(arguments=None):
    """The console command; returns the exit status."""
    return app.run(__doc__, flags(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
