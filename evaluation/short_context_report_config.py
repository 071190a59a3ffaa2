"""The section short_context_report of params.yaml (evaluation/short_context_report.py)."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from core.params import Config
from evaluation.frame import ChatMode

RULER_LENGTHS = (4096, 8192, 16_384, 32_768, 65_536, 131_072)
"""lm-eval's RULER has a score for these lengths. It would silently leave out all others."""


class Task(Config):
    """One task: of lm-eval, or local."""

    harness: str | None = None
    """The name of a task of lm-eval: mmlu, hellaswag, niah_single_1; or a .yaml file in its form."""
    file: Path | None = None
    """One of: a .jsonl file of {question, choices, answer, subject} (also .gz, .zst); a .csv file,
    or a folder with dev/ and test/ of them, as MMLU's authors publish it; data/raw_corpus/DOMAIN,
    to make questions from held-out documents.
    """
    shots: Annotated[int, Field(ge=0)] | None = None
    """Examples before each question; null: as many as the task itself uses (gsm8k: 5; local: 0)."""
    count: Annotated[int, Field(ge=1)] | None = None
    """Use the first `count` questions of each subject; or make that many."""
    lengths: tuple[int, ...] = ()
    """Context lengths of RULER's tasks, in tokens: some of RULER_LENGTHS. `count` is of each."""
    metric: str | None = None
    """The score, as lm-eval names it: acc_norm; "exact_match,flexible-extract" with its filter;
    null: the first metric that the task lists.
    """
    scale: Literal[0, 1, 100] | None = None
    """The best value of that metric; 0: it is no share; null: by its name
    (evaluation/task_metrics.py).
    """
    chat: ChatMode | None = None
    """As `chat` of the section, for this task alone; null: as the section says."""
    new_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens that the model may generate; null: as many as the task itself allows."""
    batch: Annotated[int, Field(ge=1)] | None = None
    """As `batch` of the section, for this task alone: 1 for very long prompts."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        """Refuse none and both of `harness` and `file`, and lengths without a score."""
        if (self.harness is None) == (self.file is None):
            raise ValueError("give either `harness`, a task's name there, or `file`")
        if self.lengths and self.file is not None:
            raise ValueError("lengths are for RULER's tasks, and `file` is none")
        if self.file is not None and (self.metric, self.scale) != (None, None):
            raise ValueError("metric and scale are for tasks of lm-eval; `file` is scored by acc")
        odd = [length for length in self.lengths if length not in RULER_LENGTHS]
        if odd:
            known = ", ".join(map(str, RULER_LENGTHS))
            raise ValueError(f"lengths: RULER has no score for {odd[0]}, only for {known}")
        return self


class ShortContextReportConfig(Config):
    """The tasks, and how far a model may fall."""

    seed: int = 0
    """Of made questions, and of lm-eval's draws."""
    tasks: Annotated[dict[str, Task], Field(min_length=1)]
    """Name -> task. The name is that of its score."""
    batch: Annotated[int, Field(ge=1)] = 16
    """Requests in one forward pass."""
    chat: ChatMode = "auto"
    """Whether the model's own chat template is used: if it has one, always, or never."""
    chat_options: dict[str, Any] = {}
    """Variables for the template, as {enable_thinking: false}."""
    keep_samples: bool = True
    """Whether each prompt, answer and score is kept, in samples.jsonl.zst."""
    against: str | None = None
    """The model of the comparison that the drop is measured against: the base."""
    drop: Annotated[float, Field(ge=0)] = 5.0
    """Points (of 100) that a model may be below it."""
