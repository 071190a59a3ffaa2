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

A drawn needle may have several statements, as in RULER: other keys that distract (`keys`), several
values of a key (`values`), several keys in one question (`queries`). The first one asked for is at
the cell's place. The others that are asked for follow at equal distances, and go on at the
beginning after the end of the haystack. Those that distract stand at equal distances too. The cost:
prompts of different lengths share less.

Only {key}, {value}, {context} and {question} are filled in. All other braces are text, so a needle
may be JSON. The answer may be begun for the model (`answer_prefix`), as in RULER: a base model then
continues the sentence that the value belongs to.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    others: tuple[Ids, ...] = ()
    """Further statements that the question asks for."""
    distractors: tuple[Ids, ...] = ()
    """Statements with other keys. They are in the haystack also where no needle is."""
    expected: tuple[str, ...] = ()
    """The values to find, if there are several."""

    @property
    def hidden(self) -> tuple[Ids, ...]:
        """Every statement that the question asks for, the one at the cell's place first."""
        return (self.statement, *self.others)

    def room(self, length: int, reserve: int) -> int:
        """Tokens of haystack in a context of `length`, of which `reserve` are for the answer."""
        statements = sum(map(len, (*self.hidden, *self.distractors)))
        return length - reserve - len(self.before) - statements - len(self.question)


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
    usual = needle.room(cell.length, reserve)
    room = usual if cell.place is not None else usual + sum(map(len, needle.hidden))
    if not 1 <= room <= len(needle.haystack):
        raise ValueError(
            f"length {cell.length} leaves {room} tokens of haystack; it has {len(needle.haystack)}"
        )
    body = needle.haystack[:room]
    inserted = _distracting(needle, usual, sentence_ends)
    if cell.place is not None:
        inserted += _asked(needle, cell, reserve, sentence_ends)

    parts, done = [needle.before], 0
    for at, statement in sorted(inserted, key=lambda one: one[0]):
        parts += [body[done:at], statement]
        done = at
    return np.concatenate([*parts, body[done:], needle.question])


def _distracting(needle: Needle, room: int, sentence_ends: Ids) -> list[tuple[int, Ids]]:
    """Where each distractor goes, in tokens of haystack, and the distractor."""
    found = []
    for number, statement in enumerate(needle.distractors, 1):
        place = round(number * room / (len(needle.distractors) + 1))
        found.append((insertion_point(needle.haystack[:room], place, sentence_ends), statement))
    return found


def _asked(needle: Needle, cell: Cell, reserve: int, sentence_ends: Ids) -> list[tuple[int, Ids]]:
    """Where each statement that is asked for goes, in tokens of haystack, and the statement."""
    room = needle.room(cell.length, reserve)
    found = [(statement_at(needle, cell, reserve, sentence_ends), needle.statement)]
    for number, statement in enumerate(needle.others, 1):
        place = ((cell.place or 0) + round(number * room / len(needle.hidden))) % room
        found.append((insertion_point(needle.haystack[:room], place, sentence_ends), statement))
    return found


def statement_at(needle: Needle, cell: Cell, reserve: int, sentence_ends: Ids) -> int:
    """Tokens of haystack before the statement at the cell's place.

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
    if isinstance(kind, Drawn):
        texts = _draw(tested, kind, haystack, seed, trial)
    else:
        given = kind[trial % len(kind)]
        texts = _Texts(said=given, statements=[given.statement], rivals=[])
    said, words = texts.said, texts.rivals

    before, after = divided(frame, tested.as_content(said.question))
    turn = asking.turn(before, after, said.answer_prefix)
    question, answer = seam(tested, turn, said.answer)
    begin = asking.begin
    if turn.before:
        begin = begin + tested.encode(turn.before)

    rivals = [tested.encode(" " + word, as_text=True)[0] for word in words]
    guesses = [_guess(tested, turn, word, len(question)) for word in words]
    hidden = [_statement(tested, text) for text in texts.statements]
    return Needle(
        before=np.array(begin, np.int64),
        haystack=haystack,
        said=said,
        statement=hidden[0],
        question=np.array(question, np.int64),
        answer=np.array(answer, np.int64),
        rivals=np.array(rivals, np.int64),
        guesses=np.array(guesses, np.int64),
        others=tuple(hidden[1:]),
        distractors=tuple(_statement(tested, text) for text in texts.distractors),
        expected=texts.expected,
    )


def _statement(tested: ModelUnderTest, text: str) -> Ids:
    """Ids of a statement as it stands in a haystack: int64[tokens]."""
    return np.array(tested.encode(_spaced(text), as_text=True), np.int64)


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


@dataclass(frozen=True, kw_only=True)
class _Texts:
    """A needle as text."""

    said: Given
    """All statements that are asked for, the question and the answer."""
    statements: list[str]
    """The same statements, each by itself."""
    rivals: list[str]
    """Words that could be taken for the value: those of the haystack, and the distractors'."""
    distractors: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ()
    """The values, if there are several."""


def _draw(tested: ModelUnderTest, kind: Drawn, haystack: Ids, seed: int, trial: int) -> _Texts:
    """A needle of words that are absent from the haystack.

    A word is present if its first token is. Raises UserError if too few words are absent.
    """
    draw = generator(seed, "needle words", trial)
    words = list(NAMES) if kind.words == "sample" else list(kind.words)
    first_tokens = np.array([tested.encode(" " + word, as_text=True)[0] for word in words])
    is_present = np.isin(first_tokens, haystack).tolist()
    absent = [word for word, present in zip(words, is_present, strict=True) if not present]
    present_words = [word for word, present in zip(words, is_present, strict=True) if present]
    keys = max(kind.keys, kind.queries)
    needed = keys * (1 + kind.values * kind.value_words)
    if len(absent) < needed:
        raise UserError(
            f"needle_report.drawn.words: {len(absent)} of {len(words)} words are not in the "
            f"haystack, {needed} are needed. Give more words, or rarer ones."
        )

    drawn = iter(draw.choice(len(absent), needed, replace=False).tolist())
    pairs = []  # key and values, those that are asked for first
    for _ in range(keys):
        key = absent[next(drawn)]
        values = []
        for _ in range(kind.values):
            values.append(" ".join(absent[next(drawn)] for _ in range(kind.value_words)))
        pairs.append((key, values))
    asked, others = pairs[: kind.queries], pairs[kind.queries :]

    statements = _statements(kind, asked)
    found = [value for _, values in asked for value in values]
    listed = {"key": _listed([key for key, _ in asked])}
    said = Given(
        statement=" ".join(statements),
        question=fill(kind.question, listed),
        answer=", ".join(found),
        answer_prefix=fill(kind.answer_prefix, listed),
    )
    return _Texts(
        said=said,
        statements=statements,
        rivals=[*present_words, *(value.split()[0] for _, values in others for value in values)],
        distractors=_statements(kind, others),
        expected=tuple(found) if len(found) > 1 else (),
    )


def _statements(kind: Drawn, pairs: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """A statement for each value. pairs: keys with their values."""
    found = []
    for key, values in pairs:
        for value in values:
            found.append(fill(kind.statement, {"key": key, "value": value}))
    return found


def _listed(keys: Sequence[str]) -> str:
    """The keys as a question lists them: "a", "a, and b", "a, b, and c", as RULER does."""
    return ", ".join([*keys[:-1], f"and {keys[-1]}"]) if len(keys) > 1 else keys[0]


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
