"""extract_features: the vectors of every token, layer by layer, as JSON lines.

extract_features --input_file=lines.txt --output_file=vectors.jsonl --bert=minilm --layers=-1,-2

One text a line; a pair is split at " ||| ". A line of output: {"linex_index": n, "features":
[{"token": ..., "layers": [{"index": ..., "values": [...]}, ...]}, ...]}, values with 6 decimals,
as the original writes it. Layers are counted
as there: 0 is the first layer after the embeddings, -1 the last.
"""

import itertools
import json
import sys

from bert_tools import files
from bert_tools.cli import app, shared_flags
from bert_tools.errors import UserError
from bert_tools.inputs import tables
from bert_tools.inputs.examples import text_or_pair

_WINDOW = 256  # Lines computed together: enough to sort by length, few enough for flat memory.


def flags():
    """The command's flags."""
    command = app.CommandFlags()
    shared_flags.define_model_flags(command)
    command.group("Vectors")
    command.string("input_file", None, "Text, a line each; - is stdin.")
    command.string("output_file", None, "JSON lines; - is stdout.")
    command.string("layers", "-1,-2,-3,-4", "Which layers, by number, comma-separated.")
    command.integer("batch_size", 32, "Read for compatibility; batches are planned by length.")
    shared_flags.define_compute_flags(command)
    command.bool(
        "use_one_hot_embeddings", False, "Read for compatibility; the vectors are the same."
    )
    return command


def run(command):
    """The command; see the module's docstring."""
    command.require("input_file", "output_file")
    shared_flags.require_place(command, "output_file", "input_file")
    layers = shared_flags.layer_numbers(command)
    with tables.opened(command.input_file, "--input_file") as lines:
        app.import_tensorflow()
        precision = shared_flags.precision(command)
        shared_flags.strategy(command)
        model = shared_flags.load_model(command)
        for index in layers:
            if not -model.config.num_hidden_layers <= index < model.config.num_hidden_layers:
                raise UserError(
                    f"--layers={command.layers}: the model has {model.config.num_hidden_layers} "
                    "layers; "
                    f"{index} is none of them"
                )
        compute = _Extractor(model, layers, precision, command)
        with files.text_writer(command.output_file) as write:
            number, error = 0, None
            while error is None:
                window, error = _window(lines)
                if not window:
                    break
                for tokens, values in compute(window):
                    write(json.dumps(_row(number, tokens, layers, values)) + "\n")
                    number += 1
            if error is not None:
                raise error


def _window(lines):
    """(up to _WINDOW lines, the UserError that ended them early or None): what comes before a bad
    line of a stream is still written.
    """
    window = []
    try:
        for _, line in itertools.islice(lines, _WINDOW):
            if isinstance(line, UserError):
                return window, line
            window.append(line)
            if not lines.ready:
                break
    except UserError as error:
        return window, error
    return window, None


def _row(number, tokens, layers, values):
    """values: float64 array [layers, tokens, hidden], rounded."""
    features = [
        {
            "token": token,
            "layers": [
                {"index": index, "values": vector}
                for index, vector in zip(layers, values[:, place].tolist(), strict=True)
            ],
        }
        for place, token in enumerate(tokens)
    ]
    return {"linex_index": number, "features": features}


class _Extractor:
    """Computes the chosen layers of a window of lines."""

    def __init__(self, model, layers, precision, command):
        import tensorflow as tf

        from bert_tools import encoder
        from bert_tools.estimator.spec import compute_dtype

        self._tokenizer, self._command = model.tokenizer, command
        dtype = compute_dtype(precision)
        weights = {
            name: tf.constant(array, dtype)
            for name, array in model.weights.items()
            if name.startswith("bert/") and not name.startswith("bert/pooler/")
        }
        names = ("input_ids", "input_mask", "segment_ids")
        signature = {name: tf.TensorSpec([None, None], tf.int32) for name in names}

        @tf.function(autograph=False, input_signature=[signature], jit_compile=command.xla or None)
        def encode(batch):
            found = encoder.encode(model.config, weights, batch, dtype=dtype).layers[1:]
            return tf.stack([tf.cast(found[index], tf.float32) for index in layers])

        self._encode = encode

    def __call__(self, lines):
        """(tokens, values float64 [layers, tokens, hidden]) of each line, in order."""
        import numpy as np

        from bert_tools.inputs import batches
        from bert_tools.inputs.features import convert_texts

        firsts, seconds = zip(*map(text_or_pair, lines), strict=True)
        features = convert_texts(
            firsts,
            seconds,
            self._command.max_seq_length,
            self._tokenizer,
        )
        # Every row is one line: packing would only have to be undone here.
        mode = "bucket" if self._command.batching == "pack" else self._command.batching
        static = self._command.xla
        blocks = batches.plan(features.lengths, mode, 1024, self._command.max_seq_length, static)
        results = [None] * len(lines)
        for block in blocks:
            batch = batches.assemble(features, block)
            batch.pop("first_positions", None)
            found = self._encode(batch).numpy()
            for row, index in enumerate(block.examples):
                ids = features.input_ids[features.offsets[index] : features.offsets[index + 1]]
                values = np.round(found[:, row, : len(ids)].astype(np.float64), 6)
                results[index] = (self._tokenizer.convert_ids_to_tokens(ids.tolist()), values)
        return results


def main(arguments=None):
    """The console command; returns the exit status."""
    return app.run(__doc__, flags(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
