"""What run_siamese makes of MiniLM, before and after, ours alone: every run printed, then means.

python scripts/benchmarks/towers.py --stsb_dir=STSB --quora_file=QUORA --teacher=DIR \\
  --examples_dir=EXAMPLES --seeds=1,2,3 --output_file=scripts/benchmarks/towers.json

layers    The encoder's first three layers, by cosine_regression on STS-B (four epochs, batch 32,
          rate 2e-5): the test set's Spearman, and the cosines of a query with the three sentences
          of EXAMPLES/meal.txt.
triplets  Quora's duplicates, each with the question that shares most rare words with the first
          (tf-idf) without being known to be its duplicate: every tenth duplicate is for testing,
          by triplet_accuracy; trained by the triplet objective (one epoch, batch 32, rate 2e-5).
          And whether k-means on EXAMPLES/six_questions.txt parts the first three from the others.
teacher   STS-B's pairs with the values of DIR, a model of pairs that run_reg trained on STS-B
          (configs/sts-b.flags), in the place of their own. The test set's Spearman; siamese.py has
          that of training with the pairs' own values.

STSB holds {train,dev,test}.tsv of task sim; QUORA is a TSV with a header that names qid1, qid2,
question1, question2 and is_duplicate.
"""

import argparse
import collections
import csv
import os
import statistics
import tempfile

import numpy as np
import side_by_side
from scipy import stats

from bert_tools import hub
from bert_tools.cli import run_siamese, siamese_phases
from bert_tools.sentence.clusters import k_means
from bert_tools.sentence.encoder import Encoder
from bert_tools.sentence.similarity import similarity

LAYERS = 3
REGRESSION = {
    "objective": "cosine_regression",
    "task_name": "sim",
    "num_train_epochs": 4,
    "train_batch_size": 32,
    "learning_rate": 2e-5,
    "max_seq_length": 128,
}
TRIPLETS = {
    "objective": "triplet",
    "task_name": "triplets",
    "num_train_epochs": 1,
    "train_batch_size": 32,
    "learning_rate": 2e-5,
    "max_seq_length": 128,
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--bert", default="minilm")
    parser.add_argument("--stsb_dir")
    parser.add_argument("--quora_file")
    parser.add_argument("--teacher")
    parser.add_argument("--examples_dir", required=True)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--max_train_steps", type=int, default=0, help="for a trial; 0: all")
    parser.add_argument("--output_file", help="JSON of every run, added to after each")
    arguments = parser.parse_args()
    runs = side_by_side.earlier(arguments.output_file)
    for case in arguments.cases.split(","):
        with tempfile.TemporaryDirectory() as folder:
            for run in CASES[case](arguments, folder):
                side_by_side.add(runs, {"case": case, **run}, arguments.output_file)
    table = collections.defaultdict(list)
    for run in runs:
        for metric, value in run.items():
            if isinstance(value, float):
                table[run["case"], run["model"], metric].append(value)
    print("| case | model | metric | mean (runs) |\n|---|---|---|---|")
    for (case, model, metric), values in table.items():
        each = ", ".join(f"{value:.4f}" for value in values)
        print(f"| {case} | {model} | {metric} | {statistics.mean(values):.4f} ({each}) |")


def train(arguments, flags, seed, folder):
    """The Encoder of one run_siamese."""
    flags = {
        "do_train": True,
        "do_eval": False,
        "bert": arguments.bert,
        "seed": seed,
        "max_train_steps": arguments.max_train_steps,
        **flags,
    }
    side_by_side.train(run_siamese.main, flags, folder)
    return Encoder.load(folder)


def seeds(arguments):
    return map(int, arguments.seeds.split(","))


def layers(arguments, folder):
    """See above."""
    model = siamese_phases.first_layers(hub.load(arguments.bert), LAYERS)
    yield {"model": f"first {LAYERS} layers", **of_pairs(Encoder(model), arguments)}
    for seed in seeds(arguments):
        flags = {**REGRESSION, "num_hidden_layers": LAYERS, "data_dir": arguments.stsb_dir}
        encoder = train(arguments, flags, seed, os.path.join(folder, f"layers-{seed}"))
        yield {"model": "trained", "seed": seed, **of_pairs(encoder, arguments)}


def triplets(arguments, folder):
    """See above."""
    rows = {"train": [], "dev": []}
    for number, row in enumerate(triplets_of(arguments.quora_file)):
        rows["train" if number % 10 else "dev"].append(row)
    for split, found in rows.items():
        with open(os.path.join(folder, f"{split}.csv"), "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("anchor", "positive", "negative"), *found])
    yield {"model": "as it is", **of_triplets(Encoder.load(arguments.bert), rows, arguments)}
    for seed in seeds(arguments):
        flags = {**TRIPLETS, "data_dir": folder}
        encoder = train(arguments, flags, seed, os.path.join(folder, f"triplets-{seed}"))
        yield {"model": "trained", "seed": seed, **of_triplets(encoder, rows, arguments)}


def teacher(arguments, folder):
    """See above."""
    yield {"model": "as it is", **of_pairs(Encoder.load(arguments.bert), arguments)}
    with open(os.path.join(folder, "train.tsv"), "w", encoding="utf-8") as writer:
        rows = sim_rows(arguments.stsb_dir, "train")
        writer.writelines(f"{first}\t{second}\n" for first, second, _ in rows)
    flags = {
        **REGRESSION,
        "task_name": "pairs",
        "data_dir": folder,
        "teacher": arguments.teacher,
    }
    for seed in seeds(arguments):
        encoder = train(arguments, flags, seed, os.path.join(folder, f"teacher-{seed}"))
        yield {"model": "taught", "seed": seed, **of_pairs(encoder, arguments)}


def of_pairs(encoder, arguments):
    """Spearman on STS-B's test set, and the cosines of the example of the meal."""
    first, second, values = zip(*sim_rows(arguments.stsb_dir, "test"), strict=True)
    cosines = similarity(encoder.encode(first), encoder.encode(second), "cosine")
    query = lines(arguments, "meal_query.txt")
    sentences = lines(arguments, "meal.txt")
    meal = similarity(encoder.encode(query * len(sentences)), encoder.encode(sentences), "cosine")
    return {
        "test_spearman": float(stats.spearmanr(cosines, np.array(values, float)).statistic),
        **{f"meal_{n}": float(cosine) for n, cosine in enumerate(meal, 1)},
        "meal_gap": float(meal[2] - meal[0]),
    }


def of_triplets(encoder, rows, arguments):
    """triplet_accuracy on the test triplets, and whether the six questions fall apart."""
    anchors, positives, negatives = (
        encoder.encode(texts) for texts in zip(*rows["dev"], strict=True)
    )
    near = similarity(anchors, positives, "euclidean")
    far = similarity(anchors, negatives, "euclidean")
    clustering, _ = k_means(encoder.encode(lines(arguments, "six_questions.txt")), [2], 1)
    labels = clustering.labels.tolist()
    return {
        "triplets": len(rows["dev"]),
        "triplet_accuracy": float(np.mean(near > far)),
        "six_questions": labels,
        "silhouette": float(clustering.silhouette),
    }


def lines(arguments, name):
    with open(os.path.join(arguments.examples_dir, name), encoding="utf-8") as reader:
        return reader.read().splitlines()


def sim_rows(folder, split):
    """[text, text, value] of each line of a file of task sim."""
    with open(os.path.join(folder, f"{split}.tsv"), encoding="utf-8") as reader:
        return [line.rstrip("\n").split("\t")[:3] for line in reader]


def triplets_of(path):
    """(question, duplicate, another question) of each of Quora's duplicates."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    with open(path, encoding="utf-8", newline="") as reader:
        rows = list(csv.DictReader(reader, delimiter="\t", quoting=csv.QUOTE_NONE))
    texts, same = {}, collections.defaultdict(set)
    for row in rows:
        for number in "12":
            texts[row[f"qid{number}"]] = row[f"question{number}"]
        if row["is_duplicate"] == "1":
            same[row["qid1"]].add(row["qid2"])
            same[row["qid2"]].add(row["qid1"])
    ids = list(texts)
    matrix = TfidfVectorizer().fit_transform(texts.values())
    place = {qid: number for number, qid in enumerate(ids)}
    for row in rows:
        if row["is_duplicate"] != "1":
            continue
        anchor, positive = row["qid1"], row["qid2"]
        shared = (matrix[place[anchor]] @ matrix.T).toarray()[0]
        known = {anchor}
        while known != (wider := known.union(*(same[qid] for qid in known))):
            known = wider
        shared[[place[qid] for qid in known]] = -1
        yield texts[anchor], texts[positive], texts[ids[int(shared.argmax())]]


CASES = {"layers": layers, "triplets": triplets, "teacher": teacher}

if __name__ == "__main__":
    main()
