"""What a stage wrote into checks.json is shown at its asset, and keeps back what reads it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from dagster import (
    AssetCheckEvaluation,
    AssetCheckKey,
    AssetKey,
    AssetMaterialization,
    DagsterInstance,
    MetadataValue,
)
from dvc_world import FAILED, SKIPPED, an_item, dvc, make_checked_world, materialize

from core.checks import CHECKS
from orchestration.checks import (
    Verdict,
    check_specs,
    evaluations,
    newly_failed,
    read_checks,
    reasons_not_made,
    results,
    verdicts_of,
    what_blocks,
)
from orchestration.graph import (
    DeclaredCheck,
    GraphError,
    Item,
    read_graph,
    read_lock,
    read_status,
)
from orchestration.outside import report_outside_state
from orchestration.running import Outcome
from orchestration.translation import asset_key


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """The small project, whose domains check that no document has a bad word."""
    return make_checked_world(tmp_path / "world")


def write(world: Path, text: str) -> None:
    """The documents of the domain `book`."""
    (world / "sources/book/documents").write_text(text)


def test_a_blocking_check_keeps_back_what_reads_the_asset(
    world: Path, instance: DagsterInstance
) -> None:
    write(world, "bad\n")
    seen, run = materialize(world, instance)
    assert not run.success
    assert seen["raw@book"] is seen["raw@c4"] is seen["mixed@short"] is Outcome.RAN
    assert seen["mixed@both"] is seen["report"] is SKIPPED
    found = {
        (check.asset_key.to_user_string(), check.passed)
        for check in run.checks
        if check.check_name == "no_bad_word"
    }
    assert found == {("raw/book", False), ("raw/c4", True)}
    assert instance.get_latest_materialization_event(AssetKey(["raw", "book"])) is not None

    seen, run = materialize(world, instance)  # nothing has changed since
    assert not run.success
    assert seen["raw@book"] is Outcome.UNCHANGED and seen["mixed@both"] is SKIPPED

    seen, run = materialize(world, instance, "mixed/both")  # its input is not even in the run
    assert not run.success and seen == {"mixed@both": FAILED}
    assert "It reads raw@book. Check no_bad_word failed: expected no bad word" in run.failures

    write(world, "good\n")
    seen, run = materialize(world, instance)
    assert run.success and seen["mixed@both"] is seen["report"] is Outcome.RAN


def test_what_plain_dvc_made_has_its_checks_in_dagster(
    world: Path, instance: DagsterInstance
) -> None:
    write(world, "bad\n")
    dvc(world, "repro")
    report_outside_state(instance, read_graph(world), read_lock(world), read_status(world))
    for name, status in (("book", "FAILED"), ("c4", "SUCCEEDED")):
        told = instance.event_log_storage.get_asset_check_execution_history(
            AssetCheckKey(AssetKey(["raw", name]), "no_bad_word"), limit=2
        )
        assert [record.status.value for record in told] == [status]


def item(**checks: DeclaredCheck) -> Item:
    """One whose stage declares these checks."""
    metrics = "metrics/report/x.json"
    return an_item(
        "report@x", outputs=("data/report/x", metrics), metrics=(metrics,), checks=checks
    )


def put(root: Path, path: str, content: object) -> None:
    """A file of the item `report@x`."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(content if isinstance(content, str) else json.dumps(content))


def entry(name: str, passed: bool | None) -> dict[str, object]:
    """Of a checks.json."""
    words = {"expected": "good", "found": "bad", "advice": "Mend it.", "blocking": True}
    return {"name": name, "passed": passed, **words}


def test_the_page_shows_checks_as_dvc_yaml_declares_them(
    tmp_path: Path,
) -> None:
    made = item(a=DeclaredCheck(blocking=True, description="All is well."), b=DeclaredCheck())
    specs = {spec.name: spec for spec in check_specs(made)}
    assert list(specs) == ["in_order", "a", "b"]
    assert (specs["a"].blocking, specs["a"].description) == (True, "All is well.")
    assert not specs["b"].blocking

    put(tmp_path, f"data/report/x/{CHECKS}", [entry(name, False) for name in ("a", "b", "c")])
    verdicts = read_checks(tmp_path, made)
    shown = [(each.check_name, each.severity.value) for each in results(made, verdicts, "v1")]
    assert shown == [("a", "ERROR"), ("b", "WARN")]  # what is not declared, Dagster does not know
    assert what_blocks(verdicts) == "Check a failed: expected good; found bad. Mend it."


def test_a_check_with_nothing_to_check_has_no_result(tmp_path: Path) -> None:
    put(tmp_path, f"data/report/x/{CHECKS}", [entry("a", None)])
    made = item(a=DeclaredCheck(blocking=True))
    verdicts = read_checks(tmp_path, made)
    assert not results(made, verdicts, "v1") and not evaluations(made, verdicts, "v1")
    assert not what_blocks(verdicts)
    assert reasons_not_made(verdicts) == "a: bad"


def test_an_artefact_from_before_there_were_checks_has_no_result(tmp_path: Path) -> None:
    put(tmp_path, "data/report/x/page.html", "a page")
    assert read_checks(tmp_path, item(a=DeclaredCheck(blocking=True))) == []


@pytest.mark.parametrize("content", ["", "[", '[{"passed": true}]', '[{"name": "a"}]', "[1]"])
def test_a_file_of_checks_that_can_not_be_read_fails_them(tmp_path: Path, content: str) -> None:
    put(tmp_path, f"data/report/x/{CHECKS}", content)
    verdicts = read_checks(tmp_path, item(a=DeclaredCheck(blocking=True)))
    assert CHECKS in what_blocks(verdicts) and "repro --force report@x" in what_blocks(verdicts)


NEEDLE = item(needle=DeclaredCheck(metric="score", fall=0.05))


def run_with(instance: DagsterInstance, root: Path, metrics: Mapping[str, object]) -> Verdict:
    """What a run that gives these metrics finds, which is then stored as a run stores it."""
    put(root, "metrics/report/x.json", metrics)
    (found,) = verdicts_of(instance, root, NEEDLE)
    score = metrics.get("score")
    shown = {"score": MetadataValue.float(score)} if isinstance(score, float) else {}
    instance.report_runless_asset_event(AssetMaterialization(asset_key(NEEDLE), metadata=shown))
    for evaluation in evaluations(NEEDLE, [found], "v"):
        instance.report_runless_asset_event(evaluation)
    return found


def test_a_metric_is_compared_with_the_last_run_that_passed(
    tmp_path: Path, instance: DagsterInstance
) -> None:
    found = [
        run_with(instance, tmp_path, {"score": score})
        for score in (0.2, 0.1, 0.1, 0.24, 0.18, 0.2, 0.14)
    ]
    assert [each.passed for each in found] == [None, False, False, True, False, True, False]
    assert "no earlier run" in found[0].found
    assert (found[1].expected, found[1].found) == ("at least 0.150", "0.100")
    assert not any(each.blocking for each in found)


def test_a_metric_that_is_no_number_fails(tmp_path: Path, instance: DagsterInstance) -> None:
    run_with(instance, tmp_path, {"score": 0.5})
    for metrics in ({"score": float("nan")}, {"score": "high"}, {}):
        found = run_with(instance, tmp_path, metrics)
        assert found.failed and "number score" in found.expected and "report@x" in found.advice
    assert run_with(instance, tmp_path, {"score": None}).passed is None
    assert run_with(instance, tmp_path, {"score": 0.46}).passed, "compared with 0.5"


def test_a_failure_that_an_old_version_stored_hides_no_new_one(
    instance: DagsterInstance,
) -> None:
    failed = Verdict(name="needle", passed=False, expected="0.2", found="0.1")
    old = AssetCheckEvaluation(asset_key=asset_key(NEEDLE), check_name="needle", passed=False)
    instance.report_runless_asset_event(old)  # it names no data version
    assert newly_failed(instance, NEEDLE, [failed], "v1") == [failed]
    for evaluation in evaluations(NEEDLE, [failed], "v1"):
        instance.report_runless_asset_event(evaluation)
    assert not newly_failed(instance, NEEDLE, [failed], "v1")


def test_a_stage_can_not_declare_the_check_that_every_asset_has(world: Path) -> None:
    graph = (world / "dvc.yaml").read_text()
    (world / "dvc.yaml").write_text(graph.replace("no_bad_word", "in_order"))
    with pytest.raises(GraphError, match="raw: .*a check in_order already"):
        read_graph(world)


def test_a_declaration_that_is_none_is_one_line(world: Path) -> None:
    graph = (world / "dvc.yaml").read_text()
    for wrong in ("{no_bad_word: {blocks: true}}", "[no_bad_word]", "{no_bad_word: true}"):
        declared = graph.replace(graph.split("checks: ")[1].split("}\n")[0], wrong)
        (world / "dvc.yaml").write_text(declared)
        with pytest.raises(GraphError, match="raw: meta.checks = .*blocking: true"):
            read_graph(world)
