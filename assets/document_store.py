"""Documents on disk: one Arrow IPC stream per domain, in blocks of about a megabyte, not
compressed.

Columns: id (uint64), text (large_string), heldout (bool). Stock `datasets` opens it too. What is
read and written once for each change of a source should cost no more than copying it: compressing
by lz4 took as long as half of all parsing (docs/log.md). The cost is disk: as much as the text
itself, where zstd would take a third.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from core.errors import UserError
from core.missing import missing

FILE = "documents.arrow"
SCHEMA = pa.schema([("id", pa.uint64()), ("text", pa.large_string()), ("heldout", pa.bool_())])


@contextmanager
def document_writer(folder: Path) -> Iterator[pa.ipc.RecordBatchStreamWriter]:
    """Takes record batches of SCHEMA for the documents of `folder`."""
    with pa.OSFile(str(folder / FILE), "wb") as file, pa.ipc.new_stream(file, SCHEMA) as writer:
        yield writer


def read_documents(folder: Path) -> Iterator[pa.RecordBatch]:
    """The blocks of data/raw_corpus/DOMAIN, one in memory at a time. Raises UserError where the
    file is missing or broken.
    """
    path = folder / FILE
    try:
        # Read, not mapped: mapped pages would count as this process's memory until the last
        # document is done.
        with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as batches:
            yield from batches
    except FileNotFoundError:
        raise missing(path) from None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path}: {error}. Make it again: python -m orchestration.repro raw_corpus"
        ) from None


def texts_of(batch: pa.RecordBatch, heldout: bool | None = None) -> list[str]:
    """The texts of a block: all, or those of one split."""
    texts = (
        batch["text"]
        if heldout is None
        else batch["text"].filter(
            batch["heldout"]
            if heldout
            else pa.array(~batch["heldout"].to_numpy(zero_copy_only=False))
        )
    )
    return list(texts.to_pylist())


def utf8_of(batch: pa.RecordBatch) -> list[bytes]:
    """The texts of a block as UTF-8."""
    return list(batch["text"].view(pa.large_binary()).to_pylist())
