"""What a training holds on each device, by part, from shapes alone.

Weights, gradients and moments are exact; what a layer holds while it works is counted from the
tensors that a Llama layer keeps for its backward pass, and is the least sure. Nothing is measured
here: the peak that a run reports when it ends is the judge, and a margin is left for the allocator.
"""

from training.flops import Shape
from training.hardware import Hardware

GIB = float(1 << 30)
USABLE = 0.95
"""Of a device's memory; the rest goes to the driver, NCCL and fragments."""
MOMENT_BYTES = {"adamw": 8, "adamw_8bit": 2}
LOGITS_AT_ONCE = 1 << 26
"""Logits that the loss holds at once: 256 MiB in fp32, and half that again in bf16."""


def on_device(
    shape: Shape, hardware: Hardware, processes: int, tokens: int, optimizer: str
) -> dict[str, float]:
    """Bytes on each device, by part. tokens: those of one pass that a group of devices holds
    (micro_batch_tokens).
    """
    here = tokens / hardware.sp
    stay = 0.0 if hardware.offload_weights else shape.parameters / processes
    enters = 2.0 * shape.layers * here * shape.width
    ends = 2.0 * shape.vocabulary * shape.width * (1 if shape.tied else 2)
    if hardware.checkpoint_activations:
        kept, copies = (0.0 if hardware.offload_activations else enters), 1
    else:
        kept, copies = 0.0, shape.layers
    return {
        "weights, fp32": 4 * stay,
        "gradients, fp32": 4 * stay,
        "moments": MOMENT_BYTES[optimizer] * stay,
        "gathered weights, bf16": 2 * 2.0 * shape.layer_weights + ends,
        "what enters each layer": kept,
        "what attention returned": _attention_kept(shape, here) if hardware.keep_attention else 0.0,
        "inside a layer" if copies == 1 else "inside all layers": copies
        * here
        * layer_bytes(shape),
        "loss": 8.0 * LOGITS_AT_ONCE
        + 4.0 * shape.vocabulary * shape.width
        + 2.0 * here * shape.width,
    }


def on_host(shape: Shape, hardware: Hardware, processes: int, tokens: int, optimizer: str) -> float:
    """Bytes that each process keeps in the host's memory besides."""
    weights = (
        (8 + MOMENT_BYTES[optimizer]) * shape.parameters / processes
        if hardware.offload_weights
        else 0.0
    )
    enters = 2.0 * shape.layers * tokens / hardware.sp * shape.width
    return weights + (
        enters if hardware.checkpoint_activations and hardware.offload_activations else 0.0
    )


def _attention_kept(shape: Shape, tokens: float) -> float:
    """Bytes of all layers' attention outputs in bf16, and of their log-sum-exps in fp32."""
    return shape.layers * shape.heads * tokens * (2.0 * shape.head_dim + 4.0)


def layer_bytes(shape: Shape) -> float:
    """Bytes for each token that one layer keeps for its backward pass, its own gradients in passing
    included.

    In bf16: what enters both norms and leaves them, queries, keys, values before and after
    rotation, what attention gives, three tensors of the feed-forward and two of their gradients; in
    fp32: the two norms' inputs.
    """
    heads = shape.head_dim * (2 * shape.heads + 2 * 2 * shape.key_value_heads)
    return 2.0 * (6 * shape.width + heads + 5 * shape.feed_forward) + 4.0 * 2 * shape.width
