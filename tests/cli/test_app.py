"""What every command does around its main: flags, help, errors, exit status, signals."""

import os
import pathlib
import resource
import signal
import subprocess
import sys

import pytest

from bert_tools.cli import app
from bert_tools.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def command():
    command = app.CommandFlags()
    command.group("First")
    command.string("text", None, "A text.")
    command.integer("number", 3, "A number.")
    command.float("share", 0.5, "A share.")
    command.group("Second")
    command.bool("do_it", False, "Whether.")
    command.bool("on", True, "On.")
    command.enum("kind", "red", ("red", "green"), "which colour.")
    return command


def run(command, arguments, main=lambda command: None):
    return app.run("What the command does.", command, main, arguments)


def values(command):
    names = ("text", "number", "share", "do_it", "on", "kind")
    return {name: getattr(command, name) for name in names}


DEFAULTS = {
    "text": None,
    "number": 3,
    "share": 0.5,
    "do_it": False,
    "on": True,
    "kind": "red",
}


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], {}),
        (
            ["--text=a b", "--number=-4", "--share=1e-2"],
            {"text": "a b", "number": -4, "share": 0.01},
        ),
        (["-text", "x", "-number", "7"], {"text": "x", "number": 7}),
        (["--text="], {"text": ""}),
        (["--text=-"], {"text": "-"}),
        (["--do_it", "--noon"], {"do_it": True, "on": False}),
        (["--do_it=true", "--on=false"], {"do_it": True, "on": False}),
        (["--do_it=True", "--on=0"], {"do_it": True, "on": False}),
        (["--do_it", "True", "--number=4"], {"do_it": True, "number": 4}),
        (["-do_it", "true", "--text", "true"], {"do_it": True, "text": "true"}),
        (["--do_it", "1"], {"do_it": True}),
        (["--kind=green"], {"kind": "green"}),
        (["--number=1", "--number=2"], {"number": 2}),
    ],
)
def test_parse(command, arguments, expected):
    command.parse(arguments)
    assert values(command) == {**DEFAULTS, **expected}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--numbre=1"], r"'numbre'. Did you mean: number"),
        (["--zzz"], r"Unknown command line flag 'zzz'; --help lists the flags"),
        (["--number=one"], r"--number=one: invalid literal for int.*see --help"),
        (["--number=1.5"], r"--number=1\.5"),
        (["--share=half"], r"--share=half: could not convert"),
        (["--share=nan"], r"--share=nan: expected a finite number"),
        (["--do_it=maybe"], r"--do_it=maybe"),
        (["--kind=blue"], r"--kind=blue: value should be one of <red\|green>"),
        (["--text"], r"Missing value for flag --text"),
        (["--do_it", "False"], r"--do_it False: the original scripts read this as --do_it=true"),
        (["--on", "0"], r"--on 0: .* write --on=0"),
        (["stray"], r"'stray' belongs to no flag; write --flag=value"),
        (["--flagfile=no/such/file"], r"^--flagfile=no/such/file: cannot be read \(No such file"),
        (["--flagfile"], r"--flagfile with no argument; see --help"),
    ],
)
def test_parse_error(command, capsys, arguments, message):
    with pytest.raises(UserError, match=message):
        command.parse(arguments)
    assert run(command, arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1


def test_commands_do_not_share_values(command):
    command.parse(["--number=9"])
    other = app.CommandFlags()
    other.group("First")
    other.integer("number", 1, "Another number.")
    other.parse([])
    assert (command.number, other.number) == (9, 1)


def test_given(command):
    command.parse(["--number=3", "--noon"])
    assert command.given("number") and command.given("on") and not command.given("share")


def test_require(command):
    command.parse(["--text="])
    command.require("number", "on")
    with pytest.raises(UserError, match="--text is missing; give it, see --help"):
        command.require("number", "text")


def test_a_home_folder_that_the_shell_leaves(command, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    command.parse(["--text=~/model"])
    assert command.text == "/home/me/model"
    command.parse(["--text=a~/model"])
    assert command.text == "a~/model"


def test_flagfile(command, tmp_path):
    path = tmp_path / "some.flags"
    path.write_text("# A comment\n--number=5\n\n--do_it\n--text=from file\n")
    command.parse([f"--flagfile={path}", "--text=from line"])
    assert (command.number, command.do_it, command.text) == (5, True, "from line")


def test_flagfile_with_words_apart(command, tmp_path):
    """As they are typed on a command line, and in a file that another file names."""
    (tmp_path / "inner.flags").write_text("--do_it True\n-text two words = one value\n")
    path = tmp_path / "outer.flags"
    path.write_text(f"--number 5\n--flagfile={tmp_path}/inner.flags\n--kind=green\n")
    command.parse(["--flagfile", str(path), "--share", "0.25"])
    assert values(command) == {
        **DEFAULTS,
        "number": 5,
        "do_it": True,
        "text": "two words = one value",
        "kind": "green",
        "share": 0.25,
    }
    (tmp_path / "inner.flags").write_text("--do_it False\n")
    with pytest.raises(UserError, match="--do_it False: the original scripts read this as"):
        command.parse([f"--flagfile={path}"])


@pytest.mark.parametrize("flag", ["--help", "-help", "-h", "--helpfull"])
def test_help(command, capsys, flag):
    assert run(command, ["--number=x", flag], lambda command: pytest.fail("ran")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == "What the command does."
    assert [line for line in lines if line.endswith(":")] == ["First:", "Second:"]
    flags = [line.strip() for line in lines if line.startswith("  --")]
    assert flags == [
        "--text=",
        "--number=3",
        "--share=0.5",
        "--do_it=false",
        "--on=true",
        "--kind=red",
    ]
    assert "<red|green>: which colour." in out and "--flagfile" in out


def test_run_passes_the_flags(command, capsys):
    seen = []
    assert run(command, ["--number=8"], lambda command: seen.append(command.number)) == 0
    assert seen == [8]
    assert capsys.readouterr() == ("", "")


def test_error_is_one_line(command, capsys):
    def main(command):
        raise UserError("a file:\n  is   wrong; mend it.")

    assert run(command, [], main) == 1
    assert capsys.readouterr() == ("", "error: a file: is wrong; mend it\n")


def test_fault_of_the_program_is_not_hidden(command):
    with pytest.raises(ZeroDivisionError):
        run(command, [], lambda command: 1 / 0)


def test_log_goes_to_stderr(command, capsys, monkeypatch):
    # Without the handler of an earlier test, which holds that test's stderr.
    monkeypatch.setattr(app.log, "handlers", [])
    assert run(command, [], lambda command: app.log.info("working")) == 0
    assert capsys.readouterr() == ("", "INFO working\n")


def test_interrupt(command, capsys):
    def main(command):
        raise KeyboardInterrupt

    assert run(command, [], main) == 130
    assert capsys.readouterr().err == "interrupted\n"
    command.bool("do_train", False, "Train.")
    assert run(command, ["--do_train=true"], main) == 130
    told = "interrupted; training goes on where it stopped when run again\n"
    assert capsys.readouterr().err == told


WAITING = """
import sys, time
from bert_tools.cli import app
command = app.CommandFlags()
command.group("None")
def main(command):
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("cleaned up", flush=True)
sys.exit(app.run("", command, main, []))
"""


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_quietly_and_clean_up(number, status):
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING],
        cwd=ROOT,
        stdout=-1,
        stderr=-1,
        text=True,
        # A shell starts background jobs, such as this test run, with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, out) == (status, "cleaned up\n")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "target, reason", [("&-", "Bad file descriptor"), ("/dev/full", "No space left on device")]
)
def test_stdout_that_takes_nothing(target, reason):
    """Closed, or a full disk, as a shell gives it."""
    done = subprocess.run(
        ["sh", "-c", f"'{sys.executable}' scripts/run_reg.py --help >{target}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"error: output: {reason}; see to it and run again\n"


COMMANDS = {
    "run_reg": """
        bert bert_config_file vocab_file init_checkpoint do_lower_case max_seq_length data_dir
        task_name output_dir pad_records do_train do_eval do_predict train_batch_size
        eval_batch_size predict_batch_size learning_rate num_train_epochs warmup_proportion
        save_checkpoints_steps save_summary_steps iterations_per_loop use_sigmoid_act precision
        batching strategy xla seed use_tpu tpu_name tpu_zone gcp_project master num_tpu_cores
        task_module text_column text_pair_column value_column header dev_fraction on_bad_line
        long_text max_train_examples max_eval_examples eval_file predict_file predict_output
        predict_format max_train_steps gradient_accumulation_steps layerwise_lr_decay
        freeze_encoder correct_bias eval_steps best_metric early_stopping_patience value_range loss
    """,
    "extract_features": """
        bert bert_config_file vocab_file init_checkpoint do_lower_case max_seq_length input_file
        output_file layers batch_size precision batching strategy xla seed use_tpu tpu_name
        tpu_zone gcp_project master num_tpu_cores use_one_hot_embeddings
    """,
    "extract_cls": """
        bert bert_config_file vocab_file init_checkpoint do_lower_case max_seq_length input_file
        output_file text_column text_pair_column label_column header input_format on_bad_line
        prefix pooling layers normalize dtype dimensions reduce pca_file resume shard precision
        batching strategy xla seed use_tpu tpu_name tpu_zone gcp_project master num_tpu_cores
    """,
    "run_ner": """
        bert bert_config_file vocab_file init_checkpoint do_lower_case max_seq_length data_dir
        output_dir word_column tag_column on_bad_line max_train_examples max_eval_examples do_train
        do_eval do_predict eval_file predict_file predict_output train_batch_size learning_rate
        num_train_epochs warmup_proportion eval_steps best_metric precision strategy seed
    """,
    "run_siamese": """
        bert bert_config_file vocab_file init_checkpoint do_lower_case max_seq_length data_dir
        task_name output_dir text_column text_pair_column value_column negative_columns
        dev_task_name dev_data_dir dev_fraction on_bad_line do_train do_eval do_predict eval_file
        predict_file train_batch_size learning_rate num_train_epochs gradient_accumulation_steps
        eval_steps best_metric early_stopping_patience objective margin scale distance symmetric
        value_range target_range matryoshka_dimensions hard_negatives teacher pooling normalize
        dense_width dense_activation num_hidden_layers precision batching strategy xla seed
    """,
    "evaluate_sts": """
        bert bert_config_file vocab_file init_checkpoint do_lower_case max_seq_length eval_file
        text_column text_pair_column value_column header input_format on_bad_line pooling layers
        normalize prefix precision strategy xla seed
    """,
    "convert_checkpoint": """
        bert bert_config_file vocab_file init_checkpoint do_lower_case to output_dir pooling
    """,
    "inspect_model": """
        bert bert_config_file vocab_file init_checkpoint do_lower_case json check
    """,
}


def cpu_seconds_of_children():
    """Processor time, since a busy machine stretches the clock's."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_commands(name):
    """Lists every flag, imports no TensorFlow, and takes under half a second."""
    code = (
        f"import sys; from bert_tools.cli import {name}; status = {name}.main(['--help']); "
        "heavy = {'tensorflow', 'numpy', 'keras'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    taken = []
    for _ in range(3):
        begun = cpu_seconds_of_children()
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
        )
        taken.append(cpu_seconds_of_children() - begun)
        assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    shown = {line.split("=")[0].strip(" -") for line in lines if line.startswith("  --")}
    expected = set(COMMANDS[name].split())
    assert expected <= shown, sorted(expected - shown)
    assert f"\n{name} " in done.stdout, "an example command line"
    assert min(taken) < 0.5


def test_start_up_messages_of_tensorflow_are_kept_back(tmp_path):
    if os.path.exists("/dev/nvidia0"):
        pytest.skip("they stay where there is a GPU")
    code = "from bert_tools.cli import app; app.import_tensorflow()"
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_import_of_tensorflow_leaves_keras_out():
    """Half of a command's start, for nothing; whoever asks for it gets it."""
    code = (
        "import gc, sys; from bert_tools.cli import app; app.import_tensorflow(); "
        "assert not {'keras', 'sklearn'} & set(sys.modules); assert gc.isenabled(); "
        "frozen = gc.get_freeze_count(); app.import_tensorflow(); "
        "assert gc.get_freeze_count() <= frozen; "
        "import tensorflow as tf; assert tf.keras.layers.Dense(2)(tf.ones([1, 3])).shape == (1, 2)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
