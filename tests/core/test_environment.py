"""One table has every variable: its name, its default, what it says."""

import re
from pathlib import Path

import pytest
import yaml

from core import elsewhere
from core.environment import (
    INTERNAL,
    RUN_POOL,
    SECONDS_TO_STOP,
    VARIABLES,
    Variable,
    VariableError,
    number_of,
    text_of,
)
from orchestration.home import SETTINGS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/environment.md").read_text()
BY_PATH = {"core/elsewhere.py"}
"""Started without the project, so it repeats names. It repeats no default."""


def test_the_page_shows_the_table() -> None:
    rows = [f"| `{each}` | {each.shown or each.default} | {each.meaning} |" for each in VARIABLES]
    shown = [line for line in PAGE.splitlines() if line.startswith("| `NEEDLEWORK_")]
    assert shown == rows
    assert all(f"`{each}`" in PAGE for each in INTERNAL)


def test_no_other_module_has_a_variable_of_its_own() -> None:
    modules = [
        path
        for package in ("core", "assets", "training", "evaluation", "orchestration")
        for path in (ROOT / package).glob("*.py")
    ]
    named = {
        path.relative_to(ROOT).as_posix()
        for path in modules
        if re.search(r"""["']NEEDLEWORK_[A-Z_]+["']""", path.read_text())
    }
    assert named == {"core/environment.py", *BY_PATH}


def test_what_runs_elsewhere_knows_the_same_names() -> None:
    assert SECONDS_TO_STOP.name == elsewhere.PATIENCE
    assert f"{elsewhere.VARIABLE}<POOL>" == RUN_POOL.name
    assert elsewhere.INSIDE in {each.name for each in INTERNAL}


def test_dagster_waits_longer_than_a_stage_may_take_to_end() -> None:
    for text in (SETTINGS, (ROOT / "deploy/dagster.yaml").read_text()):
        limit = yaml.safe_load(text)["run_monitoring"]["cancel_timeout_seconds"]
        assert limit > float(SECONDS_TO_STOP.default)


SOME = Variable(name="TOY_SECONDS", default="2.5", meaning="how long to wait")
COUNT = Variable(name="TOY_COUNT", default="3", meaning="how many", whole=True, positive=True)


def test_an_empty_variable_is_as_if_unset() -> None:
    for environment in ({}, {"TOY_SECONDS": ""}, {"TOY_SECONDS": "  "}):
        assert text_of(SOME, environment) == "2.5" and number_of(SOME, environment) == 2.5
    assert number_of(SOME, {"TOY_SECONDS": " 0 "}) == 0


@pytest.mark.parametrize("text", ["15m", "8GB", "-1", "nan", "inf"])
def test_a_text_that_is_no_number_is_refused_with_its_meaning(text: str) -> None:
    said = f"TOY_SECONDS = {text}: not a plain number, 0 or more, .* It says how long to wait"
    with pytest.raises(VariableError, match=said):
        number_of(SOME, {"TOY_SECONDS": text})


@pytest.mark.parametrize("text", ["0", "1.5", "two"])
def test_a_count_is_whole_and_above_0(text: str) -> None:
    assert number_of(COUNT, {}) == 3
    with pytest.raises(VariableError, match="TOY_COUNT = .*: not a whole number, above 0"):
        number_of(COUNT, {"TOY_COUNT": text})


def test_every_default_is_a_value_that_is_allowed() -> None:
    for each in VARIABLES:
        if each.default and (each.whole or each.positive):
            assert number_of(each, {}) >= 0
