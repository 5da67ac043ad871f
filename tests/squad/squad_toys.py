"""Small files in SQuAD's layout."""

import json

from bert_tools.squad.examples import Document, SquadExample


def question(qas_id, text="a b?", answers=(), **more):
    """A question; answers: pairs (text, answer_start)."""
    answers = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": qas_id, "question": text, "answers": answers, **more}


def squad(*paragraphs):
    """The whole of a file; paragraphs: pairs (context, list of questions)."""
    made = [{"context": context, "qas": qas} for context, qas in paragraphs]
    return {"version": "1.1", "data": [{"title": "toys", "paragraphs": made}]}


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return str(path)


def example(context, text="a", answer="", start=-1, qas_id="q", **more):
    return SquadExample(
        qas_id, text, Document(context), answer_text=answer, answer_start=start, **more
    )
