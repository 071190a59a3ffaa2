"""Answers of an unfinished needle report, kept until the report is complete.

They are in a scratch file that DVC does not version. Its name is a hash of all that decides the
answers: who is asked, and every token of every prompt. So a killed report resumes, and one with
changed parameters, model or haystack asks again. Code and packages are not part of the name, or a
reworded comment would cost days of answers; a report that resumes under other code says so
(assets/origin.py).

The file has one line per group of answers: [key, records]. The key names what was asked.
"""

import json
import os
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from assets.origin import note
from core.sealed import RECORD, read_json
from evaluation.model_under_test import ModelUnderTest
from evaluation.needle_report_config import NeedleReportConfig
from evaluation.needle_trials import Trials
from training.model import MODEL_SUFFIXES

SCRATCH = Path(".training/needle_report")
# Keys of `drawn` and fields of a needle that came later. With their defaults nothing is asked in
# another way, so answers that were kept before keep their names.
SEVERAL = ("keys", "values", "queries")
LATER = ("others", "distractors", "expected")
FORM = 2  # of a record; raise it when a record gets, loses or redefines a field
Answered = dict[str, list[dict[str, Any]]]  # key of what was asked -> records


def kept_file(tested: ModelUnderTest, trials: Trials) -> Path:
    """The file of this report's answers; it need not exist.

    Two reports share it exactly if they ask the same model the same prompts.
    """
    config = trials.config.model_dump_json(exclude=_as_before(trials.config))
    digest = sha256(f"{FORM} {config} {trials.reserve} {trials.cells}".encode())
    for needle in trials.needles:
        for field, value in sorted(vars(needle).items()):
            if field in LATER and not value:
                continue
            digest.update(field.encode())
            is_array = isinstance(value, np.ndarray)
            digest.update(value.tobytes() if is_array else repr(value).encode())
    digest.update(trials.ends.tobytes())
    how = trials.asking
    digest.update(repr((how.chat, how.begin, sorted(how.ends))).encode())
    digest.update(repr(_identity(tested)).encode())

    # A Hub id has a slash, and a name that begins with a point would be hidden.
    folder = tested.name.replace("/", "-").strip(".-")
    return SCRATCH / folder / f"{digest.hexdigest()[:16]}.jsonl"


def _as_before(config: NeedleReportConfig) -> dict[str, set[str]]:
    """The keys of `drawn` that say what was so before they were there."""
    if config.drawn is None:
        return {}
    return {"drawn": {key for key in SEVERAL if getattr(config.drawn, key) == 1}}


def _identity(tested: ModelUnderTest) -> list[Any]:
    """What distinguishes this model from others: its files, its endpoint and its dtype.

    Files count by their hashes where a record lists them, else by name, size and time.
    """
    record = tested.folder / RECORD
    files: Any = read_json(record).get("files") if record.is_file() else None
    if files is None:
        files = []
        for path in sorted(tested.folder.glob("*")):
            if path.suffix in MODEL_SUFFIXES:
                files.append((path.name, path.stat().st_size, path.stat().st_mtime_ns))
    endpoint = tested.endpoint.model_dump_json() if tested.endpoint else None
    return [files, endpoint, str(getattr(tested.model, "dtype", None))]


def origin_file(kept: Path) -> Path:
    """The file beside it that records which code and packages answered."""
    return kept.with_suffix(".origin.json")


def read_kept(kept: Path) -> Answered:
    """The answers so far: key -> records. Reports if code or packages have changed since."""
    found: Answered = {}
    if kept.is_file():
        # A kill may have cut off the last line. It is removed, so that the next one stands alone.
        content = kept.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        os.truncate(kept, len(whole))
        found = dict(json.loads(line) for line in whole.splitlines())

    changed = note(origin_file(kept), "needle_report", len(found))
    if changed:
        print(
            f"the answers at {len(found)} places so far were given under {changed}. "
            f"They are kept; to ask everything again, remove {kept}",
            file=sys.stderr,
        )
    return found


def keep(kept: Path, key: str, records: list[dict[str, Any]]) -> None:
    """Append one group of answers.

    key: names what was asked. records: rows of trials.csv.
    """
    kept.parent.mkdir(parents=True, exist_ok=True)
    with kept.open("a") as file:
        file.write(json.dumps([key, records]) + "\n")
