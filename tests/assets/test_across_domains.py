"""A text of two domains trains once, in the first of them: from mixed_dataset to data_report.

Domains and recipes may have names that look like numbers, in every table.
"""

import doctest
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from data_world import make_corpus
from dvc_world import dvc, empty_repository

from assets import data_report, mixed_dataset, packed_shards
from assets.tables import read_table
from assets.token_store import open_tokens
from core.errors import UserError
from evaluation.comparison import read_all

ROOT = Path(__file__).parents[2]
SHARED = [f"shared text {number} " + "both know it " * 9 for number in range(10)]
DOMAINS = ("2024", "1e5", "NA")
Settings = dict[str, object]


def write_world(folder: Path, order: tuple[str, ...] = DOMAINS, **recipe: object) -> None:
    """Three domains of 20 texts of their own, and one recipe that uses all once.

    The shared texts are in 1e5 and NA.
    """
    folder.mkdir(exist_ok=True)
    for domain in DOMAINS:
        own = [f"[{domain}] text {number} " + "word for word " * 8 for number in range(20)]
        lines = own + (SHARED if domain != "2024" else [])
        (folder / f"{domain}.jsonl").write_text(
            "".join(json.dumps({"text": text}) + "\n" for text in lines)
        )
    (folder / "params.yaml").write_text(
        yaml.safe_dump(
            {
                "token_demand": {"margin": None},
                "raw_corpus": {
                    "heldout_fraction": 0.2,
                    "domains": {name: {"source": f"{name}.jsonl"} for name in order},
                },
                "tokenizer": {"source": "data/raw_corpus", "vocab_size": 300},
                "tokenized_corpus": {"bos": False, "eos": True},
                "length_histograms": {"thresholds": [16]},
                "mixed_dataset": {
                    "weights": "natural",
                    "token_budget": 1000,
                    "long_over": 16,
                    "recipes": {"007": {"cut": 1000, "max_repeats": 1, **recipe}},
                },
                "packed_shards": {"chunk_length": 32, "packing": "best_fit"},
                "data_report": {},
            },
            sort_keys=False,
        )
    )


def ask_for_all() -> int:
    """Set the budget to the largest that the recipe can reach, and return it."""
    settings = yaml.safe_load(Path("params.yaml").read_text())
    settings["mixed_dataset"]["token_budget"] = 10**6
    Path("params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    with pytest.raises(UserError, match="reaches token_budget") as refused:
        mixed_dataset.run("007")
    most = int(str(refused.value).split("reaches token_budget ")[1].split(". ")[0].replace(",", ""))
    settings["mixed_dataset"]["token_budget"] = most
    Path("params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return most


def trained() -> list[tuple[str, int]]:
    """Domain and id of every document in the recipe's index."""
    index = pq.read_table("data/mixed_dataset/007/index.parquet").to_pylist()
    stores = {domain: open_tokens(Path("data/tokenized_corpus") / domain) for domain in DOMAINS}
    return [(row["domain"], int(stores[row["domain"]].ids[row["document"]])) for row in index]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_world(tmp_path)
    make_corpus()
    return tmp_path


def shared_ids() -> set[int]:
    """Ids of the shared texts that are not held out."""
    ids = [
        set(store.ids[~store.heldout].tolist())
        for domain in ("1e5", "NA")
        for store in [open_tokens(Path("data/tokenized_corpus") / domain)]
    ]
    return ids[0] & ids[1]


def test_the_worked_example_holds() -> None:
    result = doctest.testmod(mixed_dataset)
    assert result.attempted > 5 and result.failed == 0


@pytest.mark.parametrize(
    ("order", "keeper", "other"), [(DOMAINS, "1e5", "NA"), (DOMAINS[::-1], "NA", "1e5")]
)
def test_the_first_domain_keeps_a_text_and_the_other_counts_it(
    world: Path, order: tuple[str, ...], keeper: str, other: str
) -> None:
    write_world(world, order)
    ask_for_all()
    mixed_dataset.run("007")
    documents, both = trained(), shared_ids()
    assert len(both) > 4 and len(documents) > 40
    assert len({identity for _, identity in documents}) == len(documents), "no text trains twice"
    assert {domain for domain, identity in documents if identity in both} == {keeper}
    table = read_table(Path("data/mixed_dataset/007/duplicates.csv"))
    store = open_tokens(Path("data/tokenized_corpus") / other)
    tokens = int(store.lengths[np.isin(store.ids, list(both))].sum())
    assert table.to_dict("records") == [
        {"domain": other, "kept_by": keeper, "documents": len(both), "tokens": tokens}
    ]
    assert json.loads(Path("metrics/mixed_dataset/007.json").read_text())[
        "duplicates_across_domains"
    ] == len(both)


def test_kept_duplicates_go_to_different_rows_by_best_fit(world: Path) -> None:
    write_world(world, duplicates_across_domains="keep")
    ask_for_all()
    mixed_dataset.run("007")
    documents, both = [identity for _, identity in trained()], shared_ids()
    assert all(documents.count(identity) == 2 for identity in both)
    assert not len(read_table(Path("data/mixed_dataset/007/duplicates.csv")))
    packed_shards.run("007")
    metrics = json.loads(Path("metrics/packed_shards/007.json").read_text())
    assert metrics["rows"] > 40 and metrics["copies_together"] == 0


def test_a_domain_of_weight_0_takes_no_text_from_another(world: Path) -> None:
    write_world(world, weights={"2024": 0.5, "1e5": 0, "NA": 0.5}, token_budget=400)
    mixed_dataset.run("007")
    assert not len(read_table(Path("data/mixed_dataset/007/duplicates.csv")))
    assert {domain for domain, _ in trained()} == {"2024", "NA"}


def test_a_refusal_names_what_was_given_up(world: Path) -> None:
    settings = yaml.safe_load(Path("params.yaml").read_text())
    settings["mixed_dataset"]["token_budget"] = 10**6
    Path("params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    with pytest.raises(
        UserError, match=r"documents \([\d,]+ tokens\) count in an earlier domain only"
    ):
        mixed_dataset.run("007")


def test_the_report_has_domains_and_recipes_named_as_numbers(world: Path) -> None:
    ask_for_all()
    mixed_dataset.run("007")
    packed_shards.run("007")
    data_report.run()
    folder = Path("data/data_report")
    lengths = read_table(folder / "lengths.csv")
    assert set(lengths["domain"]) == set(DOMAINS) and set(lengths["recipe"]) == {"007"}
    corpus = read_table(folder / "corpus_lengths.csv")
    figure = data_report.stacked(
        {"corpus": corpus.groupby("domain")["tokens"].sum()}, DOMAINS, "domain", ordered=False
    )
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert len(heights) == 3 and min(heights) > 0.1 and sum(heights) == pytest.approx(1)
    given_up = read_table(folder / "duplicates_across_domains.csv")
    assert given_up[["recipe", "domain", "kept_by"]].to_numpy().tolist() == [["007", "NA", "1e5"]]
    page = (folder / "report.html").read_text()
    assert "Texts that stand in several domains" in page and "nan" not in page.split("<table")[-1]


def test_names_are_text_in_every_table_and_numbers_stay_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["2024", "1e5", "NA", "null", "007", "inf", "True"]
    table = pd.DataFrame(
        {"domain": names, "model": names, "loss": [1.5, None, 2, 3, 4, 5, 6], "count": range(7)}
    )
    table.to_csv(tmp_path / "loss.csv", index=False)
    read = read_table(tmp_path / "loss.csv")
    assert read["domain"].tolist() == read["model"].tolist() == names
    assert (
        read["loss"].dtype == np.float64
        and read["loss"].isna().sum() == 1
        and read["count"].dtype == np.int64
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/loss_report/2024").mkdir(parents=True)
    table.to_csv("data/loss_report/2024/loss.csv", index=False)
    several = read_all("loss_report", "loss.csv", ["2024"], "model")
    assert several["domain"].tolist() == names and set(several["model"]) == {"2024"}


def test_dvc_sees_a_change_of_the_order_of_domains(tmp_path: Path) -> None:
    """DVC ignores the order of a map, so the recipes depend on order.txt."""
    for name in ("core", "assets"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    settings = yaml.safe_load((ROOT / "profiles/sample.yaml").read_text())
    shutil.copytree(empty_repository(scm=False), tmp_path, dirs_exist_ok=True)
    orders = []
    for domains in (
        settings["raw_corpus"]["domains"],
        dict(reversed(settings["raw_corpus"]["domains"].items())),
    ):
        settings["raw_corpus"]["domains"] = domains
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        dvc(tmp_path, "repro", "token_demand")
        orders.append((tmp_path / "data/token_demand/order.txt").read_text().split())
        assert orders[-1] == list(domains)
    assert orders[0] == orders[1][::-1]
    recipes = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["mixed_dataset"]["do"]
    assert "data/token_demand/order.txt" in recipes["deps"]
