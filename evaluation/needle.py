"""Needle prompts: the place of the statement in the haystack, and the question.

A needle is drawn for each trial or given by the user, as the paper's one sandwich. A drawn one is a
key and a value that occur nowhere in its haystack, so the answer can come from the needle only. The
same needle and haystack serve every length and depth of a trial. A shorter haystack is a prefix of
a longer one, so cells differ only in length and depth, and prompts share long prefixes. The
statement is put after the last sentence end before its place, counted in tokens. Protocol: Fu et
al. 2024, released code.

There are two grids. `percent` uses exact depths of every length. `shared` uses absolute places that
all lengths share, so that one pass over the haystack serves all of them: 820 cells for 40 places
and 40 lengths to 128K, at a tenth of the tokens. The cost: a cell's depth is not a round number.

Only {key}, {value}, {context} and {question} are filled in. All other braces are text, so a needle
may be JSON. The answer may be begun for the model (`answer_prefix`), as in RULER: a base model then
continues the sentence that the value belongs to.
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
from evaluation.frame import divided
from evaluation.model_under_test import ModelUnderTest
from evaluation.needle_report_config import TOUCHING, Drawn, Given, Grid

Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Needle:
    """One trial, as token ids: int64[tokens] each.

    The names of these fields are part of the name of kept answers (evaluation/kept_answers.py).
    """

    before: Ids
    """Everything before the haystack."""
    haystack: Ids
    """Of the longest context; a shorter one uses its beginning."""
    statement: Ids
    """The text that is hidden."""
    question: Ids
    """Everything after the haystack."""
    answer: Ids
    """The expected answer, as it continues the question."""
    said: Given
    """Statement, question and answer as text."""
    rivals: Ids
    """First tokens of the other values in the haystack, int64[n], as they stand there."""
    guesses: Ids
    """First tokens of the same values in the answer's place, int64[n].

    They differ from `rivals` where the answer begins a line, as after a chat template.
    """

    def room(self, length: int, reserve: int) -> int:
        """Tokens of haystack in a context of `length`, of which `reserve` are for the answer."""
        return length - reserve - len(self.before) - len(self.statement) - len(self.question)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of the grid. Its text form is part of the name of kept answers."""

    length: int
    """Tokens of prompt and answer together."""
    depth: float
    """In percent of the haystack."""
    place: int | None
    """Where the statement goes, in haystack tokens; None leaves it out."""


def cells(grid: Grid, rooms: Sequence[int]) -> list[Cell]:
    """Every cell of the grid, by length.

    rooms: tokens of haystack at each length, the least over the trials.
    """
    found = []
    if grid.kind == "percent":
        for length, room in zip(grid.lengths, rooms, strict=True):
            for depth in grid.depths:
                place = round(room * depth / 100)
                found.append(
                    Cell(
                        length=length,
                        depth=depth,
                        place=place,
                    )
                )
        return found

    places = np.linspace(0, max(rooms), grid.places).round().astype(int).tolist()
    for length, room in zip(grid.lengths, rooms, strict=True):
        for place in places:
            if place <= room:
                depth = round(100 * place / room, 2)
                found.append(
                    Cell(
                        length=length,
                        depth=depth,
                        place=place,
                    )
                )
    return found


def prompt(needle: Needle, cell: Cell, reserve: int, sentence_ends: Ids) -> Ids:
    """Frame, haystack with the statement in it, and question: int64[cell.length - reserve].

    sentence_ends: int64[n], tokens that end a sentence. Raises ValueError if the haystack is too
    short.
    """
    # Without a statement its room is filled with haystack, so the lengths stay the same.
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
    """Tokens of haystack before the statement.

    reserve: tokens kept free for the answer. sentence_ends: int64[n].
    """
    room = needle.room(cell.length, reserve)
    # The end of the haystack is rarely a sentence end, and 100 % means that nothing follows.
    if cell.depth >= TOUCHING:
        return room
    return insertion_point(needle.haystack[:room], cell.place or 0, sentence_ends)


def insertion_point(body: Ids, place: int, sentence_ends: Ids) -> int:
    """The position after the last sentence end before `place`; 0 if there is none.

    body, sentence_ends: int64[n].
    """
    if place >= len(body):
        return len(body)
    ends = np.flatnonzero(np.isin(body[:place], sentence_ends))
    return int(ends[-1]) + 1 if len(ends) else 0


class Haystacks:
    """The user's texts, each tokenized at most once. A "</s>" in one is text and ends nothing."""

    def __init__(self, tested: ModelUnderTest, texts: Sequence[str]) -> None:
        self.texts = texts
        self.repeated: str | None = None
        """A line about texts that `draw` had to repeat."""
        self.ids = cache(
            lambda number: np.array(tested.encode(texts[number], as_text=True), np.int64)
        )

    def draw(self, longest: int, seed: int, trial: int) -> Ids:
        """`longest` token ids: of a drawn text that is long enough, from a random start.

        If no text is long enough: all texts in a drawn order, repeated as often as needed. Raises
        UserError if the texts hold no token.
        """
        draw = generator(seed, "needle", trial)
        order = draw.permutation(len(self.texts)).tolist()
        for number in order:
            # A text with fewer characters hardly has that many tokens. It is not tokenized.
            if len(self.texts[number]) < longest:
                continue
            ids = self.ids(number)
            if len(ids) >= longest:
                start = int(draw.integers(len(ids) - longest + 1))
                return ids[start : start + longest]

        joined = np.concatenate([self.ids(number) for number in order])
        if not len(joined):
            raise UserError(
                "needle_report.haystack: its texts hold no token. Name a folder with longer ones."
            )
        if len(joined) < longest:
            self.repeated = (
                f"The haystack's texts are {len(joined):,} tokens and {longest:,} are asked for, "
                "so they are repeated, which makes the needle stand out. "
                "Name more text as needle_report.haystack, or leave out long lengths."
            )
        return np.resize(joined, longest)


def make_needle(
    tested: ModelUnderTest,
    kind: Drawn | Sequence[Given],
    frame: str,
    haystacks: Haystacks,
    longest: int,
    seed: int,
    trial: int,
    asking: Asking,
) -> Needle:
    """The needle and haystack of trial number `trial`.

    frame: with {context} and {question}. longest: tokens of haystack. Raises UserError if too few
    words are absent from the haystack.
    """
    haystack = haystacks.draw(longest, seed, trial)
    words: list[str] = []
    if isinstance(kind, Drawn):
        said, words = _draw(tested, kind, haystack, seed, trial)
    else:
        said = kind[trial % len(kind)]

    before, after = divided(frame, tested.as_content(said.question))
    turn = asking.turn(before, after, said.answer_prefix)
    question, answer = seam(tested, turn, said.answer)
    begin = asking.begin
    if turn.before:
        begin = begin + tested.encode(turn.before)

    rivals = [tested.encode(" " + word, as_text=True)[0] for word in words]
    guesses = [_guess(tested, turn, word, len(question)) for word in words]
    return Needle(
        before=np.array(begin, np.int64),
        haystack=haystack,
        said=said,
        statement=np.array(tested.encode(_spaced(said.statement), as_text=True), np.int64),
        question=np.array(question, np.int64),
        answer=np.array(answer, np.int64),
        rivals=np.array(rivals, np.int64),
        guesses=np.array(guesses, np.int64),
    )


def _guess(tested: ModelUnderTest, turn: Turn, word: str, prompt_tokens: int) -> int:
    """The first token of `word` in the answer's place. prompt_tokens: those after the haystack."""
    whole = tested.encode(turn.after + turn.joined(tested.as_content(word)))
    return whole[min(prompt_tokens, len(whole) - 1)]


def sentence_ends(tested: ModelUnderTest) -> Ids:
    """Ids of the tokens whose text ends with ".", "?", "!" or a line end: int64[n], ascending."""
    # "Ċ" is a line end in byte-level BPE; "<0x0A>" is one in SentencePiece.
    ends = (".", "?", "!", "Ċ", "\n")
    found = []
    for text, token in tested.tokenizer.get_vocab().items():
        if text.endswith(ends) or text == "<0x0A>":
            found.append(token)
    return np.array(sorted(found))


def _draw(
    tested: ModelUnderTest, kind: Drawn, haystack: Ids, seed: int, trial: int
) -> tuple[Given, list[str]]:
    """A needle of absent words, and the words that are present in the haystack.

    A word is present if its first token is. Raises UserError if too few words are absent.
    """
    draw = generator(seed, "needle words", trial)
    words = list(NAMES) if kind.words == "sample" else list(kind.words)
    first_tokens = np.array([tested.encode(" " + word, as_text=True)[0] for word in words])
    is_present = np.isin(first_tokens, haystack).tolist()
    absent = [word for word, present in zip(words, is_present, strict=True) if not present]
    present_words = [word for word, present in zip(words, is_present, strict=True) if present]
    if len(absent) <= kind.value_words:
        raise UserError(
            f"needle_report.drawn.words: {len(absent)} of {len(words)} words are not in the "
            f"haystack, {kind.value_words + 1} are needed. Give more words, or rarer ones."
        )

    key, *value = (absent[i] for i in draw.choice(len(absent), kind.value_words + 1, replace=False))
    filled = {"key": key, "value": " ".join(value)}
    said = Given(
        statement=fill(kind.statement, filled),
        question=fill(kind.question, filled),
        answer=filled["value"],
        answer_prefix=fill(kind.answer_prefix, filled),
    )
    return said, present_words


def fill(text: str, values: Mapping[str, str]) -> str:
    """Replace every {name} by its value; other braces stay as they are.

    values: name -> text.
    """
    # In one pass, so that braces in a value are not filled again.
    places = re.compile("|".join(re.escape(f"{{{name}}}") for name in values))
    return places.sub(lambda place: values[place[0][1:-1]], text)


def _spaced(text: str) -> str:
    """The text with a space or line end before it."""
    return text if text[:1].isspace() else f" {text}"
