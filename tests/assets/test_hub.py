"""A file of the Hub is read at its pinned commit, fetched once and only in its turn. The server is on loopback."""

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
from pydantic import ValidationError

from assets.hub import HubSource

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"README.md": b"# fish", "train/a.jsonl": b'{"text": "one fish"}\n', "train/b.jsonl": b'{"text": "two fish"}\n'}
ACT = """
import json, sys
from assets.hub import HubSource, fetch, hub_files
from assets.stage import UserError
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
        if f"/{COMMIT}" not in path:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith("/api/"):
            listing = [{"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                       for name, content in FILES.items()]
            body: Any = listing if "/tree/" in path else {
                "id": "some/fish", "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]}
            self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})
        else:
            content = FILES[path.split(f"/{COMMIT}/")[1]]
            self._send(200, content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT})

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


def act(server: str, home: Path, revision: str = COMMIT, files: str = "train/*.jsonl", offline: str = "0") -> Any:
    """List the files and fetch the first, in a process of its own: the library reads its settings when imported."""
    environment = {**os.environ, "HF_ENDPOINT": server, "HF_HOME": str(home), "HF_HUB_OFFLINE": offline,
                   "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run([sys.executable, "-c", ACT, revision, files], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_file_is_fetched_when_its_turn_comes_and_once(server: str, tmp_path: Path) -> None:
    for _ in range(2):
        assert act(server, tmp_path) == [["train/a.jsonl", "train/b.jsonl"], ['{"text": "one fish"}\n']]
    assert [path for path in Hub.log if "/resolve/" in path] == [f"/datasets/some/fish/resolve/{COMMIT}/train/a.jsonl"]


def test_what_goes_wrong_says_what_to_do(server: str, tmp_path: Path) -> None:
    assert "README.md" in act(server, tmp_path, files="test/*") and "Change `files`" in act(
        server, tmp_path, files="test/*")
    assert "no such revision" in act(server, tmp_path, revision="f" * 40)
    assert "HF_HUB_OFFLINE=0" in act(server, tmp_path / "empty", offline="1")


def test_a_branch_is_no_revision() -> None:
    with pytest.raises(ValidationError, match="A branch moves"):
        HubSource(hub="some/fish", revision="main", files="*")
