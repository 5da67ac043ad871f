"""Sentences in CoNLL's columns: a word a line, its tag in another column, a blank line behind each
sentence (Tjong Kim Sang and De Meulder 2003, https://aclanthology.org/W03-0419).

Chinese files have a character a line. Columns are parted by tabs, or else by blanks.
"""

import collections
import re
import typing

from bert_tools.errors import UserError
from bert_tools.inputs import tables
from bert_tools.inputs.tables import listed, shown

_BLANKS = re.compile("[ \t]+")
_TAG = re.compile(r"O|([BIES])-(.+)")
_DOCUMENT = "-DOCSTART-"


class Sentence(typing.NamedTuple):
    """A sentence as it stands in its file.

    Attributes:
      number: int, the number of its first line, from 1.
      gap: int, blank lines before it; the one that ends a sentence before is not among them.
      lines: list of str, as they stand there; none where only blank lines are left.
      words: list of str; none of a -DOCSTART- line, which has no words.
      tags: list of str, or None where they are not read.
      ended: bool, a blank line ends it.
    """

    number: int
    gap: int
    lines: list
    words: list
    tags: list | None
    ended: bool = False

    def tagged(self, tags):
        """Its lines with a column of `tags` added, the blank lines before, and the one that ends
        it, as one str.
        """
        tags = tags if self.words else ["O"] * len(self.lines)
        rows = (
            f"{line}{'' if line.endswith(separator) else separator}{tag}\n"
            for line, separator, tag in zip(
                self.lines, map(_separator, self.lines), tags, strict=True
            )
        )
        return "\n" * self.gap + "".join(rows) + "\n" * self.ended


def read_sentences(lines, word_column=0, tag_column=None):
    """Yields Sentence, or the UserError of a sentence that has a bad line.

    Args:
      lines: tables.Lines.
      word_column: int, counted from 0, or from the end where negative.
      tag_column: likewise, or None: no tags are read.
    """
    columns = None
    for number, gap, rows, ended in _blocks(lines):
        first_error, cells = None, []
        for place, line in rows:
            if isinstance(line, UserError):
                first_error = first_error or line
                continue
            found = _cells(line)
            if found[0] != _DOCUMENT:
                columns = columns or (len(found), place)
            if first_error is None:
                first_error = _error(lines.name, place, found, columns, word_column, tag_column)
            cells.append(found)
        if first_error is not None:
            yield first_error
            continue
        text = [line for _, line in rows]
        if not rows or cells[0][0] == _DOCUMENT:
            yield Sentence(number, gap, text, [], None if tag_column is None else [], ended)
            continue
        words = [found[word_column] for found in cells]
        tags = None if tag_column is None else [found[tag_column] for found in cells]
        yield Sentence(number, gap, text, words, tags, ended)


def load_sentences(path, word_column, tag_column, on_bad_line="error", flag="--data_dir"):
    """All sentences of a file that have words, with their tags, as a list.

    Args:
      path, flag: see tables.opened.
      word_column, tag_column: see `read_sentences`.
      on_bad_line: "error", or "skip": sentences with a bad line are left out, and counted.

    Returns:
      (list of Sentence, list of UserError: those that were left out).

    Raises:
      UserError: a bad line (unless skipped), no such file, or no sentence in it.
    """
    sentences, bad = [], []
    with tables.opened(path, flag) as lines:
        for sentence in read_sentences(lines, word_column, tag_column):
            if not isinstance(sentence, UserError):
                if sentence.words:
                    sentences.append(sentence)
            elif on_bad_line == "skip":
                bad.append(sentence)
            else:
                raise sentence
    if not sentences:
        what = "holds no usable sentence" if bad else "the file is empty"
        raise UserError(f"{path}: {what}; expected a word and its tag a line")
    return sentences, bad


def is_tag(text):
    """Whether this is O, or B-, I-, E- or S- and a type."""
    return _TAG.fullmatch(text) is not None


def entities(tags):
    """The entities that a sentence's tags stand for: a list of (type, begin, end), words begin to
    end - 1.

    Tags that no scheme allows are read as conlleval reads them: an I- or E- that continues nothing
    of its type begins an entity.
    """
    found, kind, begin = [], None, 0
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, this = tag.partition("-")
        if kind is not None and (prefix in "OBS" or this != kind):
            found.append((kind, begin, place))
            kind = None
        if prefix != "O":
            if kind is None:
                kind, begin = this, place
            if prefix in "ES":
                found.append((kind, begin, place + 1))
                kind = None
    return found


def tags_of(found, count, scheme):
    """The tags of `count` words whose entities are `found`, see `entities`.

    Args:
      scheme: "BIO", or "BIOES": with E- for an entity's last word, and S- for its only one.
    """
    tags = ["O"] * count
    for kind, begin, end in found:
        for place in range(begin, end):
            tags[place] = f"{'B' if place == begin else 'I'}-{kind}"
        if scheme == "BIOES":
            tags[end - 1] = f"{'S' if end - begin == 1 else 'E'}-{kind}"
    return tags


def scheme_of(tags):
    """ "BIOES" where any of `tags` begins with E- or S-, else "BIO"."""
    return "BIOES" if any(tag[0] in "ES" for tag in tags) else "BIO"


def labels_of(sentences):
    """The tags to tell apart: O, then those of each type in the scheme that the sentences use.

    Returns:
      list of str.
    """
    seen = {tag for sentence in sentences for tag in sentence.tags}
    prefixes = "BIES" if scheme_of(seen) == "BIOES" else "BI"
    kinds = sorted({tag.partition("-")[2] for tag in seen} - {""})
    return ["O", *(f"{prefix}-{kind}" for kind in kinds for prefix in prefixes)]


def repaired(sentences, labels, path, bad=None):
    """The sentences with tags that the labels' scheme allows, and how many tags that changed.

    Labels with a type that has I- and no B- are CoNLL 2003's first scheme: I- begins an entity, B-
    one that follows another of its type; without B- the two are one, and its tag counts as changed.

    Args:
      sentences: list of Sentence with tags.
      labels: list of str, of `labels_of`, or those of a model.
      path: str, what errors name.
      bad: list, or None: gets the UserError of a sentence with a tag that is none of the labels,
        which is left out.

    Returns:
      (list of Sentence, collections.Counter {(tag, what it became): how often}).

    Raises:
      UserError: a tag is none of the labels, whatever the scheme, and `bad` is None; names its
        line.
    """
    scheme, known = scheme_of(labels), set(labels)
    begins_with_i = scheme == "BIO" and any(
        tag[0] == "I" and f"B{tag[1:]}" not in known for tag in labels
    )
    result, changed = [], collections.Counter()
    for sentence in sentences:
        found = entities(sentence.tags)
        tags = tags_of(found, len(sentence.tags), scheme)
        if begins_with_i:
            tags, merged = _begun_with_i(found, tags, known)
        pairs = list(zip(sentence.tags, tags, strict=True))
        if not known.issuperset(tags):
            error = _unknown(sentence, pairs, labels, path)
            if bad is None:
                raise error
            bad.append(error)
            continue
        if begins_with_i:
            changed.update(pairs[place] for place in merged)
        else:
            changed.update(pair for pair in pairs if pair[0] != pair[1])
        result.append(sentence._replace(tags=tags))
    return result, changed


def _unknown(sentence, pairs, labels, path):
    """The UserError of a sentence's first tag that is none of the labels.

    pairs: list of (tag, what it is in the labels' scheme).
    """
    place = next(place for place, (_, fits) in enumerate(pairs) if fits not in labels)
    tag, fits = pairs[place]
    # A type that the model does not have at all needs no word of schemes.
    known_kind = tag.partition("-")[2] in {label.partition("-")[2] for label in labels}
    scheme_tag = f" ({fits} in the model's scheme)" if known_kind and tag != fits else ""
    return UserError(
        f"{path}:{sentence.number + place}: the tag {shown(tag)}{scheme_tag} is none of the "
        f"model's: {listed(labels)}"
    )


def _begun_with_i(found, tags, known):
    """(BIO tags in CoNLL 2003's first scheme, places where entities are no longer apart, as no B-
    is known).
    """
    tags, merged, ends = list(tags), [], {}
    for kind, begin, end in found:
        follows = ends.get(begin) == kind
        if f"I-{kind}" in known and not (follows and f"B-{kind}" in known):
            tags[begin] = f"I-{kind}"
            merged += [begin] * follows
        ends[end] = kind
    return tags, merged


def _blocks(lines):
    """(number of the first line, blank lines before, [(number, line)], whether a blank line ends
    it) of each sentence, and of each -DOCSTART- line; a line that cannot be read is a UserError in
    place of the str.
    """
    gap, rows, alone = 0, [], False
    for number, line in lines:
        readable = not isinstance(line, UserError)
        blank = readable and not line.strip(" \t")
        marks = readable and not blank and _cells(line)[0] == _DOCUMENT
        if rows and (blank or marks or alone):
            yield rows[0][0], gap, rows, blank
            gap, rows = 0, []
        elif blank:
            gap += 1
        if not blank:
            rows.append((number, line))
            alone = marks
    if rows or gap:
        yield rows[0][0] if rows else 0, gap, rows, False


def _separator(line):
    return "\t" if "\t" in line else " "


def _cells(line):
    return line.split("\t") if "\t" in line else _BLANKS.split(line.strip(" "))


def _error(name, number, cells, columns, word_column, tag_column):
    """The UserError of a line, or None."""
    where = f"{name}:{number}"
    if cells[0] == _DOCUMENT:
        return None
    if len(cells) != columns[0]:
        return UserError(
            f"{where}: has {len(cells)} columns, line {columns[1]} has {columns[0]}; correct it"
        )
    for what, column in (("word", word_column), ("tag", tag_column)):
        if column is None:
            continue
        if not -len(cells) <= column < len(cells):
            return UserError(
                f"{where}: has {len(cells)} columns, none for --{what}_column={column} (counted "
                "from 0); correct the line or the flag"
            )
        if not cells[column]:
            return UserError(f"{where}: has no {what}; correct the line")
    if tag_column is not None:
        if tag_column % len(cells) == word_column % len(cells):
            return UserError(
                f"{where}: has {len(cells)} columns, and word and tag would be the same one; "
                "correct the line, or --word_column and --tag_column"
            )
        if not is_tag(cells[tag_column]):
            return UserError(
                f"{where}: the tag {shown(cells[tag_column])} is neither O nor B-, I-, E- or S- "
                "and a type; convert the file to BIO or BIOES"
            )
    return None
