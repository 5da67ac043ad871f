"""Sentence vectors: an encoder's tokens pooled to one vector a text."""
