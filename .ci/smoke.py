"""Trains, evaluates and predicts a toy model through run_reg: `smoke.py SCRATCH CHECKOUT`."""

import pathlib
import sys

from bert_tools import encoder, hub
from bert_tools.cli import run_reg
from bert_tools.config import BertConfig
from bert_tools.hub import google
from bert_tools.tokenization import FullTokenizer

scratch, checkout = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]
words += [f"##{letter}" for letter in words[4:]]
tokenizer = FullTokenizer(vocab={word: index for index, word in enumerate(words)})
config = BertConfig(len(words), 16, 2, 2, 32, type_vocab_size=2)
weights = encoder.initial_weights(config, seed=1)
model = scratch / "model"
model.mkdir()
google.write(str(model), hub.Model(config, weights, tokenizer, {}, ""))
arguments = ["--task_name=sim", "--do_train=true", "--do_eval=true", "--do_predict=true"]
arguments += [f"--data_dir={checkout}/data/sim-en", f"--bert={model}", "--num_train_epochs=0.2"]
arguments += [f"--output_dir={scratch}/output"]
if run_reg.main(arguments) != 0:
    sys.exit("run_reg failed")
values = (scratch / "output" / "test_results.tsv").read_text().split()
assert len(values) == 200 and all(0 < float(value) < 1 for value in values), values
version = sys.version.split()[0]
print(f"CPython {version}: run_reg trained, evaluated, predicted {len(values)} values")
