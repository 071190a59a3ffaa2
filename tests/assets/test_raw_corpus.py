"""From files to documents: every format gives the same, and what is dropped is counted under its reason."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from assets.documents import Broken, read_texts
from assets.raw_corpus import RawCorpusConfig, documents
from assets.stage import UserError

TEXTS = ["one fish", "two fish", "red fish"]
LINES = "".join(json.dumps({"text": text, "meta": {"n": i}}) + "\n" for i, text in enumerate(TEXTS)).encode()


def write(folder: Path, ending: str, content: bytes = LINES) -> Path:
    """The lines in a file of that format."""
    path = folder / f"part{ending}"
    if ending == ".parquet":
        pq.write_table(pa.table({"text": TEXTS}), path)
    else:
        pack = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": zstandard.ZstdCompressor().compress}[ending]
        path.write_bytes(pack(content))
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_every_format_gives_the_same_texts(tmp_path: Path, ending: str) -> None:
    assert list(read_texts(write(tmp_path, ending), "text")) == TEXTS
    assert list(read_texts(tmp_path, "text")) == TEXTS


def test_a_broken_line_is_named_with_its_file_and_line_and_the_rest_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, ".jsonl", b'{"text": "one"}\n{"text": \n{"text": 3}\n\xff\n{"text": "two"}\n')
    read = list(read_texts(path, "text"))
    assert read[0] == "one" and read[-1] == "two"
    assert [(item.reason, item.where) for item in read if isinstance(item, Broken)] == [
        ("broken_json", f"{path}, line 2"), ("text_not_a_string", f"{path}, line 3"),
        ("undecodable", f"{path}, line 4")]


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl.zst"])
def test_a_cut_off_archive_stops_and_names_the_file(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path, ending, LINES * 20_000)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=f"{path.name}.*broken or cut off"):
        list(read_texts(path, "text"))


def test_a_wrong_field_is_named_beside_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 1: no field 'content'; the record holds text, meta"):
        list(read_texts(write(tmp_path, ".jsonl"), "content"))


def test_duplicates_and_empty_texts_are_counted_and_dropped() -> None:
    counts: Counter[str] = Counter()
    kept = list(documents(iter(["a", "b", "a", " ", "a\r\n", "a\n"]), RawCorpusConfig(domains={}), counts))
    assert [text for _, text, _ in kept] == ["a", "b", "a\n"]
    assert (counts["documents"], counts["duplicates"], counts["empty"]) == (3, 2, 1)


def test_adding_documents_moves_none_between_training_and_heldout() -> None:
    config = RawCorpusConfig(domains={}, heldout_fraction=0.3)
    texts = [f"document {i}" for i in range(200)]
    before = {key: split for key, _, split in documents(iter(texts), config, Counter())}
    after = {key: split for key, _, split in documents(iter(["new", *reversed(texts)]), config, Counter())}
    assert before.items() <= after.items()
    assert {"train", "heldout"} == set(before.values())
