"""A wrong parameter is named with its value and what is allowed."""

from pathlib import Path
from typing import Annotated

import pytest
import yaml
from pydantic import Field

from core.errors import UserError
from core.params import Config, names_of, read_params, validated


class Part(Config):
    """What stands deeper."""

    length: int = 0
    depth: int = 0


class Toy(Config):
    """A section with one bounded key, and others below it."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    one: Part | None = None
    named: dict[str, Part] = {}
    listed: tuple[Part, ...] = ()


@pytest.fixture(autouse=True)
def _in_an_empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("toy: {share: 2}", "toy.share = 2: Input should be less than or equal to 1"),
        ("toy: {sahre: 1}", "toy.sahre: unknown key. Known here: share, one, named, listed."),
        ("toy: {one: {lenght: 1}}", "toy.one.lenght: unknown key. Known here: length, depth."),
        (
            "toy: {named: {share: {lenght: 1}}}",
            "toy.named.share.lenght: unknown key. Known here: length, depth.",
        ),
        (
            "toy: {listed: [{}, {lenght: 1}]}",
            "toy.listed.1.lenght: unknown key. Known here: length, depth.",
        ),
        ("other: {}", "no section 'toy'"),
        ("toy: [", "not valid YAML"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_is_allowed(text: str, message: str) -> None:
    Path("params.yaml").write_text(text)
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        read_params("toy", Toy)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a b", "'a b' cannot be a name"),
        ("my.domain", "'my.domain' cannot be a name"),
        ("a/b", "'a/b' cannot be a name"),
        ("é", "'é' cannot be a name"),
        ("2024", "as 2024, not as text. Write it in quotes"),
        ("no", "as False, not as text. Write it in quotes"),
    ],
)
@pytest.mark.parametrize(
    "where", ["raw_corpus.domains", "mixed_dataset.recipes", "checkpoint.models"]
)
def test_a_name_unfit_for_a_folder_or_command_is_refused(where: str, name: str, said: str) -> None:
    section, key = where.split(".")
    Path("params.yaml").write_text(
        f"toy: {{}}\n{section}: {{{key}: {{good: {{}}, {name}: {{}}}}}}\n"
    )
    with pytest.raises(UserError, match=f"params.yaml: {where}: .*{said}"):
        read_params("toy", Toy)


@pytest.mark.parametrize("name", ["all", "record"])
def test_reserved_domain_names_are_refused(name: str) -> None:
    Path("params.yaml").write_text(
        f"mixed_dataset: {{recipes: {{{name}: {{}}}}}}\nraw_corpus: {{domains: {{}}}}\n"
    )
    assert names_of("recipe") == [name]
    Path("params.yaml").write_text(f"raw_corpus: {{domains: {{good: {{}}, {name}: {{}}}}}}\n")
    with pytest.raises(
        UserError, match=f"raw_corpus.domains: '{name}' cannot be a domain's name: .* Take another"
    ):
        names_of("domain")


def test_a_quoted_number_is_a_name() -> None:
    Path("params.yaml").write_text('raw_corpus: {domains: {"2024": {}, "no": {}, A-b_9: {}}}\n')
    assert names_of("domain") == ["2024", "no", "A-b_9"]


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf"])
def test_nan_and_infinity_are_refused_whatever_the_limits(number: str) -> None:
    values = yaml.safe_load(f"{{base: {number}}}")
    with pytest.raises(UserError, match=r"x.base = .*: Input should be a finite number"):
        validated(Unlimited, values, "x")


class Unlimited(Config):
    """A section with a number of any size."""

    base: float
