"""Switches that make training faster or smaller and keep what it computes.

They are not parameters: like the choice of GPU, they decide where and how fast an artefact is made.
So they are in the environment, NEEDLEWORK_SWITCHES, as a comma-separated list. The cost: the last
bits of a result depend on them, as they depend on the GPU. tests/training/test_switches.py and
benchmarks/gpu.py compare each one with the plain path.

| name | effect | from |
|---|---|---|
| checkpoint | keep only the inputs of each layer, recompute the rest in the backward pass | torch |
| keep_attention | checkpoint, and keep attention's outputs, the costliest to recompute | torch |
| offload | checkpoint, with the kept inputs in the host's memory | transformers |
| liger | fused RMSNorm, RoPE and SwiGLU | liger-kernel |
| compile | the same by torch.compile: norms, RoPE and feed-forward of each layer | torch |
| tiled_mlp | the feed-forward a few thousand tokens at a time, each tile computed again | here |

fp8 linear layers change the numbers, so they are a parameter: checkpoint.precision = fp8.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from transformers import PreTrainedModel

from core.environment import SWITCHES
from core.errors import UserError
from training.hardware import COMPILE, LIGER, TILED_MLP
from training.memory import TILE

# Attention as torch registers it, by backend. keep_attention keeps their outputs.
ATTENTION_OPERATORS = (
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_flash_attention_forward",
    "torch_attn::_varlen_attn",
)
COMPILED_SHAPES = 64


def checkpoint_activations(model: PreTrainedModel, keep_attention: bool, offload: bool) -> None:
    """Keep only the inputs of each layer; with `keep_attention`, also the outputs of attention.

    offload: the inputs are kept in the host's memory.
    """
    arguments: dict[str, Any] = {"use_reentrant": False}
    if keep_attention:
        arguments["context_fn"] = _keep_attention
    model.activation_checkpointing_enable(arguments, offload=offload)


def _keep_attention() -> Any:
    """The policy of selective checkpointing that keeps attention's outputs."""
    operators = [found for name in ATTENTION_OPERATORS if (found := _operator(name)) is not None]
    return create_selective_checkpoint_contexts(operators)


def _operator(name: str) -> Any:
    """The default overload of a registered operator; None if this torch does not have it."""
    space, short = name.split("::")
    packet = getattr(getattr(torch.ops, space), short, None)
    return getattr(packet, "default", None)


def apply(model: PreTrainedModel, switches: frozenset[str], device: torch.device) -> None:
    """Install the fused and tiled operations. Raises UserError for a missing package."""
    if LIGER in switches:
        _use_liger(model, device)
    layers = model.base_model.layers
    assert isinstance(layers, nn.ModuleList)
    if COMPILE in switches:
        # Each shape is compiled separately: of the probe and of training, of every kind of part,
        # with and without gradients. The default limit of 8 would silently stop compiling.
        torch._dynamo.config.recompile_limit = COMPILED_SHAPES
        _compile_rope(layers[0])
    for layer in layers:
        if COMPILE in switches:
            _compile_parts(layer)
        if TILED_MLP in switches:
            feed_forward: Any = layer.mlp
            feed_forward.forward = _tiled(feed_forward.forward)


def _use_liger(model: PreTrainedModel, device: torch.device) -> None:
    """Replace RMSNorm, RoPE and SwiGLU by Liger's fused kernels. Raises UserError if it can't."""
    if device.type != "cuda":
        raise UserError(f"{SWITCHES}: {LIGER} needs a GPU. Leave it out, or use {COMPILE}.")
    try:
        from liger_kernel.transformers import monkey_patch
    except ImportError:
        raise UserError(
            f"{SWITCHES}: {LIGER} needs liger-kernel: "
            "pip install 'needlework[gpu]', or leave it out."
        ) from None
    kind = model.config.model_type
    if kind not in monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise UserError(f"{SWITCHES}: {LIGER} has no kernels for {kind}. Use {COMPILE} instead.")

    # Liger patches the model and its module. The module's classes are put back, so that a model
    # built later in this process is a plain one; the rotation is a function there and stays fused.
    module = sys.modules[type(model.base_model).__module__]
    classes = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    # The loss stays ours: it keeps its sums in fp32 (training/loss.py).
    monkey_patch._apply_liger_kernel_to_instance(
        model, cross_entropy=False, fused_linear_cross_entropy=False
    )
    vars(module).update(classes)


def _compile_parts(layer: nn.Module) -> None:
    """Compile norms and the feed-forward, and the fp8 layers outside of it."""
    for name, part in layer.named_modules():
        fused = "norm" in name.rsplit(".", 1)[-1] or name == "mlp"
        fp8 = type(part).__name__ == "Float8Linear" and not name.startswith("mlp.")
        if fused or fp8:
            part.compile(dynamic=False)


def _compile_rope(layer: nn.Module) -> None:
    """Compile the rotation, a function of the model's own module."""
    module = sys.modules[type(layer.self_attn).__module__]
    rotate = getattr(module, "apply_rotary_pos_emb", None)
    if rotate is not None and not hasattr(rotate, "_torchdynamo_orig_callable"):
        module.apply_rotary_pos_emb = torch.compile(  # type: ignore[attr-defined]
            rotate, dynamic=False
        )


def _tiled(forward: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`forward` over TILE tokens at a time. hidden: [n, length, width] -> the same shape."""

    def tiled(hidden: torch.Tensor) -> torch.Tensor:
        """[n, length, width] -> [n, length, width], one tile after the other."""
        parts = hidden.split(TILE, dim=1)
        if len(parts) == 1:
            return forward(hidden)
        done = [checkpoint(forward, part, use_reentrant=False) for part in parts]
        return torch.cat(done, dim=1)

    return tiled


def to_fp8(model: PreTrainedModel, device: torch.device) -> None:
    """Run every linear layer except the head in fp8, with one scale per tensor.

    Master weights stay fp32. On a CPU fp8 is emulated, for tests. Raises UserError if torchao is
    missing.
    """
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError:
        raise UserError(
            "checkpoint.precision = fp8 needs torchao: pip install 'needlework[gpu]', or set bf16."
        ) from None
    config = Float8LinearConfig(emulate=device.type != "cuda")
    head = model.get_output_embeddings()
    convert_to_float8_training(
        model, config=config, module_filter_fn=lambda part, name: part is not head
    )
