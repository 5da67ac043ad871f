"""README's Python, as it stands there."""

import pathlib
import re

README = (pathlib.Path(__file__).resolve().parent.parent / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_library_under_the_original_names(tmp_path, capsys, minilm):
    """The blocks of "From Python", one after another; three steps are enough here."""
    code = "".join(block for block in BLOCKS if "hub.load" in block or "Estimator(" in block)
    assert "convert_examples_to_features" in code and "max_steps=100" in code
    code = code.replace("max_steps=100", "max_steps=3").replace("/tmp/run", str(tmp_path / "run"))
    exec(code, {})
    assert 0 < float(capsys.readouterr().out) < 1
    assert (tmp_path / "run" / "model.ckpt-3.index").exists()


def test_processor_of_ones_own(tmp_path):
    """The block of --task_module reads the file that it names."""
    from bert_tools.inputs.examples import examples_of_processor, load_processor

    (block,) = (block for block in BLOCKS if "MyProcessor" in block)
    (tmp_path / "my_task.py").write_text(block)
    (tmp_path / "questions.tsv").write_text("a\tb\t0.5\nc\td\t1\n")
    processor = load_processor(str(tmp_path / "my_task.py"), "my")
    for split in ("train", "dev"):
        examples = examples_of_processor(processor, split, str(tmp_path), float)
        assert [(e.text_a, e.text_b, e.label) for e in examples] == [
            ("a", "b", 0.5),
            ("c", "d", 1.0),
        ]
