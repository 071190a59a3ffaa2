"""Parameters of a prompt: its frame, and the use of a chat template (evaluation/chat.py)."""

from typing import Literal

ChatMode = Literal["auto", "always", "never"]  # auto: in the chat template, if there is one


def divided(frame: str, question: str) -> tuple[str, str]:
    """The text before the context and the text after it, with the question wherever it belongs."""
    before, after = frame.split("{context}")
    return before.replace("{question}", question), after.replace("{question}", question)


def check_frame(frame: str) -> None:
    """Raise ValueError unless the frame holds the context once, and the question after it."""
    if frame.count("{context}") != 1 or "{question}" not in frame.split("{context}")[1]:
        raise ValueError("frame needs {context} once, and {question} after it")
