"""Ask a command, and keep its answer in DVC's temporary folder until something it reads changes.

This package may not import the packages that know some answers, so a command gives them, and each
takes a second. The cost: the caller must name everything that the command reads.
"""

import json
import subprocess
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from orchestration.guard import environment
from orchestration.locks import write_whole


class NoAnswer(Exception):
    """The command gave no answer. The message is its last line on stderr."""


def answer_of(root: Path, command: Sequence[str], seconds: float | None = None) -> Any:
    """The JSON in the last line that a command prints. Raises NoAnswer.

    seconds: how long it may take; None for no limit.
    """
    try:
        done = subprocess.run(
            command,
            cwd=root,
            env=environment(),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoAnswer(str(error)) from None

    # The last line: libraries may print others before it.
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, LookupError):
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise NoAnswer(last) from None


def key_of(lines: Iterable[str]) -> str:
    """A key that changes with each of `lines`: what the command reads, with versions."""
    hasher = blake2b(digest_size=16)
    for line in lines:
        # A path may have bytes that are not UTF-8; Python holds them as surrogates.
        hasher.update(f"{line}\n".encode(errors="surrogateescape"))
    return hasher.hexdigest()


def recall(answer: Path, key: str) -> Any:
    """The answer kept under `key`. None if there is none, or if another version wrote it."""
    try:
        kept = json.loads(answer.read_text())
        return kept["said"] if kept["key"] == key else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def keep(answer: Path, key: str, said: Any) -> None:
    """Keep an answer. It replaces the one before."""
    write_whole(answer, json.dumps({"key": key, "said": said}).encode())
