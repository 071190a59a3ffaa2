"""`python -m orchestration.quiet PART ...`: a part of Dagster that does less while nobody works.

Dagster's code server, webserver and daemon ask each other once a second whether they are still
there, the daemon reads the whole code location again every minute, and each of its threads notes
twice a minute that it lives. For each query of its SQLite files Dagster makes a new engine, which
compiles its statements again. On a laptop that is a tenth of a processor for nothing. `make ui`
reloads the location itself when a file changed, and restarts what died, so all of it may be rarer.
Launched runs and sensors are looked after as often as before. The cost: names that are not
Dagster's public interface. They all stand here, and a test holds that they exist.
"""

import os
import sys
from collections.abc import Callable
from functools import lru_cache, partial
from importlib import import_module
from typing import Any

SECONDS = {
    "dagster._daemon.controller.RELOAD_WORKSPACE_INTERVAL": 3600,
    "dagster._daemon.asset_daemon.MIN_INTERVAL_LOOP_SECONDS": 60,
    "dagster._grpc.client.CLIENT_HEARTBEAT_INTERVAL": 5,
    "dagster._grpc.server_watcher.WATCH_INTERVAL": 5,
    "grpc._common.MAXIMUM_WAIT_TIMEOUT": 1,
}
"""Dagster's own: 60, 5, 1, 1 and, of its gRPC, 0.1. The second is the loop for automation
conditions, which no asset here has. By the next two, a part that died is noticed after five seconds
instead of one. By the last, a server that only waits to be ended looks about.
"""
IN_ENVIRONMENT = {
    "DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": "15",
    "FRESHNESS_DAEMON_INTERVAL_SECONDS": "3600",
}
"""Where it is not set. Dagster's own: 5 and 30. The first is how soon a run that ended badly is
tried again; the second looks for freshness policies, which no asset here has.
"""
STARTS_DAEMON = "dagster._daemon.cli.daemon_controller_from_instance"
HEARTBEAT = {"heartbeat_interval_seconds": 120}
"""How often a thread of the daemon notes that it lives. Dagster's own: 30. It counts as dead after
half an hour at the earliest.
"""
MAKES_ENGINE = [
    "dagster._core.storage.event_log.sqlite.sqlite_event_log.create_engine",
    "dagster._core.storage.runs.sqlite.sqlite_run_storage.create_engine",
    "dagster._core.storage.schedules.sqlite.sqlite_schedule_storage.create_engine",
]
"""Called for each query, always for an engine without a pool, which has no state but its compiled
statements.
"""
ENGINES = 16
"""Of files: three, and one for each run that is looked at."""
PARTS = {
    "code-server": ("dagster._cli", ["dagster", "code-server"]),
    "daemon": ("dagster._daemon.cli", ["dagster-daemon"]),
    "webserver": ("dagster_webserver.cli", ["dagster-webserver"]),
}
"""What each part's command line is: a module with a function `main`, and its first words."""


def slow_down() -> None:
    """Put the longer intervals and the kept engines in place, in this process."""
    for variable, value in IN_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    for name, seconds in SECONDS.items():
        put(name, seconds)
    put(STARTS_DAEMON, partial(named(STARTS_DAEMON), **HEARTBEAT))
    for name in MAKES_ENGINE:
        put(name, kept(named(name)))


def kept(create_engine: Callable[..., Any]) -> Callable[..., Any]:
    """`create_engine`, which gives the same engine for the same file."""

    @lru_cache(ENGINES)
    def create(file: str, poolclass: Any, arguments: tuple[tuple[str, Any], ...]) -> Any:
        return create_engine(file, poolclass=poolclass, connect_args=dict(arguments))

    def engine(file: str, *, poolclass: Any, connect_args: dict[str, Any] | None = None) -> Any:
        return create(file, poolclass, tuple(sorted((connect_args or {}).items())))

    return engine


def named(name: str) -> Any:
    """What a dotted name of a module's attribute stands for."""
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def put(name: str, value: Any) -> None:
    """Replace it."""
    module, _, attribute = name.rpartition(".")
    setattr(import_module(module), attribute, value)


def main() -> None:
    """Run a part with the arguments that follow its name."""
    part, *arguments = sys.argv[1:]
    module, words = PARTS[part]
    slow_down()
    sys.argv = [*words, *arguments]
    import_module(module).main()


if __name__ == "__main__":
    main()
