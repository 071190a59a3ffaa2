"""Document store: the documents of a domain as one Arrow IPC stream, without compression.

Columns: id (uint64), text (large_string), heldout (bool), in batches of about a megabyte. Stock
`datasets` opens the file too.

Compression with lz4 took half as long as all parsing (docs/log.md), and the file is written and
read once for each change of a source. The cost: the file is as large as the text. zstd would need a
third of that.
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
    """A writer of record batches with SCHEMA, for the documents of `folder`."""
    with pa.OSFile(str(folder / FILE), "wb") as file, pa.ipc.new_stream(file, SCHEMA) as writer:
        yield writer


def read_documents(folder: Path) -> Iterator[pa.RecordBatch]:
    """The batches of data/raw_corpus/DOMAIN, one in memory at a time.

    Raises UserError if the file is missing or broken.
    """
    path = folder / FILE
    try:
        # Read, not mapped: mapped pages would count as memory of this process until the end.
        with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as batches:
            yield from batches
    except FileNotFoundError:
        raise missing(path) from None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path}: {error}. Make it again: python -m orchestration.repro raw_corpus"
        ) from None


def texts_of(batch: pa.RecordBatch, heldout: bool | None = None) -> list[str]:
    """The texts of a batch: of one split, or of both (None)."""
    texts = batch["text"]
    if heldout is not None:
        wanted = batch["heldout"].to_numpy(zero_copy_only=False) == heldout
        texts = texts.filter(pa.array(wanted))
    return list(texts.to_pylist())


def utf8_of(batch: pa.RecordBatch) -> list[bytes]:
    """The texts of a batch as UTF-8."""
    # A view: Arrow stores UTF-8 already.
    return list(batch["text"].view(pa.large_binary()).to_pylist())
