"""Models that others made, compared as they are: from a folder, the Hub, or behind an endpoint.

A model's `source` may be a YAML file: `{hub: owner/name, revision: ...}`, or `{endpoint:
http://.../v1, model: NAME, tokenizer: FOLDER, context: 131072}`. From the Hub only safetensors and
JSON files are fetched, never code. The cost: a model that needs its own code can't be compared.
"""

import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from assets.tokenizer import clear_use
from core.errors import UserError
from core.params import Config, validated
from core.sealed import write_json
from training.model import MODEL_SUFFIXES

ENDPOINT = "endpoint.json"  # in a checkpoint's folder: the endpoint in place of weights
TEMPLATE = "chat_template.jinja"
WANTED = [f"*{suffix}" for suffix in sorted(MODEL_SUFFIXES)]


class HubConfig(Config):
    """A model of the Hub."""

    hub: str
    """owner/name."""
    revision: str | None = None
    """Its commit; without one, the newest at the time it is fetched."""


class EndpointConfig(Config):
    """A model behind an OpenAI-compatible HTTP endpoint."""

    endpoint: Annotated[str, Field(pattern=r"^https?://")]
    """The URL, without /completions or /chat/completions at its end."""
    model: str
    """The model's name at the server."""
    kind: Literal["completions", "chat"] = "chat"
    """Which of OpenAI's two interfaces the server is asked through."""
    tokenizer: Path
    """A folder with tokenizer.json and tokenizer_config.json, to count lengths with."""
    context: Annotated[int, Field(ge=32)]
    """Tokens that it can read."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; the key itself is never written down."""
    options: dict[str, Any] = {}
    """More fields of every request, as {reasoning_effort: low, max_completion_tokens: 4000}.

    null removes a field.
    """


def hub_folder(name: str, revision: str | None) -> Path:
    """The folder of the Hub's cache that holds this model; fetched first, unless offline.

    Raises UserError if there is no such model, or it can't be fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=WANTED))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{name}: neither a folder nor a model that can be fetched from the Hub: {reason} "
            "Name a folder, or set HF_HUB_OFFLINE=0 and check the name."
        ) from None


def described(source: Path) -> HubConfig | EndpointConfig:
    """The model that the YAML file `source` names. Raises UserError if it names none."""
    try:
        values = yaml.safe_load(source.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{source}: can't be read as YAML: {reason}. Fix it.") from None
    if isinstance(values, dict) and "hub" in values:
        return validated(HubConfig, values, str(source))
    if isinstance(values, dict) and "endpoint" in values:
        return validated(EndpointConfig, values, str(source))
    raise UserError(
        f"{source}: names no model. Write `hub: owner/name`, or `endpoint: http://...` with "
        "`model`, `tokenizer` and `context`."
    )


def bring(source: Path, folder: Path) -> int:
    """Copy what the YAML file `source` names into `folder`.

    Returns the context of an endpoint, in tokens; 0 for a model. Raises UserError.
    """
    endpoint = described(source)
    if isinstance(endpoint, HubConfig):
        shutil.copytree(hub_folder(endpoint.hub, endpoint.revision), folder, dirs_exist_ok=True)
        clear_use(folder)
        return 0

    # An endpoint has no weights here: its description and the tokenizer that counts its tokens.
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (endpoint.tokenizer / name).is_file():
            raise UserError(
                f"{source}: tokenizer = {endpoint.tokenizer}: no {name} there. It is needed to "
                "count tokens. Name a folder that has it."
            )
        shutil.copyfile(endpoint.tokenizer / name, folder / name)
    if (endpoint.tokenizer / TEMPLATE).is_file():
        shutil.copyfile(endpoint.tokenizer / TEMPLATE, folder / TEMPLATE)
    clear_use(folder)
    write_json(folder / ENDPOINT, endpoint.model_dump(mode="json"))
    return endpoint.context
