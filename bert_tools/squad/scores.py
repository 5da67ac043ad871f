"""The official scores of SQuAD v1.1 and v2.0 (evaluate-v2.0.py gives both) and of CMRC 2018
(cmrc2018_evaluate.py), written anew.
"""

import collections
import re
import string

import numpy as np

_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CHINESE = re.compile("[\u4e00-\u9fa5]")
# What CMRC's script leaves out. It lists the ellipsis as two characters, which no character equals.
_CMRC_DROP = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
# The marks that the Penn Treebank's rules set apart, as nltk has them; those that CMRC's script
# leaves out before need no rule.
_TREEBANK_MARK = re.compile(
    r"\.{2,}|''|[;@#$%&?!()\[\]{}<>\"“”‘’«»\u2012-\u2015]|,(?!\d)"
    r"|(?<![\w'])'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)"
    r"|(?<=[^' ])(?:'(?:s|m|d|ll|re|ve)?|n't)(?![\w'])"
    r"|(?<!\.)\.(?=[\])}>\"'»” ]*\s*$)"
)
_OPENING_QUOTE = re.compile(r"(?<=[ (\[{<])\"")


def squad_scores(references, predictions, null_odds=None):
    """Scores of SQuAD.

    Args:
      references: dict {question's id: list of str}; no answer means that there is none.
      predictions: dict {question's id: str}, "" for no answer. What is missing scores 0.
      null_odds: dict {question's id: float} of v2.0, or None.

    Returns:
      dict, in percent: exact_match, f1, total; where there are questions with and without an
      answer HasAns_exact, HasAns_f1, HasAns_total and NoAns_...; with null_odds best_exact and
      best_f1, what the predictions score where those with odds above best_exact_thresh,
      best_f1_thresh become "".
    """
    scores = question_scores(references, predictions)
    result = {
        "exact_match": _percent(scores["exact"], references),
        "f1": _percent(scores["f1"], references),
        "total": len(references),
    }
    answered = [qid for qid, texts in references.items() if texts]
    impossible = [qid for qid, texts in references.items() if not texts]
    if answered and impossible:
        for name, ids in (("HasAns", answered), ("NoAns", impossible)):
            result[f"{name}_exact"] = _percent(scores["exact"], ids)
            result[f"{name}_f1"] = _percent(scores["f1"], ids)
            result[f"{name}_total"] = len(ids)
    if null_odds is not None:
        for name, of in scores.items():
            best, threshold = _best_threshold(references, predictions, of, null_odds)
            result[f"best_{name}"] = 100.0 * best / len(references)
            result[f"best_{name}_thresh"] = threshold
    return result


def question_scores(references, predictions):
    """{"exact" and "f1": {question's id: 0 to 1}}; see squad_scores for the arguments."""
    answers = _normal_answers(references)
    return {
        name: {qid: _best(function, texts, predictions.get(qid)) for qid, texts in answers.items()}
        for name, function in (("exact", _exact), ("f1", _f1))
    }


def precision_recall(references, scores, null_odds):
    """The official precision-recall curve: answers are taken in by ascending null odds.

    Args:
      references: as squad_scores has them; at least one question has an answer.
      scores: dict {question's id: float}, of `question_scores`.
      null_odds: dict {question's id: float}.

    Returns:
      (recall, precision, float: the area under the steps); two float64 arrays, from (0, 1) on.
    """
    ids = sorted(references, key=null_odds.get)
    right = np.cumsum([scores[qid] if references[qid] else 0.0 for qid in ids])
    odds = np.array([null_odds[qid] for qid in ids])
    # A threshold cannot part equals.
    kept = np.append(odds[1:] != odds[:-1], True)
    precision = np.append(1.0, (right / np.arange(1, len(ids) + 1))[kept])
    recall = np.append(0.0, (right / sum(map(bool, references.values())))[kept])
    return recall, precision, float(np.sum(np.diff(recall) * precision[1:]))


def tuned_threshold(references, answers, null_odds):
    """The null_score_diff_threshold that gives the highest F1.

    Args:
      references: as squad_scores has them.
      answers: dict {question's id: str}, the best answer that is not "".
      null_odds: dict {question's id: float}.

    Returns:
      float: one of the odds; or less than all of them where no answer at all is best.
    """
    normal = _normal_answers(references)
    scores = {qid: _best(_f1, texts, answers.get(qid)) for qid, texts in normal.items()}
    best, threshold = _best_threshold(references, answers, scores, null_odds)
    if best > sum(not texts for texts in references.values()):
        return threshold
    return min(null_odds.values()) - 1.0


def cmrc_scores(references, predictions):
    """Scores of CMRC 2018, in percent: exact_match, f1 (of the longest common run of characters),
    average, and total; see squad_scores for the arguments.
    """
    exact, f1 = [], []
    for qid, texts in references.items():
        prediction = predictions.get(qid)
        if prediction is None or not texts:
            exact.append(0.0)
            f1.append(0.0)
            continue
        exact.append(float(any(_cmrc_normal(text) == _cmrc_normal(prediction) for text in texts)))
        found = _cmrc_segments(prediction)
        f1.append(max(_overlap(_cmrc_segments(text), found) for text in texts))
    exact, f1 = 100.0 * sum(exact) / len(exact), 100.0 * sum(f1) / len(f1)
    return {"exact_match": exact, "f1": f1, "average": (exact + f1) / 2, "total": len(references)}


def is_chinese(references):
    """Whether more than half of the characters of the answers are Chinese."""
    text = "".join(text for texts in references.values() for text in texts)
    return 2 * len(_CHINESE.findall(text)) > len(text)


def _normal_answers(references):
    """{id: [normalised answer]}, [""] where there is none."""
    normal = {}
    for qid, texts in references.items():
        kept = [text for text in map(_normal, texts) if text]
        normal[qid] = kept or [""]
    return normal


def _normal(text):
    """Lower case, without ASCII punctuation and articles, single blanks."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def _best(function, answers, prediction):
    if prediction is None:
        return 0.0
    prediction = _normal(prediction)
    return max(function(answer, prediction) for answer in answers)


def _exact(answer, prediction):
    return float(answer == prediction)


def _f1(answer, prediction):
    """Of bags of words; two empty ones agree."""
    answer, prediction = answer.split(), prediction.split()
    if not answer or not prediction:
        return float(answer == prediction)
    common = sum((collections.Counter(answer) & collections.Counter(prediction)).values())
    return _harmonic(common, len(prediction), len(answer))


def _harmonic(common, found, wanted):
    if not common:
        return 0.0
    precision, recall = common / found, common / wanted
    return 2 * precision * recall / (precision + recall)


def _percent(scores, ids):
    return 100.0 * sum(scores[qid] for qid in ids) / len(ids)


def _best_threshold(references, predictions, scores, null_odds):
    """(highest sum of scores, threshold): answers are taken in by ascending odds, and each brings
    its score, or costs the point of a question that has none.
    """
    now = best = float(sum(not texts for texts in references.values()))
    threshold = 0.0  # The official script's, for no answer at all.
    for qid in sorted((qid for qid in null_odds if qid in references), key=null_odds.get):
        if references[qid]:
            now += scores[qid]
        elif predictions.get(qid):
            now -= 1.0
        if now > best:
            best, threshold = now, null_odds[qid]
    return best, threshold


def _cmrc_normal(text):
    return text.lower().strip().translate(_CMRC_DROP)


def _cmrc_segments(text):
    """Chinese characters one by one, the rest in words, without the marks that are left out."""
    segments = []
    for part in re.split("([\u4e00-\u9fa5])", _cmrc_normal(text)):
        segments += [part] if _CHINESE.fullmatch(part) else _treebank_words(part)
    return segments


def _treebank_words(text):
    text = _OPENING_QUOTE.sub(" `` ", re.sub('^"', "`` ", text))
    words = _TREEBANK_MARK.sub(r" \g<0> ", text).split()
    return ["''" if word == '"' else word for word in words]


def _overlap(answer, prediction):
    """F1 by the longest run of segments that stands in both."""
    numbers = {segment: number for number, segment in enumerate([*answer, *prediction])}
    found = np.array([numbers[segment] for segment in prediction], np.int64)
    run, longest = np.zeros(len(found) + 1, np.int64), 0
    for segment in answer:
        run[1:] = np.where(found == numbers[segment], run[:-1] + 1, 0)
        longest = max(longest, int(run.max()))
    return _harmonic(longest, len(prediction), len(answer))
