"""Checks look at what lies there: each can fail and says what it found; a blocking one keeps back what reads it."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from dagster import AssetKey, DagsterInstance
from dvc_world import make_world, materialize

from orchestration import checks, step
from orchestration.checks import Verdict, look
from orchestration.graph import Item
from orchestration.running import Outcome


def item(stage: str, name: str = "x") -> Item:
    """An item of that stage with its usual places."""
    return Item(address=f"{stage}@{name}", stage=stage, name=name, command="", description="", upstream=frozenset(),
                inputs={}, params={}, outputs=(f"data/{stage}/{name}", f"metrics/{stage}/{name}.json"),
                metrics=(f"metrics/{stage}/{name}.json",))


def write(root: Path, stage: str, metrics: Mapping[str, Any], name: str = "x") -> Path:
    """The item's metrics; returns its folder, made."""
    (root / "metrics" / stage).mkdir(parents=True, exist_ok=True)
    (root / "metrics" / stage / f"{name}.json").write_text(json.dumps(metrics))
    folder = root / "data" / stage / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def verdict(root: Path, stage: str, name: str, before: Mapping[str, Any] = {}) -> Verdict:  # noqa: B006
    """The one of that name."""
    return next(found for found in look(root, item(stage), before) if found.name == name)


def shares(folder: Path, realised: float, long: float, document: int = 0) -> None:
    """Of one domain that should have half of the tokens, and 70 % of them in long documents; one span is chosen, of its
    first document, which trains, or of its second, which is held out."""
    corpus = folder.parents[1] / "tokenized_corpus/book"
    corpus.mkdir(parents=True, exist_ok=True)
    held = pa.table({"heldout": [False, True]})
    with pa.OSFile(str(corpus / "documents.arrow"), "wb") as out, pa.ipc.new_stream(out, held.schema) as stream:
        stream.write_table(held)
    pq.write_table(pa.table({"domain": ["book"], "document": [document]}), folder / "index.parquet")
    with (folder / "shares.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["domain", "requested", "realised", "long_share_requested", "long_share"])
        writer.writeheader()
        writer.writerow({"domain": "book", "requested": 0.5, "realised": realised, "long_share_requested": 0.7,
                         "long_share": long})


@pytest.mark.parametrize(("realised", "long", "broken"), [
    (0.501, 0.7, set()), (0.52, 0.7, {"domain_shares"}), (0.5, 0.6, {"long_share"}), (0.4, 0.1, {"domain_shares",
                                                                                                 "long_share"})])
def test_a_recipe_is_held_to_its_shares(tmp_path: Path, realised: float, long: float, broken: set[str]) -> None:
    shares(write(tmp_path, "mixed_dataset", {"heldout_spans": 0}), realised, long)
    assert {found.name for found in look(tmp_path, item("mixed_dataset"), {}) if not found.passed} == broken


def test_a_chosen_document_that_is_held_out_is_counted(tmp_path: Path) -> None:
    folder = write(tmp_path, "mixed_dataset", {"heldout_spans": 0})
    for document, passed in ((0, True), (1, False)):
        shares(folder, 0.5, 0.7, document)
        found = verdict(tmp_path, "mixed_dataset", "no_heldout")
        assert found.passed is passed and found.found == str(document)


def test_rows_are_counted_and_measured_and_no_token_is_lost(tmp_path: Path) -> None:
    folder = write(tmp_path, "packed_shards", {"rows": 3, "tokens": 12, "dropped_remainder": 1})
    write(tmp_path, "mixed_dataset", {"tokens": 13})
    (tmp_path / "params.yaml").write_text("packed_shards: {chunk_length: 4}")
    rows = pa.FixedSizeListArray.from_arrays(pa.array(range(12), pa.uint16()), 4)
    with pa.OSFile(str(folder / "train-00000.arrow"), "wb") as file, \
            pa.ipc.new_stream(file, pa.schema([("input_ids", rows.type)])) as writer:
        writer.write_batch(pa.record_batch([rows], names=["input_ids"]))
    assert all(found.passed for found in look(tmp_path, item("packed_shards"), {}))
    write(tmp_path, "mixed_dataset", {"tokens": 14})
    lost = verdict(tmp_path, "packed_shards", "tokens_conserved")
    assert not lost.passed and lost.expected.startswith("14 tokens") and lost.found == "13"
    (tmp_path / "params.yaml").write_text("packed_shards: {chunk_length: 8}")
    assert "3 rows of 4" in verdict(tmp_path, "packed_shards", "rows_of_one_length").found


def test_a_needle_below_the_last_accepted_run_is_a_warning(tmp_path: Path) -> None:
    write(tmp_path, "needle_report", {"mean_exact_match": 0.5})
    for before, passed in (({}, True), ({"needle_holds": 0.54}, True), ({"needle_holds": 0.56}, False)):
        found = verdict(tmp_path, "needle_report", "needle_holds", before)
        assert found.passed is passed and not found.blocking and found.value == 0.5


def test_a_drop_at_short_context_is_held_to_the_users_limit(tmp_path: Path) -> None:
    for name, score in (("base", 90.0), ("x", 84.0)):
        (write(tmp_path, "short_context_report", {}, name) / "short_context.json").write_text(
            json.dumps({"mmlu": {"score": score}}))
    for limit, passed in ((5, False), (7, True)):
        (tmp_path / "params.yaml").write_text(yaml.safe_dump({"short_context_report": {"against": "base",
                                                                                       "drop": limit}}))
        assert verdict(tmp_path, "short_context_report", "small_drop").passed is passed


def test_what_can_not_be_looked_at_fails_and_says_why(tmp_path: Path) -> None:
    found = verdict(tmp_path, "mixed_dataset", "domain_shares")
    assert not found.passed and "shares.csv" in found.found and "dvc repro --force" in found.advice


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def test_a_blocking_check_keeps_back_what_reads_the_asset_and_says_so(
        tmp_path: Path, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_bad_word(root: Path, item: Item, before: Mapping[str, Any]) -> Verdict:
        """No document holds a bad word."""
        text = (root / item.outputs[0] / "text").read_text()
        return Verdict(name="no_bad_word", passed="bad" not in text, expected="no bad word", found=text.split()[-1],
                       advice="Take it out.")

    for module in (checks, step):
        monkeypatch.setattr(module, "CHECKS", {"raw": [no_bad_word]})
        monkeypatch.setattr(module, "BLOCKING", {"no_bad_word"})
    world = make_world(tmp_path / "world")
    (world / "sources" / "book" / "documents").write_text("bad\n")
    seen, run = materialize(world, instance)
    assert not run.success
    assert seen["raw@book"] is seen["raw@c4"] is seen["mixed@short"] is Outcome.RAN
    assert seen["mixed@both"] is seen["report"] is Outcome.SKIPPED
    found = {(looked.asset_key.to_user_string(), looked.passed) for looked in run.get_asset_check_evaluations()}
    assert found == {("raw/book", False), ("raw/c4", True)}
    assert instance.get_latest_materialization_event(AssetKey(["raw", "book"])) is not None
    (world / "sources" / "book" / "documents").write_text("good\n")
    seen, run = materialize(world, instance)
    assert run.success and seen["mixed@both"] is seen["report"] is Outcome.RAN
