"""inspect_model: what a model is, before it is used.

inspect_model --bert=minilm

A line `name: value` each on stdout: family, sizes, tokenizer, how vectors are made, heads, and a
checksum of the encoder's weights, which is the same in every layout that they are converted to.
With --check the encoder is run: its output must be finite, and a row of tokens must give the same
vector alone, among others and padded, to within 1e-5; if not, the exit status is 1.
"""

import json
import sys

from bert_tools.cli import app, shared_flags
from bert_tools.errors import UserError


def flags():
    """The command's flags."""
    command = app.CommandFlags()
    shared_flags.define_model_flags(command, max_seq_length=None)
    command.group("Output")
    command.bool("json", False, "Write one JSON object instead of lines.")
    command.bool("check", False, "Run the encoder, and fail when it does not behave.")
    return command


def run(command):
    """The command; see the module's docstring."""
    if not command.bert_config_file:
        command.require("bert")
    app.import_tensorflow()
    from bert_tools import inspection

    model = shared_flags.load_stored_model(command)
    facts = inspection.describe(model)
    broken = None
    if command.check:
        facts["check"], broken = inspection.check(model)
    if command.json:
        sys.stdout.write(json.dumps(facts, ensure_ascii=False) + "\n")
    else:
        for name, value in facts.items():
            sys.stdout.write(f"{name}: {_shown(value)}\n")
    if broken:
        raise UserError(f"{model.source}: {broken}")


def _shown(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "not said" if value is None else value


def main(arguments=None):
    """The console command; returns the exit status."""
    return app.run(__doc__, flags(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
