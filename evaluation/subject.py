"""Who is examined: a model of the comparison, any folder or Hub model, or one behind an OpenAI-compatible endpoint.

Every report runs in two ways: `python -m evaluation.needle_report NAME` makes the artefact of the graph, and
`python -m evaluation.needle_report --model MODEL --out FOLDER` looks at any model with the same section of
params.yaml. On a GPU weights are bf16 and are laid over all GPUs there are; on a CPU everything is fp32, so that two
ways to the same answer agree. An endpoint says words and no probabilities: what needs those is left empty for it.
"""

import argparse
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from pydantic import Field
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel

from assets.stage import (
    RECORD,
    Config,
    UserError,
    check_item,
    output,
    plain_errors,
    read_json,
    read_params,
    sealed,
    validated,
    write_json,
)
from assets.tokenizer import bos_eos_ids, load_tokenizer
from training.baselines import ENDPOINT, EndpointConfig, described, hub_folder
from training.model import load_model, read_config
from training.rope import trained_context

AnyConfig = TypeVar("AnyConfig", bound=Config)
TIMEOUT, TRIES = 600, 5
PAUSE, LONGEST_PAUSE = 2.0, 300.0
"""Seconds before the second try, doubled before each further one; and the most that an endpoint may ask for."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model and its tokenizer; either `model` or `endpoint` is there."""

    name: str
    folder: Path
    tokenizer: Tokenizer
    model: PreTrainedModel | None = None
    endpoint: EndpointConfig | None = None
    base_context: int
    """Tokens the model it was made from could read: C."""
    context: int
    """Tokens it is meant to read now."""
    facts: dict[str, Any]

    @property
    def begin(self) -> list[int]:
        """What stands before a text: the begin token, if the tokenizer has one."""
        made = self.tokenizer.encode("", add_special_tokens=True).ids
        bos, _ = bos_eos_ids(self.folder, self.tokenizer)
        return made[:1] or ([] if bos is None else [bos])

    @property
    def end(self) -> int | None:
        """The token that ends a text."""
        return bos_eos_ids(self.folder, self.tokenizer)[1]

    def encode(self, text: str) -> list[int]:
        """Ids of text that continues a text; where the tokenizer adds the leading space itself, it gets none."""
        bare = text[1:] if text.startswith(" ") and self._adds_space else text
        return list(self.tokenizer.encode(bare, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        """Text of ids."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    @property
    def _adds_space(self) -> bool:
        plain, spaced = (self.tokenizer.encode(text, add_special_tokens=False).ids for text in ("a", " a"))
        return plain == spaced or len(plain) < len(spaced)


def of_graph(name: str) -> Subject:
    """A model of the comparison, from data/checkpoint/NAME."""
    folder = Path("data/checkpoint") / name
    if not (folder / RECORD).is_file():
        raise UserError(f"{folder}: not there. Make it first: python -m orchestration.repro checkpoint@{name}")
    facts = read_json(folder / RECORD)
    kept = {key: facts[key] for key in ("base_context", "rope_base", "tokens_trained")}
    return _open(name, folder, facts["base_context"], kept)


def of_user(model: str) -> Subject:
    """Any model: a folder, a YAML file that names a Hub model or an endpoint, or a Hub id. Raises UserError."""
    folder = Path(model)
    if not folder.exists():
        folder = hub_folder(model, None)
    if folder.suffix in (".yaml", ".yml"):
        named = described(folder)
        if isinstance(named, EndpointConfig):
            return Subject(name=named.model, folder=named.tokenizer, endpoint=named,
                           tokenizer=load_tokenizer(named.tokenizer), base_context=named.context,
                           context=named.context, facts={})
        folder = hub_folder(named.hub, named.revision)
    trained = trained_context(read_config(folder))
    return _open(model, folder, trained, {"base_context": trained})


def _open(name: str, folder: Path, base_context: int, facts: dict[str, Any]) -> Subject:
    if (folder / ENDPOINT).is_file():
        endpoint = EndpointConfig.model_validate(read_json(folder / ENDPOINT))
        return Subject(name=name, folder=folder, tokenizer=load_tokenizer(folder), endpoint=endpoint,
                       base_context=base_context, context=endpoint.context, facts=facts)
    model = open_model(folder)
    return Subject(name=name, folder=folder, tokenizer=load_tokenizer(folder), model=model, base_context=base_context,
                   context=int(model.config.get_text_config().max_position_embeddings), facts=facts)


def open_model(folder: Path) -> PreTrainedModel:
    """The model in `folder` where it will be asked: fp32 on the CPU, bf16 over the GPUs if there are any."""
    if not torch.cuda.is_available():
        return load_model(folder).eval()
    read_config(folder)
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, device_map="auto", trust_remote_code=False, use_safetensors=True,
            local_files_only=True).eval()
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: transformers cannot load it: {error}") from None


def complete(endpoint: EndpointConfig, prompt: str, count: int, wait: Callable[[float], None] = time.sleep) -> str:
    """What the endpoint says, greedily, at most `count` tokens; nothing where it answers without text.

    A lost connection, 429 and 5xx are tried again, TRIES times in all; before that, `wait` gets the seconds that the
    endpoint asks for (Retry-After), or twice those before. Raises UserError when it does not answer.
    """
    chat = endpoint.kind == "chat"
    body: dict[str, Any] = {"model": endpoint.model, "max_tokens": count, "temperature": 0}
    body |= {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
    url = f"{endpoint.endpoint.rstrip('/')}/{'chat/completions' if chat else 'completions'}"
    key = os.environ.get(endpoint.key_variable, "")
    request = urllib.request.Request(url, json.dumps(body).encode(), {
        "Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})})
    problem, asked = "", None
    for number in range(TRIES):
        if number:
            wait(PAUSE * 2 ** (number - 1) if asked is None else min(asked, LONGEST_PAUSE))
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
                choice = json.load(reply)["choices"][0]
            return (choice["message"]["content"] if chat else choice["text"]) or ""
        except urllib.error.HTTPError as error:
            problem, asked = f"{error} {_reason(error)}", _seconds_asked(error.headers.get("Retry-After"))
            if error.code < 500 and error.code != 429:
                break
        except (OSError, HTTPException, LookupError, TypeError, ValueError) as error:
            problem, asked = repr(error), None
    raise UserError(f"{url}: {problem}. Set the endpoint, its model and {endpoint.key_variable} right, and run again: "
                    "what was answered is kept.")


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(300).decode(errors="replace")
    except (OSError, HTTPException):
        return "(and the connection was lost)"


def _seconds_asked(header: str | None) -> float | None:
    """Retry-After, where it is a number of seconds."""
    return float(header) if header is not None and header.strip().isdecimal() else None


class Look(Config):
    """Arguments of a look at any model."""

    name: str | None = None
    model: str | None = None
    out: Path | None = None
    params: Path = Path("params.yaml")
    set: tuple[str, ...] = Field(default=())


def report(stage: str, kind: type[AnyConfig], measure: Callable[[Subject, AnyConfig, Path], dict[str, Any]]) -> None:
    """The act of a report's module: `measure(subject, config, folder)` writes into the folder and returns metrics."""
    given = _arguments(stage)
    with plain_errors(stage):
        if given.name is not None:
            check_item("model", given.name)
            subject, config = of_graph(given.name), read_params(stage, kind)
            with output(stage, given.name) as out:
                out.metrics = measure(subject, config, out.folder)
                out.facts = subject.facts
        else:
            assert given.model is not None and given.out is not None
            config = _changed(read_params(stage, kind, given.params), given.set, stage)
            subject = of_user(given.model)
            with sealed(given.out, {"stage": stage, "model": given.model, **subject.facts}) as folder:
                metrics = measure(subject, config, folder)
                write_json(folder / "metrics.json", metrics)
            print(json.dumps(metrics, indent=2))


def _changed(config: AnyConfig, changes: tuple[str, ...], stage: str) -> AnyConfig:
    values = config.model_dump(mode="json")
    for change in changes:
        key, separator, value = change.partition("=")
        if not separator:
            raise UserError(f"--set {change}: write KEY=VALUE, as in --set trials=4")
        *path, last = key.split(".")
        node = values
        for depth, part in enumerate(path, 1):
            node[part] = {} if node.get(part) is None else node[part]
            node = node[part]
            if not isinstance(node, dict):
                raise UserError(f"--set {change}: {'.'.join(path[:depth])} is no section but a value or list: set all "
                                "of it.")
        try:
            node[last] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"--set {change}: the value is not valid YAML: {' '.join(str(error).split())}. Close its "
                            "brackets and quotes.") from None
    return validated(type(config), values, f"{stage} after --set")


def _arguments(stage: str) -> Look:
    parser = argparse.ArgumentParser(prog=f"python -m evaluation.{stage}")
    parser.add_argument("name", nargs="?", help="a model of the comparison: makes the artefact of the graph")
    parser.add_argument("--model", help="any model: folder, Hub id, or a YAML file that names an endpoint")
    parser.add_argument("--out", type=Path, help="folder for the report on --model")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="whose section is used (params.yaml)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the section")
    given = parser.parse_args()
    if (given.name is None) == (given.model is None) or (given.model is not None and given.out is None):
        parser.error("give NAME, or --model MODEL --out FOLDER")
    return Look(name=given.name, model=given.model, out=given.out, params=given.params, set=tuple(given.set))
