"""TF Hub's two layouts: TF1-format modules and TF2 SavedModels of BERT encoders.

    saved_model.pb, variables/, assets/vocab.txt, and for TF2 models without a vocabulary a folder
    with "preprocess" in its name, in the folder or beside it

Variables are read by the names that they have in Google's scripts or in the TensorFlow model
garden, and what no variable says (heads, activation, casing) is looked up in the graph, which is
not run. Only where the variables of a TF2 model have other names is its graph the encoder, see
saved_graph.
What is written here has bert_config.json, tokenizer_config.json and, for a model that has a
description, bert_tools.json beside it, which say it better.
"""

import math
import os
import re

import numpy as np

from bert_tools import files
from bert_tools.config import BertConfig
from bert_tools.errors import UserError
from bert_tools.hub import model as models

MODEL = "saved_model.pb"
_GRAPH_BYTES = 256 << 20  # BERT's graphs have a few megabytes; weights do not lie in them.
_OWN_GRAPH = (
    "%s: its variables have names of its own, so its graph is the encoder as it stands: in float32 "
    "and without dropout; its layers %s; batches are by length (--batching=bucket), not packed; it "
    "cannot be written in another layout, nor trained with --layerwise_lr_decay"
)
_ALBERT_CONFIG = os.path.join("assets", "albert_config.json")
_PIECES = ".model"  # SentencePiece's.
_SHARED = "group_0/inner_group_0"
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
# The model garden's names and Google's, without "bert/"; in the order of tests.
_GARDEN = (
    (r"word_embeddings/embeddings", r"embeddings/word_embeddings"),
    (r"(type_embeddings/embeddings|embedding_postprocessor/type_embeddings)",
     r"embeddings/token_type_embeddings"),
    (r"(position_embedding/(position_)?embeddings|embedding_postprocessor/position_embeddings)",
     r"embeddings/position_embeddings"),
    (r"(embeddings|embedding_postprocessor)/layer_norm/(?P<last>gamma|beta)",
     r"embeddings/LayerNorm/\g<last>"),
    (r"transformer/layer_(?P<n>\d+)/self_attention/(?P<part>query|key|value)/(?P<last>kernel|bias)",
     r"encoder/layer_\g<n>/attention/self/\g<part>/\g<last>"),
    (r"transformer/layer_(?P<n>\d+)/self_attention(/attention)?_output/(?P<last>kernel|bias)",
     r"encoder/layer_\g<n>/attention/output/dense/\g<last>"),
    (r"transformer/layer_(?P<n>\d+)/self_attention_layer_norm/(?P<last>gamma|beta)",
     r"encoder/layer_\g<n>/attention/output/LayerNorm/\g<last>"),
    (r"transformer/layer_(?P<n>\d+)/(?P<part>intermediate|output)/(?P<last>kernel|bias)",
     r"encoder/layer_\g<n>/\g<part>/dense/\g<last>"),
    (r"transformer/layer_(?P<n>\d+)/output_layer_norm/(?P<last>gamma|beta)",
     r"encoder/layer_\g<n>/output/LayerNorm/\g<last>"),
    (r"pooler_transform/(?P<last>kernel|bias)", r"pooler/dense/\g<last>"),
)  # fmt: skip
# The model garden's ALBERT has one layer, which runs several times.
_GARDEN_ALBERT = (
    (r"embedding_projection/(?P<last>kernel|bias)", r"embeddings/projection/\g<last>"),
    *(
        (theirs.replace(r"layer_(?P<n>\d+)/", ""), ours.replace(r"layer_\g<n>", _SHARED))
        for theirs, ours in _GARDEN
        if "layer_(" in theirs
    ),
)
# Parts of names in google-research/albert's modeling.py, and ours; replaced in this order.
_GOOGLE_ALBERT = (
    (r"/encoder/embedding_hidden_mapping_in/", "/embeddings/projection/"),
    (r"/encoder/transformer/", "/encoder/"),
    (r"/(inner_group_\d+)/LayerNorm_1/", r"/\1/output/LayerNorm/"),
    (r"/(inner_group_\d+)/LayerNorm/", r"/\1/attention/output/LayerNorm/"),
    (r"/attention_1/", "/attention/"),
    (r"/ffn_1/intermediate/output/", "/output/"),
    (r"/ffn_1/intermediate/", "/intermediate/"),
)
# Parts of names: Google's, and the model garden's (official/nlp/bert/tf1_checkpoint_converter_lib,
# BERT_V2_NAME_REPLACEMENTS). They are replaced in this order.
_TO_GARDEN = (
    ("bert/", ""),
    ("encoder/", "transformer/"),
    ("embeddings/word_embeddings", "word_embeddings/embeddings"),
    ("embeddings/position_embeddings", "position_embedding/embeddings"),
    ("embeddings/token_type_embeddings", "type_embeddings/embeddings"),
    ("embeddings/LayerNorm", "embeddings/layer_norm"),
    ("attention/self", "self_attention"),
    ("attention/output/dense", "self_attention/attention_output"),
    ("attention/output/LayerNorm", "self_attention_layer_norm"),
    ("intermediate/dense", "intermediate"),
    ("output/dense", "output"),
    ("output/LayerNorm", "output_layer_norm"),
    ("pooler/dense", "pooler_transform"),
)
_TANH_GELU = 0.044715  # The constant of its cubic term.


def holds(folder):
    """Whether a folder is in one of these layouts."""
    return MODEL in os.listdir(folder)


def read(folder):
    """Reads a folder.

    Args:
      folder: str.

    Returns:
      Model, its source being the folder.

    Raises:
      UserError: a file is missing or damaged, or the variables' names are not those of a BERT.
    """
    from bert_tools import checkpoints

    saved = _read_graph(os.path.join(folder, MODEL))
    prefix = os.path.join(folder, "variables", "variables")
    if not os.path.exists(f"{prefix}.index"):
        raise UserError(
            f"{folder}: a SavedModel without variables; give the encoder's folder, not the "
            "preprocessor's"
        )
    stored = checkpoints.read(prefix)
    objects = _objects(stored, prefix)
    if objects:
        weights, heads = _of_garden(stored, objects)
    else:
        weights, heads = {_of_albert(name): array for name, array in stored.items()}, None
    config_file = os.path.join(folder, models.GOOGLE_CONFIG)
    if "bert/embeddings/word_embeddings" not in weights:
        config, weights = _of_graph(folder, stored, objects)
    elif os.path.exists(config_file):  # As `write` leaves it; the public models have none.
        config = BertConfig.from_json_file(config_file)
    elif not objects and any("/inner_group_" in name for name in weights):
        config = _albert_config(folder)
    else:
        config = _config(folder, weights, heads, saved)
    vocab_file, beside = _vocabulary(folder)
    lower = _lower_case(saved, stored, objects, beside)
    casing = models.read_casing(os.path.join(folder, models.TOKENIZER_CONFIG))
    if vocab_file.endswith(_PIECES):
        from bert_tools import tokenization_subword

        tokenizer = tokenization_subword.read_albert(vocab_file, lower)
    else:
        tokenizer = models.make_tokenizer({"do_lower_case": lower, **casing}, vocab_file)
    models.check_vocabulary(config, tokenizer, vocab_file)
    model = models.Model(
        config, models.check_weights(config, weights, prefix), tokenizer, {}, folder
    )
    if config.graph is not None:
        from bert_tools import inspection

        _, wrong = inspection.check(model)
        if wrong:
            raise UserError(f"{folder}: {wrong}")
    return model


def graph_config(folder):
    """The BertConfig of a folder whose saved_model.pb is the encoder.

    Raises:
      UserError: the graph is damaged, or one that is not run.
    """
    from bert_tools.hub.saved_graph import SavedGraph

    path = os.path.join(folder, MODEL)
    return SavedGraph(_read_bytes(path), path).config()


def warn_of_graph(folder, config):
    """Says what does not work with a SavedModel's own graph; once, when it is loaded."""
    from absl import logging

    last = config.num_hidden_layers
    layers = f"1 to {last} are given" if config.graph.gives_layers else "but the last are not given"
    logging.warning(_OWN_GRAPH, folder, layers)


def write_graph(folder, graph):
    """Writes saved_model.pb alone, for a folder where the weights lie in checkpoints.

    Args:
      folder: str, must exist.
      graph: saved_graph.SavedGraph.
    """
    with files.aside(os.path.join(folder, MODEL)) as path, open(path, "wb") as writer:
        writer.write(graph.serialized)


def _of_graph(folder, stored, objects):
    """(config, weights) of a SavedModel that is run as it stands."""
    if not objects:
        raise UserError(
            f"{folder}: a SavedModel of TensorFlow 1 whose variables have not Google's names of a "
            f"BERT (the first: {min(stored, default='none')}); give the checkpoint that it was "
            "made from"
        )
    config = graph_config(folder)
    warn_of_graph(folder, config)
    return config, config.graph.weights(stored, objects)


def _read_bytes(path):
    size = os.path.getsize(path)
    if size > _GRAPH_BYTES:
        raise UserError(f"{path}: {size} bytes, more than any graph of a BERT has; do not use it")
    with open(path, "rb") as reader:
        return reader.read()


def _read_graph(path):
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        return saved_model_pb2.SavedModel.FromString(_read_bytes(path))
    except DecodeError as error:
        raise UserError(f"{path}: not a readable SavedModel; restore it from its source") from error


def _objects(stored, prefix):
    """The nodes of a TF2 checkpoint's object graph, which has the variables' names; [] for TF1's,
    whose keys are the names.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    serialized = stored.pop(_OBJECT_GRAPH, None)
    if serialized is None:
        return []
    try:
        return trackable_object_graph_pb2.TrackableObjectGraph.FromString(
            serialized.item() if isinstance(serialized, np.ndarray) else serialized
        ).nodes
    except (DecodeError, TypeError) as error:
        raise UserError(f"{prefix}: its object graph is damaged; restore the file") from error


def _variables(stored, objects):
    """Yields (name, array) of a TF2 checkpoint."""
    for node in objects:
        for attribute in node.attributes:
            if attribute.checkpoint_key in stored and attribute.full_name:
                yield attribute.full_name, stored[attribute.checkpoint_key]


def _of_garden(stored, objects):
    """({Google's name: array}, number of heads) of a TF2 checkpoint; some are Google's already. No
    weights where the layers have others than BERT's: they compute something else.
    """
    weights, heads, others = {}, None, False
    for name, array in _variables(stored, objects):
        if name.startswith("bert/"):
            weights[name] = array
            continue
        for pattern, google in (*_GARDEN, *_GARDEN_ALBERT):
            match = re.fullmatch(f"(.*/)?{pattern}", name)
            if not match:
                continue
            # Kernels of attention are [hidden, heads, size] or, on its way out, [heads, size,
            # hidden].
            if array.ndim == 3:
                outwards = "_output/" in name
                heads = array.shape[0 if outwards else 1]
                rows = -1 if outwards else array.shape[0]
                array = array.reshape(rows, array.shape[2] if outwards else -1)
            elif "self_attention/" in name and name.endswith("/bias"):
                array = array.reshape(-1)
            weights["bert/" + match.expand(google)] = array
            break
        else:
            others = others or "transformer/" in name
    return {} if others else weights, heads


def _of_albert(name):
    """Our name of a variable of google-research/albert; others stay as they are."""
    for theirs, ours in _GOOGLE_ALBERT:
        name = re.sub(theirs, ours, name)
    return name


def _nodes(saved):
    """Yields the nodes of a SavedModel's graphs and functions."""
    for meta_graph in saved.meta_graphs:
        yield from meta_graph.graph_def.node
        for function in meta_graph.graph_def.library.function:
            yield from function.node_def


def _constants(saved):
    """({name: float} of the scalar constants, names of the operations)."""
    import tensorflow as tf

    constants, operations = {}, set()
    for node in _nodes(saved):
        operations.add(node.op)
        tensor = node.attr["value"].tensor if node.op == "Const" else None
        if tensor and tensor.dtype == tf.float32.as_datatype_enum and not tensor.tensor_shape.dim:
            constants[node.name] = float(tf.make_ndarray(tensor))
    return constants, operations


def _albert_config(folder):
    """The BertConfig of a module of google-research/albert, which has its JSON among its assets."""
    path = os.path.join(folder, _ALBERT_CONFIG)
    if not os.path.exists(path):
        raise UserError(
            f"{folder}: an ALBERT module without {_ALBERT_CONFIG}; put the albert_config.json of "
            "its checkpoint there"
        )
    values = files.read_json(path)
    if values.get("hidden_act") == "gelu":
        values["hidden_act"] = "gelu_new"  # The original's is the tanh form.
    try:
        return BertConfig.from_huggingface({**values, "model_type": "albert"})
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _config(folder, weights, heads, saved):
    """What the variables' shapes and the graph say; dropout is the published models'."""
    constants, operations = _constants(saved)
    shapes = {name: array.shape for name, array in weights.items()}

    def shape(name, rank=2):
        found = shapes.get(f"bert/{name}", ())
        if len(found) != rank:
            raise UserError(
                f"{folder}: its variable bert/{name} has the shape {list(found)}, expected {rank} "
                "dimensions; is this a BERT?"
            )
        return found

    vocab_size, hidden = shape("embeddings/word_embeddings")
    family, layer = {}, "layer_0"
    if f"bert/encoder/{_SHARED}/output/dense/kernel" in weights:
        from bert_tools.hub.saved_graph import layer_count

        layer = _SHARED
        family = {"family": "albert", "num_hidden_groups": 1}
        family |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        if "bert/embeddings/projection/kernel" in weights:
            family["embedding_size"] = hidden
            hidden = shape("embeddings/projection/kernel")[1]
    layers = [re.match(r"bert/encoder/layer_(\d+)/", name) for name in shapes]
    layers = 1 + max((int(match[1]) for match in layers if match), default=-1)
    if family:
        layers = layer_count(saved)
    if not layers:
        raise UserError(
            f"{folder}: a SavedModel that does not say how many layers it has, neither by names "
            "as BERT's nor by encoder_outputs; give a checkpoint, or the model in Hugging Face's "
            "layout"
        )
    heads = heads or _heads(hidden, constants)
    if not heads:
        raise UserError(
            f"{folder}: the number of attention heads is not in its graph; give the checkpoint "
            "that it was made from"
        )
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=shape(f"encoder/{layer}/intermediate/dense/kernel")[1],
        hidden_act=_activation(folder, constants, operations),
        max_position_embeddings=shape("embeddings/position_embeddings")[0],
        type_vocab_size=shape("embeddings/token_type_embeddings")[0],
        layer_norm_eps=_epsilon(folder, constants),
        **family,
    )


def _heads(hidden, constants):
    """The number of heads by the factor of the attention scores, 1 / sqrt(size of a head); None
    where the graph has none.
    """
    for name, value in constants.items():
        if re.search(r"layer_0/attention/self/[Mm]ul(_\d+)?/y$", name) and 0 < value <= 1:
            size = round(1 / value**2)
            if math.isclose(value, 1 / math.sqrt(size), rel_tol=1e-5) and hidden % size == 0:
                return hidden // size
    return None


def _activation(folder, constants, operations):
    if any(math.isclose(value, _TANH_GELU, rel_tol=1e-5) for value in constants.values()):
        return "gelu_tanh"
    if operations & {"Erf", "Erfc"}:
        return "gelu_erf"
    if "Relu" in operations:
        return "relu"
    raise UserError(
        f"{folder}: its graph has none of the activations gelu and relu; give the checkpoint that "
        "it was made from"
    )


def _epsilon(folder, constants):
    """What LayerNorm adds to the variance."""
    found = {value for name, value in constants.items() if name.endswith("batchnorm/add/y")}
    if len(found) > 1:
        raise UserError(
            f"{folder}: its LayerNorms add different numbers ({sorted(found)}), which no BERT "
            "does; give the checkpoint that it was made from"
        )
    # As a float32 it is 9.999999960041972e-13.
    return float(str(np.float32(found.pop()))) if found else 1e-12


def _vocabulary(folder):
    """(path of the vocabulary, folder of the preprocessor that it came from or None)."""
    own = _asset(folder)
    if own:
        return own, None
    for parent in (folder, os.path.dirname(os.path.abspath(folder))):
        names = [name for name in sorted(os.listdir(parent)) if "preprocess" in name]
        found = [path for name in names if _asset(path := os.path.join(parent, name))]
        if len(found) == 1:
            vocabulary = _asset(found[0])
            # Beside the model is the user's own folder, whose links are.
            root = folder if parent == folder else found[0]
            for path in (vocabulary, os.path.join(found[0], MODEL)):
                if not os.path.isfile(path) or not models.is_inside(path, root):
                    raise UserError(
                        f"{path}: is no file, or a link out of {root}; put the file itself there"
                    )
            return vocabulary, found[0]
        if found:
            raise UserError(
                f"{folder}: has no vocabulary, and there are several preprocessors "
                f"({', '.join(found)}); put the one that belongs to it into it, as preprocess"
            )
    raise UserError(
        f"{folder}: has no vocabulary (assets/vocab.txt); put the folder of its preprocessor into "
        "it, under the name preprocess"
    )


def _asset(folder):
    """The path of a SavedModel's vocabulary (of ALBERT's: its SentencePiece model), or None."""
    assets = os.path.join(folder, "assets")
    if not os.path.isdir(assets) or not os.path.exists(os.path.join(folder, MODEL)):
        return None
    vocabulary = rf".*vocab.*\.txt|.*\{_PIECES}"
    names = [name for name in sorted(os.listdir(assets)) if re.fullmatch(vocabulary, name)]
    return os.path.join(assets, names[0]) if names else None


def _lower_case(saved, stored, objects, preprocessor):
    """Whether text was lower-cased: by the module's tokenization_info, by the encoder's attribute
    do_lower_case, by the preprocessor's graph; else true, as in the original.
    """
    import tensorflow as tf

    for meta_graph in saved.meta_graphs:
        signature = meta_graph.signature_def.get("tokenization_info")
        name = signature and signature.outputs["do_lower_case"].name.partition(":")[0]
        for node in meta_graph.graph_def.node:
            value = node.attr["value"].tensor
            if name and node.name == name and node.op == "Const" and not value.tensor_shape.dim:
                return bool(tf.make_ndarray(value))
    for node in objects:
        for child in node.children:
            if child.local_name == "do_lower_case" and 0 <= child.node_id < len(objects):
                for attribute in objects[child.node_id].attributes:
                    if attribute.checkpoint_key in stored:
                        return bool(stored[attribute.checkpoint_key])
    if preprocessor:
        other = _read_graph(os.path.join(preprocessor, MODEL))
        return any(node.op == "CaseFoldUTF8" for node in _nodes(other))
    return True


def model_garden_name(name):
    """The model garden's name of an encoder's weight: bert/encoder/layer_0/output/dense/kernel ->
    transformer/layer_0/output/kernel.
    """
    for google_part, garden_part in _TO_GARDEN:
        name = name.replace(google_part, garden_part)
    return name


def model_garden_shape(config, name, shape):
    """The shape that a weight has there: attention's are split into heads.

    Args:
      config: BertConfig.
      name: str, Google's.
      shape: tuple of int, Google's.
    """
    heads = config.num_attention_heads
    size = config.hidden_size // heads
    if "/attention/self/" in name:
        return (*shape[:-1], heads, size)
    if name.endswith("/attention/output/dense/kernel"):
        return (heads, size, *shape[1:])
    return shape


def write(folder, model):
    """Writes a TF2 SavedModel as the public BERT encoders are (model garden,
    official/nlp/tools/export_tfhub_lib.py), which tensorflow_hub.load and hub.KerasLayer read: a
    dict of ids in, a dict of vectors out, trainable, with the vocabulary among its assets.

    Args:
      folder: str, absent or empty; it appears whole or not at all.
      model: Model.

    Raises:
      UserError: the folder is not empty or cannot be written, or the model does not fit this
      layout.
    """
    import tensorflow as tf
    from absl import logging

    from bert_tools.hub import output_folder

    models.check_fits_google(model, folder, "TF Hub's layout")
    heads = sorted(name for name in model.weights if not name.startswith("bert/"))
    if heads:
        logging.warning("%s: a SavedModel has no place for %s; left out", folder, ", ".join(heads))
    with files.aside_folder(folder) as aside:
        vocab_file = os.path.join(aside, models.VOCABULARY)
        models.write_vocabulary(vocab_file, model.tokenizer)
        root = _saveable(model, vocab_file)
        try:
            tf.saved_model.save(root, aside, signatures={"serving_default": root.serve})
        except tf.errors.OpError as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{folder}: the SavedModel cannot be written ({reason}); free space and run again"
            ) from error
        os.unlink(vocab_file)  # It lies in assets now.
        files.write_json(os.path.join(aside, models.GOOGLE_CONFIG), model.config.to_google())
        files.write_json(
            os.path.join(aside, models.TOKENIZER_CONFIG), models.casing_of(model.tokenizer)
        )
        if model.meta:
            output_folder.write_json(aside, model)


def _saveable(model, vocab_file):
    """The root object of the SavedModel."""
    import tensorflow as tf

    from bert_tools.encoder import encode

    config = model.config
    shapes = {
        name: array.shape for name, array in model.weights.items() if name.startswith("bert/")
    }
    variables = {
        name: tf.Variable(
            model.weights[name].reshape(model_garden_shape(config, name, shape)),
            name=model_garden_name(name),
        )
        for name, shape in shapes.items()
    }
    spec = {
        name: tf.TensorSpec([None, None], tf.int32, name=name)
        for name in ("input_word_ids", "input_mask", "input_type_ids")
    }

    def run(inputs, training):
        batch = {
            "input_ids": inputs["input_word_ids"],
            "input_mask": inputs["input_mask"],
            "segment_ids": inputs["input_type_ids"],
        }
        weights = {name: tf.reshape(variables[name], shape) for name, shape in shapes.items()}
        rng = tf.random.uniform([2], maxval=2**31 - 1, dtype=tf.int32) if training else None
        output = encode(config, weights, batch, rng)
        found = {"sequence_output": output.sequence_output, "encoder_outputs": output.layers[1:]}
        if output.pooled_output is not None:
            found["pooled_output"] = output.pooled_output
        return found

    @tf.function(autograph=False)
    def call(inputs, training=False):
        return run(inputs, training)

    @tf.function(autograph=False, input_signature=list(spec.values()))
    def serve(input_word_ids, input_mask, input_type_ids):
        inputs = zip(spec, (input_word_ids, input_mask, input_type_ids), strict=True)
        found = run(dict(inputs), False)
        # A signature gives Tensors only: [layers, batch, seq, hidden].
        return {**found, "encoder_outputs": tf.stack(found["encoder_outputs"])}

    for training in (True, False):
        call.get_concrete_function(spec, training=training)
    # Not a tf.Module, whose `variables` is a property, which is not saved.
    root = tf.train.Checkpoint()
    root.__call__ = call
    root.serve = serve
    root.variables = root.trainable_variables = list(variables.values())
    root.regularization_losses = []
    root.vocab_file = tf.saved_model.Asset(vocab_file)
    root.do_lower_case = tf.Variable(model.tokenizer.do_lower_case, trainable=False)
    return root
