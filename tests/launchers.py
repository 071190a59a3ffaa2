"""Launchers to try stages with: a stand-in for srun, and a real sshd on loopback."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from getpass import getuser
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
CAN_SSH = bool(SSHD and shutil.which("ssh") and shutil.which("ssh-keygen"))
SRUN = """#!/bin/sh
# Options first, as srun has them; then a command, which gets standard input and its own process.
while [ "${1#--}" != "$1" ]; do shift 2; done
"$@"
"""


def srun_in(folder: Path) -> str:
    """A prefix that calls the stand-in, which stands in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "srun"
    program.write_text(SRUN)
    program.chmod(0o755)
    return f"{program} --gpus 8 --nodes 1"


@contextmanager
def ssh_in(folder: Path) -> Iterator[str]:
    """A prefix that calls ssh to an sshd on loopback, with keys of its own, while the context
    lasts."""
    assert SSHD
    folder.mkdir(parents=True, exist_ok=True)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "sshd").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/user.pub\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\n"
    )
    (folder / "ssh").write_text(
        f"Host other\nHostName 127.0.0.1\nPort {port}\nUser {getuser()}\n"
        f"IdentityFile {folder}/user\nIdentitiesOnly yes\nBatchMode yes\nLogLevel ERROR\n"
        "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n"
    )
    server = subprocess.Popen(
        [SSHD, "-D", "-e", "-f", folder / "sshd"], stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stderr is not None
        while "listening" not in server.stderr.readline():
            assert server.poll() is None
        yield f"ssh -F {folder}/ssh other"
    finally:
        server.terminate()
        server.communicate()


@contextmanager
def launcher_in(kind: str, folder: Path) -> Iterator[str]:
    """A prefix of that kind, "srun" or "ssh"; skips the test where there is no sshd."""
    if kind == "srun":
        yield srun_in(folder / "bin")
        return
    if not CAN_SSH:
        pytest.skip("no sshd (Debian: openssh-server)")
    with ssh_in(folder / "ssh") as words:
        yield words
