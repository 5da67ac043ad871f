"""evaluate_sts: how well a model's vectors tell how alike two texts are, for each way of pooling.

evaluate_sts --bert=minilm --eval_file=test.tsv

The file holds pairs with a value of their likeness: `text_a TAB text_b TAB value`, or columns named
by --text_column, --text_pair_column and --value_column. Out comes a table: Pearson's and Spearman's
correlation of the values with the cosine, the dot product and the (negative) Euclidean and
Manhattan distance of the vectors, a line for each pooling and layer. nan: vectors are all alike.
"""

import sys

from bert_tools.cli import app, shared_flags, task_data
from bert_tools.errors import UserError
from bert_tools.inputs import examples, tables

# The names that sentence.pooling knows, repeated since --help must not import TensorFlow.
_POOLINGS = ("cls", "pooled", "mean", "max", "first_last_mean")


def flags():
    """The command's flags."""
    command = app.CommandFlags()
    shared_flags.define_model_flags(command)
    command.group("Pairs")
    command.string("eval_file", None, "Pairs with values; - is stdin.")
    command.string("text_column", None, "Column of the first text: a number from 0, or a name.")
    command.string("text_pair_column", None, "Column of the second text.")
    command.string("value_column", None, "Column of the value, in any range.")
    command.bool("header", False, "Skip the first line, where columns are given by number.")
    command.enum(
        "input_format",
        "auto",
        ("auto", *tables.FORMATS),
        "auto: by the file's name, and tsv for stdin.",
    )
    command.enum("on_bad_line", "error", ("error", "skip"), "what a malformed line does.")
    command.group("Vectors")
    command.string(
        "pooling",
        "all",
        f"Which, comma-separated: {', '.join(_POOLINGS)}; all: all that the weights have.",
    )
    command.string(
        "layers", "-1", "For cls, mean and max, comma-separated: 0 is the embeddings, -1 the last."
    )
    command.bool("normalize", False, "Scale vectors to length 1 first.")
    command.string("prefix", "", "Set before each text.")
    shared_flags.define_compute_flags(command, batching=False)
    return command


def run(command):
    """The command; see the module's docstring."""
    command.require("eval_file")
    pairs = examples.load_examples(
        command.eval_file,
        _layout(command),
        "dev",
        examples.parse_value,
        command.on_bad_line,
        "--eval_file",
    )
    layers = shared_flags.layer_numbers(command)
    poolings = list(_POOLINGS) if command.pooling == "all" else command.pooling.split(",")
    if not set(poolings) <= set(_POOLINGS):
        raise UserError(
            f"--pooling={command.pooling}: expected all, or some of {', '.join(_POOLINGS)}"
        )
    app.import_tensorflow()
    import numpy as np

    from bert_tools.sentence import pooling as pools
    from bert_tools.sentence.encoder import Encoder
    from bert_tools.sentence.similarity import SIMILARITIES, similarity
    from bert_tools.tasks.regress import correlations

    precision = shared_flags.precision(command)
    strategy = shared_flags.strategy(command)
    model = shared_flags.load_model(command)
    if command.pooling == "all" and not model.has_pooler:
        poolings.remove("pooled")
    graph = model.config.graph
    if command.pooling == "all" and graph is not None and not graph.gives_layers:
        poolings.remove("first_last_mean")
    hidden = model.config.hidden_size
    # All in one pass over the texts: joined vectors, taken apart again.
    encoder = Encoder(
        model,
        poolings,
        layers,
        False,
        command.max_seq_length,
        precision,
        xla=command.xla,
        prefix=command.prefix,
        devices=strategy.extended.worker_devices,
    )
    texts = [pair.text_a for pair in pairs] + [pair.text_b for pair in pairs]
    vectors = encoder.encode(texts)
    shared_flags.warn_of_unknown(command.eval_file, encoder.tokens, encoder.unknown)
    values = np.array([pair.label for pair in pairs], np.float64)
    ways = [
        (pooling, layer)
        for pooling in poolings
        for layer in (layers if pooling in pools.LAYERED else ["-"])
    ]
    heads = [f"{name}_{kind}" for name in SIMILARITIES for kind in ("pearson", "spearman")]
    sys.stdout.write(f"{'pooling':15} {'layer':>5} {' '.join(heads)}\n")
    for number, (pooling, layer) in enumerate(ways):
        part = vectors[:, number * hidden : (number + 1) * hidden]
        if command.normalize:
            part = part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
        first, second = np.split(part, 2)
        cells = []
        for name in SIMILARITIES:
            found = correlations(similarity(first, second, name), values)
            cells += [found["pearson"], found["spearman"]]
        numbers = (f"{value:{len(head)}.4f}" for head, value in zip(heads, cells, strict=True))
        sys.stdout.write(f"{pooling:15} {layer:>5} {' '.join(numbers)}\n")


def _layout(command):
    form = command.input_format
    form = tables.format_of(command.eval_file) if form == "auto" else form
    layout = task_data.columns_given(command, "value_column")
    if layout is None:
        layout = examples.Layout(0, 1, 2, header=command.header)
    elif layout.text_b is None or layout.label is None:
        raise UserError(
            "--text_column: needs --text_pair_column and --value_column beside it; give all three"
        )
    return layout._replace(kind=form)


def main(arguments=None):
    """The console command; returns the exit status."""
    return app.run(__doc__, flags(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
