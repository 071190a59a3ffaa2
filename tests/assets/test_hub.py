"""A file of the Hub is read at its pinned commit, fetched once and only in its turn. The server is
on loopback.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, RunRequest, build_schedule_context
from dvc_world import dvc, make_world
from pydantic import ValidationError

from assets.hub import HubSource
from orchestration.definitions import build_definitions

ROOT = Path(__file__).parents[2]
NEWER = "89abcdef" * 5
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "README.md": b"# fish",
    "train/a.jsonl": b'{"text": "one fish"}\n',
    "train/b.jsonl": b'{"text": "two fish"}\n',
}
ACT = """
import json, sys
from assets.hub import HubSource, fetch, hub_files
from core.errors import UserError
try:
    source = HubSource(hub="some/fish", revision=sys.argv[1], files=sys.argv[2])
    paths = hub_files(source)
    texts = [fetch(source, path).read_text() for path in paths[:1]]
    print(json.dumps([paths, texts]))
except UserError as error:
    print(json.dumps(str(error)))
"""


class Hub(BaseHTTPRequestHandler):
    """The few answers of the Hub that listing and fetching need."""

    log: list[str] = []

    def do_GET(self) -> None:
        """Answer and remember what was asked."""
        path = self.path.split("?")[0]
        if self.command == "GET":
            self.log.append(path)
        if path.endswith("/revision/main"):
            self._send(
                200,
                json.dumps({"id": "some/fish", "sha": NEWER, "siblings": []}).encode(),
                {"Content-Type": "application/json"},
            )
        elif f"/{COMMIT}" not in path:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith("/api/"):
            listing = [
                {
                    "type": "file",
                    "path": name,
                    "size": len(content),
                    "oid": hashlib.sha1(content).hexdigest(),
                }
                for name, content in FILES.items()
            ]
            body: Any = (
                listing
                if "/tree/" in path
                else {
                    "id": "some/fish",
                    "sha": COMMIT,
                    "siblings": [{"rfilename": name} for name in FILES],
                }
            )
            self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})
        else:
            content = FILES[path.split(f"/{COMMIT}/")[1]]
            self._send(
                200,
                content,
                {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT},
            )

    do_HEAD = do_GET

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[str]:
    Hub.log.clear()
    hub = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{hub.server_port}"
    hub.shutdown()
    hub.server_close()


def settings(server: str, home: Path, offline: str = "0") -> dict[str, str]:
    """The environment of a process that asks this server: the library reads its settings when
    imported.
    """
    return {
        "HF_ENDPOINT": server,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": offline,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
    }


def act(
    server: str,
    home: Path,
    revision: str = COMMIT,
    files: str = "train/*.jsonl",
    offline: str = "0",
) -> Any:
    """List the files and fetch the first, in a process of its own."""
    environment = {**os.environ, **settings(server, home, offline)}
    done = subprocess.run(
        [sys.executable, "-c", ACT, revision, files],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_file_is_fetched_when_its_turn_comes_and_once(server: str, tmp_path: Path) -> None:
    for _ in range(2):
        assert act(server, tmp_path) == [
            ["train/a.jsonl", "train/b.jsonl"],
            ['{"text": "one fish"}\n'],
        ]
    assert [path for path in Hub.log if "/resolve/" in path] == [
        f"/datasets/some/fish/resolve/{COMMIT}/train/a.jsonl"
    ]


def test_what_goes_wrong_says_what_to_do(server: str, tmp_path: Path) -> None:
    assert "README.md" in act(server, tmp_path, files="test/*") and "Change `files`" in act(
        server, tmp_path, files="test/*"
    )
    assert "no such revision" in act(server, tmp_path, revision="f" * 40)
    assert "HF_HUB_OFFLINE=0" in act(server, tmp_path / "empty", offline="1")


def test_a_branch_is_no_revision() -> None:
    with pytest.raises(ValidationError, match="A branch moves"):
        HubSource(hub="some/fish", revision="main", files="*")


SOURCE = f"""# fish, as they come
hub: some/fish
revision: {COMMIT}  # 0123 was the first
files: train/*.jsonl
follow: main
"""


def move_pins(
    server: str, home: Path, *paths: Path, offline: str = "0"
) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "assets.hub_branch", *map(str, paths)],
        capture_output=True,
        text=True,
        env={**os.environ, **settings(server, home, offline)},
    )


def test_a_source_that_follows_a_branch_is_pinned_to_its_newest_commit_and_nothing_else_changes(
    server: str, tmp_path: Path
) -> None:
    path = tmp_path / "fish.yaml"
    path.write_text(SOURCE)
    for words in ("moved from 01234567 to 89abcdef", "is still at 89abcdef"):
        done = move_pins(server, tmp_path, path)
        assert done.returncode == 0 and words in done.stdout
        assert path.read_text() == SOURCE.replace(COMMIT, NEWER)
    assert act(server, tmp_path)[0] == ["train/a.jsonl", "train/b.jsonl"], (
        "what is read is what is pinned"
    )


def test_a_pin_that_cannot_be_moved_stays_and_the_others_move(server: str, tmp_path: Path) -> None:
    pinned, gone, follows = (
        tmp_path / name for name in ("pinned.yaml", "gone.yaml", "follows.yaml")
    )
    pinned.write_text(SOURCE.replace("follow: main\n", ""))
    gone.write_text(SOURCE.replace("main", "gone"))
    follows.write_text(SOURCE)
    done = move_pins(server, tmp_path, pinned, gone, follows)
    assert (
        done.returncode == 1
        and "Add `follow: main`" in done.stderr
        and "no such revision" in done.stderr
    )
    assert (
        pinned.read_text() == SOURCE.replace("follow: main\n", "")
        and gone.read_text().count(COMMIT) == 1
    )
    assert follows.read_text() == SOURCE.replace(COMMIT, NEWER)
    follows.write_text(SOURCE)
    assert "HF_HUB_OFFLINE=0" in move_pins(server, tmp_path, follows, offline="1").stderr
    unreachable = move_pins("http://127.0.0.1:9", tmp_path, follows)
    assert unreachable.returncode == 1 and "could not be fetched" in unreachable.stderr
    assert "Traceback" not in unreachable.stderr
    assert follows.read_text() == SOURCE


def test_the_nightly_schedule_asks_for_a_run_when_a_followed_branch_has_moved(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path / "world")
    (world / "sources/book").rename(world / "sources/old")
    (world / "sources/book.yaml").write_text(SOURCE)
    params = (world / "params.yaml").read_text()
    (world / "params.yaml").write_text(params.replace("sources/book", "sources/book.yaml"))
    (world / "stage.py").write_text(
        (world / "stage.py")
        .read_text()
        .replace('pathlib.Path(i).rglob("*")', '[pathlib.Path(i), *pathlib.Path(i).rglob("*")]')
    )
    dvc(world, "repro")
    for name, value in settings(server, tmp_path).items():
        monkeypatch.setenv(name, value)
    definitions = build_definitions(world)
    nightly = definitions.resolve_schedule_def("nightly")
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        answer = nightly(build_schedule_context(instance=instance))
    assert isinstance(answer, RunRequest) and {
        key.to_user_string() for key in answer.asset_selection or []
    } == {"raw/book", "mixed/both", "report"}
    assert (world / "sources/book.yaml").read_text() == SOURCE.replace(COMMIT, NEWER)
