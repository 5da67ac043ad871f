"""Extractive question answering: data in SQuAD's layout, windows, answers, the official scores."""
