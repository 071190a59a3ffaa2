"""`python -m orchestration.quiet PART ...`: a part of Dagster that wakes less often while nobody
works.

Dagster's code server, webserver and daemon ask each other once a second whether they are still
there, and the daemon reads the whole code location again every minute. On a laptop that is a tenth
of a processor for nothing. `make ui` reloads the location itself when a file changed, and restarts
what died, so both may be rarer. The cost: names that are not Dagster's public interface. They all
stand here, and a test holds that they exist. A name that is gone changes nothing but the cost.
"""

import sys
from importlib import import_module

SECONDS = {
    "dagster._daemon.controller.RELOAD_WORKSPACE_INTERVAL": 3600,
    "dagster._grpc.client.CLIENT_HEARTBEAT_INTERVAL": 5,
    "dagster._grpc.server_watcher.WATCH_INTERVAL": 5,
}
"""Dagster's own: 60, 1 and 1. A part that died is noticed after five seconds instead of one."""
PARTS = {
    "code-server": ("dagster._cli", ["dagster", "code-server"]),
    "daemon": ("dagster._daemon.cli", ["dagster-daemon"]),
    "webserver": ("dagster_webserver.cli", ["dagster-webserver"]),
}
"""What each part's command line is: a module with a function `main`, and its first words."""


def slow_down() -> None:
    """Put the longer intervals in place, in this process."""
    for name, seconds in SECONDS.items():
        module, attribute = name.rsplit(".", 1)
        setattr(import_module(module), attribute, seconds)


def main() -> None:
    """Run a part with the arguments that follow its name."""
    part, *arguments = sys.argv[1:]
    module, words = PARTS[part]
    slow_down()
    sys.argv = [*words, *arguments]
    import_module(module).main()


if __name__ == "__main__":
    main()
