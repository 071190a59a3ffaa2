"""`python -m orchestration.quiet PART ...`: a part of Dagster that uses less CPU while idle.

Dagster's code server, webserver and daemon check each other once a second. The daemon reads the
whole code location again every minute, and each of its threads writes a heartbeat twice a minute.
For each query of its SQLite files Dagster makes a new engine, which compiles its statements again.
On a laptop that is a wasted tenth of a processor. `make ui` reloads the location itself when a file
changed, and restarts what died, so all of it may be rarer. Runs and sensors are served as often as
before. The cost: names that are not Dagster's public interface. All of them are in this module, and
a test checks that they exist.
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
"""Dagster's defaults are 60, 5, 1 and 1 s; gRPC's is 0.1 s. In this order: the daemon reloads the
workspace; the loop for automation conditions, which no asset here has; two checks that notice a
dead part, now after five seconds; a waiting server wakes up to see whether it should end.
"""
IN_ENVIRONMENT = {
    "DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": "15",
    "FRESHNESS_DAEMON_INTERVAL_SECONDS": "3600",
}
"""Used if the variable is not set. Dagster's defaults are 5 and 30. The first is the delay before a
run that ended badly is retried; the second checks freshness policies, which no asset here has.
"""
STARTS_DAEMON = "dagster._daemon.cli.daemon_controller_from_instance"
HEARTBEAT = {"heartbeat_interval_seconds": 120}
"""How often a thread of the daemon writes a heartbeat. Dagster's default is 30. A thread counts as
dead after half an hour at the earliest.
"""
MAKES_ENGINE = [
    "dagster._core.storage.event_log.sqlite.sqlite_event_log.create_engine",
    "dagster._core.storage.runs.sqlite.sqlite_run_storage.create_engine",
    "dagster._core.storage.schedules.sqlite.sqlite_schedule_storage.create_engine",
]
"""Dagster calls these for each query. The engine has no pool, so its only state are its compiled
statements, and it can be kept.
"""
ENGINES = 16
"""Engines to keep, one for each file: three databases, and one for each run that is shown."""
PARTS = {
    "code-server": ("dagster._cli", ["dagster", "code-server"]),
    "daemon": ("dagster._daemon.cli", ["dagster-daemon"]),
    "webserver": ("dagster_webserver.cli", ["dagster-webserver"]),
}
"""Part -> the module whose `main` runs it, and the first words of its command line."""


def slow_down() -> None:
    """Set the longer intervals and keep engines, in this process."""
    # First, because Dagster reads some of these variables when its modules are imported.
    for variable, value in IN_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    for name, seconds in SECONDS.items():
        put(name, seconds)
    put(STARTS_DAEMON, partial(named(STARTS_DAEMON), **HEARTBEAT))
    for name in MAKES_ENGINE:
        put(name, kept(named(name)))


def kept(create_engine: Callable[..., Any]) -> Callable[..., Any]:
    """`create_engine`, but with the same engine for the same file."""

    @lru_cache(ENGINES)
    def create(file: str, poolclass: Any, arguments: tuple[tuple[str, Any], ...]) -> Any:
        return create_engine(file, poolclass=poolclass, connect_args=dict(arguments))

    def engine(file: str, *, poolclass: Any, connect_args: dict[str, Any] | None = None) -> Any:
        # The cache's key must be hashable, and a dictionary is not.
        return create(file, poolclass, tuple(sorted((connect_args or {}).items())))

    return engine


def named(name: str) -> Any:
    """The value of a module's attribute, by its dotted name."""
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def put(name: str, value: Any) -> None:
    """Replace a module's attribute, by its dotted name."""
    module, _, attribute = name.rpartition(".")
    setattr(import_module(module), attribute, value)


def main() -> None:
    """Run a part with the arguments that follow its name."""
    part, *arguments = sys.argv[1:]
    module, words = PARTS[part]
    # Before the part starts: it reads the intervals once.
    slow_down()
    sys.argv = [*words, *arguments]
    import_module(module).main()


if __name__ == "__main__":
    main()
