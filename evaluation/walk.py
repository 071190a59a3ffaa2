"""Many prompts that begin alike, asked with one cache: what the model has read once it does not
read again.

A prompt's keys and values depend on what stands before them and on nothing after. So a walk keeps
those of the last prompt, cuts them back to where the next one differs, and reads on from there.
Whoever orders the prompts decides what is saved; the answers are those of a naive run up to the
order of fp32 sums. Several rows walk side by side, cut back to where the first of them differs.

The cache is made once at its full size: it takes as much as one naive prompt, and nothing is copied
when it grows. Its layers lie where the model's do, so on several devices each holds its share. How
many rows walk side by side decides the order of sums, so it is for the caller's parameters to say,
never for the memory that happens to be free: that only decides whether the walk is refused.
"""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from core.environment import CACHE_GIB, number_of
from core.errors import UserError
from training.rope import head_dim

Ids = NDArray[np.int64]
GIB = 1 << 30
USABLE = 0.8
"""Of the memory that is free; the rest is for what a pass works with."""
MEMINFO = Path("/proc/meminfo")


class _Room(DynamicLayer):
    """Keys and values of one layer, in memory taken once."""

    def __init__(self, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        self.room, self.used = room, 0
        self.stored: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append, and give all there is."""
        new = key_states, value_states
        if self.stored is None:
            keys, values = (
                part.new_empty(*part.shape[:2], self.room, part.shape[-1]) for part in new
            )
            self.stored, self.is_initialized = (keys, values), True
        end = self.used + key_states.shape[-2]
        for whole, part in zip(self.stored, new, strict=True):
            whole[:, :, self.used : end] = part
        self.used = end
        return self.stored[0][:, :, :end], self.stored[1][:, :, :end]

    def get_seq_length(self) -> int:
        """Tokens held."""
        return self.used

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ones (a negative number, as transformers has it)."""
        self.used -= abs(tokens_to_remove)


class Walk:
    """One model's way through prompts of `rows` rows side by side, at most `room` tokens long.

    at_once: tokens read in one forward pass, all rows together; bounds the memory that reading
    takes.
    """

    def __init__(self, model: PreTrainedModel, rows: int, room: int, at_once: int) -> None:
        self.model, self.step = model, max(at_once // rows, 1)
        self.cache = Cache(
            layers=[_Room(room) for _ in range(model.config.get_text_config().num_hidden_layers)]
        )
        self.told: Ids = np.empty((rows, 0), np.int64)
        self.read = 0
        """Tokens read so far, all rows together: what the walk has cost."""

    def ask(self, prompts: Ids, answers: Ids) -> NDArray[np.float32]:
        """Log-probabilities of whatever could stand in the place of each answer token, given those
        before it.

        prompts: int64[rows, length]; answers: int64[rows, n], filled up at the right with anything
        -> float32[rows, n, vocabulary].
        """
        hidden = self._read(np.concatenate([prompts, answers[:, :-1]], axis=1), answers.shape[1])
        return log_probs(self.model, hidden).cpu().numpy()

    @torch.inference_mode()
    def say(self, prompts: Ids, count: int) -> Ids:
        """What greedy decoding says after the prompts: int64[rows, count]."""
        said = prompts[:, :0]
        for _ in range(count):
            hidden = self._read(np.concatenate([prompts, said], axis=1), 1)
            said = np.concatenate(
                [said, log_probs(self.model, hidden).argmax(-1).cpu().numpy()], axis=1
            )
        return said

    @torch.inference_mode()
    def _read(self, rows: Ids, last: int) -> torch.Tensor:
        """The hidden states of the last `last` tokens of the rows, after cutting back to what is
        already known.
        """
        known = min(_common(self.told, rows), rows.shape[1] - last)
        self.cache.crop(known - self.told.shape[1])
        tail: list[torch.Tensor] = []
        for start in range(known, rows.shape[1], self.step):
            part = torch.from_numpy(rows[:, start : start + self.step]).to(self.model.device)
            hidden = self.model.base_model(
                input_ids=part, past_key_values=self.cache, use_cache=True
            ).last_hidden_state
            tail = [*tail, hidden[:, -last:]][-last:]
            self.read += part.numel()
        self.told = rows
        return torch.cat(tail, dim=1)[:, -last:]


@torch.inference_mode()
def log_probs(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """The head in fp32: a first choice decided by bf16 rounding would be no choice.

    Raises UserError if the model gives NaN.
    """
    head = model.get_output_embeddings()
    assert isinstance(head, torch.nn.Linear)
    bias = None if head.bias is None else head.bias.float()
    logits = functional.linear(hidden.to(head.weight.device).float(), head.weight.float(), bias)
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    scores = functional.log_softmax(torch.tanh(logits / cap) * cap if cap else logits, dim=-1)
    check_numbers(scores)
    return scores


def check_numbers(scores: torch.Tensor) -> None:
    """Raise UserError if one of a model's scores is NaN.

    The first choice among NaN is always the same token, which would count as an answer.
    """
    if torch.isnan(scores).any():
        raise UserError(
            "the model gives NaN instead of scores: a weight is not a number, or a sum is beyond "
            "its type. Nothing was measured. Train it again, or fetch its weights again."
        )


def cache_bytes(config: PretrainedConfig, room: int, number_bytes: int) -> int:
    """Of one row with room for so many tokens."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return int(2 * text.num_hidden_layers * heads * head_dim(text) * room * number_bytes)


def check_room(model: PreTrainedModel, room: int, rows: int, parameter: str = "") -> None:
    """Raise UserError unless the cache of `rows` rows of `room` tokens fits: in
    NEEDLEWORK_CACHE_GIB, or by default into USABLE of what is free on each device. parameter: the
    one that sets `rows`, to be named.
    """
    one, limit = (
        cache_bytes(model.config, room, model.dtype.itemsize),
        number_of(CACHE_GIB),
    )
    if limit:
        fit, where = int(limit * GIB // one), f"{CACHE_GIB} = {limit:g}"
    else:
        layers = layers_by_device(model)
        free = {device: free_memory(device) for device in layers}
        fit = rows_that_fit(one, layers, free)
        where = ", ".join(
            f"{USABLE * there / GIB:.1f} GiB on {device}" for device, there in free.items()
        )
    if fit < rows:
        smaller = f"Set {parameter} to {fit}, ask" if parameter and fit else "Ask"
        raise UserError(
            f"{rows} x {room:,} tokens side by side: their cache takes {rows * one / GIB:.1f} GiB, "
            "and "
            f"room is for {fit} x {room:,} ({where}). {smaller} for shorter contexts, or set "
            f"{CACHE_GIB} to "
            "what the cache may take."
        )


def rows_that_fit(one: int, layers: Counter[torch.device], free: Mapping[torch.device, int]) -> int:
    """How many rows' caches fit where the layers lie. one: bytes of one row's; free: bytes on each
    device.
    """
    return min(
        int(USABLE * free[device] * layers.total() // (one * count))
        for device, count in layers.items()
    )


def layers_by_device(model: PreTrainedModel) -> Counter[torch.device]:
    """How many layers' keys and values each device holds: where a layer works, wherever its weights
    wait.
    """
    layers = getattr(model.base_model, "layers", None)
    if layers is None:
        return Counter({model.device: model.config.get_text_config().num_hidden_layers})
    return Counter(_works_on(layer) for layer in layers)


def _works_on(layer: torch.nn.Module) -> torch.device:
    hook = getattr(
        layer, "_hf_hook", None
    )  # accelerate's, where weights lie elsewhere until they are needed
    device = getattr(hook, "execution_device", None)
    return next(layer.parameters()).device if device is None else torch.device(device)


def free_memory(device: torch.device) -> int:
    """Bytes that can be taken there, what PyTorch keeps for later use included."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    known = (
        dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        if MEMINFO.is_file()
        else {}
    )
    if "MemAvailable" in known:
        return int(known["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _common(told: Ids, rows: Ids) -> int:
    """Tokens that all rows have in common with what was told before, from the left."""
    most = min(told.shape[1], rows.shape[1])
    differ = (told[:, :most] != rows[:, :most]).any(axis=0)
    return int(differ.argmax()) if differ.any() else most
