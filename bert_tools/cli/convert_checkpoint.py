"""convert_checkpoint: write a model in another layout, bit for bit the same numbers.

convert_checkpoint --bert=bert-folder --to=huggingface --output_dir=DIR

  google                 bert_config.json, vocab.txt, bert_model.ckpt: the original scripts
  huggingface            config.json, model.safetensors, the tokenizer's files: transformers
  sentence_transformers  the same and modules.json, 1_Pooling: sentence-transformers
  tf_hub                 a trainable TF2 SavedModel: tensorflow_hub.load, hub.KerasLayer

Google's layout and TF Hub's hold BERT models with a WordPiece vocabulary, the other two every
family. DIR must be absent or empty; it appears whole or not at all. A task's head goes along where
the layout has a place for it, and is named in a warning where not.
"""

import os
import sys

from bert_tools import files
from bert_tools.cli import app, shared_flags

_LAYOUTS = ("google", "huggingface", "sentence_transformers", "tf_hub")
# The names that sentence.pooling knows, repeated since --help must not import TensorFlow.
_POOLINGS = ("auto", "cls", "pooled", "mean", "max", "first_last_mean")


def flags():
    """The command's flags."""
    command = app.CommandFlags()
    shared_flags.define_model_flags(command, max_seq_length=None)
    command.group("Conversion")
    command.enum("to", None, _LAYOUTS, "the layout to write; needed.")
    command.string("output_dir", None, "Folder to write: absent or empty; needed.")
    command.enum(
        "pooling",
        "auto",
        _POOLINGS,
        "how a text's vector is made, as the folder written shall say; auto: as the model says; "
        "another: not normalised.",
    )
    return command


def run(command):
    """The command; see the module's docstring."""
    command.require("to", "output_dir")
    files.check_new_folder(command.output_dir)
    app.import_tensorflow()
    from bert_tools.hub import google, huggingface, sentence_transformers, tf_hub

    write = {
        "google": google.write,
        "huggingface": huggingface.write,
        "sentence_transformers": sentence_transformers.write,
        "tf_hub": tf_hub.write,
    }[command.to]
    model = shared_flags.load_stored_model(command)
    if "output_weights" in model.weights:
        said = huggingface.read_head_description(model.source)
        model = model._replace(meta={**said, **model.meta})
    write(command.output_dir, _with_recipe(model, command.pooling))
    app.log.info("%s: written for %s", command.output_dir, command.to)


def _with_recipe(model, pooling):
    """The model, its description saying how vectors are made of it where its folder or the flag
    does: not every layout has another place for that.
    """
    from bert_tools.sentence import pooling as pools

    if pooling != "auto":
        said = {"pooling": pooling, "normalize": False, "dense": None}
    elif os.path.exists(os.path.join(model.source, "modules.json")):
        recipe = pools.recipe(model)
        poolings = list(recipe.poolings)
        said = {
            "pooling": poolings if len(poolings) > 1 else poolings[0],
            "normalize": recipe.normalize,
            **({"dense": recipe.dense} if recipe.dense else {}),
        }
        if recipe.max_seq_length is not None:
            said["max_seq_length"] = recipe.max_seq_length
    else:
        return model
    return model._replace(meta={**model.meta, **said})


def main(arguments=None):
    """The console command; returns the exit status."""
    return app.run(__doc__, flags(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
