"""Windows and answers of the families whose pieces hold the blank before them."""

import numpy as np
import pytest
import tokenizers
from squad_toys import example
from tokenizers import models, pre_tokenizers, processors, trainers

from bert_tools import tokenization_subword
from bert_tools.errors import UserError
from bert_tools.squad.decode import decode
from bert_tools.squad.examples import read_squad_examples
from bert_tools.squad.windows import convert_examples_to_features
from bert_tools.tokenization_subword import SubwordTokenizer

TEXTS = ["the cats sat on the mat", "a cafe in naïve 猫 style", "(1895-1943) the mats"]


def library(kind):
    """RoBERTa's or XLM-R's kind of tokenizer, trained on a few words."""
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if kind == "bytes":
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=specials,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        after = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    else:
        tokenizer = tokenizers.Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=90, special_tokens=specials, unk_token="<unk>", show_progress=False
        )
        after = processors.TemplateProcessing(
            single="<s> $A </s>",
            pair="<s> $A </s> </s> $B </s>",
            special_tokens=[("<s>", 0), ("</s>", 2)],
        )
    tokenizer.train_from_iterator(TEXTS * 20, trainer)
    tokenizer.post_processor = after
    return tokenizer


@pytest.fixture(scope="module", params=["bytes", "unigram"])
def both(request):
    """(the library's tokenizer, ours of it)."""
    theirs = library(request.param)
    return theirs, SubwordTokenizer(theirs.to_str(), "")


def test_one_window_is_the_librarys_pair(both):
    theirs, ours = both
    pairs = [("who sat?", "the cats  sat\non the mat"), ("naïve", "猫 style"), ("a", "é")]
    windows = convert_examples_to_features(
        [example(context, question) for question, context in pairs], ours, 64, 16, 20, False
    )
    for number, pair in enumerate(pairs):
        row = windows.features.part(number, number + 1)
        assert row.input_ids.tolist() == theirs.encode(*pair).ids
    assert not windows.features.segment_ids.any()


def test_answers_are_learnt_and_cut_where_they_stand(both):
    """The pieces of each answer, put back into text by the decoder, cover it, and no other word."""
    _, ours = both
    for context in (*TEXTS, "  the mats,\tthe  cats \n(1895-1943). naïve"):
        for word in context.split():
            start = context.index(word)
            windows = convert_examples_to_features(
                [example(context, "a", word, start)], ours, 64, 16, 20, True
            )
            columns = windows.features.columns
            scores = np.zeros((2, 1, 64))
            scores[0, 0, columns["start_positions"][0]] = 9
            scores[1, 0, columns["end_positions"][0]] = 9
            (answer,) = decode(windows, *scores)
            assert (answer.best.text, answer.best.begin) == (word, start)


def test_windows_overlap(both):
    """Each piece is seen, windows begin doc_stride pieces apart, and room is left for <s> </s></s>
    </s>.
    """
    _, ours = both
    context = " ".join(TEXTS * 3)
    windows = convert_examples_to_features([example(context, "a")], ours, 16, 5, 4, False)
    pieces = windows.pieces[windows.examples[0].document]
    question = len(ours.encode("a"))
    assert windows.features.lengths.max() == 16 and len(windows) > 3
    assert windows.starts.tolist() == [5 * n for n in range(len(windows))]
    for window in range(len(windows)):
        ids = windows.features.part(window, window + 1).input_ids
        begin = windows.starts[window]
        assert windows.offsets[window] == question + 3
        np.testing.assert_array_equal(
            ids[question + 3 : -1], pieces.ids[begin : begin + windows.sizes[window]]
        )
    assert windows.starts[-1] + windows.sizes[-1] == len(pieces.ids)


def test_two_separators_need_their_room(both):
    _, ours = both
    with pytest.raises(UserError, match=r"must be greater than --max_query_length \(4\) \+ 4"):
        convert_examples_to_features([example("a", "a")], ours, 8, 2, 4, False)


def test_every_answer_of_squad_with_the_real_vocabulary(shared):
    """RoBERTa's own pieces over the whole training subset: an answer comes back as it stands, or,
    where a piece goes over its end ("50" of "500"), within the text that does.
    """
    path = shared / "data" / "squad" / "train-v1.1-subset.json"
    folder = shared / "vocab" / "roberta-base"
    tokenizer = tokenization_subword.read_byte_level_bpe(
        str(folder / "vocab.json"), str(folder / "merges.txt")
    )
    examples, _ = read_squad_examples(str(path), True)
    windows = convert_examples_to_features(examples, tokenizer, 512, 128, 64, True)
    exact = 0
    for number, question in enumerate(examples):
        pieces = windows.pieces[question.document]
        first, last = pieces.answer(question)
        text = question.document.text[pieces.span(first)[0] : pieces.span(last)[1]]
        assert question.answer_text.strip() in text
        exact += text == question.answer_text
        of = windows.of_example(number)
        assert windows.features.columns["end_positions"][of].any()
    assert (len(examples), exact) == (3807, 3759)
