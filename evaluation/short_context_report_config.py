"""What params.yaml may say of the tasks at short context (evaluation/short_context_report.py)."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from core.params import Config


class Task(Config):
    """One task: of the harness, or local."""

    harness: str | None = None
    """A name the harness knows: mmlu, hellaswag, niah_single_1."""
    file: Path | None = None
    """A .jsonl file of {question, choices, answer, subject} (also .gz, .zst), a .csv file or a
    folder with dev/ and test/ of them as MMLU's authors publish it, or data/raw_corpus/DOMAIN to
    make questions from held-out documents.
    """
    shots: Annotated[int, Field(ge=0)] | None = None
    """Examples before each question; without it as many as the task itself says (gsm8k: 5; a local
    one: none).
    """
    count: Annotated[int, Field(ge=1)] | None = None
    """The first so many questions of each subject; or how many to make."""
    lengths: tuple[Annotated[int, Field(ge=64)], ...] = ()
    """Context lengths, of RULER's tasks."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.harness is None) == (self.file is None):
            raise ValueError("give either `harness`, a task's name there, or `file`")
        return self


class ShortContextReportConfig(Config):
    """The tasks."""

    seed: int = 0
    tasks: Annotated[dict[str, Task], Field(min_length=1)]
    batch: Annotated[int, Field(ge=1)] = 16
    """Requests in one forward pass."""
    against: str | None = None
    """The model of the comparison that others are held against: the base."""
    drop: Annotated[float, Field(ge=0)] = 5.0
    """Points (of 100) that a model may lie below it."""
