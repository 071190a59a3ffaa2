"""The rows that train: exactly `chunk_length` token ids each, with their source spans, as Arrow IPC streams.

Columns as in the set the paper's authors published: `input_ids`, and `source`, a list of {source, start, end}. Stock
`datasets.load_dataset("arrow", data_files=...)` opens them. A shard holds about half a gigabyte, for DVC is slow with
many files and copies are slow with one.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from assets.packing import Row, pack
from assets.progress import Progress
from assets.stage import Config, UserError, command, output, read_params
from assets.token_store import Tokens, open_tokens

INDEX = "index.parquet"
SHARD_BYTES = 512 << 20
ROWS_AT_ONCE = 64
SOURCE = pa.list_(pa.struct([("source", pa.string()), ("start", pa.int32()), ("end", pa.int32())]))


class PackedShardsConfig(Config):
    """The shape of the rows."""

    chunk_length: Annotated[int, Field(ge=2)]
    """Tokens in a row (the paper: 81,920 for 7B)."""


def run(name: str) -> None:
    """Make data/packed_shards/NAME."""
    config = read_params("packed_shards", PackedShardsConfig)
    index = pq.read_table(Path("data/mixed_dataset") / name / INDEX)
    total = int(np.sum(index["stop"].to_numpy() - index["start"].to_numpy()))
    if total < config.chunk_length:
        raise UserError(f"packed_shards.chunk_length = {config.chunk_length:,}, but recipe {name!r} holds {total:,} "
                        "tokens: not one row. Raise mixed_dataset.token_budget or lower the chunk length.")
    with output("packed_shards", name) as out:
        rows = pack(spans(index, Path("data/tokenized_corpus")), config.chunk_length)
        written, shards = write_shards(rows, config.chunk_length, total // config.chunk_length, out.folder)
        tokens = written * config.chunk_length
        out.facts = out.metrics = {"rows": written, "tokens": tokens, "dropped_remainder": total - tokens,
                                   "shards": shards}


def spans(index: pa.Table, corpus: Path) -> Iterator[tuple[str, Tokens]]:
    """(domain, tokens) of every span of a mixed dataset, in its order: views into the memory-mapped stores."""
    names = index["domain"].unique().to_pylist()
    stores = {name: open_tokens(corpus / name) for name in names}
    for batch in index.to_batches():
        columns = (batch[name].to_pylist() for name in ("domain", "document", "start", "stop"))
        for domain, document, start, stop in zip(*columns, strict=True):
            yield domain, stores[domain].document(document, start, stop)


def write_shards(rows: Iterator[Row], chunk_length: int, expected: int, folder: Path) -> tuple[int, int]:
    """Write train-00000.arrow and so on; returns how many rows and shards."""
    progress = Progress("rows", expected, "row")
    written = shards = 0
    row = next(rows, None)
    while row is not None:
        kind = pa.from_numpy_dtype(row.tokens.dtype)
        schema = pa.schema([("input_ids", pa.list_(kind, chunk_length)), ("source", SOURCE)])
        room = max(SHARD_BYTES // (chunk_length * row.tokens.itemsize), 1)
        with ExitStack() as open_files:
            file = open_files.enter_context(pa.OSFile(str(folder / f"train-{shards:05d}.arrow"), "wb"))
            writer = open_files.enter_context(pa.ipc.new_stream(file, schema))
            while row is not None and room > 0:
                held: list[Row] = []
                while row is not None and len(held) < min(ROWS_AT_ONCE, room):
                    held.append(row)
                    row = next(rows, None)
                writer.write_batch(_batch(held, schema))
                room, written = room - len(held), written + len(held)
                progress.add(len(held))
        shards += 1
    progress.close()
    return written, shards


def _batch(rows: list[Row], schema: pa.Schema) -> pa.RecordBatch:
    tokens = pa.array(np.concatenate([row.tokens for row in rows]))
    sources = [[{"source": source, "start": start, "end": end} for source, start, end in row.sources] for row in rows]
    return pa.RecordBatch.from_arrays(
        [pa.FixedSizeListArray.from_arrays(tokens, type=schema.field("input_ids").type),
         pa.array(sources, schema.field("source").type)], schema=schema)


if __name__ == "__main__":
    command(run, "recipe")
