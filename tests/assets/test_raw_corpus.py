"""From files to documents: every format gives the same documents.

Each record that is dropped is counted under its reason.
"""

import gzip
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from assets import ingestion, raw_corpus
from assets import records as reading
from assets.contamination import build_index, contaminated
from assets.demand import Demand
from assets.documents import Fields, document_files, read_texts
from assets.ingestion import Seen, ingest
from assets.raw_corpus import located
from assets.raw_corpus_config import Domain, RawCorpusConfig
from assets.records import Skipped
from assets.tally import Limits, SkippedRow, Tally, check
from core.errors import UserError
from core.sealed import write_json

TEXTS = ["one fish", "two fish", "red fish"]
SETS = ["RedPajamaBook", "RedPajamaArXiv", "RedPajamaBook"]
LINES = "".join(
    json.dumps({"text": text, "meta": {"redpajama_set_name": name}}) + "\n"
    for text, name in zip(TEXTS, SETS, strict=True)
).encode()
ALL = Demand(tokens=None, long_tokens=0, long_over=10, bytes_per_token=1)
NOTHING = build_index([], 15)
ENDINGS = [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"]


def config(**changes: object) -> RawCorpusConfig:
    """Settings without held-out documents."""
    return RawCorpusConfig(**({"heldout_fraction": 0, "domains": {}} | changes))  # type: ignore[arg-type]


def counted() -> tuple[Tally, list[SkippedRow]]:
    """A tally, and the rows of skipped.csv that it writes."""
    rows: list[SkippedRow] = []
    return Tally(list_skipped=rows.append), rows


def texts(source: Path, field: str = "text", longest: int = 1000) -> list[str | Skipped]:
    """The texts of a source of one domain."""
    return [
        text
        for path in document_files(source).read
        for _, text in read_texts(path, Fields(text=field), longest)
    ]


def kept(
    records: Iterable[str],
    settings: RawCorpusConfig,
    tally: Tally | None = None,
    demand: Demand = ALL,
    against: list[str] | None = None,
) -> list[dict[str, object]]:
    """The documents that these texts become."""
    index = build_index(against, 15) if against else NOTHING
    numbered = (("file", number, text) for number, text in enumerate(records, start=1))
    batches = ingest(numbered, settings, Path("file"), demand, index, tally or counted()[0])
    return [row for batch in batches for row in batch.to_pylist()]


def write(folder: Path, ending: str, content: bytes = LINES) -> Path:
    """The lines in a file of that format."""
    path = folder / f"part{ending}"
    if ending == ".parquet":
        pq.write_table(
            pa.table({"text": TEXTS, "meta": [{"redpajama_set_name": name} for name in SETS]}), path
        )
    else:
        pack = {
            ".jsonl": bytes,
            ".jsonl.gz": gzip.compress,
            ".jsonl.zst": zstandard.ZstdCompressor().compress,
        }[ending]
        path.write_bytes(pack(content))
    return path


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_gives_the_same_texts(tmp_path: Path, ending: str) -> None:
    assert texts(write(tmp_path, ending)) == TEXTS
    assert texts(tmp_path) == TEXTS


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_nested_field_divides_one_file_into_domains(tmp_path: Path, ending: str) -> None:
    write(tmp_path, ending)
    settings = config(domain_field="meta.redpajama_set_name")
    found = {
        name: [
            text
            for _, _, text in located(
                settings, name, Domain(source=tmp_path, only=only), counted()[0]
            )
            if isinstance(text, str)
        ]
        for name, only in (
            ("book", None),
            ("arxiv", None),
            ("mine", "RedPajamaArXiv"),
            ("wikipedia", None),
        )
    }
    assert found == {
        "book": ["one fish", "red fish"],
        "arxiv": ["two fish"],
        "mine": ["two fish"],
        "wikipedia": [],
    }


@given(st.lists(st.text("ab\r", max_size=6).map(str.encode)), st.integers(1, 7))
def test_lines_are_the_same_however_the_blocks_fall(lines: list[bytes], size: int) -> None:
    whole = b"\n".join(lines)
    pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
    expected = re.split(rb"\r\n|\r|\n", whole)
    assert list(reading._lines(iter(pieces), 1000)) == (expected if expected[-1] else expected[:-1])


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_too_long_a_document_is_counted_and_skipped(tmp_path: Path, ending: str) -> None:
    long = json.dumps({"text": "x" * 3_000_000}).encode()
    path = write(tmp_path, ending, b'{"text": "before"}\n' + long + b'\n{"text": "after"}\n')
    tally, skipped = counted()
    settings = config(longest=1000, limits=Limits(oversize=0.5))
    records = located(settings, "x", Domain(source=path), tally)
    rows = [
        row
        for batch in ingest(records, settings, path, ALL, NOTHING, tally)
        for row in batch.to_pylist()
    ]
    assert [row["text"] for row in rows] == ["before", "after"]
    assert tally.counts["oversize"] == 1 and skipped == [("oversize", str(path), 2)]


def test_a_line_too_long_is_never_held_whole() -> None:
    blocks = iter([b"one\n", *[b"x" * 10] * 9, b"x\ntwo"])
    assert list(reading._lines(blocks, 50)) == [b"one", None, b"two"]


def test_a_broken_line_is_skipped_and_the_others_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        ".jsonl",
        b'{"text": "one"}\n{"text": \n{"text": 3}\n{"text": "\xff"}\n{"text": "two"}\n',
    )
    read = list(read_texts(path, Fields(text="text"), 1000))
    assert [
        (number, text.reason if isinstance(text, Skipped) else text) for number, text in read
    ] == [(1, "one"), (2, "broken_json"), (3, "text_not_a_string"), (4, "undecodable"), (5, "two")]


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl.zst"])
def test_a_truncated_archive_stops_the_stage(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path, ending, LINES * 20_000)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=f"{path.name}.*broken or truncated"):
        texts(path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_wrong_field_is_refused_with_the_fields_present(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path, ending)
    tally, settings = counted()[0], config(text_field="content")
    with pytest.raises(
        UserError,
        match=rf"3 of 3 records are field_missing.*The first: {path}, line 1: no field "
        r"'content', which raw_corpus.text_field names; the record holds text.*"
        r"Correct the field's name",
    ):
        list(
            ingest(
                located(settings, "x", Domain(source=path), tally),
                settings,
                path,
                ALL,
                NOTHING,
                tally,
            )
        )
        check(tally, Limits(), path, tally.records)


NESTED = b"[" * 100_000


@pytest.mark.parametrize(
    "line",
    [b"null", b"{}", b"[1]", b'{"txt": "a"}', b'{"text": {"a": 1}}', NESTED],
    ids=lambda line: line[:9].decode(),
)
def test_one_odd_record_is_skipped_and_the_rest_is_read(tmp_path: Path, line: bytes) -> None:
    path = write(tmp_path, ".jsonl", line + b"\n" + LINES)
    odd, *others = texts(path)
    assert others == TEXTS
    assert isinstance(odd, Skipped) and odd.reason == (
        "broken_json"
        if line == NESTED
        else "text_not_a_string"
        if line.startswith(b'{"text"')
        else "field_missing"
    )


def test_a_row_whose_nested_record_is_null_is_skipped(tmp_path: Path) -> None:
    pq.write_table(pa.table({"meta": [None, {"text": "one fish"}]}), tmp_path / "rows.parquet")
    first, second = texts(tmp_path, "meta.text")
    assert isinstance(first, Skipped) and first.reason == "field_missing" and second == "one fish"


ODD = {
    "broken_json": b"{",
    "undecodable": b'{"text": "\xff"}',
    "field_missing": b'{"body": "a"}',
    "text_not_a_string": b'{"text": 3}',
    "empty": b'{"text": " "}',
    "oversize": b'{"text": "%s"}' % (b"x" * 2000),
}


@pytest.mark.parametrize("reason", ODD)
@pytest.mark.parametrize("alone", [True, False])
def test_a_limit_is_a_share_of_the_whole_domain(tmp_path: Path, reason: str, alone: bool) -> None:
    """One bad record of 200 is half a percent, in a file of its own or as the first of many."""
    good = [b'{"text": "%d"}' % number for number in range(199)]
    (tmp_path / "a.jsonl").write_bytes(ODD[reason] if alone else b"\n".join([ODD[reason], *good]))
    (tmp_path / "b.jsonl").write_bytes(b"\n".join(good if alone else []))
    tally, _ = counted()
    settings = config(longest=1000)
    rows = [
        row
        for batch in ingest(
            located(settings, "x", Domain(source=tmp_path), tally),
            settings,
            tmp_path,
            ALL,
            NOTHING,
            tally,
        )
        for row in batch.to_pylist()
    ]
    check(tally, Limits(), tmp_path, tally.records)
    assert len(rows) == 199 and tally.counts[reason] == 1 and tally.records == 200
    with pytest.raises(
        UserError, match=rf"1 of 200 records are {reason}.*The first: {tmp_path}/a.jsonl, line 1"
    ):
        check(tally, Limits(**{reason: 0.004}), tmp_path, tally.records)  # type: ignore[arg-type]


def test_a_bad_file_that_comes_first_is_a_share_of_all() -> None:
    """Before and after: 20 bad records of 4,000 are half a percent in any order."""
    bad: list[str | Skipped] = [Skipped(reason="broken_json")] * 20
    good: list[str | Skipped] = [f"{number} {'x' * 1000}" for number in range(3980)]
    for records in (bad + good, good + bad):
        tally, _ = counted()
        numbered = (("file", line, text) for line, text in enumerate(records, start=1))
        assert sum(map(len, ingest(numbered, config(), Path("file"), ALL, NOTHING, tally))) == 3980
        check(tally, Limits(), Path("file"), tally.records)


def test_a_source_of_bad_records_is_not_read_to_its_end() -> None:
    tally, _ = counted()
    bad = (("file", line, Skipped(reason="field_missing")) for line in range(1_000_000))
    with pytest.raises(UserError, match="10,000 of 10,000 records are field_missing"):
        list(ingest(bad, config(), Path("file"), ALL, NOTHING, tally))


@pytest.mark.parametrize("records", [7, 100, 300, 1000])
def test_a_reason_may_take_exactly_its_limit(records: int) -> None:
    """Products of such numbers are not exact: 0.29 * 100 is less than 29."""
    for count in range(1, records):
        tally, _ = counted()
        tally.counts["empty"] = count
        tally.first["empty"] = "here"
        check(tally, Limits(empty=count / records), Path("file"), records)
        with pytest.raises(UserError, match="are empty"):
            check(tally, Limits(empty=(count - 0.5) / records), Path("file"), records)


def test_rows_of_parquet_without_the_column_are_counted(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "b.parquet")
    odd, *others = texts(tmp_path)
    assert (
        others == TEXTS
        and isinstance(odd, Skipped)
        and odd.reason == "field_missing"
        and "holds body" in odd.detail
    )


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_a_field_with_a_dot_comes_before_a_nested_field(tmp_path: Path, ending: str) -> None:
    rows = [{"meta.text": "flat", "meta": {"text": "nested"}}]
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    else:
        (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]) + "\n")
    assert texts(tmp_path, "meta.text") == ["flat"]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.JSONL.GZ"])
def test_an_empty_archive_is_truncated(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=rf"{name}.*truncated .it is empty"):
        texts(tmp_path)


def test_duplicates_and_empty_texts_are_counted_and_dropped() -> None:
    tally, skipped = counted()
    records = ["a", "b", "a", " ", "a\r\n", "a\n", "\ud800", "\0", "\0\u3000\0", "\0a"]
    rows = kept(records, config(limits=Limits(empty=1)), tally)
    assert [row["text"] for row in rows] == ["a", "b", "a\n", "?"]
    assert (tally.counts["documents"], tally.counts["duplicates"], tally.counts["empty"]) == (
        4,
        3,
        3,
    )
    assert skipped == [
        ("duplicates", "file", 3),
        ("empty", "file", 4),
        ("duplicates", "file", 6),
        ("lone_surrogates", "file", 7),
        ("empty", "file", 8),
        ("empty", "file", 9),
        ("duplicates", "file", 10),
    ]
    assert tally.records == 10


def test_a_reason_past_its_limit_stops_the_stage() -> None:
    tally, _ = counted()
    kept(["a", " ", "b"], config(), tally)
    with pytest.raises(
        UserError, match=r"here: 1 of 3 records are empty.*raw_corpus.limits.empty = 0.05"
    ):
        check(tally, Limits(), Path("here"), tally.records)
    check(tally, Limits(empty=0.5), Path("here"), tally.records)


def test_a_new_document_moves_no_other_into_the_heldout_split() -> None:
    settings = config(heldout_fraction=0.3)
    numbered = [f"document {i}" for i in range(200)]
    before = {row["id"]: row["heldout"] for row in kept(numbered, settings)}
    after = {row["id"]: row["heldout"] for row in kept(["new", *reversed(numbered)], settings)}
    assert before.items() <= after.items()
    assert set(before.values()) == {True, False}


def test_reading_stops_after_the_block_that_meets_the_demand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ingestion, "BLOCK", 30)
    stream = [f"{i} {'long ' * 4 * (i % 5 == 4)}" for i in range(1000)]
    tally, _ = counted()
    demand = Demand(tokens=10, long_tokens=25, long_over=10, bytes_per_token=1)
    rows = kept(stream, config(), tally, demand)
    assert [row["text"] for row in rows] == stream[: len(rows)] and tally.parts == {
        "file": len(rows)
    }
    long = [len(row["text"]) for row in rows if len(row["text"]) > 10]  # type: ignore[arg-type]
    assert sum(long) >= 25 and len(long) == 2, "one block fewer would not have been enough"


@given(st.lists(st.integers(0, 30)))
def test_seen_tells_new_from_old_across_merges(identities: list[int]) -> None:
    seen, known = Seen(merge_after=3), set()
    for identity in identities:
        assert seen.add(identity) == (identity not in known)
        known.add(identity)


TEST = "What is the capital of France? It is Paris, of course."


def test_a_contaminated_document_is_dropped_with_any_spacing() -> None:
    tally, skipped = counted()
    copies = [
        f"words before {TEST} and after",
        "x WHAT IS THE\n\nCAPITAL - of *France*",
        "The capital of Spain",
    ]
    rows = kept(
        copies, config(limits=Limits(contaminated=1)), tally, against=["Unrelated and short", TEST]
    )
    assert [row["text"] for row in rows] == ["The capital of Spain"]
    assert [(reason, line) for reason, _, line in skipped] == [
        ("contaminated", 1),
        ("contaminated", 2),
    ]


@given(
    st.text("ab", max_size=60),
    st.lists(st.text("ab", max_size=80), max_size=4),
    st.integers(15, 40),
)
def test_contaminated_means_a_common_run_and_nothing_else(
    test: str, texts: list[str], run: int
) -> None:
    found = contaminated(build_index([test], run), [text.encode() for text in texts])
    runs = {test[start : start + run] for start in range(len(test) - run + 1)}
    assert found == [
        number
        for number, text in enumerate(texts)
        if any(text[start : start + run] in runs for start in range(len(text) - run + 1))
    ]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one domain, x, in the folder `source`: three records."""
    monkeypatch.chdir(tmp_path)
    for folder in ("source", "data/token_demand"):
        (tmp_path / folder).mkdir(parents=True)
    write_json(tmp_path / "data/token_demand/x.json", ALL.model_dump())
    (tmp_path / "source/part.jsonl").write_bytes(
        b'{"content": "a"}\n{"content": " "}\n{"content": "a"}\n'
    )
    return tmp_path


def run(**settings: object) -> dict[str, int]:
    """Make domain x. Returns its metrics."""
    domains = {"x": {"source": "source"}}
    Path("params.yaml").write_text(
        json.dumps(
            {
                "raw_corpus": {"text_field": "content", "heldout_fraction": 0, "domains": domains}
                | settings
            }
        )
    )
    raw_corpus.run("x")
    return dict(json.loads(Path("metrics/raw_corpus/x.json").read_text()))


def test_every_record_skipped_and_every_file_is_in_a_table(project: Path) -> None:
    for name in ("empty.jsonl", "archive.xz"):
        (project / "source" / name).touch()
    metrics = run(limits={"empty": 0.5})
    assert (metrics["documents"], metrics["empty"], metrics["duplicates"]) == (1, 1, 1)
    assert Path("data/raw_corpus/x/skipped.csv").read_text() == (
        "reason,file,line\nempty,source/part.jsonl,2\nduplicates,source/part.jsonl,3\n"
    )
    assert Path("data/raw_corpus/x/parts.csv").read_text() == (
        "file,records,ignored\nsource/archive.xz,0,unknown "
        "ending\nsource/empty.jsonl,0,\nsource/part.jsonl,3,\n"
    )


def test_a_stopped_stage_leaves_its_list_of_skipped_records(project: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"1 of 3 records are empty.*data/.skipped/x.csv lists the 2 records skipped",
    ):
        run()
    left = Path("data/.skipped/x.csv")
    assert (
        left.read_text()
        == "reason,file,line\nempty,source/part.jsonl,2\nduplicates,source/part.jsonl,3\n"
    )
    assert not list(Path("data/raw_corpus").iterdir())
    run(limits={"empty": 0.5})
    assert not left.exists(), "of a run that is past"


def test_evaluation_texts_have_a_field_of_their_own(project: Path) -> None:
    (project / "tests.jsonl").write_text(
        json.dumps({"q": {"text": TEST}}) + "\n" + json.dumps({"q": {"text": "no"}})
    )
    (project / "source/part.jsonl").write_text(
        "".join(json.dumps({"content": text}) + "\n" for text in ("clean", f"so: {TEST}"))
    )
    metrics = run(
        limits={"contaminated": 1},
        decontamination={"against": "tests.jsonl", "text_field": "q.text", "run": 20},
    )
    assert (metrics["documents"], metrics["contaminated"]) == (1, 1)
    assert (metrics["evaluation_texts"], metrics["evaluation_texts_too_short"]) == (2, 1)


@pytest.mark.parametrize(
    "off",
    [
        {},
        {"decontamination": {"against": None}},
        {"decontamination": {"against": "tests.jsonl", "run": None}},
    ],
)
def test_decontamination_switched_off_prints_a_line(
    project: Path, off: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = run(limits={"empty": 1}, **off)
    assert (metrics["documents"], metrics["contaminated"], metrics["evaluation_texts"]) == (1, 0, 0)
    assert "no decontamination" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            f'{json.dumps({"text": TEST})}\n{{"text": ',
            r"tests.jsonl, record 2: broken_json.*fix the record",
        ),
        ('{"text": 3}\n', r"tests.jsonl, record 1: text_not_a_string"),
        (
            '{"q": "a"}\n',
            r"tests.jsonl, record 1: no field 'text', which raw_corpus.decontamination.text_field names",
        ),
        ('{"text": "short"}\n', r"of its 1 evaluation texts none has 20 letters and digits"),
        ("", r"of its 0 evaluation texts none has"),
    ],
)
def test_evaluation_texts_that_are_too_short_are_refused(
    project: Path, content: str, message: str
) -> None:
    (project / "tests.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        run(decontamination={"against": "tests.jsonl", "run": 20})


def test_ids_are_64_bits_of_the_text() -> None:
    (row,) = kept(["a"], config())
    assert row["id"] == int(
        np.uint64(int.from_bytes(ingestion.blake2b(b"a", digest_size=8).digest(), "big"))
    )


def test_a_changed_text_is_kept_counted_and_listed(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [r'{"content": "a\ud800b"}', r'{"content": "a\u0000c"}', r'{"content": "\ud83d\ude00"}']
    (project / "source/part.jsonl").write_text("\n".join(lines))
    metrics = run()
    assert (metrics["documents"], metrics["lone_surrogates"], metrics["zero_bytes"]) == (3, 1, 1)
    assert Path("data/raw_corpus/x/skipped.csv").read_text() == (
        "reason,file,line\nlone_surrogates,source/part.jsonl,1\nzero_bytes,source/part.jsonl,2\n"
    )
    assert "changed: zero_bytes: source/part.jsonl, line 2" in capsys.readouterr().err
    for reason in ("lone_surrogates", "zero_bytes"):
        with pytest.raises(
            UserError, match=f"1 of 3 records are {reason}.*The first: source/part.jsonl, line"
        ):
            run(limits={reason: 0.3})


def test_the_tables_name_every_file_whatever_its_name(project: Path) -> None:
    (project / "source" / os.fsdecode(b"x\xff.jsonl")).write_bytes(
        b'{"content": "b"}\n{"content": "b"}\n'
    )
    for name in (".hidden.jsonl", "_SUCCESS"):
        (project / "source" / name).touch()
    run(limits={"empty": 0.5})
    assert Path("data/raw_corpus/x/parts.csv").read_text() == (
        "file,records,ignored\nsource/.hidden.jsonl,0,hidden: its name starts with . or _\n"
        "source/_SUCCESS,0,hidden: its name starts with . or "
        "_\nsource/part.jsonl,3,\nsource/x\\xff.jsonl,2,\n"
    )
    assert "duplicates,source/x\\xff.jsonl,2\n" in Path("data/raw_corpus/x/skipped.csv").read_text()


def test_without_a_record_the_names_of_other_domains_are_listed(
    project: Path,
) -> None:
    (project / "source/part.jsonl").write_text(
        '{"content": "a", "of": 3}\n{"content": "b", "of": true}\n'
    )
    with pytest.raises(
        UserError,
        match=r"no document in 0 records \(other_domain 2\). The field 'of' holds '3', "
        r"'true': set raw_corpus.domains.x.only",
    ):
        run(domain_field="of")
    for only in ("3", 3):
        assert (
            run(domain_field="of", domains={"x": {"source": "source", "only": only}})["documents"]
            == 1
        )


@pytest.mark.parametrize("content", [b"a: [", b"a: \xff", None])
def test_a_broken_source_description_is_refused_in_one_line(
    project: Path, content: bytes | None
) -> None:
    if content is None:
        os.mkfifo("source.yaml")
    else:
        Path("source.yaml").write_bytes(content)
    with pytest.raises(UserError, match="^source.yaml") as stopped:
        run(domains={"x": {"source": "source.yaml"}})
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize(
    "line",
    [
        b'{"text": "a", "text": "b"}',
        b'{"text" :"a","text" :"b"}',
        b'{"meta": {"of": "x"}, "text": "a", "text": "a"}',
        rb'{"te\u0078t": "a", "text": "b"}',
        rb'{"text": "a", "\u0074\u0065\u0078\u0074" : "b"}',
        b'{"text": "a", "text"\t:"b"}',
    ],
)
def test_a_record_with_two_texts_is_counted(tmp_path: Path, line: bytes) -> None:
    path = write(tmp_path, ".jsonl", line + b'\n{"text": "one", "pages": [{"text": "two"}]}\n')
    odd, whole = texts(path)
    assert (
        isinstance(odd, Skipped)
        and str(odd) == "broken_json: two fields 'text' in one object"
        and whole == "one"
    )


def test_a_nested_record_stored_as_text_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path, ".jsonl", json.dumps({"text": "one", "meta": json.dumps({"of": "a"})}).encode()
    )
    assert [
        text for _, text in read_texts(path, Fields(text="text", domain="meta.of", only="a"), 1000)
    ] == ["one"]


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("meta", b'{"text": "a", "meta": {"of": "x"}, "meta": {"of": "y"}}'),
        ("of", rb'{"text": "a", "meta": {"of": "x", "\u006ff": "y"}}'),
        ("of", rb'{"text": "a", "meta": "{\"of\": \"x\", \"of\": \"y\"}"}'),
        ("meta.of", b'{"text": "a", "meta.of": "x", "meta.of": "y"}'),
    ],
)
def test_a_record_with_two_domains_is_counted(tmp_path: Path, field: str, line: bytes) -> None:
    path = write(tmp_path, ".jsonl", line + b"\n")
    fields = Fields(text="text", domain="meta.of", only="y")
    [(_, odd)] = read_texts(path, fields, 1000)
    assert str(odd) == f"broken_json: two fields {field!r} in one object"
