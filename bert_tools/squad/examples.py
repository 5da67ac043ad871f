"""Questions in SQuAD's JSON layout: v1.1, v2.0 and CMRC 2018.

    {"data": [{"paragraphs": [{"context": str, "qas": [{"id": str, "question": str,
     "answers": [{"text": str, "answer_start": int}], "is_impossible": bool}]}]}]}

CMRC 2018's own layout, a list of {"context_text", "qas": [{"query_id", "query_text", "answers":
[str]}]}, is read too.
"""

import json
import re

import numpy as np

from bert_tools.errors import UserError
from bert_tools.inputs import tables
from bert_tools.inputs.tables import shown

# What the original splits a context at; other white space stays inside a word.
_WORD = re.compile("[^ \t\r\n\u202f]+")


class Document:
    """A context.

    Attributes:
      text: str.
      words: list of str, as the original splits them: at blanks, line ends and U+202F.
      word_starts: int64 [words], where each begins in the text.
    """

    def __init__(self, text):
        self.text = text
        matches = list(_WORD.finditer(text))
        self.words = [match.group() for match in matches]
        self.word_starts = np.array([match.start() for match in matches], np.int64)

    def word_at(self, place):
        """The number of the word that a character is of; for white space that of the word
        before.
        """
        return max(0, int(np.searchsorted(self.word_starts, place, side="right")) - 1)


class SquadExample:
    """One question.

    Attributes:
      qas_id: str.
      question_text: str.
      document: Document; the questions of a paragraph share it.
      answers: list of str, the reference answers; empty where there is none, or none is known.
      answer_text, answer_start: str and int, the answer to learn and where it begins in the text;
        "" and -1 where there is none.
      is_impossible: bool, whether the text has no answer.
    """

    __slots__ = (
        "answer_start",
        "answer_text",
        "answers",
        "document",
        "is_impossible",
        "qas_id",
        "question_text",
    )

    def __init__(
        self,
        qas_id,
        question_text,
        document,
        answers=(),
        answer_text="",
        answer_start=-1,
        is_impossible=False,
    ):
        self.qas_id = qas_id
        self.question_text = question_text
        self.document = document
        self.answers = list(answers)
        self.answer_text = answer_text
        self.answer_start = answer_start
        self.is_impossible = is_impossible


class Findings:
    """What was found wrong with the data but does not stop the work.

    Attributes:
      realigned, unaligned, several_answers, empty_contexts, repeated: list of str, the ids of the
        questions: answer_start does not point at the answer, which stands elsewhere; the answer
        stands nowhere (such questions are not learnt); several answers of which the first is
        learnt; the context holds no word; the id was there before.
    """

    def __init__(self):
        self.realigned, self.unaligned, self.several_answers = [], [], []
        self.empty_contexts, self.repeated = [], []

    def lines(self, verbose=False):
        """A sentence for each kind that there is; with verbose all ids, else the first."""
        for ids, what in (
            (self.realigned, "answers stand elsewhere than answer_start says; found by their text"),
            (self.unaligned, "answers cannot be found in their context; not learnt"),
            (self.several_answers, "questions have several answers; the first one is learnt"),
            (self.empty_contexts, "questions have a context without any word"),
            (self.repeated, "questions have an id that was there before"),
        ):
            if ids:
                listed = ", ".join(ids) if verbose else f"the first: {ids[0]}"
                yield f"{len(ids)} {what} ({listed})"


def read_squad_examples(input_file, is_training, version_2_with_negative=False):
    """Reads a file.

    Args:
      input_file: str, a JSON file.
      is_training: bool; each question then needs an answer that stands in its context.
      version_2_with_negative: bool, questions without an answer are impossible ones; without it
        they are an error in training.

    Returns:
      (list of SquadExample, Findings).

    Raises:
      UserError: the file is not such a JSON; names the question. In prediction also an id that
        occurs twice, as an answer is filed under it.
    """
    findings = Findings()
    reader = _Reader(input_file, is_training, version_2_with_negative, findings)
    examples = [example for example in reader.examples(_loaded(input_file)) if example is not None]
    if not examples:
        raise UserError(f"{input_file}: holds no usable question; check the file")
    return examples, findings


def are_scored(examples):
    """Whether a file of questions says what is right: an answer, or that there is none."""
    return any(example.answers or example.is_impossible for example in examples)


def _loaded(path):
    tables.require_file(path, "--train_file and --predict_file")
    try:
        with open(path, encoding="utf-8-sig") as reader:
            return json.load(reader)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 ({error.reason}); convert it") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: is not JSON ({error.msg}); correct or restore it"
        ) from error
    except ValueError as error:  # A number of thousands of digits.
        raise UserError(f"{path}: is not JSON ({error}); correct or restore it") from error
    except RecursionError as error:
        raise UserError(f"{path}: is nested too deeply for SQuAD's layout; restore it") from error


class _Reader:
    def __init__(self, path, is_training, version_2, findings):
        self._path, self._training, self._version_2 = path, is_training, version_2
        self._findings = findings
        self._seen = set()

    def examples(self, whole):
        """Yields SquadExample, or None for a question that is not learnt."""
        for context, questions in self._paragraphs(whole):
            document = Document(context)
            for number, qa in enumerate(questions):
                yield self._example(document, qa, number)

    def _paragraphs(self, whole):
        """(context, list of questions in SQuAD's layout) of each paragraph."""
        if isinstance(whole, list):
            for number, entry in enumerate(whole):
                where = f"entry {number}"
                questions = self._get(entry, "qas", list, where)
                context = self._get(entry, "context_text", str, where)
                yield context, [self._from_cmrc(qa, where) for qa in questions]
            return
        data = self._get(whole, "data", list, "the file")
        for number, entry in enumerate(data):
            for place, paragraph in enumerate(
                self._get(entry, "paragraphs", list, f"data {number}")
            ):
                where = f"data {number}, paragraph {place}"
                yield (
                    self._get(paragraph, "context", str, where),
                    self._get(paragraph, "qas", list, where),
                )

    def _from_cmrc(self, qa, where):
        where = f"{where}, a question"
        qas_id = self._get(qa, "query_id", str, where)
        return {
            "id": qas_id,
            "question": self._get(qa, "query_text", str, where),
            # It does not say where an answer stands.
            "answers": [
                {"text": text, "answer_start": None}
                for text in self._answers(qa, f"question {qas_id}")
            ],
        }

    def _answers(self, qa, where):
        """The list of answers, empty where there is none or null."""
        given = qa.get("answers")
        if given is not None and not isinstance(given, list):
            raise self._error(where, "answers", "a list", given)
        return given or []

    def _example(self, document, qa, number):
        where = f"question {number} of {shown(document.text)}"
        qas_id = self._get(qa, "id", str, where)
        where = f"question {qas_id}"
        question = self._get(qa, "question", str, where)
        if qas_id in self._seen:
            if not self._training:
                raise UserError(
                    f"{self._path}: the id {qas_id} occurs twice, and answers are filed under it; "
                    "make the ids unique"
                )
            self._findings.repeated.append(qas_id)
        self._seen.add(qas_id)
        if not document.words:
            self._findings.empty_contexts.append(qas_id)
        answers = []
        for answer in self._answers(qa, where):
            text = self._get(answer, "text", str, where)
            answers.append((text, self._start(answer, where)))
        impossible = qa.get("is_impossible", False)
        if not isinstance(impossible, bool):
            raise self._error(where, "is_impossible", "true or false", impossible)
        texts = [text for text, _ in answers]
        if not self._training:
            # An empty list alone may also mean that nobody says what is right.
            impossible = impossible and not texts
            return SquadExample(qas_id, question, document, texts, is_impossible=impossible)
        if self._version_2 and (impossible or not answers):
            return SquadExample(qas_id, question, document, is_impossible=True)
        if not answers:
            raise UserError(
                f"{self._path}: {where}: has no answer to learn; give "
                "--version_2_with_negative=true for data with impossible questions"
            )
        if len(answers) > 1:
            self._findings.several_answers.append(qas_id)
        text, start = answers[0]
        found = _aligned(document, text, start)
        if found is None:
            self._findings.unaligned.append(qas_id)
            return None
        if start is not None and found != start:
            self._findings.realigned.append(qas_id)
        return SquadExample(qas_id, question, document, texts, text, found)

    def _start(self, answer, where):
        start = answer.get("answer_start")
        if start is None and "answer_start" in answer:
            return None
        if self._training and (not isinstance(start, int) or isinstance(start, bool)):
            raise self._error(where, "answer_start", "a number", start)
        return start

    def _get(self, holder, key, kind, where):
        kinds = {str: "a text", list: "a list"}
        value = holder.get(key) if isinstance(holder, dict) else None
        if not isinstance(value, kind):
            if isinstance(holder, dict) and key not in holder:
                there = ", ".join(map(str, holder)) or "nothing"
                raise UserError(
                    f"{self._path}: {where}: lacks {key!r} (there is {shown(there)}); expected "
                    "SQuAD's layout"
                )
            raise self._error(
                where, key, kinds[kind], value if isinstance(holder, dict) else holder
            )
        return value

    def _error(self, where, key, expected, found):
        return UserError(
            f"{self._path}: {where}: {key} is {shown(repr(found))}, expected {expected}; correct "
            "the file"
        )


def _aligned(document, text, start):
    """Where an answer begins in its context: at `start` if it stands there, else the place nearest
    to it, else `start` itself where the original would take it; None: nowhere.
    """
    context = document.text
    if not text.strip():
        return None
    if start is not None and start >= 0 and context.startswith(text, start):
        return start
    places = [match.start() for match in re.finditer(f"(?={re.escape(text)})", context)]
    if places:
        return min(places, key=lambda place: abs(place - (start or 0)))
    if start is None or not 0 <= start <= len(context) - len(text):
        return None
    # White space may differ: the original looks at words.
    first, last = document.word_at(start), document.word_at(start + len(text) - 1)
    words = " ".join(document.words[first : last + 1])
    return start if " ".join(text.split()) in words else None
