"""Needle prompts: where the statement goes in the haystack, and what the model must say.

A trial draws a key and a value that occur nowhere in its haystack, so the answer can come from the needle alone. The
same needle and the same haystack serve every length and depth of a trial (the haystack of a length is a prefix of the
longest), so cells differ in length and depth and in nothing else. The statement enters after the begin token, at the
sentence end nearest before the depth. Protocol of Fu et al. 2024 (released code), with a value drawn for each trial
where they ask for one fixed sandwich.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Needle:
    """One trial: token ids of the haystack (begin token first), of the statement, of the question, of the answer."""

    haystack: Ids
    statement: Ids
    question: Ids
    answer: Ids
    rivals: Ids
    """First tokens of the other values that the haystack shows, int64[n]: what a guess from the context would say."""


def prompt(needle: Needle, length: int, depth: float | None, sentence_ends: Ids) -> Ids:
    """Haystack, statement at `depth` percent, question and answer: int64[length].

    `depth` None leaves the statement out and fills its room with haystack. Raises ValueError if the haystack is short.
    """
    statement = needle.statement if depth is not None else needle.statement[:0]
    room = length - len(statement) - len(needle.question) - len(needle.answer)
    if not 1 <= room <= len(needle.haystack):
        raise ValueError(f"length {length} leaves {room} tokens of haystack; it has {len(needle.haystack)}")
    body = needle.haystack[:room]
    at = insertion_point(body, depth or 0, sentence_ends)
    return np.concatenate([body[:at], statement, body[at:], needle.question, needle.answer])


def insertion_point(body: Ids, depth: float, sentence_ends: Ids) -> int:
    """Position of the statement: after the last sentence end at or before `depth` percent, and never before token 1."""
    at = max(round(len(body) * depth / 100), 1)
    if at >= len(body):
        return len(body)
    ends = np.flatnonzero(np.isin(body[:at], sentence_ends))
    return int(ends[-1]) + 1 if len(ends) else 1
