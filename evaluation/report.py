"""The command line of a report: for a model of the graph, or for any other model.

`python -m evaluation.needle_report NAME` makes the artefact of the graph.
`python -m evaluation.needle_report --model MODEL --out FOLDER` measures any model with the same
section of params.yaml, in which `--set` can change keys. All reports share this command line. The
cost: each must be one function `measure(tested, config, folder)`.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import Field

from core.command import go_elsewhere, plain_errors
from core.errors import UserError, one_line
from core.params import Config, check_item, read_params, validated
from core.sealed import output, sealed, write_json
from evaluation.model_under_test import ModelUnderTest, of_graph, of_user

AnyConfig = TypeVar("AnyConfig", bound=Config)


def warn(stage: str, name: str, warning: str | None) -> None:
    """Print a warning about one model's scores, if there is one."""
    if warning:
        print(f"{stage} {name}: warning: {warning}", file=sys.stderr, flush=True)


class Arguments(Config):
    """The command line: `name`, or `model` and `out`."""

    name: str | None = None
    model: str | None = None
    out: Path | None = None
    params: Path = Path("params.yaml")
    set: tuple[str, ...] = Field(default=())


def report(
    stage: str,
    kind: type[AnyConfig],
    measure: Callable[[ModelUnderTest, AnyConfig, Path], dict[str, Any]],
) -> None:
    """Run a report from the command line.

    stage: its name, also of its module and section. kind: the class of the section.
    measure: `measure(tested, config, folder)` writes the files and returns the metrics.
    """
    given = _arguments(stage)
    with plain_errors(stage):
        if given.name is not None:
            check_item("model", given.name)
            go_elsewhere(f"evaluation.{stage}", [given.name])
            tested, config = of_graph(given.name), read_params(stage, kind)
            with output(stage, given.name) as out:
                out.metrics = measure(tested, config, out.folder)
                out.facts = tested.facts
        else:
            assert given.model is not None and given.out is not None
            config = _changed(read_params(stage, kind, given.params), given.set, stage)
            tested = of_user(given.model)
            facts = {"stage": stage, "model": given.model, **tested.facts}
            with sealed(given.out, facts) as folder:
                metrics = measure(tested, config, folder)
                write_json(folder / "metrics.json", metrics)
            print(json.dumps(metrics, indent=2))


def _changed(config: AnyConfig, changes: tuple[str, ...], stage: str) -> AnyConfig:
    """The config after all `--set KEY=VALUE`.

    changes: as typed; a dotted key goes into sections. Raises UserError for one that can't be made.
    """
    values = config.model_dump(mode="json")
    for change in changes:
        key, separator, value = change.partition("=")
        if not separator:
            raise UserError(f"--set {change}: write KEY=VALUE, as in --set trials=4")

        *path, last = key.split(".")
        node = values
        for depth, part in enumerate(path, 1):
            # A section that params.yaml leaves out, as `drawn`, is None here.
            node[part] = {} if node.get(part) is None else node[part]
            node = node[part]
            if not isinstance(node, dict):
                raise UserError(
                    f"--set {change}: {'.'.join(path[:depth])} is no section "
                    "but a value or list: set all of it."
                )

        try:
            node[last] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(
                f"--set {change}: the value is not valid YAML: {one_line(error)}. "
                "Close its brackets and quotes."
            ) from None
    return validated(type(config), values, f"{stage} after --set")


def _arguments(stage: str) -> Arguments:
    """The parsed command line; exits with the usage if it is not valid."""
    parser = argparse.ArgumentParser(prog=f"python -m evaluation.{stage}")
    parser.add_argument(
        "name", nargs="?", help="a model of the comparison: makes the artefact of the graph"
    )
    parser.add_argument(
        "--model", help="any model: folder, Hub id, or a YAML file that names an endpoint"
    )
    parser.add_argument("--out", type=Path, help="folder for the report on --model")
    parser.add_argument(
        "--params",
        type=Path,
        default=Path("params.yaml"),
        help="whose section is used (params.yaml)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a key of the section",
    )
    given = parser.parse_args()

    one_model = (given.name is None) != (given.model is None)
    if not one_model or (given.model is not None and given.out is None):
        parser.error("give NAME, or --model MODEL --out FOLDER")
    return Arguments(
        name=given.name,
        model=given.model,
        out=given.out,
        params=given.params,
        set=tuple(given.set),
    )
