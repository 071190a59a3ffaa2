"""How an answer in words is judged, each score a few lines to check by eye, and whether it is an
answer at all.

- occurs: whether the expected answer stands in what was said, as RULER and others count it: without
  case, spacing and the answer's own outer punctuation. It has to stand alone: "plum" is not in
  "plumber", nor 12 in 128.
- word_overlap: the needle's published score (Fu et al. 2024, released code): the share of the
  distinct words of the expected answer, split at spaces, that the lower-cased response has.
  Punctuation stays on its word, so "day." is not "day"; there is no penalty for what else is said.
- rouge_1: F of single words against the needle's whole statement; their log keeps ten times it.
  Words are runs of letters and digits; there is no stemming, where their package stems.
- f1: of question answering (SQuAD's; InfiniteBench's for longbook_qa_eng): words without case,
  punctuation and articles; the best over the given answers.

A score of 0 from a model that says nothing is no measurement. So what is wrong with an answer is
counted beside its score: it is empty, it was cut off by the limit of tokens, or it repeats itself.
More than a tenth of such answers is a warning. A cut-off answer that already holds the expected one
has lost nothing and is not warned about.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

ARTICLES = {"a", "an", "the"}
FLAWS = ("empty", "truncated", "repetitive")
WARN_ABOVE = 0.1
"""Share of flawed answers that is worth a warning."""
LEAST_LOOP = 12
"""Characters that a loop has to fill, or half of the answer if that is more."""
LEAST_ROUNDS = 3


def word_overlap(response: str, expected: str) -> float:
    """0 to 1. Raises ValueError if nothing is expected."""
    words = set(expected.lower().split())
    if not words:
        raise ValueError("an expected answer has at least one word")
    return len(words & set(response.lower().split())) / len(words)


def rouge_1(response: str, reference: str) -> float:
    """F, 0 to 1."""
    return _f(
        re.findall(r"[a-z0-9]+", response.lower()), re.findall(r"[a-z0-9]+", reference.lower())
    )


def f1(response: str, answers: Sequence[str]) -> float:
    """0 to 1; 0 where there is no answer to compare with."""
    return max((_f(normalised(response), normalised(answer)) for answer in answers), default=0.0)


def occurs(response: str, answers: Sequence[str]) -> bool:
    """Whether one of the answers stands in the response."""
    said = _plain(response)
    return any(_stands_in(said, _plain(answer)) for answer in answers)


def _plain(text: str) -> str:
    """Compatible characters made one, without case, runs of space made one space, no outer
    punctuation.
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain.strip(string.punctuation + string.whitespace) or plain


def _stands_in(said: str, answer: str) -> bool:
    start = said.find(answer) if answer else -1
    while start >= 0:
        end = start + len(answer)
        inside = _in_word(said[start - 1 : start], answer[0]) or _in_word(
            answer[-1], said[end : end + 1]
        )
        if not inside:
            return True
        start = said.find(answer, start + 1)
    return False


def _in_word(left: str, right: str) -> bool:
    """Whether a word goes on from one character to the next, in scripts that put spaces between
    words.
    """
    return all(
        char.isalnum() and (ord(char) < 0x590 or 0x1E00 <= ord(char) < 0x2000)
        for char in (left or " ", right or " ")
    )


def flaws(response: str, truncated: bool) -> dict[str, float]:
    """1 or 0 for each of FLAWS. truncated: whether the limit of tokens ended it."""
    return {
        "empty": float(not any(unicodedata.category(char)[0] in "LNS" for char in response)),
        "truncated": float(truncated),
        "repetitive": float(repetitive(response)),
    }


def repetitive(response: str) -> bool:
    """Whether it ends in a loop: one string three times in a row or more, over half of it."""
    text = " ".join(response.split())
    for period in range(1, (len(text) + 1) // LEAST_ROUNDS + 1):
        start = len(text) - period
        while start > 0 and text[start - 1] == text[start - 1 + period]:
            start -= 1
        # The last round has no space after it, hence the 1.
        if len(text) - start >= max(LEAST_ROUNDS * period - 1, LEAST_LOOP, len(text) / 2):
            return True
    return False


def warning(
    shares: Mapping[str, float | None],
    lost: float | None,
    limit: str,
    drawn: bool = False,
    cure: str = "set chat or answer_prefix",
) -> str | None:
    """One line where more than a tenth of the answers are flawed, or none is greedy; None else.

    shares: of each of FLAWS; None where nothing was said. lost: share of answers that were cut off
    without the expected answer in them. limit: the key that sets how many tokens may be said.
    drawn: whether an endpoint refused temperature 0. cure: what may help against empty and
    repetitive answers.
    """
    kinds = (
        (shares["empty"], "are empty", cure),
        (shares["repetitive"], "repeat themselves", cure),
        (
            lost,
            "were cut off before the expected answer came",
            f"raise {limit} if it was still to come",
        ),
    )
    flawed = [kind for kind in kinds if kind[0] is not None and kind[0] > WARN_ABOVE]
    found = [f"{100 * share:.0f} % of the answers {what}" for share, what, _ in flawed if share]
    if drawn:
        found.append("the endpoint refuses temperature 0, so another run gives other answers")
    if not found:
        return None
    advice = " and ".join(dict.fromkeys(what for _, _, what in flawed))
    return f"{', '.join(found)}.{f' To measure what it can do, {advice}.' if advice else ''}"


def joined(*warnings: str | None) -> str | None:
    """All warnings as one; None if there are none."""
    return " ".join(filter(None, warnings)) or None


def normalised(text: str) -> list[str]:
    """Lower-cased words without punctuation and articles."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return [word for word in bare.split() if word not in ARTICLES]


def _f(said: Sequence[str], meant: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of words, each counted as often as it stands there."""
    shared = sum((Counter(said) & Counter(meant)).values())
    return 2 * shared / (len(said) + len(meant)) if shared else 0.0
