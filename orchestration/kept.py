"""What a command said, kept beside DVC's temporary files until something that it reads changes.

Some questions are answered by packages that this one may not import, so they are asked by a command,
which takes a second. The cost: who asks must name all that the command reads.
"""

import json
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

from orchestration.locks import write_whole


def key_of(lines: Iterable[str]) -> str:
    """Changes with everything that the command reads. lines: what that is, with versions."""
    hasher = blake2b(digest_size=16)
    for line in lines:
        hasher.update(f"{line}\n".encode(errors="surrogateescape"))
    return hasher.hexdigest()


def recall(answer: Path, key: str) -> Any:
    """What was said for that key; None where nothing is kept, or another version wrote it."""
    try:
        kept = json.loads(answer.read_text())
        return kept["said"] if kept["key"] == key else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def keep(answer: Path, key: str, said: Any) -> None:
    """Keep what was said, in place of what was said before."""
    write_whole(answer, json.dumps({"key": key, "said": said}).encode())
