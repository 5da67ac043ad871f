"""Sentence vectors of real weights: as sentence-transformers makes them, and a few steps of
training. Pinned numbers are sentence-transformers 5.7's (torch 2.13).
"""

import numpy as np
from cli_toys import as_arguments

from bert_tools import hub
from bert_tools.cli import run_siamese
from bert_tools.hub import sentence_transformers
from bert_tools.sentence import pooling
from bert_tools.sentence.encoder import Encoder

TEXTS = ["How are you today?", "A man is eating a piece of bread."]
# Of the folder that the first test writes.
PINNED = [
    [-0.993415, 0.596640, 0.998507, 0.996696, -0.138753, -0.997557, -0.998117, -0.389661],
    [-0.949822, -0.936263, -0.014531, 0.934301, 0.950992, 0.290698, -0.908453, -0.959561],
]


def test_a_dense_layer_as_sentence_transformers_computes_it(minilm, tmp_path):
    numbers = np.arange(384 * 8, dtype=np.float64)
    layer = np.sin(numbers).reshape(384, 8), np.cos(numbers[:8])
    model = hub.load(minilm)
    weights = {**model.weights}
    weights |= {
        name: array.astype(np.float32) for name, array in zip(pooling.DENSE, layer, strict=True)
    }
    meta = {"pooling": ["mean"], "normalize": False, "max_seq_length": 128, "dense": "tanh"}
    folder = str(tmp_path / "model")
    sentence_transformers.write(folder, model._replace(weights=weights, meta=meta))
    np.testing.assert_allclose(Encoder.load(folder).encode(TEXTS), PINNED, atol=1e-5)


def test_a_few_steps_bring_together_what_belongs_together(minilm, tmp_path, capsys):
    rows = ["How are you today?\tA man is eating a piece of bread.\t1\n"]
    rows += ["A man is eating a piece of bread.\tSomebody eats bread.\t0\n"]
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.tsv").write_text("".join(rows))
    flags = {"task_name": "sim", "data_dir": data, "do_train": True, "bert": minilm}
    flags |= {"output_dir": tmp_path / "out", "train_batch_size": 2, "num_train_epochs": 4}
    flags |= {"num_hidden_layers": 2, "max_seq_length": 16, "warmup_proportion": 0}
    assert run_siamese.main(as_arguments(flags)) == 0
    texts = [*TEXTS, "Somebody eats bread."]
    model = hub.load(minilm)
    from bert_tools.cli.siamese_phases import first_layers

    before = Encoder(first_layers(model, 2)).encode(texts)
    after = Encoder.load(str(tmp_path / "out")).encode(texts)
    near, far = (lambda v: v[0] @ v[1]), (lambda v: v[1] @ v[2])
    assert near(after) > near(before) + 0.1 and far(after) < far(before) - 0.05
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, atol=1e-5)  # As the model says.
