"""The layout of sentence-transformers: Hugging Face's files, and modules.json with how a text's
vector is made of its tokens'. It is read as Hugging Face's; sentence.pooling reads the rest.
"""

import os

from bert_tools import files
from bert_tools.hub import huggingface


def holds(folder):
    """Whether a folder is in this layout."""
    return huggingface.holds(folder) and os.path.exists(os.path.join(folder, "modules.json"))


def write(folder, model):
    """Writes a model that sentence_transformers.SentenceTransformer opens.

    Heads lie beside the encoder as in Hugging Face's layout; SentenceTransformer passes over them.

    Args:
      folder: str, absent or empty; it appears whole or not at all.
      model: Model. How its vectors are made is what sentence.pooling.recipe finds out.

    Raises:
      UserError: the folder is not empty or cannot be written, or sentence-transformers cannot pool
      as the model does.
    """
    from bert_tools.sentence import pooling

    described = pooling.modules(pooling.recipe(model), model.config.hidden_size)
    with files.aside_folder(folder) as aside:
        huggingface.write(aside, model)
        for name, value in described.items():
            path = os.path.join(aside, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            files.write_json(path, value)
