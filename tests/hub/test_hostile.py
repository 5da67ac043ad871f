"""Folders that are damaged, or made in malice: through a command each is one sentence on stderr and
exit status 1, without a traceback; nothing is run, and nothing outside of the folder is read.
"""

import json
import os
import pickle
import struct

import hub_toys as toys
import numpy as np
import pytest
import saved_model_toys

from bert_tools.cli import app, extract_features


class Bomb:
    """What a pickle can do when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def pickled(folder, outside):
    os.unlink(f"{folder}/model.safetensors")
    with open(f"{folder}/pytorch_model.bin", "wb") as writer:
        pickle.dump(Bomb(outside / "ran"), writer)


def code(folder, outside):
    values = {**toys.CONFIG, "model_type": "evil", "auto_map": {"AutoModel": "evil.Model"}}
    toys.write_json(f"{folder}/config.json", values)
    with open(f"{folder}/evil.py", "w") as writer:
        writer.write(f"import os; os.mkdir({str(outside / 'ran')!r})")


def truncated(folder, outside):
    os.truncate(f"{folder}/model.safetensors", 1000)


def float8(folder, outside):
    entry = {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}
    header = json.dumps({"pooler.dense.bias": entry}).encode()
    with open(f"{folder}/model.safetensors", "wb") as writer:
        writer.write(struct.pack("<Q", len(header)) + header + bytes(4))


def panic(folder, outside):
    """The tokenizers library does not take this for an error, but for the end of the program."""
    normalizer = {"type": "Precompiled", "precompiled_charsmap": "/////wAAAAA="}
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]}
    toys.write_json(f"{folder}/tokenizer.json", {"normalizer": normalizer, "model": model})


def endless_header(folder, outside):
    with open(f"{folder}/model.safetensors", "r+b") as writer:
        writer.write(struct.pack("<Q", 1 << 60))


def large_header(folder, outside):
    """Of 200 MB, which are there (as a hole in the file)."""
    with open(f"{folder}/model.safetensors", "wb") as writer:
        writer.write(struct.pack("<Q", 200 << 20) + b"{")
        writer.truncate(201 << 20)


def overlapping(folder, outside):
    """Two tensors in one place, and one that reaches beyond the file."""
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    header = json.dumps({"a": entry, "b": {**entry, "data_offsets": [8, 1 << 50]}}).encode()
    with open(f"{folder}/model.safetensors", "wb") as writer:
        writer.write(struct.pack("<Q", len(header)) + header + bytes(16))


def shape(folder, outside):
    tensors = toys.huggingface_tensors()
    tensors["embeddings.LayerNorm.weight"] = np.ones(9, np.float32)
    toys.write_huggingface(folder, tensors)


def not_a_number(folder, outside):
    tensors = toys.huggingface_tensors()
    tensors["pooler.dense.bias"] = np.full(8, np.nan, np.float32)
    toys.write_huggingface(folder, tensors)


def billion_layers(folder, outside):
    toys.write_json(f"{folder}/config.json", {**toys.CONFIG, "num_hidden_layers": 10**9})


def link(folder, outside):
    (outside / "secret.txt").write_text("[UNK]\n[CLS]\n[SEP]\nsecret\n")
    os.unlink(f"{folder}/vocab.txt")
    os.symlink(outside / "secret.txt", f"{folder}/vocab.txt")


def pipe(folder, outside):
    os.unlink(f"{folder}/vocab.txt")
    os.mkfifo(f"{folder}/vocab.txt")


def large_json(folder, outside):
    os.truncate(f"{folder}/config.json", 65 << 20)


def large_vocabulary(folder, outside):
    os.truncate(f"{folder}/vocab.txt", 65 << 20)


def deep_json(folder, outside):
    with open(f"{folder}/config.json", "w") as writer:
        writer.write('{"a":' * 100_000)


def large_number(folder, outside):
    with open(f"{folder}/config.json", "w") as writer:
        writer.write('{"vocab_size": ' + "9" * 5000 + "}")


def shard_outside(folder, outside):
    toys.write_huggingface(outside)
    os.unlink(f"{folder}/model.safetensors")
    index = {"weight_map": {"pooler.dense.bias": "../outside/model.safetensors"}}
    toys.write_json(f"{folder}/model.safetensors.index.json", index)


def vocabulary_outside(folder, outside):
    toys.write_vocabulary(outside / "vocab.txt")
    os.rename(f"{folder}/config.json", f"{folder}/bert_config.json")
    meta = {"format_version": 1, "family": "bert", "vocab_file": "../outside/vocab.txt"}
    toys.write_json(f"{folder}/bert_tools.json", meta)


def checkpoint_outside(folder, outside):
    os.rename(f"{folder}/config.json", f"{folder}/bert_config.json")
    (outside / "model.ckpt.index").touch()
    with open(f"{folder}/checkpoint", "w") as writer:
        writer.write('model_checkpoint_path: "../outside/model.ckpt"\n')


def graph(folder, outside):
    os.unlink(f"{folder}/config.json")
    saved_model_toys.tf1_module(folder)
    os.truncate(f"{folder}/saved_model.pb", 1000)


def large_graph(folder, outside):
    os.unlink(f"{folder}/config.json")
    saved_model_toys.tf1_module(folder)
    os.truncate(f"{folder}/saved_model.pb", 300 << 20)


def linked_variables(folder, outside):
    os.unlink(f"{folder}/config.json")
    saved_model_toys.tf1_module(folder)
    os.rename(f"{folder}/variables", outside / "variables")
    os.symlink(outside / "variables", f"{folder}/variables")


@pytest.mark.parametrize(
    "damage, message",
    [
        (pickled, "pytorch_model.bin: a pickle, which can run code and is never read here"),
        (code, "model_type is 'evil'; supported: bert"),
        (truncated, "not a readable safetensors file"),
        (float8, "model.safetensors: pooler.dense.bias is quantised"),
        (panic, "tokenizer.json: not readable as a tokenizer (Precompiled: "),
        (endless_header, "not a readable safetensors file"),
        (large_header, "not a readable safetensors file"),
        (overlapping, "not a readable safetensors file"),
        (shape, "bert/embeddings/LayerNorm/gamma has shape [9], the config expects [8]"),
        (not_a_number, "bert/pooler/dense/bias holds NaN or infinity"),
        (billion_layers, "too few for the config's num_hidden_layers 1000000000"),
        (link, "vocab.txt: is a link to"),
        (pipe, "vocab.txt: is no plain file"),
        (large_json, "config.json: has 68157440 bytes, at most 67108864 are read"),
        (large_vocabulary, "vocab.txt: has 68157440 bytes, at most 67108864 are read"),
        (deep_json, "config.json: not a readable JSON file"),
        (large_number, "config.json: not a readable JSON file"),
        (shard_outside, "names the file '../outside/model.safetensors'"),
        (vocabulary_outside, "vocab_file is '../outside/vocab.txt'"),
        (checkpoint_outside, "model.ckpt, which is not in the folder"),
        (graph, "saved_model.pb: not a readable SavedModel"),
        (large_graph, "more than any graph of a BERT has"),
        (linked_variables, "variables: is a link to"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_hostile_folders(tmp_path, capsys, monkeypatch, damage, message):
    monkeypatch.setattr(app.log, "handlers", [])
    folder, outside = tmp_path / "model", tmp_path / "outside"
    toys.write_huggingface(folder)
    outside.mkdir()
    damage(str(folder), outside)
    (tmp_path / "lines.txt").write_text("the cat\n")
    flags = [f"--input_file={tmp_path}/lines.txt", f"--output_file={tmp_path}/out.jsonl"]
    status = extract_features.main([*flags, f"--bert={folder}", "--max_seq_length=8"])
    out, err = capsys.readouterr()
    assert (status, out) == (1, "")
    (error,) = (line for line in err.splitlines() if not line.startswith(("INFO", "WARNING")))
    assert error.startswith(f"error: {folder}") and message in error
    assert not (outside / "ran").exists() and not (tmp_path / "out.jsonl").exists()
