"""The section book_qa_report of params.yaml (evaluation/book_qa_report.py)."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from core.params import Config
from evaluation.frame import ChatMode, check_frame


class BookQaReportConfig(Config):
    """The questions, and how they are asked."""

    seed: int = 0
    """Of made questions."""
    questions: Path
    """A .jsonl file, a YAML file that names a Hub dataset and its files, or data/raw_corpus/DOMAIN
    to make questions.
    """
    count: Annotated[int, Field(ge=1)] | None = None
    """Use the first `count` questions; or make that many."""
    context: Annotated[int, Field(ge=64)]
    """Tokens of prompt and answer together. A longer book is cut in its middle."""
    frame: str = (
        "Read the book and answer the question.\n\n{context}\n\nQuestion: {question}\n\nAnswer:"
    )
    """The form of a prompt; in a chat template, of the user's message."""
    chat: ChatMode = "auto"
    """Whether the model's own chat template is used: if it has one, always, or never."""
    chat_options: dict[str, Any] = {}
    """Variables for the template, as {enable_thinking: false}."""
    answer_prefix: str = ""
    """The beginning of every answer, given in the prompt."""
    new_tokens: Annotated[int, Field(ge=1)] = 40
    """Tokens that the model may generate. Only the first line counts."""
    tokens_at_once: Annotated[int, Field(ge=1)] = 8192
    """Tokens read in one forward pass."""

    @model_validator(mode="after")
    def _places(self) -> Self:
        """Refuse a frame without its places."""
        check_frame(self.frame)
        return self
