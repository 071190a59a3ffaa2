"""Rows of token ids for training: from packed shards, or cut here from whole documents for
pretraining a small base.

Packed rows stay on disk, memory-mapped, and are copied one batch at a time, so a run over terabytes
holds one batch. The rows of the sample base are cut in memory (16 MB for 6M tokens), because its
curriculum needs them at two lengths.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assets.randomness import generator
from assets.token_store import open_tokens
from core.errors import UserError

Ids = NDArray[np.uint16 | np.uint32]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some rows."""

    ids: NDArray[np.int64]
    """Token ids, int64[n, row_length]."""
    starts: Sequence[NDArray[np.int64]]
    """For each row, where its documents begin, ascending from 0."""


class Rows(Protocol):
    """What can be trained on: rows of one length, by number."""

    @property
    def count(self) -> int:
        """How many rows."""

    @property
    def length(self) -> int:
        """Tokens in each."""

    def take(self, numbers: NDArray[np.int64]) -> Batch:
        """The rows of these numbers, in this order."""


@dataclass(frozen=True, kw_only=True)
class RowsInMemory:
    """Rows whose documents are not known: each counts as one. ids: [count, length]."""

    ids: Ids

    @property
    def count(self) -> int:
        """How many rows."""
        return len(self.ids)

    @property
    def length(self) -> int:
        """Tokens in each."""
        return int(self.ids.shape[1])

    def take(self, numbers: NDArray[np.int64]) -> Batch:
        """The rows of these numbers, in this order."""
        return Batch(
            ids=self.ids[numbers].astype(np.int64), starts=[np.zeros(1, np.int64)] * len(numbers)
        )


@dataclass(frozen=True, kw_only=True)
class PackedRows:
    """The rows of a folder of packed shards, in order, memory-mapped."""

    length: int
    first: NDArray[np.int64]
    """Number of the first row of each block, and last of all the count, int64[blocks + 1]."""
    blocks: Sequence[pa.RecordBatch]

    @property
    def count(self) -> int:
        """How many rows."""
        return int(self.first[-1])

    def take(self, numbers: NDArray[np.int64]) -> Batch:
        """The rows of these numbers, in this order. Raises IndexError for one that is not there."""
        ids, starts = np.empty((len(numbers), self.length), np.int64), []
        for place, number in enumerate(numbers):
            if not 0 <= number < self.count:
                raise IndexError(f"row {number} of {self.count}")
            block = int(np.searchsorted(self.first, number, side="right")) - 1
            batch, local = self.blocks[block], int(number - self.first[block])
            tokens, sources = batch.column("input_ids"), batch.column("source")
            ids[place] = tokens.values.slice(
                (tokens.offset + local) * self.length, self.length
            ).to_numpy()
            starts.append(
                sources[local].values.field("start").to_numpy(zero_copy_only=False).astype(np.int64)
            )
        return Batch(ids=ids, starts=starts)


def open_rows(folder: Path) -> PackedRows:
    """The packed rows of a shard folder. Raises UserError if there is no row, or rows of several
    lengths.
    """
    blocks: list[pa.RecordBatch] = []
    for path in sorted(folder.glob("train-*.arrow")):
        try:
            blocks += [
                batch for batch in pa.ipc.open_stream(pa.memory_map(str(path))) if len(batch)
            ]
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(
                f"{path}: {error}. Make it again: python -m orchestration.repro packed_shards"
            ) from None
    if not blocks:
        raise UserError(
            f"{folder}: no packed row there. Raise mixed_dataset.token_budget to at least "
            "packed_shards.chunk_length."
        )
    lengths = {block.schema.field("input_ids").type.list_size for block in blocks}
    if len(lengths) > 1:
        raise UserError(
            f"{folder}: rows of {sorted(lengths)} tokens side by side. Make them again: "
            "python -m orchestration.repro packed_shards"
        )
    return PackedRows(
        length=lengths.pop(),
        blocks=blocks,
        first=np.cumsum([0, *(len(block) for block in blocks)]).astype(np.int64),
    )


def document_rows(corpus: Path, domains: Sequence[str], row_length: int, seed: int) -> Ids:
    """Training documents of these domains, shuffled, joined, cut into [rows, row_length]. A
    remainder is dropped.
    """
    documents = []
    for domain in sorted(domains):
        store = open_tokens(corpus / domain)
        documents += [store.document(int(i)) for i in np.flatnonzero(~store.heldout)]
    order = generator(seed, "documents").permutation(len(documents))
    tokens = np.concatenate([documents[i] for i in order])
    if len(tokens) < row_length:
        raise UserError(
            f"{corpus}: {len(tokens)} training tokens do not fill one row of {row_length}. Add "
            "documents."
        )
    return tokens[: len(tokens) // row_length * row_length].reshape(-1, row_length)


def with_repeats(rows: Ids, share: float, tokens: NDArray[np.int64], seed: int) -> Ids:
    """`rows` with a `share` of them replaced by a random span of `tokens` repeated until the row is
    full.

    Such rows teach copying by content before the language does; spans are 8 to half a row long.
    """
    draw = generator(seed, "repeats", rows.shape[1])
    out = rows.copy()
    for row in np.flatnonzero(draw.random(len(rows)) < share):
        span = draw.choice(tokens, int(draw.integers(8, rows.shape[1] // 2)))
        out[row] = np.resize(span, rows.shape[1])
    return out


def row_order(count: int, needed: int, seed: int) -> NDArray[np.int64]:
    """`needed` row numbers out of `count`: each row once per epoch, every epoch in its own order.
    int64[needed].
    """
    epochs = [
        generator(seed, "epoch", epoch).permutation(count) for epoch in range(-(-needed // count))
    ]
    return np.concatenate(epochs)[:needed].astype(np.int64)
