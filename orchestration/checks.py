"""What must hold of an artefact before anything is made from it, looked at where it lies.

Each check is a function of the project's folder and one item, reads what the item wrote (its files
are an open form: no stage's code is imported) and says what was expected, what was found and what
to do. A blocking one that fails keeps back whatever reads the item, as a failure of the item itself
would. The cost is a few milliseconds an item; only `loads_in_transformers` starts a process, once
for each model.
"""

import csv
import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from orchestration.graph import Item

AGAIN = "Make it again: python -m orchestration.repro --force"
SHARE_TOLERANCE = 0.005
"""Of all tokens: by how much a domain's realised share may miss the requested one."""
LONG_TOLERANCE = 0.02
NEEDLE_TOLERANCE = 0.05
"""Of exact match (0 to 1): how far a model may fall below its last accepted run."""
NEEDLE_METRIC = "mean_exact_match"
"""In the metrics of needle_report, and so in the metadata of its materialisations."""
CONTAMINATED = 0.01
"""Of all records: what raw_corpus.limits.contaminated is where params.yaml does not say."""
FILE_CONTAMINATED = 0.1
"""Of the records of one file. A file above it is a copy of the benchmark, at least in part."""
FEW = 10
"""Contaminated records of one file that may be chance, whatever their share."""
LOAD = (
    "import sys; from transformers import AutoModelForCausalLM as M; "
    "m, info = M.from_pretrained(sys.argv[1], output_loading_info=True, local_files_only=True); "
    "bad = {k: list(v)[:3] for k, v in info.items() if v}; print(bad or 'whole'); "
    "sys.exit(bool(bad))"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One check's result."""

    name: str
    passed: bool
    expected: str
    found: str
    advice: str
    blocking: bool = True
    value: float | None = None
    """A number to hold the next run against."""
    made: bool = True
    """False: there was nothing to check or to compare with, and `found` says why. That is no
    result.
    """


Look = Callable[[Path, Item, Mapping[str, Any]], Verdict]
"""The project's folder, the item, by check the number of the last run that passed it (if there was
one) -> verdict.
"""


def not_made(name: str, reason: str) -> Verdict:
    """Says why a check was not made; it keeps nothing back."""
    return Verdict(
        name=name,
        passed=False,
        blocking=False,
        expected="something to check",
        found=reason,
        advice="",
        made=False,
    )


def domain_shares(root: Path, item: Item, before: Mapping[str, Any]) -> Verdict:
    """Every domain has the share that the recipe gives it."""
    rows = [row for row in _csv(root, item, "shares.csv") if row["domain"] != "all"]
    missed = {
        row["domain"]: abs(_number(row, "realised") - _number(row, "requested")) for row in rows
    }
    worst = max(missed, key=lambda domain: missed[domain])
    return Verdict(
        name="domain_shares",
        passed=missed[worst] <= SHARE_TOLERANCE,
        expected=f"within {SHARE_TOLERANCE:.1%} of all tokens of what the recipe gives",
        found=f"{worst} misses by {missed[worst]:.2%}",
        advice="Raise mixed_dataset.token_budget: one document is too large a part of it.",
    )


def long_share(root: Path, item: Item, before: Mapping[str, Any]) -> Verdict:
    """Every domain, or all of them together, have the long documents that the recipe asks for.

    What shares.csv calls requested is what the recipe was solved to, which as_far_as_possible
    lowers. So the recipe's own long_share counts too.
    """
    recipe = _recipe(root, item)
    target = float(recipe.get("long_share") or 0)
    rows = [row for row in _csv(root, item, "shares.csv") if row["long_share_requested"]]
    if not rows and not target:
        return not_made("long_share", "the recipe asks for no share of long documents")
    wanted = {
        row["domain"]: _number(row, "long_share_requested")
        for row in rows
        if row["domain"] != "all"
    }
    for name in ["all"] if recipe.get("across_domains") else list(wanted):
        wanted[name] = max(wanted.get(name, 0), target)
    got = {row["domain"]: _number(row, "long_share") for row in rows}
    short = [name for name in wanted if name in got and got[name] < wanted[name] - LONG_TOLERANCE]
    return Verdict(
        name="long_share",
        passed=not short,
        blocking=False,
        expected=f"at least the requested share, less {LONG_TOLERANCE:.0%}",
        found=", ".join(f"{name} {got[name]:.1%} of {wanted[name]:.1%}" for name in short)
        or "reached in every domain",
        advice="Give the domain more long documents, lower long_share, or accept what there is.",
    )


def no_heldout(root: Path, item: Item, before: Mapping[str, Any]) -> Verdict:
    """No held-out document trains, by the corpus's own marks."""
    index = pq.read_table(_folder(root, item) / "index.parquet", columns=["domain", "document"])
    domains, documents, found = index["domain"].cast(pa.string()), index["document"], list[str]()
    for domain in pc.unique(domains).to_pylist():
        with pa.memory_map(
            str(root / "data" / "tokenized_corpus" / domain / "documents.arrow")
        ) as file:
            held = pa.chunked_array(
                [batch["heldout"] for batch in pa.ipc.open_stream(file)], pa.bool_()
            )
            count = pc.sum(held.take(documents.filter(pc.equal(domains, domain)))).as_py()
        found += [f"{count:,} of {domain}"] if count else []
    return Verdict(
        name="no_heldout",
        passed=not found,
        expected="0 spans of held-out documents",
        found=", ".join(found) or "0",
        advice=f"{AGAIN} {item.address}. If it stays, report a fault of ours.",
    )


def rows_of_one_length(root: Path, item: Item, before: Mapping[str, Any]) -> Verdict:
    """Every row of every shard has packed_shards.chunk_length tokens."""
    wanted, told = _chunk_length(root), int(_metrics(root, item)["rows"])
    shards = [_shard(path) for path in _shards(root, item)]
    lengths, rows = (
        set[int]().union(*(shard.lengths for shard in shards)),
        sum(shard.rows for shard in shards),
    )
    return Verdict(
        name="rows_of_one_length",
        passed=lengths == {wanted} and rows == told,
        expected=f"{told:,} rows of {wanted:,} tokens",
        found=f"{rows:,} rows of {', '.join(f'{length:,}' for length in sorted(lengths)) or 'nothing'}",
        advice=f"{AGAIN} {item.address}",
    )


def tokens_conserved(root: Path, item: Item, before: Mapping[str, Any]) -> Verdict:
    """What the recipe chose is in the rows or counted as dropped."""
    index = pq.read_table(
        root / "data" / "mixed_dataset" / str(item.name) / "index.parquet",
        columns=["start", "stop"],
    )
    chosen = int(pc.sum(pc.subtract(index["stop"], index["start"])).as_py() or 0)
    packed = sum(_shard(path).tokens for path in _shards(root, item))
    dropped = sum(
        int(value) for key, value in _metrics(root, item).items() if key.startswith("dropped")
    )
    return Verdict(
        name="tokens_conserved",
        passed=packed + dropped == chosen,
        expected=f"{chosen:,} tokens, packed or dropped",
        found=f"{packed + dropped:,} ({packed:,} packed, {dropped:,} dropped)",
        advice=f"{AGAIN} {item.address}",
    )


def little_contamination(root: Path, item: Item, before: Mapping[str, Any]) -> Verdict:
    """Few documents hold a passage of the evaluation texts, in the domain and in each of its files.

    The stage stops at the limit for the domain. A benchmark that hides among many clean files stays
    below that limit, and what decontamination leaves of it, its other items, would train.
    """
    metrics = _metrics(root, item)
    count = int(metrics.get("contaminated", 0))
    share = count / max(int(metrics["records"]), 1)
    limits = yaml.safe_load((root / "params.yaml").read_text())["raw_corpus"].get("limits") or {}
    limit = _number({"contaminated": CONTAMINATED, **limits}, "contaminated")
    of_file = max(limit, FILE_CONTAMINATED)
    files = _contaminated_files(root, item) if count >= FEW else {}
    worst = max(files, key=lambda name: files[name], default="")
    is_benchmark = files.get(worst, 0) > of_file
    found = f"{share:.2%}, all of them dropped"
    return Verdict(
        name="little_contamination",
        passed=share <= limit and not is_benchmark,
        expected=f"at most {limit:.1%} of records, and {of_file:.0%} of those of one file",
        found=f"{found}; {files[worst]:.0%} of {worst}" if is_benchmark else found,
        advice="Look at skipped.csv: the source may hold the benchmark itself. Take that file out, or raise "
        "raw_corpus.limits.contaminated.",
    )


def _contaminated_files(root: Path, item: Item) -> dict[str, float]:
    """Share of contaminated records by file, for files with at least FEW of them; from the stage's
    own tables.
    """
    read = {row["file"]: int(row["records"]) for row in _csv(root, item, "parts.csv")}
    with (_folder(root, item) / "skipped.csv").open(newline="") as file:
        counts = Counter(
            row["file"] for row in csv.DictReader(file) if row["reason"] == "contaminated"
        )
    return {name: count / max(read[name], 1) for name, count in counts.items() if count >= FEW}


def as_recorded(root: Path, item: Item, before: Mapping[str, Any]) -> Verdict:
    """Every file has the hash that the record gives, and the record names every file.

    A file beside them may change what the artefact means: transformers reads another weight or
    config file that lies there.
    """
    folder = _folder(root, item)
    files = json.loads((folder / "record.json").read_text())["files"]
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    lost = [name for name in files if name not in there]
    extra = sorted(there - {*files, "record.json"})
    wrong = [
        name
        for name, facts in files.items()
        if name in there and _sha256(folder / name) != facts["sha256"]
    ]
    found = [
        f"{', '.join(names)} {problem}"
        for names, problem in (
            (wrong, "differ"),
            (lost, "not there"),
            (extra, "not in the record"),
            ([] if files else ["record.json"], "names no file"),
        )
        if names
    ]
    return Verdict(
        name="as_recorded",
        passed=not found,
        expected=f"{len(files)} files with the recorded hashes, and no other",
        found="; ".join(found) or "all the same",
        advice=f"Delete data/checkpoint/{item.name} and run again: DVC's cache brings it back.",
    )


def loads_in_transformers(root: Path, item: Item, before: Mapping[str, Any]) -> Verdict:
    """Plain transformers loads the model, and no weight is missing or left over."""
    folder = _folder(root, item)
    if not (folder / "config.json").is_file() and not list(folder.glob("*.safetensors")):
        return not_made(
            "loads_in_transformers", "a model behind an endpoint: there is nothing to load"
        )
    done = subprocess.run([sys.executable, "-c", LOAD, str(folder)], capture_output=True, text=True)
    last = (done.stdout.strip() or done.stderr.strip()).splitlines()[-1:]
    return Verdict(
        name="loads_in_transformers",
        passed=done.returncode == 0,
        expected="every weight in its place",
        found=" ".join(last),
        advice="Its config and weights do not belong together: make it again.",
    )


def small_drop(root: Path, item: Item, before: Mapping[str, Any]) -> Verdict:
    """The model is not much worse at short context than the model it is held against."""
    section = yaml.safe_load((root / "params.yaml").read_text())["short_context_report"]
    against, limit = section.get("against"), _number({"drop": 5, **section}, "drop")
    base = root / "data" / "short_context_report" / str(against) / "short_context.json"
    if against is None:
        return not_made("small_drop", "short_context_report.against names no model to compare with")
    if item.name == against:
        return not_made("small_drop", f"{against} is the model that the others are compared with")
    if not base.is_file():
        return not_made("small_drop", f"{against} has no report to compare with yet")
    scores, theirs = (
        json.loads(path.read_text()) for path in (_folder(root, item) / "short_context.json", base)
    )
    drops = {
        task: _number(theirs[task], "score") - _number(scores[task], "score")
        for task in scores.keys() & theirs.keys()
    }
    worst = max(drops, key=lambda task: drops[task], default=None)
    return Verdict(
        name="small_drop",
        passed=worst is not None and drops[worst] <= limit,
        blocking=False,
        expected=f"at most {limit:g} points below {against}",
        found=f"{worst}: {-drops[worst]:+.1f} points"
        if worst
        else "no task that both were scored on",
        advice="Train on fewer tokens, at a lower rate, or mix in short rows.",
    )


def needle_holds(root: Path, item: Item, before: Mapping[str, Any]) -> Verdict:
    """The needle is found about as often as in the last accepted run."""
    metrics = _metrics(root, item)
    now: Any = metrics.get(NEEDLE_METRIC)
    if now is None and NEEDLE_METRIC in metrics:
        return not_made(
            "needle_holds",
            "this model gives no probabilities, so there is no exact match to compare",
        )
    then = before.get("needle_holds")
    if not isinstance(now, float) or not math.isfinite(now):
        return Verdict(
            name="needle_holds",
            passed=False,
            blocking=False,
            expected=f"a number {NEEDLE_METRIC}",
            found=str(now),
            advice=f"{AGAIN} {item.address}",
        )
    if not isinstance(then, float) or not math.isfinite(then):
        return not_made(
            "needle_holds",
            f"no earlier run to compare with; the next one is compared with {now:.3f}",
        )
    least = then - NEEDLE_TOLERANCE
    return Verdict(
        name="needle_holds",
        passed=now >= least,
        blocking=False,
        value=now,
        expected=f"at least {least:.3f}",
        found=f"{now:.3f}",
        advice="Compare the two runs' parameters and data versions on this asset's page.",
    )


CHECKS: Mapping[str, Sequence[Look]] = {
    "raw_corpus": [little_contamination],
    "mixed_dataset": [domain_shares, long_share, no_heldout],
    "packed_shards": [rows_of_one_length, tokens_conserved],
    "checkpoint": [as_recorded, loads_in_transformers],
    "short_context_report": [small_drop],
    "needle_report": [needle_holds],
}
"""By stage. A graph without these stages has no checks."""
COSTLY = {"loads_in_transformers", "as_recorded"}
"""Looked at once for each version of the data, by the run that makes it or the first that needs it.
"""
ACROSS = {"small_drop"}
"""Hold an item against another of its stage: looked at once a run has made all it makes."""
BLOCKING = {
    "little_contamination",
    "domain_shares",
    "no_heldout",
    "rows_of_one_length",
    "tokens_conserved",
    "as_recorded",
    "loads_in_transformers",
}


def look(
    root: Path,
    item: Item,
    before: Mapping[str, Any],
    wanted: Callable[[str], bool] = lambda name: True,
) -> list[Verdict]:
    """The checks of the item whose names are wanted. One whose files are not there fails and says
    so.
    """
    verdicts = []
    for check in CHECKS.get(item.stage, ()):
        if not wanted(check.__name__):
            continue
        try:
            verdicts.append(check(root, item, before))
        except (OSError, LookupError, ValueError, TypeError, pa.ArrowException) as error:
            verdicts.append(
                Verdict(
                    name=check.__name__,
                    passed=False,
                    expected="something to look at",
                    found=f"{type(error).__name__}: {error}",
                    blocking=check.__name__ in BLOCKING,
                    advice=f"{AGAIN} {item.address}",
                )
            )
    return verdicts


def _folder(root: Path, item: Item) -> Path:
    return root / next(path for path in item.outputs if path not in item.metrics)


def _number(row: Mapping[str, Any], key: str) -> float:
    """A number of a row. Raises ValueError for NaN and infinity: every comparison with NaN is
    false, and `max` may pass it over.
    """
    value = float(row[key])
    if not math.isfinite(value):
        of = f" of {row['domain']}" if "domain" in row else ""
        raise ValueError(f"{key}{of} is {value}, which is no number to compare")
    return value


def _metrics(root: Path, item: Item) -> dict[str, Any]:
    return dict(json.loads((root / item.metrics[0]).read_text()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """What lies in one file of packed rows."""

    rows: int
    lengths: set[int]
    """Of its rows, in tokens."""
    tokens: int
    """Those that come from a document."""


def _shard(path: Path) -> Shard:
    """Counted, row by row; a file that was cut off raises."""
    rows, lengths, tokens = 0, set[int](), 0
    with pa.memory_map(str(path)) as file:
        for batch in pa.ipc.open_stream(file):
            rows += batch.num_rows
            lengths |= set(
                pc.unique(pc.fill_null(pc.list_value_length(batch["input_ids"]), 0)).to_pylist()
            )
            spans = batch["source"].flatten()
            tokens += pc.sum(pc.subtract(spans.field("end"), spans.field("start"))).as_py() or 0
    return Shard(rows=rows, lengths=lengths, tokens=tokens)


def _shards(root: Path, item: Item) -> list[Path]:
    return sorted(_folder(root, item).glob("*.arrow"))


def _chunk_length(root: Path) -> int:
    return int(yaml.safe_load((root / "params.yaml").read_text())["packed_shards"]["chunk_length"])


def _recipe(root: Path, item: Item) -> dict[str, Any]:
    """The item's recipe in params.yaml; nothing where it is not there."""
    path = root / "params.yaml"
    sections = yaml.safe_load(path.read_text()) if path.is_file() else {}
    recipes = ((sections or {}).get("mixed_dataset") or {}).get("recipes") or {}
    return dict(recipes.get(item.name) or {})


def _csv(root: Path, item: Item, name: str) -> list[dict[str, str]]:
    with (_folder(root, item) / name).open(newline="") as file:
        return list(csv.DictReader(file))


def _sha256(path: Path) -> str:
    hasher = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()
