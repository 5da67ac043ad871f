"""TF2 SavedModels with names of their own: their graph is the encoder, and gives and learns what
the same weights do in ours; graphs that do more than compute are refused.
"""

import json
import os
import shutil

import numpy as np
import pytest
import saved_model_toys as toys
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from bert_tools import checkpoints, encoder, hub
from bert_tools.cli import (
    app,
    convert_checkpoint,
    evaluate_sts,
    extract_cls,
    inspect_model,
    run_classifier,
    run_siamese,
)
from bert_tools.errors import UserError
from bert_tools.hub import saved_graph, tf_hub
from bert_tools.sentence.encoder import Encoder

HEADS = 4


def gelu(x):
    return tf.nn.gelu(x, approximate=True)


def odd(name):
    """A name that nothing knows; its last part says no less than the original's of weight decay."""
    return f"mine/{name.replace('/', '_')}"


def write(folder, weights, **options):
    """Writes an encoder with odd names; returns its folder."""
    vocab_file = os.path.join(folder, "module", "assets", "vocab.txt")
    options = {"rename": odd, **options}
    return toys.write_pair(str(folder / "odd"), vocab_file, weights, HEADS, gelu, **options)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder with a model of known names (known/encoder) and the same with odd ones
    (odd/encoder).
    """
    folder = tmp_path_factory.mktemp("saved_graph")
    module = toys.tf1_module(folder / "module")
    weights = hub.load(module).weights
    vocab_file = os.path.join(module, "assets", "vocab.txt")
    known = toys.write_pair(str(folder / "known"), vocab_file, weights, HEADS, gelu)
    return folder, known, write(folder, weights)


def outputs(model, batch):
    return encoder.encode(model.config, model.weights, batch)


def same(first, second):
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_it_gives_what_our_encoder_gives(places, caplog):
    _, known, folder = places
    with caplog.at_level("WARNING"):
        model = hub.load(folder)
    said = [record for record in caplog.records if "names of its own" in record.getMessage()]
    assert len(said) == 1
    batch, _ = toys.expected()
    ours, theirs = outputs(hub.load(known), batch), outputs(model, batch)
    same(ours.sequence_output, theirs.sequence_output)
    same(ours.pooled_output, theirs.pooled_output)
    assert theirs.layers[0] is None
    for one, other in zip(ours.layers[1:], theirs.layers[1:], strict=True):
        same(one, other)
    config = model.config
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (13, 8, 2)
    assert config.max_position_embeddings == 16
    assert all(name.startswith("bert/saved_model/mine/") for name in model.weights)


def test_known_names_among_others_are_not_taken_for_a_bert(places, tmp_path):
    """As of the model garden's variants, whose layers have weights that BERT's have not."""
    toys.tf1_module(tmp_path / "module")
    weights = hub.load(places[1]).weights
    folder = write(tmp_path, weights, rename=lambda name: name.replace("mediate", "mediate_gate"))
    model = hub.load(folder)
    assert "bert/saved_model/transformer/layer_1/intermediate_gate/kernel" in model.weights
    batch, _ = toys.expected()
    same(outputs(model, batch).pooled_output, outputs(hub.load(places[1]), batch).pooled_output)


def test_gradients_reach_every_weight(places):
    batch, _ = toys.expected()
    gradients = []
    for folder in places[1:]:
        model = hub.load(folder)
        weights = {name: tf.Variable(array) for name, array in model.weights.items()}
        with tf.GradientTape() as tape:
            found = encoder.encode(model.config, weights, batch)
            loss = tf.reduce_sum(tf.sin(found.pooled_output)) + tf.reduce_sum(
                tf.sin(3 * found.sequence_output)
            )
        found = tape.gradient(loss, weights)
        gradients.append(sorted(float(tf.norm(tf.convert_to_tensor(g))) for g in found.values()))
    np.testing.assert_allclose(*gradients, rtol=1e-3, atol=1e-5)
    assert max(gradients[0]) > 1


def train(folder, data, output_dir, **flags):
    flags = {
        "bert": folder,
        "task_name": "csv",
        "text_column": 0,
        "label_column": 1,
        "data_dir": data,
        "output_dir": output_dir,
        "do_train": True,
        "do_eval": True,
        "do_predict": True,
        "max_seq_length": 8,
        "train_batch_size": 8,
        "max_train_steps": 10,
        "num_train_epochs": 20,
        "learning_rate": 0.002,
        **flags,
    }
    arguments = [f"--{name}={value}" for name, value in flags.items() if value is not None]
    return run_classifier.main(arguments)


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(app.log, "handlers", [])
    rows = ["the cat\tyes", "a b c\tno", "cats.\tyes", "c d\tno"] * 4
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path


def losses(folder):
    """The loss of each step that training wrote for TensorBoard."""
    found = {}
    for name in sorted(os.listdir(folder)):
        if "tfevents" in name:
            for record in tf.data.TFRecordDataset(os.path.join(folder, name)):
                event = tf.compat.v1.Event.FromString(record.numpy())
                for value in event.summary.value:
                    if value.tag == "loss":
                        found[event.step] = float(tf.make_ndarray(value.tensor))
    return [found[step] for step in sorted(found)]


def test_training_is_that_of_known_names(places, data, monkeypatch, capsys):
    # Its graph has no dropout, so the other is to have none.
    monkeypatch.setattr(encoder, "dropout", lambda x, rate, seed: x)
    results = []
    for folder, name in zip(places[1:], ("known", "odd"), strict=True):
        out = data / name
        # The graph's own takes this for bucket.
        batching = "bucket" if name == "known" else "pack"
        status = train(folder, data, out, save_summary_steps=1, batching=batching)
        assert status == 0, capsys.readouterr().err
        results.append((losses(out), np.loadtxt(out / "test_results.tsv")))
    assert len(results[0][0]) == 10 and results[1][0][-1] < results[1][0][0]
    same(results[0][0], results[1][0])
    same(results[0][1], results[1][1])

    # What it leaves needs nothing else, and goes on, scores and predicts as before.
    out = data / "odd"
    assert {"saved_model.pb", "vocab.txt", "bert_tools.json"} <= set(os.listdir(out))
    meta = json.loads((out / "bert_tools.json").read_text())
    assert meta["family"] == "saved_model" and meta["labels"] == ["no", "yes"]
    before = (out / "test_results.tsv").read_text()
    os.unlink(out / "test_results.tsv")
    assert train(None, data, out, do_train=False) == 0, capsys.readouterr().err
    assert (out / "test_results.tsv").read_text() == before
    model = hub.load(str(out))
    trained = checkpoints.read(checkpoints.latest(str(out)))
    for name, array in model.weights.items():
        np.testing.assert_array_equal(array, trained[name])
    original = hub.load(places[2]).weights
    assert any(not np.array_equal(array, model.weights[name]) for name, array in original.items())


def test_another_model_does_not_go_into_its_folder(places, data, capsys):
    assert train(places[2], data, data / "out", max_train_steps=1) == 0
    capsys.readouterr()
    assert train(places[1], data, data / "out", max_train_steps=2) == 1
    assert "holds checkpoints of a model of another size or type" in capsys.readouterr().err


def test_vectors(places, data, capsys, monkeypatch):
    (data / "texts.txt").write_text("the cat\na b c d\ncats.\n\n")
    found = []
    for folder in places[1:]:
        flags = ["--input_file", data / "texts.txt", "--output_file", data / "vectors.npy"]
        flags += ["--pooling=first_last_mean", "--max_seq_length=16", "--bert", folder]
        assert extract_cls.main([str(flag) for flag in flags]) == 0, capsys.readouterr().err
        found.append(np.load(data / "vectors.npy"))
        os.unlink(data / "vectors.npy")
    assert found[0].shape[0] == 4
    same(*found)


def test_a_row_is_the_same_beside_others(places):
    texts = ["the cat", "a", "cats . a b c d the cat", "b c"] * 3
    for batching in ("pack", "bucket", "pad"):
        coder = Encoder.load(places[2], pooling=["mean", "pooled"], batching=batching)
        together = coder.encode(texts)
        same(together, np.concatenate([coder.encode(text) for text in texts]))


def test_what_it_cannot_do_is_said(places, data, tmp_path, capsys):
    folder = places[2]
    assert train(folder, data, data / "out", layerwise_lr_decay=0.9) == 1
    assert "--layerwise_lr_decay=0.9: the weights of this SavedModel do not" in (
        capsys.readouterr().err
    )
    for layout in ("google", "huggingface", "tf_hub", "sentence_transformers"):
        flags = [f"--bert={folder}", f"--to={layout}", f"--output_dir={tmp_path / layout}"]
        assert convert_checkpoint.main(flags) == 1
        assert "a SavedModel with names of its own, which no other" in capsys.readouterr().err
    for layer in (0, -3):
        with pytest.raises(UserError, match="has 2 layers, numbered from 1"):
            Encoder.load(folder, pooling="mean", layers=[layer])
    assert inspect_model.main([f"--bert={folder}", "--check", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["family"] == "saved_model" and facts["heads"] is None and facts["pooler"]


def test_a_model_of_one_layer_output(places, tmp_path, capsys):
    class Last(toys.GardenEncoder):
        @tf.function(input_signature=toys.GardenEncoder.__call__.input_signature)
        def __call__(self, inputs):
            found = toys.GardenEncoder.__call__.python_function(self, inputs)
            return {"sequence_output": found["sequence_output"], "default": found["pooled_output"]}

    module = Last(hub.load(places[1]).weights, HEADS, gelu, rename=lambda name: "w")
    tf.saved_model.save(module, str(tmp_path / "last"))
    toys.tf1_module(tmp_path / "preprocess")
    model = hub.load(str(tmp_path / "last"))
    batch, _ = toys.expected()
    same(outputs(model, batch).pooled_output, outputs(hub.load(places[1]), batch).pooled_output)
    for options in ({"layers": [-2]}, {"layers": [1]}, {"pooling": "first_last_mean"}):
        with pytest.raises(UserError, match="gives its last layer alone"):
            Encoder(model, **{"pooling": "mean", **options})
    (tmp_path / "pairs.tsv").write_text("the cat\ta\t1\nb\tc d\t0\na\tcats\t0.5\n")
    flags = [f"--bert={tmp_path}/last", f"--eval_file={tmp_path}/pairs.tsv", "--max_seq_length=8"]
    assert evaluate_sts.main(flags) == 0
    ways = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert ways == ["cls", "pooled", "mean", "max"]


def test_sentence_vectors_learn_from_all_texts_of_a_step(places, data, capsys):
    """Which are laid out by length, as such a graph takes no packed rows."""
    rows = "".join(f"{a}\t{b}\n" for a, b in (("the cat", "a b"), ("a b c d", "c"), ("d", "a")))
    (data / "train.tsv").write_text(rows * 4)
    flags = {"bert": places[2], "data_dir": data, "output_dir": data / "out", "do_train": True}
    flags |= {"objective": "multiple_negatives", "task_name": "pairs", "max_seq_length": 8}
    flags |= {"train_batch_size": 6, "max_train_steps": 2, "num_train_epochs": 4}
    assert run_siamese.main([f"--{n}={v}" for n, v in flags.items()]) == 0, capsys.readouterr().err
    flags |= {"num_hidden_layers": 1, "output_dir": data / "other"}
    assert run_siamese.main([f"--{n}={v}" for n, v in flags.items()]) == 1
    assert "--num_hidden_layers=1: this SavedModel is run whole" in capsys.readouterr().err


def test_a_preprocessor_that_leads_out_of_the_folder(places, tmp_path):
    for name in ("encoder", "preprocess"):
        source = places[1] if name == "encoder" else os.path.dirname(places[1]) + "/preprocess"
        shutil.copytree(source, tmp_path / name)
    os.rename(tmp_path / "preprocess", tmp_path / "encoder" / "preprocess")
    hub.load(str(tmp_path / "encoder"))
    (vocabulary,) = (tmp_path / "encoder" / "preprocess" / "assets").glob("*.txt")
    os.rename(vocabulary, tmp_path / "secret.txt")
    os.symlink(tmp_path / "secret.txt", vocabulary)
    with pytest.raises(UserError, match="is no file, or a link out of"):
        hub.load(str(tmp_path / "encoder"))


def test_a_model_that_keras_wrote(tmp_path):
    """Functions in functions, training and not, dropout, and an attention with masks of its own."""
    keras = pytest.importorskip("tf_keras")
    layers = keras.layers

    class Positions(layers.Layer):
        def build(self, shape):
            self.table = self.add_weight(name="table", shape=[16, 8], initializer="uniform")

        def call(self, x):
            return x + self.table[: tf.shape(x)[1]]

    names = ("input_word_ids", "input_mask", "input_type_ids")
    inputs = {name: keras.Input([None], dtype=tf.int32, name=name) for name in names}
    x = layers.Embedding(13, 8)(inputs["input_word_ids"])
    x = Positions()(x + layers.Embedding(2, 8)(inputs["input_type_ids"]))
    x = layers.Dropout(0.1)(layers.LayerNormalization(epsilon=1e-12)(x))
    mask = layers.Lambda(lambda ones: tf.cast(ones[:, None, :], tf.bool))(inputs["input_mask"])
    attended = layers.MultiHeadAttention(2, 4, dropout=0.1)(x, x, attention_mask=mask)
    x = layers.LayerNormalization(epsilon=1e-3)(x + attended)  # The fused form.
    x = layers.Dropout(0.1)(layers.Dense(8, activation="gelu")(x))
    pooled = layers.Dense(8, activation="tanh")(x[:, 0])
    outputs_of = {"sequence_output": x, "default": pooled, "encoder_outputs": [x]}
    keras_model = keras.Model(inputs, outputs_of)
    keras_model.save(str(tmp_path / "keras"), save_format="tf", include_optimizer=False)
    toys.tf1_module(tmp_path / "preprocess")

    model = hub.load(str(tmp_path / "keras"))
    batch, _ = toys.expected()
    found = outputs(model, batch)
    ids = (batch["input_ids"], batch["input_mask"], batch["segment_ids"])
    theirs = keras_model(dict(zip(names, ids, strict=True)))
    same(found.sequence_output, theirs["sequence_output"])
    same(found.layers[1], theirs["encoder_outputs"][0])
    same(found.pooled_output, theirs["default"])
    assert "bert/saved_model/multi_head_attention/query/kernel" in model.weights


HOSTILE = {
    "WriteFile": lambda path: tf.io.write_file(path, "x"),
    "ReadFile": lambda path: tf.io.read_file(path),
    "EagerPyFunc": lambda path: tf.py_function(lambda: 0, [], []),
    "PrintV2": lambda path: tf.raw_ops.PrintV2(input=path),
    "RandomUniform": lambda path: tf.random.uniform([2]),
    "StatelessWhile": lambda path: tf.while_loop(
        lambda i: i < 9, lambda i: i + 1, [tf.constant(0)]
    ),
}


@pytest.mark.parametrize("operation", HOSTILE)
def test_what_does_more_than_compute_is_refused(places, tmp_path, operation):
    path = str(tmp_path / "ran")
    toys.tf1_module(tmp_path / "module")
    weights = hub.load(places[1]).weights

    @tf.function
    def inner():
        HOSTILE[operation](path)

    folder = write(tmp_path, weights, before=inner)
    with pytest.raises(UserError, match=rf"has the operation {operation} .*give the checkpoint"):
        hub.load(folder)
    assert not os.path.exists(path)


def edited(folder, target, change):
    """A copy of a folder whose SavedModel went through change(meta_graph)."""
    import shutil

    shutil.copytree(os.path.dirname(folder), target)
    path = os.path.join(target, "encoder", "saved_model.pb")
    with open(path, "rb") as reader:
        saved = saved_model_pb2.SavedModel.FromString(reader.read())
    change(saved.meta_graphs[0])
    with open(path, "wb") as writer:
        writer.write(saved.SerializeToString())
    return os.path.join(target, "encoder")


def main_function(meta_graph):
    functions = meta_graph.graph_def.library.function
    return next(function for function in functions if "___call__" in function.signature.name)


def endless(meta_graph):
    function = main_function(meta_graph)
    node = function.node_def.add(name="again", op="PartitionedCall")
    node.attr["f"].func.name = function.signature.name


def doubled(meta_graph):
    """Functions that call each other twice, forty deep."""
    functions = meta_graph.graph_def.library.function
    inner = main_function(meta_graph).node_def.add(name="bomb", op="PartitionedCall")
    inner.attr["f"].func.name = "f0"
    for depth in range(40):
        function = functions.add()
        function.signature.name = f"f{depth}"
        for place in range(2):
            node = function.node_def.add(name=f"n{place}", op="PartitionedCall")
            node.attr["f"].func.name = f"f{depth + 1}"
    function = functions.add()
    function.signature.name = "f40"


def huge(meta_graph):
    node = next(node for node in main_function(meta_graph).node_def if node.op == "Const")
    node.attr["value"].tensor.tensor_shape.dim.add(size=1 << 40)


def table(meta_graph):
    node = meta_graph.object_graph_def.nodes[4]
    node.resource.device = ""


def nameless(meta_graph):
    for node in main_function(meta_graph).node_def:
        if node.op == "MatMul" or node.op == "Einsum":
            node.input[0] = "nothing:output:0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (endless, "comes to more than 100000 operations"),
        (doubled, "comes to more than 100000 operations"),
        (huge, "its constant .* has the shape"),
        (table, "its graph reads a resource"),
        (nameless, "does not run on two rows"),
    ],
)
def test_graphs_made_in_malice(places, tmp_path, change, message):
    with pytest.raises(UserError, match=message) as caught:
        hub.load(edited(places[2], str(tmp_path / "copy"), change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", [10**6, -(10**6)])
def test_objects_that_there_are_none_of(places, place):
    """In the checkpoint's list of objects: their weights are missing."""
    path = os.path.join(places[2], "saved_model.pb")
    with open(path, "rb") as reader:
        graph = saved_graph.SavedGraph(reader.read(), path)
    stored = checkpoints.read(os.path.join(places[2], "variables", "variables"), slots=True)
    nodes = tf_hub._objects(stored, path)
    assert len(graph.weights(stored, nodes)) == len(graph.shapes)
    for node in nodes:
        for child in node.children:
            child.node_id = place
    assert graph.weights(stored, nodes) == {}


def test_rows_that_see_each_other_are_refused(places, tmp_path):
    class Mixing(toys.GardenEncoder):
        @tf.function(input_signature=toys.GardenEncoder.__call__.input_signature)
        def __call__(self, inputs):
            found = toys.GardenEncoder.__call__.python_function(self, inputs)
            mean = tf.reduce_mean(found["pooled_output"], 0)
            return {**found, "pooled_output": found["pooled_output"] + mean}

    module = Mixing(hub.load(places[1]).weights, HEADS, gelu, rename=odd)
    tf.saved_model.save(module, str(tmp_path / "mixing"))
    toys.tf1_module(tmp_path / "preprocess")
    with pytest.raises(UserError, match="another vector among others than alone"):
        hub.load(str(tmp_path / "mixing"))


def test_other_functions_are_refused(tmp_path):
    module = tf.Module()
    module.w = tf.Variable(tf.ones([3, 4]), name="w")
    module.f = tf.function(lambda x: x @ module.w, [tf.TensorSpec([None, 3])])
    tf.saved_model.save(module, str(tmp_path / "other"))
    with pytest.raises(UserError, match="has no function from input_word_ids, input_mask"):
        hub.load(str(tmp_path / "other"))
