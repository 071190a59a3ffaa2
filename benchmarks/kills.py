"""`python -m benchmarks.kills --kills 200 --seed 0`: SIGKILL at random moments, and its effects.

A small real graph (a domain, two recipes, from raw documents to packed rows) in a folder of its own
goes through states: a recipe changes, the domain gets other documents, both change back. In each
state `dvc repro` or `python -m orchestration.repro` is started and killed at a random moment,
several times in a row. Then the second one runs once to its end. It must end with code 0 and
without help, and every byte must be as in a folder where nothing was ever killed. Every second
round is in a state that comes back, so its kills hit restores from DVC's cache. The others are in
new states, so their kills hit running stages.

Plain DVC is killed with all its child processes, as when the machine fails. Of our command the
first process is killed, or all of them. After each kill of ours every output from before must still
be there, and whole.

The phase in which a kill fell is read a moment before, from the running processes and from DVC's
last line: in a stage's command, in DVC's writes after it, or in a restore from the cache.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from orchestration.guard import environment
from orchestration.locks import BROKEN, lock_is_broken

STAGES = [
    "token_demand",
    "raw_corpus",
    "tokenizer",
    "tokenized_corpus",
    "mixed_dataset",
    "packed_shards",
]
FOLDERS = ["core", "assets", "training", "evaluation", "orchestration", "sources", "models"]
PLAIN = [sys.executable, "-m", "dvc", "repro"]
OURS = [sys.executable, "-m", "orchestration.repro"]
# Kills in a row, so that some fall on a repair of an earlier kill.
MOST_IN_A_ROW = 8
RESTORES, RUNS, LOCKS, LOOKS = (
    "is cached - skipping run",
    "Running stage",
    "Updating lock file",
    "didn't change, skipping",
)
"""Parts of the lines in which DVC reports what it does next, or has done."""
AFTER = {
    RESTORES: "DVC restores from its cache",
    RUNS: "DVC starts a command, or hashes and caches what it made",
    LOCKS: "DVC has written dvc.lock, and checks the next stage",
    LOOKS: "DVC checks the next stage",
    "": "before DVC's first line",
}
"""What DVC does after such a line, while no stage's command runs."""


def make_project(source: Path, target: Path) -> Path:
    """The data half of the project `source`, small, with nothing made."""
    target.mkdir(parents=True)
    caches = shutil.ignore_patterns("__pycache__")
    for folder in FOLDERS:
        shutil.copytree(source / folder, target / folder, ignore=caches)

    graph = yaml.safe_load((source / "dvc.yaml").read_text())
    stages = {name: graph["stages"][name] for name in STAGES}
    (target / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    shutil.copy(source / ".dvcignore", target)

    run([sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"], target)
    # As in this project's own .dvc/config: links where the file system has them.
    run([sys.executable, "-m", "dvc", "config", "cache.type", "reflink,hardlink,copy"], target)
    return target


def set_state(root: Path, state: int) -> None:
    """Write params.yaml and the source of a state.

    States 0 to 3: two shares of long documents, two sizes of the domain. From 4 on, each four
    states have sizes that no earlier state had.
    """
    params = yaml.safe_load((Path.cwd() / "profiles" / "sample.yaml").read_text())
    params["raw_corpus"] |= {
        "domains": {"book": {"source": "sources/book.yaml"}},
        "heldout_fraction": 0.3,
    }
    long_share = (0.4, 0.5)[state % 2]
    params["mixed_dataset"] |= {
        "weights": {"book": 1.0},
        "token_budget": 10_000,
        "long_over": 256,
        "recipes": {
            "original": {"cut": 1024},
            "per_source": {"cut": 1024, "long_share": long_share},
        },
    }
    params["packed_shards"] = {"chunk_length": 512}
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    # Ten words more give other documents, and take no longer to make.
    words = (40_000, 50_000)[state // 2 % 2] + 10 * (state // 4)
    source = {
        "set_name": "tiny",
        "words": words,
        "median_length": 300,
        "spread": 0.6,
        "largest_cast": 8,
    }
    (root / "sources" / "book.yaml").write_text(yaml.safe_dump(source))


def run(command: Sequence[str], root: Path) -> str:
    """Run a command to its end. Returns what it printed. Ends this program if it fails."""
    done = subprocess.run(
        command,
        cwd=root,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command)} in {root} failed with {done.returncode}:\n{done.stdout[-4000:]}"
        )
    return done.stdout


def made(root: Path) -> dict[str, str]:
    """Path -> SHA-256 of every file that a stage made."""
    found = {}
    for top in ("data", "metrics"):
        for path in sorted((root / top).rglob("*")):
            name = path.relative_to(root)
            if path.is_file() and not is_hidden(name):
                found[name.as_posix()] = sha256(path.read_bytes()).hexdigest()
    return found


def outputs(root: Path) -> set[Path]:
    """The folders that stages made."""
    records = (root / "data").rglob("record.json")
    return {path.parent for path in records if not is_hidden(path.relative_to(root))}


def is_hidden(path: Path) -> bool:
    """Whether a part of the path begins with a dot: an unfinished output that a kill left."""
    return any(part.startswith(".") for part in path.parts)


def broken(root: Path, before: set[Path]) -> list[str]:
    """The outputs of `before` that are gone, or differ from their record: a line for each."""
    found = []
    for folder in sorted(before):
        try:
            files = json.loads((folder / "record.json").read_text())["files"]
            hashes = {name: sha256((folder / name).read_bytes()).hexdigest() for name in files}
        except (OSError, ValueError) as error:
            found.append(f"{folder.relative_to(root)}: {error}")
            continue

        recorded = {name: facts["sha256"] for name, facts in files.items()}
        if hashes != recorded:
            found.append(f"{folder.relative_to(root)}: not as recorded")
    return found


def kill(process: subprocess.Popen[bytes], way: str) -> bool:
    """Kill a command in one of three ways. Returns whether it was still running."""
    if process.poll() is not None:
        return False

    sessions = [process.pid]
    if way == "ours, all":
        # Its guards lead sessions of their own. It may have ended meanwhile.
        with suppress(OSError):
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            sessions += map(int, children.split())

    for session in sessions:
        with suppress(ProcessLookupError):
            if way == "ours, first":
                os.kill(session, signal.SIGKILL)
            else:
                os.killpg(session, signal.SIGKILL)
    process.wait()
    return True


def phase_of(process: subprocess.Popen[bytes], printed: str) -> str:
    """What runs now: a stage's command if there is one, else what DVC's last line means."""
    for pid in below(process.pid):
        words = command_line(pid)
        module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
        if module.startswith("assets."):
            return f"in the command of {module.removeprefix('assets.')}"

    parts = [part for part in AFTER if part]
    for line in reversed(printed.splitlines()):
        for part in parts:
            if part in line:
                return AFTER[part]
    return AFTER[""]


def below(pid: int) -> Iterator[int]:
    """A process and its descendants, as far as they still run."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in task.read_text().split():
                yield from below(int(child))


def command_line(pid: int) -> list[str]:
    """The command line of a process, in words. Empty if it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return []


def trial(root: Path, draw: random.Random, seconds: float, counts: Counter[str]) -> bool:
    """Start a command and kill it at a random moment. Returns whether it was still running then."""
    way = draw.choice(["plain dvc", "ours, first", "ours, all"])
    # Read before the start: these outputs must survive a kill.
    before = outputs(root)
    log = root / "kills.log"

    # Unbuffered, or DVC's last line would not be in the log when the kill falls.
    with log.open("wb") as file:
        process = subprocess.Popen(
            PLAIN if way == "plain dvc" else OURS,
            cwd=root,
            env={**environment(), "PYTHONUNBUFFERED": "1"},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        time.sleep(draw.uniform(0, seconds))
        phase = phase_of(process, log.read_text(errors="replace"))
        killed = kill(process, way)
    if not killed:
        return False

    counts[f"killed: {way}"] += 1
    counts[f"killed when: {phase}"] += 1
    counts["left: dvc.lock broken"] += lock_is_broken(root)
    # DVC writes its list of locks in place, so a kill may leave half of it.
    with suppress(FileNotFoundError):
        try:
            json.loads((root / ".dvc" / "tmp" / "rwlock").read_text())
        except ValueError:
            counts["left: rwlock broken"] += 1

    missing = broken(root, before)
    if missing:
        counts[f"left: old output not readable, {way}"] += 1
        # What plain DVC loses is counted too, but it is no failure of ours.
        if way != "plain dvc":
            print(f"  {way}: {missing}", flush=True)
    return True


def whole_state(root: Path, state: int) -> dict[str, str]:
    """The hashes of all files of a state, made without a kill."""
    set_state(root, state)
    run(OURS, root)
    return made(root)


def main() -> None:
    """Kill, finish, compare, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    draw = random.Random(given.seed)
    counts = Counter[str]()
    failures = list[str]()
    with tempfile.TemporaryDirectory(prefix="needlework-kills-") as name:
        whole = make_project(Path.cwd(), Path(name) / "whole")
        root = make_project(Path.cwd(), Path(name) / "killed")
        reference = dict[int, dict[str, str]]()
        took = list[float]()
        for state in (0, 1, 3, 2, 0):
            start = time.monotonic()
            reference[state] = whole_state(whole, state)
            took.append(time.monotonic() - start)

        # The third state has another domain. The last one was made before.
        change, restore = took[2], took[4]
        print(
            f"{len(reference[0])} files; a change takes {change:.1f} s where nothing is killed, "
            f"and {restore:.1f} s if all is in the cache",
            flush=True,
        )
        set_state(root, 0)
        run(OURS, root)

        kills, rounds, state = 0, 0, 0
        while kills < given.kills:
            is_new = rounds % 2 == 1
            if is_new:
                state = 4 * rounds + draw.randrange(4)
                start = time.monotonic()
                reference[state] = whole_state(whole, state)
                last, change = change, time.monotonic() - start
                # Other work on this machine comes and goes: a restore slows down by as much.
                restore *= change / last
            else:
                # Another of the first four, which the cache holds.
                state = (state + draw.randint(1, 3)) % 4
            set_state(root, state)

            for _ in range(draw.randint(1, MOST_IN_A_ROW)):
                if not trial(root, draw, change if is_new else restore, counts):
                    # It ended before the kill: everything is made, and a kill would hit nothing.
                    break
                kills += 1

            try:
                text = run(OURS, root)
            except SystemExit as error:
                failures.append(str(error))
                print(error, flush=True)
                break

            rounds += 1
            counts["ended: stages run"] += text.count(RUNS)
            counts["ended: stages restored from the cache"] += text.count(RESTORES)
            # locks.py keeps the broken file beside the repaired one.
            counts["ended: dvc.lock put back"] += (root / BROKEN).exists()
            (root / BROKEN).unlink(missing_ok=True)
            if made(root) != reference[state]:
                failures.append(f"round {rounds}: other bytes")
            print(
                f"{kills} kills, {rounds} rounds, {len(failures)} failures, {dict(counts)}",
                flush=True,
            )
    report(kills, rounds, counts, failures)


def report(kills: int, rounds: int, counts: Counter[str], failures: Sequence[Any]) -> None:
    """Print the counts. Exit code 1 if a round failed, or a kill of ours lost an output."""
    print(f"\n{kills} kills in {rounds} rounds")
    for what, count in sorted(counts.items()):
        print(f"{what:60}{count:6}")
    print(f"{'rounds that failed or ended with other bytes':60}{len(failures):6}")

    lost = [what for what in counts if what.startswith("left: old output") and counts[what]]
    ours = [what for what in lost if "plain" not in what]
    if failures or ours:
        sys.exit("\n".join([*map(str, failures), *ours]))


if __name__ == "__main__":
    main()
