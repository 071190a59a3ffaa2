"""The section needle_report of params.yaml (evaluation/needle_report.py)."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from core.params import Config
from evaluation.frame import ChatMode, check_frame

Words = Annotated[str, Field(pattern=r"\S")]
TOUCHING = 100  # depth in percent at which the statement touches the question


class Drawn(Config):
    """Needles that are drawn for each trial."""

    words: Literal["sample"] | Annotated[tuple[Words, ...], Field(min_length=8)]
    """Keys and values are drawn from these: the sample's names, or your own words."""
    value_words: Annotated[int, Field(ge=1, le=8)] = 2
    """Words in a value."""
    keys: Annotated[int, Field(ge=1, le=64)] = 1
    """Keys with statements of their own in the haystack: RULER's multi-key. Those that are not
    asked for distract.
    """
    values: Annotated[int, Field(ge=1, le=16)] = 1
    """Values of each key, each in a statement of its own, all asked for: RULER's multi-value."""
    queries: Annotated[int, Field(ge=1, le=16)] = 1
    """Keys that one question asks for: RULER's multi-query. There are at least as many keys."""
    statement: str
    """The text that is hidden, with {key} and {value}."""
    question: str
    """The question, with {key}. The value must be what follows it."""
    answer_prefix: str = ""
    """The beginning of the answer, given in the prompt, with or without {key}.

    The value must be what follows it.
    """

    @model_validator(mode="after")
    def _placeholders(self) -> Self:
        """Refuse texts without their placeholders."""
        statement_has_both = "{key}" in self.statement and "{value}" in self.statement
        if not statement_has_both or "{key}" not in self.question:
            raise ValueError("statement needs {key} and {value}, question needs {key}")
        return self

    @property
    def answers(self) -> int:
        """Values that one question asks for."""
        return self.values * self.queries


class Given(Config):
    """A needle that the user gives."""

    statement: Words
    """The text that is hidden."""
    question: str
    answer: Words
    """What the model should continue the question with."""
    answer_prefix: str = ""
    """The beginning of the answer, given in the prompt: "The best thing to do in San Francisco
    is".
    """


class Grid(Config):
    """The cells of the test."""

    kind: Literal["percent", "shared"] = "percent"
    lengths: Annotated[tuple[Annotated[int, Field(ge=32)], ...], Field(min_length=1)]
    """Context lengths in tokens, question and answer included."""
    depths: tuple[Annotated[float, Field(ge=0, le=100)], ...] = tuple(
        np.linspace(0, 100, 10).round(2).tolist()
    )
    """Of a percent grid: where the statement stands, in percent of the haystack."""
    places: Annotated[int, Field(ge=2)] = 40
    """Of a shared grid: the number of places in the longest haystack."""

    @model_validator(mode="after")
    def _some_counts(self) -> Self:
        """Refuse a grid whose every cell is left out of the means."""
        if self.kind == "percent" and all(depth == TOUCHING for depth in self.depths):
            raise ValueError("depths needs one below 100: depth 100 is never averaged")
        return self


class NeedleReportConfig(Config):
    """The grid and the texts of the test."""

    seed: int = 0
    """Of the haystacks and of drawn needles."""
    haystack: Path
    """data/raw_corpus/DOMAIN, whose held-out documents are the haystack; or a folder of .txt files.
    """
    frame: str = "{context} {question}"
    """The form of a prompt; in a chat template, of the user's message."""
    chat: ChatMode = "auto"
    """Whether the model's own chat template is used: if it has one, always, or never."""
    chat_options: dict[str, Any] = {}
    """Variables for the template, as {enable_thinking: false}."""
    drawn: Drawn | None = None
    """Needles that are drawn. Give these or `needles`."""
    needles: tuple[Given, ...] = ()
    """Your own needles, used in turns. Give these or `drawn`."""
    grid: Grid
    trials: Annotated[int, Field(ge=1)] = 1
    """Trials in every cell."""
    new_tokens: Annotated[int, Field(ge=0)] = 50
    """Tokens that the model may generate; 0: only the answer's probability is measured."""
    tokens_at_once: Annotated[int, Field(ge=1)] = 8192
    """Tokens read in one forward pass."""
    side_by_side: Annotated[int, Field(ge=1)] = 16
    """Trials in one batch, each with its own cache.

    It changes the memory and the order of sums, hence the last digits of the scores.
    """

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        """Refuse none or both kinds of needles, and a frame without its places."""
        if (self.drawn is None) == (not self.needles):
            raise ValueError("give either `drawn` or a list of `needles`")
        if self.drawn is not None and self.drawn.answers > 1 and not self.new_tokens:
            raise ValueError("several values are found in what the model says: set new_tokens")
        check_frame(self.frame)
        return self
