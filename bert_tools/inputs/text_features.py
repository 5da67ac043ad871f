"""Features of examples whose texts go through the encoder each by itself: a row a text."""

import numpy as np

from bert_tools.inputs.features import convert_texts, label_columns

# The column that says which example a row's text is of; an example's rows follow each other.
OWNERS = "example_of_text"
# The column that has the same number in rows of the same text.
TEXT_NUMBERS = "text_number"


def convert_examples_to_features(
    examples, label_list, max_seq_length, tokenizer, long_text="truncate", copies=1
):
    """Convert a set of `InputExample`s to `Features` with a row for each of their texts.

    Args:
      examples: list of InputExample, each with as many texts: text_a, text_b unless None, further.
      label_list: see features.convert_examples_to_features; without a label in the first example
        there are no such columns; labels that are float become values, whatever classes there
        are. Each of an example's rows has its label.
      max_seq_length, tokenizer, long_text: see features.convert_texts; of a text that is cut into
        windows there is a row for each.
      copies: int, so many rows for each text, for objectives that compare a text with itself.

    Returns:
      Features, with the columns OWNERS and TEXT_NUMBERS int64 [rows].

    Raises:
      UserError: a label is not in label_list.
    """
    texts = [text for example in examples for text in texts_of(example) for _ in range(copies)]
    features = convert_texts(texts, None, max_seq_length, tokenizer, long_text)
    counts = [copies * len(texts_of(example)) for example in examples]
    owners = np.repeat(np.arange(len(examples)), counts)
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    numbers = np.array([numbers[text] for text in texts], np.int64)
    rows = features.columns.get("example_index", slice(None))
    owners = owners[rows]
    features.columns |= {OWNERS: owners, TEXT_NUMBERS: numbers[rows]}
    if examples and examples[0].label is not None:
        if isinstance(examples[0].label, float):
            label_list = None
        for name, values in label_columns(examples, label_list).items():
            features.columns[name] = values[owners]
    return features


def texts_of(example):
    """The texts of an InputExample, as a list."""
    pair = [example.text_a] if example.text_b is None else [example.text_a, example.text_b]
    return [*pair, *example.further]
