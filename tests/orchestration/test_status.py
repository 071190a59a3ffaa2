"""The project's state is read again after every change that counts, and only then."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc_world import dvc, make_world

from orchestration import status
from orchestration.locks import PATH_LOCKS
from orchestration.status import read_state, stamp


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with all made."""
    world = make_world(tmp_path_factory.mktemp("status") / "made")
    dvc(world, "repro")
    return world


@pytest.fixture
def world(made: Path, tmp_path: Path) -> Path:
    """The same, whose state was read until it was kept."""
    root = Path(shutil.copytree(made, tmp_path / "world"))
    for _ in range(3):
        read_state(root)
    assert read_state(root) is read_state(root)
    return root


def replace_by_one_of_the_same_size_and_time(world: Path) -> None:
    """As a copy that keeps times does."""
    path = world / "sources/book/documents"
    before = path.stat()
    copy = path.with_name("copy")
    copy.write_text(path.read_text().replace("book", "beek"))
    os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
    copy.replace(path)


CHANGES: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "a source": (replace_by_one_of_the_same_size_and_time, {"raw@book"}),
    "a new file in a source": (
        lambda world: (world / "sources/c4/more").write_text("more"),
        {"raw@c4"},
    ),
    "a parameter": (
        lambda world: (world / "params.yaml").write_text(
            (world / "params.yaml").read_text().replace("cut: 1", "cut: 7")
        ),
        {"mixed@short"},
    ),
    "code": (
        lambda world: (world / "stage.py").write_text("pass"),
        {"raw@book", "raw@c4", "mixed@short", "mixed@both", "report"},
    ),
    "an output that is gone": (
        lambda world: shutil.rmtree(world / "data/raw/c4"),
        {"raw@c4", "mixed@short"},
    ),
    "a file between outputs": (
        lambda world: (world / "data/mixed/stray").write_text("stray"),
        {"report"},
    ),
    "dvc.lock": (
        lambda world: (world / "dvc.lock").unlink(),
        {"raw@book", "raw@c4", "mixed@short", "mixed@both", "report"},
    ),
    "the cache": (
        lambda world: shutil.rmtree(world / ".dvc/cache/files"),
        {"raw@book", "raw@c4", "mixed@short", "mixed@both", "report"},
    ),
}
"""What changes -> how, and some of what is out of date afterwards."""


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen_at_the_next_look(world: Path, change: str) -> None:
    assert not read_state(world).stale
    make, stale = CHANGES[change]
    make(world)
    assert stale <= read_state(world).stale.keys()


def test_a_look_at_what_has_not_changed_asks_dvc_nothing(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(root: Path) -> None:
        raise AssertionError("DVC was asked")

    for name in ("read_graph", "read_lock", "read_status"):
        monkeypatch.setattr(status, name, asked)
    (world / "unlisted.py").write_text("# another comment\n")
    assert not read_state(world).stale


def test_what_changes_while_it_is_read_is_read_again(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = status.read_lock

    def changing(root: Path) -> object:
        (world / "sources/book/documents").write_text("changed between two files\n")
        return read(root)

    (world / "sources/c4/documents").write_text("changed\n")
    monkeypatch.setattr(status, "read_lock", changing)
    first = read_state(world)
    monkeypatch.setattr(status, "read_lock", read)
    assert read_state(world) is not first


def test_a_link_to_a_folder_around_it_has_an_end(world: Path) -> None:
    for name in ("one", "two"):
        (world / "sources/book" / name).symlink_to(world / "sources", target_is_directory=True)
    graph = read_state(make_world(world / "other")).graph
    assert stamp(graph) == stamp(graph)


def test_a_state_is_kept_until_the_held_item_is_free(world: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()", "repro", "raw@book"],
        stdin=subprocess.PIPE,
    )
    held = {"pid": owner.pid, "cmd": "dvc repro raw@book"}
    locks = {"write": {str(world / "data/raw/book"): held}, "read": {}}
    (world / PATH_LOCKS).write_text(json.dumps(locks))
    (world / "stage.py").write_text("pass")
    try:
        found = [read(world) for _ in range(4)]
        assert all(busy == {"raw@book", "mixed@both"} for _, busy in found)
        assert found[2][0] is found[3][0]
    finally:
        owner.communicate()
    state, busy = read(world)
    assert not busy and state is not found[3][0]


def read(world: Path) -> tuple[status.State, set[str]]:
    """The state, and what another process holds."""
    busy = set[str]()
    return read_state(world, busy), busy
