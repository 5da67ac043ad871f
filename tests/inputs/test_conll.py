"""CoNLL's columns: reading, dirt, schemes; pinned entities are seqeval 1.2.2's."""

import io
import itertools

import pytest

from bert_tools.errors import UserError
from bert_tools.inputs import conll, tables


def read(text, *columns):
    text = text if isinstance(text, bytes) else text.encode()
    return list(conll.read_sentences(tables.Lines(io.BytesIO(text), "f.txt"), *columns))


def test_columns():
    text = "-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\n\nPeter NNP B-PER\n"
    document, first, second = read(text, 0, -1)
    assert (document.words, document.lines) == ([], ["-DOCSTART- -X- O"])
    lines, words = ["EU NNP B-ORG", "rejects VBZ O"], ["EU", "rejects"]
    assert first == (3, 0, lines, words, ["B-ORG", "O"], True)
    assert (second.number, second.gap, second.words, second.ended) == (7, 1, ["Peter"], False)
    assert read(text, 1)[1].words == ["NNP", "VBZ"]


@pytest.mark.parametrize(
    "text, words",
    [
        ("中\tB-ORG\n共\tI-ORG\n", ["中", "共"]),
        ("\ufeffa O\r\nb\tO\r\n\r\n", ["a", "b"]),
        ("a  O \nb\tO", ["a", "b"]),
        ("\u3000 O\n\x85 O\n", ["\u3000", "\x85"]),  # White space, but words all the same.
    ],
)
def test_readable_dirt(text, words):
    first, *rest = read(text, 0, 1)
    assert first.words == words and len(first.tags) == len(words)
    assert not any(sentence.words for sentence in rest)


@pytest.mark.parametrize(
    "text",
    [
        "a\nb\n\n\n\nc\n",
        "\n\na O\n",
        "-DOCSTART-\n\na\n\n-DOCSTART-\n\nb",
        "a\tx\n\nb\tx\n\n\n",
        "a\n-DOCSTART-\nb\nc\n-DOCSTART-\n-DOCSTART-\n\nd\n",
        "a x\n-DOCSTART- -X-\n\n\nb x\n\n-DOCSTART- x\n",
        "a\tx\n-DOCSTART-\t-X-\nb\tx\n",
    ],
)
def test_layout_is_kept(text):
    """But for the tags: a column more, and a line end at the end."""
    found = "".join(s.tagged(["B-X"] * len(s.words)) for s in read(text))
    lines = []
    for line in text.rstrip("\n").split("\n") if text[-1] != "\n" else text[:-1].split("\n"):
        separator = "\t" if "\t" in line else " "
        tag = "O" if line.startswith("-DOC") else "B-X"
        lines.append(f"{line}{separator}{tag}" if line else "")
    assert found == "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "marker", ["-DOCSTART-", "-DOCSTART- -X- O", "-DOCSTART-\t-X-\tO\tO", " -DOCSTART- O"]
)
def test_a_document_ends_the_sentence_before_it(marker):
    first, document, second = read(f"a O\nb B-X\n{marker}\nc O\n", 0, 1)
    assert (first.words, first.tags) == (["a", "b"], ["O", "B-X"])
    assert (document.words, document.lines, document.tags) == ([], [marker], [])
    assert (second.number, second.words, second.tags) == (4, ["c"], ["O"])


def test_a_word_like_the_mark_of_a_document():
    (sentence,) = read("a O\n-DOCSTART-bar B-X\nb -DOCSTART-\n", 0)
    assert sentence.words == ["a", "-DOCSTART-bar", "b"]


def test_a_sentence_comes_with_the_blank_line_that_ends_it():
    texts = [s.tagged(["O"] * len(s.words)) for s in read("-DOCSTART-\n\na\n\n\nb\n")]
    assert texts == ["-DOCSTART- O\n\n", "a O\n\n", "\nb O\n"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("a N O\nb O\n", "f.txt:2: has 2 columns, line 1 has 3; correct it"),
        ("a\n", "f.txt:1: has 1 columns, and word and tag would be the same one"),
        ("a N B\n", "f.txt:1: the tag 'B' is neither O nor B-, I-, E- or S- and a type"),
        ("a O\nb B-\n", "f.txt:2: the tag 'B-' is neither"),
        ("a O\nb X-PER\n", "f.txt:2: the tag 'X-PER' is neither"),
        ("a\tO\n\tO\n", "f.txt:2: has no word; correct the line"),
        (b"a O\nb\xe9 O\n", "f.txt:2: not UTF-8 at byte 1 of the line"),
    ],
)
def test_bad_line(text, message):
    (error,) = (s for s in read(text, 0, -1) if isinstance(s, UserError))
    assert str(error).startswith(message)


def test_missing_column():
    (error,) = read("a O\n", 0, 3)
    assert "f.txt:1: has 2 columns, none for --tag_column=3 (counted from 0)" in str(error)


def test_bad_sentences_are_left_out_when_asked(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("a O\nb\n\nc B-X\n\nd Q\n")
    with pytest.raises(UserError, match=r"train\.txt:2: has 1 columns, line 1 has 2"):
        conll.load_sentences(str(path), 0, -1)
    sentences, bad = conll.load_sentences(str(path), 0, -1, "skip")
    assert [s.words for s in sentences] == [["c"]] and len(bad) == 2
    path.write_text("\n-DOCSTART- O\n\n")
    with pytest.raises(UserError, match=r"train\.txt: the file is empty; expected a word and"):
        conll.load_sentences(str(path), 0, -1)
    path.write_text("d Q\n")
    with pytest.raises(UserError, match="holds no usable sentence"):
        conll.load_sentences(str(path), 0, -1, "skip")


@pytest.mark.parametrize(
    "tags, expected",
    [
        ("B-X I-X O B-X", [("X", 0, 2), ("X", 3, 4)]),
        ("B-X B-X I-Y", [("X", 0, 1), ("X", 1, 2), ("Y", 2, 3)]),
        ("I-X I-X O I-Y", [("X", 0, 2), ("Y", 3, 4)]),
        ("S-X E-X B-X E-X I-X", [("X", 0, 1), ("X", 1, 2), ("X", 2, 4), ("X", 4, 5)]),
        ("B-X E-Y I-Y O", [("X", 0, 1), ("Y", 1, 2), ("Y", 2, 3)]),
        ("O O", []),
    ],
)
def test_entities(tags, expected):
    assert conll.entities(tags.split()) == expected


@pytest.mark.parametrize("scheme", ["BIO", "BIOES"])
def test_tags_and_entities_are_inverse(scheme):
    """For whatever stands in the file."""
    tags = ["O", "B-X", "I-X", "E-X", "S-X", "I-Y"]
    for sentence in itertools.product(tags, repeat=4):
        found = conll.entities(sentence)
        made = conll.tags_of(found, 4, scheme)
        assert conll.entities(made) == found
        assert conll.scheme_of(made) in (scheme, "BIO")


def test_repairs_are_counted():
    """An I- without B-, and a sentence in the other scheme."""
    sentences = read("a I-X\nb I-X\n\nc B-Y\nd O\n\ne B-X\nf E-X\n", 0, -1)
    labels = ["O", "B-X", "I-X", "B-Y", "I-Y"]
    fixed, changed = conll.repaired(sentences, labels, "f.txt")
    assert [s.tags for s in fixed] == [["B-X", "I-X"], ["B-Y", "O"], ["B-X", "I-X"]]
    assert changed == {("I-X", "B-X"): 1, ("E-X", "I-X"): 1}
    with pytest.raises(UserError, match=r"f\.txt:4: the tag 'B-Y' is none of the model's: O, B-X"):
        conll.repaired(sentences, labels[:3], "f.txt")


@pytest.mark.parametrize(
    "labels, tags, expected, merged",
    [
        # No B- at all: a tag begins where it stands beside no other of its type.
        ("O I-X I-Y", "B-X I-X O B-X B-Y", "I-X I-X O I-X I-Y", 0),
        ("O I-X I-Y", "I-X I-X O I-X I-Y", "I-X I-X O I-X I-Y", 0),
        ("O I-X", "S-X O B-X E-X", "I-X O I-X I-X", 0),
        ("O I-X", "B-X B-X", "I-X I-X", 1),
        # B- is for a neighbour of its own type, as CoNLL 2003 had it first.
        ("O I-X B-X I-Y", "B-X B-X I-X B-Y", "I-X B-X I-X I-Y", 0),
        ("O I-X B-X I-Y", "I-X B-X B-Y I-Y", "I-X B-X I-Y I-Y", 0),
        ("O I-X B-X I-Y", "B-Y B-Y B-Y O", "I-Y I-Y I-Y O", 2),
        ("O B-X I-Y", "B-X B-Y I-Y", "B-X I-Y I-Y", 0),
    ],
)
def test_models_that_begin_with_i(labels, tags, expected, merged):
    """Some of whose types have no B-; entities that they cannot part are counted."""
    text = "".join(f"a {tag}\n" for tag in tags.split())
    fixed, changed = conll.repaired(read(text, 0, -1), labels.split(), "f.txt")
    assert fixed[0].tags == expected.split()
    assert changed.total() == merged
    if not merged:
        assert conll.entities(fixed[0].tags) == conll.entities(tags.split())


def test_sentences_with_unknown_tags_are_left_out_when_asked():
    sentences = read("a B-X\n\nb B-Z\n\nc O\n", 0, -1)
    bad = []
    fixed, _ = conll.repaired(sentences, ["O", "B-X", "I-X"], "f.txt", bad)
    assert [s.words for s in fixed] == [["a"], ["c"]]
    assert [str(error)[:30] for error in bad] == ["f.txt:3: the tag 'B-Z' is none"]


def test_unknown_tag_of_another_scheme():
    with pytest.raises(
        UserError, match=r"f\.txt:1: the tag 'B-X' \(S-X in the model's scheme\) is none of"
    ):
        conll.repaired(read("a B-X\n", 0, -1), ["O", "B-X", "I-X", "E-X"], "f.txt")
    with pytest.raises(UserError, match=r"f\.txt:1: the tag 'B-Z' is none of the model's: O, I-X"):
        conll.repaired(read("a B-Z\n", 0, -1), ["O", "I-X"], "f.txt")


def test_labels():
    assert conll.labels_of(read("a I-Y\nb B-X\n", 0, -1)) == ["O", "B-X", "I-X", "B-Y", "I-Y"]
    assert conll.labels_of(read("a S-X\n", 0, -1)) == ["O", "B-X", "I-X", "E-X", "S-X"]


def test_real_files(shared):
    """The whole of CoNLL 2003's training and validation data."""
    for name, sentences, words, found in (
        ("train", 14041, 203621, 23499),
        ("valid", 3250, 51362, 5942),
    ):
        path = str(shared / "data" / "conll" / f"{name}.txt")
        read_sentences, bad = conll.load_sentences(path, 0, -1)
        assert (len(read_sentences), bad) == (sentences, [])
        assert sum(len(s.words) for s in read_sentences) == words
        assert sum(len(conll.entities(s.tags)) for s in read_sentences) == found
        assert not conll.repaired(read_sentences, conll.labels_of(read_sentences), path)[1]
