"""Scores of an answer as text, and whether it is an answer at all.

- occurs: whether the expected answer stands in the response, as RULER and others count it: without
  case, spacing and the answer's own outer punctuation. It must stand alone: "plum" is not in
  "plumber", nor 12 in 128.
- word_overlap: the needle's published score (Fu et al. 2024, released code): the share of the
  distinct words of the expected answer, split at spaces, that the lower-cased response has.
  Punctuation stays on its word, so "day." is not "day". Further words in the response cost nothing.
- rouge_1: F of single words against the needle's whole statement; the paper's log keeps ten times
  it. Words are runs of letters and digits; there is no stemming, which the paper's package does.
- f1: of question answering (SQuAD's; InfiniteBench's for longbook_qa_eng): words without case,
  punctuation and articles; the best over the given answers.

A score of 0 from a model that generates nothing is no measurement. So three flaws are counted
beside the scores: the answer is empty, it was truncated by the token limit, or it repeats itself.
More than a tenth of such answers gives a warning. A truncated answer that already holds the
expected one has lost nothing, so it gives none. The cost: a warning needs a reader.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

ARTICLES = {"a", "an", "the"}
FLAWS = ("empty", "truncated", "repetitive")
THOUGHTS_BEGIN, THOUGHTS_END = "<think>", "</think>"
WARN_ABOVE = 0.1  # share of flawed answers that is worth a warning
LEAST_LOOP = 12  # characters that a loop must fill, or half of the answer if that is more
LEAST_ROUNDS = 3  # twice the same may be rhetoric


def without_thoughts(response: str) -> str:
    """The answer that follows a reasoning model's thoughts; "" if the thoughts have no end.

    Many servers, and every local model, give the thoughts as text before the answer. The template
    may have opened them already, so only their end is certain to be there.
    """
    _, ended, answer = response.rpartition(THOUGHTS_END)
    if ended:
        return answer
    return "" if response.lstrip().startswith(THOUGHTS_BEGIN) else response


def word_overlap(response: str, expected: str) -> float:
    """Share of the distinct expected words that are in the response, 0 to 1.

    Raises ValueError if no word is expected.
    """
    words = set(expected.lower().split())
    if not words:
        raise ValueError("an expected answer has at least one word")
    return len(words & set(response.lower().split())) / len(words)


def rouge_1(response: str, reference: str) -> float:
    """F of single words, 0 to 1: the harmonic mean of precision and recall."""
    words = re.compile(r"[a-z0-9]+")
    return _f(words.findall(response.lower()), words.findall(reference.lower()))


def f1(response: str, answers: Sequence[str]) -> float:
    """The best F over the answers, 0 to 1; 0 without an answer to compare with."""
    return max((_f(normalised(response), normalised(answer)) for answer in answers), default=0.0)


def occurs(response: str, answers: Sequence[str]) -> bool:
    """Whether one of the answers stands in the response, alone and not inside of a word."""
    plain = _plain(response)
    return any(_stands_in(plain, _plain(answer)) for answer in answers)


def _plain(text: str) -> str:
    """The text in NFKC, without case and outer punctuation, with single spaces."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    # An answer that is punctuation only stays as it is.
    return plain.strip(string.punctuation + string.whitespace) or plain


def _stands_in(text: str, answer: str) -> bool:
    """Whether the answer stands in the text, and not inside of a word."""
    start = text.find(answer) if answer else -1
    while start >= 0:
        end = start + len(answer)
        begins_in_word = _in_word(text[start - 1 : start], answer[0])
        ends_in_word = _in_word(answer[-1], text[end : end + 1])
        if not (begins_in_word or ends_in_word):
            return True
        start = text.find(answer, start + 1)
    return False


def _in_word(left: str, right: str) -> bool:
    """Whether both characters are part of one word, in scripts with spaces between words."""
    # Below U+0590 are Latin, Greek, Cyrillic and Armenian; U+1E00 to U+1FFF are their extensions.
    # Chinese and Thai have no spaces, so there an answer may stand anywhere.
    return all(
        char.isalnum() and (ord(char) < 0x590 or 0x1E00 <= ord(char) < 0x2000)
        for char in (left or " ", right or " ")
    )


def flaws(response: str, truncated: bool) -> dict[str, float]:
    """1 or 0 for each of FLAWS. truncated: whether the token limit ended the answer."""
    # Letters, numbers and symbols say something; punctuation and spaces do not.
    has_content = any(unicodedata.category(char)[0] in "LNS" for char in response)
    return {
        "empty": float(not has_content),
        "truncated": float(truncated),
        "repetitive": float(repetitive(response)),
    }


def repetitive(response: str) -> bool:
    """Whether it ends in a loop: one string, three times in a row or more, over half of it."""
    text = " ".join(response.split())
    for period in range(1, (len(text) + 1) // LEAST_ROUNDS + 1):
        # Go left as long as each character equals the one a period later.
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
    """One line if more than a tenth of the answers are flawed, or they are sampled; else None.

    shares: of each of FLAWS; None if nothing was generated. lost: share of answers that were
    truncated without the expected answer in them. limit: the parameter for the number of new
    tokens. drawn: whether an endpoint refused temperature 0. cure: what may help against empty and
    repetitive answers.
    """
    # Share, what is wrong, what may help.
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
    line = f"{', '.join(found)}."
    # Two flaws may have the same cure; it is named once.
    advice = " and ".join(dict.fromkeys(helps for _, _, helps in flawed))
    if advice:
        line += f" To measure what it can do, {advice}."
    return line


def joined(*warnings: str | None) -> str | None:
    """All warnings as one; None if there are none."""
    return " ".join(filter(None, warnings)) or None


def normalised(text: str) -> list[str]:
    """Lower-cased words without punctuation and articles."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return [word for word in bare.split() if word not in ARTICLES]


def _f(words: Sequence[str], expected: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of words, with their multiplicity."""
    shared = sum((Counter(words) & Counter(expected)).values())
    return 2 * shared / (len(words) + len(expected)) if shared else 0.0
