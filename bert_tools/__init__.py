"""bert_tools: the BERT command line, on today's TensorFlow."""

__version__ = "0.1.0"
