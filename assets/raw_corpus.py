"""Raw corpus: the documents of one domain, each with an id and its split.

Reading stops when the domain has what data/token_demand asks for, so a large corpus is not read to
its end. parts.csv lists the files, and how many records of each were read. skipped.csv lists every
record that was skipped, and every document whose text had to be changed (assets/tally.py). If the
stage stops with an error, the list is in data/.skipped.

assets/ingestion.py says what happens to a record. Memory holds one block of a megabyte, 8 bytes for
every document, and the index of the evaluation texts.
"""

import csv
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from assets.contamination import Index, build_index, read_index
from assets.demand import Demand
from assets.document_store import document_writer
from assets.documents import Fields, document_files, read_texts
from assets.domains import SET_NAMES
from assets.hub import HubSource, fetch, list_hub
from assets.ingestion import Located, ingest
from assets.raw_corpus_config import Decontamination, Domain, RawCorpusConfig
from assets.records import read_text
from assets.sample_corpus import SampleDomain, records
from assets.source_files import shown
from assets.tally import Tally, check, skipped_table
from core.checks import Check
from core.command import command
from core.errors import UserError
from core.params import read_params, validated
from core.sealed import output, read_json

DEMAND = Path("data/token_demand")
LEFT = Path("data/.skipped")
"""Outside of every stage's folder: a run that stops must leave those as they were."""
FILE_CONTAMINATED = 0.1
"""Share of a file's records. Above it, the file is a copy of the benchmark, at least in part."""
FEW = 10
"""Contaminated records of a file. Fewer may be chance, whatever their share."""

Sources = Iterable[tuple[str, Path]]
"""Files to read: a label for messages and tables, and the local path."""


def run(name: str) -> None:
    """Make data/raw_corpus/NAME."""
    config = read_params("raw_corpus", RawCorpusConfig)
    domain = read_params(f"raw_corpus.domains.{name}", Domain)
    demand = read_demand(DEMAND / f"{name}.json")
    index = evaluation_index(config.decontamination)
    with (
        output("raw_corpus", name) as out,
        skipped_table(out.folder / "skipped.csv", LEFT / f"{name}.csv") as row,
    ):
        tally = Tally(list_skipped=row)
        found = located(config, name, domain, tally)
        with document_writer(out.folder) as writer:
            for batch in ingest(found, config, domain.source, demand, index, tally):
                writer.write_batch(batch)

        # While reading, only a reason of most records stops the stage. Now all are known.
        check(tally, config.limits, domain.source, tally.records)
        if not tally.counts["documents"]:
            raise UserError(_no_document(name, domain.source, config, tally))

        _write_parts(tally, out.folder / "parts.csv")
        out.checks = [little_contamination(tally, config.limits.contaminated)]
        out.facts = out.metrics = dict(sorted(tally.counts.items())) | {
            "records": tally.records,
            "evaluation_texts": index.evaluation_texts,
            "evaluation_texts_too_short": index.too_short,
        }


def read_demand(path: Path) -> Demand:
    """What token_demand asks of this domain. Raises UserError if it is not made yet."""
    if not path.is_file():
        raise UserError(
            f"{path}: not there. Make it first: python -m orchestration.repro token_demand"
        )
    return validated(Demand, read_json(path), str(path))


def evaluation_index(settings: Decontamination) -> Index:
    """The index of the evaluation texts. It is empty if decontamination is switched off."""
    if settings.against is None or settings.run is None:
        print("no decontamination: raw_corpus.decontamination is switched off", file=sys.stderr)
        return build_index([], 15)
    return read_index(settings.against, settings.text_field, settings.run)


def located(config: RawCorpusConfig, name: str, domain: Domain, tally: Tally) -> Iterator[Located]:
    """Every record of a domain's source, in the order of its files.

    `tally` notes each file when it is opened, and the files that are not read.
    """
    if domain.source.suffix in (".yaml", ".yml"):
        described = _described(domain.source)
        if isinstance(described, SampleDomain):
            for number, record in enumerate(records(name, described, config.seed), start=1):
                yield str(domain.source), number, record["text"]
            return
        files = _hub_files(described, tally)
    else:
        files = _local_files(domain.source, name, tally)

    # Without a domain field every record belongs to this domain.
    only = None
    if config.domain_field is not None:
        only = domain.only or SET_NAMES.get(name, name)
    fields = Fields(text=config.text_field, domain=config.domain_field, only=only)
    for label, path in files:
        tally.parts[label] += 0  # parts.csv also lists a file without records
        for number, text in read_texts(path, fields, config.longest):
            yield label, number, text


def _hub_files(source: HubSource, tally: Tally) -> Sources:
    """The files of a Hub dataset. Each is fetched when it is needed, as reading may stop early."""
    listed = list_hub(source)
    for path, why in listed.ignored.items():
        tally.ignored[f"{source.hub}/{path}"] = why
    return ((f"{source.hub}/{path}", fetch(source, path)) for path in listed.read)


def _local_files(source: Path, name: str, tally: Tally) -> Sources:
    """The files of a local source."""
    found = document_files(source, f"raw_corpus.domains.{name}.source")
    for path, why in found.ignored.items():
        tally.ignored[shown(path)] = why
    return ((shown(path), path) for path in found.read)


def _described(path: Path) -> HubSource | SampleDomain:
    """The Hub dataset or sample domain that a YAML file describes."""
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


def little_contamination(tally: Tally, limit: float) -> Check:
    """Whether one of the files is a copy of the evaluation texts, at least in part.

    `check` holds the whole domain to the limit. A benchmark among many clean files stays below it.
    Decontamination then leaves its other items, and they would train.
    """
    limit = max(limit, FILE_CONTAMINATED)
    shares = {}
    for file, count in tally.contaminated.items():
        if count >= FEW:
            shares[file] = count / max(tally.parts[file], 1)

    worst = max(shares, key=lambda file: shares[file], default="")
    share = tally.counts["contaminated"] / max(tally.records, 1)
    of_file = f"; {shares[worst]:.0%} of {worst}" if worst else ""
    return Check(
        name="little_contamination",
        passed=shares.get(worst, 0) <= limit,
        expected=f"at most {limit:.0%} of the records of one file",
        found=f"{share:.2%} of all, all of them dropped{of_file}",
        advice="Look at skipped.csv: the source may hold the benchmark itself. "
        "Take that file out, or raise raw_corpus.limits.contaminated.",
    )


def _no_document(name: str, source: Path, config: RawCorpusConfig, tally: Tally) -> str:
    """The message if no document was found."""
    counts = ", ".join(
        f"{reason} {count:,}" for reason, count in sorted(tally.counts.items()) if count
    )
    problem = (
        f"{shown(source)}: no document in {tally.records:,} records "
        f"({counts or 'the source is empty'})."
    )
    if tally.others:
        names = ", ".join(map(repr, sorted(tally.others)))
        return (
            f"{problem} The field {config.domain_field!r} holds {names}: "
            f"set raw_corpus.domains.{name}.only to the name of this domain."
        )
    return f"{problem} Check the source, text_field and domain_field."


def _write_parts(tally: Tally, path: Path) -> None:
    """Write parts.csv: the files read with their records, and the files ignored with the reason."""
    parts = [(file, count, "") for file, count in tally.parts.items()]
    parts += [(file, 0, why) for file, why in tally.ignored.items()]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file", "records", "ignored"))
        writer.writerows(sorted(parts))


if __name__ == "__main__":
    command(run, "domain")
