"""How much memory a BERT-large takes to answer a question: at most 1 GB and twice its size.

python scripts/benchmarks/large_model.py --output_file=scripts/benchmarks/large_model.json

Makes a random 24-layer, 1024-wide checkpoint with a head for SQuAD (1.3 GB) in --folder, or in
a temporary one, has answer_questions answer one question with it in a process of its own, and
prints that process's peak as JSON. Exit status 1 when it is higher.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

import peak_memory

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CONTEXT = "The bridge was built in 1932 by a company of Leeds and was widened in 1987 . " * 4
QUESTION = "When was the bridge built ?"


def write_model(folder):
    """A folder in Hugging Face's layout, as bert-large-uncased-...-finetuned-squad has it."""
    import numpy as np

    sys.path.insert(0, ROOT)
    from bert_tools import encoder
    from bert_tools.config import BertConfig
    from bert_tools.hub import huggingface
    from bert_tools.hub.model import Model
    from bert_tools.tokenization import FullTokenizer

    words = sorted({word.lower() for word in f"{CONTEXT} {QUESTION}".split()})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    tokens += [f"[unused{index}]" for index in range(30522 - len(tokens))]
    config = BertConfig(
        vocab_size=30522,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        hidden_act="gelu_erf",
        type_vocab_size=2,
    )
    rng = np.random.default_rng(1)
    shapes = {
        **encoder.weight_shapes(config),
        "cls/squad/output_weights": (2, 1024),
        "cls/squad/output_bias": (2,),
    }
    weights = {
        name: np.ones(shape, np.float32)
        if name.endswith("gamma")
        else 0.02 * rng.standard_normal(shape, np.float32)
        for name, shape in shapes.items()
    }
    tokenizer = FullTokenizer(vocab={token: index for index, token in enumerate(tokens)})
    huggingface.write(folder, Model(config, weights, tokenizer, {}, ""))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder")
    parser.add_argument("--output_file")
    parser.add_argument("--write", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        write_model(arguments.folder)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or os.path.join(scratch, "model")
        if not os.path.exists(os.path.join(folder, "model.safetensors")):
            # In a process of its own, as its memory is not to be counted.
            command = [sys.executable, __file__, "--write", f"--folder={folder}"]
            subprocess.run(command, check=True)
        size = os.path.getsize(os.path.join(folder, "model.safetensors"))
        context = os.path.join(scratch, "context.txt")
        with open(context, "w", encoding="utf-8") as writer:
            writer.write(CONTEXT)
        code = "import sys; from bert_tools.cli import answer_questions as a; sys.exit(a.main())"
        command = [sys.executable, "-c", code, f"--bert={folder}", f"--question={QUESTION}"]
        command.append(f"--context_file={context}")
        with open(os.path.join(scratch, "answer.json"), "w+", encoding="utf-8") as output:
            environment = {**os.environ, "PYTHONPATH": ROOT}
            running = subprocess.Popen(command, stdout=output, env=environment)
            peak = int(peak_memory.wait(running) * 2**20)
            output.seek(0)
            answer = json.load(output)
        allowed = (1 << 30) + 2 * size
        numbers = {"model_bytes": size, "peak_bytes": peak, "allowed_bytes": allowed}
        numbers["answer"] = answer["answer"]
        print(json.dumps(numbers))
        if arguments.output_file:
            with open(arguments.output_file, "w", encoding="utf-8") as writer:
                json.dump(numbers, writer, indent=1)
                writer.write("\n")
        return int(running.returncode != 0 or peak > allowed)


if __name__ == "__main__":
    sys.exit(main())
