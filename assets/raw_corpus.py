"""Documents of one domain: normalised, exact duplicates dropped, each with a stable id and its split.

The id is a hash of the text, so it survives reordering and re-ingestion, and a document is held out by its id alone:
adding documents never moves another one from training to the held-out split. The seen-set of ids costs 8 bytes of
hash a document and some Python on top (about 100 bytes in all).
"""

import sys
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import Field

from assets.documents import Broken, read_texts
from assets.progress import tracked
from assets.randomness import fraction
from assets.sample_corpus import SampleDomain, records
from assets.stage import Config, UserError, command, output, read_params, validated

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string()), ("split", pa.string())])
BATCH = 1024
FILE = "documents.parquet"


class Domain(Config):
    """One domain of the corpus."""

    source: Path
    """A file or folder of documents, or a YAML file of sample statistics."""


class RawCorpusConfig(Config):
    """Where documents come from and which are kept out of training."""

    seed: int = 0
    format: Literal["sample", "files"] = "files"
    """"sample": each source is a YAML file for the generator; "files": JSON Lines or Parquet."""
    text_field: str = "text"
    """The field that holds the text; dots go into nested records."""
    heldout_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of documents, by id, that no recipe may train on."""
    max_skipped: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of records that may be skipped as broken before the stage stops."""
    domains: dict[str, Domain]


def run(name: str) -> None:
    """Make data/raw_corpus/NAME."""
    config = read_params("raw_corpus", RawCorpusConfig)
    domain = read_params(f"raw_corpus.domains.{name}", Domain)
    with output("raw_corpus", name) as out:
        counts: Counter[str] = Counter()
        texts = tracked(_texts(config, name, domain.source), name, None, "doc")
        with pq.ParquetWriter(out.folder / FILE, SCHEMA, compression="zstd") as writer:
            for batch in _batches(documents(texts, config, counts)):
                writer.write_batch(batch)
        _check(counts, config.max_skipped, domain.source)
        out.facts = out.metrics = dict(sorted(counts.items()))


def documents(texts: Iterator[str | Broken], config: RawCorpusConfig, counts: Counter[str]
              ) -> Iterator[tuple[str, str, str]]:
    """(id, text, split) of every document kept; what is dropped is tallied in `counts` under its reason."""
    seen: set[bytes] = set()
    counts.update(documents=0, heldout=0, characters=0, duplicates=0, empty=0)
    for text in texts:
        if isinstance(text, Broken):
            counts[text.reason] += 1
            print(f"skipped: {text.reason}: {text.where}", file=sys.stderr)
            continue
        if not text.strip():
            counts["empty"] += 1
            continue
        normalised = text.replace("\r\n", "\n").replace("\x00", "").encode("utf-8", "replace")
        key = blake2b(normalised, digest_size=8).digest()
        if key in seen:
            counts["duplicates"] += 1
            continue
        seen.add(key)
        heldout = fraction(config.seed, "heldout", key.hex()) < config.heldout_fraction
        counts.update(documents=1, heldout=int(heldout), characters=len(text))
        yield key.hex(), normalised.decode(), "heldout" if heldout else "train"


def _texts(config: RawCorpusConfig, name: str, source: Path) -> Iterator[str | Broken]:
    if config.format == "files":
        return read_texts(source, config.text_field)
    try:
        values = yaml.safe_load(source.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{source}: cannot be read as sample statistics: {error}") from None
    spec = validated(SampleDomain, values, str(source))
    return (record["text"] for record in records(name, spec, config.seed))


def _batches(rows: Iterator[tuple[str, str, str]]) -> Iterator[pa.RecordBatch]:
    held: list[tuple[str, str, str]] = []
    for row in rows:
        held.append(row)
        if len(held) == BATCH:
            yield _batch(held)
            held = []
    if held:
        yield _batch(held)


def _batch(rows: list[tuple[str, str, str]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(column, pa.string()) for column in zip(*rows, strict=True)],
                                      schema=SCHEMA)


def _check(counts: Counter[str], max_skipped: float, source: Path) -> None:
    broken = counts["undecodable"] + counts["broken_json"] + counts["text_not_a_string"]
    records_read = broken + counts["documents"] + counts["duplicates"] + counts["empty"]
    if counts["documents"] == 0:
        raise UserError(f"{source}: no document in {records_read} records ({dict(counts)}). Check the source.")
    if broken > max_skipped * records_read:
        raise UserError(f"{source}: {broken} of {records_read} records are broken ({dict(counts)}), more than "
                        f"raw_corpus.max_skipped = {max_skipped}. The lines are named above: mend them or raise it.")


if __name__ == "__main__":
    command(run, "domain")
