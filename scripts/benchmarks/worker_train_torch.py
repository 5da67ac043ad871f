"""PyTorch's side of train_speed.py: `worker_train_torch.py MODEL DATA WIDTH BATCH STEPS OPTIMIZER`
prints a JSON line.

MODEL is a Hugging Face folder of a classifier with one label, DATA train.tsv of task sim;
transformers' sequence classifier, the mean squared error of the sigmoid, AdamW ("plain", or
"fused", which transformers' Trainer takes by default), gradients clipped at 1, batches padded to
their longest, two threads.
"""

import json
import sys
import time

import numpy as np
import peak_memory
import torch
import transformers

model_dir, path, width, size, steps, optimizer = sys.argv[1:]
width, size, steps = int(width), int(size), int(steps)
torch.set_num_threads(2)
tokenizer = transformers.AutoTokenizer.from_pretrained(model_dir)
model = transformers.AutoModelForSequenceClassification.from_pretrained(model_dir)
with open(path, encoding="utf-8") as reader:
    rows = [line.rstrip("\n").split("\t") for line in reader]


def outputs(some):
    encoded = tokenizer(
        [row[0] for row in some],
        [row[1] for row in some],
        truncation=True,
        padding="longest",
        max_length=width,
        return_tensors="pt",
    )
    return torch.sigmoid(model(**encoded).logits.squeeze(-1))


model.eval()
with torch.no_grad():
    first = outputs(rows[:32]).tolist()
parameters = list(model.named_parameters())
groups = [
    {"params": [p for n, p in parameters if is_plain == (("bias" in n) or ("LayerNorm" in n))]}
    for is_plain in (False, True)
]
groups[0]["weight_decay"], groups[1]["weight_decay"] = 0.01, 0.0
adam = torch.optim.AdamW(groups, lr=5e-5, eps=1e-6, fused=optimizer == "fused")
rng = np.random.default_rng(1)
order = np.concatenate([rng.permutation(len(rows)) for _ in range(1 + size * steps // len(rows))])
model.train()
times = []
for step in range(steps):
    begun = time.time()
    some = [rows[i] for i in order[step * size : (step + 1) * size]]
    values = torch.tensor([float(row[2]) for row in some])
    torch.nn.functional.mse_loss(outputs(some), values).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    adam.step()
    adam.zero_grad()
    times.append(time.time() - begun)
print(
    json.dumps(
        {
            "rate": size / float(np.median(times[3:])),
            "memory": peak_memory.of(),
            "outputs": first,
            "version": f"transformers {transformers.__version__}, torch {torch.__version__}",
        }
    )
)
