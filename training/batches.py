"""Rows of token ids for training: packed shards, or documents cut here to pretrain a small base.

Packed rows stay on disk, memory-mapped, and one batch is copied at a time. So a run over terabytes
holds one batch in memory. The rows of the sample base are cut in memory (16 MB for 6M tokens),
because its curriculum needs them at two lengths.
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
    """Rows of one length, read by number: what a model is trained on."""

    @property
    def count(self) -> int:
        """Number of rows."""

    @property
    def length(self) -> int:
        """Tokens in a row."""

    def take(self, numbers: NDArray[np.int64]) -> Batch:
        """The rows with these numbers, int64[n], in this order."""


@dataclass(frozen=True, kw_only=True)
class RowsInMemory:
    """Rows of unknown documents: each row counts as one document."""

    ids: Ids
    """uint16 or uint32[count, length]."""

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
        one_document = [np.zeros(1, np.int64)] * len(numbers)
        return Batch(ids=self.ids[numbers].astype(np.int64), starts=one_document)


@dataclass(frozen=True, kw_only=True)
class PackedRows:
    """The rows of a folder of packed shards, in order, memory-mapped."""

    length: int
    """Tokens in a row."""
    first: NDArray[np.int64]
    """Number of the first row of each block, then the count of all: int64[blocks + 1]."""
    blocks: Sequence[pa.RecordBatch]
    """Columns input_ids (fixed-size list of `length` ids) and source (list of spans)."""

    @property
    def count(self) -> int:
        """How many rows."""
        return int(self.first[-1])

    def take(self, numbers: NDArray[np.int64]) -> Batch:
        """The rows with these numbers, in this order. Raises IndexError for a missing number."""
        ids = np.empty((len(numbers), self.length), np.int64)
        starts = []
        for place, number in enumerate(numbers):
            if not 0 <= number < self.count:
                raise IndexError(f"row {number} of {self.count}")
            block = int(np.searchsorted(self.first, number, side="right")) - 1
            batch, local = self.blocks[block], int(number - self.first[block])

            # A fixed-size list's values ignore the list's own offset, so it is added here.
            tokens = batch.column("input_ids")
            at = (tokens.offset + local) * self.length
            ids[place] = tokens.values.slice(at, self.length).to_numpy()

            spans = batch.column("source")[local].values
            begins = spans.field("start").to_numpy(zero_copy_only=False)
            starts.append(begins.astype(np.int64))
        return Batch(ids=ids, starts=starts)


def open_rows(folder: Path) -> PackedRows:
    """The packed rows of a shard folder.

    Raises UserError if it holds no row, rows of several lengths, or a file that can't be read.
    """
    blocks: list[pa.RecordBatch] = []
    for path in sorted(folder.glob("train-*.arrow")):
        try:
            stream = pa.ipc.open_stream(pa.memory_map(str(path)))
            blocks += [batch for batch in stream if len(batch)]
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(
                f"{path}: {error}. Make it again: python -m orchestration.repro packed_shards"
            ) from None

    if not blocks:
        raise UserError(
            f"{folder}: no packed row there. "
            "Raise mixed_dataset.token_budget to at least packed_shards.chunk_length."
        )
    lengths = {block.schema.field("input_ids").type.list_size for block in blocks}
    if len(lengths) > 1:
        raise UserError(
            f"{folder}: rows of {sorted(lengths)} tokens side by side. Make them again: "
            "python -m orchestration.repro packed_shards"
        )

    sizes = [len(block) for block in blocks]
    first = np.cumsum([0, *sizes]).astype(np.int64)
    return PackedRows(
        length=lengths.pop(),
        blocks=blocks,
        first=first,
    )


def document_rows(corpus: Path, domains: Sequence[str], row_length: int, seed: int) -> Ids:
    """Training documents of these domains, shuffled, joined and cut: [rows, row_length].

    A remainder is dropped. Raises UserError if the documents don't fill one row.
    """
    documents = []
    for domain in sorted(domains):
        store = open_tokens(corpus / domain)
        documents += [store.document(int(i)) for i in np.flatnonzero(~store.heldout)]

    order = generator(seed, "documents").permutation(len(documents))
    tokens = np.concatenate([documents[i] for i in order])
    if len(tokens) < row_length:
        raise UserError(
            f"{corpus}: {len(tokens)} training tokens do not fill one row of {row_length}. "
            "Add documents."
        )
    whole_rows = len(tokens) // row_length
    return tokens[: whole_rows * row_length].reshape(-1, row_length)


def with_repeats(rows: Ids, share: float, tokens: NDArray[np.int64], seed: int) -> Ids:
    """`rows`, with a `share` of them replaced by rows that repeat one random span of `tokens`.

    Such rows teach copying by content before the language does. rows: [count, length];
    tokens: int64[n].
    """
    draw = generator(seed, "repeats", rows.shape[1])
    out = rows.copy()
    for row in np.flatnonzero(draw.random(len(rows)) < share):
        # 8 tokens to half a row, so that every span is repeated at least once.
        span = draw.choice(tokens, int(draw.integers(8, rows.shape[1] // 2)))
        out[row] = np.resize(span, rows.shape[1])
    return out


def row_order(count: int, needed: int, seed: int) -> NDArray[np.int64]:
    """The rows to train on, int64[needed]: each of `count` rows once per epoch.

    Every epoch has its own order, which depends on seed and epoch only. So a longer training
    begins with the rows of a shorter one.
    """
    epochs = []
    for epoch in range(-(-needed // count)):
        epochs.append(generator(seed, "epoch", epoch).permutation(count))
    return np.concatenate(epochs)[:needed].astype(np.int64)
