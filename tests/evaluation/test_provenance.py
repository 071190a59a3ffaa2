"""The page shows the versions of the artefacts that are in the graph now."""

import json
from pathlib import Path

import yaml

from evaluation.provenance import behind, table, versions


def test_items_removed_from_params_are_not_shown(
    tmp_path: Path,
) -> None:
    lock = {
        address: {
            "outs": [{"path": f"data/{address.replace('@', '/')}", "md5": address}],
            "deps": [{"path": dep} for dep in deps],
        }
        for address, deps in (
            ("tokenized_corpus@mine", []),
            ("tokenized_corpus@left", []),
            ("tokenizer", []),
            ("mixed_dataset@left", []),
            ("mixed_dataset@one", ["data/tokenized_corpus"]),
        )
    }
    # A user's own stages, without an output in data/.
    lock |= {"notes": {"cmd": "true"}, "plots": {"outs": [{"path": "plots/a.png", "md5": "3"}]}}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": lock}))
    known = versions(
        {"tokenized_corpus": ["mine"], "mixed_dataset": ["one"]}, tmp_path / "dvc.lock"
    )
    assert set(known) == {"tokenized_corpus@mine", "tokenizer", "mixed_dataset@one"}
    assert [version.address for version in behind("mixed_dataset@one", known)] == [
        "mixed_dataset@one",
        "tokenized_corpus@mine",
    ]


def test_the_page_shows_the_versions_behind_each_artefact(
    tmp_path: Path,
) -> None:
    paths = {"tokenizer": "tokenizer", "tokenized_corpus@web": "tokenized_corpus/web"}
    lock = {
        address: {
            "outs": [
                {"path": f"data/{path}", "md5": "1"},
                {"path": f"metrics/{path}.json", "md5": "2"},
            ],
            "deps": [{"path": "data/tokenizer"}] if "@" in address else [],
        }
        for address, path in paths.items()
    }
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": lock}))
    (tmp_path / "metrics/tokenized_corpus").mkdir(parents=True)
    metrics = {"tokens": 1, "made_with": "numpy 2.1"}
    (tmp_path / "metrics/tokenized_corpus/web.json").write_text(json.dumps(metrics))
    known = versions({"tokenized_corpus": ["web"]}, tmp_path / "dvc.lock")
    shown = table({version.address: version for version in behind("tokenized_corpus@web", known)})
    assert dict(zip(shown["artefact"], shown["made with"], strict=True)) == {
        "tokenized_corpus@web": "numpy 2.1",
        "tokenizer": "",
    }
