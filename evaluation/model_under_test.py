"""The model under test: of the comparison, in any folder, on the Hub, or behind an endpoint.

On a GPU the weights are bf16 and spread over all GPUs. On a CPU everything is fp32, so that two
ways to compute the same answer agree. An OpenAI-compatible endpoint returns text and no
probabilities, so scores that need probabilities stay empty for it.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel

from assets.tokenizer import bos_eos_ids, load_tokenizer
from core.errors import UserError
from core.sealed import RECORD, read_json
from evaluation.specials import MARK, Specials
from training import attention
from training.baselines import ENDPOINT, EndpointConfig, described, hub_folder
from training.model import load_model, read_config
from training.rope import trained_context

# A space at the beginning of a token, as vocabularies write it: byte-level BPE and SentencePiece.
SPACE_MARKS = ("Ġ", "▁")


@dataclass(frozen=True, kw_only=True)
class ModelUnderTest:
    """A model and its tokenizer. Exactly one of `model` and `endpoint` is set."""

    name: str
    """Of the model, for tables and logs."""
    folder: Path
    """Of the model, or of an endpoint's tokenizer."""
    tokenizer: Tokenizer
    model: PreTrainedModel | None = None
    """The weights, ready to run."""
    endpoint: EndpointConfig | None = None
    base_context: int
    """The context C of the base that it was made from, in tokens."""
    context: int
    """Its own context, in tokens."""
    facts: dict[str, Any]
    """What a report's record says of the model."""

    @property
    def begin(self) -> list[int]:
        """Ids before a text: those that the tokenizer adds, else the named begin token.

        Empty without either.
        """
        # Some templates add an end token. It would end the text before it begins, so it is left
        # out, unless tokenizer_config.json names the same token as the begin token.
        bos, ends = bos_eos_ids(self.folder, self.tokenizer)[0], self.ends
        before = [token for token in self.added if token == bos or token not in ends]
        return before or ([] if bos is None else [bos])

    @property
    def added(self) -> list[int]:
        """Ids that the tokenizer's own template adds before a text."""
        # What stands before the text's own ids.
        whole = self.tokenizer.encode("a", add_special_tokens=True).ids
        bare = self._ids("a")
        for start in range(len(whole) - len(bare) + 1):
            if whole[start : start + len(bare)] == bare:
                return list(whole[:start])
        return []

    @property
    def ends(self) -> frozenset[int]:
        """Ids that end an answer: the tokenizer's end token and those of generation_config.json."""
        ends = {bos_eos_ids(self.folder, self.tokenizer)[1]}
        path = self.folder / "generation_config.json"
        try:
            named = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
        except (ValueError, AttributeError) as error:
            raise UserError(
                f"{path}: not a generation_config.json: {error}. Copy it from the base model again."
            ) from None
        ends |= set(named if isinstance(named, list) else [named])
        return frozenset(end for end in ends if isinstance(end, int))

    def encode(self, text: str, as_text: bool = False) -> list[int]:
        """Ids of text that continues a text.

        text: may hold parts from `as_content`. as_text: a special token's text is text and never
        the token, as in the corpus.
        """
        # Some tokenizers add a space at the beginning of every text. It must not stand beside the
        # text's own space, nor before a line end.
        if not text[:1].isspace() or not self._adds_space:
            return self._ids(text, as_text)
        if text.startswith(" "):
            return self._ids(text[1:], as_text)  # the tokenizer puts this space back

        # A line end gets no space before it: encode after a letter, then drop the letter.
        anchor, whole = self._ids("a"), self._ids(f"a{text}", as_text)
        return whole[len(anchor) :] if whole[: len(anchor)] == anchor else self._ids(text, as_text)

    def as_content(self, text: str) -> str:
        """Mark a question, an answer or a word for a prompt: its special tokens are text."""
        plain = self._ids(text, as_text=True) == self._ids(text) and MARK not in text
        return text if plain else self.specials.as_content(text)

    @cached_property
    def specials(self) -> Specials:
        """The tokenizer's special tokens."""
        return Specials(self.tokenizer)

    def decode(self, ids: list[int], special: bool = False) -> str:
        """The text of ids; with `special`, special tokens are written too."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=not special))

    def _ids(self, text: str, as_text: bool = False) -> list[int]:
        """Ids of a text, as the tokenizer encodes it without its template."""
        if MARK in text and not as_text:
            return self.specials.encode(text)
        self.tokenizer.encode_special_tokens = as_text
        try:
            return list(self.tokenizer.encode(text, add_special_tokens=False).ids)
        finally:
            self.tokenizer.encode_special_tokens = False

    @property
    def _adds_space(self) -> bool:
        """Whether the tokenizer adds a space at the beginning of every text."""
        plain, spaced = self._ids("a"), self._ids(" a")
        first = self.tokenizer.id_to_token(plain[0]) if plain else ""
        return plain == spaced or str(first).startswith(SPACE_MARKS)


def of_graph(name: str) -> ModelUnderTest:
    """A model of the comparison, from data/checkpoint/NAME. Raises UserError if it is not made."""
    folder = Path("data/checkpoint") / name
    if not (folder / RECORD).is_file():
        raise UserError(
            f"{folder}: not there. Make it first: python -m orchestration.repro checkpoint@{name}"
        )
    facts = read_json(folder / RECORD)
    kept = {key: facts[key] for key in ("base_context", "rope_base", "tokens_trained")}
    return _open(name, folder, facts["base_context"], kept)


def of_user(model: str) -> ModelUnderTest:
    """Any model: a folder, a YAML file that names a Hub model or an endpoint, or a Hub id.

    Raises UserError if there is no such model.
    """
    folder = Path(model)
    if not folder.exists():
        folder = hub_folder(model, None)
    if folder.suffix in (".yaml", ".yml"):
        named = described(folder)
        if isinstance(named, EndpointConfig):
            return ModelUnderTest(
                name=named.model,
                folder=named.tokenizer,
                endpoint=named,
                tokenizer=load_tokenizer(named.tokenizer),
                base_context=named.context,
                context=named.context,
                facts={},
            )
        folder = hub_folder(named.hub, named.revision)
    trained = trained_context(read_config(folder))
    return _open(model, folder, trained, {"base_context": trained})


def _open(name: str, folder: Path, base_context: int, facts: dict[str, Any]) -> ModelUnderTest:
    """The model in a checkpoint's folder, which may be an endpoint's description."""
    if (folder / ENDPOINT).is_file():
        endpoint = EndpointConfig.model_validate(read_json(folder / ENDPOINT))
        return ModelUnderTest(
            name=name,
            folder=folder,
            tokenizer=load_tokenizer(folder),
            endpoint=endpoint,
            base_context=base_context,
            context=endpoint.context,
            facts=facts,
        )
    model = open_model(folder)
    return ModelUnderTest(
        name=name,
        folder=folder,
        tokenizer=load_tokenizer(folder),
        model=model,
        base_context=base_context,
        context=int(model.config.get_text_config().max_position_embeddings),
        facts=facts,
    )


def open_model(folder: Path) -> PreTrainedModel:
    """The model in `folder`, ready to run: bf16 over all GPUs, or fp32 on the CPU.

    Raises UserError if transformers can't load it.
    """
    if not torch.cuda.is_available():
        return load_model(folder).eval()
    read_config(folder)  # it explains a broken config.json
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.bfloat16,
            device_map="auto",
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
        ).eval()
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: transformers cannot load it: {error}") from None
    if attention.is_plain(model.config):
        attention.register(model.device, None)
        model.set_attn_implementation(attention.CACHED)
    return model
