"""`python -m orchestration.repro` makes what `dvc repro` makes, and loses neither a change nor an
output by it.
"""

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from dagster_server import hold_back, stages_at_work, until
from dvc import rwlock
from dvc.output import Output
from dvc.stage import Stage
from dvc.stage import run as stage_run
from dvc.stage.cache import StageCache
from dvc.utils.serialize import _common
from dvc_data.hashfile import checkout as link_into_cache
from dvc_world import dvc, make_world

from orchestration import dvc_repro, hashable, keeping, locks, run_cache
from orchestration import graph as module
from orchestration.graph import order_lock, read_graph, read_lock, read_status

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
REPRO = [sys.executable, "-m", "orchestration.repro"]
BOOK = Path("data/raw/book/text")


def start(world: Path, *arguments: str, command: Sequence[str] = REPRO) -> "subprocess.Popen[str]":
    """The command of this file, or another, that runs in the project."""
    return subprocess.Popen(
        [*command, *arguments],
        cwd=world,
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def repro(world: Path, *arguments: str, code: int = 0) -> str:
    """What the command prints. It must end with that code."""
    process = start(world, *arguments)
    text = process.communicate()[0]
    assert process.returncode == code, text
    return text


EARLY = """
import os, signal, sys
from orchestration import repro
guarded = repro.guarded
def early(command):
    os.kill(os.getpid(), signal.SIGTERM)
    return guarded(command)
repro.guarded = early
sys.exit(repro.guarded_run([sys.executable, "-c", "import signal; signal.pause()"]))
"""
"""A signal that comes when the handlers are there and the command is not."""


def test_a_signal_that_comes_before_the_command_ends_it(tmp_path: Path) -> None:
    process = start(tmp_path, command=[sys.executable, "-c", EARLY])
    try:
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM


def artefacts(world: Path) -> dict[str, str]:
    """Path -> content of everything that was made."""
    return {
        path.relative_to(world).as_posix(): path.read_text()
        for path in sorted((world / "data").rglob("*"))
        if path.is_file()
    }


def add_document(world: Path, text: str) -> None:
    """One more in the domain `book`."""
    with (world / "sources/book/documents").open("a") as file:
        file.write(f"{text}\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with all made."""
    root = make_world(tmp_path_factory.mktemp("made") / "world")
    hold_back(root)
    repro(root)
    return root


@pytest.fixture
def world(made: Path, tmp_path: Path) -> Path:
    """Such a project, for one test."""
    return Path(shutil.copytree(made, tmp_path / "world"))


def test_it_makes_the_bytes_and_the_lock_file_of_dvc(tmp_path: Path) -> None:
    ours, plain = make_world(tmp_path / "ours"), make_world(tmp_path / "plain")
    repro(ours)
    dvc(plain, "repro")
    assert artefacts(ours) == artefacts(plain)
    assert (ours / "dvc.lock").read_text() == (plain / "dvc.lock").read_text()
    assert "Data and pipelines are up to date" in repro(ours)


def test_a_document_that_arrives_during_a_stage_is_made_next(world: Path) -> None:
    add_document(world, "in time")
    (world / "hold/raw-book").touch()
    process = start(world)
    until(lambda: stages_at_work(world))
    add_document(world, "too late")
    (world / "hold/raw-book").unlink()
    assert process.wait() == 0
    assert set(read_status(world)) == {"raw@book"}
    repro(world)
    assert (
        "too late" in (world / BOOK).read_text()
        and "too late" in (world / "data/report/all/text").read_text()
    )
    assert not read_status(world)


@pytest.mark.parametrize("how", ["killed", "asked to end", "failed"])
@pytest.mark.parametrize("command", [REPRO, [sys.executable, "-m", "dvc", "repro"]])
def test_the_old_output_stays_while_a_new_one_is_made(
    world: Path, how: str, command: list[str]
) -> None:
    """And is there after a run that came to nothing, under plain `dvc repro` too."""
    before, source = artefacts(world), (world / "sources/book/documents").read_text()
    add_document(world, "poison" if how == "failed" else "new")
    (world / "hold/raw-book").touch()
    process = start(world, command=command)
    until(lambda: stages_at_work(world))
    assert artefacts(world) == before, "readable while the new one is made"
    if how == "failed":
        (world / "hold/raw-book").unlink()
    else:
        os.killpg(process.pid, signal.SIGKILL if how == "killed" else signal.SIGTERM)
    assert process.wait() != 0
    until(lambda: not stages_at_work(world))
    (world / "hold/raw-book").unlink(missing_ok=True)
    assert artefacts(world) == before
    (world / "sources/book/documents").write_text(source)
    assert "up to date" in repro(world)


def test_an_output_from_the_cache_replaces_the_old_one_whole(world: Path) -> None:
    before = artefacts(world)
    add_document(world, "new")
    repro(world)
    (world / BOOK).unlink()
    (world / BOOK).write_text("by hand, and in no cache")
    (world / "data/raw/book/more").write_text("by hand")
    (world / "sources/book/documents").write_text("a document of book\n")
    text = repro(world)
    assert "Stage 'raw@book' is cached" in text and artefacts(world) == before
    assert not read_status(world) and not list((world / keeping.ASIDE).glob("*/*"))


def test_a_command_that_leaves_its_old_output_is_refused(world: Path) -> None:
    (world / "stage.py").write_text("pass\n")
    assert "has not replaced data/raw/book" in repro(world, code=255)


def test_what_a_killed_process_was_gathering_is_removed(world: Path) -> None:
    left = world / keeping.ASIDE / "pid%20999999999" / "data%2Fraw%2Fbook"
    left.mkdir(parents=True)
    repro(world, "--dry")
    assert not left.parent.exists()


def test_files_and_folders_are_exchanged_and_missing_ones_made(tmp_path: Path) -> None:
    for kind in ("file", "folder"):
        new, target = tmp_path / f"new {kind}", tmp_path / "in" / kind
        for content in ("first", "second"):
            if kind == "folder":
                new.mkdir()
            (new / "text" if kind == "folder" else new).write_text(content)
            keeping.put_in_place(new, target)
            assert (target / "text" if kind == "folder" else target).read_text() == content
            assert not new.exists()


@pytest.mark.parametrize("copied", [True, False])
def test_a_lock_file_cut_off_by_a_kill_is_repaired(
    made: Path, tmp_path: Path, copied: bool
) -> None:
    world = Path(shutil.copytree(made, tmp_path / "world"))
    whole = (world / "dvc.lock").read_bytes()
    for left in (*range(0, len(whole), 7), len(whole) - 1):
        shutil.rmtree(world / locks.OURS)
        (world / "dvc.lock").write_bytes(whole)
        if copied:
            assert locks.repair(world) == []
        (world / "dvc.lock").write_bytes(whole[:left])
        said = locks.repair(world)
        assert not locks.lock_is_broken(world)
        if said and copied:
            assert (world / "dvc.lock").read_bytes() == whole
        elif said:
            assert (
                not (world / "dvc.lock").exists()
                and (world / locks.BROKEN).read_bytes() == whole[:left]
            )
        else:
            assert left and whole[:left].endswith(b"\n"), (
                "cut where an entry ends: what is left is right"
            )
    text = repro(world)
    assert "Running stage" not in text and (world / "dvc.lock").read_bytes() == whole


def test_every_reader_repairs_a_lock_file_left_empty(made: Path, tmp_path: Path) -> None:
    world = Path(shutil.copytree(made, tmp_path / "world"))
    for read in (read_graph, read_status, read_lock):
        (world / "dvc.lock").write_text("")
        read(world)
        assert len(read_lock(world)) == 5, read


def test_a_merge_that_git_left_to_the_user_is_left_to_the_user(made: Path, tmp_path: Path) -> None:
    world = Path(shutil.copytree(made, tmp_path / "world"))
    conflict = (
        (world / "dvc.lock")
        .read_text()
        .replace("stages:\n", "<<<<<<< HEAD\nstages:\n=======\n>>>>>>> other\n")
    )
    (world / "dvc.lock").write_text(conflict)
    repro(world, code=255)
    assert (world / "dvc.lock").read_text() == conflict


@pytest.mark.parametrize("content", ["", '{"write": {"a": 1}}'])
def test_a_list_of_path_locks_that_a_kill_cut_off_stops_no_one(
    made: Path, tmp_path: Path, content: str
) -> None:
    world = Path(shutil.copytree(made, tmp_path / "world"))
    (world / ".dvc/tmp/rwlock").write_text(content)
    assert "up to date" in repro(world)


def test_dvcs_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    def killed(data: Any, stream: Any) -> None:
        stream.write("schema")
        raise KeyboardInterrupt

    path = tmp_path / "dvc.lock"
    path.write_text("whole\n")
    with pytest.raises(KeyboardInterrupt):
        dvc_repro.dump_whole(path, {}, killed)
    assert path.read_text() == "whole\n"
    with (
        pytest.raises(KeyboardInterrupt),
        dvc_repro.edit_path_locks(str(tmp_path), None, False) as lock,
    ):
        lock["write"]["a"] = {"pid": 1, "cmd": "dvc"}
        raise KeyboardInterrupt
    assert not (tmp_path / "rwlock").exists()
    with dvc_repro.edit_path_locks(str(tmp_path), None, False) as lock:
        lock["write"]["a"] = {"pid": 1, "cmd": "dvc"}
    assert json.loads((tmp_path / "rwlock").read_text()) == {
        "read": {},
        "write": {"a": {"pid": 1, "cmd": "dvc"}},
    }


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (Stage.save_deps, "self allow_missing"),
        (Stage.remove_outs, "self ignore_remove force"),
        (Stage.checkout, "self allow_missing kwargs"),
        (StageCache.restore, "self stage run_cache pull dry"),
        (stage_run.cmd_run, "stage dry run_env"),
        (run_cache._dvcs_answer, "stage"),
        (rwlock._edit_rwlock, "lock_dir fs hardlink"),
        (_common._dump_data, "path data dumper fs dumper_args"),
        (link_into_cache._relink, "link cache cache_info fs path in_cache force prompt"),
        (Output._build, "self args no_progress_bar kwargs"),
        (Output.checkout, "self force progress_callback relink filter_info allow_missing kwargs"),
    ],
)
def test_what_we_replace_of_dvc_is_there_and_takes_what_it_took(
    function: Any, parameters: str
) -> None:
    assert list(inspect.signature(function).parameters) == parameters.split()


def test_the_lock_file_is_put_in_order_with_one_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path / "world")
    for address in ("raw@c4", "raw@book", "mixed@short", "mixed@both", "report"):
        dvc(world, "repro", "--single-item", address)
    graph, read = read_graph(world), list[Path]()
    parse = module._parse_lock
    monkeypatch.setattr(module, "_parse_lock", lambda path: read.append(path) or parse(path))
    order_lock(graph)
    assert len(read) == 1
    assert list(read_lock(world)) == list(graph.items)


@pytest.mark.parametrize("name", ["pipe.jsonl", ".hidden/pipe", "link"])
def test_a_pipe_in_a_source_is_named_before_dvc_waits_for_it(tmp_path: Path, name: str) -> None:
    """By the command, and by what sensors and runs read; a pipe that DVC ignores does no harm."""
    world = make_world(tmp_path / "world")
    folder = world / "sources/book"
    (folder / name).parent.mkdir(exist_ok=True)
    if name == "link":
        os.mkfifo(tmp_path / "elsewhere")
        (folder / name).symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(folder / name)
    printed = repro(world, "raw@book", code=255)
    assert f"{name}: a named pipe. DVC would wait for it for ever" in printed
    for read in (read_graph, read_status):
        with pytest.raises(module.GraphError, match=f"{name}: a named pipe"):
            read(world)
    (world / ".dvcignore").write_text(f"**/{name}\n")
    assert "raw@book" in read_status(world)
    repro(world, "raw@c4")


def test_a_source_that_is_a_socket_or_device_is_named(tmp_path: Path) -> None:
    for path, kind in ((Path("/dev/null"), "a device"), (tmp_path, None)):
        problem = hashable.why_not_hashable(path, lambda name: False)
        assert (problem or "").startswith(f"{path}: {kind}") if kind else problem is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to someone else")
def test_a_folder_that_cannot_be_listed_is_an_error(
    tmp_path: Path,
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "x.jsonl").touch()
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        if folder != Path(tempfile.gettempdir()):
            folder.chmod(0o755)
    closed.chmod(0)
    os.seteuid(65534)
    try:
        problem = hashable.why_not_hashable(tmp_path, lambda name: False)
        ignored = hashable.why_not_hashable(tmp_path, lambda name: name.endswith("closed"))
    finally:
        os.seteuid(0)
    assert problem and "closed: cannot be listed (Permission denied)" in problem
    assert ignored is None


def test_names_and_links_that_dvc_can_not_record_are_named(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    odd = os.fsencode(world / "sources/book") + b"/caf\xe9.jsonl"
    Path(os.fsdecode(odd)).touch()
    assert r"caf\xe9.jsonl: its name is not UTF-8" in repro(world, "raw@book", code=255)
    Path(os.fsdecode(odd)).unlink()
    (world / "sources/book/gone").symlink_to("nowhere")
    assert "gone: a link that leads nowhere" in repro(world, "raw@book", code=255)
