"""What params.yaml may say of the needle in a haystack (evaluation/needle_report.py)."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from core.params import Config
from evaluation.frame import ChatMode, check_frame

Words = Annotated[str, Field(pattern=r"\S")]
TOUCHING = 100
"""Depth in percent at which the statement touches the question."""


class Drawn(Config):
    """Needles drawn anew for each trial."""

    words: Literal["sample"] | Annotated[tuple[str, ...], Field(min_length=8)]
    """Keys and values are drawn from these: the sample's names, or words of your own."""
    value_words: Annotated[int, Field(ge=1, le=8)] = 2
    """Words in a value."""
    statement: str
    """What is hidden, with {key} and {value}."""
    question: str
    """What is asked, with {key}; the value must be what follows."""
    answer_prefix: str = ""
    """The beginning of the answer, given to the model, with or without {key}; the value must
    follow.
    """

    @model_validator(mode="after")
    def _placeholders(self) -> Self:
        if (
            "{key}" not in self.statement
            or "{value}" not in self.statement
            or "{key}" not in self.question
        ):
            raise ValueError("statement needs {key} and {value}, question needs {key}")
        return self


class Given(Config):
    """A needle of the user's own."""

    statement: Words
    question: str
    answer: Words
    answer_prefix: str = ""
    """The beginning of the answer, given to the model: "The best thing to do in San Francisco is".
    """


class Grid(Config):
    """Which cells there are."""

    kind: Literal["percent", "shared"] = "percent"
    lengths: Annotated[tuple[Annotated[int, Field(ge=32)], ...], Field(min_length=1)]
    """Context lengths in tokens, question and answer included."""
    depths: tuple[Annotated[float, Field(ge=0, le=100)], ...] = tuple(
        np.linspace(0, 100, 10).round(2).tolist()
    )
    """Where the statement stands, in percent of the haystack; of a percent grid."""
    places: Annotated[int, Field(ge=2)] = 40
    """How many places along the longest haystack; of a shared grid."""

    @model_validator(mode="after")
    def _some_counts(self) -> Self:
        if self.kind == "percent" and all(depth == TOUCHING for depth in self.depths):
            raise ValueError("depths needs one below 100: depth 100 is never averaged")
        return self


class NeedleReportConfig(Config):
    """The grid and the words of the test."""

    seed: int = 0
    haystack: Path
    """data/raw_corpus/DOMAIN, whose held-out documents are the haystack; or a folder of .txt files.
    """
    frame: str = "{context} {question}"
    """How a prompt is put together; under a chat template, the user's message."""
    chat: ChatMode = "auto"
    """Whether prompts are put in the model's own chat template: if it has one, always, or never."""
    chat_options: dict[str, Any] = {}
    """Variables for the template, as {enable_thinking: false}."""
    drawn: Drawn | None = None
    needles: tuple[Given, ...] = ()
    """Needles of your own, taken in turns; or `drawn` ones."""
    grid: Grid
    trials: Annotated[int, Field(ge=1)] = 1
    """Trials in every cell."""
    new_tokens: Annotated[int, Field(ge=0)] = 50
    """Tokens that the model may say; 0: only the answer's probability is asked, and nothing is
    said.
    """
    tokens_at_once: Annotated[int, Field(ge=1)] = 8192
    """Tokens read in one forward pass."""
    side_by_side: Annotated[int, Field(ge=1)] = 16
    """Trials that are read together, each with a cache of its own; changes memory and the order of
    sums, hence the last digits of the scores.
    """

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.drawn is None) == (not self.needles):
            raise ValueError("give either `drawn` or a list of `needles`")
        check_frame(self.frame)
        return self
