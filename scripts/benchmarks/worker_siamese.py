"""sentence-transformers' side of siamese.py: SentenceTransformerTrainer with CosineSimilarityLoss.

worker_siamese.py SPEC: runs where PyTorch, sentence-transformers (with its extra `train`) and scipy
are; SPEC is JSON {model_dir, data_dir, output_dir, epochs, batch_size, learning_rate,
max_seq_length, precision, seed, max_steps}; prints a JSON line {"test_spearman",
"examples_per_second"}, the latter over all steps but the first twenty.
"""

import json
import statistics
import sys
import time

import numpy as np
import torch
import transformers
from datasets import Dataset
from scipy import stats
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss

_LEFT_OUT = 20  # Steps that are not timed.
spec = json.loads(sys.argv[1])
torch.set_num_threads(2)


def rows(split):
    """Columns of a file of task sim: texts, texts, values."""
    with open(f"{spec['data_dir']}/{split}.tsv", encoding="utf-8") as reader:
        cells = [line.rstrip("\n").split("\t")[:3] for line in reader]
    first, second, values = zip(*cells, strict=True)
    return list(first), list(second), [float(value) for value in values]


class Clock(transformers.TrainerCallback):
    """When each step ended."""

    def __init__(self):
        self.times = []

    def on_step_end(self, *_, **__):
        self.times.append(time.monotonic())


transformers.set_seed(spec["seed"])
model = SentenceTransformer(spec["model_dir"], device="cpu")
model.max_seq_length = spec["max_seq_length"]
first, second, values = rows("train")
clock = Clock()
SentenceTransformerTrainer(
    model,
    SentenceTransformerTrainingArguments(
        output_dir=spec["output_dir"],
        num_train_epochs=spec["epochs"],
        max_steps=spec["max_steps"] or -1,
        per_device_train_batch_size=spec["batch_size"],
        learning_rate=spec["learning_rate"],
        warmup_ratio=0.1,
        weight_decay=0.01,
        max_grad_norm=1.0,
        bf16=spec["precision"] == "bfloat16",
        seed=spec["seed"],
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    ),
    train_dataset=Dataset.from_dict({"first": first, "second": second, "score": values}),
    loss=CosineSimilarityLoss(model),
    callbacks=[clock],
).train()
taken = np.diff(clock.times)[_LEFT_OUT:]
first, second, values = rows("test")
vectors = [model.encode(texts, normalize_embeddings=True) for texts in (first, second)]
cosines = (vectors[0] * vectors[1]).sum(1)
print(
    json.dumps(
        {
            "test_spearman": float(stats.spearmanr(cosines, values).statistic),
            "examples_per_second": (
                spec["batch_size"] / statistics.mean(taken.tolist()) if len(taken) else None
            ),
        }
    )
)
