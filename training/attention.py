"""Full causal attention over long sequences, across documents or inside each, on one or more
devices.

Two functions are registered with transformers, so any of its models runs them. NAME is for
training: documents are separated by the positions where they begin, so there is no mask of
length x length. CACHED is for evaluation: a few new tokens after many cached ones, causal, aligned
at the end, again without a mask on a GPU. Both refuse options that they do not implement.

On a GPU the kernels are PyTorch's own. FlashAttention 3 or 4 replaces PyTorch's flash kernel where
it is installed (`activate_flash`). Without it cuDNN comes first on Hopper and later, where it is
faster. `kernel_words` asks PyTorch which kernel it picks, for the log.

Over several devices (Ulysses, arXiv 2309.14509) each device holds a shard of the sequence. Before
the attention they exchange shards for heads, so every head sees the whole sequence; afterwards they
exchange back. Cost: two exchanges of activations per layer. The context parallelism of `accelerate`
is not used, because it drops masks, and documents would silently see each other.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as collectives
from torch.nn import attention as torch_attention
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface, PretrainedConfig

from core.errors import UserError
from training.rope import head_dim

NAME = "needlework"
CACHED = "needlework_cached"
# The module that each of PyTorch's names for a faster flash kernel needs.
FLASH_PACKAGES = {"FA3": "flash_attn_interface", "FA4": "flash_attn.cute"}
HOPPER = (9, 0)  # CUDA compute capability
FLASH_FIRST = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
)
CUDNN_FIRST = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
)
# For cached attention: cuDNN would make a new plan for each of thousands of lengths.
WITHOUT_CUDNN = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
# query, key, value [n, heads, length, width], scale, document edges int32[documents + 1] or None,
# length of the longest document -> [n, heads, length, width]
Kernel = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, float, torch.Tensor | None, int], torch.Tensor
]


def register(device: torch.device, group: dist.ProcessGroup | None) -> str:
    """Register NAME for this device, with sequences divided over `group` if there is one.

    group: the processes that share a row; None if each process has whole rows.
    Returns a description for the log. CACHED is registered too.
    """
    flash = activate_flash() if device.type == "cuda" else None
    order = _order(device, flash)
    # PyTorch's variable-length kernel runs on GPUs only; a CPU attends to each document in turn.
    kernel = partial(_varlen if device.type == "cuda" else _by_document, order=order)
    AttentionInterface.register(NAME, partial(attend, kernel=kernel, group=group))
    AttentionInterface.register(CACHED, attend_cached)

    words = "PyTorch SDPA" if flash is None else f"PyTorch SDPA with {flash}"
    if group is not None:
        words += f", sequences along {dist.get_world_size(group)} devices (Ulysses)"
    return words


@cache
def activate_flash() -> str | None:
    """Replace PyTorch's flash kernel by FlashAttention 3 or 4. Returns its name, or None."""
    for name in torch_attention.list_flash_attention_impls():
        module = FLASH_PACKAGES.get(name, "")
        try:
            found = bool(module) and find_spec(module) is not None
            if found:
                torch_attention.activate_flash_attention_impl(name)
                return name
        except (ImportError, RuntimeError):
            continue  # installed, but for another torch or another CUDA
    return None


def kernel_words(config: PretrainedConfig, length: int, device: torch.device) -> str:
    """The kernel that PyTorch picks for unmasked causal attention of this model.

    length: tokens in a row. Returns a name for the log, such as "cudnn_attention".
    """
    if device.type != "cuda":
        return "cpu"

    # Only the shapes and dtypes matter, so the tensors stay empty.
    text = config.get_text_config()
    heads = int(text.num_attention_heads)
    shared = int(getattr(text, "num_key_value_heads", None) or heads)
    width = head_dim(text)
    query = torch.empty(1, heads, length, width, dtype=torch.bfloat16, device=device)
    key = torch.empty(1, shared, length, width, dtype=torch.bfloat16, device=device)
    with sdpa_kernel(list(_order(device, activate_flash())), set_priority=True):
        number = torch._fused_sdp_choice(
            query, key, key, None, 0.0, True, enable_gqa=heads != shared
        )

    name = SDPBackend(number).name.lower()
    flash = activate_flash()
    if flash and number == SDPBackend.FLASH_ATTENTION.value:
        return f"{name} ({flash})"
    return name


def is_plain(config: PretrainedConfig) -> bool:
    """Whether all of this model's attention is full and causal, without caps or sinks.

    Only such a model gives the same results with the attention here.
    """
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None) or []
    if kinds:
        sliding = any(kind != "full_attention" for kind in kinds)
    else:
        # Older configs have one window for all layers. Qwen's say separately whether it is used.
        window = getattr(text, "sliding_window", None)
        sliding = bool(window) and bool(getattr(text, "use_sliding_window", True))
    capped = getattr(text, "attn_logit_softcapping", None) is not None
    # gpt-oss adds a learned sink to every softmax, under any name of layer.
    return not (sliding or capped or text.model_type == "gpt_oss")


def _order(device: torch.device, flash: str | None) -> Sequence[SDPBackend]:
    """The kernels by priority, the fastest first."""
    if device.type != "cuda" or flash is not None:
        return FLASH_FIRST
    modern = torch.cuda.get_device_capability(device) >= HOPPER
    return CUDNN_FIRST if modern else FLASH_FIRST


def documents(
    starts: list[torch.Tensor], length: int, device: torch.device
) -> tuple[dict[str, Any], torch.Tensor]:
    """What keeps documents from seeing each other, for n rows laid end to end.

    starts: for each row, int64[documents], the positions where its documents begin.
    Returns the arguments of the attention function, and positions that restart at 0 in every
    document, int64[1, n x length].
    """
    begins = torch.cat([row + number * length for number, row in enumerate(starts)])
    edges = torch.cat([begins, begins.new_tensor([len(starts) * length])])
    sizes = edges.diff()
    positions = torch.arange(int(edges[-1])) - begins.repeat_interleave(sizes)

    # The names are those of transformers' arguments for FlashAttention's variable lengths.
    cut = edges.to(device=device, dtype=torch.int32)
    longest = int(sizes.max())
    return {
        "cu_seq_lens_q": cut,
        "cu_seq_lens_k": cut,
        "max_length_q": longest,
        "max_length_k": longest,
    }, positions.unsqueeze(0).to(device)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int = 0,
    *,
    kernel: Kernel,
    group: dist.ProcessGroup | None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function, for training.

    query: [n, heads, length, width]; key, value: [n, key-value heads, length, width];
    cu_seq_lens_q: int32[documents + 1] -> [n, length, heads, width], in the dtype of the query.
    Raises UserError for options that it would ignore.
    """
    _refuse_options(module, others, dropout)
    if attention_mask is not None:
        raise UserError(
            f"{type(module).__name__}: a mask of its own is not part of the attention used here "
            "(full and causal). Switch it off in the base's config.json, or choose another base."
        )

    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if group is not None:
        devices = dist.get_world_size(group)
        key, value = _enough_heads(key, devices), _enough_heads(value, devices)
        query, key, value = (_heads_to_device(part, group) for part in (query, key, value))
    out = kernel(query, key, value, scale, cu_seq_lens_q, max_length_q)
    if group is not None:
        out = _shard_to_device(out, group)
    return out.transpose(1, 2), None


def _refuse_options(module: torch.nn.Module, others: dict[str, Any], dropout: float) -> None:
    """Raise UserError for options that these kernels would silently ignore."""
    odd = [name for name in ("sliding_window", "softcap", "s_aux") if others.get(name) is not None]
    if odd or dropout:
        raise UserError(
            f"{type(module).__name__}: {', '.join(odd) or 'dropout'} is not part of the attention "
            "used here (full and causal). "
            "Switch it off in the base's config.json, or choose another base."
        )


def attend_cached(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of the newest tokens over all: evaluation with a key-value cache.

    query: [n, heads, new, width]; key, value: [n, key-value heads, all, width], the new tokens
    last -> [n, new, heads, width]. Grouped heads are not repeated in memory, and a mask is made
    only on a CPU. Raises UserError for options that it would ignore.
    """
    _refuse_options(module, others, dropout)
    new, total = query.shape[2], key.shape[2]
    options: dict[str, Any] = {"scale": scaling, "enable_gqa": query.shape[1] != key.shape[1]}
    # PyTorch aligns is_causal at the first tokens, which is right only without a cache. After a
    # cache the mask is aligned at the last ones; a single token attends to everything.
    mask: Any = None
    if 1 < new < total:
        mask = causal_lower_right(new, total) if query.is_cuda else _lower_right(new, total)
    options |= {"attn_mask": mask, "is_causal": new == total > 1}

    if not query.is_cuda:
        out = functional.scaled_dot_product_attention(query, key, value, **options)
        return out.transpose(1, 2), None
    order = _order(query.device, activate_flash()) if new == total else WITHOUT_CUDNN
    with sdpa_kernel(list(order), set_priority=True):
        out = functional.scaled_dot_product_attention(query, key, value, **options)
    return out.transpose(1, 2), None


def _lower_right(new: int, total: int) -> torch.Tensor:
    """bool[new, total]: True where a token attends. The last row attends to everything."""
    return torch.ones(new, total, dtype=torch.bool).tril(total - new)


def _causal(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    order: Sequence[SDPBackend],
) -> torch.Tensor:
    """Causal attention over whole rows. Shapes as in `Kernel`."""
    options: dict[str, Any] = {"is_causal": True, "scale": scale}
    options["enable_gqa"] = query.shape[1] != key.shape[1]
    if not query.is_cuda:
        return functional.scaled_dot_product_attention(query, key, value, **options)
    with sdpa_kernel(list(order), set_priority=True):
        return functional.scaled_dot_product_attention(query, key, value, **options)


def _by_document(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    cut: torch.Tensor | None,
    longest: int,
    order: Sequence[SDPBackend],
) -> torch.Tensor:
    """Causal attention inside each document, one after the other. Shapes as in `Kernel`."""
    if cut is None:
        return _causal(query, key, value, scale, order)
    sizes = cut.diff().tolist()
    parts = zip(query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2), strict=True)
    return torch.cat([_causal(*part, scale=scale, order=order) for part in parts], dim=2)


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    cut: torch.Tensor | None,
    longest: int,
    order: Sequence[SDPBackend],
) -> torch.Tensor:
    """Causal attention inside each document, in one kernel. Shapes as in `Kernel`."""
    if cut is None:
        return _causal(query, key, value, scale, order)
    from torch.nn.attention.varlen import varlen_attn

    # torch 2.11, with which the GPU was measured (docs/benchmarks/gpu.md), has no `enable_gqa` here.
    # So grouped heads are repeated. The copies live for one layer only.
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))

    # The kernel takes [tokens, heads, width]: all rows end to end.
    rows = query.shape[0]
    query, key, value = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))
    out = varlen_attn(
        query, key, value, cut, cut, longest, longest, scale=scale, window_size=(-1, 0)
    )
    assert isinstance(out, torch.Tensor)
    return out.unflatten(0, (rows, -1)).transpose(1, 2)


def _enough_heads(part: torch.Tensor, devices: int) -> torch.Tensor:
    """Key or value heads, repeated until each device gets one: [n, heads, shard, width]."""
    heads = part.shape[1]
    if heads % devices == 0:
        return part
    if devices % heads:
        raise UserError(
            f"{heads} key-value heads can't be divided over {devices} devices: "
            "set parallelism_config_sp_size to a divisor or a multiple of them."
        )
    return part.repeat_interleave(devices // heads, dim=1)


def _heads_to_device(part: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """All heads of a shard -> some heads of the whole row.

    [n, heads, shard, width] -> [n, heads / devices, shard x devices, width].
    """
    devices = dist.get_world_size(group)
    if part.shape[1] % devices:
        raise UserError(
            f"{part.shape[1]} heads can't be divided over {devices} devices: "
            "set parallelism_config_sp_size to a divisor of them."
        )
    split = torch.stack(part.chunk(devices, dim=1))
    return torch.cat(_exchange(split, group).unbind(), dim=2)


def _shard_to_device(part: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """Some heads of the whole row -> all heads of a shard: the inverse of `_heads_to_device`."""
    split = torch.stack(part.chunk(dist.get_world_size(group), dim=2))
    return torch.cat(_exchange(split, group).unbind(), dim=1)


def _exchange(split: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """Send part i of `split` to device i; part i of the result came from there.

    [devices, ...] -> the same shape.
    """
    got = collectives.all_to_all_single_autograd(split.contiguous(), None, None, group)
    return collectives.wait_tensor(got)
