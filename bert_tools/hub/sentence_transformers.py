"""The layout of sentence-transformers: Hugging Face's files, and modules.json with how a text's
vector is made of its tokens'. It is read as Hugging Face's; sentence.pooling reads the rest.
"""

import os

import numpy as np

from bert_tools import files
from bert_tools.errors import UserError
from bert_tools.hub import huggingface
from bert_tools.hub import model as models


def holds(folder):
    """Whether a folder is in this layout."""
    return huggingface.holds(folder) and os.path.exists(os.path.join(folder, "modules.json"))


def read(folder):
    """Reads a folder: Hugging Face's, with the weights of a dense layer behind the pooling
    (sentence.pooling.DENSE) where there is one.

    Raises:
      UserError: see huggingface.read; or the layer's weights are no safetensors.
    """
    from bert_tools.sentence import pooling

    model = huggingface.read(folder)
    path = pooling.dense_file(folder)
    if path is None:
        return model
    if not models.is_inside(path, folder):
        raise UserError(f"{path}: is a link out of the model's folder; put the file itself there")
    tensors = dict(huggingface.read_tensors(path))
    kernel = np.asarray(tensors.get("linear.weight", np.zeros(0)), np.float32)
    bias = np.asarray(tensors.get("linear.bias", np.zeros(len(kernel))), np.float32)
    if kernel.ndim != 2 or kernel.shape[1] % model.config.hidden_size or len(bias) != len(kernel):
        raise UserError(
            f"{path}: linear.weight has shape {list(kernel.shape)} and linear.bias "
            f"{list(bias.shape)}, which is no dense layer behind vectors of this model's width "
            f"{model.config.hidden_size}; restore it from its source"
        )
    if not np.isfinite(kernel).all() or not np.isfinite(bias).all():
        raise UserError(f"{path}: holds NaN or infinity; restore it from its source")
    layer = dict(zip(pooling.DENSE, (np.ascontiguousarray(kernel.T), bias), strict=True))
    return model._replace(weights={**model.weights, **layer})


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
    from safetensors.numpy import save_file

    from bert_tools.sentence import pooling

    recipe = pooling.recipe(model)
    kernel, bias = (model.weights.get(name) for name in pooling.DENSE)
    width = kernel.shape[1] if recipe.dense else None
    described = pooling.modules(recipe, model.config.hidden_size, width)
    kept = {name: a for name, a in model.weights.items() if name not in pooling.DENSE}
    with files.aside_folder(folder) as aside:
        huggingface.write(aside, model._replace(weights=kept))
        if recipe.dense:
            path = os.path.join(aside, "2_Dense", "model.safetensors")
            os.makedirs(os.path.dirname(path))
            save_file({"linear.weight": np.ascontiguousarray(kernel.T), "linear.bias": bias}, path)
        for name, value in described.items():
            path = os.path.join(aside, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            files.write_json(path, value)
