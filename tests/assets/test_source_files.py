"""One rule for the files of a folder, for every kind of source.

Every ignored file has a reason.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from assets.records import read_records, read_text
from assets.source_files import (
    DOCUMENTS,
    TEXTS,
    check_hashable,
    shown,
    source_files,
    why_ignored_below,
)
from core.errors import UserError

LEFTOVERS = {
    ".a.jsonl": "hidden",
    "._a.jsonl": "hidden",
    "_a.jsonl": "hidden",
    ".a.jsonl.swp": "hidden",
    "_SUCCESS": "hidden",
    "a.jsonl~": "temporary",
    "#a.jsonl#": "temporary",
    "~$a.jsonl": "temporary",
    "a.jsonl.tmp": "temporary",
    "a.tmp.jsonl": "temporary",
    "A.TMP.JSONL": "temporary",
    "a.jsonl.part": "temporary",
    "a.jsonl.swp": "temporary",
    "a.jsonl.gz.partial": "temporary",
    "a.jsonl.crdownload": "temporary",
    "a.jsonl.bak": "temporary",
    "a.jsonl.Downloading": "temporary",
    "a-tmp.jsonl": "temporary",
    "tmp_a.jsonl": "temporary",
    "tmpk3x9a2b_.jsonl": "temporary",
    "a.sync-conflict-20261128-120000-ABCDEFG.jsonl": "temporary",
    "a (Ann's conflicted copy 2026-11-28).jsonl": "temporary",
    "Thumbs.db": "operating system",
    "desktop.ini": "operating system",
    "README.md": "unknown ending",
    "a.json": "unknown ending",
    "a.jsonl.xz": "unknown ending",
    "a.jsonl.dvc": "unknown",
}
FOLDERS = {
    ".ipynb_checkpoints": "hidden",
    "__MACOSX": "hidden",
    "_temporary": "hidden",
    ".git": "hidden",
    "tmp": "temporary",
    "a.tmp": "temporary",
    "tmp.Xy12aBcD": "temporary",
    "tmp_1": "temporary",
    "Temporary": "temporary",
    "a.jsonl.sb-1a2b3c4d-Xy12Zz": "temporary",
    "@Recycle": "operating system",
    "lost+found": "operating system",
    "@eaDir": "operating system",
}


def listed(source: Path, endings: tuple[str, ...] = DOCUMENTS) -> list[str]:
    """The files read, as paths below the source."""
    return [
        path.relative_to(source).as_posix()
        for path in source_files(source, endings, "the.setting").read
    ]


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root ignores permissions, so a test that runs as root becomes another user."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_subfolders_are_read_and_ignored_files_have_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (
        "a.JSONL",
        "sub/deep/b.Jsonl.GZ",
        "sub/c.parquet",
        *LEFTOVERS,
        *(f"{name}/x.jsonl" for name in FOLDERS),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = source_files(tmp_path, DOCUMENTS, "the.setting")
    assert listed(tmp_path) == ["a.JSONL", "sub/c.parquet", "sub/deep/b.Jsonl.GZ"]
    assert {path.name for path in found.ignored} == LEFTOVERS.keys() | FOLDERS.keys(), (
        "a folder stands for its files"
    )
    for name, reason in (LEFTOVERS | FOLDERS).items():
        assert reason in found.ignored[tmp_path / name]
    assert list(found.ignored) == sorted(found.ignored)
    assert f"ignored: {tmp_path}/#a.jsonl#: temporary" in capsys.readouterr().err


def test_ordinary_words_in_a_name_do_not_make_it_temporary(tmp_path: Path) -> None:
    names = [
        "a.orig.jsonl",
        "c4.part.1.jsonl",
        "part-0001.jsonl",
        "template.jsonl",
        "tmpl.jsonl",
        "tmprss2.jsonl",
        "x_y.jsonl",
    ]
    for name in names:
        (tmp_path / name).touch()
    assert listed(tmp_path) == names


@pytest.mark.parametrize("name", [".hidden", "_under", "tmp", "dot."])
def test_the_rule_applies_below_a_source_not_to_the_source(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "a.jsonl").touch()
    assert listed(folder) == listed(folder / ".") == ["a.jsonl"]
    (folder / "_b.jsonl").touch()
    assert source_files(folder / "_b.jsonl", DOCUMENTS, "the.setting").read == [folder / "_b.jsonl"]


def test_a_folder_of_ignored_files_is_refused_with_reasons(tmp_path: Path) -> None:
    (tmp_path / "_a.jsonl").touch()
    with pytest.raises(
        UserError, match=r"holds no .*jsonl.*Ignored: _a.jsonl \(hidden.*Set the.setting to"
    ):
        listed(tmp_path)


def test_files_of_the_hub_fall_under_the_same_rule() -> None:
    assert why_ignored_below("train/.ipynb_checkpoints/a.jsonl", DOCUMENTS)
    assert why_ignored_below("_tmp/a.jsonl", DOCUMENTS) and why_ignored_below(
        "train/a.csv", DOCUMENTS
    )
    assert why_ignored_below("train/a.jsonl", DOCUMENTS) is None


def test_a_folder_that_cannot_be_listed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "closed"):
        Path(name).mkdir()
        Path(name, "x.jsonl").touch()
    tmp_path.chmod(0o755)
    Path("closed").chmod(0)
    with (
        as_nobody(),
        pytest.raises(
            UserError, match=r"closed: cannot be listed \(Permission denied\).*documents may be"
        ),
    ):
        source_files(Path(), DOCUMENTS, "the.setting")
    Path("closed").chmod(0o755)
    assert listed(Path()) == ["a/x.jsonl", "closed/x.jsonl"]


def test_a_file_that_cannot_be_opened_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    Path("a.jsonl").touch(mode=0)
    with as_nobody(), pytest.raises(UserError, match=r"a.jsonl: Permission denied. Give access"):
        list(read_records(Path("a.jsonl")))


@pytest.mark.parametrize("target", ["nowhere", "loop.jsonl"])
def test_a_broken_link_is_an_error(tmp_path: Path, target: str) -> None:
    (tmp_path / "loop.jsonl").symlink_to(target)
    with pytest.raises(UserError, match=r"loop.jsonl: a broken link"):
        listed(tmp_path)


def test_a_link_to_a_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "again").symlink_to(tmp_path)
    (tmp_path / "b.jsonl").symlink_to("a.jsonl")
    assert listed(tmp_path) == ["a.jsonl", "b.jsonl"]
    assert source_files(tmp_path, DOCUMENTS, "x").ignored == {
        tmp_path / "again": "a link to a folder is not followed"
    }


def test_pipes_are_ignored_in_a_folder_and_refused_as_a_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening one would wait for a writer for ever."""
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    os.mkfifo("pipe.jsonl")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jsonl")
    Path("a.jsonl").touch()
    Path("link.jsonl").symlink_to("pipe.jsonl")
    found = source_files(Path(), DOCUMENTS, "the.setting")
    assert found.read == [Path("a.jsonl")]
    assert found.ignored == {
        Path("link.jsonl"): "a named pipe",
        Path("pipe.jsonl"): "a named pipe",
        Path("socket.jsonl"): "a socket",
    }
    with pytest.raises(
        UserError, match=r"pipe.jsonl: a named pipe, not a file or folder. Set the.setting"
    ):
        source_files(Path("pipe.jsonl"), DOCUMENTS, "the.setting")
    with pytest.raises(UserError, match=r"/dev/zero: a device, not a file or folder"):
        source_files(Path("/dev/zero"), DOCUMENTS, "the.setting")
    for reader in (read_text, lambda path: list(read_records(path))):
        with pytest.raises(UserError, match=r"pipe.jsonl: a named pipe, not a file"):
            reader(Path("pipe.jsonl"))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda folder: os.mkfifo(folder / "pipe"), "pipe: a named pipe"),
        (lambda folder: (folder / ".#a").symlink_to("gone"), "#a: a broken link"),
        (lambda folder: (folder / os.fsdecode(b"\xff")).touch(), "xff: its name is not UTF-8"),
    ],
)
def test_a_file_that_dvc_cannot_hash_is_refused_early(
    tmp_path: Path, make: Callable[[Path], None], problem: str
) -> None:
    """The stage ignores the first two, but DVC would hang or stop before the stage begins."""
    for name in ("a.jsonl", "sub/b.jsonl", ".hidden/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "again").symlink_to(tmp_path)
    check_hashable(tmp_path, "the.setting")
    make(tmp_path / ".hidden")
    with pytest.raises(UserError, match=rf"the.setting: .*{problem}, so DVC cannot hash"):
        check_hashable(tmp_path, "the.setting")


def test_any_file_name_is_shown_as_one_line_of_utf8(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"a\xff.txt")).write_text("text")
    (tmp_path / "b\nc.txt").write_text("text")
    found = source_files(tmp_path, TEXTS, "the.setting").read
    assert [shown(path.name) for path in found] == [r"b\nc.txt", r"a\xff.txt"] or [
        shown(path.name) for path in found
    ] == [r"a\xff.txt", r"b\nc.txt"]
    assert shown("é/文.txt") == "é/文.txt"


def test_a_source_that_is_not_there_names_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for source in (tmp_path / "gone", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"no such file or folder. Set the.setting"):
            source_files(source, DOCUMENTS, "the.setting")
    with pytest.raises(UserError, match=r"file: unknown format. Known endings: .txt, .txt.gz"):
        source_files(tmp_path / "file", TEXTS, "the.setting")
