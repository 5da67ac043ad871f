"""transformers' side of squad.py: a BertForQuestionAnswering trained with the recipe of run_squad.

worker_squad_transformers.py MODEL SPEC LOGITS: runs where PyTorch and transformers are; SPEC is an
.npz {train_ids, dev_ids int32 [tokens], train_segments, dev_segments the same, train_rows, dev_rows
int64 [windows + 1], where each window begins, start_positions, end_positions int64 [windows],
recipe: JSON {steps, batch_size, learning_rate, seed}}; LOGITS gets float32 [2, windows, longest],
start and end scores of the dev windows, as .npy; prints a JSON line.

AdamW with weight decay 0.01 but on biases and LayerNorm, warm-up over a tenth of the steps and
linear decay, gradients clipped at 1, bfloat16 autocast but in the head, on two threads. A step's
windows go through in parts of eight of like length, padded to their longest: the same step, sooner.
"""

import json
import sys
import time

import numpy as np
import torch
import transformers

PART = 8
model_dir, spec_file, logits_file = sys.argv[1:]
with np.load(spec_file) as archive:
    spec = dict(archive)
recipe = json.loads(str(spec["recipe"]))
torch.set_num_threads(2)
transformers.set_seed(recipe["seed"])
model = transformers.BertForQuestionAnswering.from_pretrained(model_dir)


def parts_of(split, windows):
    """Yields (numbers of windows, inputs of the model), the longest windows first."""
    rows = spec[f"{split}_rows"]
    windows = windows[np.argsort(rows[windows] - rows[windows + 1], kind="stable")]
    for begin in range(0, len(windows), PART):
        part = windows[begin : begin + PART]
        lengths = rows[part + 1] - rows[part]
        mask = np.arange(lengths.max()) < lengths[:, np.newaxis]
        inputs = {"attention_mask": mask.astype(np.int64)}
        for name, flat in (("input_ids", "ids"), ("token_type_ids", "segments")):
            inputs[name] = np.zeros(mask.shape, np.int64)
            inputs[name][mask] = np.concatenate(
                [spec[f"{split}_{flat}"][rows[window] : rows[window + 1]] for window in part]
            )
        yield part, {name: torch.from_numpy(values) for name, values in inputs.items()}


def logits_of(inputs):
    """Start and end scores, float32 [windows, longest] each."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.bert(**inputs).last_hidden_state
    # In float32, as ours: bfloat16 scores are full of ties.
    return model.qa_outputs(hidden.float()).unbind(-1)


def plain(name):
    return "bias" in name or "LayerNorm" in name


parameters = list(model.named_parameters())
optimizer = torch.optim.AdamW(
    [
        {"params": [p for n, p in parameters if not plain(n)], "weight_decay": 0.01},
        {"params": [p for n, p in parameters if plain(n)], "weight_decay": 0.0},
    ],
    lr=recipe["learning_rate"],
    eps=1e-6,
)
count, size, steps = len(spec["start_positions"]), recipe["batch_size"], recipe["steps"]
schedule = transformers.get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
rng = np.random.default_rng(recipe["seed"])
order = np.concatenate([rng.permutation(count) for _ in range(steps * size // count + 1)])
begun = time.time()
model.train()
for step in range(steps):
    for part, inputs in parts_of("train", order[step * size : (step + 1) * size]):
        places = (spec["start_positions"][part], spec["end_positions"][part])
        loss = sum(
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(place), reduction="sum")
            for logits, place in zip(logits_of(inputs), places, strict=True)
        )
        (loss / (2 * size)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
seconds = time.time() - begun
model.eval()
rows = spec["dev_rows"]
scores = np.full((2, len(rows) - 1, np.diff(rows).max()), -1e30, np.float32)
with torch.no_grad():
    for part, inputs in parts_of("dev", np.arange(len(rows) - 1)):
        mask = inputs["attention_mask"].numpy() == 1
        for side, logits in enumerate(logits_of(inputs)):
            scores[side, part, : mask.shape[1]] = np.where(mask, logits.numpy(), -1e30)
np.save(logits_file, scores)
version = f"transformers {transformers.__version__}, torch {torch.__version__}"
print(json.dumps({"train_seconds": seconds, "steps": steps, "version": version}))
