"""A name in params.yaml is text to the stages and to DVC, or it is reported with its line."""

import inspect
from itertools import product
from pathlib import Path

import pytest
import yaml
from ruamel.yaml import YAML

from evaluation import preflight
from evaluation.names import NAMING, unquoted_names

ROOT = Path(__file__).parents[2]
KINDS = [
    "7e-1",
    "1e3",
    "1.0",
    "1_000",
    "010",
    "09",
    "0o10",
    "0x1F",
    "0b11",
    "1:30",
    "2024",
    "2024-01-01",
    "2024-13-45",
    "yes",
    "No",
    "on",
    "OFF",
    "true",
    "False",
    "null",
    "~",
    ".inf",
    "-.INF",
    ".nan",
    "+1",
    "-1e5",
    "0x_",
    "1_e5",
]
TEXTS = [
    "per_source",
    "c4",
    "y",
    "n",
    "e1",
    "1e",
    "a-b",
    "_1",
    "0o8",
    "1-2",
    "2024-1-1",
    "nan",
    "None",
    "off2",
    "v1_0",
]


def params(name: str) -> str:
    """A recipe of that name, asked for in another section."""
    return (
        f"mixed_dataset:\n  recipes:\n    original: {{cut: 1}}\n    {name}: {{cut: 2}}\n"
        f"comparison:\n  baseline: {name}\n"
    )


@pytest.mark.parametrize("name", KINDS)
def test_an_ambiguous_name_is_reported_with_line_and_remedy(
    name: str,
) -> None:
    recipe, baseline = unquoted_names(params(name))
    assert (
        recipe.startswith("params.yaml: line 4: mixed_dataset.recipes: ")
        and f'Write "{name}", with' in recipe
    )
    assert baseline.startswith("params.yaml: line 6: comparison.baseline: ")
    assert unquoted_names(params(f'"{name}"')) == unquoted_names(params(f"'{name}'")) == []


@pytest.mark.parametrize("name", TEXTS)
def test_a_name_that_is_text_to_both_is_not_reported(name: str) -> None:
    assert unquoted_names(params(name)) == []


def read(name: str, load: object) -> object:
    """What a reader makes of a key."""
    try:
        return next(iter(load(f"{name}: 1\n")))  # type: ignore[operator]
    except (ValueError, yaml.YAMLError):
        return None


def test_exactly_the_ambiguous_short_names_are_reported() -> None:
    letters = "07_-eExob"
    seen = 0
    for length in (1, 2, 3):
        for name in map("".join, product(letters, repeat=length)):
            if name in ("-", "--", "---"):
                continue
            texts = [read(name, yaml.safe_load), read(name, YAML(typ="safe").load)]
            assert bool(unquoted_names(f"{name}: 1\n")) == (texts != [name, name]), (name, texts)
            seen += texts != [name, name]
    assert seen > 50


def test_values_that_are_no_names_may_be_numbers() -> None:
    text = (
        "mixed_dataset: {recipes: {a: {cut: 0o10}}, token_budget: 1e6}\ncheckpoint: {seed: 010}\n"
    )
    assert unquoted_names(text) == []


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("true", "tokenized_corpus: {bos: true}"),
        ("2024", "checkpoint: {seed: 2024}"),
        ("7e-1", "mixed_dataset: {recipes: {a: {long_share: 7e-1}}}"),
        ("null", "token_demand: {margin: null}"),
    ],
)
def test_a_value_may_look_like_the_quoted_name_of_an_item(name: str, setting: str) -> None:
    assert unquoted_names(f'raw_corpus: {{domains: {{"{name}": {{}}}}}}\n{setting}\n') == []


def test_every_parameter_that_names_a_model_is_known() -> None:
    """make check looks for the models that these parameters name."""
    asked = inspect.getsource(preflight._check_across)
    for section, key in NAMING:
        assert f'("{section}", "{key}")' in asked


@pytest.mark.parametrize(
    "profile", sorted((ROOT / "profiles").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_profile_is_right(profile: Path) -> None:
    assert unquoted_names(profile.read_text()) == []
