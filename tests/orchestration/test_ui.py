"""Whatever process dies, however, the run goes on and nothing finished is made again; what is ended
leaves nothing.

With a real server on a small project, one item of which is held while it is at work.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from dagster import DagsterInstance
from dagster_server import (
    Server,
    below,
    executions,
    hold_back,
    serving,
    stages_at_work,
    until,
    words,
)
from dvc_world import dvc, make_world

from orchestration import ui
from orchestration.graph import GraphError, read_status
from orchestration.guard import guarded
from orchestration.home import make_database, prepare
from orchestration.processes import gone, identity, pid_of, process

pytestmark = pytest.mark.slow

SERVICES = ("quiet daemon", "quiet webserver", "api grpc", "quiet code-server start")
WORKER = "_run {"
"""In the command of a run's process: `dagster api execute_run {...}`, or `resume_run` after the
first was lost.
"""
ONCE = ["raw book", "raw c4", "mixed short", "report all"]
HELD = "mixed both"
PATIENCE = 60.0
"""Seconds."""


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """The small project; mixed@both is held once it is at work."""
    world = make_world(tmp_path / "world")
    hold_back(world)
    (world / "hold" / "mixed-both").touch()
    return world


def at_work(world: Path, times: int = 1) -> bool:
    """Whether everything else that can be made has been, and the held item is at work for that many
    times.
    """
    ran = Counter(executions(world))
    return ran[HELD] == times and ran["mixed short"] == 1


def release(world: Path) -> None:
    """Let the held item go on."""
    (world / "hold" / "mixed-both").unlink()


def kill_and_see_it_back(server: Server, part: str) -> None:
    """SIGKILL; another comes in its place, and the UI works."""
    old = server.process(part)
    os.kill(old, signal.SIGKILL)
    until(lambda: server.process(part) != old)
    until(server.up)


def test_what_is_killed_comes_back_and_repeats_nothing_finished(world: Path) -> None:
    with serving(world) as server:
        run = server.launch()
        until(lambda: at_work(world))
        for part in SERVICES:
            kill_and_see_it_back(server, part)
        assert at_work(world), "a run does not notice that services died"
        lost = server.process(WORKER)
        os.kill(lost, signal.SIGKILL)
        until(lambda: at_work(world, times=2))
        assert len(stages_at_work(world)) == 1, (
            "the killed run's trainer works on beside the new one"
        )
        release(world)
        until(lambda: server.status(run) == "SUCCESS")
        assert len(server.runs()) == 1
    assert Counter(executions(world)) == Counter({HELD: 2, **dict.fromkeys(ONCE, 1)})
    assert not read_status(world)


def test_a_cancelled_run_leaves_no_process_and_no_lock(world: Path) -> None:
    with serving(world) as server:
        run = server.launch()
        until(lambda: at_work(world))
        worker = server.process(WORKER)
        server.terminate(run)
        until(lambda: server.status(run) == "CANCELED")
        until(lambda: process(worker) is None)
        assert not stages_at_work(world)
        assert not [found for found in below(server.supervisor.pid) if "dvc" in words(found.pid)]
        assert set(read_status(world)) == {"mixed@both", "report"}
        release(world)
        following = server.launch()
        until(lambda: server.status(following) == "SUCCESS")
    assert Counter(executions(world)) == Counter({HELD: 2, **dict.fromkeys(ONCE, 1)})


def test_a_run_that_ended_with_the_server_goes_on_with_the_next(
    world: Path,
) -> None:
    with serving(world) as server:
        server.launch()
        until(lambda: at_work(world))
    assert not stages_at_work(world)
    release(world)
    with serving(world) as server:
        until(lambda: server.runs()[0]["status"] == "SUCCESS")
    assert Counter(executions(world)) == Counter({HELD: 2, **dict.fromkeys(ONCE, 1)})


def test_a_run_outlives_a_killed_server_and_the_next_finds_it(world: Path) -> None:
    with serving(world) as server:
        run = server.launch()
        until(lambda: at_work(world))
        services = [server.process(part) for part in SERVICES]
        server.supervisor.kill()
        server.supervisor.wait()
    until(lambda: all(process(pid) is None for pid in services))
    assert len(stages_at_work(world)) == 1
    with serving(world) as server:
        assert server.status(run) == "STARTED"
        release(world)
        until(lambda: server.status(run) == "SUCCESS")
    assert set(Counter(executions(world)).values()) == {1}


def test_an_unreadable_project_is_shown_as_soon_as_mended(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    graph = (world / "dvc.yaml").read_text()
    (world / "dvc.yaml").write_text("stages: {raw: {")
    with serving(world, location="PythonError") as server:
        (world / "dvc.yaml").write_text(graph)
        until(server.up)
        run = server.launch("raw/book")
        until(lambda: server.status(run) == "SUCCESS")


def test_an_unreadable_source_is_looked_at_again(
    tmp_path: Path,
) -> None:
    world = make_world(tmp_path / "world")
    link = world / "sources" / "book" / "gone"
    link.symlink_to("nowhere")
    with serving(world, location="PythonError") as server:
        link.unlink()
        until(server.up)


def test_a_reload_is_asked_for_once_however_long_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seconds in (("SECONDS_TO_LOAD", 0.05), ("SECONDS_BETWEEN_CHECKS", 0.05)):
        monkeypatch.setattr(ui, name, seconds)
    wanted, ended, requests = tmp_path / "reload", Event(), list[socket.socket]()
    with socket.socket() as door:  # a webserver that takes requests and never answers
        door.bind(("127.0.0.1", 0))
        asking = Thread(target=ui.keep_loaded, args=(wanted, door.getsockname()[1], ended))
        assert not ui.load(door.getsockname()[1])  # bound, it does not listen
        wanted.touch()
        asking.start()
        door.listen()
        door.settimeout(PATIENCE)
        requests.append(door.accept()[0])
        until(lambda: not wanted.exists())
        wanted.touch()  # meanwhile
        requests.append(door.accept()[0])
        until(lambda: not wanted.exists())
        ended.set()
        asking.join()
        door.setblocking(False)
        with pytest.raises(BlockingIOError):
            door.accept()
    for request in requests:
        request.close()


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_on_another_system_it_is_refused_before_anything_starts(world: Path, system: str) -> None:
    other = f"import sys; from orchestration import ui; sys.platform = {system!r}; ui.main()"
    done = subprocess.run(
        [sys.executable, "-c", other],
        cwd=world,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert system in done.stderr and "dagster dev" in done.stderr
    assert not done.stdout and not (world / ".dagster").exists()


def test_a_taken_port_is_one_message(world: Path) -> None:
    with serving(world) as server:
        done = subprocess.run(
            [sys.executable, "-m", "orchestration.ui", "--port", server.address.rpartition(":")[2]],
            cwd=world,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1 and "is taken" in done.stderr and "Traceback" not in done.stderr


TREE = """
import subprocess, sys
from orchestration.guard import guarded
child = subprocess.Popen(guarded(["sh", "-c", "sleep 1000 & echo $!; exec sleep 1000"]), start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""


@pytest.fixture
def killed_parent() -> Iterator[list[int]]:
    """The processes below one that was killed: a guard, its command, and what that had started."""
    parent = subprocess.Popen(
        [sys.executable, "-c", TREE],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert parent.stdout is not None
    until(lambda: len(below(parent.pid)) == 3)
    tree = [found.pid for found in below(parent.pid)]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    yield tree
    for pid in tree:
        if process(pid):
            os.kill(pid, signal.SIGKILL)


def test_a_command_and_its_children_end_with_a_killed_parent(
    killed_parent: list[int],
) -> None:
    until(lambda: not any(process(pid) for pid in killed_parent))


def test_what_a_guarded_command_leaves_behind_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEEDLEWORK_SECONDS_TO_STOP", "0.5")
    stubborn = f"trap '' TERM; echo $$ > {tmp_path}/stubborn; while :; do sleep 1000; done"
    script = f'sleep 1000 & sh -c "{stubborn}" & while [ ! -s {tmp_path}/stubborn ]; do :; done; echo said; exit 3'
    done = subprocess.run(
        guarded(["sh", "-c", script]),
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert (
        done.returncode == 3 and done.stdout == "said\n"
    )  # read to the end, so no one holds the pipe
    assert process(int((tmp_path / "stubborn").read_text())) is None


def test_a_command_that_is_asked_to_end_has_the_time_to() -> None:
    script = "trap 'sleep 0.2; echo written; exit 0' TERM; echo begun; while :; do sleep 0.01; done"
    child = subprocess.Popen(
        guarded(["sh", "-c", script]), start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "begun\n"
    os.killpg(child.pid, signal.SIGTERM)
    assert child.communicate()[0] == "written\n" and child.returncode == 0


def test_a_guarded_command_ends_with_its_own_code() -> None:
    for code in (0, 3):
        assert (
            subprocess.run(guarded(["sh", "-c", f"exit {code}"]), start_new_session=True).returncode
            == code
        )


HOLDER = """
import sys
from orchestration.launcher import begin, held
child = held(["touch", sys.argv[1]])
print(child.pid, flush=True)
sys.stdin.read()
begin(child)
child.wait()
"""


@pytest.mark.parametrize("noted", [True, False])
def test_a_run_s_process_that_was_never_noted_never_begins(tmp_path: Path, noted: bool) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "begun")],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert starter.stdin is not None and starter.stdout is not None
    child = int(starter.stdout.readline())
    assert not (tmp_path / "begun").exists()
    if not noted:
        starter.kill()
    starter.stdin.close()
    until(lambda: process(child) is None)
    starter.wait()
    starter.stdout.close()
    assert (tmp_path / "begun").exists() == noted


def test_a_process_is_known_by_more_than_its_number() -> None:
    child = subprocess.Popen(["sleep", "1000"])
    named = identity(child.pid)
    assert pid_of(named) == child.pid and not gone(named)
    other = "/".join([*named.split("/")[:5], "1"])  # another process that had this number before
    assert gone(other) and pid_of(other) is None
    child.kill()
    until(lambda: gone(named))  # as soon as it has ended, asked about or not
    child.wait()
    assert not gone("") and not gone("somewhere/1") and pid_of("somewhere/1") is None


@pytest.mark.parametrize(
    "other, known_here, is_gone",
    [
        ({}, True, False),
        ({"host": "name-by-dhcp"}, True, False),
        ({"host": "name-by-dhcp", "started": "1"}, False, True),
        ({"boot": "before"}, False, True),
        ({"boot": "before", "host": "name-by-dhcp"}, False, True),
        ({"boot": "before", "machine": "another"}, False, False),
        ({"namespace": "pid:[1]"}, False, True),  # this container, started again
        (
            {"namespace": "pid:[1]", "host": "another"},
            False,
            False,
        ),  # perhaps a second container in the same folder
    ],
)
def test_only_of_processes_here_is_it_said_whether_they_ended(
    other: dict[str, str], known_here: bool, is_gone: bool
) -> None:
    names = ("machine", "host", "boot", "namespace", "pid", "started")
    mine = dict(zip(names, identity(os.getpid()).split("/"), strict=True))
    named = "/".join({**mine, **other}.values())
    assert (pid_of(named) == os.getpid(), gone(named)) == (known_here, is_gone)


def locks(world: Path, owner: dict[str, Any]) -> Path:
    """DVC's list of path locks as a killed process leaves it, with an output of raw@book in it."""
    path = world / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"write": {str(world / "data/raw/book"): owner}, "read": {}}))
    return path


def test_path_locks_of_killed_processes_stop_no_one(world: Path) -> None:
    dvc(world, "repro", "raw@book", "raw@c4")
    other = subprocess.Popen(["sleep", "1000"])  # has the number that a killed dvc had before
    try:
        locks(world, {"pid": other.pid, "cmd": "dvc repro raw@book"})
        assert "raw@book" not in read_status(world)
        dvc(world, "repro", "raw@book")
    finally:
        other.kill()
        other.wait()
    (world / ".dvc" / "tmp" / "rwlock").write_text('{"write": {')  # killed while it wrote
    assert "raw@book" not in read_status(world)


def test_path_locks_of_processes_at_work_are_left_alone(world: Path) -> None:
    release(world)
    dvc(world, "repro")
    owner = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()", "repro", "raw@book"],
        stdin=subprocess.PIPE,
    )
    path = locks(world, {"pid": owner.pid, "cmd": "dvc repro raw@book"})
    before = path.read_text()
    try:
        with pytest.raises(Exception, match="busy"):
            read_status(world)
        assert path.read_text() == before
    finally:
        owner.communicate()


def test_dagster_works_by_the_settings_that_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    make_database()
    with DagsterInstance.get() as instance:
        assert not instance.telemetry_enabled and not instance.nux_enabled
        queue = instance.get_concurrency_config().run_queue_config
        assert queue is not None and queue.max_concurrent_runs == 4
        assert (
            instance.run_launcher.supports_check_run_worker_health
            and instance.run_launcher.supports_resume_run
        )
        assert (
            instance.run_monitoring_enabled and instance.run_monitoring_max_resume_run_attempts == 5
        )
        assert instance.run_retries_enabled and instance.run_retries_max_retries == 2
        assert not instance.run_retries_retry_on_asset_or_op_failure


def test_an_interval_that_is_no_number_is_one_message(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestration.definitions import build_definitions

    monkeypatch.setenv("NEEDLEWORK_TICK_SECONDS", "often")
    with pytest.raises(GraphError, match="NEEDLEWORK_TICK_SECONDS"):
        build_definitions(world)
