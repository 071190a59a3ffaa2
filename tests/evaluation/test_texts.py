"""A haystack is the text files below a folder, read by the rules of the corpus."""

import gzip
import os
from pathlib import Path

import pytest
import zstandard

from core.errors import UserError
from evaluation.texts import read_texts


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """A folder of these files."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_texts_of_subfolders_are_read_and_hidden_ones_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {"a.txt": b"a", "B.TXT": b"b", "sub/c.txt": b"c", "d.txt.gz": gzip.compress(b"d")}
    leftovers = {".hidden.txt": b"x", "~$a.txt": b"x", ".git/x.txt": b"x", "x.txt~": b"x"}
    folder = write(tmp_path, texts | leftovers | {"blank.txt": b" \n", "notes.pdf": b"x"})
    assert sorted(read_texts(folder)) == ["a", "b", "c", "d"]
    printed = capsys.readouterr().err
    for name in (
        "hidden.txt: hidden",
        "$a.txt: temporary",
        ".git: folder hidden",
        "blank.txt: empty",
    ):
        assert name in printed


ABOUT = (
    "README.txt",
    "readme.TXT.gz",
    "Read Me.txt",
    "README-first.txt",
    "sub/readme (1).txt",
    "LICENSE.txt",
    "licence-mit.txt",
    "COPYING.txt",
    "CHANGELOG.txt",
    "AUTHORS.txt",
    "code_of_conduct.txt",
    "SHA256SUMS.txt",
    "requirements.txt",
)
ESSAYS = (
    "readmen.txt",
    "license to kill.txt",
    "licensed.txt",
    "noticed.txt",
    "history.txt",
    "news.txt",
    "read.txt",
    "manifesto.txt",
    "copyright law.txt",
)


def test_a_readme_is_no_haystack_and_an_essay_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    essays = {name: name.encode() for name in ESSAYS}
    about = {name: b"x" for name in ABOUT}
    folder = write(tmp_path, essays | about | {"CHANGELOG.md": b"x", "LICENSE": b"x"})
    assert sorted(read_texts(folder)) == sorted(ESSAYS)
    printed = capsys.readouterr().err
    for name in ABOUT:
        assert f"{name}: about the folder, by its name" in printed
    assert "CHANGELOG.md: unknown ending" in printed and "LICENSE: unknown ending" in printed
    assert read_texts(tmp_path / "README.txt") == ["x"], "named itself, it is the source"


def test_one_file_of_any_ending_is_a_text_except_records(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"a.md": b"\xef\xbb\xbfone\r\ntwo", "b.zst": zstandard.compress(b"b"), "c.jsonl": b"{}"},
    )
    assert read_texts(tmp_path / "a.md") == ["one\ntwo"]
    assert read_texts(tmp_path / "b.zst") == ["b"]
    with pytest.raises(UserError, match=r"c.jsonl: holds records, not a text"):
        read_texts(tmp_path / "c.jsonl")


def test_a_haystack_that_cannot_be_read_whole_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "latin", {"a.txt": b"good", "b.txt": b"caf\xe9"})
    with pytest.raises(UserError, match=r"b.txt, line 1: the byte 0xe9 is not UTF-8"):
        read_texts(tmp_path / "latin")
    write(tmp_path / "none", {"a.md": b"x"})
    with pytest.raises(UserError, match=r"holds no .txt.*Ignored: a.md.*needle_report.haystack"):
        read_texts(tmp_path / "none")
    write(tmp_path / "blank", {"a.txt": b"\n"})
    with pytest.raises(UserError, match=r"no text there"):
        read_texts(tmp_path / "blank")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UserError, match=r"pipe.txt: a named pipe"):
        read_texts(tmp_path / "pipe.txt")
    with pytest.raises(
        UserError, match=r"gone: no such file or folder. Set needle_report.haystack"
    ):
        read_texts(tmp_path / "gone")
