"""The job `experiment`: try other parameters from Dagster's launchpad, without editing a file.

It runs `dvc exp run --temp` with the overrides: the same graph in a temporary folder of DVC's, with
the same cache. So DVC restores every item that the overrides do not affect. The result is a DVC
experiment with its parameters and metrics (`dvc exp show`). `dvc exp apply NAME` brings it into the
project. The cost: DVC copies what git tracks, so the project must be a git repository, and a
parameter that names a file beside the project must be an absolute path.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

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

from orchestration.graph import PARAMS_FILE, GraphError, read_params
from orchestration.launcher import note_worker
from orchestration.nested import leaves
from orchestration.running import Children, environment

PLAIN = re.compile(r"[\w.+\-/ :@%]*")
"""Texts that mean the same to DVC with quotes and without."""
# Part of a message of DVC. Its exit code is the same for every error.
TAKEN = "conflicts with existing experiment"


class Experiment(Config):  # type: ignore[misc]  # dagster leaves its base untyped
    """The fields of the launchpad."""

    name: str = Field(description="The experiment's name, as `dvc exp show` will list it")
    overrides: dict[str, Any] = Field(
        description=(
            "Key in params.yaml -> value, e.g. "
            '{"mixed_dataset.recipes.per_source.long_share": 0.8}. A number, a text, true, a list '
            'or a map; "null" is none; +key adds a new key, ~key (with "") removes a key'
        )
    )
    targets: list[str] = Field(
        default=[], description="Items to make, with everything upstream; none: everything"
    )


def experiment_arguments(config: Experiment) -> list[str]:
    """The arguments of `dvc exp run`."""
    changes = list[str]()
    for key, value in config.overrides.items():
        changes += ["--set-param", override(key, value)]
    return ["--temp", "--name", config.name, *changes, *config.targets]


def override(key: str, value: Any) -> str:
    """The override of one parameter in DVC's syntax. `~key` has no value."""
    return key if key.startswith("~") else f"{key}={written(value)}"


def written(value: Any) -> str:
    """A value in DVC's syntax. DVC parses a text too: "7" becomes a number, "[1, 2]" a list."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"

    # The user has written a list, a map or quotes; more quotes would change the meaning.
    text = str(value)
    if PLAIN.fullmatch(text) or text[:1] in ("[", "{", "'", '"'):
        return text
    return "'" + text.replace("'", "\\'") + "'"


def unknown(params: Any, key: str) -> str:
    """Why a key can't be changed; "" if params.yaml has it."""
    # `+key` adds a key, and DVC itself refuses a `~key` that does not exist.
    if key[:1] in ("+", "~"):
        return ""

    found = params
    seen = list[str]()
    for part in key.split("."):
        # By text: YAML may have read a name as a number, and DVC's keys are texts.
        named = dict[str, Any]()
        if isinstance(found, Mapping):
            named = {str(name): value for name, value in found.items()}

        if isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        elif part in named:
            found = named[part]
        else:
            where = ".".join(seen) or "it"
            return (
                f"params.yaml has no {key}: there is no {part!r} in {where}"
                f"{_alternatives(part, list(named))} Write +{key} to add it."
            )
        seen.append(part)
    return ""


def _alternatives(part: str, names: Sequence[str]) -> str:
    """The end of a sentence about a missing name: the closest name, or all names."""
    if close := get_close_matches(part, names, 1):
        return f", but {close[0]!r}."
    # A long map of domains would hide the message.
    return f"; it has {', '.join(names[:20])}." if names else "."


def example(root: Path) -> Experiment:
    """A working example for the launchpad: it sets a number of params.yaml to its present value."""
    # A broken params.yaml must not keep the code location from loading.
    try:
        params = read_params(root / PARAMS_FILE)
    except (OSError, GraphError):
        params = {}
    sections = params if isinstance(params, Mapping) else {}

    leaves = list[tuple[str, float]]()
    for name in ["mixed_dataset", *sections]:
        if name in sections:
            leaves += numbers(sections[name], str(name))

    # A recipe's own number is the likeliest to be tried. The sort keeps the order of the others.
    leaves.sort(key=lambda leaf: not leaf[0].startswith("mixed_dataset.recipes."))
    return Experiment(name="first-try", overrides=dict(leaves[:1]), targets=[])


def numbers(value: Any, key: str) -> Iterator[tuple[str, float]]:
    """(dotted key, number) for each number in nested maps."""
    for name, inner in leaves(value, key):
        # In Python a bool is an int too.
        if isinstance(inner, int | float) and not isinstance(inner, bool):
            yield name, inner


def experiment_job(root: Path) -> JobDefinition:
    """The job, with one op, on the project in `root`."""

    @op
    def dvc_exp_run(context: OpExecutionContext, config: Experiment) -> Output[None]:
        # By this tag the launcher finds the process, to watch it and to end it.
        note_worker(context.instance, context.run.run_id, os.getpid())
        check(root, config)

        children = Children(root)
        lines = list[str]()
        try:
            for line in children.lines("orchestration.dvc_exp", experiment_arguments(config)):
                if line:
                    lines.append(line)
                    context.log.info(line)
        except (ChildProcessError, subprocess.CalledProcessError):
            raise Failure(words_of_failure(config.name, lines), allow_retries=False) from None
        finally:
            children.stop()

        return Output(None, metadata=metadata(root, config))

    @job(
        name="experiment",
        # In this process, so that a cancellation reaches the one op, which ends DVC.
        executor_def=in_process_executor,
        description="Other parameters, without editing a file: `dvc exp run` with overrides",
        config=RunConfig(ops={"dvc_exp_run": example(root)}),
    )
    def experiment() -> None:
        dvc_exp_run()

    return experiment


def check(root: Path, config: Experiment) -> None:
    """Raise Failure if the project has no git repository, or params.yaml is broken or lacks a key."""
    if not (root / ".git").exists():
        raise Failure(
            "An experiment needs a git repository, and this project has none. Run git init, "
            "and commit.",
            allow_retries=False,
        )
    try:
        params = read_params(root / PARAMS_FILE)
    except (OSError, GraphError) as error:
        raise Failure(str(error), allow_retries=False) from None
    wrong = [message for key in config.overrides if (message := unknown(params, key))]
    if wrong:
        raise Failure("\n".join(wrong), allow_retries=False)


def words_of_failure(name: str, lines: Sequence[str]) -> str:
    """The end of DVC's output, with advice if the experiment's name exists already."""
    # The error stands at the end. The run's log has every line.
    words = "dvc exp run failed. Its last lines:\n" + "\n".join(lines[-20:])
    if any(TAKEN in line for line in lines):
        words += f"\nChoose another name, or remove that experiment: dvc exp remove {name}"
    return words


def metadata(root: Path, config: Experiment) -> dict[str, Any]:
    """What the run's page shows of a finished experiment."""
    shown: dict[str, Any] = {
        "experiment": config.name,
        "overrides": MetadataValue.json(dict(config.overrides)),
    }
    for what in ("params", "metrics"):
        table = difference(root, what, config.name)
        shown[f"{what}, HEAD and experiment"] = MetadataValue.md(table)
    return shown | {"to keep it": f"dvc exp apply {config.name}"}


def difference(root: Path, what: str, name: str) -> str:
    """DVC's table of the params or metrics that an experiment changed."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", what, "diff", "HEAD", name, "--md"]
    done = subprocess.run(command, cwd=root, env=environment(), text=True, capture_output=True)

    # The experiment is made and stays, whether or not DVC can compare it.
    table = done.stdout.strip()
    if table:
        return table
    return f"not known: {done.stderr.strip()}" if done.returncode else "(nothing)"
