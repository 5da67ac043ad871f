"""Extractive question answering: data in SQuAD's layout, windows, answers, the official scores."""

from bert_tools.squad.answering import QuestionAnswerer, answer_question

__all__ = ["QuestionAnswerer", "answer_question"]
