"""The page of GPU figures is what the benchmark's own command prints from the results it kept."""

from pathlib import Path

import torch

from benchmarks.gpu import PARTS, tables
from benchmarks.gpu_parts import Card, needle
from training.parallel import alone

PAGE = Path(__file__).parents[1] / "docs/benchmarks/gpu.md"


def test_the_page_holds_the_tables_of_the_kept_results() -> None:
    (kept,) = PAGE.parent.glob("h200-*.jsonl")
    assert tables(kept.read_text().splitlines()).strip() in PAGE.read_text()


def test_every_part_has_a_table() -> None:
    page = PAGE.read_text()
    assert [part for part in PARTS if f"| {part} |" not in page] == []


def test_a_table_has_a_row_for_each_result_of_one_kind() -> None:
    lines = [
        '{"part": "a", "x": 1000, "seconds": 1}',
        '{"part": "a", "x": 2, "seconds": 2}',
        '{"part": "a", "y": true, "seconds": 1}',
    ]
    assert tables(lines) == "\n".join(
        [
            "| a | x |",
            "|---|---|",
            "|  | 1,000 |",
            "|  | 2 |",
            "",
            "| a | y |",
            "|---|---|",
            "|  | True |",
            "",
        ]
    )


def test_the_needle_answers_the_same_without_a_prefix_cache() -> None:
    card = Card(
        device=torch.device("cpu"),
        name="CPU",
        gib=4.0,
        toy=True,
        lengths=(64, 128),
        long=128,
        layers=2,
        world=alone(),
    )
    results = list(needle(card))
    assert [result["length"] for result in results] == [64, 128]
    assert all(result["same choice"] for result in results)
