"""Rows of token ids for training: from packed shards, or cut here from whole documents for pretraining a small base.

Packed rows stay on disk, memory-mapped, and are copied one batch at a time. The rows of the sample base are cut in
memory (16 MB for 6M tokens), because its curriculum needs them at two lengths.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assets.randomness import generator
from assets.stage import UserError
from assets.token_store import open_tokens


def open_rows(folder: Path) -> NDArray[np.uint16 | np.uint32]:
    """The packed rows of a shard folder, in order: uint16 or uint32 [rows, chunk_length].

    One shard is a view of the memory-mapped file; several are joined by a copy. Raises UserError if there is no row.
    """
    shards = [_shard_rows(path) for path in sorted(folder.glob("train-*.arrow"))]
    filled = [rows for rows in shards if len(rows)]
    if not filled:
        raise UserError(f"{folder}: no packed row there. Raise mixed_dataset.token_budget to at least "
                        "packed_shards.chunk_length.")
    return filled[0] if len(filled) == 1 else np.concatenate(filled)


def _shard_rows(path: Path) -> NDArray[np.uint16 | np.uint32]:
    table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    batches = [_batch_rows(chunk) for chunk in table.column("input_ids").chunks if len(chunk)]
    return np.concatenate(batches) if batches else np.empty((0, 1), np.uint16)


def _batch_rows(column: pa.FixedSizeListArray) -> NDArray[np.uint16 | np.uint32]:
    return column.flatten().to_numpy(zero_copy_only=True).reshape(len(column), -1)


def document_rows(corpus: Path, row_length: int, seed: int) -> NDArray[np.uint16 | np.uint32]:
    """Training documents of every domain, shuffled, joined, cut into [rows, row_length]. A remainder is dropped."""
    documents = []
    for domain in sorted(path.name for path in corpus.iterdir() if not path.name.startswith(".")):
        store = open_tokens(corpus / domain)
        documents += [store.document(int(i)) for i in np.flatnonzero(~store.heldout)]
    order = generator(seed, "documents").permutation(len(documents))
    tokens = np.concatenate([documents[i] for i in order])
    if len(tokens) < row_length:
        raise UserError(f"{corpus}: {len(tokens)} training tokens do not fill one row of {row_length}. Add documents.")
    return tokens[: len(tokens) // row_length * row_length].reshape(-1, row_length)


def with_repeats(rows: NDArray[np.uint16 | np.uint32], share: float, tokens: NDArray[np.int64], seed: int
                 ) -> NDArray[np.uint16 | np.uint32]:
    """`rows` with a `share` of them replaced by a random span of `tokens` repeated until the row is full.

    Such rows teach copying by content before the language does; spans are 8 to half a row long.
    """
    draw = generator(seed, "repeats", rows.shape[1])
    out = rows.copy()
    for row in np.flatnonzero(draw.random(len(rows)) < share):
        span = draw.choice(tokens, int(draw.integers(8, rows.shape[1] // 2)))
        out[row] = np.resize(span, rows.shape[1])
    return out
