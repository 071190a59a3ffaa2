"""The data half from files to rows, through all of its stages.

Every token of a row comes from a training document, rows open with stock `datasets`, and the same
world gives the same bytes every time.
"""

import gzip
import json
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard
from data_world import make_corpus, make_data_half

from assets import ingestion, mixed_dataset, raw_corpus, token_demand, tokenizer
from assets.document_store import read_documents
from assets.token_store import open_tokens
from core.errors import UserError

DOMAINS = ("book", "c4", "arxiv", "mine")
CHUNK = 64


def texts(domain: str) -> list[str]:
    """60 documents of 5 to 64 words. Each has a word that no other has."""
    draw = np.random.default_rng(len(domain))
    return [
        " ".join([f"[{domain}{number}]", *(f"word{draw.integers(500)}" for _ in range(5 + number))])
        for number in range(60)
    ]


def write_sources(folder: Path) -> dict[str, dict[str, object]]:
    """The four domains in four formats, two of them in one folder with a field for the domain.

    Returns the domains for params.yaml.
    """
    lines = {
        domain: "".join(
            json.dumps({"text": text, "meta": {"set": f"the {domain} set"}}) + "\n"
            for text in texts(domain)
        ).encode()
        for domain in DOMAINS
    }
    mixed = folder / "mixed"
    mixed.mkdir(parents=True)
    (mixed / "1.jsonl").write_bytes(lines["book"])
    (mixed / "2.jsonl.gz").write_bytes(gzip.compress(lines["c4"]))
    (folder / "arxiv.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(lines["arxiv"]))
    pq.write_table(
        pa.table({"text": texts("mine"), "meta": [{"set": "the mine set"}] * 60}),
        folder / "mine.parquet",
    )
    return {
        "book": {"source": str(mixed), "only": "the book set"},
        "c4": {"source": str(mixed), "only": "the c4 set"},
        "arxiv": {"source": str(folder / "arxiv.jsonl.zst"), "only": "the arxiv set"},
        "mine": {"source": str(folder / "mine.parquet"), "only": "the mine set"},
    }


def params(domains: dict[str, dict[str, object]]) -> dict[str, object]:
    """Four recipes over the four domains."""
    return {
        "token_demand": {"margin": None},
        "raw_corpus": {
            "heldout_fraction": 0.3,
            "domain_field": "meta.set",
            "domains": domains,
            "limits": {"contaminated": 0.02},
            "decontamination": {"against": "evaluation.jsonl", "run": 30},
        },
        "tokenizer": {"source": "data/raw_corpus", "vocab_size": 400},
        "tokenized_corpus": {"bos": True, "eos": True},
        "length_histograms": {"thresholds": [32]},
        "mixed_dataset": {
            "weights": {"book": 0.4, "c4": 0.3, "arxiv": 0.2, "mine": 0.1},
            "token_budget": 5000,
            "long_over": 100,
            "recipes": {
                "original": {"cut": 1000},
                "per_source": {"cut": 1000, "long_share": 0.9},
                "kept": {"cut": 40, "long_over": 30, "keep_ratio": 0.2, "weights": "natural"},
                "mine_up": {"cut": 1000, "raised": {"mine": 0.6}, "token_budget": 3000, "seed": 3},
            },
        },
        "packed_shards": {"chunk_length": CHUNK, "packing": "concatenate"},
        "data_report": {"title": "A small world"},
    }


def make(world: Path) -> dict[str, str]:
    """Run every stage of the data half. Returns the records, with the hash of every file."""
    make_data_half()
    return {
        str(path.relative_to(world)): path.read_text()
        for path in sorted((world / "data").rglob("record.json"))
    }


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evaluation.jsonl").write_text(json.dumps({"text": texts("c4")[8][:60]}) + "\n")
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump(params(write_sources(tmp_path / "sources")))
    )
    return tmp_path


def rows_of(recipe: str, tmp_path: Path) -> datasets.Dataset:
    """The rows, opened with stock `datasets`."""
    return datasets.load_dataset(
        "arrow",
        data_files=f"data/packed_shards/{recipe}/train-*.arrow",
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )


@pytest.mark.parametrize("packing", ["concatenate", "best_fit"])
def test_rows_hold_training_documents_of_the_named_sources(world: Path, packing: str) -> None:
    settings = yaml.safe_load((world / "params.yaml").read_text())
    settings["packed_shards"]["packing"] = packing
    (world / "params.yaml").write_text(yaml.safe_dump(settings))
    make(world)
    names = tokenizer.load_tokenizer(Path("data/tokenizer"))
    stores = {domain: open_tokens(Path("data/tokenized_corpus") / domain) for domain in DOMAINS}
    documents = {
        domain: [
            row
            for batch in read_documents(Path("data/raw_corpus") / domain)
            for row in batch.to_pylist()
        ]
        for domain in DOMAINS
    }
    marks = {
        held: {
            row["text"].split()[0]
            for domain in DOMAINS
            for row in documents[domain]
            if row["heldout"] == held
        }
        for held in (True, False)
    }
    assert len(marks[True]) > 20
    for recipe in ("original", "per_source", "kept", "mine_up"):
        rows = rows_of(recipe, world)
        assert len(rows) > 30 and rows.column_names == ["input_ids", "source"]
        joined = {
            domain: [
                "," + ",".join(map(str, store.document(number).tolist())) + ","
                for number in np.flatnonzero(~store.heldout)
            ]
            for domain, store in stores.items()
        }
        seen = set()
        for row in rows:
            assert len(row["input_ids"]) == CHUNK
            assert [span["start"] for span in row["source"]] == [
                0,
                *(span["end"] for span in row["source"][:-1]),
            ]
            assert row["source"][-1]["end"] == CHUNK
            for span in row["source"]:
                ids = "," + ",".join(map(str, row["input_ids"][span["start"] : span["end"]])) + ","
                assert any(ids in document for document in joined[span["source"]])
            text = names.decode(row["input_ids"])
            seen |= {word for word in text.split() if word.startswith("[") and word.endswith("]")}
        assert seen & marks[False] and not seen & marks[True]
    contaminated = json.loads((world / "metrics/raw_corpus/c4.json").read_text())
    assert (
        contaminated["contaminated"] == 1
        and contaminated["other_domain"] == 60
        and contaminated["records"] == 60
    )
    assert (world / "data/raw_corpus/c4/skipped.csv").read_text() == (
        f"reason,file,line\ncontaminated,{world}/sources/mixed/2.jsonl.gz,9\n"
    )


def test_documents_and_their_tokens_open_with_stock_datasets(world: Path) -> None:
    make(world)
    names, store = (
        tokenizer.load_tokenizer(Path("data/tokenizer")),
        open_tokens(Path("data/tokenized_corpus/c4")),
    )
    opened = {
        stage: datasets.load_dataset(
            "arrow",
            data_files=f"data/{stage}/c4/documents.arrow",
            split="train",
            cache_dir=str(world / "cache"),
        )
        for stage in ("raw_corpus", "tokenized_corpus")
    }
    assert len(opened["raw_corpus"]) == len(opened["tokenized_corpus"]) == len(store.ids) > 40
    for number, (raw, tokens) in enumerate(
        zip(opened["raw_corpus"], opened["tokenized_corpus"], strict=True)
    ):
        assert (
            raw["id"] == tokens["id"] == store.ids[number] and raw["heldout"] == tokens["heldout"]
        )
        assert tokens["input_ids"] == store.document(number).tolist()
        assert names.decode(tokens["input_ids"]).strip() == raw["text"]


def test_recipes_reach_the_shares_they_ask_for(world: Path) -> None:
    make(world)
    for recipe in ("original", "per_source", "mine_up"):
        table = (
            pd.read_csv(f"data/mixed_dataset/{recipe}/shares.csv").set_index("domain").drop("all")
        )
        assert (table["realised"] - table["requested"]).abs().max() < 0.02
        assert (table["requested"] - table["weight"]).abs().max() < 1e-6
    table = pd.read_csv("data/mixed_dataset/per_source/shares.csv").set_index("domain")
    assert (table["long_share"].drop("all") - 0.9).abs().max() < 0.05
    raised = pd.read_csv("data/mixed_dataset/mine_up/shares.csv").set_index("domain")
    assert raised.loc["mine", "weight"] == pytest.approx(0.6 / 1.5, abs=1e-6)
    page = (world / "data/data_report/report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "per_source" in page


def test_a_rerun_after_a_kill_gives_the_same_bytes(world: Path) -> None:
    first = make(world)
    for left in ("data/raw_corpus/.book.partial", "data/packed_shards/.original.partial"):
        (world / left).mkdir()
        (world / left / "documents.arrow").write_text("half a file")
    assert make(world) == first


def test_reading_stops_with_enough_for_the_largest_recipe(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion, "BLOCK", 1000)
    settings = yaml.safe_load((world / "params.yaml").read_text())
    settings["token_demand"]["margin"] = 1.5
    del settings["mixed_dataset"]["recipes"]["kept"]  # natural weights: all is read
    settings["mixed_dataset"]["token_budget"] = 1000
    del settings["mixed_dataset"]["recipes"]["mine_up"]["token_budget"]
    (world / "params.yaml").write_text(yaml.safe_dump(settings))
    token_demand.run()
    demand = json.loads((world / "data/token_demand/c4.json").read_text())
    assert demand["tokens"] == pytest.approx(450) and demand["long_tokens"] == pytest.approx(405)
    raw_corpus.run("arxiv")
    read = pd.read_csv("data/raw_corpus/arxiv/parts.csv")
    assert (
        read["file"].tolist() == [f"{world}/sources/arxiv.jsonl.zst"]
        and 10 < read["records"][0] < 60
    )


def test_a_recipe_out_of_reach_is_named_and_leaves_nothing(world: Path) -> None:
    settings = yaml.safe_load((world / "params.yaml").read_text())
    settings["mixed_dataset"]["token_budget"] = 10**6
    (world / "params.yaml").write_text(yaml.safe_dump(settings))
    make_corpus()
    with pytest.raises(UserError, match=r"recipe 'per_source': \w+: .*reaches token_budget"):
        mixed_dataset.run("per_source")
    assert not (world / "data/mixed_dataset/per_source").exists()
