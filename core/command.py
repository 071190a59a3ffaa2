"""The command line of a stage: arguments in, a one-line error out.

`command(run, "domain")` is the last line of a stage's module. It checks the item's name before any
work starts, hands the stage to another machine if the environment says so, and calls `run`. What
the user can correct ends the process with one line and the exit code 1. The cost: a stage takes
only names of items, because DVC knows no other arguments.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from core import elsewhere
from core.environment import SECONDS_TO_STOP, number_of
from core.errors import UserError
from core.missing import explained
from core.params import check_item, parse_yaml

GRAPH = Path("dvc.yaml")


def command(run: Callable[..., None], *argument_names: str) -> None:
    """Parse the command line of a stage and run it.

    argument_names: the kind of each argument, "domain", "recipe" or "model".
    """
    arguments = sys.argv[1:]
    # Under `python -m` the module is named __main__; its spec keeps the real name.
    spec = sys.modules["__main__"].__spec__
    module = spec.name if spec else Path(sys.argv[0]).stem
    if len(arguments) != len(argument_names):
        wanted = " ".join(name.upper() for name in argument_names)
        sys.exit(f"usage: python -m {module} {wanted}".rstrip())

    with plain_errors(module.split(".")[-1]):
        for what, name in zip(argument_names, arguments, strict=True):
            check_item(what, name)
        # After the check: a launcher may queue for hours before it reports a typing error.
        go_elsewhere(module, arguments)
        run(*arguments)


@contextmanager
def plain_errors(who: str) -> Iterator[None]:
    """End the process with one line: for a UserError, and for a missing file with a known cause."""
    try:
        yield
    except UserError as error:
        sys.exit(f"{who}: {error}")
    except FileNotFoundError as error:
        # Here and not in each reader: any library may raise it for a file of the project.
        problem = explained(error)
        if problem is None:
            raise
        sys.exit(f"{who}: {problem}")


def go_elsewhere(module: str, arguments: Sequence[str]) -> None:
    """Become the launcher that the environment names for the stage's pool, if it names one.

    See core/elsewhere.py. Raises UserError for a launcher that cannot be started.
    """
    prefixes = elsewhere.prefixes(os.environ)
    if not prefixes:
        return

    pools = pools_of(GRAPH)
    known = {elsewhere.variable_of(pool) for pool in pools.values()}
    for name in sorted(prefixes.keys() - known):
        raise UserError(
            f"{elsewhere.VARIABLE}{name}: no stage of {GRAPH} is in a pool {name!r}. "
            f"There are {', '.join(sorted(known)) or 'none'}. Name one of those, or unset it."
        )

    pool = pools.get(module.split(".")[-1], "")
    variable = elsewhere.variable_of(pool)
    if variable not in prefixes:
        return

    prefix = prefixes[variable]
    # The frame on the other machine cannot import the project, so the default goes along.
    passed = {**os.environ, SECONDS_TO_STOP.name: f"{number_of(SECONDS_TO_STOP):g}"}
    try:
        words = elsewhere.command(prefix, pool, module, arguments, passed)
    except ValueError as error:
        raise UserError(f"{elsewhere.VARIABLE}{variable} = {prefix}: {error}") from None
    # exec drops what is still in Python's buffer.
    sys.stdout.flush()
    os.execv(words[0], words)


def pools_of(path: Path) -> dict[str, str]:
    """By stage, the pool that its `meta` in dvc.yaml names. Raises UserError."""
    try:
        graph = parse_yaml(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(
            f"{path.resolve()}: cannot be read: {error}. It says which stages run elsewhere."
        ) from None

    found = {}
    for name, stage in ((graph or {}).get("stages") or {}).items():
        # `do` holds the body of a stage with `foreach`.
        body = stage.get("do", stage)
        if pool := (body.get("meta") or {}).get("pool"):
            found[str(name)] = str(pool)
    return found
