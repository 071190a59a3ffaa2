"""From files to documents: every format gives the same, and what is dropped is counted under its reason."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from assets import documents as reading
from assets import raw_corpus
from assets.contamination import build_index, contaminated
from assets.demand import Demand
from assets.documents import Fields, Skipped, document_files, read_texts
from assets.raw_corpus import Decontamination, Domain, Limits, RawCorpusConfig, Seen, Tally, check, ingest, located
from assets.stage import UserError

TEXTS = ["one fish", "two fish", "red fish"]
SETS = ["RedPajamaBook", "RedPajamaArXiv", "RedPajamaBook"]
LINES = "".join(json.dumps({"text": text, "meta": {"redpajama_set_name": name}}) + "\n"
                for text, name in zip(TEXTS, SETS, strict=True)).encode()
ALL = Demand(tokens=None, long_tokens=0, long_over=10, bytes_per_token=1)
NOTHING = build_index([], 15)
ENDINGS = [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"]


def config(**changes: object) -> RawCorpusConfig:
    """Settings that hold nothing out."""
    values = {"heldout_fraction": 0, "domains": {}, "decontamination": Decontamination(against=Path("none"))}
    return RawCorpusConfig(**(values | changes))  # type: ignore[arg-type]


def texts(source: Path, field: str = "text", longest: int = 1000) -> list[str | Skipped]:
    """What a source of one domain gives."""
    return [text for path in document_files(source) for _, text in read_texts(path, Fields(text=field), longest)]


def kept(records: Iterable[str], settings: RawCorpusConfig, tally: Tally | None = None, demand: Demand = ALL,
         against: list[str] | None = None) -> list[dict[str, object]]:
    """The documents that come of these texts."""
    index = build_index(against, 15) if against else NOTHING
    numbered = (("file", number, text) for number, text in enumerate(records, start=1))
    batches = ingest(numbered, settings, Path("file"), demand, index, tally or Tally())
    return [row for batch in batches for row in batch.to_pylist()]


def write(folder: Path, ending: str, content: bytes = LINES) -> Path:
    """The lines in a file of that format."""
    path = folder / f"part{ending}"
    if ending == ".parquet":
        pq.write_table(pa.table({"text": TEXTS, "meta": [{"redpajama_set_name": name} for name in SETS]}), path)
    else:
        pack = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": zstandard.ZstdCompressor().compress}[ending]
        path.write_bytes(pack(content))
    return path


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_gives_the_same_texts(tmp_path: Path, ending: str) -> None:
    assert texts(write(tmp_path, ending)) == TEXTS
    assert texts(tmp_path) == TEXTS


@pytest.mark.parametrize("ending", ENDINGS)
def test_one_file_of_many_domains_is_shared_out_by_a_nested_field(tmp_path: Path, ending: str) -> None:
    write(tmp_path, ending)
    settings = config(domain_field="meta.redpajama_set_name")
    found = {name: [text for _, _, text in located(settings, name, Domain(source=tmp_path, only=only))
                    if isinstance(text, str)]
             for name, only in (("book", None), ("arxiv", None), ("mine", "RedPajamaArXiv"), ("wikipedia", None))}
    assert found == {"book": ["one fish", "red fish"], "arxiv": ["two fish"], "mine": ["two fish"], "wikipedia": []}


@given(st.lists(st.binary(max_size=6).filter(lambda line: b"\n" not in line)), st.integers(1, 7))
def test_lines_are_the_same_however_the_blocks_fall(lines: list[bytes], size: int) -> None:
    whole = b"\n".join(lines)
    pieces = [whole[start:start + size] for start in range(0, len(whole), size)]
    expected = lines[:-1] if lines and not lines[-1] else lines
    assert list(reading._lines(iter(pieces), 1000)) == expected


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_a_document_too_long_is_counted_and_passed_over(tmp_path: Path, ending: str) -> None:
    long = json.dumps({"text": "x" * 3_000_000}).encode()
    path = write(tmp_path, ending, b'{"text": "before"}\n' + long + b'\n{"text": "after"}\n')
    tally = Tally()
    settings = config(longest=1000, limits=Limits(oversize=0.5))
    rows = [row for batch in ingest(located(settings, "x", Domain(source=path)), settings, path, ALL, NOTHING, tally)
            for row in batch.to_pylist()]
    assert [row["text"] for row in rows] == ["before", "after"]
    assert tally.counts["oversize"] == 1 and tally.skipped == [("oversize", str(path), 2)]


def test_a_line_too_long_is_never_held_whole() -> None:
    blocks = iter([b"one\n", *[b"x" * 10] * 9, b"x\ntwo"])
    assert list(reading._lines(blocks, 50)) == [b"one", None, b"two"]


def test_a_broken_line_is_named_with_its_file_and_line_and_the_rest_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, ".jsonl", b'{"text": "one"}\n{"text": \n{"text": 3}\n{"text": "\xff"}\n{"text": "two"}\n')
    read = list(read_texts(path, Fields(text="text"), 1000))
    assert [(number, text.reason if isinstance(text, Skipped) else text) for number, text in read] == [
        (1, "one"), (2, "broken_json"), (3, "text_not_a_string"), (4, "undecodable"), (5, "two")]


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl.zst"])
def test_a_cut_off_archive_stops_and_names_the_file(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path, ending, LINES * 20_000)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=f"{path.name}.*broken or cut off"):
        texts(path)


def test_a_wrong_field_is_named_beside_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 1: no field 'content'; the record holds text, meta.*text_field"):
        texts(write(tmp_path, ".jsonl"), "content")
    with pytest.raises(UserError, match=r"no column 'content'; it holds text, meta"):
        texts(write(tmp_path, ".parquet").rename(tmp_path / "rows.parquet"), "content")


def test_duplicates_and_empty_texts_are_counted_and_dropped() -> None:
    tally = Tally()
    rows = kept(["a", "b", "a", " ", "a\r\n", "a\n", "\ud800"], config(limits=Limits(empty=1)), tally)
    assert [row["text"] for row in rows] == ["a", "b", "a\n", "?"]
    assert (tally.counts["documents"], tally.counts["duplicates"], tally.counts["empty"]) == (4, 2, 1)
    assert tally.records == 7


def test_a_reason_past_its_limit_stops_the_stage_and_names_it() -> None:
    tally = Tally()
    kept(["a", " ", "b"], config(), tally)
    with pytest.raises(UserError, match=r"here: 1 of 3 records are empty.*raw_corpus.limits.empty = 0.05"):
        check(tally, Limits(), Path("here"), tally.records)
    check(tally, Limits(empty=0.5), Path("here"), tally.records)


def test_adding_documents_moves_none_between_training_and_heldout() -> None:
    settings = config(heldout_fraction=0.3)
    numbered = [f"document {i}" for i in range(200)]
    before = {row["id"]: row["heldout"] for row in kept(numbered, settings)}
    after = {row["id"]: row["heldout"] for row in kept(["new", *reversed(numbered)], settings)}
    assert before.items() <= after.items()
    assert set(before.values()) == {True, False}


def test_reading_stops_at_the_end_of_the_block_that_meets_the_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_corpus, "BLOCK", 30)
    stream = [f"{i} {'long ' * 4 * (i % 5 == 4)}" for i in range(1000)]
    tally = Tally()
    demand = Demand(tokens=10, long_tokens=25, long_over=10, bytes_per_token=1)
    rows = kept(stream, config(), tally, demand)
    assert [row["text"] for row in rows] == stream[:len(rows)] and tally.parts == {"file": len(rows)}
    long = [len(row["text"]) for row in rows if len(row["text"]) > 10]  # type: ignore[arg-type]
    assert sum(long) >= 25 and len(long) == 2, "one block fewer would not have been enough"


@given(st.lists(st.integers(0, 30)))
def test_seen_tells_new_from_old_across_merges(identities: list[int]) -> None:
    seen, known = Seen(merge_after=3), set()
    for identity in identities:
        assert seen.add(identity) == (identity not in known)
        known.add(identity)


TEST = "What is the capital of France? It is Paris, of course."


def test_a_document_with_a_passage_of_a_test_is_dropped_however_it_is_spaced() -> None:
    tally = Tally()
    copies = [f"words before {TEST} and after", "x WHAT IS THE\n\nCAPITAL - of *France*", "The capital of Spain"]
    rows = kept(copies, config(limits=Limits(contaminated=1)), tally, against=["Unrelated and short", TEST])
    assert [row["text"] for row in rows] == ["The capital of Spain"]
    assert [(reason, line) for reason, _, line in tally.skipped] == [("contaminated", 1), ("contaminated", 2)]


@given(st.text("ab", max_size=60), st.lists(st.text("ab", max_size=80), max_size=4), st.integers(15, 40))
def test_contaminated_means_a_common_run_and_nothing_else(test: str, texts: list[str], run: int) -> None:
    found = contaminated(build_index([test], run), [text.encode() for text in texts])
    runs = {test[start:start + run] for start in range(len(test) - run + 1)}
    assert found == [number for number, text in enumerate(texts)
                     if any(text[start:start + run] in runs for start in range(len(text) - run + 1))]


def test_ids_are_64_bits_of_the_text() -> None:
    (row,) = kept(["a"], config())
    assert row["id"] == int(np.uint64(int.from_bytes(raw_corpus.blake2b(b"a", digest_size=8).digest(), "big")))
