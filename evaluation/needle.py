"""Needle prompts: where the statement goes in the haystack, and what is asked.

A needle is drawn for each trial (a key and a value that occur nowhere in its haystack, so the
answer can come from the needle alone) or given by the user, as the paper's one sandwich. The same
needle and haystack serve every length and depth of a trial: a shorter haystack is a prefix of a
longer one, so cells differ in length and depth and in nothing else, and most of what one prompt
reads another has read. The statement enters at the sentence end nearest before its place, counted
in tokens. Protocol: Fu et al. 2024, released code.

Two grids. `percent` puts it at exact depths of every length. `shared` puts it at absolute places
that all lengths share, so that one walk along the haystack serves them all: 820 cells for 40 places
and 40 lengths to 128K, at a tenth of the tokens; a cell's depth is then whatever it comes to.

Only {key}, {value}, {context} and {question} are filled in, each where it stands; all other braces
are text, so a needle may be JSON. The answer may be begun for the model (`answer_prefix`), as RULER
does: a base model then continues the sentence that the value belongs to.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from assets.randomness import generator
from assets.sample_corpus import NAMES
from core.errors import UserError
from evaluation.chat import Asking, Turn, seam
from evaluation.needle_report_config import TOUCHING, Drawn, Given, Grid
from evaluation.subject import Subject

Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Needle:
    """One trial: token ids of what comes before the haystack, of haystack, statement, question,
    answer.
    """

    before: Ids
    haystack: Ids
    statement: Ids
    question: Ids
    """All that comes after the haystack."""
    answer: Ids
    said: Given
    """Statement, question and answer in words."""
    rivals: Ids
    """First tokens of the other values that the haystack shows, int64[n], as they stand there."""
    guesses: Ids
    """First token of each of them in the answer's place, int64[n]. It differs from that of `rivals`
    where the answer begins a line, as after a chat template.
    """

    def room(self, length: int, reserve: int) -> int:
        """Tokens of haystack in a context of `length` that leaves `reserve` for the answer."""
        return length - reserve - len(self.before) - len(self.statement) - len(self.question)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A length, and where the statement stands, `place`, in haystack tokens; None leaves the
    statement out.
    """

    length: int
    depth: float
    place: int | None


def cells(grid: Grid, rooms: Sequence[int]) -> list[Cell]:
    """Every cell of the grid. rooms: tokens of haystack at each of its lengths, the least over the
    trials.
    """
    if grid.kind == "percent":
        return [
            Cell(length=length, depth=depth, place=round(room * depth / 100))
            for length, room in zip(grid.lengths, rooms, strict=True)
            for depth in grid.depths
        ]
    places = np.linspace(0, max(rooms), grid.places).round().astype(int).tolist()
    return [
        Cell(length=length, depth=round(100 * place / room, 2), place=place)
        for length, room in zip(grid.lengths, rooms, strict=True)
        for place in places
        if place <= room
    ]


def prompt(needle: Needle, cell: Cell, reserve: int, sentence_ends: Ids) -> Ids:
    """Frame, haystack with the statement in it, question: int64[cell.length - reserve].

    A cell without a place leaves the statement out and fills its room with haystack. Raises
    ValueError if the haystack is short.
    """
    statement = needle.statement if cell.place is not None else needle.statement[:0]
    room = needle.room(cell.length, reserve) + len(needle.statement) - len(statement)
    if not 1 <= room <= len(needle.haystack):
        raise ValueError(
            f"length {cell.length} leaves {room} tokens of haystack; it has {len(needle.haystack)}"
        )
    body = needle.haystack[:room]
    at = statement_at(needle, cell, reserve, sentence_ends)
    return np.concatenate([needle.before, body[:at], statement, body[at:], needle.question])


def statement_at(needle: Needle, cell: Cell, reserve: int, sentence_ends: Ids) -> int:
    """Tokens of haystack before the statement."""
    room = needle.room(cell.length, reserve)
    if cell.depth >= TOUCHING:
        return room
    return insertion_point(needle.haystack[:room], cell.place or 0, sentence_ends)


def insertion_point(body: Ids, place: int, sentence_ends: Ids) -> int:
    """Position of the statement: after the last sentence end before `place`, or at the very
    beginning.
    """
    if place >= len(body):
        return len(body)
    ends = np.flatnonzero(np.isin(body[:place], sentence_ends))
    return int(ends[-1]) + 1 if len(ends) else 0


class Haystacks:
    """The texts, each turned into token ids at most once. A "</s>" in one is text, and ends
    nothing.
    """

    def __init__(self, subject: Subject, texts: Sequence[str]) -> None:
        self.texts = texts
        self.repeated: str | None = None
        """A line about texts that `draw` had to repeat."""
        self.ids = cache(
            lambda number: np.array(subject.encode(texts[number], as_text=True), np.int64)
        )

    def draw(self, longest: int, seed: int, trial: int) -> Ids:
        """`longest` token ids: of a drawn text that is long enough, from a random start; or, where
        none is, all texts in a drawn order, again and again until they are enough.
        """
        draw = generator(seed, "needle", trial)
        order = draw.permutation(len(self.texts)).tolist()
        for number in order:
            if len(self.texts[number]) >= longest and len(ids := self.ids(number)) >= longest:
                start = int(draw.integers(len(ids) - longest + 1))
                return ids[start : start + longest]
        joined = np.concatenate([self.ids(number) for number in order])
        if not len(joined):
            raise UserError(
                "needle_report.haystack: its texts hold no token. Name a folder with longer ones."
            )
        if len(joined) < longest:
            self.repeated = (
                f"The haystack's texts are {len(joined):,} tokens and {longest:,} are asked for, so "
                "they are repeated, which makes the needle stand out. Name more text as "
                "needle_report.haystack, or leave out long lengths."
            )
        return np.resize(joined, longest)


def make_needle(
    subject: Subject,
    kind: Drawn | Sequence[Given],
    frame: str,
    haystacks: Haystacks,
    longest: int,
    seed: int,
    trial: int,
    asking: Asking,
) -> Needle:
    """Trial number `trial`: a haystack and a needle. frame: with {context} and {question}.

    Raises UserError where too few words are absent from the haystack.
    """
    haystack = haystacks.draw(longest, seed, trial)
    words: list[str] = []
    if isinstance(kind, Drawn):
        said, words = _draw(subject, kind, haystack, seed, trial)
    else:
        said = kind[trial % len(kind)]

    before, after = frame.split("{context}")
    asked = subject.as_content(said.question)
    turn = asking.turn(before, after.replace("{question}", asked), said.answer_prefix)
    question, answer = seam(subject, turn, said.answer)
    begin = asking.begin + subject.encode(turn.before) if turn.before else asking.begin
    rivals = [subject.encode(" " + word, as_text=True)[0] for word in words]
    guesses = [_guess(subject, turn, word, len(question)) for word in words]
    return Needle(
        before=np.array(begin, np.int64),
        haystack=haystack,
        said=said,
        statement=np.array(subject.encode(_spaced(said.statement), as_text=True), np.int64),
        question=np.array(question, np.int64),
        answer=np.array(answer, np.int64),
        rivals=np.array(rivals, np.int64),
        guesses=np.array(guesses, np.int64),
    )


def _guess(subject: Subject, turn: Turn, word: str, prompt_tokens: int) -> int:
    """The token that would stand first in the answer's place if `word` were the answer."""
    whole = subject.encode(turn.after + turn.joined(subject.as_content(word)))
    return whole[min(prompt_tokens, len(whole) - 1)]


def sentence_ends(subject: Subject) -> Ids:
    """Ids of the tokens that end a sentence: their text ends with a full stop, a ? or !, or the end
    of a line.
    """
    vocabulary = subject.tokenizer.get_vocab()
    return np.array(
        sorted(
            token
            for text, token in vocabulary.items()
            if text.endswith((".", "?", "!", "Ċ", "\n")) or text == "<0x0A>"
        )
    )


def _draw(
    subject: Subject, kind: Drawn, haystack: Ids, seed: int, trial: int
) -> tuple[Given, list[str]]:
    """A needle, and the words that the haystack shows: the token that begins them stands there."""
    draw = generator(seed, "needle words", trial)
    words = list(NAMES) if kind.words == "sample" else list(kind.words)
    first_tokens = np.array([subject.encode(" " + word, as_text=True)[0] for word in words])
    present = np.isin(first_tokens, haystack)
    absent = [word for word, is_there in zip(words, present, strict=True) if not is_there]
    if len(absent) <= kind.value_words:
        raise UserError(
            f"needle_report.drawn.words: {len(absent)} of {len(words)} words are not in the "
            "haystack, "
            f"{kind.value_words + 1} are needed. Give more words, or rarer ones."
        )
    key, *value = (absent[i] for i in draw.choice(len(absent), kind.value_words + 1, replace=False))
    filled = {"key": key, "value": " ".join(value)}
    said = Given(
        statement=fill(kind.statement, filled),
        question=fill(kind.question, filled),
        answer=filled["value"],
        answer_prefix=fill(kind.answer_prefix, filled),
    )
    return said, [word for word, is_there in zip(words, present, strict=True) if is_there]


def fill(text: str, values: Mapping[str, str]) -> str:
    """Put values in the places of {name}; every other brace stays as it is."""
    places = re.compile("|".join(re.escape(f"{{{name}}}") for name in values))
    return places.sub(lambda place: values[place[0][1:-1]], text)


def _spaced(text: str) -> str:
    return text if text[:1].isspace() else f" {text}"
