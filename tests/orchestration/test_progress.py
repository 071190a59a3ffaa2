"""What a stage prints about its progress comes back as numbers, live, and leaves versions and marks
alone.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import AssetKey, AssetRecordsFilter, DagsterInstance
from dvc_world import make_world, materialize, out_of_date_in_dagster

from core.progress import Progress
from orchestration.graph import read_status
from orchestration.progress import Pace, Step, observation, progress_of

TALK = """
import json
for step in (1, 2, 3, 4):
    noted = {"step": step, "loss": 5.125 - step}
    line = dict(what=item, done=step * 8, total=32, unit="tok", rate=1234, left=4 - step, noted=noted)
    print(json.dumps({"progress": line}), file=sys.stderr, flush=True)
"""


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def test_every_line_that_a_stage_prints_is_understood(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEEDLEWORK_PROGRESS", "json")
    cases: list[tuple[int | None, dict[str, float]]] = [
        (32_768, {"step": 12, "loss": 3.212, "MFU": 0.45}),
        (32_768, {}),
        (None, {"loss": 1e-05}),
        (0, {}),
    ]
    for total, noted in cases:
        progress = Progress("cut_at_base: rows", total, "tok")
        progress.add(12_345, **noted)
        progress.close()
    lines = capfd.readouterr().err.splitlines()
    found = [step for step in map(progress_of, lines) if step is not None]
    assert [(step.total, step.noted) for step in found] == cases
    assert {(step.what, step.done, step.unit) for step in found} == {
        ("cut_at_base: rows", 12_345, "tok")
    }
    assert [step.left is None for step in found] == [False, False, True, True]


def test_without_an_orchestrator_progress_is_a_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    progress = Progress("rows", 40_000, "tok")
    progress.add(12_345, step=2, loss=3.2121212)
    progress.close()
    line = capfd.readouterr().err
    assert line.startswith("rows: 12,345/40,000 (31%) tok, ")
    assert line.endswith(" s left, step 2, loss 3.212\n")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "loss 3.2",
        "Running stage 'raw@book':",
        "done: 12 rows",
        "12,345 tok, 1 tok/s",
        "a: 1/2 (50%) tok, 3 doc/s",
        "Downloading: 10 files, 3 in all",
        "> python -m assets.packed_shards per_source",
        '{"progress": 3}',
        '{"progress": {"what": "x"}}',
        '{"progress": {"what": "x", "done": ',
    ],
)
def test_no_other_line_is_taken_for_progress(line: str) -> None:
    assert progress_of(line) is None


def test_a_loss_that_is_no_number_is_said_and_not_plotted() -> None:
    step = progress_of(
        '{"progress": {"what": "x", "done": 8, "total": 32, "unit": "tok", "rate": 9, "left": 3,'
        ' "noted": {"step": 1, "loss": NaN}}}'
    )
    assert step is not None and str(step).endswith("step 1, loss nan")
    assert {"step", "loss"} & observation(AssetKey("x"), step).metadata.keys() == {"step"}


def test_first_and_last_lines_are_shown_and_ever_fewer_between() -> None:
    pace = Pace()

    def shown(seconds: int, done: int, what: str = "x") -> bool:
        return pace.due(
            "a", Step(what=what, done=done, total=100, unit="tok", rate=1, left=1), float(seconds)
        )

    assert [shown(second, 1) for second in (0, 5, 29, 30, 35, 60)] == [
        True,
        False,
        False,
        True,
        False,
        True,
    ]
    assert shown(61, 1, "y"), "another piece of work of the same item"
    assert [shown(62, 100), shown(63, 100)] == [True, False]
    ten_days, slow = range(0, 10 * 86_400, 5), Pace()
    step = Step(what="x", done=1, total=100, unit="tok", rate=1, left=1)
    assert 500 < sum(slow.due("a", step, float(second)) for second in ten_days) < 3_000


def test_progress_events_mark_nothing_as_out_of_date(
    tmp_path: Path, instance: DagsterInstance
) -> None:
    world = make_world(tmp_path / "world")
    (world / "stage.py").write_text((world / "stage.py").read_text() + TALK)
    _, run = materialize(world, instance)
    assert run.success
    for key in ("raw/book", "mixed/both", "report"):
        asset = AssetKey(key.split("/"))
        events = instance.fetch_observations(AssetRecordsFilter(asset), limit=10).records
        numbers = [
            {name: value.value for name, value in (event.asset_observation.metadata or {}).items()}
            for event in events
            if event.asset_observation
        ]
        assert numbers == [
            {
                "done": 32,
                "total": 32,
                "tok/s": 1234,
                "seconds left": 0,
                "step": 4,
                "loss": 1.125,
            },
            {
                "done": 8,
                "total": 32,
                "tok/s": 1234,
                "seconds left": 3,
                "step": 1,
                "loss": 4.125,
            },
        ]
        made = instance.get_latest_materialization_event(asset)
        assert made is not None and all(event.timestamp < made.timestamp for event in events), (
            "while it was at work"
        )
    assert out_of_date_in_dagster(world, instance) == set() == set(read_status(world))
