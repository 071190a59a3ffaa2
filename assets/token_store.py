"""Tokenized documents on disk: one Arrow IPC stream per domain, opened memory-mapped, nothing copied until asked for.

Columns: id (uint64), heldout (bool), input_ids (large_list of uint16 or uint32, by vocabulary). Stock `datasets` opens
it too. Each record batch is a contiguous run of tokens; a document is a view into one of them. A view's pages count as
this process's memory, and 64 KB around each; `read` copies instead, for work that touches the whole file.
"""

import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assets.stage import UserError

FILE = "documents.arrow"
Tokens = NDArray[np.uint16 | np.uint32]


@dataclass(frozen=True, kw_only=True)
class TokenStore:
    """The documents of one domain, in file order."""

    ids: NDArray[np.uint64]
    heldout: NDArray[np.bool_]
    """Whether no recipe may train on it."""
    lengths: NDArray[np.int64]
    """Tokens in each document, int64[documents]."""
    batches: list[tuple[NDArray[np.int64], Tokens]]
    """Per record batch: offsets int64[n + 1] and the tokens they cut."""
    first_of_batch: NDArray[np.int64]
    file: BinaryIO
    address: int
    """Where in memory the mapped file begins."""

    def document(self, number: int, start: int = 0, stop: int | None = None) -> Tokens:
        """Tokens `start` to `stop` of document `number`: a read-only view, uint16 or uint32."""
        batch = int(np.searchsorted(self.first_of_batch, number, side="right")) - 1
        offsets, tokens = self.batches[batch]
        local = number - int(self.first_of_batch[batch])
        return tokens[offsets[local]:offsets[local + 1]][start:stop]

    def read(self, number: int, start: int, stop: int) -> Tokens:
        """The same tokens, copied from the file."""
        view = self.document(number, start, stop)
        place = view.__array_interface__["data"][0] - self.address
        return np.frombuffer(os.pread(self.file.fileno(), view.nbytes, place), view.dtype)


def token_type(vocabulary: int) -> pa.DataType:
    """uint16 where every id fits, else uint32."""
    return pa.uint16() if vocabulary <= 1 << 16 else pa.uint32()


def schema(vocabulary: int) -> pa.Schema:
    """Schema of documents.arrow for a vocabulary of that size."""
    return pa.schema([("id", pa.uint64()), ("heldout", pa.bool_()),
                      ("input_ids", pa.large_list(token_type(vocabulary)))])


def open_tokens(folder: Path) -> TokenStore:
    """Open data/tokenized_corpus/DOMAIN. Raises UserError if its file is missing or broken."""
    path = folder / FILE
    try:
        file = path.open("rb")
        mapping = pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        table = pa.ipc.open_stream(pa.BufferReader(mapping)).read_all()
    except (OSError, ValueError) as error:  # ArrowInvalid, and an empty file, are ValueErrors
        raise UserError(f"{path}: {error}. Make it again: dvc repro tokenized_corpus") from None
    chunks = table.column("input_ids").chunks
    batches = [(chunk.offsets.to_numpy(), chunk.values.to_numpy(zero_copy_only=True)) for chunk in chunks]
    counts = [len(chunk) for chunk in chunks]
    lengths = [np.diff(offsets) for offsets, _ in batches]
    return TokenStore(
        ids=table.column("id").to_numpy(), heldout=table.column("heldout").to_numpy(), file=file,
        address=mapping.address,
        lengths=np.concatenate(lengths) if lengths else np.empty(0, np.int64), batches=batches,
        first_of_batch=np.cumsum([0, *counts])[:-1].astype(np.int64))
