"""Try other parameters without editing a file: the job `experiment`, started from Dagster's
launchpad.

It is `dvc exp run --temp` with the overrides: the same graph in a folder of DVC's own, the same
cache, so what the overrides do not touch is restored and not made again. What comes out is an
experiment of DVC's, with its parameters and metrics (`dvc exp show`), and can be brought into the
project with `dvc exp apply NAME`. The cost: DVC copies what git tracks, so parameters that name
files beside the project must be absolute paths, and the project a git repository.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from dagster import (
    Config,
    Failure,
    JobDefinition,
    MetadataValue,
    OpExecutionContext,
    Output,
    RunConfig,
    in_process_executor,
    job,
    op,
)
from pydantic import Field

from orchestration.launcher import note_worker
from orchestration.running import Children, environment

PLAIN = re.compile(r"[\w.+\-/ :@%]*")
"""Texts that mean the same to DVC with quotes and without."""
TAKEN = "conflicts with existing experiment"


class Experiment(Config):  # type: ignore[misc]  # dagster leaves its base untyped
    """The fields of the launchpad."""

    name: str = Field(description="The experiment's name, as `dvc exp show` will list it")
    overrides: dict[str, Any] = Field(
        description=(
            'Key in params.yaml -> value, e.g. {"mixed_dataset.recipes.per_source.long_share": 0.8}. A number, a text, '
            'true, a list or a map; "null" is none; +key adds one that is not there, ~key (with "") takes one away'
        )
    )
    targets: list[str] = Field(
        default=[], description="Items to make, with what lies upstream; none: everything"
    )


def experiment_arguments(config: Experiment) -> list[str]:
    """The arguments of `dvc exp run`."""
    changes = [
        part
        for key, value in config.overrides.items()
        for part in ("--set-param", override(key, value))
    ]
    return ["--temp", "--name", config.name, *changes, *config.targets]


def override(key: str, value: Any) -> str:
    """A change of one parameter, as DVC writes it. `~key` has no value."""
    return key if key.startswith("~") else f"{key}={written(value)}"


def written(value: Any) -> str:
    """A value as DVC reads it. A text is read like typed input: "7" is a number, [1, 2] a list."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    text = str(value)
    if PLAIN.fullmatch(text) or text[:1] in ("[", "{", "'", '"'):
        return text
    return "'" + text.replace("'", "\\'") + "'"


def unknown(params: Any, key: str) -> str:
    """Why a key can't be changed; "" if params.yaml has it."""
    if key[:1] in ("+", "~"):
        return ""
    found, seen = params, list[str]()
    for part in key.split("."):
        names = [str(name) for name in found] if isinstance(found, Mapping) else []
        if isinstance(found, list) and part.isdigit() and int(part) < len(found):
            found = found[int(part)]
        elif part in names:
            found = next(value for name, value in found.items() if str(name) == part)
        else:
            close = get_close_matches(part, names, 1)
            return (
                f"params.yaml has no {key}: there is no {part!r} in {'.'.join(seen) or 'it'}"
                + (
                    f", but {close[0]!r}."
                    if close
                    else f"; it has {', '.join(names[:20])}."
                    if names
                    else "."
                )
                + f" Write +{key} to add it."
            )
        seen.append(part)
    return ""


def example(root: Path) -> Experiment:
    """A working example for the launchpad: it sets a number of params.yaml to the value it has."""
    try:
        params = yaml.safe_load((root / "params.yaml").read_text())
    except (OSError, yaml.YAMLError):
        params = {}
    sections = params if isinstance(params, Mapping) else {}
    preferred = ["mixed_dataset", *sections]
    leaves = [
        leaf
        for name in preferred
        if name in sections
        for leaf in numbers(sections[name], str(name))
    ]
    # a recipe's own number is the likeliest to be tried
    leaves.sort(key=lambda leaf: not leaf[0].startswith("mixed_dataset.recipes."))
    return Experiment(name="first-try", overrides=dict(leaves[:1]), targets=[])


def numbers(value: Any, key: str) -> Iterator[tuple[str, float]]:
    """Each number in nested maps, by its dotted key."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from numbers(inner, f"{key}.{name}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value


def experiment_job(root: Path) -> JobDefinition:
    """A job of one op on the project in `root`."""

    @op
    def dvc_exp_run(context: OpExecutionContext, config: Experiment) -> Output[None]:
        note_worker(context.instance, context.run.run_id, os.getpid())
        if not (root / ".git").exists():
            raise Failure(
                "An experiment needs a git repository, and this project is none: git init, and "
                "commit.",
                allow_retries=False,
            )
        params = yaml.safe_load((root / "params.yaml").read_text())
        if wrong := [message for key in config.overrides if (message := unknown(params, key))]:
            raise Failure("\n".join(wrong), allow_retries=False)
        children, lines = Children(root), list[str]()
        try:
            for line in children.lines("orchestration.dvc_exp", experiment_arguments(config)):
                if line:
                    lines.append(line)
                    context.log.info(line)
        except (ChildProcessError, subprocess.CalledProcessError):
            advice = (
                f"\nChoose another name, or take that one away: dvc exp remove {config.name}"
                if any(TAKEN in line for line in lines)
                else ""
            )
            raise Failure(
                "dvc exp run failed. Its last lines:\n" + "\n".join(lines[-20:]) + advice,
                allow_retries=False,
            ) from None
        finally:
            children.stop()
        return Output(
            None,
            metadata={
                "experiment": config.name,
                "overrides": MetadataValue.json(dict(config.overrides)),
                **{
                    f"{what}, HEAD and experiment": MetadataValue.md(
                        difference(root, what, config.name)
                    )
                    for what in ("params", "metrics")
                },
                "to keep it": f"dvc exp apply {config.name}",
            },
        )

    @job(
        name="experiment",
        executor_def=in_process_executor,  # a cancellation reaches its one op, which ends DVC
        description="Other parameters, without editing a file: `dvc exp run` with overrides",
        config=RunConfig(ops={"dvc_exp_run": example(root)}),
    )
    def experiment() -> None:
        dvc_exp_run()

    return experiment


def difference(root: Path, what: str, name: str) -> str:
    """What an experiment changed of its params or metrics, as DVC's table."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", what, "diff", "HEAD", name, "--md"]
    done = subprocess.run(command, cwd=root, env=environment(), text=True, capture_output=True)
    return done.stdout.strip() or (
        f"not known: {done.stderr.strip()}" if done.returncode else "(nothing)"
    )
