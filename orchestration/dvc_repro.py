"""`dvc repro` in this process, without losing a change or an output.

orchestration.repro and the bridge start it. It takes the arguments of `dvc repro` and writes the
same bytes. Five things differ:

- dvc.lock names the inputs that the item was made from. Plain DVC hashes the inputs again after the
  command and records those hashes (treeverse/dvc#11058). A document that arrives during the
  command, or an edit of the trainer's code, then counts as used and is lost. This module records
  the hashes from before the command, so the item is out of date afterwards.
- A command must replace its outputs that stay in place (`persist: true` in dvc.yaml). They come
  back from DVC's run cache in one step (keeping.py, run_cache.py).
- dvc.lock and DVC's list of path locks are written in one step. Files that a killed DVC left broken
  are repaired first (locks.py).
- It waits while another DVC process holds the repository.
- A file or folder that DVC cannot hash whole is an error. Plain DVC waits at a pipe for ever, and
  omits a folder that it cannot list.

The cost: this module replaces ten of DVC's functions. So the minor version of DVC is pinned, and
tests/orchestration/test_repro.py tests what we rely on in each. Plain `dvc repro` is not changed.
"""

import io
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dvc.rwlock
import dvc.stage.run
import dvc.utils.serialize._common
import dvc_data.hashfile.checkout
from dvc.cli import main as dvc_main
from dvc.dvcfile import PROJECT_FILE
from dvc.exceptions import DvcException
from dvc.lock import make_lock
from dvc.output import Output
from dvc.stage import Stage
from dvc.stage.cache import StageCache
from voluptuous import Invalid

from orchestration import costs, keeping, run_cache, warm
from orchestration.hashable import why_not_hashable
from orchestration.locks import repair, write_whole


def main(arguments: Sequence[str]) -> int:
    """Repair, run, and keep a copy of dvc.lock. Returns DVC's exit code."""
    root = Path.cwd()
    # Before DVC starts, because it refuses every command over a broken file.
    for line in repair(root):
        print(line, file=sys.stderr)
    keeping.remove_abandoned(root)

    replace()
    code = int(dvc_main(["--wait-for-lock", "repro", *arguments]))

    # Nothing is broken now, so this only copies dvc.lock. The next repair uses the copy.
    repair(root)
    return code


def replace() -> None:
    """Replace DVC's functions in this process."""
    run_cache.enable()
    saved = Saved()

    # Inputs and outputs of an item.
    Stage.save_deps = saved.once(Stage.save_deps)
    StageCache.restore = saved.after(StageCache.restore)
    Stage.remove_outs = remove_outs(Stage.remove_outs)
    Stage.checkout = checkout
    Output._build = build(Output._build)
    dvc.stage.run.cmd_run = timed(dvc.stage.run.cmd_run)

    # Files that a kill must not leave half written.
    dvc.utils.serialize._common._dump_data = dump_whole
    dvc.rwlock._edit_rwlock = edit_path_locks
    dvc_data.hashfile.checkout._relink = relink(dvc_data.hashfile.checkout._relink)


class Saved:
    """The stages whose inputs are hashed already. Each stage is hashed once."""

    def __init__(self) -> None:
        # Compared by identity: DVC may call two stage objects equal that have other hashes.
        self._stages: list[Stage] = []

    def once(self, save_deps: Callable[..., None]) -> Callable[..., None]:
        """`Stage.save_deps`, without effect for a stage that has saved its inputs already."""

        def save(stage: Stage, allow_missing: bool = False) -> None:
            # DVC calls it before the command, and a second time after it.
            if not any(stage is other for other in self._stages):
                save_deps(stage, allow_missing=allow_missing)
                self._stages.append(stage)

        return save

    def after(self, restore: Callable[..., None]) -> Callable[..., None]:
        """`StageCache.restore`, which also fixes the inputs by which it found the outputs."""

        def restored(cache: StageCache, stage: Stage, *arguments: Any, **options: Any) -> None:
            restore(cache, stage, *arguments, **options)
            self._stages.append(stage)

        return restored


def build(original: Callable[..., Any]) -> Callable[..., Any]:
    """`Output._build`, which hashes a file or folder: refuses one that DVC cannot hash whole."""

    def built(out: Output, *arguments: Any, **options: Any) -> Any:
        if out.protocol == "local":
            problem = why_not_hashable(
                Path(out.fs_path), lambda name: bool(out.dvcignore.is_ignored(out.fs, name))
            )
            if problem:
                raise DvcException(problem)
        return original(out, *arguments, **options)

    return built


def remove_outs(original: Callable[..., None]) -> Callable[..., None]:
    """`Stage.remove_outs`, without copies of the outputs that stay in place.

    DVC first replaces a link into its cache by a copy, because a command may write into it. Our
    commands replace their outputs, so the copy would be of no use.
    """

    def remove(stage: Stage, ignore_remove: bool = False, force: bool = False) -> None:
        if force or not stage.cmd:
            original(stage, ignore_remove=ignore_remove, force=force)
            return
        for out in stage.outs:
            if not out.persist:
                out.remove(ignore_remove=ignore_remove)

    return remove


def timed(cmd_run: Callable[..., None]) -> Callable[..., None]:
    """`cmd_run`, which runs an item's command: stores its time (costs.py).

    A command that does not replace an output that stays in place is an error.
    """

    def run(stage: Stage, dry: bool = False, run_env: dict[str, str] | None = None) -> None:
        if dry:
            cmd_run(stage, dry=dry, run_env=run_env)
            return

        start = time.monotonic()
        before = {out: keeping.identity_of(Path(out.fs_path)) for out in stage.outs if out.persist}
        cmd_run(stage, dry=dry, run_env=run_env)

        # A command that writes into an old output may have written into DVC's cache.
        for out, old in before.items():
            if old is not None and keeping.identity_of(Path(out.fs_path)) == old:
                raise DvcException(
                    f"{stage.addressing}: its command succeeded and has not replaced {_path(out)}. "
                    "Make it write that output whole, or remove `persist` from that output in "
                    f"{PROJECT_FILE}"
                )

        root = Path(stage.repo.root_dir)
        costs.note_seconds(root, stage.addressing, time.monotonic() - start)

    return run


def checkout(stage: Stage, allow_missing: bool = False, **options: Any) -> dict[str, list[str]]:
    """`Stage.checkout`, by which `dvc repro` restores outputs: in one step.

    DVC checks the output out beside its place, and then it is exchanged with the old one.
    """
    root = Path(stage.repo.root_dir)
    done = defaultdict[str, list[str]](list)

    for out in stage.outs:
        if out.exists and not out.changed_checksum():
            continue
        # None: on another file system, where no exchange is possible, or outside the project.
        place = keeping.place_aside(root, _path(out)) if _ours(out) else None
        if place is None:
            out.checkout(force=True, allow_missing=allow_missing)
        else:
            _gather(out, place)
            keeping.put_in_place(place, Path(out.fs_path))
            _note_hashes(out)
        done["added"].append(str(out))

    return done


def _gather(out: Output, place: Path) -> None:
    """Check an output out at another place."""
    target = out.fs_path
    try:
        out.fs_path = str(place)
        out.checkout(force=True)
    finally:
        out.fs_path = target


def _note_hashes(out: Output) -> None:
    """Store the hashes of an output under its own paths, or DVC would read all of it again."""
    if out.is_dir_checksum:
        tree = out.get_obj() or ()
        files = [(out.fs.join(out.fs_path, *key), found, None) for key, _, found in tree]
    else:
        files = [(out.fs_path, out.hash_info, None)]
    out.repo.state.save_many(files, out.fs)


def dump_whole(
    path: Any, data: Any, dumper: Callable[..., Any], fs: Any = None, **options: Any
) -> None:
    """`_dump_data`, which writes dvc.lock: in one step."""
    text = io.StringIO()
    dumper(data, text, **options)
    write_whole(Path(path), text.getvalue().encode())


@contextmanager
def edit_path_locks(lock_dir: str, fs: Any, hardlink: bool) -> Iterator[Any]:
    """`_edit_rwlock`, which reads and writes DVC's list of path locks: in one step."""
    path = Path(lock_dir, dvc.rwlock.RWLOCK_FILE)
    guard = str(Path(lock_dir, dvc.rwlock.RWLOCK_LOCK))

    with make_lock(guard, tmp_dir=lock_dir, hardlink_lock=hardlink):
        # Invalid: a plain DVC was killed while it wrote the list, so it holds no lock any more.
        try:
            lock = dvc.rwlock.SCHEMA(json.loads(path.read_text()))
        except (FileNotFoundError, json.JSONDecodeError, Invalid):
            lock = dvc.rwlock.SCHEMA({})

        # DVC adds to these without asking whether an entry exists.
        lock["read"] = defaultdict(list, lock["read"])
        lock["write"] = defaultdict(dict, lock["write"])
        yield lock
        write_whole(path, json.dumps(lock).encode())


def relink(original: Callable[..., None]) -> Callable[..., None]:
    """`_relink`, which replaces a file by a link into DVC's cache: in one step."""

    def replaced(
        link: Any,
        cache: Any,
        cache_info: str,
        fs: Any,
        path: str,
        in_cache: bool,
        force: bool,
        prompt: Any = None,
    ) -> None:
        if not (in_cache or force):
            original(link, cache, cache_info, fs, path, in_cache, force, prompt)
            return

        aside = Path(path).with_name(f".{Path(path).name}.link.partial")
        aside.unlink(missing_ok=True)
        link(cache, cache_info, fs, str(aside))
        aside.replace(path)
        # rename(2) does nothing if both names are hard links to one file, so `aside` may remain.
        aside.unlink(missing_ok=True)
        cache.protect(cache_info)

    return replaced


def _ours(out: Output) -> bool:
    """Whether an output lies in the project and belongs to DVC's cache."""
    return bool(out.protocol == "local" and out.is_in_repo and out.use_cache)


def _path(out: Output) -> str:
    """An output's path, relative to the project's root."""
    return os.path.relpath(out.fs_path, out.repo.root_dir)


if __name__ == "__main__":
    warm.fork_commands(warm.Wanted(), alone=True)
    sys.exit(main(sys.argv[1:]))
