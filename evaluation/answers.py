"""How an answer in words is judged: the published overlap, ROUGE-1 and F1, each a few lines to check by eye.

- word_overlap: the needle's published score (Fu et al. 2024, released code): the share of the distinct words of the
  expected answer, split at spaces, that the lower-cased response has. Punctuation stays on its word, so "day." is not
  "day"; there is no penalty for what else is said.
- rouge_1: F of single words against the needle's whole statement; their log keeps ten times it. Words are runs of
  letters and digits; there is no stemming, where their package stems.
- f1: of question answering (SQuAD's; InfiniteBench's for longbook_qa_eng): words without case, punctuation and
  articles; the best over the given answers.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

ARTICLES = {"a", "an", "the"}


def word_overlap(response: str, expected: str) -> float:
    """0 to 1. Raises ValueError if nothing is expected."""
    words = set(expected.lower().split())
    if not words:
        raise ValueError("an expected answer has at least one word")
    return len(words & set(response.lower().split())) / len(words)


def rouge_1(response: str, reference: str) -> float:
    """F, 0 to 1."""
    return _f(re.findall(r"[a-z0-9]+", response.lower()), re.findall(r"[a-z0-9]+", reference.lower()))


def f1(response: str, answers: Sequence[str]) -> float:
    """0 to 1; 0 where there is no answer to compare with."""
    return max((_f(normalised(response), normalised(answer)) for answer in answers), default=0.0)


def normalised(text: str) -> list[str]:
    """Lower-cased words without punctuation and articles."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return [word for word in bare.split() if word not in ARTICLES]


def _f(said: Sequence[str], meant: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of words, each counted as often as it stands there."""
    shared = sum((Counter(said) & Counter(meant)).values())
    return 2 * shared / (len(said) + len(meant)) if shared else 0.0
