"""Duplicate questions found by meaning: recall@1 and recall@10 of semantic_search, without and with
a second stage.

run_reg --flagfile=configs/sts-b.flags ... --output_dir=STSB-MODEL
python scripts/benchmarks/quora.py --quora_file=quora_pairs_subset.tsv --bert=minilm \\
  --rerank=STSB-MODEL --output_file=scripts/benchmarks/quora.json

The corpus is every distinct second question of the file. A query is the first question of a pair
marked as duplicate; the second questions that it is paired with so are what should be found. Where
the query itself stands in the corpus, it does not count. recall@k: the share of queries of which
one such question is among the first k.
"""

import argparse
import json
import os
import sys
import tempfile
import time

from bert_tools.cli import semantic_search


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quora_file", required=True)
    parser.add_argument("--bert", default="minilm")
    parser.add_argument("--rerank", help="an output_dir of run_reg; without it the first stage")
    parser.add_argument("--candidates", type=int, default=20, help="rerank_top_k")
    parser.add_argument("--max_queries", type=int, default=2000)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--output_file")
    arguments = parser.parse_args()
    corpus, wanted = read(arguments.quora_file)
    queries = list(wanted)[: arguments.max_queries]
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for name, lines in (("corpus", corpus), ("queries", queries)):
            with open(os.path.join(folder, name), "w", encoding="utf-8") as writer:
                writer.writelines(f"{line}\n" for line in lines)
        stages = [[]]
        if arguments.rerank:
            stages.append(
                [f"--rerank={arguments.rerank}", f"--rerank_top_k={arguments.candidates}"]
            )
        for stage in stages:
            run = {"corpus": len(corpus), "queries": len(queries), "rerank": bool(stage)}
            run["candidates"] = arguments.candidates if stage else None
            runs.append({**run, **recalls(arguments, folder, queries, wanted, stage)})
            print(json.dumps(runs[-1]), flush=True)
    if arguments.output_file:
        with open(arguments.output_file, "w", encoding="utf-8") as writer:
            json.dump(runs, writer, indent=1)
            writer.write("\n")


def read(path):
    """(the corpus, {query: set of the questions that mean the same})."""
    corpus, wanted = {}, {}
    with open(path, encoding="utf-8") as reader:
        names = next(reader).rstrip("\n").split("\t")
        for line in reader:
            row = dict(zip(names, line.rstrip("\n").split("\t"), strict=False))
            first, second = row["question1"].strip(), row["question2"].strip()
            if not first or not second:
                continue
            corpus.setdefault(second)
            if row["is_duplicate"] == "1" and first != second:
                wanted.setdefault(first, set()).add(second)
    return list(corpus), wanted


def recalls(arguments, folder, queries, wanted, stage):
    output = os.path.join(folder, "found.jsonl")
    begun = time.perf_counter()
    status = semantic_search.main(
        [
            f"--corpus={folder}/corpus",
            f"--queries={folder}/queries",
            f"--bert={arguments.bert}",
            f"--precision={arguments.precision}",
            "--top_k=11",  # One more, for the query itself.
            f"--output_file={output}",
            *stage,
        ]
    )
    if status:
        sys.exit(status)
    seconds = time.perf_counter() - begun
    found = {}
    with open(output, encoding="utf-8") as reader:
        for line in reader:
            row = json.loads(line)
            if row["text"] != row["query"]:
                found.setdefault(row["query"], []).append(row["text"])
    hits = {
        k: sum(bool(wanted[query] & set(found.get(query, [])[:k])) for query in queries)
        for k in (1, 10)
    }
    return {
        **{f"recall@{k}": count / len(queries) for k, count in hits.items()},
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
