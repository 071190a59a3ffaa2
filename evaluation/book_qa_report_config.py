"""What params.yaml may say of the questions on books (evaluation/book_qa_report.py)."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from core.params import Config
from evaluation.frame import ChatMode, check_frame


class BookQaReportConfig(Config):
    """Which questions, and how they are asked."""

    seed: int = 0
    questions: Path
    """A .jsonl file, a YAML file that names a Hub dataset and its files, or data/raw_corpus/DOMAIN
    to make some.
    """
    count: Annotated[int, Field(ge=1)] | None = None
    """The first so many; or how many to make."""
    context: Annotated[int, Field(ge=64)]
    """Tokens of prompt and answer together, to which a book is cut in its middle."""
    frame: str = (
        "Read the book and answer the question.\n\n{context}\n\nQuestion: {question}\n\nAnswer:"
    )
    chat: ChatMode = "auto"
    """Whether prompts are put in the model's own chat template: if it has one, always, or never."""
    chat_options: dict[str, Any] = {}
    """Variables for the template, as {enable_thinking: false}."""
    answer_prefix: str = ""
    """The beginning of every answer, given to the model."""
    new_tokens: Annotated[int, Field(ge=1)] = 40
    """Tokens that the model may say; of them the first line counts."""
    tokens_at_once: Annotated[int, Field(ge=1)] = 8192

    @model_validator(mode="after")
    def _places(self) -> Self:
        check_frame(self.frame)
        return self
