"""A RoBERTa through the commands: its files, its pairs, its output folder."""

import dataclasses
import json

import pytest
import tokenizers
from cli_toys import as_arguments, newest, records, results_of, values_of
from tokenizers import models, pre_tokenizers, processors

from bert_tools import encoder, hub
from bert_tools.cli import extract_features, run_squad
from bert_tools.hub import huggingface
from bert_tools.squad import QuestionAnswerer
from bert_tools.tokenization_subword import SubwordTokenizer

PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁a", "▁b", "▁c", "▁d", "e", "f", "<mask>"]


@pytest.fixture(scope="module")
def roberta(tmp_path_factory, toy_config):
    """A Hugging Face folder of a RoBERTa with random weights and a tokenizer.json."""
    library = tokenizers.Tokenizer(models.Unigram([(piece, -1.0) for piece in PIECES], unk_id=3))
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    config = dataclasses.replace(
        toy_config,
        family="roberta",
        vocab_size=len(PIECES),
        type_vocab_size=1,
        position_offset=2,
        hidden_act="gelu_erf",
        layer_norm_eps=1e-5,
    )
    folder = tmp_path_factory.mktemp("roberta") / "model"
    weights = encoder.initial_weights(config, seed=1)
    tokenizer = SubwordTokenizer(library.to_str(), "")
    huggingface.write(str(folder), hub.Model(config, weights, tokenizer, {}, ""))
    return str(folder)


def test_all_phases(sim, roberta, tmp_path):
    out = tmp_path / "out"
    sim(bert=roberta, do_train=True, do_eval=True, do_predict=True)
    written = {path.name for path in out.iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "bert_tools.json"} <= written
    assert not {"bert_config.json", "vocab.txt"} & written
    description = json.loads((out / "bert_tools.json").read_text("utf-8"))
    assert description["family"] == "roberta" and description["vocab_file"] == "tokenizer.json"
    assert "do_lower_case" not in description
    for example in records(out / "eval.tf_record"):
        ids = example["input_ids"]
        assert (
            ids[0] == 0 and ids[-1] == 2 and ids.count(2) == 3 and not any(example["segment_ids"])
        )
        first = ids.index(2)
        assert ids[first + 1] == 2 and 1 < first < len(ids) - 3

    expected = values_of(out / "test_results.tsv")
    (out / "test_results.tsv").unlink()
    sim(bert=None, do_predict=True)
    assert values_of(out / "test_results.tsv") == expected
    again = hub.load(str(out))
    assert again.config == hub.load(roberta).config
    assert again.weights["output_weights"].shape == (1, 16)

    steps = newest(out)["global_step"]
    sim(bert=roberta, do_train=True, do_eval=True, num_train_epochs=4)
    assert newest(out)["global_step"] == 16 > steps
    assert results_of(out / "eval_results.txt")["global_step"] == "16"


def test_another_family_is_refused(sim, refused, roberta, toy_model, tmp_path):
    sim(bert=roberta, do_train=True, num_train_epochs=1)
    error = refused(bert=toy_model, num_train_epochs=1)
    assert "of a model of another size or type (config.json)" in error


def test_too_many_tokens(refused, roberta):
    """34 rows of positions are 32 tokens."""
    error = refused(bert=roberta, max_seq_length=33)
    assert "the model has 32 positions" in error


def test_questions(roberta, tmp_path):
    """Trained, answered, and asked again from the output folder."""
    answers = [{"text": "c d", "answer_start": 3}]
    paragraph = {"context": "ae c d bf", "qas": [{"id": "q", "question": "b", "answers": answers}]}
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}), "utf-8")
    flags = {"bert": roberta, "output_dir": tmp_path / "out", "max_seq_length": 16}
    flags |= {"max_query_length": 4, "train_file": path, "predict_file": path, "do_train": True}
    flags |= {"do_predict": True, "train_batch_size": 1, "num_train_epochs": 60}
    assert run_squad.main(as_arguments({**flags, "learning_rate": 1e-2})) == 0
    (example,) = records(tmp_path / "out" / "eval.tf_record")
    assert example["input_ids"] == [0, 5, 2, 2, 4, 8, 6, 7, 5, 9, 2]
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == {"q": "c d"}
    reader = QuestionAnswerer.load(str(tmp_path / "out"))
    answer = reader.answer([("b", "ae c d bf")])[0]
    assert (answer.text, answer.begin, answer.end) == ("c d", 3, 6)
    assert answer.tokens[:5] == ["<s>", "▁b", "</s>", "</s>", "▁a"]


def test_vectors(roberta, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("ae b ||| c\n", "utf-8")
    target = tmp_path / "vectors.jsonl"
    arguments = {"input_file": lines, "output_file": target, "bert": roberta, "layers": "-1"}
    arguments["max_seq_length"] = 16
    assert extract_features.main([f"--{name}={value}" for name, value in arguments.items()]) == 0
    row = json.loads(target.read_text("utf-8"))
    tokens = [feature["token"] for feature in row["features"]]
    assert tokens == ["<s>", "▁a", "e", "▁b", "</s>", "</s>", "▁c", "</s>"]
