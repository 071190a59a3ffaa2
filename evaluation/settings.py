"""`make check`: every section of params.yaml against the stage that reads it, before anything runs.

A stage reads its own section when its turn comes, which for a report is after days of training.
This reads all of them at once with the same models, and what no single stage can see: files and
folders that are not there, and items, models and snapshots that one section asks another for.
Sections of models that are not declared (`checkpoint.models: {}`) are left alone. It runs before
every run and at every change, so it imports neither PyTorch nor what draws. The cost: a stage that
needs one of them has its settings in a module of their own, STAGE_config.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from assets.data_report_config import DataReportConfig
from assets.length_histograms_config import LengthHistogramsConfig
from assets.packed_shards import PackedShardsConfig
from assets.raw_corpus import RawCorpusConfig
from assets.recipes import MixedDatasetConfig
from assets.source_files import check_hashable
from assets.token_demand import TokenDemandConfig, check_names
from assets.tokenized_corpus import TokenizedCorpusConfig
from assets.tokenizer import Special, TokenizerConfig, load_tokenizer, special_ids
from core.command import GRAPH
from core.errors import UserError
from core.params import ITEMS, PARAMS, Config, names_of, read_all_params, read_params
from core.sealed import DATA
from evaluation.book_qa_report_config import BookQaReportConfig
from evaluation.comparison_config import ComparisonConfig
from evaluation.loss_report_config import LossReportConfig
from evaluation.names import unquoted_names
from evaluation.needle_report_config import NeedleReportConfig
from evaluation.short_context_report_config import ShortContextReportConfig
from training.base_checkpoint_config import BaseCheckpointConfig
from training.checkpoint_config import CheckpointConfig, ModelConfig
from training.vocabulary import check_vocabulary

ALWAYS: dict[str, type[Config]] = {
    "token_demand": TokenDemandConfig,
    "raw_corpus": RawCorpusConfig,
    "tokenizer": TokenizerConfig,
    "tokenized_corpus": TokenizedCorpusConfig,
    "length_histograms": LengthHistogramsConfig,
    "mixed_dataset": MixedDatasetConfig,
    "packed_shards": PackedShardsConfig,
    "data_report": DataReportConfig,
    "base_checkpoint": BaseCheckpointConfig,
    "checkpoint": CheckpointConfig,
}
OF_MODELS: dict[str, type[Config]] = {
    "needle_report": NeedleReportConfig,
    "loss_report": LossReportConfig,
    "book_qa_report": BookQaReportConfig,
    "short_context_report": ShortContextReportConfig,
    "comparison": ComparisonConfig,
}


def problems() -> list[str]:
    """What is wrong with params.yaml and with what it names, a line each. Raises UserError where it
    can't be read.
    """
    with suppress(OSError, UnicodeDecodeError):  # which read_all_params explains
        if unquoted := unquoted_names(PARAMS.read_text()):
            return unquoted
    sections = read_all_params(PARAMS)
    stages = yaml.safe_load(GRAPH.read_text())["stages"]
    found = [
        f"{PARAMS}: {name}: no stage of {GRAPH} reads it. Known: {', '.join(stages)}."
        for name in sections
        if name not in stages
    ]
    right: dict[str, Any] = {}  # what needs a section that is wrong is not looked at
    for name, model in (
        ALWAYS | (OF_MODELS if (sections.get("checkpoint") or {}).get("models") else {})
    ).items():
        with noted(found):
            right[name] = read_params(name, model)
    for key, path in _paths(right):
        with noted(found):
            check_path(key, path, stages)
    if "mixed_dataset" in right and "raw_corpus" in right:
        with noted(found):
            check_names(right["mixed_dataset"], list(right["raw_corpus"].domains))
    if "tokenizer" in right and "tokenized_corpus" in right:
        with noted(found):
            check_tokenizer(right["tokenizer"].source, right["tokenized_corpus"])
    if "tokenizer" in right and "base_checkpoint" in right:
        with noted(found):
            check_base(right["base_checkpoint"].source, right["tokenizer"].source)
    if "checkpoint" in right:
        models = right["checkpoint"].models
        for name in models:
            with noted(found):
                check_model(name, models)
        for section, key in (("comparison", "baseline"), ("short_context_report", "against")):
            if section in right:
                with noted(found):
                    check_named(f"{section}.{key}", getattr(right[section], key), models)
    return list(dict.fromkeys(found))


@contextmanager
def noted(found: list[str]) -> Iterator[None]:
    """A mistake of the user's is added to `found`, a line each, and what comes next is looked at
    too.
    """
    try:
        yield
    except UserError as error:
        found += str(error).splitlines()


def _paths(value: Any, *keys: str) -> Iterator[tuple[str, Path]]:
    """Every path in nested sections, with its dotted key."""
    if isinstance(value, Path):
        yield ".".join(keys), value
    elif isinstance(value, Config):
        yield from _paths(dict(value), *keys)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _paths(part, *keys, key)


def check_path(key: str, path: Path, stages: dict[str, Any]) -> None:
    """Raises UserError unless `path` is there, or is what a stage of the graph makes of an item
    that is declared.
    """
    if path.parts[:1] != (DATA.name,):
        if not path.exists():
            raise UserError(
                f"{PARAMS}: {key} = {path}: no such file or folder. Name one that is there."
            )
        check_hashable(path, f"{PARAMS}: {key}")
        return
    stage, item = [*path.parts[1:], "", ""][:2]
    if stage not in stages:
        raise UserError(
            f"{PARAMS}: {key} = {path}: no stage of {GRAPH} makes it. There are: "
            f"{', '.join(stages)}."
        )
    items = next(
        (
            names_of(what)
            for what, where in ITEMS.items()
            if stages[stage].get("foreach") == f"${{{where}}}"
        ),
        None,
    )
    if item and items is not None and item not in items:
        raise UserError(
            f"{PARAMS}: {key} = {path}: {stage} makes no {item!r}, only "
            f"{', '.join(items) or 'nothing'}. "
            "Name one of those."
        )


def check_tokenizer(source: Path, special: Special) -> None:
    """Raises UserError where a tokenizer that is there lacks a special token that documents will
    carry.
    """
    if (source / "tokenizer.json").is_file():
        special_ids(source, load_tokenizer(source), special)


def check_base(base: Path, tokenizer: Path) -> None:
    """Raises UserError where a base model and a tokenizer that are both there do not go together."""
    if not ((base / "config.json").is_file() and (tokenizer / "tokenizer.json").is_file()):
        return  # one of them is still to be made, or check_path has said so
    try:
        check_vocabulary(base, tokenizer)
    except UserError as error:
        raise UserError(f"{PARAMS}: base_checkpoint.source = {base}: {error}") from None


def check_model(name: str, models: Mapping[str, ModelConfig]) -> None:
    """Raises UserError where a model asks for snapshots that are not taken."""
    at, of = models[name].at, models[name].source.name
    if at is not None and of in models and at not in models[of].snapshots:
        raise UserError(
            f"{PARAMS}: checkpoint.models.{name}.at = {at}: {of} has the snapshots "
            f"{', '.join(map(str, models[of].snapshots)) or 'none'}. Name one of them, or add it "
            "there."
        )


def check_named(key: str, model: str | None, models: Mapping[str, ModelConfig]) -> None:
    """Raises UserError unless the model is declared."""
    if model is not None and model not in models:
        raise UserError(
            f"{PARAMS}: {key} = {model!r}: checkpoint.models has only {', '.join(models)}. Name "
            "one of "
            "those."
        )


def main() -> None:
    """Print what is wrong; the exit code is 1 if anything is. With --json: a list of texts, and the
    exit code is 0.
    """
    try:
        found = problems()
    except UserError as error:
        found = [str(error)]
    if sys.argv[1:] == ["--json"]:
        print(json.dumps(found))
        return
    if found:
        sys.exit(
            "\n".join(
                [
                    *found,
                    f"{PARAMS}: {len(found)} to mend before anything runs; make check looks again.",
                ]
            )
        )


if __name__ == "__main__":
    main()
