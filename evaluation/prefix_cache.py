"""A prefix cache: what two prompts have in common at their beginning is read once.

The keys and values of a token depend on the tokens before it, and not on those after it. So the
cache keeps those of the last prompt, is cut back to where the next prompt differs, and only the
rest is read. The caller's order of prompts decides how much is saved. The results are those of
reading every prompt in full, up to the order of fp32 sums. Several rows share one batch; they are
cut back to the first position at which any of them differs.

The cache is allocated once at its full size. It takes as much memory as one prompt in full, and
nothing is copied when it grows. Each layer's part is on that layer's device. The number of rows
decides the order of sums, so it is a parameter of the caller. The free memory decides only whether
the cache is refused.
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
USABLE = 0.8  # of the free memory; a forward pass works with the rest
MEMINFO = Path("/proc/meminfo")


class _FixedLayer(DynamicLayer):
    """Keys and values of one layer, in memory that is allocated once for `room` tokens."""

    def __init__(self, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        self.room, self.used = room, 0
        self.stored: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the new keys and values; returns all: [rows, heads, tokens, width] each."""
        new = key_states, value_states
        # Heads, width, dtype and device are known with the first ones.
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
        """Tokens in the cache."""
        return self.used

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens. transformers passes their number as a negative one."""
        self.used -= abs(tokens_to_remove)


class PrefixCache:
    """One model and its cache for batches of `rows` prompts of at most `room` tokens.

    at_once: tokens read in one forward pass, all rows together. It bounds the memory of reading.
    """

    def __init__(self, model: PreTrainedModel, rows: int, room: int, at_once: int) -> None:
        self.model = model
        self.step = max(at_once // rows, 1)
        layers = model.config.get_text_config().num_hidden_layers
        self.cache = Cache(layers=[_FixedLayer(room) for _ in range(layers)])
        self.cached_ids: Ids = np.empty((rows, 0), np.int64)
        self.read = 0
        """Tokens read so far, all rows together: the cost."""

    def score(self, prompts: Ids, answers: Ids) -> NDArray[np.float32]:
        """Log-probabilities of the whole vocabulary at the place of each answer token.

        prompts: int64[rows, length]; answers: int64[rows, n], padded at the right with any token
        -> float32[rows, n, vocabulary].
        """
        # The last answer token is predicted and never read.
        hidden = self._read(np.concatenate([prompts, answers[:, :-1]], axis=1), answers.shape[1])
        return log_probs(self.model, hidden).cpu().numpy()

    @torch.inference_mode()
    def generate(self, prompts: Ids, count: int) -> Ids:
        """Greedy decoding after the prompts: int64[rows, length] -> int64[rows, count]."""
        generated = prompts[:, :0]
        for _ in range(count):
            hidden = self._read(np.concatenate([prompts, generated], axis=1), 1)
            chosen = log_probs(self.model, hidden).argmax(-1).cpu().numpy()
            generated = np.concatenate([generated, chosen], axis=1)
        return generated

    @torch.inference_mode()
    def _read(self, rows: Ids, last: int) -> torch.Tensor:
        """Read rows of ids, int64[rows, length]; returns the hidden states of the last `last`
        tokens: [rows, last, width].
        """
        # The hidden states of cached tokens are gone, so the last tokens are always read again.
        known = min(_common(self.cached_ids, rows), rows.shape[1] - last)
        self.cache.crop(known - self.cached_ids.shape[1])

        tail: list[torch.Tensor] = []
        for start in range(known, rows.shape[1], self.step):
            part = torch.from_numpy(rows[:, start : start + self.step]).to(self.model.device)
            hidden = self.model.base_model(
                input_ids=part, past_key_values=self.cache, use_cache=True
            ).last_hidden_state
            # The last tokens may span several parts, but never more than `last` of them.
            tail = [*tail, hidden[:, -last:]][-last:]
            self.read += part.numel()
        self.cached_ids = rows
        return torch.cat(tail, dim=1)[:, -last:]


@torch.inference_mode()
def log_probs(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of hidden states: [..., width] -> fp32[..., vocabulary].

    Raises UserError if the model gives NaN.
    """
    # The head runs in fp32: rounding to bf16 would decide between close first choices.
    head = model.get_output_embeddings()
    assert isinstance(head, torch.nn.Linear)
    bias = None if head.bias is None else head.bias.float()
    logits = functional.linear(hidden.to(head.weight.device).float(), head.weight.float(), bias)
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    if cap:
        logits = torch.tanh(logits / cap) * cap
    scores = functional.log_softmax(logits, dim=-1)
    check_numbers(scores)
    return scores


def check_numbers(scores: torch.Tensor) -> None:
    """Raise UserError if one of a model's scores is NaN.

    The first choice among NaN is always the same token, which would count as an answer.
    scores: of any shape.
    """
    if torch.isnan(scores).any():
        raise UserError(
            "the model gives NaN instead of scores: a weight is not a number, or a sum is beyond "
            "its type. Nothing was measured. Train it again, or fetch its weights again."
        )


def cache_bytes(config: PretrainedConfig, room: int, number_bytes: int) -> int:
    """Bytes of the cache of one row of `room` tokens.

    number_bytes: of one key or value, 2 in bf16 and 4 in fp32.
    """
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    # 2: keys and values.
    return int(2 * text.num_hidden_layers * heads * head_dim(text) * room * number_bytes)


def check_room(model: PreTrainedModel, room: int, rows: int, parameter: str = "") -> None:
    """Raise UserError unless the cache of `rows` rows of `room` tokens fits.

    The limit is NEEDLEWORK_CACHE_GIB, or without it USABLE of the free memory of each device.
    parameter: the one that sets `rows`, for the message.
    """
    one = cache_bytes(model.config, room, model.dtype.itemsize)
    limit = number_of(CACHE_GIB)
    if limit:
        fit, where = int(limit * GIB // one), f"{CACHE_GIB} = {limit:g}"
    else:
        layers = layers_by_device(model)
        free = {device: free_memory(device) for device in layers}
        fit = rows_that_fit(one, layers, free)
        usable = [f"{USABLE * size / GIB:.1f} GiB on {device}" for device, size in free.items()]
        where = ", ".join(usable)

    if fit < rows:
        smaller = f"Set {parameter} to {fit}, ask" if parameter and fit else "Ask"
        raise UserError(
            f"{rows} x {room:,} tokens side by side: their cache takes {rows * one / GIB:.1f} GiB, "
            f"and there is room for {fit} x {room:,} ({where}). {smaller} for shorter contexts, or "
            f"set {CACHE_GIB} to what the cache may take."
        )


def rows_that_fit(one: int, layers: Counter[torch.device], free: Mapping[torch.device, int]) -> int:
    """How many rows' caches fit on the layers' devices.

    one: bytes of one row's cache. layers: how many each device has. free: bytes on each device.
    """
    return min(
        int(USABLE * free[device] * layers.total() // (one * count))
        for device, count in layers.items()
    )


def layers_by_device(model: PreTrainedModel) -> Counter[torch.device]:
    """How many layers' keys and values each device holds: the device on which the layer runs."""
    layers = getattr(model.base_model, "layers", None)
    if layers is None:
        return Counter({model.device: model.config.get_text_config().num_hidden_layers})
    return Counter(_runs_on(layer) for layer in layers)


def _runs_on(layer: torch.nn.Module) -> torch.device:
    """The device on which a layer is computed, which may not be that of its weights."""
    # accelerate's hook, on a layer whose weights are elsewhere until they are needed.
    hook = getattr(layer, "_hf_hook", None)
    device = getattr(hook, "execution_device", None)
    return next(layer.parameters()).device if device is None else torch.device(device)


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated there, with those that PyTorch holds for later use."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept

    # MemAvailable counts the page cache, which the system gives up; the pages below do not.
    known = {}
    if MEMINFO.is_file():
        known = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
    if "MemAvailable" in known:
        return int(known["MemAvailable"].split()[0]) * 1024  # in kB
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _common(cached: Ids, rows: Ids) -> int:
    """Tokens from the left that every row has in common with its cached ids."""
    most = min(cached.shape[1], rows.shape[1])
    differ = (cached[:, :most] != rows[:, :most]).any(axis=0)
    return int(differ.argmax()) if differ.any() else most
