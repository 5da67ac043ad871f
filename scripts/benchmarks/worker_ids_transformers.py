"""transformers' side of squad.py, ner.py and goemotions.py: a model trained on ids that it is
given, with the recipe of our commands.

worker_ids_transformers.py MODEL SPEC LOGITS: runs where PyTorch and transformers are. SPEC is an
.npz {train_ids, dev_ids int32 [tokens], train_segments, dev_segments the same, train_rows, dev_rows
int64 [rows + 1], where each row begins, recipe: JSON {kind, num_labels, steps, batch_size,
learning_rate, seed, part}} and what `kind` needs:

  span  BertForQuestionAnswering      start_positions, end_positions int64 [rows]
  tag   BertForTokenClassification    tags int64 [tokens], -1 where none counts
  label BertForSequenceClassification, any number of labels a row: labels int64 [rows, labels], 0/1,
        and head_bias float32 [labels], what the head's bias begins with

LOGITS gets those of the dev rows, float32 [rows, longest, num_labels], or [rows, num_labels] of
kind label, as .npy. Prints a JSON line.

The losses are transformers' own: means over starts and ends, over the words of a step, and over
rows and labels. AdamW with weight decay 0.01 but on biases and LayerNorm, warm-up over a tenth of
the steps and linear decay, gradients clipped at 1, bfloat16 autocast but in the head, on all
cores that the process may use. A step's rows go through in parts of `part` of like length, padded
to their longest: the same step, sooner.
"""

import json
import os
import sys
import time

import numpy as np
import torch
import transformers

model_dir, spec_file, logits_file = sys.argv[1:]
with np.load(spec_file) as archive:
    spec = dict(archive)
recipe = json.loads(str(spec["recipe"]))
kind = recipe["kind"]
torch.set_num_threads(len(os.sched_getaffinity(0)))
transformers.set_seed(recipe["seed"])
model_class = {
    "span": transformers.BertForQuestionAnswering,
    "tag": transformers.BertForTokenClassification,
    "label": transformers.BertForSequenceClassification,
}[kind]
model = model_class.from_pretrained(model_dir, num_labels=recipe["num_labels"])

if kind == "label":
    model.classifier.bias.data = torch.from_numpy(spec["head_bias"])


def parts_of(split, rows_of_step):
    """Yields (numbers of rows, bool array of their tokens' places, inputs of the model), the
    longest rows first.
    """
    begins = spec[f"{split}_rows"]
    lengths = begins[rows_of_step + 1] - begins[rows_of_step]
    rows_of_step = rows_of_step[np.argsort(-lengths, kind="stable")]
    for begin in range(0, len(rows_of_step), recipe["part"]):
        part = rows_of_step[begin : begin + recipe["part"]]
        lengths = begins[part + 1] - begins[part]
        mask = np.arange(lengths.max()) < lengths[:, np.newaxis]
        inputs = {"attention_mask": mask.astype(np.int64)}
        for name, flat in (("input_ids", "ids"), ("token_type_ids", "segments")):
            inputs[name] = spread(spec[f"{split}_{flat}"], begins, part, mask, 0)
        yield part, mask, {name: torch.from_numpy(values) for name, values in inputs.items()}


def spread(flat, begins, part, mask, fill):
    """Values of tokens as int64 [rows, longest]."""
    values = np.full(mask.shape, fill, np.int64)
    values[mask] = np.concatenate([flat[begins[row] : begins[row + 1]] for row in part])
    return values


def logits_of(inputs):
    """Float32 [rows, longest, num_labels], or [rows, num_labels]."""
    with torch.autocast("cpu", torch.bfloat16):
        output = model.bert(**inputs)
    # The head in float32, as ours: bfloat16 scores are full of ties.
    if kind == "span":
        return model.qa_outputs(output.last_hidden_state.float())
    hidden = output.last_hidden_state if kind == "tag" else output.pooler_output
    return model.classifier(model.dropout(hidden.float()))


def loss_of(logits, part, mask, size, words):
    """The part's share of a step's loss; the step has `size` rows and `words` tagged words."""
    functional = torch.nn.functional
    if kind == "span":
        places = (torch.from_numpy(spec[f"{n}_positions"][part]) for n in ("start", "end"))
        return sum(
            functional.cross_entropy(scores, place, reduction="sum")
            for scores, place in zip(logits.unbind(-1), places, strict=True)
        ) / (2 * size)
    if kind == "tag":
        tags = torch.from_numpy(spread(spec["tags"], spec["train_rows"], part, mask, -1))
        flat = logits.flatten(0, 1), tags.flatten()
        return functional.cross_entropy(*flat, ignore_index=-1, reduction="sum") / words
    wanted = torch.from_numpy(spec["labels"][part]).float()
    summed = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
    return summed / (size * wanted.shape[1])


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
begins = spec["train_rows"]
count, size, steps = len(begins) - 1, recipe["batch_size"], recipe["steps"]
words_of_rows = np.ones(count)
if kind == "tag":
    words_of_rows = np.add.reduceat(spec["tags"] >= 0, begins[:-1])
schedule = transformers.get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
rng = np.random.default_rng(recipe["seed"])
order = np.concatenate([rng.permutation(count) for _ in range(steps * size // count + 1)])
losses = []
begun = time.time()
model.train()
for step in range(steps):
    rows = order[step * size : (step + 1) * size]
    words = int(words_of_rows[rows].sum())
    losses.append(0.0)
    for part, mask, inputs in parts_of("train", rows):
        loss = loss_of(logits_of(inputs), part, mask, size, words)
        loss.backward()
        losses[-1] += loss.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
seconds = time.time() - begun
model.eval()
rows = spec["dev_rows"]
scores = None
with torch.no_grad():
    for part, mask, inputs in parts_of("dev", np.arange(len(rows) - 1)):
        logits = logits_of(inputs).numpy()
        if scores is None:
            shape = (len(rows) - 1, *logits.shape[1:])  # The first part has the longest row.
            scores = np.full(shape, -1e30, np.float32)
        if kind == "label":
            scores[part] = logits
        else:
            scores[part, : mask.shape[1]] = np.where(mask[..., np.newaxis], logits, -1e30)
np.save(logits_file, scores)
print(
    json.dumps(
        {
            "train_seconds": seconds,
            "steps": steps,
            "loss": float(np.mean(losses[-steps // 10 :])),
            "version": f"transformers {transformers.__version__}, torch {torch.__version__}",
        }
    )
)
