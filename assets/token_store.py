"""Tokenized documents on disk: one Arrow IPC stream per domain, opened memory-mapped, nothing
copied until asked for.

Columns: id (uint64), heldout (bool), input_ids (large_list of uint16 or uint32, by the largest id).
Stock `datasets` opens it too. Each record batch is a contiguous run of tokens; a document is a view
into one of them. A view's pages count as this process's memory, and 64 KB around each; `read`
copies instead, for work that touches the whole file.
"""

import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.errors import UserError
from core.missing import missing

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
    places: NDArray[np.int64]
    """The byte of the file at which its first token stands, int64[documents]."""
    kind: np.dtype[np.uint16 | np.uint32]
    file: BinaryIO
    mapping: mmap.mmap

    def document(self, number: int) -> Tokens:
        """The tokens of document `number`: a read-only view, uint16 or uint32."""
        return np.frombuffer(
            self.mapping, self.kind, int(self.lengths[number]), int(self.places[number])
        )

    def read(self, place: int, target: memoryview) -> None:
        """Fill `target` with the bytes of the file from `place` on."""
        if os.preadv(self.file.fileno(), [target], place) != len(target):
            raise OSError(f"{self.file.name}: shorter than when it was opened")


def token_type(largest: int) -> pa.DataType:
    """uint16 where ids up to `largest` fit, else uint32."""
    return pa.uint16() if largest < 1 << 16 else pa.uint32()


def schema(largest: int) -> pa.Schema:
    """Schema of documents.arrow for a tokenizer of ids up to `largest`: ids may have holes, so a
    count won't do.
    """
    return pa.schema(
        [
            ("id", pa.uint64()),
            ("heldout", pa.bool_()),
            ("input_ids", pa.large_list(token_type(largest))),
        ]
    )


def open_tokens(folder: Path) -> TokenStore:
    """Open data/tokenized_corpus/DOMAIN. Raises UserError if its file is missing or broken."""
    path = folder / FILE
    try:
        file = path.open("rb")
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        buffer = pa.py_buffer(mapping)
        table = pa.ipc.open_stream(pa.BufferReader(buffer)).read_all()
    except FileNotFoundError:
        raise missing(path) from None
    except (OSError, ValueError) as error:  # ArrowInvalid, and an empty file, are ValueErrors
        raise UserError(
            f"{path}: {error}. Make it again: python -m orchestration.repro tokenized_corpus"
        ) from None
    kind = np.dtype(table.schema.field("input_ids").type.value_type.to_pandas_dtype())
    lengths, places = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for chunk in table.column("input_ids").chunks:
        offsets = chunk.offsets.to_numpy()
        lengths.append(np.diff(offsets))
        places.append(
            chunk.values.buffers()[1].address - buffer.address + offsets[:-1] * kind.itemsize
        )
    return TokenStore(
        ids=table.column("id").to_numpy(),
        heldout=table.column("heldout").to_numpy(),
        kind=kind,
        file=file,
        mapping=mapping,
        lengths=np.concatenate(lengths),
        places=np.concatenate(places),
    )
