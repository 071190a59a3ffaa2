"""Memory of a training on each device, by part, from shapes alone.

Weights, gradients and moments are exact. The activations inside a layer are counted from the
tensors that a Llama layer keeps for its backward pass, and are the least certain. Nothing is
measured here, so a margin is left for the allocator. A run reports its real peak when it ends.
"""

from training.flops import Shape
from training.hardware import Hardware

GIB = float(1 << 30)
USABLE = 0.95  # of a device's memory; the rest goes to the driver, NCCL and fragmentation
MOMENT_BYTES = {"adamw": 8, "adamw_8bit": 2}  # per parameter: two moments in fp32, or in 8 bits
LOGITS_AT_ONCE = 1 << 26  # in the loss: 256 MiB in fp32, and half that again in bf16


def on_device(
    shape: Shape, hardware: Hardware, processes: int, tokens: int, optimizer: str
) -> dict[str, float]:
    """Bytes on each device, by part.

    processes: over which the weights are sharded. tokens: of one micro-batch, held by a group of
    devices. optimizer: a key of MOMENT_BYTES.
    """
    here = tokens / hardware.sp
    sharded = 0.0 if hardware.offload_weights else shape.parameters / processes
    layer_inputs = 2.0 * shape.layers * here * shape.width
    # Embedding and head are gathered for the whole step: one matrix if they are tied.
    ends = 2.0 * shape.vocabulary * shape.width * (1 if shape.tied else 2)

    if hardware.checkpoint_activations:
        checkpointed = 0.0 if hardware.offload_activations else layer_inputs
        # Only the layer that is being recomputed holds its activations.
        inside, layers_at_once = "inside a layer", 1
    else:
        checkpointed = 0.0
        inside, layers_at_once = "inside all layers", shape.layers

    attention = _attention_kept(shape, here) if hardware.keep_attention else 0.0
    # Logits and their gradients; the head's gradient in fp32; the hidden states' in bf16.
    loss = 8.0 * LOGITS_AT_ONCE + 4.0 * shape.vocabulary * shape.width + 2.0 * here * shape.width
    return {
        "weights, fp32": 4 * sharded,
        "gradients, fp32": 4 * sharded,
        "moments": MOMENT_BYTES[optimizer] * sharded,
        # Two layers: while one works, FSDP gathers the next.
        "gathered weights, bf16": 2 * 2.0 * shape.layer_weights + ends,
        "checkpointed activations": checkpointed,
        "attention outputs": attention,
        inside: layers_at_once * here * layer_bytes(shape),
        "loss": loss,
    }


def on_host(shape: Shape, hardware: Hardware, processes: int, tokens: int, optimizer: str) -> float:
    """Bytes that each process also keeps in the host's memory. Arguments as for `on_device`."""
    total = 0.0
    if hardware.offload_weights:
        # 4 bytes of weight and 4 of gradient, and the moments.
        total += (8 + MOMENT_BYTES[optimizer]) * shape.parameters / processes
    if hardware.checkpoint_activations and hardware.offload_activations:
        total += 2.0 * shape.layers * tokens / hardware.sp * shape.width
    return total


def _attention_kept(shape: Shape, tokens: float) -> float:
    """Bytes of all layers' attention outputs in bf16, and of their log-sum-exps in fp32."""
    return shape.layers * shape.heads * tokens * (2.0 * shape.head_dim + 4.0)


def layer_bytes(shape: Shape) -> float:
    """Bytes per token that one layer needs for its backward pass, transient gradients included."""
    # In bf16: inputs and outputs of both norms; queries, keys and values before and after rotation;
    # attention's output; three tensors of the feed-forward and two of their gradients.
    # In fp32: the inputs of the two norms.
    heads = shape.head_dim * (2 * shape.heads + 2 * 2 * shape.key_value_heads)
    return 2.0 * (6 * shape.width + heads + 5 * shape.feed_forward) + 4.0 * 2 * shape.width
