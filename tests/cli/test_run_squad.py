"""run_squad from its command line to its files."""

import importlib.util
import json

import numpy as np
import pytest
from cli_toys import as_arguments, newest, records, results_of

from bert_tools import encoder, hub
from bert_tools.cli import app, run_squad
from bert_tools.hub import google


def squad(count, impossible=0, seed=0):
    """Questions whose answer is the word after the question's: contexts of a, b, c, d, commas."""
    rng = np.random.default_rng(seed)
    paragraphs = []
    for number in range(count):
        words = rng.choice(["a", "b", "c", "d", "ae", "bf"], 8).tolist()
        context = " ".join(words)
        place = int(rng.integers(0, 8))
        start = len(" ".join([*words[:place], ""]))
        answers = [{"text": words[place], "answer_start": start}]
        qa = {"id": f"q{number}", "question": words[place], "answers": answers}
        qa["is_impossible"] = number < impossible
        if qa["is_impossible"]:
            qa["answers"] = []
        paragraphs.append({"context": context, "qas": [qa]})
    return {"data": [{"paragraphs": paragraphs}]}


@pytest.fixture
def run(capsys, monkeypatch, toy_model, tmp_path):
    """function(**flags) -> (status, stderr): run_squad with toy flags; stdout stays empty."""
    for name, value in (
        ("train", squad(12)),
        ("dev", squad(7, seed=1)),
        ("train2", squad(12, 5)),
        ("dev2", squad(7, 3, seed=1)),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))

    def run(**flags):
        monkeypatch.setattr(app.log, "handlers", [])
        defaults = {
            "bert": toy_model,
            "output_dir": tmp_path / "out",
            "train_file": tmp_path / "train.json",
            "predict_file": tmp_path / "dev.json",
            "max_seq_length": 12,
            "max_query_length": 4,
            "doc_stride": 3,
            "train_batch_size": 6,
            "learning_rate": 1e-3,
            "num_train_epochs": 1,
        }
        capsys.readouterr()
        status = run_squad.main(as_arguments({**defaults, **flags}))
        out, err = capsys.readouterr()
        assert out == ""
        return status, err

    return run


def test_whole_run(run, tmp_path):
    status, err = run(do_train=True, do_predict=True)
    assert status == 0, err
    out = tmp_path / "out"
    asked = [f"q{number}" for number in range(7)]
    predictions = json.loads((out / "predictions.json").read_text())
    assert list(predictions) == asked and all(predictions.values())
    n_best = json.loads((out / "nbest_predictions.json").read_text())
    assert list(n_best) == asked
    for qid, rows in n_best.items():
        assert rows[0]["text"] == predictions[qid]
        assert list(rows[0]) == ["text", "probability", "start_logit", "end_logit"]
        assert sum(row["probability"] for row in rows) == pytest.approx(1)
    assert (out / "predictions.json").read_text().startswith('{\n    "q0"')
    assert (out / "predictions.json").read_text().endswith("}\n")
    assert not (out / "null_odds.json").exists()
    results = results_of(out / "eval_results.txt")
    baseline = {"baseline_exact_match", "baseline_f1"}
    assert {"exact_match", "f1", "total", *baseline} == set(results)
    # One answer is the article "a", which the official scores take for no answer.
    assert [float(results[name]) for name in baseline] == pytest.approx([100 / 7] * 2)
    saved = newest(out)
    assert saved["cls/squad/output_weights"].shape == (2, 16)
    assert "cls/squad/output_bias/adam_m" in saved and saved["global_step"] == 2
    meta = json.loads((out / "bert_tools.json").read_text())
    assert (meta["task"], meta["doc_stride"], meta["version_2_with_negative"]) == ("span", 3, False)
    # Windows of six pieces begin three apart; the original's features, by name.
    train = records(out / "train.tf_record")
    assert set(train[0]) == {
        "unique_ids",
        "input_ids",
        "input_mask",
        "segment_ids",
        "start_positions",
        "end_positions",
        "is_impossible",
    }
    assert [row["unique_ids"][0] for row in train] == [10**9 + i for i in range(len(train))]
    assert set(records(out / "eval.tf_record")[0]) == set(train[0]) - {
        "start_positions",
        "end_positions",
        "is_impossible",
    }
    # What was trained answers alone, with the flags that it remembers.
    written = (out / "predictions.json").read_bytes()
    flags = dict.fromkeys(
        ("bert", "max_seq_length", "max_query_length", "doc_stride", "train_file")
    )
    (out / "predictions.json").unlink()
    stamp = (out / "eval.tf_record").stat().st_mtime_ns
    assert run(do_predict=True, **flags)[0] == 0
    assert (out / "predictions.json").read_bytes() == written
    assert (out / "eval.tf_record").stat().st_mtime_ns == stamp


def test_impossible_questions_and_a_tuned_threshold(run, tmp_path):
    plots = tmp_path / "plots" if importlib.util.find_spec("matplotlib") else None
    status, err = run(
        do_train=True,
        do_predict=True,
        train_file=tmp_path / "train2.json",
        predict_file=tmp_path / "dev2.json",
        version_2_with_negative=True,
        tune_null_threshold=True,
        plot_dir=plots,
        pad_records=True,
    )
    assert status == 0, err
    out = tmp_path / "out"
    odds = json.loads((out / "null_odds.json").read_text())
    predictions = json.loads((out / "predictions.json").read_text())
    meta = json.loads((out / "bert_tools.json").read_text())
    threshold = meta["null_score_diff_threshold"]
    assert {qid for qid, text in predictions.items() if not text} == {
        qid for qid, score in odds.items() if score > threshold
    }
    results = {name: float(value) for name, value in results_of(out / "eval_results.txt").items()}
    assert results["NoAns_total"] == 3 and results["HasAns_total"] == 4
    assert results["baseline_f1"] == results["baseline_exact_match"] == pytest.approx(400 / 7)
    # The best threshold was chosen for just this.
    assert results["f1"] >= 100 * 3 / 7 - 1e-9 and "best_exact_thresh" in results
    assert plots is None or len(list(plots.iterdir())) == 2
    train = records(out / "train.tf_record")
    assert {len(row["input_ids"]) for row in train} == {12}
    assert sum(row["is_impossible"][0] for row in train) >= 5
    # A later run finds it; a flag wins.
    flags = {"predict_file": tmp_path / "dev2.json", "do_predict": True, "bert": None}
    assert run(**flags)[0] == 0
    assert json.loads((out / "predictions.json").read_text()) == predictions
    assert run(**flags, null_score_diff_threshold=1e9)[0] == 0
    assert all(json.loads((out / "predictions.json").read_text()).values())


def test_a_trained_folder_stays_the_model_that_it_is(run, tmp_path):
    flags = {
        "do_train": True,
        "do_predict": True,
        "train_file": tmp_path / "train2.json",
        "predict_file": tmp_path / "dev2.json",
    }
    v2 = {"version_2_with_negative": True}
    assert run(**flags, **v2, tune_null_threshold=True)[0] == 0
    out = tmp_path / "out"
    described, predictions = (
        (out / f).read_bytes() for f in ("bert_tools.json", "predictions.json")
    )
    threshold = json.loads(described)["null_score_diff_threshold"]
    # Nothing is left to train: the same without the flags that the folder remembers, or others.
    for others in ({}, v2, {**v2, "doc_stride": 2, "max_seq_length": 16}):
        status, err = run(**flags, **others)
        assert status == 0 and "training is finished, nothing to do" in err, err
        assert (out / "bert_tools.json").read_bytes() == described
        if "doc_stride" not in others:
            assert (out / "predictions.json").read_bytes() == predictions
    # Two steps more: what was tuned holds until it is tuned anew.
    assert run(**flags, num_train_epochs=2)[0] == 0
    meta = json.loads((out / "bert_tools.json").read_text())
    assert meta["null_score_diff_threshold"] == threshold and meta["version_2_with_negative"]
    status, err = run(**flags, num_train_epochs=3, version_2_with_negative=False)
    assert status == 1
    assert "--version_2_with_negative=false: the model was trained with true" in err


def test_a_small_model_learns(run, tmp_path, monkeypatch):
    """Sixty passes over twelve questions, and it knows most of them."""
    monkeypatch.setattr(encoder, "dropout", lambda x, rate, seed: x)
    status, err = run(
        do_train=True,
        do_predict=True,
        predict_file=tmp_path / "train.json",
        num_train_epochs=60,
        learning_rate=3e-3,
    )
    assert status == 0, err
    assert float(results_of(tmp_path / "out" / "eval_results.txt")["f1"]) > 60


def test_a_file_without_answers_is_not_scored(run, tmp_path):
    data = squad(3)
    for paragraph in data["data"][0]["paragraphs"]:
        del paragraph["qas"][0]["answers"], paragraph["qas"][0]["is_impossible"]
    (tmp_path / "test.json").write_text(json.dumps(data))
    assert run(do_predict=True, predict_file=tmp_path / "test.json")[0] == 0
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())) == 3
    assert not (tmp_path / "out" / "eval_results.txt").exists()


def test_results_are_of_the_predictions_beside_them(run, tmp_path):
    """Those of an earlier file do not stay."""
    out = tmp_path / "out"
    v2 = {"do_predict": True, "predict_file": tmp_path / "dev2.json"}
    v2["version_2_with_negative"] = True
    assert run(**v2)[0] == 0
    there = {"null_odds.json", "eval_results.txt", "eval_results.json"}
    assert there <= {path.name for path in out.iterdir()}
    data = squad(3)
    for paragraph in data["data"][0]["paragraphs"]:
        del paragraph["qas"][0]["answers"], paragraph["qas"][0]["is_impossible"]
    (tmp_path / "test.json").write_text(json.dumps(data))
    status, err = run(do_predict=True, predict_file=tmp_path / "test.json")
    assert status == 0 and not there & {path.name for path in out.iterdir()}
    assert "test.json: does not say what is right, so nothing is scored" in err


def test_questions_that_all_have_no_answer(run, tmp_path):
    """The file says so: that is scored, as the official script does."""
    plots = tmp_path / "plots" if importlib.util.find_spec("matplotlib") else None
    (tmp_path / "none.json").write_text(json.dumps(squad(4, impossible=4)))
    flags = {"do_predict": True, "predict_file": tmp_path / "none.json", "plot_dir": plots}
    flags |= {"version_2_with_negative": True, "null_score_diff_threshold": -1e9}
    status, err = run(**flags)
    assert status == 0, err
    results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert results["exact_match"] == results["f1"] == results["best_f1"] == 100
    # What no answer at all scores too.
    assert results["baseline_f1"] == 100
    assert err.count("WARNING eval_results: f1 100 does not beat its baseline 100 (no answer") == 1
    assert plots is None or [path.name for path in plots.iterdir()] == ["null_odds.png"]


def test_chinese_questions_without_an_answer(run, tmp_path):
    """CMRC's scores know none, so they are SQuAD's."""
    questions = [("q0", [{"text": "北", "answer_start": 0}]), ("q1", [])]
    qas = [{"id": i, "question": "京", "answers": a, "is_impossible": not a} for i, a in questions]
    data = {"data": [{"paragraphs": [{"context": "北京", "qas": qas}]}]}
    (tmp_path / "zh.json").write_text(json.dumps(data))
    flags = {"do_predict": True, "predict_file": tmp_path / "zh.json"}
    assert run(**flags, version_2_with_negative=True, null_score_diff_threshold=-1e9)[0] == 0
    results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert (results["NoAns_exact"], results["exact_match"]) == (100, 50)


def test_a_threshold_is_not_tuned_on_what_nobody_answered(run, tmp_path):
    """Told before any work."""
    data = squad(3)
    for paragraph in data["data"][0]["paragraphs"]:
        paragraph["qas"][0]["answers"] = []
    (tmp_path / "test.json").write_text(json.dumps(data))
    flags = {"do_train": True, "do_predict": True, "predict_file": tmp_path / "test.json"}
    status, err = run(**flags, version_2_with_negative=True, tune_null_threshold=True)
    assert status == 1 and not (tmp_path / "out").exists()
    assert err == (
        f"error: --tune_null_threshold: {tmp_path}/test.json does not say what is right; give a "
        "file with answers\n"
    )


def test_numbers_without_end(run):
    assert run(do_predict=True, doc_stride=10**30)[0] == 0
    status, err = run(do_train=True, num_train_epochs=-1e308)
    assert status == 1
    assert "--num_train_epochs" in err and err.splitlines()[-1].startswith("error: ")
    assert len(err.splitlines()) == 1


def test_what_is_wrong_with_the_data_is_counted(run, tmp_path):
    data = squad(12)
    asked = [paragraph["qas"][0] for paragraph in data["data"][0]["paragraphs"]]
    asked[3]["answers"][0]["text"] = "zzz"
    asked[4]["answers"][0]["answer_start"] += 1
    asked[5]["question"] = "a b c d e f"
    (tmp_path / "train.json").write_text(json.dumps(data))
    status, err = run(do_train=True, train_batch_size=4)
    assert status == 0, err
    assert "1 answers cannot be found in their context; not learnt (the first: q3)" in err
    assert "1 answers stand elsewhere than answer_start says" in err
    assert "1 questions are longer than --max_query_length=4" in err


def test_an_empty_context(run, tmp_path):
    """Its question is answered with nothing, counted, and the others are answered."""
    data = squad(3)
    data["data"][0]["paragraphs"][1]["context"] = " \n"
    (tmp_path / "empty.json").write_text(json.dumps(data))
    status, err = run(do_predict=True, predict_file=tmp_path / "empty.json")
    assert status == 0, err
    assert "1 questions have a context without any word (the first: q1)" in err
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert predictions["q1"] == "" and predictions["q0"] and predictions["q2"]


def test_scores_that_are_not_finite(run, tmp_path, toy_model):
    model = hub.load(toy_model)
    weights = {
        **model.weights,
        "cls/squad/output_weights": np.full((2, 16), 3e38, np.float32),
        "cls/squad/output_bias": np.zeros(2, np.float32),
    }
    google.write(str(tmp_path / "broken"), model._replace(weights=weights))
    status, err = run(do_predict=True, bert=tmp_path / "broken")
    assert status == 1 and "Traceback" not in err
    assert err.splitlines()[-1].startswith("error: question q0: the model's scores are not finite")
    assert not (tmp_path / "out" / "predictions.json").exists()


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        ({}, "no phase is asked for"),
        ({"do_train": True, "train_file": None}, "--train_file is missing"),
        ({"do_predict": True, "predict_file": None}, "--predict_file is missing"),
        ({"do_train": True, "output_dir": None}, "--output_dir is missing"),
        ({"do_train": True, "max_query_length": 9}, "--max_seq_length=12: must be greater"),
        ({"do_train": True, "max_seq_length": 64}, "the model has 32 positions"),
        ({"do_predict": True, "predict_file": "no.json"}, "no.json: no such file"),
        ({"do_predict": True, "plot_dir": "x"}, "--plot_dir: is about questions without"),
        (
            {"do_predict": True, "tune_null_threshold": True, "version_2_with_negative": True},
            "holds no model to keep the threshold with",
        ),
    ],
)
def test_flags_that_cannot_be(run, flags, error):
    status, err = run(**flags)
    assert status == 1 and error in err and "Traceback" not in err
    assert err.splitlines()[-1].startswith("error: ")
