"""What params.yaml may say of how a model is asked; evaluation/chat.py asks it so."""

from typing import Literal

ChatMode = Literal["auto", "always", "never"]
"""auto: in the chat template, if the model has one."""


def check_frame(frame: str) -> None:
    """Raise ValueError unless a frame holds the context once and the question after it."""
    if frame.count("{context}") != 1 or "{question}" not in frame.split("{context}")[1]:
        raise ValueError("frame needs {context} once, and {question} after it")
