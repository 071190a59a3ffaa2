"""`dvc repro` in this process, without losing a change or an output.

orchestration.repro and the bridge start it. It takes the arguments of `dvc repro` and makes the
same bytes. Five things are different:

- dvc.lock names the inputs that an item was made from. DVC hashes the inputs again after the
  command and records those (treeverse/dvc#11058). A document that arrives meanwhile, or an edit of
  the trainer's code, then counts as trained on and is lost. Here the hashes from before the command
  are recorded, so such an item is out of date afterwards.
- What stays in place (`persist: true` in dvc.yaml) must be replaced by the command, and comes back
  from DVC's run cache in one step (keeping.py, run_cache.py).
- dvc.lock and DVC's list of path locks are written in one step. What a killed DVC left broken is
  repaired first (locks.py).
- It waits while another DVC process holds the repository.
- What DVC cannot hash whole is an error: it waits for a pipe for ever, and leaves out a folder that
  it cannot list.

The cost: ten of DVC's functions are replaced, so the minor version of DVC is pinned, and
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
    """Repair, run, and keep a copy of dvc.lock; returns DVC's exit code."""
    root = Path.cwd()
    for line in repair(root):
        print(line, file=sys.stderr)
    keeping.remove_abandoned(root)
    replace()
    code = int(dvc_main(["--wait-for-lock", "repro", *arguments]))
    repair(root)  # keeps a copy of dvc.lock as it is now
    return code


def replace() -> None:
    """Replace DVC's functions in this process."""
    run_cache.enable()
    saved = Saved()
    Stage.save_deps = saved.once(Stage.save_deps)
    StageCache.restore = saved.after(StageCache.restore)
    Stage.remove_outs = remove_outs(Stage.remove_outs)
    Stage.checkout = checkout
    Output._build = build(Output._build)
    dvc.stage.run.cmd_run = timed(dvc.stage.run.cmd_run)
    dvc.utils.serialize._common._dump_data = dump_whole
    dvc.rwlock._edit_rwlock = edit_path_locks
    dvc_data.hashfile.checkout._relink = relink(dvc_data.hashfile.checkout._relink)


class Saved:
    """The stages whose inputs have been hashed, each of them once."""

    def __init__(self) -> None:
        self._stages: list[Stage] = []  # the stages themselves, for two may be equal

    def once(self, save_deps: Callable[..., None]) -> Callable[..., None]:
        """`Stage.save_deps`, which does nothing for a stage that has saved its inputs already."""

        def save(stage: Stage, allow_missing: bool = False) -> None:
            if not any(stage is other for other in self._stages):
                save_deps(stage, allow_missing=allow_missing)
                self._stages.append(stage)

        return save

    def after(self, restore: Callable[..., None]) -> Callable[..., None]:
        """`StageCache.restore`: the inputs by which it found the outputs are those that are
        recorded.
        """

        def restored(cache: StageCache, stage: Stage, *arguments: Any, **options: Any) -> None:
            restore(cache, stage, *arguments, **options)
            self._stages.append(stage)

        return restored


def build(original: Callable[..., Any]) -> Callable[..., Any]:
    """`Output._build`, by which DVC hashes a file or folder: refuses one that it cannot hash
    whole.
    """

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
    """`Stage.remove_outs`, which copies no output that stays.

    DVC copies a link into its cache first, for a command that writes into it. Ours replace it.
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
    """`cmd_run`, the run of an item's command, which must replace the outputs that stay. How long
    it took is noted (costs.py).
    """

    def run(stage: Stage, dry: bool = False, run_env: dict[str, str] | None = None) -> None:
        if dry:
            cmd_run(stage, dry=dry, run_env=run_env)
            return
        start = time.monotonic()
        before = {out: keeping.identity_of(Path(out.fs_path)) for out in stage.outs if out.persist}
        cmd_run(stage, dry=dry, run_env=run_env)
        for out, old in before.items():
            if old is not None and keeping.identity_of(Path(out.fs_path)) == old:
                raise DvcException(
                    f"{stage.addressing}: its command ended well and has not replaced {_path(out)}. "
                    "Have it write that output whole, or take `persist` from that output in "
                    f"{PROJECT_FILE}"
                )
        root = Path(stage.repo.root_dir)
        costs.note_seconds(root, stage.addressing, time.monotonic() - start)

    return run


def checkout(stage: Stage, allow_missing: bool = False, **options: Any) -> dict[str, list[str]]:
    """`Stage.checkout`, which `dvc repro` calls to restore from its run cache: the output is
    gathered aside, then put in place.
    """
    root = Path(stage.repo.root_dir)
    done = defaultdict[str, list[str]](list)
    for out in stage.outs:
        if out.exists and not out.changed_checksum():
            continue
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
    """Tell DVC the hashes at the output's own place, or it would read all of it again."""
    tree = out.get_obj()
    files = (
        [(out.fs_path, out.hash_info, None)]
        if not out.is_dir_checksum
        else [(out.fs.join(out.fs_path, *key), hash_info, None) for key, _, hash_info in tree or ()]
    )
    out.repo.state.save_many(files, out.fs)


def dump_whole(
    path: Any, data: Any, dumper: Callable[..., Any], fs: Any = None, **options: Any
) -> None:
    """`_dump_data`, by which DVC writes dvc.lock: in one step."""
    text = io.StringIO()
    dumper(data, text, **options)
    write_whole(Path(path), text.getvalue().encode())


@contextmanager
def edit_path_locks(lock_dir: str, fs: Any, hardlink: bool) -> Iterator[Any]:
    """`_edit_rwlock`, by which DVC reads and writes its list of path locks: written in one step."""
    path = Path(lock_dir, dvc.rwlock.RWLOCK_FILE)
    with make_lock(
        str(Path(lock_dir, dvc.rwlock.RWLOCK_LOCK)), tmp_dir=lock_dir, hardlink_lock=hardlink
    ):
        try:
            lock = dvc.rwlock.SCHEMA(json.loads(path.read_text()))
        except FileNotFoundError:
            lock = dvc.rwlock.SCHEMA({})
        except (json.JSONDecodeError, Invalid):
            lock = dvc.rwlock.SCHEMA(
                {}
            )  # a plain DVC was killed while it wrote, so its locks are gone too
        lock["read"] = defaultdict(list, lock["read"])
        lock["write"] = defaultdict(dict, lock["write"])
        yield lock
        write_whole(path, json.dumps(lock).encode())


def relink(original: Callable[..., None]) -> Callable[..., None]:
    """`_relink`, by which DVC replaces a new output's files with links into its cache: in one step."""

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
        aside.unlink(
            missing_ok=True
        )  # where both were links to one file already, the step before does nothing
        cache.protect(cache_info)

    return replaced


def _ours(out: Output) -> bool:
    """Whether an output lies in the project and in DVC's cache."""
    return bool(out.protocol == "local" and out.is_in_repo and out.use_cache)


def _path(out: Output) -> str:
    """From the project's root."""
    return os.path.relpath(out.fs_path, out.repo.root_dir)


if __name__ == "__main__":
    warm.fork_commands(warm.Wanted(), alone=True)
    sys.exit(main(sys.argv[1:]))
