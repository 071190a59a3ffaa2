"""`make check`: validate all of params.yaml before anything runs.

A stage reads its own section when it starts, which for a report is after days of training. Here all
sections are read at once, with the same classes. Two things are checked that no single stage can
see: missing files and folders, and items, models and snapshots that one section requires of
another. Without models (`checkpoint.models: {}`) the sections of the reports are not checked.

It runs before every run and at every change, so it imports neither PyTorch nor matplotlib. The
cost: a stage that imports one of them has its parameters in a module of their own, STAGE_config.
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
from assets.raw_corpus_config import RawCorpusConfig
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
    """What is wrong with params.yaml and with what it names, one line per problem.

    Raises UserError if params.yaml can't be read.
    """
    with suppress(OSError, UnicodeDecodeError):  # read_all_params explains these
        if unquoted := unquoted_names(PARAMS.read_text()):
            return unquoted

    sections = read_all_params(PARAMS)
    stages = yaml.safe_load(GRAPH.read_text())["stages"]
    found = []
    for name in sections:
        if name not in stages:
            known = ", ".join(stages)
            found.append(f"{PARAMS}: {name}: no stage of {GRAPH} reads it. Known: {known}.")

    valid = _valid_sections(sections, found)
    for key, path in _paths(valid):
        with noted(found):
            check_path(key, path, stages)
    _check_across(valid, found)
    # Two sections may have the same problem with a third one.
    return list(dict.fromkeys(found))


def _valid_sections(sections: dict[str, Any], found: list[str]) -> dict[str, Any]:
    """Name -> config, of every section that is valid; problems are added to `found`."""
    kinds = dict(ALWAYS)
    if (sections.get("checkpoint") or {}).get("models"):
        kinds |= OF_MODELS
    valid: dict[str, Any] = {}
    for name, kind in kinds.items():
        with noted(found):
            valid[name] = read_params(name, kind)
    return valid


def _check_across(valid: dict[str, Any], found: list[str]) -> None:
    """Check what one section requires of another; problems are added to `found`.

    valid: name -> config. A check that needs an invalid section is left out.
    """
    if "mixed_dataset" in valid and "raw_corpus" in valid:
        with noted(found):
            check_names(valid["mixed_dataset"], list(valid["raw_corpus"].domains))
    if "tokenizer" in valid and "tokenized_corpus" in valid:
        with noted(found):
            check_tokenizer(valid["tokenizer"].source, valid["tokenized_corpus"])
    if "tokenizer" in valid and "base_checkpoint" in valid:
        with noted(found):
            check_base(valid["base_checkpoint"].source, valid["tokenizer"].source)
    if "checkpoint" not in valid:
        return

    models = valid["checkpoint"].models
    for name in models:
        with noted(found):
            check_model(name, models)
    named = (
        ("comparison", "baseline"),
        ("comparison", "untrained"),
        ("comparison", "result"),
        ("short_context_report", "against"),
    )
    for section, key in named:
        # There need be no model with the default name of `untrained`. Then no drop is shown.
        config = valid.get(section)
        by_default = key == "untrained" and key not in getattr(config, "model_fields_set", ())
        if config is not None and not by_default:
            with noted(found):
                check_named(f"{section}.{key}", getattr(config, key), models)


@contextmanager
def noted(found: list[str]) -> Iterator[None]:
    """Add the lines of a UserError to `found`, and continue with the next check."""
    try:
        yield
    except UserError as error:
        found += str(error).splitlines()


def _paths(value: Any, *keys: str) -> Iterator[tuple[str, Path]]:
    """Every path in nested sections, with its dotted key."""
    if isinstance(value, Path):
        yield ".".join(keys), value
    elif isinstance(value, Config):
        # Not dict(value): that would call a field named `keys`.
        yield from _paths({name: getattr(value, name) for name in type(value).model_fields}, *keys)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _paths(part, *keys, key)


def check_path(key: str, path: Path, stages: dict[str, Any]) -> None:
    """Raise UserError unless `path` exists, or a stage of the graph makes it of a declared item.

    key: the parameter that names it. stages: the stages of dvc.yaml.
    """
    if path.parts[:1] != (DATA.name,):
        if not path.exists():
            raise UserError(
                f"{PARAMS}: {key} = {path}: no such file or folder. Name one that is there."
            )
        check_hashable(path, f"{PARAMS}: {key}")
        return

    # data/STAGE or data/STAGE/ITEM. It need not exist yet.
    stage, item = [*path.parts[1:], "", ""][:2]
    if stage not in stages:
        raise UserError(
            f"{PARAMS}: {key} = {path}: no stage of {GRAPH} makes it. There are: "
            f"{', '.join(stages)}."
        )

    items = None
    for what, where in ITEMS.items():
        if stages[stage].get("foreach") == f"${{{where}}}":
            items = names_of(what)
    if item and items is not None and item not in items:
        known = ", ".join(items) or "nothing"
        raise UserError(
            f"{PARAMS}: {key} = {path}: {stage} makes no {item!r}, only {known}. Name one of those."
        )


def check_tokenizer(source: Path, special: Special) -> None:
    """Raise UserError if an existing tokenizer lacks a special token that documents get.

    source: its folder. special: which tokens begin and end a document.
    """
    if (source / "tokenizer.json").is_file():
        special_ids(source, load_tokenizer(source), special)


def check_base(base: Path, tokenizer: Path) -> None:
    """Raise UserError if an existing base model does not fit an existing tokenizer.

    base, tokenizer: their folders; either may be missing or made later.
    """
    if not ((base / "config.json").is_file() and (tokenizer / "tokenizer.json").is_file()):
        return  # one of them is made later, or check_path reports it
    try:
        check_vocabulary(base, tokenizer)
    except UserError as error:
        raise UserError(f"{PARAMS}: base_checkpoint.source = {base}: {error}") from None


def check_model(name: str, models: Mapping[str, ModelConfig]) -> None:
    """Raise UserError if the model `name` is a snapshot that is not taken."""
    at, of = models[name].at, models[name].source.name
    if at is not None and of in models and at not in models[of].snapshots:
        raise UserError(
            f"{PARAMS}: checkpoint.models.{name}.at = {at}: {of} has the snapshots "
            f"{', '.join(map(str, models[of].snapshots)) or 'none'}. "
            "Name one of them, or add it there."
        )


def check_named(key: str, model: str | None, models: Mapping[str, ModelConfig]) -> None:
    """Raise UserError if the parameter `key` names a model that is not declared."""
    if model is not None and model not in models:
        raise UserError(
            f"{PARAMS}: {key} = {model!r}: checkpoint.models has only {', '.join(models)}. "
            "Name one of those."
        )


def main() -> None:
    """Print all problems; exit code 1 if there are any.

    With --json: print them as a list of texts; exit code 0.
    """
    try:
        found = problems()
    except UserError as error:
        found = [str(error)]
    if sys.argv[1:] == ["--json"]:
        print(json.dumps(found))
        return
    if found:
        last = f"{PARAMS}: {len(found)} to fix before anything runs; then run make check again."
        sys.exit("\n".join([*found, last]))


if __name__ == "__main__":
    main()
