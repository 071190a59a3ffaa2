"""Each check of a data stage (raw_corpus, mixed_dataset, packed_shards) can fail.

The smallest artefact that fails it is beside one that passes.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from assets.contamination import build_index
from assets.ingestion import Document, without_contaminated
from assets.mixed_dataset import domain_shares, heldout_spans, long_share, no_heldout
from assets.packed_shards import rows_of_one_length, tokens_conserved, written
from assets.raw_corpus import little_contamination
from assets.recipes import Recipe
from assets.tally import Tally

QUESTION = "Which river runs through the old town of Bern in Switzerland?"


def tally(files: Mapping[str, tuple[int, int]]) -> Tally:
    """By file: the records read, and how many of them are contaminated."""
    found = Tally(list_skipped=lambda row: None)
    for file, (records, count) in files.items():
        found.parts[file] = records
        found.contaminated[file] = count
        found.counts["contaminated"] += count
    return found


@pytest.mark.parametrize(
    ("count", "limit", "passed"),
    [(9, 0.01, True), (10, 0.01, True), (11, 0.01, False), (60, 0.01, False), (60, 0.6, True)],
)
def test_one_benchmark_file_among_many_clean_ones_is_found(
    count: int, limit: float, passed: bool
) -> None:
    """The stage itself lets it pass: of all 100,100 records less than 1 % are contaminated."""
    read = tally({"clean.jsonl": (100_000, 0), "mmlu.jsonl": (100, count)})
    check = little_contamination(read, limit)
    assert check.passed is passed and check.blocking
    assert passed or f"{count}% of mmlu.jsonl" in check.found


def test_few_contaminated_records_of_a_small_file_pass() -> None:
    assert little_contamination(tally({"small.jsonl": (10, 9)}), 0.01).passed
    assert not little_contamination(tally({"small.jsonl": (10, 10)}), 0.01).passed


def test_contaminated_records_are_counted_by_file() -> None:
    read = Tally(list_skipped=lambda row: None)
    texts = {"a": ["A page on fish."], "b": [f"Quiz: {QUESTION}", QUESTION]}
    documents = [
        Document(identity, text.encode(), file, line)
        for file in texts
        for line, text in enumerate(texts[file])
        for identity in [line]
    ]
    kept = without_contaminated(documents, build_index([QUESTION], 30), read)
    assert [document.file for document in kept] == ["a"]
    assert read.contaminated == Counter(b=2)


def shares(realised: float, long: float, requested: float = 0.5) -> pd.DataFrame:
    """Two domains that should have half of the tokens each, 70 % of them in long documents."""
    rows = [("book", 0.5, requested, realised, 0.7, long), ("c4", 0.5, 0.5, 0.5, 0.7, 0.7)]
    columns = ["domain", "weight", "requested", "realised", "long_share_requested", "long_share"]
    return pd.DataFrame([*rows, ("all", 1, 1, 1, 0.7, 0.7)], columns=columns)


@pytest.mark.parametrize(
    ("realised", "long", "failed"),
    [
        (0.501, 0.7, set()),
        (0.52, 0.7, {"domain_shares"}),
        (0.5, 0.6, {"long_share"}),
        (0.4, 0.1, {"domain_shares", "long_share"}),
    ],
)
def test_a_recipe_is_held_to_its_shares(realised: float, long: float, failed: set[str]) -> None:
    table = shares(realised, long)
    checks = [domain_shares(table), long_share(table, Recipe(cut=8, long_share=0.7))]
    assert {check.name for check in checks if not check.passed} == failed
    assert [check.blocking for check in checks] == [True, False]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_share_that_is_no_number_fails(number: float) -> None:
    """A comparison with NaN is false, and the largest of some numbers leaves NaN out."""
    assert not domain_shares(shares(number, 0.7)).passed
    assert not domain_shares(shares(0.5, 0.7, requested=number)).passed
    if not number > 0:
        assert not long_share(shares(0.5, number), Recipe(cut=8)).passed


@pytest.mark.parametrize(
    ("recipe", "domains", "passed"),
    [
        ({"long_share": 0.7}, {"book": 0.7, "c4": 0.4, "all": 0.5}, False),
        ({"long_share": 0.4}, {"book": 0.7, "c4": 0.4, "all": 0.5}, True),
        ({"long_share": 0.7, "across_domains": True}, {"book": 0.9, "c4": 0.4, "all": 0.7}, True),
        ({"long_share": 0.7, "across_domains": True}, {"book": 0.7, "c4": 0.4, "all": 0.5}, False),
        ({"long_share": 0.7}, {"book": 0.7, "unused": 0.0, "all": 0.7}, True),
    ],
)
def test_a_lowered_long_share_does_not_count_as_reached(
    recipe: dict[str, object], domains: dict[str, float], passed: bool
) -> None:
    """as_far_as_possible: the recipe was solved to what there is, so requested is what was got."""
    rows = [(name, float(name != "unused"), share, share) for name, share in domains.items()]
    columns = ["domain", "weight", "long_share_requested", "long_share"]
    table = pd.DataFrame(rows, columns=columns)
    wanted = Recipe(cut=8, as_far_as_possible=True, **recipe)  # type: ignore[arg-type]
    check = long_share(table, wanted)
    assert check.passed is passed
    assert passed or "of 70.0%" in check.found


def test_a_chosen_document_that_is_held_out_is_found() -> None:
    domain = pa.array(["book", "web", "book"]).dictionary_encode()
    index = pa.table({"domain": domain, "document": pa.array([0, 1, 2], pa.int32())})
    none = np.zeros(3, np.bool_)
    assert no_heldout(heldout_spans(index, {"book": none, "web": none})).passed
    last = np.array([False, False, True])
    check = no_heldout(heldout_spans(index, {"book": last, "web": last}))
    assert not check.passed and check.blocking and check.found == "1 of book"


def shard(folder: Path, number: int, rows: int, length: int) -> None:
    """Rows of that many tokens, each from one document."""
    ids = pa.array([list(range(length))] * rows, pa.list_(pa.uint16(), length))
    span = pa.struct([("source", pa.string()), ("start", pa.int32()), ("end", pa.int32())])
    source = pa.array([[{"source": "book", "start": 0, "end": length}]] * rows, pa.list_(span))
    batch = pa.record_batch([ids, source], names=["input_ids", "source"])
    with (
        pa.OSFile(str(folder / f"train-{number:05d}.arrow"), "wb") as file,
        pa.ipc.new_stream(file, batch.schema) as writer,
    ):
        writer.write_batch(batch)


def test_rows_are_counted_and_measured_in_every_shard(tmp_path: Path) -> None:
    shard(tmp_path, 0, 2, 4)
    shard(tmp_path, 1, 1, 4)
    assert rows_of_one_length(written(tmp_path), 3, 4).passed
    assert rows_of_one_length(written(tmp_path), 3, 8).expected == "3 rows of 8 tokens"
    assert not rows_of_one_length(written(tmp_path), 3, 8).passed
    shard(tmp_path, 1, 1, 5)
    check = rows_of_one_length(written(tmp_path), 3, 4)
    assert not check.passed and check.found == "3 rows of 4, 5"
    (tmp_path / "train-00001.arrow").unlink()
    check = rows_of_one_length(written(tmp_path), 3, 4)
    assert not check.passed and check.blocking and check.found == "2 rows of 4"


def test_no_token_is_lost_between_choice_and_rows(tmp_path: Path) -> None:
    shard(tmp_path, 0, 3, 4)
    assert tokens_conserved(written(tmp_path), chosen=13, dropped=1).passed
    check = tokens_conserved(written(tmp_path), chosen=14, dropped=1)
    assert not check.passed and check.blocking
    assert check.expected.startswith("14 tokens") and check.found.startswith("13 (12 packed, 1 dr")
