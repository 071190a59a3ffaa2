"""Attention over long rows: full and causal, across documents or inside each, on one device or along several.

One function is registered with transformers under the name NAME, so any of its models runs it, and no mask of
length x length is ever made: documents are told apart by where they begin. It uses flash-attn where that is installed
and PyTorch's own kernels elsewhere; which one is in the log.

Along several devices (Ulysses, arXiv 2309.14509) each holds a stretch of the row; for the attention they trade
stretches for heads, so every head sees the whole row, and trade back. Cost: two exchanges of the activations a layer.
Context parallelism as `accelerate` has it is not used: it drops masks, so documents would silently see each other.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as collectives
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface

from assets.stage import UserError

NAME = "needlework"
BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float, torch.Tensor | None, int], torch.Tensor]
"""query, key, value [n, heads, length, width], scale, where documents begin and end int32[documents + 1] or None,
length of the longest -> [n, heads, length, width]."""


def register(device: torch.device, group: dist.ProcessGroup | None) -> str:
    """Make NAME the attention for this device, along `group` if rows are divided; returns what the log should say."""
    kernel, words = _kernel(device)
    AttentionInterface.register(NAME, partial(attend, kernel=kernel, group=group))
    along = "" if group is None else f", rows along {dist.get_world_size(group)} devices (Ulysses)"
    return words + along


def documents(starts: list[torch.Tensor], length: int, device: torch.device) -> tuple[dict[str, Any], torch.Tensor]:
    """What masks attention to documents: the arguments of the attention function, and positions that begin anew in each
    document, int64[1, n x length]. starts: for each of n rows, laid end to end, where its documents begin."""
    begins = torch.cat([row + number * length for number, row in enumerate(starts)])
    edges = torch.cat([begins, begins.new_tensor([len(starts) * length])])
    sizes = edges.diff()
    positions = torch.arange(int(edges[-1])) - begins.repeat_interleave(sizes)
    cut = edges.to(device=device, dtype=torch.int32)
    longest = int(sizes.max())
    return {"cu_seq_lens_q": cut, "cu_seq_lens_k": cut, "max_length_q": longest, "max_length_k": longest}, \
        positions.unsqueeze(0).to(device)


def attend(module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
           attention_mask: torch.Tensor | None, scaling: float | None = None, dropout: float = 0.0,
           cu_seq_lens_q: torch.Tensor | None = None, max_length_q: int = 0, *, kernel: Kernel,
           group: dist.ProcessGroup | None, **others: Any) -> tuple[torch.Tensor, None]:
    """transformers' attention function. query [n, heads, length, width], key and value with as many or fewer heads ->
    [n, length, heads, width]. Raises UserError for what it would leave out."""
    left_out = [name for name in ("sliding_window", "softcap", "s_aux") if others.get(name) is not None]
    if left_out or dropout or attention_mask is not None:
        raise UserError(f"{type(module).__name__}: {', '.join(left_out) or 'dropout or a mask'} is not part of the "
                        "attention used in training here (full and causal). Switch it off in the base's config.json, "
                        "or choose another base.")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if group is not None:
        key, value = (_enough_heads(part, dist.get_world_size(group)) for part in (key, value))
        query, key, value = (_heads_for_stretches(part, group) for part in (query, key, value))
    out = kernel(query, key, value, scale, cu_seq_lens_q, max_length_q)
    if group is not None:
        out = _stretches_for_heads(out, group)
    return out.transpose(1, 2), None


def _kernel(device: torch.device) -> tuple[Kernel, str]:
    if device.type != "cuda":
        return _by_document, "PyTorch SDPA, document by document where masked"
    try:
        import flash_attn
    except ImportError:
        return _varlen, "PyTorch SDPA (flash or cuDNN), varlen flash where documents are masked"
    return _flash, f"flash-attn {flash_attn.__version__}"


def _causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    grouped = query.shape[1] != key.shape[1]
    if query.is_cuda:
        with sdpa_kernel(BACKENDS):
            return functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale,
                                                           enable_gqa=grouped)
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=grouped)


def _by_document(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float,
                 cut: torch.Tensor | None, longest: int) -> torch.Tensor:
    if cut is None:
        return _causal(query, key, value, scale)
    sizes = cut.diff().tolist()
    parts = zip(query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2), strict=True)
    return torch.cat([_causal(*part, scale=scale) for part in parts], dim=2)


def _varlen(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float,
            cut: torch.Tensor | None, longest: int) -> torch.Tensor:
    if cut is None:
        return _causal(query, key, value, scale)
    from torch.nn.attention.varlen import varlen_attn

    flat_query, flat_key, flat_value = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))
    out = varlen_attn(flat_query, flat_key, flat_value, cut, cut, longest, longest, scale=scale, window_size=(-1, 0),
                      enable_gqa=query.shape[1] != key.shape[1])
    assert isinstance(out, torch.Tensor)
    return out.unflatten(0, (query.shape[0], -1)).transpose(1, 2)


def _flash(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float,
           cut: torch.Tensor | None, longest: int) -> torch.Tensor:
    from flash_attn import flash_attn_func, flash_attn_varlen_func

    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    if cut is None:
        out = flash_attn_func(query, key, value, softmax_scale=scale, causal=True)
    else:
        flat = [part.flatten(0, 1) for part in (query, key, value)]
        out = flash_attn_varlen_func(*flat, cut, cut, longest, longest, softmax_scale=scale, causal=True)
        out = out.unflatten(0, (query.shape[0], -1))
    return out.transpose(1, 2)


def _enough_heads(part: torch.Tensor, devices: int) -> torch.Tensor:
    """Key or value heads repeated until each device gets one."""
    heads = part.shape[1]
    if heads % devices == 0:
        return part
    if devices % heads:
        raise UserError(f"{heads} key-value heads can't be shared out over {devices} devices: set "
                        "parallelism_config_sp_size to a divisor or a multiple of them.")
    return part.repeat_interleave(devices // heads, dim=1)


def _heads_for_stretches(part: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """[n, heads, stretch, width] on each of `devices` -> [n, heads / devices, stretch x devices, width]."""
    devices = dist.get_world_size(group)
    if part.shape[1] % devices:
        raise UserError(f"{part.shape[1]} heads can't be shared out over {devices} devices: set "
                        "parallelism_config_sp_size to a divisor of them.")
    split = torch.stack(part.chunk(devices, dim=1))
    return torch.cat(_traded(split, group).unbind(), dim=2)


def _stretches_for_heads(part: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """The way back."""
    split = torch.stack(part.chunk(dist.get_world_size(group), dim=2))
    return torch.cat(_traded(split, group).unbind(), dim=1)


def _traded(split: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """Part i of this device's `split` goes to device i; part i of the result came from there."""
    got = collectives.all_to_all_single_autograd(split.contiguous(), None, None, group)
    return collectives.wait_tensor(got)
