"""Ingestion: from records to documents, a block of about a megabyte at a time.

Each record is normalised, and dropped if it is empty, too long, a duplicate or contaminated. The
rest gets an id and its split. The id is a hash of the normalised text, and the split is decided by
the id alone. So a new document never moves another one from training to the held-out split, and a
text in two domains is held out in both or in neither.

The cost: duplicates are exact ones only, and to find them 8 bytes for every document stay in
memory.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assets.contamination import Index, contaminated
from assets.demand import Demand
from assets.document_store import SCHEMA
from assets.documents import OTHER_DOMAIN
from assets.randomness import fractions
from assets.raw_corpus_config import RawCorpusConfig
from assets.records import Skipped
from assets.tally import (
    CONTAMINATED,
    DUPLICATE,
    EMPTY,
    LONE_SURROGATES,
    TOO_LONG,
    ZERO_BYTES,
    Tally,
    check,
)
from core.progress import Progress

BLOCK = 1 << 20
"""Bytes of text in a block. A megabyte stays in the processor's cache from step to step."""
MANY = 10_000
"""Records in a block at most, for corpora of very short texts."""
SETTLED = 1000
"""While fewer records are read, a limit is a share of this many."""
MOSTLY = 0.5
"""While records are read, a lower limit counts as this one. A limit is a share of all records of the
domain, and a bad file may come first. A wrong field's name still ends the stage at once."""
BLANK = re.compile(r"[\s\0]*")
"""A text without content. Zero bytes are dropped from every text, so they count as blanks."""

Located = tuple[str, int, str | Skipped]
"""File, line or row number, and the text or why there is none."""


class Document(NamedTuple):
    """A document, and the place of its record. A tuple: a dataclass takes longer to make."""

    identity: int
    text: bytes
    """Normalised, UTF-8."""
    file: str
    line: int


class Seen:
    """A set of 64-bit ids at 8 bytes each: a sorted array, and a small set of the newest ids.

    A Python set alone would take about 60 bytes an id. The cost: the array is sorted again after
    every `merge_after` new ids.
    """

    def __init__(self, merge_after: int = 1 << 19) -> None:
        self._sorted: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._recent: set[int] = set()
        self._merge_after = merge_after

    def add(self, identity: int) -> bool:
        """Add an id. Returns whether it is new."""
        if identity in self._recent:
            return False
        place = bisect_left(self._sorted, identity) if len(self._sorted) else 0
        if place < len(self._sorted) and int(self._sorted[place]) == identity:
            return False

        self._recent.add(identity)
        if len(self._recent) >= self._merge_after:
            recent = np.fromiter(self._recent, np.uint64, len(self._recent))
            # The stable kind is fast for an array that is sorted up to its end.
            self._sorted = np.sort(np.concatenate([self._sorted, recent]), kind="stable")
            self._recent = set()
        return True


def ingest(
    records: Iterable[Located],
    config: RawCorpusConfig,
    source: Path,
    demand: Demand,
    index: Index,
    tally: Tally,
) -> Iterator[pa.RecordBatch]:
    """The documents kept, a block at a time (schema: document_store.SCHEMA).

    It ends after the block that meets the demand. `tally` counts along.

    records: of one domain, in the order of its files.
    source: for messages.
    demand: the tokens at which reading may stop.
    index: the evaluation texts.
    Raises UserError if a reason takes more than its limit.
    """
    seen = Seen()
    progress = Progress("documents", None, "doc")
    supply = long_supply = 0.0
    for block in blocks(records):
        tally.parts.update(file for file, _, _ in block)
        documents = novel(block, config.longest, seen, tally)
        documents = without_contaminated(documents, index, tally)

        heldout = held_out(documents, config.seed, config.heldout_fraction)
        sizes = np.array([len(document.text) for document in documents], np.int64)
        counts = {"documents": len(documents), "heldout": heldout.sum(), "bytes": sizes.sum()}
        tally.counts.update({name: int(count) for name, count in counts.items()})
        check(tally, config.limits, source, max(tally.records, SETTLED), MOSTLY)

        yield _batch(documents, heldout)
        progress.add(len(documents))

        # Only documents that may train count. There is no tokenizer yet, so bytes stand for tokens.
        tokens = sizes[~heldout] / demand.bytes_per_token
        supply += tokens.sum()
        long_supply += tokens[tokens > demand.long_over].sum()
        if demand.met(supply, long_supply):
            break
    progress.close()


def blocks(records: Iterable[Located]) -> Iterator[list[Located]]:
    """The records in lists of about BLOCK bytes of text."""
    block: list[Located] = []
    size = 0
    for record in records:
        block.append(record)
        text = record[2]
        size += len(text) if isinstance(text, str) else 0
        if size >= BLOCK or len(block) == MANY:
            yield block
            block, size = [], 0
    if block:
        yield block


def novel(block: Sequence[Located], longest: int, seen: Seen, tally: Tally) -> list[Document]:
    """The documents of a block that are not in `seen`. `tally` counts why others are skipped.

    longest: bytes of UTF-8. A longer document is skipped.
    """
    kept = []
    for file, line, text in block:
        if not isinstance(text, str):
            if text.reason == OTHER_DOMAIN:
                tally.leave(text)
            else:
                tally.skip(text, file, line)
            continue
        if BLANK.fullmatch(text):
            tally.skip(EMPTY, file, line)
            continue

        normal, changes = normalised(text)
        if len(normal) > longest:
            tally.skip(TOO_LONG, file, line)
            continue
        identity = int.from_bytes(blake2b(normal, digest_size=8).digest(), "big")
        if not seen.add(identity):
            tally.skip(DUPLICATE, file, line)
            continue

        kept.append(Document(identity, normal, file, line))
        for change in changes:
            tally.change(change, file, line)
    return kept


def normalised(text: str) -> tuple[bytes, list[Skipped]]:
    """The text as UTF-8 with LF as line ends, and a list of other changes that were necessary.

    Lone surrogates become question marks. Zero bytes are dropped.
    """
    changes = []
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        encoded = text.encode("utf-8", "replace")
        changes.append(LONE_SURROGATES)

    # Searching first is cheaper than replacing: few texts have these bytes.
    if b"\r" in encoded:
        encoded = encoded.replace(b"\r\n", b"\n")
    if b"\x00" in encoded:
        encoded = encoded.replace(b"\x00", b"")
        changes.append(ZERO_BYTES)
    return encoded, changes


def without_contaminated(documents: list[Document], index: Index, tally: Tally) -> list[Document]:
    """The documents without a passage of the evaluation texts."""
    dropped = set(contaminated(index, [document.text for document in documents]))
    for number in sorted(dropped):
        tally.skip(CONTAMINATED, documents[number].file, documents[number].line)
        tally.contaminated[documents[number].file] += 1
    return [document for number, document in enumerate(documents) if number not in dropped]


def held_out(documents: Sequence[Document], seed: int, fraction: float) -> NDArray[np.bool_]:
    """Whether each document is held out, by its id alone. bool[documents]."""
    ids = (f"{document.identity:016x}" for document in documents)
    return np.array([draw < fraction for draw in fractions(ids, seed, "heldout")], np.bool_)


def _batch(documents: Sequence[Document], heldout: NDArray[np.bool_]) -> pa.RecordBatch:
    """The documents as a record batch of SCHEMA. heldout: bool[documents]."""
    ids = pa.array([document.identity for document in documents], pa.uint64())
    # A view as string: the texts are valid UTF-8. Checking that again takes 0.8 ms a megabyte.
    texts = pa.array([document.text for document in documents], pa.large_binary())
    columns = [ids, texts.view(pa.large_string()), pa.array(heldout)]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
