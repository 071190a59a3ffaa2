"""Packed shards: the rows that train, exactly `chunk_length` token ids each, as Arrow IPC streams.

Each row names its sources. The columns are those of the data set that the paper's authors
published: `input_ids`, and `source`, a list of {source, start, end} that covers the row without gap
or overlap. So a training can mask attention across documents, or not. Stock
`datasets.load_dataset("arrow", data_files=...)` opens the files.

A shard holds about half a gigabyte: DVC is slow with many files, and copies are slow with one.

The cost: every recipe copies its tokens, 2 or 4 bytes each. Memory holds a few megabytes of rows,
and 60 bytes for each piece of the layout.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from assets.best_fit import best_fit
from assets.packing import (
    Layout,
    Lengths,
    Texts,
    concatenate,
    copies_together,
    cuts,
    shuffled_rows,
    spans_cut,
)
from assets.randomness import generator
from assets.token_store import Tokens, TokenStore, open_tokens
from core.checks import Check
from core.command import command
from core.errors import UserError
from core.params import Config, read_params
from core.progress import Progress
from core.sealed import output

Stores = Mapping[str, TokenStore]

INDEX = "index.parquet"
SHARD_BYTES = 512 << 20
BLOCK_BYTES = 8 << 20
"""Bytes of rows in memory at once."""
REPORT_IT = "Do not train on it. Report it: this is a fault of Needlework."
SOURCE = pa.struct([("source", pa.string()), ("start", pa.int32()), ("end", pa.int32())])
START_FACTOR = np.uint64(0x9E37_79B9_7F4A_7C15)
"""Odd, so that different starts stay different modulo 2^64."""


class PackedShardsConfig(Config):
    """The shape of the rows."""

    chunk_length: Annotated[int, Field(ge=2)]
    """Tokens in a row (the paper: 81,920 for 7B)."""
    packing: Literal["concatenate", "best_fit"] = "concatenate"
    """concatenate: as in the paper. best_fit: documents stay whole where possible, copies of a
    document go to different rows, and the rows are shuffled afterwards."""
    seed: int = 0
    """Decides the order of rows after best_fit. concatenate keeps the order of mixed_dataset, which
    is shuffled already."""


def run(name: str) -> None:
    """Make data/packed_shards/NAME."""
    config = read_params("packed_shards", PackedShardsConfig)
    index = pq.read_table(Path("data/mixed_dataset") / name / INDEX)
    lengths = index["stop"].to_numpy() - index["start"].to_numpy()
    total = int(lengths.sum())
    if total < config.chunk_length:
        raise UserError(
            f"packed_shards.chunk_length = {config.chunk_length:,}, but recipe {name!r} holds "
            f"{total:,} tokens: not one row. "
            "Raise mixed_dataset.token_budget or lower the chunk length."
        )

    spans = _spans(index)
    stores = {domain: open_tokens(Path("data/tokenized_corpus") / domain) for domain in spans.names}
    texts = spans.texts(stores)
    layout = laid_out(lengths, config, texts)

    with output("packed_shards", name) as out:
        shards = write_shards(layout, spans, stores, config.chunk_length, out.folder)
        tokens = layout.rows * config.chunk_length
        there = written(out.folder)
        out.checks = [
            rows_of_one_length(there, layout.rows, config.chunk_length),
            tokens_conserved(there, chosen=total, dropped=total - tokens),
        ]
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
    """Which part of which document each span is. All arrays have one entry a span."""

    names: list[str]
    """The domains."""
    domain: NDArray[np.int8 | np.int16]
    """The place of the span's domain in `names`."""
    document: NDArray[np.int32]
    """The document's number in the domain's store."""
    start: Lengths
    """The first token, counted from the beginning of the document."""

    def texts(self, stores: Stores) -> Texts:
        """A number for each span, equal for copies of a text. uint64[spans].

        It is made of the document's id, a hash of the document's text, and of the span's start.
        """
        ids = np.empty(len(self.document), np.uint64)
        for number, name in enumerate(self.names):
            own = self.domain == number
            ids[own] = stores[name].ids[self.document[own]]
        return ids + self.start.astype(np.uint64) * START_FACTOR


def _spans(index: pa.Table) -> Spans:
    """The spans of an index that mixed_dataset wrote."""
    domains = index["domain"].combine_chunks()
    return Spans(
        names=domains.dictionary.to_pylist(),
        domain=domains.indices.to_numpy(),
        document=index["document"].to_numpy(),
        start=index["start"].to_numpy(),
    )


def laid_out(lengths: Lengths, config: PackedShardsConfig, texts: Texts) -> Layout:
    """The layout by the configured packing.

    lengths: tokens of each span. texts: a number for each span, equal for copies.
    """
    if config.packing == "concatenate":
        return concatenate(lengths, config.chunk_length)
    # Best fit puts long spans first, and training must not see rows by length.
    layout = best_fit(lengths, config.chunk_length, texts)
    return shuffled_rows(layout, generator(config.seed, "packed rows").permutation(layout.rows))


def write_shards(
    layout: Layout, spans: Spans, stores: Stores, chunk_length: int, folder: Path
) -> int:
    """Write train-00000.arrow and so on into `folder`. Returns the number of files.

    spans: where the tokens of the layout's spans are. stores: the token store of each domain.
    """
    kind = next(iter(stores.values())).kind
    row_type = pa.list_(pa.from_numpy_dtype(kind), chunk_length)
    schema = pa.schema([("input_ids", row_type), ("source", pa.list_(SOURCE))])
    row_bytes = chunk_length * kind.itemsize
    shard_rows = max(SHARD_BYTES // row_bytes, 1)
    block_rows = max(BLOCK_BYTES // row_bytes, 1)

    progress = Progress("rows", layout.rows, "row")
    starts = range(0, layout.rows, shard_rows)
    for number, first in enumerate(starts):
        last = min(first + shard_rows, layout.rows)
        with (
            pa.OSFile(str(folder / f"train-{number:05d}.arrow"), "wb") as file,
            pa.ipc.new_stream(file, schema) as writer,
        ):
            for begin in range(first, last, block_rows):
                end = min(begin + block_rows, last)
                writer.write_batch(_rows(layout, begin, end, spans, stores, schema))
                progress.add(end - begin)
    progress.close()
    return len(starts)


@dataclass(frozen=True, kw_only=True)
class Written:
    """What the shards of a folder hold."""

    rows: int
    lengths: set[int]
    """The different lengths of the rows, in tokens."""
    tokens: int
    """Tokens with a source."""


def written(folder: Path) -> Written:
    """Read the shards back. Only lengths and source spans are read, not the token ids."""
    rows = tokens = 0
    lengths: set[int] = set()
    for path in sorted(folder.glob("*.arrow")):
        with pa.memory_map(str(path)) as file:
            for batch in pa.ipc.open_stream(file):
                rows += batch.num_rows
                lengths |= set(pc.unique(pc.list_value_length(batch["input_ids"])).to_pylist())
                spans = batch["source"].flatten()
                length = pc.subtract(spans.field("end"), spans.field("start"))
                tokens += pc.sum(length).as_py() or 0
    return Written(rows=rows, lengths=lengths, tokens=tokens)


def rows_of_one_length(there: Written, rows: int, chunk_length: int) -> Check:
    """Whether the shards hold all `rows`, each of exactly `chunk_length` tokens."""
    lengths = ", ".join(f"{length:,}" for length in sorted(there.lengths)) or "nothing"
    return Check(
        name="rows_of_one_length",
        passed=there.rows == rows and there.lengths == {chunk_length},
        expected=f"{rows:,} rows of {chunk_length:,} tokens",
        found=f"{there.rows:,} rows of {lengths}",
        advice=REPORT_IT,
    )


def tokens_conserved(there: Written, *, chosen: int, dropped: int) -> Check:
    """Whether every token of the recipe is in a row, or counted as dropped."""
    return Check(
        name="tokens_conserved",
        passed=there.tokens + dropped == chosen,
        expected=f"{chosen:,} tokens, packed or dropped",
        found=f"{there.tokens + dropped:,} ({there.tokens:,} packed, {dropped:,} dropped)",
        advice=REPORT_IT,
    )


def _rows(
    layout: Layout,
    begin: int,
    end: int,
    spans: Spans,
    stores: Stores,
    schema: pa.Schema,
) -> pa.RecordBatch:
    """Rows `begin` to `end`, without `end`, as a record batch."""
    # The pieces of these rows. The layout is ordered by row.
    low, high = np.searchsorted(layout.row, [begin, end])
    span, at, length = layout.span[low:high], layout.at[low:high], layout.length[low:high]

    tokens = _tokens(span, layout.start[low:high], length, spans, stores)
    names = pa.array(spans.names, pa.string()).take(pa.array(spans.domain[span]))
    sources = pa.StructArray.from_arrays(
        [names, pa.array(at.astype(np.int32)), pa.array((at + length).astype(np.int32))],
        fields=list(SOURCE),
    )

    # The first piece of each row, and the end of the last row.
    offsets = np.searchsorted(layout.row[low:high], np.arange(begin, end + 1)).astype(np.int32)
    columns = [
        pa.FixedSizeListArray.from_arrays(pa.array(tokens), type=schema.field("input_ids").type),
        pa.ListArray.from_arrays(pa.array(offsets), sources),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _tokens(
    span: Lengths,
    start: Lengths,
    length: Lengths,
    spans: Spans,
    stores: Stores,
) -> Tokens:
    """The tokens of these pieces, end to end. The pieces fill rows, so these are the rows.

    span, start, length: of each piece, int64[pieces].
    """
    used = [stores[name] for name in spans.names]
    kind = used[0].kind  # the same for all: one tokenizer made them

    # The byte at which each piece begins in its domain's file.
    domain, document = spans.domain[span], spans.document[span]
    place = (spans.start[span] + start) * kind.itemsize
    for number, store in enumerate(used):
        own = domain == number
        place[own] += store.places[document[own]]

    # One call for each piece copies from the file to the row: a web page is short, so anything
    # slower would decide the time of the stage.
    tokens = np.empty(int(length.sum()), kind)
    target = tokens.data.cast("B")
    begin = 0
    ends = np.cumsum(length) * kind.itemsize
    for number, where, end in zip(domain.tolist(), place.tolist(), ends.tolist(), strict=True):
        used[number].read(where, target[begin:end])
        begin = end
    return tokens


if __name__ == "__main__":
    command(run, "recipe")
