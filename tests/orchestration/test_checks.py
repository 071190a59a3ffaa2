"""Checks look at what lies there: each can fail and says what it found; a blocking one keeps back
what reads it.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from dagster import AssetCheckKey, AssetKey, DagsterInstance, MetadataValue
from dvc_world import FAILED, SKIPPED, dvc, make_world, materialize
from safetensors.torch import load_file, save_file
from worlds import tiny

from assets.raw_corpus import Limits
from orchestration import checks, step, verdicts
from orchestration.automation import report_outside_state
from orchestration.checks import CONTAMINATED, Verdict, look
from orchestration.graph import Item, read_graph, read_lock, read_status
from orchestration.running import Outcome


def item(stage: str, name: str = "x") -> Item:
    """An item of that stage with its usual places."""
    return Item(
        address=f"{stage}@{name}",
        stage=stage,
        name=name,
        command="",
        description="",
        upstream=frozenset(),
        inputs={},
        params={},
        outputs=(f"data/{stage}/{name}", f"metrics/{stage}/{name}.json"),
        metrics=(f"metrics/{stage}/{name}.json",),
    )


def write(root: Path, stage: str, metrics: Mapping[str, Any], name: str = "x") -> Path:
    """The item's metrics; returns its folder, made."""
    (root / "metrics" / stage).mkdir(parents=True, exist_ok=True)
    (root / "metrics" / stage / f"{name}.json").write_text(json.dumps(metrics))
    folder = root / "data" / stage / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def verdict(root: Path, stage: str, name: str, before: Mapping[str, Any] = {}) -> Verdict:  # noqa: B006
    """The one of that name."""
    (found,) = look(root, item(stage), before, name.__eq__)
    return found


def shares(folder: Path, realised: float, long: float) -> None:
    """Of one domain that should have half of the tokens, and 70 % of them in long documents."""
    with (folder / "shares.csv").open("w", newline="") as file:
        writer = csv.DictWriter(
            file, ["domain", "requested", "realised", "long_share_requested", "long_share"]
        )
        writer.writeheader()
        writer.writerow(
            {
                "domain": "book",
                "requested": 0.5,
                "realised": realised,
                "long_share_requested": 0.7,
                "long_share": long,
            }
        )


@pytest.mark.parametrize(
    ("realised", "long", "broken"),
    [
        (0.501, 0.7, set()),
        (0.52, 0.7, {"domain_shares"}),
        (0.5, 0.6, {"long_share"}),
        (0.4, 0.1, {"domain_shares", "long_share"}),
    ],
)
def test_a_recipe_is_held_to_its_shares(
    tmp_path: Path, realised: float, long: float, broken: set[str]
) -> None:
    index(tmp_path, [("book", 0, 0, 8)])
    held_out(tmp_path, [False])
    shares(tmp_path / "data/mixed_dataset/x", realised, long)
    assert {
        found.name for found in look(tmp_path, item("mixed_dataset"), {}) if not found.passed
    } == broken


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", ""])
@pytest.mark.parametrize("column", ["requested", "realised", "long_share"])
def test_a_share_that_is_no_number_fails_wherever_it_stands(
    tmp_path: Path, number: str, column: str
) -> None:
    """`max` passes NaN over where another value comes first; a comparison with it is false."""
    folder = write(tmp_path, "mixed_dataset", {})
    good = dict.fromkeys(["requested", "realised", "long_share_requested", "long_share"], "0.5")
    for place in range(2):
        rows = [{"domain": name, **good} for name in ("book", "c4")]
        rows[place][column] = number
        with (folder / "shares.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        name = "long_share" if column == "long_share" else "domain_shares"
        assert not verdict(tmp_path, "mixed_dataset", name).passed


def test_a_score_that_is_no_number_holds_against_nothing(tmp_path: Path) -> None:
    for name, worse in (("base", 80.0), ("x", float("nan"))):
        (write(tmp_path, "short_context_report", {}, name) / "short_context.json").write_text(
            json.dumps({"arc": {"score": 80.0}, "mmlu": {"score": worse}})
        )
    (tmp_path / "params.yaml").write_text("short_context_report: {against: base}\n")
    drop = verdict(tmp_path, "short_context_report", "small_drop")
    assert not drop.passed and "nan" in drop.found
    write(tmp_path, "needle_report", {"mean_exact_match": float("nan")})
    assert not verdict(tmp_path, "needle_report", "needle_holds", {"needle_holds": 0.5}).passed
    write(tmp_path, "needle_report", {"mean_exact_match": 0.5})
    first = verdict(tmp_path, "needle_report", "needle_holds", {"needle_holds": float("nan")})
    assert not first.made, "a run that gave no number is no run to compare with"


def index(root: Path, spans: list[tuple[str, int, int, int]]) -> None:
    """The recipe's choice: domain, document, start and stop of each span."""
    folder = write(root, "mixed_dataset", {"tokens": 0})
    domain, document, start, stop = (list(column) for column in zip(*spans, strict=True))
    pq.write_table(
        pa.table(
            {
                "domain": pa.array(domain).dictionary_encode(),
                "document": pa.array(document, pa.int32()),
                "start": start,
                "stop": stop,
            }
        ),
        folder / "index.parquet",
    )


def shard(
    folder: Path, number: int, rows: int, length: int, kind: pa.DataType | None = None
) -> None:
    """Rows of that many tokens, each from one document."""
    ids = pa.array([list(range(length))] * rows, kind or pa.list_(pa.uint16(), length))
    source = pa.array(
        [[{"source": "book", "start": 0, "end": length}]] * rows,
        pa.list_(pa.struct([("source", pa.string()), ("start", pa.int32()), ("end", pa.int32())])),
    )
    batch = pa.record_batch([ids, source], names=["input_ids", "source"])
    with (
        pa.OSFile(str(folder / f"train-{number:05d}.arrow"), "wb") as file,
        pa.ipc.new_stream(file, batch.schema) as writer,
    ):
        writer.write_batch(batch)


def packed(root: Path, chunk_length: int = 4) -> Path:
    """Thirteen tokens chosen, three rows of four in two shards, one token dropped."""
    index(root, [("book", 0, 0, 8), ("book", 1, 2, 7)])
    folder = write(root, "packed_shards", {"rows": 3, "tokens": 12, "dropped_remainder": 1})
    (root / "params.yaml").write_text(f"packed_shards: {{chunk_length: {chunk_length}}}")
    shard(folder, 0, 2, 4)
    shard(folder, 1, 1, 4)
    return folder


def test_rows_are_counted_and_measured_in_every_shard(tmp_path: Path) -> None:
    def seen() -> Verdict:
        return verdict(tmp_path, "packed_shards", "rows_of_one_length")

    folder = packed(tmp_path)
    assert seen().passed and seen().found == "3 rows of 4"
    (folder / "train-00001.arrow").unlink()
    assert not seen().passed and seen().found == "2 rows of 4"
    shard(folder, 1, 1, 5)
    assert not seen().passed and seen().found == "3 rows of 4, 5"
    shard(folder, 1, 1, 3, pa.list_(pa.uint16()))
    assert not seen().passed and seen().found == "3 rows of 3, 4", (
        "rows need not all be of one length by their type"
    )
    shard(folder, 1, 1, 4)
    whole = (folder / "train-00001.arrow").read_bytes()
    (folder / "train-00001.arrow").write_bytes(whole[: len(whole) // 2])
    assert not seen().passed, "a file that was cut off"
    packed(tmp_path, chunk_length=8)
    assert not seen().passed and seen().expected == "3 rows of 8 tokens"


def test_no_token_is_lost_between_choice_and_rows(tmp_path: Path) -> None:
    packed(tmp_path)
    assert verdict(tmp_path, "packed_shards", "tokens_conserved").passed
    index(tmp_path, [("book", 0, 0, 8), ("book", 1, 2, 8)])
    lost = verdict(tmp_path, "packed_shards", "tokens_conserved")
    assert (
        not lost.passed
        and lost.expected.startswith("14 tokens")
        and lost.found.startswith("13 (12 packed, 1 drop")
    )


def held_out(root: Path, held: list[bool]) -> None:
    """A domain's documents, by whether they are held out; in two batches."""
    folder = root / "data" / "tokenized_corpus" / "book"
    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("heldout", pa.bool_())])
    with (
        pa.OSFile(str(folder / "documents.arrow"), "wb") as file,
        pa.ipc.new_stream(file, schema) as writer,
    ):
        for part in (held[:1], held[1:]):
            writer.write_batch(pa.record_batch([pa.array(part, pa.bool_())], schema=schema))


def test_a_chosen_document_that_is_held_out_is_found(tmp_path: Path) -> None:
    index(tmp_path, [("book", 0, 0, 8), ("book", 2, 2, 7), ("book", 2, 0, 2)])
    shares(tmp_path / "data/mixed_dataset/x", 0.5, 0.7)
    held_out(tmp_path, [False, True, False])
    assert verdict(tmp_path, "mixed_dataset", "no_heldout").passed
    held_out(tmp_path, [False, False, True])
    found = verdict(tmp_path, "mixed_dataset", "no_heldout")
    assert not found.passed and found.blocking and found.found == "2 of book"


def test_contamination_is_held_to_the_limit_of_user_or_stage(
    tmp_path: Path,
) -> None:
    assert Limits().contaminated == CONTAMINATED
    for count, limits, passed in ((1, {}, True), (2, {}, False), (2, {"contaminated": 0.02}, True)):
        write(tmp_path, "raw_corpus", {"records": 100, "contaminated": count})
        (tmp_path / "params.yaml").write_text(yaml.safe_dump({"raw_corpus": {"limits": limits}}))
        assert verdict(tmp_path, "raw_corpus", "little_contamination").passed is passed


def read(folder: Path, files: Mapping[str, tuple[int, int]]) -> None:
    """What the stage lists: of each file the records read, and how many of them are contaminated."""
    parts = "".join(f"{name},{records},\n" for name, (records, _) in files.items())
    (folder / "parts.csv").write_text(f"file,records,ignored\n{parts}")
    skipped = "".join(
        f"contaminated,{name},{line}\n"
        for name, (_, count) in files.items()
        for line in range(count)
    )
    (folder / "skipped.csv").write_text(f"reason,file,line\nempty,clean.jsonl,5\n{skipped}")


@pytest.mark.parametrize(
    ("count", "limits", "passed"),
    [
        (9, {}, True),
        (10, {}, True),
        (11, {}, False),
        (60, {}, False),
        (60, {"contaminated": 0.6}, True),
    ],
)
def test_a_file_that_is_the_benchmark_is_found_among_clean_ones(
    tmp_path: Path, count: int, limits: dict[str, float], passed: bool
) -> None:
    """The stage lets it pass: of all 100,100 records less than 1 % are contaminated."""
    folder = write(tmp_path, "raw_corpus", {"records": 100_100, "contaminated": count})
    read(folder, {"clean.jsonl": (100_000, 0), "mmlu.jsonl": (100, count)})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"raw_corpus": {"limits": limits}}))
    found = verdict(tmp_path, "raw_corpus", "little_contamination")
    assert found.passed is passed and found.blocking
    assert passed or f"{count}% of mmlu.jsonl" in found.found


@pytest.mark.parametrize(
    ("recipe", "domains", "passed"),
    [
        ({"long_share": 0.7}, {"book": 0.7, "c4": 0.4}, False),
        ({"long_share": 0.4}, {"book": 0.7, "c4": 0.4}, True),
        ({"long_share": 0.7, "across_domains": True}, {"book": 0.9, "c4": 0.4, "all": 0.7}, True),
        ({"long_share": 0.7, "across_domains": True}, {"book": 0.7, "c4": 0.4, "all": 0.5}, False),
    ],
)
def test_a_lowered_long_share_does_not_count_as_reached(
    tmp_path: Path, recipe: dict[str, object], domains: dict[str, float], passed: bool
) -> None:
    """as_far_as_possible: the recipe was solved to what there is, so requested and realised agree."""
    folder = write(tmp_path, "mixed_dataset", {})
    rows = "".join(f"{name},0.5,0.5,{share},{share}\n" for name, share in domains.items())
    (folder / "shares.csv").write_text(
        f"domain,requested,realised,long_share_requested,long_share\n{rows}"
    )
    recipe = {**recipe, "as_far_as_possible": True}
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump({"mixed_dataset": {"recipes": {"x": recipe}}})
    )
    found = verdict(tmp_path, "mixed_dataset", "long_share")
    assert found.passed is passed
    assert passed or "of 70.0%" in found.found


def model(root: Path) -> Path:
    """A tiny Llama as a stage would leave it, with its record."""
    folder = write(root, "checkpoint", {})
    tiny().save_pretrained(folder)
    record(folder)
    return folder


def record(folder: Path) -> None:
    """Of the files as they are now."""
    files = {
        path.name: {"sha256": sha256(path.read_bytes()).hexdigest()}
        for path in folder.iterdir()
        if path.name != "record.json"
    }
    (folder / "record.json").write_text(json.dumps({"files": files}))


def test_a_model_that_is_not_what_was_written_is_found(tmp_path: Path) -> None:
    folder = model(tmp_path)
    assert verdict(tmp_path, "checkpoint", "as_recorded").passed
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    flipped = verdict(tmp_path, "checkpoint", "as_recorded")
    assert not flipped.passed and flipped.found == "model.safetensors differ"
    (folder / "model.safetensors").unlink()
    lost = verdict(tmp_path, "checkpoint", "as_recorded")
    assert not lost.passed and lost.found == "model.safetensors not there"


@pytest.mark.parametrize("extra", ["model-00002.safetensors", "sub/adapter_config.json", ".hidden"])
def test_a_file_that_the_record_does_not_name_is_found(tmp_path: Path, extra: str) -> None:
    folder = model(tmp_path)
    (folder / extra).parent.mkdir(exist_ok=True)
    (folder / extra).write_text("{}")
    found = verdict(tmp_path, "checkpoint", "as_recorded")
    assert not found.passed and found.found == f"{extra} not in the record"


def test_a_model_with_a_missing_or_extra_weight_does_not_load(tmp_path: Path) -> None:
    folder = model(tmp_path)
    assert verdict(tmp_path, "checkpoint", "loads_in_transformers").passed
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "q_proj" in name)
    save_file(
        {key: value for key, value in weights.items() if key != name},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    missing = verdict(tmp_path, "checkpoint", "loads_in_transformers")
    assert not missing.passed and missing.blocking and name in missing.found
    save_file(
        {**weights, "model.left.over": weights[name].clone()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    assert "model.left.over" in verdict(tmp_path, "checkpoint", "loads_in_transformers").found


def test_a_failed_check_says_expected_found_and_what_to_do(
    tmp_path: Path,
) -> None:
    """With nothing there but what makes each of them fail."""
    shares(write(tmp_path, "mixed_dataset", {}), 0.1, 0.1)
    index(tmp_path, [("book", 0, 0, 8)])
    held_out(tmp_path, [True])
    write(tmp_path, "packed_shards", {"rows": 3})
    write(tmp_path, "raw_corpus", {"records": 1, "contaminated": 1})
    (write(tmp_path, "checkpoint", {}) / "config.json").write_text("{}")
    (tmp_path / "data/checkpoint/x/record.json").write_text(
        '{"files": {"config.json": {"sha256": "0"}}}'
    )
    for name, score in (("base", 90.0), ("x", 1.0)):
        (write(tmp_path, "short_context_report", {}, name) / "short_context.json").write_text(
            json.dumps({"mmlu": {"score": score}})
        )
    write(tmp_path, "needle_report", {"mean_exact_match": 0.1})
    (tmp_path / "params.yaml").write_text(
        "packed_shards: {chunk_length: 4}\nraw_corpus: {}\nshort_context_report: {against: base}\n"
    )
    failed = [
        found
        for stage in checks.CHECKS
        for found in look(tmp_path, item(stage), {"needle_holds": 0.9})
    ]
    assert {found.name for found in failed} == {
        check.__name__ for stage in checks.CHECKS.values() for check in stage
    }
    for found in failed:
        assert not found.passed and found.blocking == (found.name in checks.BLOCKING), found
        assert found.expected and found.found and found.advice.endswith((".", "@x")), found
        assert "something to look at" not in found.expected, found


def test_a_needle_below_the_last_accepted_run_is_a_warning(tmp_path: Path) -> None:
    write(tmp_path, "needle_report", {"mean_exact_match": 0.5})
    for before, passed in (({"needle_holds": 0.54}, True), ({"needle_holds": 0.56}, False)):
        found = verdict(tmp_path, "needle_report", "needle_holds", before)
        assert found.passed is passed and found.made and not found.blocking and found.value == 0.5
    write(tmp_path, "needle_report", {})
    found = verdict(tmp_path, "needle_report", "needle_holds", {"needle_holds": 0.5})
    assert not found.passed and found.made, "a report without its number"


def test_a_check_with_nothing_to_compare_has_no_result(tmp_path: Path) -> None:
    write(tmp_path, "needle_report", {"mean_exact_match": 0.5})
    write(tmp_path, "short_context_report", {})
    index(tmp_path, [("book", 0, 0, 8)])
    with (write(tmp_path, "mixed_dataset", {}) / "shares.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                ["domain", "requested", "realised", "long_share_requested", "long_share"],
                ["book", 1, 1, "", 0.5],
            ]
        )
    write(tmp_path, "checkpoint", {})
    for against in ("null", "x", "absent"):
        (tmp_path / "params.yaml").write_text(f"short_context_report: {{against: {against}}}\n")
        for stage, name in (
            ("needle_report", "needle_holds"),
            ("mixed_dataset", "long_share"),
            ("checkpoint", "loads_in_transformers"),
            ("short_context_report", "small_drop"),
        ):
            found = verdict(tmp_path, stage, name)
            assert not found.made and not found.passed and found.found, name
            assert not step.keeps_back(found) and not verdicts.results(item(stage), [found], "")
            assert found.found in verdicts.reasons_not_made([found])
    write(tmp_path, "needle_report", {"mean_exact_match": None})
    assert not verdict(tmp_path, "needle_report", "needle_holds", {"needle_holds": 0.5}).made, (
        "an endpoint"
    )


def test_missing_files_config_or_common_tasks_fail(
    tmp_path: Path,
) -> None:
    folder = write(tmp_path, "checkpoint", {})
    (folder / "record.json").write_text('{"files": {}}')
    (folder / "model.safetensors").touch()
    assert not verdict(tmp_path, "checkpoint", "as_recorded").passed
    loads = verdict(tmp_path, "checkpoint", "loads_in_transformers")
    assert loads.made and not loads.passed
    for name, task in (("base", "mmlu"), ("x", "arc")):
        (write(tmp_path, "short_context_report", {}, name) / "short_context.json").write_text(
            json.dumps({task: {"score": 50.0}})
        )
    (tmp_path / "params.yaml").write_text("short_context_report: {against: base}\n")
    drop = verdict(tmp_path, "short_context_report", "small_drop")
    assert drop.made and not drop.passed and "no task" in drop.found


def test_the_needle_is_compared_with_the_first_until_one_passed(
    world: Path, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report's number is that of its recipe's cut; 0.2, then 0.1, 0.1 and 0.2 again."""
    for module in (checks, verdicts):
        monkeypatch.setattr(module, "CHECKS", {"mixed": [checks.needle_holds]})
    now, seen = {"mean_exact_match": 0.0}, []
    monkeypatch.setattr(checks, "_metrics", lambda root, made: now)
    monkeypatch.setattr(
        step, "describe", lambda *_, **__: {name: MetadataValue.float(now[name]) for name in now}
    )
    for cut, value in enumerate((0.2, 0.1, 0.1, 0.2, 0.1)):
        now["mean_exact_match"] = value
        text = (world / "params.yaml").read_text()
        (world / "params.yaml").write_text(re.sub(r"cut: \d+", f"cut: {cut}", text))
        _, run = materialize(world, instance, "mixed/short", "raw/c4")
        assert run.success  # a check without a result, the first time, fails nothing
        seen.append([check.passed for check in run.checks])
    assert seen == [[], [False], [False], [True], [False]]


def test_a_drop_at_short_context_is_held_to_the_users_limit(tmp_path: Path) -> None:
    for name, score in (("base", 90.0), ("x", 84.0)):
        (write(tmp_path, "short_context_report", {}, name) / "short_context.json").write_text(
            json.dumps({"mmlu": {"score": score}})
        )
    for limit, passed in ((5, False), (7, True)):
        (tmp_path / "params.yaml").write_text(
            yaml.safe_dump({"short_context_report": {"against": "base", "drop": limit}})
        )
        assert verdict(tmp_path, "short_context_report", "small_drop").passed is passed


def test_what_can_not_be_looked_at_fails_and_says_why(tmp_path: Path) -> None:
    found = verdict(tmp_path, "mixed_dataset", "domain_shares")
    assert (
        not found.passed
        and "shares.csv" in found.found
        and "orchestration.repro --force" in found.advice
    )


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def no_bad_word(root: Path, item: Item, before: Mapping[str, Any]) -> Verdict:
    """No document holds a bad word."""
    text = (root / item.outputs[0] / "text").read_text()
    return Verdict(
        name="no_bad_word",
        passed="bad" not in text,
        expected="no bad word",
        found=text.split()[-1],
        advice="Take it out.",
    )


def beside(root: Path, item: Item, before: Mapping[str, Any]) -> Verdict:
    """The other recipe is there too."""
    there = sorted(path.name for path in (root / "data" / "mixed").iterdir())
    return Verdict(
        name="beside",
        passed=there == ["both", "short"],
        expected="both and short",
        found=" ".join(there),
        advice="Make the other.",
        blocking=False,
    )


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small project, with a check that blocks on its documents and one that holds a recipe
    against the other.
    """
    for module in (checks, verdicts):
        monkeypatch.setattr(module, "CHECKS", {"raw": [no_bad_word], "mixed": [beside]})
        monkeypatch.setattr(module, "BLOCKING", {"no_bad_word"})
    for module in (checks, step, verdicts):
        monkeypatch.setattr(module, "ACROSS", {"beside"})
    return make_world(tmp_path / "world")


def test_a_blocking_check_keeps_back_what_reads_the_asset(
    world: Path, instance: DagsterInstance
) -> None:
    (world / "sources" / "book" / "documents").write_text("bad\n")
    seen, run = materialize(world, instance)
    assert not run.success
    assert seen["raw@book"] is seen["raw@c4"] is seen["mixed@short"] is Outcome.RAN
    assert seen["mixed@both"] is seen["report"] is SKIPPED
    found = {(looked.asset_key.to_user_string(), looked.passed) for looked in run.checks}
    assert found == {("raw/book", False), ("raw/c4", True)}  # mixed is held together or not at all
    assert instance.get_latest_materialization_event(AssetKey(["raw", "book"])) is not None
    (world / "sources" / "book" / "documents").write_text("good\n")
    seen, run = materialize(world, instance)
    assert run.success and seen["mixed@both"] is seen["report"] is Outcome.RAN


@pytest.mark.parametrize("costly", [False, True])
def test_a_failed_check_blocks_what_reads_it_until_mended(
    world: Path, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch, costly: bool
) -> None:
    for module in (checks, step, verdicts):
        monkeypatch.setattr(module, "COSTLY", {"no_bad_word"} if costly else set())
    (world / "sources" / "book" / "documents").write_text("bad\n")
    assert not materialize(world, instance)[1].success
    seen, run = materialize(world, instance)  # nothing has changed since
    assert (
        not run.success and seen["raw@book"] is Outcome.UNCHANGED and seen["mixed@both"] is SKIPPED
    )
    seen, run = materialize(
        world, instance, "mixed/both"
    )  # what does not hold is not even selected
    assert not run.success and seen == {"mixed@both": FAILED}
    assert "It reads raw@book. Check no_bad_word did not hold" in run.failures
    (world / "sources" / "book" / "documents").write_text("good\n")
    assert materialize(world, instance)[1].success


def test_a_costly_check_looks_once_at_each_version(
    world: Path, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = list[str]()

    def costly(root: Path, item: Item, before: Mapping[str, Any]) -> Verdict:
        """Counts how often it is asked."""
        looked.append(item.address)
        return Verdict(name="costly", passed=True, expected="nothing", found="nothing", advice="")

    for module in (checks, step, verdicts):
        monkeypatch.setattr(module, "COSTLY", {"costly"})
    for module in (checks, verdicts):
        monkeypatch.setattr(module, "CHECKS", {"raw": [costly]})
    for _ in range(3):
        _, run = materialize(world, instance)
        assert {found.asset_key.path[-1] for found in run.checks} == {
            "book",
            "c4",
        }
        assert sorted(looked) == ["raw@book", "raw@c4"]
    (world / "sources" / "book" / "documents").write_text("other\n")
    materialize(world, instance)
    assert sorted(looked) == ["raw@book", "raw@book", "raw@c4"]


def test_an_item_is_held_against_another_once_both_are_made(
    world: Path, instance: DagsterInstance
) -> None:
    _, run = materialize(world, instance)
    found = [
        (looked.asset_key.to_user_string(), looked.passed)
        for looked in run.checks
        if looked.check_name == "beside"
    ]
    assert sorted(found) == [("mixed/both", True), ("mixed/short", True)]


def test_what_was_made_outside_is_checked_when_it_is_told_of(
    world: Path, instance: DagsterInstance
) -> None:
    (world / "sources" / "book" / "documents").write_text("bad\n")
    dvc(world, "repro")
    graph = read_graph(world)
    report_outside_state(instance, graph, read_lock(world), read_status(world))
    for key, check, status in (
        ("raw/book", "no_bad_word", "FAILED"),
        ("raw/c4", "no_bad_word", "SUCCEEDED"),
        ("mixed/short", "beside", "SUCCEEDED"),
    ):
        told = instance.event_log_storage.get_asset_check_execution_history(
            AssetCheckKey(AssetKey(key.split("/")), check), limit=2
        )
        assert [record.status.value for record in told] == [status], key
