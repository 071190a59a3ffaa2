"""The trials of one needle report: its needles, its cells and the prompts they make.

All needles are made before anything is asked, because the room for a haystack depends on the
longest frame, statement and answer of all trials. The cost: every trial's haystack is in memory, 8
bytes a token.
"""

from dataclasses import dataclass

import numpy as np

from core.errors import UserError
from evaluation.chat import Asking, asking
from evaluation.model_under_test import ModelUnderTest
from evaluation.needle import (
    Cell,
    Haystacks,
    Ids,
    Needle,
    cells,
    make_needle,
    prompt,
    sentence_ends,
    statement_at,
)
from evaluation.needle_report_config import NeedleReportConfig
from evaluation.texts import read_texts


@dataclass(frozen=True, kw_only=True)
class Trials:
    """What a model is asked, one needle per trial."""

    config: NeedleReportConfig
    needles: list[Needle]
    ends: Ids
    """Tokens that end a sentence, int64[n]."""
    asking: Asking
    reserve: int
    """Tokens kept free for the answer."""
    cells: list[Cell]
    """Every cell of the grid, by length."""
    repeated: str | None
    """A line about haystacks that were repeated to be long enough."""

    @property
    def answers(self) -> Ids:
        """The answers, padded at the right with zeros: int64[trials, longest]."""
        longest = max(len(needle.answer) for needle in self.needles)
        return np.stack(
            [np.pad(needle.answer, (0, longest - len(needle.answer))) for needle in self.needles]
        )

    def prompts(self, cell: Cell) -> Ids:
        """The prompt of each trial: int64[trials, length - reserve]."""
        return np.stack([prompt(needle, cell, self.reserve, self.ends) for needle in self.needles])

    def points(self, cell: Cell) -> tuple[int, ...]:
        """Where each trial's statement begins, in tokens of haystack."""
        return tuple(statement_at(needle, cell, self.reserve, self.ends) for needle in self.needles)


def make_trials(tested: ModelUnderTest, config: NeedleReportConfig) -> Trials:
    """Draw all needles. Raises UserError if a length leaves no room for a haystack."""
    haystacks = Haystacks(tested, read_texts(config.haystack))
    lengths = config.grid.lengths
    how = asking(tested, config.chat, config.chat_options, "needle_report")
    kind = config.drawn or config.needles
    needles = [
        make_needle(tested, kind, config.frame, haystacks, max(lengths), config.seed, trial, how)
        for trial in range(config.trials)
    ]

    reserve = max(config.new_tokens, *(len(needle.answer) for needle in needles))
    # The cells of a length are at the same places in every trial, so the least room counts.
    rooms = [min(needle.room(length, reserve) for needle in needles) for length in lengths]
    if min(rooms) < 1:
        raise UserError(
            f"needle_report.grid.lengths: {min(lengths)} tokens leave no room for a haystack "
            f"beside frame, statement, question and {reserve} tokens of answer. "
            "Leave such lengths out."
        )
    return Trials(
        config=config,
        needles=needles,
        ends=sentence_ends(tested),
        asking=how,
        reserve=reserve,
        cells=cells(config.grid, rooms),
        repeated=haystacks.repeated,
    )
