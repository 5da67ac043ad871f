"""transformers' side of glue.py: a sequence classifier trained with the recipe of run_classifier.

worker_transformers.py MODEL SPEC: runs where PyTorch, transformers and scikit-learn are; SPEC is
JSON {train, dev: [texts, texts or null, label numbers], epochs, batch_size, learning_rate,
max_seq_length, seed, num_labels, max_steps (0: all)}; prints a JSON line of metrics. AdamW with
weight decay 0.01 but on biases and LayerNorm, warm-up over a tenth of the steps and linear decay,
gradients clipped at 1, batches padded to their longest, bfloat16 autocast on two threads.
"""

import json
import sys
import time

import numpy as np
import torch
import transformers
from sklearn import metrics

model_dir, spec_file = sys.argv[1:]
with open(spec_file, encoding="utf-8") as reader:
    spec = json.load(reader)
torch.set_num_threads(2)
transformers.set_seed(spec["seed"])
tokenizer = transformers.AutoTokenizer.from_pretrained(model_dir)
model = transformers.AutoModelForSequenceClassification.from_pretrained(
    model_dir, num_labels=spec["num_labels"]
)


def batch_of(data, indices):
    texts = [[column[i] for i in indices] for column in data[:2] if column]
    encoded = tokenizer(
        *texts,
        truncation=True,
        padding="longest",
        max_length=spec["max_seq_length"],
        return_tensors="pt",
    )
    return encoded, torch.tensor([data[2][i] for i in indices])


def plain(name):
    return "bias" in name or "LayerNorm" in name


parameters = list(model.named_parameters())
optimizer = torch.optim.AdamW(
    [
        {"params": [p for n, p in parameters if not plain(n)], "weight_decay": 0.01},
        {"params": [p for n, p in parameters if plain(n)], "weight_decay": 0.0},
    ],
    lr=spec["learning_rate"],
    eps=1e-6,
)
count, size = len(spec["train"][2]), spec["batch_size"]
steps = int(count / size * spec["epochs"])
steps = min(steps, spec["max_steps"] or steps)
schedule = transformers.get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
rng = np.random.default_rng(spec["seed"])
order = np.concatenate([rng.permutation(count) for _ in range(int(spec["epochs"]) + 1)])
begun = time.time()
model.train()
for step in range(steps):
    encoded, labels = batch_of(spec["train"], order[step * size : (step + 1) * size])
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(**encoded).logits
    loss = torch.nn.functional.cross_entropy(logits.float(), labels)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
seconds = time.time() - begun
model.eval()
decided = []
with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
    for start in range(0, len(spec["dev"][2]), 64):
        indices = range(start, min(start + 64, len(spec["dev"][2])))
        decided += model(**batch_of(spec["dev"], indices)[0]).logits.argmax(-1).tolist()
truth = spec["dev"][2]
print(
    json.dumps(
        {
            "eval_accuracy": metrics.accuracy_score(truth, decided),
            "f1_score": metrics.f1_score(truth, decided),
            "matthews_correlation": metrics.matthews_corrcoef(truth, decided),
            "train_seconds": seconds,
            "steps": steps,
            "version": f"transformers {transformers.__version__}, torch {torch.__version__}",
        }
    )
)
