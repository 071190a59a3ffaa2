"""What the page shows of dvc.lock is what the graph holds now, whatever was made before."""

from pathlib import Path

import yaml

from evaluation.provenance import behind, versions


def test_items_taken_out_of_params_are_not_shown_though_the_lock_remembers_them(tmp_path: Path) -> None:
    lock = {address: {"outs": [{"path": f"data/{address.replace('@', '/')}", "md5": address}],
                      "deps": [{"path": dep} for dep in deps]} for address, deps in (
        ("tokenized_corpus@mine", []), ("tokenized_corpus@left", []), ("tokenizer", []),
        ("mixed_dataset@left", []), ("mixed_dataset@one", ["data/tokenized_corpus"]))}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": lock}))
    known = versions({"tokenized_corpus": ["mine"], "mixed_dataset": ["one"]}, tmp_path / "dvc.lock")
    assert set(known) == {"tokenized_corpus@mine", "tokenizer", "mixed_dataset@one"}
    assert [version.address for version in behind("mixed_dataset@one", known)] == [
        "mixed_dataset@one", "tokenized_corpus@mine"]
