"""Which documents hold a passage of the evaluation texts.

Texts are compared as their letters and digits alone, lower-cased (ASCII; other bytes as they are), so that spacing,
punctuation and markup can't hide a copy; a document is contaminated when it shares a run of `run` such characters
with an evaluation text (the idea of 50-character runs: GPT-4 technical report, appendix C). Every position of the
evaluation texts is indexed (17 bytes a character); a document is looked at only every few characters, at windows so
placed that no run of that length can lie between them. Each hit is then compared byte by byte: no false alarm.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assets.documents import FIELD_MISSING, Fields, Skipped, document_files, read_texts
from assets.stage import UserError

LANE = 8
LONGEST_TEXT = 64 << 20
SECTION = "raw_corpus.decontamination"
TABLE_BITS = 20
BETWEEN = b"\0"  # the one byte that is neither dropped nor part of a text: no run crosses it
DROPPED = 1
MAPPED = bytes(DROPPED if 0 < code < 128 and not chr(code).isalnum() else code for code in bytes(range(256)).lower())
"""Every byte to its lower case, and all that is not compared to one mark."""


@dataclass(frozen=True, kw_only=True)
class Index:
    """The evaluation texts, ready to be found."""

    run: int
    """Characters (UTF-8 bytes of letters and digits) in common that make a document contaminated."""
    texts: NDArray[np.uint8]
    """All texts, reduced to what is compared, with a zero byte between two."""
    hashes: NDArray[np.uint64]
    """Hashes of all windows of `texts`, ascending."""
    positions: NDArray[np.int64]
    """Where in `texts` each of them starts."""
    table: NDArray[np.bool_]
    """Whether any hash begins with these bits: turns away nearly every window of a clean document at once."""
    evaluation_texts: int
    """How many there are."""
    too_short: int
    """Evaluation texts of fewer characters than `run`: nothing can match them."""

    @property
    def window(self) -> int:
        """Bytes hashed at one place."""
        return LANE * ((self.run + 1) // (2 * LANE))

    @property
    def stride(self) -> int:
        """From window to window: any run of `run` bytes holds a whole one."""
        return self.run - self.window + 1


def read_index(source: Path, text_field: str, run: int) -> Index:
    """The index of every text in `source`: a file or folder as raw_corpus takes them. run: at least 15.

    Raises UserError, with file and line, for a record without a text, which nothing could be compared with, and where
    every text is too short: what can't be searched for must not pass for what was not found.
    """
    index = build_index(list(_evaluation_texts(source, text_field)), run)
    if index.too_short == index.evaluation_texts:
        raise UserError(f"{source}: of its {index.evaluation_texts:,} evaluation texts none has {run} letters and "
                        f"digits, so no document can share so many. Lower {SECTION}.run, correct {SECTION}.text_field, "
                        "or switch decontamination off with run: null.")
    print(f"evaluation texts: {index.evaluation_texts:,}, of which {index.too_short:,} hold fewer than {run} letters "
          "and digits and can't be searched for", file=sys.stderr)
    return index


def _evaluation_texts(source: Path, text_field: str) -> Iterator[str]:
    fields = Fields(text=text_field, section=SECTION)
    for path in document_files(source, f"{SECTION}.against").read:
        for number, text in read_texts(path, fields, LONGEST_TEXT):
            if isinstance(text, Skipped):
                why = text.detail if text.reason == FIELD_MISSING else text.reason
                raise UserError(f"{path}, record {number}: {why}. Documents can't be compared with it: mend the record "
                                "or take it out.")
            yield text


def build_index(texts: Sequence[str], run: int) -> Index:
    """Index evaluation texts."""
    if run < 2 * LANE - 1:
        raise ValueError(f"run = {run}, but fewer than {2 * LANE - 1} characters say nothing about contamination")
    reduced = [compared(text.encode("utf-8", "replace")).tobytes() for text in texts]
    joined = np.frombuffer(BETWEEN.join(reduced), np.uint8)
    blank = Index(run=run, texts=joined, hashes=np.empty(0, np.uint64), positions=np.empty(0, np.int64),
                  table=np.zeros(1 << TABLE_BITS, np.bool_), evaluation_texts=len(texts),
                  too_short=sum(len(text) < run for text in reduced))
    hashes = _window_hashes(joined, blank.window, 1)
    order = np.argsort(hashes, kind="stable")
    table = blank.table.copy()
    table[hashes >> np.uint64(64 - TABLE_BITS)] = True
    return replace(blank, hashes=hashes[order], positions=order, table=table)


def compared(text: bytes) -> NDArray[np.uint8]:
    """The letters and digits of a text, lower-cased: what is compared. Zero bytes stay."""
    mapped = np.frombuffer(text.translate(MAPPED), np.uint8)
    return mapped.compress(mapped != DROPPED)  # half the time of `translate` with bytes to delete


def contaminated(index: Index, documents: Sequence[bytes]) -> list[int]:
    """Numbers of the documents (UTF-8, without zero bytes) that share a run with an evaluation text, ascending."""
    if not len(index.hashes) or not documents:
        return []
    joined = compared(BETWEEN.join(documents))
    hashes = _window_hashes(joined, index.window, index.stride)
    likely = np.flatnonzero(index.table[hashes >> np.uint64(64 - TABLE_BITS)])
    first = np.searchsorted(index.hashes, hashes[likely], side="left")
    last = np.searchsorted(index.hashes, hashes[likely], side="right")
    ends = np.flatnonzero(joined == 0)
    found: set[int] = set()
    for window, low, high in zip(likely[last > first], first[last > first], last[last > first], strict=True):
        position = int(window) * index.stride
        number = int(np.searchsorted(ends, position))
        if number not in found and any(_common_run(index, joined, position, int(there)) >= index.run
                                       for there in index.positions[low:high]):
            found.add(number)
    return sorted(found)


def _common_run(index: Index, joined: NDArray[np.uint8], here: int, there: int) -> int:
    """Bytes in common around one place of the documents and one of the evaluation texts, counted up to `run` a side."""
    forward = _common(joined[here:here + index.run], index.texts[there:there + index.run])
    backward = _common(joined[max(here - index.run, 0):here][::-1], index.texts[max(there - index.run, 0):there][::-1])
    return forward + backward


def _common(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> int:
    """Length of the common prefix; a zero byte ends it, for it stands between texts."""
    size = min(len(left), len(right))
    unequal = np.flatnonzero((left[:size] != right[:size]) | (left[:size] == 0))
    return int(unequal[0]) if len(unequal) else size


def _window_hashes(joined: NDArray[np.uint8], window: int, stride: int) -> NDArray[np.uint64]:
    """Hash of the `window` bytes at every `stride`-th place. uint64[places]."""
    places = max((len(joined) - window) // stride + 1, 0)
    if not places:
        return np.empty(0, np.uint64)
    windows = np.lib.stride_tricks.as_strided(joined, (places, window), (stride, 1))
    lanes = np.ascontiguousarray(windows).view(np.uint64)
    mixed = np.zeros(places, np.uint64)
    for lane in range(window // LANE):
        mixed = (mixed ^ lanes[:, lane]) * np.uint64(0x9E37_79B9_7F4A_7C15)
        mixed ^= mixed >> np.uint64(29)
    return mixed * np.uint64(0xBF58_476D_1CE4_E5B9)
