"""Documents of one domain: normalised, exact duplicates and contaminated ones dropped, each with an
id and its split.

The id is a hash of the text, so it survives reordering and re-ingestion, and a document is held out
by its id alone: adding documents never moves another one from training to the held-out split, and a
text that stands in two domains is held out in both or in neither. Reading stops as soon as the
domain has what data/token_demand asks for, and parts.csv says which records of which files were
read. Work goes in blocks of a megabyte: memory holds one block, 8 bytes for every document seen (to
know duplicates) and the index of the evaluation texts. Every record skipped is a line of
skipped.csv, written as it is met; where the stage stops, the list stays behind in data/.skipped. A
document whose text had to change (lone surrogates, zero bytes) is kept, and counted and listed
there too.
"""

import csv
import re
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pyarrow as pa
import yaml
from numpy.typing import NDArray
from pydantic import Field, field_validator

from assets.contamination import Index, build_index, contaminated, read_index
from assets.demand import Demand
from assets.document_store import SCHEMA, document_writer
from assets.documents import (
    FIELD_MISSING,
    NOT_A_STRING,
    OTHER_DOMAIN,
    Fields,
    document_files,
    read_texts,
)
from assets.domains import SET_NAMES
from assets.hub import HubSource, fetch, list_hub
from assets.randomness import fractions
from assets.records import OVERSIZE, Skipped, read_text
from assets.sample_corpus import SampleDomain, records
from assets.source_files import NAMED, shown
from core.command import command
from core.errors import UserError
from core.params import Config, read_params, validated
from core.progress import Progress
from core.sealed import output, read_json

DEMAND = Path("data/token_demand")
BLOCK = 1 << 20  # bytes of text: what is done to one stays in the processor's cache
MANY = 10_000  # records in a block, for corpora of very short texts
SETTLED = (
    1000  # while fewer records are read, a share is of this many; at the end it is of what was read
)
LEFT = Path(
    "data/.skipped"
)  # outside of every stage's folder, which an unfinished run must leave as it was
OTHERS = 8  # names of other domains in the message that none of the domain's own was found
EMPTY = Skipped(reason="empty")
TOO_LONG = Skipped(reason=OVERSIZE)
DUPLICATE = Skipped(reason="duplicates")
CONTAMINATED = Skipped(reason="contaminated")
LONE_SURROGATES = Skipped(reason="lone_surrogates", detail="question marks now stand for them")
ZERO_BYTES = Skipped(reason="zero_bytes", detail="dropped from the text")
BLANK = re.compile(
    r"[\s\0]*"
)  # what a text without any sign is made of; zero bytes are dropped from every text

SkippedRow = tuple[str, str, int]
"""Reason, file, line or row number."""
Located = tuple[str, int, str | Skipped]
"""File, line or row number, and the text or why there is none."""


class Domain(Config):
    """One domain of the corpus."""

    source: Path
    """A file or folder of documents; or a YAML file that describes a Hub dataset or a sample
    domain.
    """
    only: str | None = None
    """The value of `domain_field` that is this domain. Default: SlimPajama's name of it, or the
    domain's own name. A number or boolean stands for its text: 3 selects 3 and "3".
    """

    @field_validator("only", mode="before")
    @classmethod
    def _as_text(cls, only: object) -> object:
        if isinstance(only, bool):
            return "true" if only else "false"
        return str(only) if isinstance(only, int) else only


class Limits(Config):
    """Share of the records read that each reason may take before the stage stops."""

    broken_json: Annotated[float, Field(ge=0, le=1)] = 0.01
    field_missing: Annotated[float, Field(ge=0, le=1)] = 0.01
    undecodable: Annotated[float, Field(ge=0, le=1)] = 0.01
    text_not_a_string: Annotated[float, Field(ge=0, le=1)] = 0.01
    oversize: Annotated[float, Field(ge=0, le=1)] = 0.01
    empty: Annotated[float, Field(ge=0, le=1)] = 0.05
    contaminated: Annotated[float, Field(ge=0, le=1)] = 0.01
    duplicates: Annotated[float, Field(ge=0, le=1)] = 1.0
    no_domain: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Records whose domain field is null, or holds what names no domain."""
    lone_surrogates: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Documents kept with question marks for lone surrogates, which UTF-8 cannot write."""
    zero_bytes: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Documents kept without their zero bytes."""


class Decontamination(Config):
    """Which training texts are too near to what the model will be tested on."""

    against: Path | None = None
    """File or folder of evaluation texts, in the same formats as documents. None: nothing is
    dropped.
    """
    text_field: str = "text"
    """The field of their records that holds the text; dots go into nested records."""
    run: Annotated[int, Field(ge=15)] | None = 50
    """A document that shares so many letters and digits in a row with an evaluation text is
    dropped; a Chinese character or a kana counts as two (assets/contamination.py). None: none is
    dropped; the way to say so in the graph, where `against` is a dependency and must name a file.
    """

    def index(self) -> Index:
        """The evaluation texts, ready to be found; none where this is switched off."""
        if self.against is None or self.run is None:
            print("no decontamination: raw_corpus.decontamination is switched off", file=sys.stderr)
            return build_index([], 15)
        return read_index(self.against, self.text_field, self.run)


class RawCorpusConfig(Config):
    """Where documents come from and which are kept out of training."""

    seed: int = 0
    text_field: str = "text"
    """The field that holds the text; dots go into nested records."""
    domain_field: str | None = None
    """The field that names a record's domain (SlimPajama: meta.redpajama_set_name), where sources
    mix domains.
    """
    heldout_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of documents, by id, that no recipe may train on."""
    longest: Annotated[int, Field(ge=1)] = 64 << 20
    """Bytes of UTF-8 above which a document is skipped as oversize."""
    limits: Limits = Limits()
    decontamination: Decontamination = Decontamination()
    domains: dict[str, Domain]


@dataclass(kw_only=True)
class Tally:
    """What became of every record read so far."""

    list_skipped: Callable[[SkippedRow], object]
    """Takes the row of every record skipped."""
    counts: Counter[str] = field(
        default_factory=lambda: Counter(
            documents=0, heldout=0, bytes=0, duplicates=0, empty=0, contaminated=0
        )
    )
    parts: Counter[str] = field(default_factory=Counter)
    """Records read of each file opened; records of other domains are among them."""
    ignored: dict[str, str] = field(default_factory=dict)
    """Files that were not opened, and why."""
    first: dict[str, str] = field(default_factory=dict)
    """Where each reason was met first, and its detail."""
    others: set[str] = field(default_factory=set)
    """The first names of other domains met."""

    def skip(self, skipped: Skipped, file: str, line: int) -> None:
        """Count a skipped record and list where it stands."""
        self._count("skipped", skipped, file, line)

    def change(self, changed: Skipped, file: str, line: int) -> None:
        """Count a document that is kept with its text changed, and list where it stands."""
        self._count("changed", changed, file, line)

    def leave(self, other: Skipped) -> None:
        """Count a record that is left to another domain."""
        self.counts[other.reason] += 1
        if len(self.others) < OTHERS:
            self.others.add(other.detail)

    def _count(self, what: str, found: Skipped, file: str, line: int) -> None:
        reason = found.reason
        self.counts[reason] += 1
        self.list_skipped((reason, file, line))
        place = f"{file}, line {line}{': ' if found.detail else ''}{found.detail}"
        self.first.setdefault(reason, place)
        if self.counts[reason] <= NAMED and found != DUPLICATE:  # those are no fault
            print(f"{what}: {reason}: {place}", file=sys.stderr)

    @property
    def records(self) -> int:
        """Records read that belong to this domain, or to none."""
        return sum(self.parts.values()) - self.counts["other_domain"]


class Seen:
    """A set of 64-bit ids at 8 bytes each: a sorted array, and a small set for what came since it
    was last merged.
    """

    def __init__(self, merge_after: int = 1 << 19) -> None:
        self._sorted: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._recent: set[int] = set()
        self._merge_after = merge_after

    def add(self, identity: int) -> bool:
        """Put it in; whether it is new."""
        if identity in self._recent:
            return False
        place = bisect_left(self._sorted, identity) if len(self._sorted) else 0
        if place < len(self._sorted) and int(self._sorted[place]) == identity:
            return False
        self._recent.add(identity)
        if len(self._recent) >= self._merge_after:
            recent = np.fromiter(self._recent, np.uint64, len(self._recent))
            self._sorted = np.sort(np.concatenate([self._sorted, recent]), kind="stable")
            self._recent = set()
        return True


def run(name: str) -> None:
    """Make data/raw_corpus/NAME."""
    config = read_params("raw_corpus", RawCorpusConfig)
    domain = read_params(f"raw_corpus.domains.{name}", Domain)
    demand = read_demand(DEMAND / f"{name}.json")
    index = config.decontamination.index()
    with (
        output("raw_corpus", name) as out,
        skipped_table(out.folder / "skipped.csv", LEFT / f"{name}.csv") as row,
    ):
        tally = Tally(list_skipped=row)
        with document_writer(out.folder) as writer:
            for batch in ingest(
                located(config, name, domain, tally), config, domain.source, demand, index, tally
            ):
                writer.write_batch(batch)
        check(tally, config.limits, domain.source, tally.records)
        if not tally.counts["documents"]:
            raise UserError(_no_document(name, domain.source, config, tally))
        parts = [(file, count, "") for file, count in tally.parts.items()]
        parts += [(file, 0, why) for file, why in tally.ignored.items()]
        with (out.folder / "parts.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(
                [("file", "records", "ignored"), *sorted(parts)]
            )
        out.facts = out.metrics = dict(sorted(tally.counts.items())) | {
            "records": tally.records,
            "evaluation_texts": index.evaluation_texts,
            "evaluation_texts_too_short": index.too_short,
        }


def _no_document(name: str, source: Path, config: RawCorpusConfig, tally: Tally) -> str:
    counts = ", ".join(
        f"{reason} {count:,}" for reason, count in sorted(tally.counts.items()) if count
    )
    problem = f"{shown(source)}: no document in {tally.records:,} records ({counts or 'the source is empty'})."
    if tally.others:
        names = ", ".join(map(repr, sorted(tally.others)))
        return (
            f"{problem} The field {config.domain_field!r} holds {names}: set "
            f"raw_corpus.domains.{name}.only to the "
            "name that is this domain."
        )
    return f"{problem} Check the source, text_field and domain_field."


@contextmanager
def skipped_table(path: Path, left: Path) -> Iterator[Callable[[SkippedRow], object]]:
    """Takes the rows of skipped.csv one by one, for they may be millions. Where the body stops with
    a UserError, what is there of the table goes to `left`, and the message says so.
    """
    left.unlink(missing_ok=True)
    rows = 0
    try:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["reason", "file", "line"])

            def write(row: SkippedRow) -> None:
                nonlocal rows
                rows += 1
                writer.writerow(row)

            yield write
    except UserError as error:
        if not rows:
            raise
        left.parent.mkdir(parents=True, exist_ok=True)
        path.replace(left)
        raise UserError(f"{error} {left} lists the {rows:,} records skipped so far.") from None


def read_demand(path: Path) -> Demand:
    """What token_demand says this domain must bring. Raises UserError where it was not made."""
    if not path.is_file():
        raise UserError(
            f"{path}: not there. Make it first: python -m orchestration.repro token_demand"
        )
    return validated(Demand, read_json(path), str(path))


def ingest(
    records: Iterable[Located],
    config: RawCorpusConfig,
    source: Path,
    demand: Demand,
    index: Index,
    tally: Tally,
) -> Iterator[pa.RecordBatch]:
    """The documents kept, a block at a time, until the demand is met at the end of a block; `tally`
    counts along.
    """
    seen, progress = Seen(), Progress("documents", None, "doc")
    supply = long_supply = 0.0
    for block in blocks(records):
        kept = without_contaminated(novel(block, config.longest, seen, tally), index, tally)
        draws = fractions(
            (f"{document.identity:016x}" for document in kept), config.seed, "heldout"
        )
        held = np.array([draw < config.heldout_fraction for draw in draws], np.bool_)
        sizes = np.array([len(document.text) for document in kept], np.int64)
        tokens = sizes[~held] / demand.bytes_per_token
        supply, long_supply = (
            supply + tokens.sum(),
            long_supply + tokens[tokens > demand.long_over].sum(),
        )
        tally.counts.update(documents=len(kept), heldout=int(held.sum()), bytes=int(sizes.sum()))
        check(tally, config.limits, source, max(tally.records, SETTLED))
        yield pa.RecordBatch.from_arrays(
            [
                pa.array([document.identity for document in kept], pa.uint64()),
                # Viewed, for it is UTF-8 by now: checking that again and widening offsets took 0.8
                # ms a megabyte.
                pa.array([document.text for document in kept], pa.large_binary()).view(
                    pa.large_string()
                ),
                pa.array(held),
            ],
            schema=SCHEMA,
        )
        progress.add(len(kept))
        if demand.met(supply, long_supply):
            break
    progress.close()


def located(config: RawCorpusConfig, name: str, domain: Domain, tally: Tally) -> Iterator[Located]:
    """Every record of a domain's source, in the order of its files, which are noted in `tally` as
    they are opened.
    """
    if domain.source.suffix in (".yaml", ".yml"):
        described = _described(domain.source)
        if isinstance(described, SampleDomain):
            for number, record in enumerate(records(name, described, config.seed), start=1):
                yield str(domain.source), number, record["text"]
            return
        listed = list_hub(described)
        tally.ignored |= {f"{described.hub}/{path}": why for path, why in listed.ignored.items()}
        files = ((f"{described.hub}/{path}", fetch(described, path)) for path in listed.read)
    else:
        found = document_files(domain.source, f"raw_corpus.domains.{name}.source")
        tally.ignored |= {shown(path): why for path, why in found.ignored.items()}
        files = ((shown(path), path) for path in found.read)
    only = None if config.domain_field is None else domain.only or SET_NAMES.get(name, name)
    fields = Fields(text=config.text_field, domain=config.domain_field, only=only)
    for label, path in files:
        tally.parts[label] += 0
        for number, text in read_texts(path, fields, config.longest):
            yield label, number, text


def blocks(records: Iterable[Located]) -> Iterator[list[Located]]:
    """Records in runs of about BLOCK bytes of text."""
    held: list[Located] = []
    size = 0
    for record in records:
        held.append(record)
        size += len(record[2]) if isinstance(record[2], str) else 0
        if size >= BLOCK or len(held) == MANY:
            yield held
            held, size = [], 0
    if held:
        yield held


class Document(NamedTuple):
    """A document on its way: its id, its normalised text as UTF-8, and where it came from."""

    identity: int
    text: bytes
    file: str
    line: int


def novel(block: Sequence[Located], longest: int, seen: Seen, tally: Tally) -> list[Document]:
    """The records that are documents not seen before; every other one is counted under its reason."""
    tally.parts.update(file for file, _, _ in block)
    kept = []
    for file, line, text in block:
        if not isinstance(text, str):
            if text.reason == OTHER_DOMAIN:
                tally.leave(text)
            else:
                tally.skip(text, file, line)
            continue
        if BLANK.fullmatch(text):
            tally.skip(EMPTY, file, line)
            continue
        normal, changes = normalised(text)
        if len(normal) > longest:
            tally.skip(TOO_LONG, file, line)
            continue
        identity = int.from_bytes(blake2b(normal, digest_size=8).digest(), "big")
        if seen.add(identity):
            kept.append(Document(identity, normal, file, line))
            for change in changes:
                tally.change(change, file, line)
        else:
            tally.skip(DUPLICATE, file, line)
    return kept


def normalised(text: str) -> tuple[bytes, list[Skipped]]:
    """UTF-8 with Unix line ends and without zero bytes, and what else had to change: lone
    surrogates become question marks.
    """
    changes = []
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        encoded = text.encode("utf-8", "replace")
        changes.append(LONE_SURROGATES)
    if b"\r" in encoded:
        encoded = encoded.replace(b"\r\n", b"\n")
    if b"\x00" in encoded:
        encoded = encoded.replace(b"\x00", b"")
        changes.append(ZERO_BYTES)
    return encoded, changes


def without_contaminated(documents: list[Document], index: Index, tally: Tally) -> list[Document]:
    """The documents that hold no passage of the evaluation texts."""
    dropped = set(contaminated(index, [document.text for document in documents]))
    for number in sorted(dropped):
        tally.skip(CONTAMINATED, documents[number].file, documents[number].line)
    return [document for number, document in enumerate(documents) if number not in dropped]


def check(tally: Tally, limits: Limits, source: Path, records: int) -> None:
    """Raise UserError where a reason took more than its share of `records`."""
    for reason, limit in limits.model_dump().items():
        count = tally.counts[reason]
        if count > limit * records:
            wrong = reason in (FIELD_MISSING, NOT_A_STRING) and count == tally.records
            cure = "Set the field's name right" if wrong else "Fix them, or raise the limit"
            raise UserError(
                f"{shown(source)}: {count:,} of {tally.records:,} records are {reason}, more than "
                f"raw_corpus.limits.{reason} = {limit}. The first: {tally.first[reason]}. {cure}."
            )


def _described(path: Path) -> HubSource | SampleDomain:
    try:
        values = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise UserError(
            f"{path}: cannot be read as the description of a source: {problem}"
        ) from None
    if isinstance(values, dict) and "hub" in values:
        return validated(HubSource, values, str(path))
    return validated(SampleDomain, values, str(path))


if __name__ == "__main__":
    command(run, "domain")
