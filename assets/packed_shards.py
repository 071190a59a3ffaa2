"""The rows that train: exactly `chunk_length` token ids each, with their source spans, as Arrow IPC
streams.

Columns as in the set the paper's authors published: `input_ids`, and `source`, a list of {source,
start, end} which tile the row, so that training can mask across documents or not. Stock
`datasets.load_dataset("arrow", data_files=...)` opens them. A shard holds about half a gigabyte,
for DVC is slow with many files and copies are slow with one. Memory holds a few megabytes of rows
and 60 bytes for each piece of the layout.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from assets.packing import (
    Layout,
    best_fit,
    concatenate,
    copies_together,
    cuts,
    shuffled_rows,
    spans_cut,
)
from assets.randomness import generator
from assets.token_store import Tokens, TokenStore, open_tokens
from core.command import command
from core.errors import UserError
from core.params import Config, read_params
from core.progress import Progress
from core.sealed import output

INDEX = "index.parquet"
SHARD_BYTES = 512 << 20
BLOCK_BYTES = 8 << 20
SOURCE = pa.struct([("source", pa.string()), ("start", pa.int32()), ("end", pa.int32())])


class PackedShardsConfig(Config):
    """The shape of the rows."""

    chunk_length: Annotated[int, Field(ge=2)]
    """Tokens in a row (the paper: 81,920 for 7B)."""
    packing: Literal["concatenate", "best_fit"] = "concatenate"
    """concatenate: as in the paper. best_fit: documents stay whole where they can and copies of one
    in different rows; rows are then shuffled.
    """
    seed: int = 0
    """Of the order of rows after best_fit; concatenate keeps the order of mixed_dataset, which is
    shuffled.
    """


def run(name: str) -> None:
    """Make data/packed_shards/NAME."""
    config = read_params("packed_shards", PackedShardsConfig)
    index = pq.read_table(Path("data/mixed_dataset") / name / INDEX)
    start, stop = index["start"].to_numpy(), index["stop"].to_numpy()
    lengths, total = stop - start, int((stop - start).sum())
    if total < config.chunk_length:
        raise UserError(
            f"packed_shards.chunk_length = {config.chunk_length:,}, but recipe {name!r} holds "
            f"{total:,} "
            "tokens: not one row. Raise mixed_dataset.token_budget or lower the chunk length."
        )
    domains = index["domain"].combine_chunks()
    names = domains.dictionary.to_pylist()
    stores = {domain: open_tokens(Path("data/tokenized_corpus") / domain) for domain in names}
    where = Spans(
        names=names,
        domain=domains.indices.to_numpy(),
        document=index["document"].to_numpy(),
        start=start,
    )
    texts = where.texts(stores)
    layout = laid_out(lengths, config, texts)
    with output("packed_shards", name) as out:
        shards = write_shards(layout, where, stores, config.chunk_length, out.folder)
        tokens = layout.rows * config.chunk_length
        out.facts = out.metrics = {
            "rows": layout.rows,
            "tokens": tokens,
            "dropped_remainder": total - tokens,
            "shards": shards,
            "spans_cut": spans_cut(layout, lengths, config.chunk_length),
            "cuts": cuts(layout, lengths, config.chunk_length),
            "copies_together": copies_together(layout, texts),
        }


@dataclass(frozen=True, kw_only=True)
class Spans:
    """Which part of which document each span is. All arrays have one length."""

    names: list[str]
    """The domains."""
    domain: NDArray[np.int8 | np.int16]
    """Each span's place in `names`."""
    document: NDArray[np.int32]
    """Its document's row in that domain's store."""
    start: NDArray[np.int64]
    """Its first token there."""

    def texts(self, stores: Mapping[str, TokenStore]) -> NDArray[np.uint64]:
        """A number for each span's text, equal for copies: made of the document's id, which is a
        hash of its text, and of where the span begins in it.
        """
        ids = np.empty(len(self.document), np.uint64)
        for number, name in enumerate(self.names):
            own = self.domain == number
            ids[own] = stores[name].ids[self.document[own]]
        return ids + self.start.astype(np.uint64) * np.uint64(0x9E37_79B9_7F4A_7C15)


def laid_out(
    lengths: NDArray[np.int64], config: PackedShardsConfig, texts: NDArray[np.uint64]
) -> Layout:
    """Where every piece goes, by the packing asked for."""
    if config.packing == "concatenate":
        return concatenate(lengths, config.chunk_length)
    layout = best_fit(lengths, config.chunk_length, texts)
    return shuffled_rows(layout, generator(config.seed, "packed rows").permutation(layout.rows))


def write_shards(
    layout: Layout, spans: Spans, stores: Mapping[str, TokenStore], chunk_length: int, folder: Path
) -> int:
    """Write train-00000.arrow and so on; returns how many."""
    kind = next(iter(stores.values())).kind
    schema = pa.schema(
        [
            ("input_ids", pa.list_(pa.from_numpy_dtype(kind), chunk_length)),
            ("source", pa.list_(SOURCE)),
        ]
    )
    row_bytes = chunk_length * kind.itemsize
    a_shard, a_block = max(SHARD_BYTES // row_bytes, 1), max(BLOCK_BYTES // row_bytes, 1)
    progress = Progress("rows", layout.rows, "row")
    starts = range(0, layout.rows, a_shard)
    for number, first in enumerate(starts):
        with (
            pa.OSFile(str(folder / f"train-{number:05d}.arrow"), "wb") as file,
            pa.ipc.new_stream(file, schema) as writer,
        ):
            last = min(first + a_shard, layout.rows)
            for begin, end in _ranges(first, last, a_block):
                writer.write_batch(_rows(layout, begin, end, spans, stores, chunk_length, schema))
                progress.add(end - begin)
    progress.close()
    return len(starts)


def _ranges(first: int, last: int, size: int) -> Iterator[tuple[int, int]]:
    for begin in range(first, last, size):
        yield begin, min(begin + size, last)


def _rows(
    layout: Layout,
    begin: int,
    end: int,
    spans: Spans,
    stores: Mapping[str, TokenStore],
    chunk_length: int,
    schema: pa.Schema,
) -> pa.RecordBatch:
    """Rows `begin` to `end`."""
    low, high = np.searchsorted(layout.row, [begin, end])
    span, at, length = layout.span[low:high], layout.at[low:high], layout.length[low:high]
    tokens = _tokens(span, layout.start[low:high], length, spans, stores)
    offsets = np.searchsorted(layout.row[low:high], np.arange(begin, end + 1)).astype(np.int32)
    names = pa.array(spans.names, pa.string()).take(pa.array(spans.domain[span]))
    sources = pa.StructArray.from_arrays(
        [names, pa.array(at.astype(np.int32)), pa.array((at + length).astype(np.int32))],
        fields=list(SOURCE),
    )
    return pa.RecordBatch.from_arrays(
        [
            pa.FixedSizeListArray.from_arrays(
                pa.array(tokens), type=schema.field("input_ids").type
            ),
            pa.ListArray.from_arrays(pa.array(offsets), sources),
        ],
        schema=schema,
    )


def _tokens(
    span: NDArray[np.int64],
    start: NDArray[np.int64],
    length: NDArray[np.int64],
    spans: Spans,
    stores: Mapping[str, TokenStore],
) -> Tokens:
    """The pieces' tokens, end to end: as pieces tile their rows, the rows. Each goes from the file
    to its place in one call, for a piece of a web page is short.
    """
    used = [stores[name] for name in spans.names]
    kind = used[0].kind  # of all: one tokenizer made them
    domain, document = spans.domain[span], spans.document[span]
    place = (spans.start[span] + start) * kind.itemsize
    for number, store in enumerate(used):
        own = domain == number
        place[own] += store.places[document[own]]
    tokens = np.empty(int(length.sum()), kind)
    target, begin = tokens.data.cast("B"), 0
    for number, where, end in zip(
        domain.tolist(), place.tolist(), (np.cumsum(length) * kind.itemsize).tolist(), strict=True
    ):
        used[number].read(where, target[begin:end])
        begin = end
    return tokens


if __name__ == "__main__":
    command(run, "recipe")
