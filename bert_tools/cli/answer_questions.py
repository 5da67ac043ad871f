"""answer_questions: find the answer to a question in a text.

answer_questions --bert=/tmp/squad --question="Who wrote it?" --context_file=text.txt

The model is a folder that run_squad trained, or a BertForQuestionAnswering of Hugging Face. On
stdout comes a JSON line: question, answer, probability, and start and end, the answer's place in
the text (characters). Without --question, questions come as JSON lines on stdin:
  echo '{"question": "Who?", "context": "Ann wrote it."}' | answer_questions --bert=/tmp/squad

One text, many questions, typed in:
  answer_questions --bert=/tmp/squad --context_file=text.txt --interactive
"""

import json
import sys

from bert_tools.cli import app, shared_flags, task_data
from bert_tools.errors import UserError
from bert_tools.inputs import tables
from bert_tools.inputs.tables import shown

_BATCH = 64  # Questions read at a time; fewer when no more are waiting.


def flags():
    """The command's flags."""
    command = app.CommandFlags()
    shared_flags.define_model_flags(command, max_seq_length=384)
    command.group("Questions")
    command.string("question", None, "The question; without it JSON lines are read from stdin.")
    command.string("context_file", None, "The text, UTF-8; - is stdin.")
    command.bool("interactive", False, "Read questions about context_file from stdin, one a line.")
    shared_flags.define_window_flags(command)
    command.group("Answers")
    shared_flags.define_answer_flags(command)
    command.bool("show_tokens", False, "Show each token, its id and its segment, on stderr.")
    command.bool("verbose", False, "Tell the number of tokens, on stderr.")
    command.string(
        "plot_dir",
        None,
        "Folder for a picture of each question's scores, and the scores as TSV: question_1.png, "
        "question_1.tsv, ... Needs the extra plots.",
    )
    shared_flags.define_compute_flags(command)
    return command


def run(command):
    """The command; see the module's docstring."""
    from bert_tools import plots
    from bert_tools.squad import answering, windows
    from bert_tools.tasks.span import Span

    _check_sources(command)
    shared_flags.adopt_answer_flags(command, task_data.described(None, command.bert, Span.name))
    windows.check_lengths(command.max_seq_length, command.max_query_length)
    context = _context(command.context_file) if command.context_file else None
    if command.plot_dir:
        plots.require_folder(command.plot_dir)

    app.import_tensorflow()
    from bert_tools.estimator import RunConfig

    config = RunConfig(
        None,
        strategy=shared_flags.strategy(command),
        precision=shared_flags.precision(command),
        batching=command.batching,
        xla=command.xla,
    )
    names = (*answering.REMEMBERED, "n_best_size", "max_answer_length")
    model = shared_flags.load_model(command)
    # Only now: a model may have fewer positions than the flag's default.
    settings = {name: getattr(command, name) for name in names}
    reader = answering.QuestionAnswerer.of_model(
        model, command.bert or model.source, config, **settings
    )
    shown_questions = _Shown(command)
    if command.question is not None:
        answers = reader.answer([(command.question, context)])
        shown_questions.write([(command.question, context)], answers)
    elif command.interactive:
        for question in _typed():
            answers = reader.answer([(question, context)])
            shown_questions.write([(question, context)], answers)
    else:
        for numbers, questions in _batches():
            try:
                answers = reader.answer(questions)
            except UserError:
                _one_by_one(reader, shown_questions, numbers, questions)
            else:
                shown_questions.write(questions, answers)


def _one_by_one(reader, shown_questions, numbers, questions):
    """Lines of which one has no answer: those before it have theirs, and it is named."""
    for number, question in zip(numbers, questions, strict=True):
        try:
            answers = reader.answer([question])
        except UserError as error:
            raise UserError(f"stdin:{number}: {error}") from error
        shown_questions.write([question], answers)


class _Shown:
    """Writes answers, and what else is asked for, question by question."""

    def __init__(self, command):
        self._command, self._count = command, 0

    def write(self, questions, answers):
        """questions: list of (question, context); answers: list of squad.answering.Answer."""
        command = self._command
        for (question, _), answer in zip(questions, answers, strict=True):
            self._count += 1
            if command.verbose:
                app.log.info("question %d: %d tokens", self._count, answer.token_count)
            if command.show_tokens:
                rows = zip(answer.tokens, answer.ids, answer.segments, strict=True)
                for token, index, segment in rows:
                    print(f"{token:<14}{index:>8}{segment:>3}", file=sys.stderr)
            if command.plot_dir:
                from bert_tools.squad import pictures

                pictures.plot_scores(
                    command.plot_dir,
                    f"question_{self._count}",
                    answer.tokens,
                    answer.start_scores,
                    answer.end_scores,
                )
            print(json.dumps(_record(question, answer), ensure_ascii=False), flush=True)


def _record(question, answer):
    """The JSON line of an answer."""
    record = {"question": question, "answer": answer.text, "probability": answer.probability}
    record |= {"start": answer.begin, "end": answer.end}
    return record if answer.null_odds is None else {**record, "null_odds": answer.null_odds}


def _check_sources(command):
    """Where question and text come from, as UserError when that is not clear."""
    asked = command.question is not None
    if asked:
        _check_question(command.question)
    if command.interactive and asked:
        raise UserError("--interactive and --question: both say what to ask; leave one of them out")
    if (command.interactive or asked) and not command.context_file:
        raise UserError("--context_file is missing; name the text that is asked about, or - ")
    if command.interactive and command.context_file == "-":
        raise UserError("--context_file=-: stdin is where questions come from; name a file")
    if command.context_file and not (command.interactive or asked):
        raise UserError(
            "--question is missing; give one, or --interactive (JSON lines bring their own context)"
        )


def _check_question(question):
    if not question.strip():
        raise UserError(f"--question={question}: holds no word; ask something")
    try:
        question.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"--question={shown(repr(question))}: is not text in this shell's encoding "
            f"({sys.getfilesystemencoding()}); convert it, or set LC_ALL=C.UTF-8"
        ) from error


def _context(path):
    """The text of --context_file, as it stands there: answers tell places in it."""
    if path == "-":
        if sys.stdin is None:
            raise UserError("--context_file=-: stdin is closed; pipe the text in")
        raw = sys.stdin.buffer.read()
    else:
        tables.require_file(path, "--context_file")
        with open(path, "rb") as reader:
            raw = reader.read()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"--context_file={path}: not UTF-8 at byte {error.start}; convert it"
        ) from error
    if not text.strip():
        raise UserError(f"--context_file={path}: holds no text; give one that does")
    return text


def _typed():
    """The questions on stdin, one a line; a terminal is prompted."""
    with tables.opened("-", "--interactive") as lines:
        while True:
            if sys.stdin.isatty():
                print("question: ", end="", file=sys.stderr, flush=True)
            number, line = next(lines, (None, None))
            if number is None:
                return
            if isinstance(line, UserError):
                raise line
            if line.strip():
                yield line


def _batches():
    """(numbers of lines, list of (question, context)) of the JSON lines on stdin, some together."""
    numbers, questions = [], []
    try:
        with tables.opened("-", "stdin") as lines:
            for number, cells in tables.rows(lines, "jsonl"):
                if cells is None:
                    continue
                questions.append(_pair(cells, lines.name, number))
                numbers.append(number)
                if len(questions) >= _BATCH or not lines.ready:
                    yield numbers, questions
                    numbers, questions = [], []
    except UserError:
        if questions:
            yield numbers, questions
        raise
    if questions:
        yield numbers, questions


def _pair(cells, name, number):
    """(question, context) of a JSON line."""
    if isinstance(cells, UserError):
        raise cells
    if not isinstance(cells, dict):
        raise UserError(f"{name}:{number}: expected a JSON object with question and context")
    for key in ("question", "context"):
        if not isinstance(cells.get(key), str) or not cells[key].strip():
            raise UserError(
                f"{name}:{number}: expected a text for {key!r}, found "
                f"{shown(repr(cells.get(key)))}; correct the line"
            )
    return cells["question"], cells["context"]


def main(arguments=None):
    """The console command; returns the exit status."""
    return app.run(__doc__, flags(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
