"""Which tests stay on one worker of pytest-xdist: `make test` spreads the others one by one."""

from collections.abc import Sequence

import pytest

TOGETHER = {
    "e2e/test_ui.py": "browser",
    "e2e/test_watching.py": "watching",
    "orchestration/test_changes.py": "changes",
    "orchestration/test_repro.py": "repro",
    "orchestration/test_costs.py": "spending",
    "test_whole_graph.py": "whole graph",
    "training/test_identity.py": "torch",
    "training/test_processes.py": "torch",
    "training/test_resume.py": "torch",
}
"""From a file to its group. Each group shares what is dear to make: a server, a world with
everything made, a Python with torch (starts.py). The largest groups are begun first."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Mark each group for `--dist loadgroup`."""
    for item in items:
        name = "/".join(item.path.parts[item.path.parts.index("tests") + 1 :])
        if name in TOGETHER:
            item.add_marker(pytest.mark.xdist_group(TOGETHER[name]))
