"""--predict_file: predictions of a file or a stream, line by line, in order, in constant memory.

A window is what can be read without waiting, so that the first line is answered before the last
one is written; windows are tokenised and computed by several threads and written in order.
"""

import json
import logging
import os
import queue
import sys
import threading

import tqdm

from bert_tools import files, threads
from bert_tools.errors import UserError
from bert_tools.inputs import tables
from bert_tools.inputs.batches import input_fn_builder
from bert_tools.inputs.examples import read_examples

log = logging.getLogger("bert_tools")


def predict(command, estimator, task, convert, lines, layout):
    """Scores examples, and writes a prediction a line to --predict_output.

    Args:
      command: CommandFlags.
      estimator: Estimator.
      task: of bert_tools.tasks; its row(prediction) or record(prediction) is what is written.
      convert: function(list of InputExample) -> Features.
      lines: tables.Lines.
      layout: examples.Layout.

    Raises:
      UserError: a bad line, unless they are skipped (then "nan", or {"error": ...}); on stdout the
        lines before it stay.
    """
    form = command.predict_format
    if form == "auto":
        form = "jsonl" if command.predict_output.endswith((".jsonl", ".json")) else "tsv"
    lines_of = _records if form == "jsonl" else _rows

    def scored(window):
        good = [example for example in window if not isinstance(example, UserError)]
        input_fn = input_fn_builder(convert(good), command.max_seq_length, False)
        predictions = estimator.predict(input_fn, parallel=False)
        text = "".join(f"{line}\n" for line in lines_of(task, window, predictions))
        return len(window), len(window) - len(good), text

    skipped = write_in_order(command, read_examples(lines, layout, "predict"), lines, scored)
    if skipped:
        log.warning("%s: %d bad lines have no prediction", lines.name, skipped)


def write_in_order(command, found, lines, scored):
    """Scores what is read, window by window, and writes it to --predict_output.

    Args:
      command: CommandFlags.
      found: iterator of what is scored, or UserError for what cannot be; it reads from `lines`.
      lines: tables.Lines.
      scored: function(list of what `found` gives) -> (how many there are, how many of them are
        bad, the text to write); called by several threads.

    Returns:
      int, how many were bad.

    Raises:
      UserError: a bad line, unless they are skipped; on stdout the lines before it stay.
    """
    workers = os.cpu_count() or 1
    waiting = queue.Queue(2 * workers)
    kept = tables.checked(found, command.on_bad_line)
    skipped = 0
    with (
        threads.Pool(workers) as pool,
        files.text_writer(command.predict_output) as write,
        tqdm.tqdm(desc="predicting", unit="line", disable=not sys.stderr.isatty()) as bar,
    ):

        def read():
            try:
                for window in tables.ready_windows(kept, lines):
                    waiting.put(pool.submit(scored, window))
                waiting.put(None)
            except BaseException as error:
                waiting.put(error)

        # A daemon: when the reader of stdout has gone, nobody waits for the rest of stdin.
        threading.Thread(target=read, daemon=True).start()
        while (done := waiting.get()) is not None:
            if isinstance(done, BaseException):
                raise done
            count, bad, text = done.result()
            write(text)
            bar.update(count)
            skipped += bad
    return skipped


def _rows(task, window, predictions):
    for example in window:
        yield "nan" if isinstance(example, UserError) else task.row(next(predictions))


def _records(task, window, predictions):
    for example in window:
        if isinstance(example, UserError):
            yield json.dumps({"error": str(example)}, ensure_ascii=False)
            continue
        record = {**texts(example), **task.record(next(predictions))}
        yield json.dumps(record, ensure_ascii=False)


def texts(example):
    """What a JSON line says of an InputExample itself."""
    record = {"id": example.guid, "text": example.text_a}
    if example.text_b is not None:
        record["text_pair"] = example.text_b
    if example.further:
        record["further_texts"] = list(example.further)
    return record
