"""The real dvc.yaml with the real stages on a world of a few thousand words: it runs whole, a
change stays local.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import starts
import yaml
from dvc_world import dvc, empty_repository

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
LENGTHS = [64, 128]
SHARED = ("data/comparison/", "data/data_report/")
OPTIMIZER = {"learning_rate": 1e-3, "batch_tokens": 512, "micro_batch_tokens": 512}


def params() -> dict[str, object]:
    """The sample profile, made tiny: two domains, two recipes, a base pretrained for four steps."""
    world = yaml.safe_load((ROOT / "profiles" / "sample.yaml").read_text())
    world["raw_corpus"] |= {
        "heldout_fraction": 0.3,
        "domains": {name: {"source": f"sources/{name}.yaml"} for name in ("book", "c4")},
        "decontamination": {"against": "sources/evaluation.jsonl", "run": 18},
    }
    world["tokenizer"] |= {"source": "data/raw_corpus", "vocab_size": 600}
    world["mixed_dataset"] |= {
        "weights": {"book": 0.4, "c4": 0.6},
        "token_budget": 4000,
        "long_over": 32,
        "recipes": {"original": {"cut": 128}, "per_source": {"cut": 128, "long_share": 0.6}},
    }
    world["packed_shards"] = {"chunk_length": 128}
    world["base_checkpoint"] = {
        "source": "data/tokenized_corpus",
        "architecture": {"hidden_size": 16, "heads": 2, "feed_forward": 32, "context": 64},
        "acts": [{"row_length": 64, "tokens": 2048, "repeated_share": 0.5, "optimizer": OPTIMIZER}],
    }
    world["checkpoint"] |= {
        "tokens": 1024,
        "context": 128,
        "optimizer": OPTIMIZER,
        "models": {
            "base": {"source": "data/base_checkpoint"},
            "per_source": {"source": "data/packed_shards/per_source", "rope": {"base": 50_000}},
        },
    }
    world["comparison"] |= {"baseline": "base"}
    world["needle_report"] |= {"grid": {"lengths": LENGTHS, "depths": [0, 50, 100]}, "trials": 2}
    world["loss_report"] = {"bands": [32, 128], "points": [64], "tokens_per_domain": 500}
    world["book_qa_report"] |= {"count": 2, "context": 128}
    world["short_context_report"]["tasks"]["choice"]["count"] = 4
    return dict(world)


def source(median: int, words: int) -> str:
    """Statistics of one tiny domain."""
    return yaml.safe_dump(
        {
            "set_name": "tiny",
            "words": words,
            "median_length": median,
            "spread": 0.6,
            "largest_cast": 8,
        }
    )


def repro(world: Path, *arguments: str) -> str:
    """What the graph's own `dvc repro` prints, by which items are made here."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "DVC_NO_ANALYTICS": "1",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    done = starts.run("orchestration.dvc_repro", *arguments, cwd=world, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def ran(text: str) -> set[str]:
    """The stages that DVC says it ran."""
    return {line.split("'")[1] for line in text.splitlines() if line.startswith("Running stage")}


def files(world: Path) -> dict[str, tuple[int, bytes]]:
    """Every artefact: path -> (time of last change, content)."""
    return {
        path.relative_to(world).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in (world / "data").rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("world")
    for name in ("core", "assets", "training", "evaluation"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "dvc.yaml", root / "dvc.yaml")
    (root / "sources").mkdir()
    (root / "data").mkdir()
    (root / "sources" / "evaluation.jsonl").write_text(
        '{"text": "nothing of this stands anywhere else"}\n'
    )
    (root / "sources" / "book.yaml").write_text(source(400, 6000))
    (root / "sources" / "c4.yaml").write_text(source(30, 6000))
    (root / "params.yaml").write_text(yaml.safe_dump(params()))
    shutil.copytree(empty_repository(scm=False), root, dirs_exist_ok=True)
    repro(root)
    yield root


def test_the_whole_graph_ends_in_the_documented_summary(world: Path) -> None:
    summary = json.loads((world / "data/comparison/summary.json").read_text())
    assert summary["base_context"] == 64
    assert list(summary["models"]) == ["base", "per_source"]
    for model in summary["models"].values():
        assert model["needle"]["lengths"] == LENGTHS
        assert len(model["needle"]["exact_match"]) == len(model["needle"]["gain"]) == len(LENGTHS)
        assert set(model["loss"]) == {"book", "c4"}
        assert set(model["loss"]["book"]) == {"0-32", "32-128", "at 64"}
        assert (
            model["book_qa"]["questions"] == 2
            and model["short_context"]["choice"]["questions"] == 4
        )
    assert summary["models"]["base"]["tokens_trained"] == 0
    assert summary["models"]["per_source"]["tokens_trained"] == 1024
    assert summary["models"]["per_source"]["rope_base"] == 50_000


def test_the_report_is_one_file_with_its_pictures_inside(world: Path) -> None:
    page = (world / "data/comparison/report.html").read_text()
    assert page.count("data:image/png;base64,") >= 5
    assert "http://" not in page and "https://" not in page and "<script" not in page


def test_each_record_leads_to_package_versions_on_the_page(world: Path) -> None:
    page = (world / "data/comparison/report.html").read_text()
    behind = ["raw_corpus/book", "tokenized_corpus/c4", "packed_shards/original", "base_checkpoint"]
    for path in (*behind, "checkpoint/per_source", "needle_report/base", "loss_report/per_source"):
        named = json.loads((world / "data" / path / "record.json").read_text())["made_with"]
        versions = json.loads((world / named).read_text())["made_with"]
        assert "numpy " in versions and versions in page, path


def test_nothing_changed_means_nothing_runs(world: Path) -> None:
    before = files(world)
    (world / "assets" / "__init__.py").write_text('"""A comment no stage lists."""\n')
    assert ran(repro(world)) == set() and ran(dvc(world, "repro")) == set()
    assert files(world) == before


def test_a_changed_recipe_remakes_its_branch_and_comes_back(
    world: Path,
) -> None:
    original = (world / "params.yaml").read_text()
    before = files(world)
    changed = params()
    changed["mixed_dataset"]["recipes"]["per_source"]["cut"] = 64  # type: ignore[index]
    (world / "params.yaml").write_text(yaml.safe_dump(changed))
    assert ran(repro(world)) == {
        f"{stage}@per_source"
        for stage in (
            "mixed_dataset",
            "packed_shards",
            "checkpoint",
            "needle_report",
            "loss_report",
            "book_qa_report",
            "short_context_report",
        )
    } | {"comparison", "data_report", "token_demand"}
    after = files(world)
    touched = {path for path in before if before[path] != after.get(path)}
    demands = {path for path in touched if path.startswith("data/token_demand/")}
    assert demands and all(before[path][1] == after[path][1] for path in demands), (
        "asked again, nothing more is needed"
    )
    assert touched > demands and all(
        "per_source" in path or path.startswith(SHARED) for path in touched - demands
    )
    (world / "params.yaml").write_text(original)
    assert ran(repro(world)) == set()
    assert {path: content for path, (_, content) in files(world).items()} == {
        path: content for path, (_, content) in before.items()
    }
