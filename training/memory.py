"""Memory of a training on each device, by part, from shapes alone.

A step can be at its highest in three moments: in the loss, when the logits of a chunk exist; in the
backward pass of the last layer, when every layer's checkpoint is still held; in that of the first
layer, when nearly all gradients are there. The plan is the largest of the three. What a layer holds
is counted tensor by tensor (a test compares it with FakeTensor's count). On one H200 the plan lay
within 2 % of the measured peak (docs/benchmarks/gpu.md).

The cost of formulas: they hold for dense decoders of Llama's kind. They leave out the allocator,
for which a margin is kept. A run reports its real peak when it ends.
"""

from dataclasses import dataclass

from training.flops import Shape
from training.hardware import COMPILE, LIGER, TILED_MLP, Hardware

GIB = float(1 << 30)
USABLE = 0.95  # of a device's memory; the rest goes to the driver, NCCL and fragmentation
MOMENT_BYTES = {"adamw": 8, "adamw_8bit": 2}  # per parameter: two moments in fp32, or in 8 bits
LOGITS_AT_ONCE = 1 << 26  # in the loss: 256 MiB in fp32, and half that again in bf16
TILE = 4096  # tokens of a tile of the feed-forward: enough to fill a GPU


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one training asks of each device."""

    shape: Shape
    hardware: Hardware
    processes: int = 1
    """Over which the weights are sharded."""
    tokens: int
    """Of one micro-batch, which a group of devices holds."""
    optimizer: str = "adamw"
    """A key of MOMENT_BYTES."""
    element: int = 2
    """Bytes of an activation: 2 in bf16, 4 in fp32."""
    sharded: bool = True
    """Whether FSDP divides the model. It does not in one process on a CPU."""
    accumulates: bool = True
    """Whether a step has several micro-batches: from the second on, all gradients are held."""

    @property
    def here(self) -> float:
        """Tokens of a micro-batch on this device."""
        return self.tokens / self.hardware.sp

    @property
    def head(self) -> float:
        """Bytes of the head's weights, or of their gradient, in the dtype of the matmuls."""
        return float(self.element * self.shape.vocabulary * self.shape.width)

    @property
    def fused(self) -> bool:
        """Whether norms, rotation and activation are fused, which keeps less."""
        return bool({LIGER, COMPILE} & self.hardware.switches)


def on_device(load: Load) -> dict[str, float]:
    """Bytes on each device, by part, at the moment that takes the most."""
    return max(moments(load).values(), key=lambda parts: sum(parts.values()))


def moments(load: Load) -> dict[str, dict[str, float]]:
    """The moments of a step that may take the most -> bytes by part."""
    return {
        "loss": _in_the_loss(load),
        "last layer": _at_the_last_layer(load),
        "first layer": _at_the_first_layer(load),
    }


def _in_the_loss(load: Load) -> dict[str, float]:
    """After the last layer's forward pass."""
    shape, size = load.shape, load.element
    # The last norm keeps its input in fp32, and what it normalised. Then its output, and the
    # gradient of that.
    norm = (4.0 + size + 2 * size) * shape.width * load.here
    # A chunk's logits with their gradients; the head's gradient in fp32.
    logits = min(float(LOGITS_AT_ONCE), shape.vocabulary * load.here)
    loss = 8.0 * logits + 4.0 * shape.vocabulary * shape.width + norm
    return {
        **_states(load, 1.0 if load.accumulates else 0.0),
        "gathered weights": _gathered(load, 0),
        **_between_layers(load, shape.layers),
        "inside layers": _without_checkpoints(load, shape.layers),
        "loss": loss,
    }


def _at_the_last_layer(load: Load) -> dict[str, float]:
    """In the backward pass of the last layer: everything before it is held."""
    shape = load.shape
    return {
        **_states(load, 1.0 if load.accumulates else 0.0),
        # FSDP gathers the next layer while one works.
        "gathered weights": _gathered(load, 2),
        "gradients on their way": load.head,
        **_between_layers(load, shape.layers),
        "inside layers": load.here * layer_bytes(load)
        + _without_checkpoints(load, shape.layers - 1),
    }


def _at_the_first_layer(load: Load) -> dict[str, float]:
    """In the backward pass of the first layer: the gradients of all others are held."""
    shape = load.shape
    # The gradients of embedding and head are reduced at the end, those of this layer come next.
    missing = (shape.layer_weights + shape.ends) / shape.parameters
    # The layer before is being reduced, in fp32.
    reduced = 4.0 * shape.layer_weights if load.sharded else 0.0
    return {
        **_states(load, 1.0 if load.accumulates else 1.0 - missing),
        "gathered weights": _gathered(load, 1),
        "gradients on their way": load.head + reduced,
        **_between_layers(load, 1),
        "inside layers": load.here * layer_bytes(load),
    }


def _states(load: Load, gradients: float) -> dict[str, float]:
    """Weights, gradients and moments. gradients: the share of them that exists, 0 to 1."""
    here = 0.0 if load.hardware.offload_weights else load.shape.parameters / load.processes
    return {
        "weights, fp32": 4 * here,
        "gradients, fp32": 4 * here * gradients,
        "moments": MOMENT_BYTES[load.optimizer] * here,
    }


def _gathered(load: Load, layers: int) -> float:
    """Bytes of whole weights in the dtype of the matmuls, beside the sharded ones.

    layers: how many are gathered at once.
    """
    shape = load.shape
    if load.sharded:
        # Embedding and head stay gathered for the whole step.
        return float(load.element * (layers * shape.layer_weights + shape.ends))
    # Autocast keeps a bf16 copy of each matrix for the backward pass; fp32 needs none.
    return 0.0 if load.element == 4 else float(load.element * shape.matrix_weights)


def _between_layers(load: Load, layers: int) -> dict[str, float]:
    """What is held of the inputs of this many layers, and of their attention."""
    hardware = load.hardware
    inputs = layers * load.here * load.element * load.shape.width
    if not hardware.checkpoint_activations:
        # A norm that is not fused keeps a copy in fp32 instead, which is counted inside the layer.
        kept_by_norm = load.fused or load.element == 4
        return {"inputs of layers": inputs} if kept_by_norm else {}

    parts = {"checkpointed activations": 0.0 if hardware.offload_activations else inputs}
    if hardware.keep_attention:
        # The layer that is at work has its own, inside.
        parts["attention outputs"] = (layers - 1) * load.here * _attention_kept(load)
    return parts


def _without_checkpoints(load: Load, layers: int) -> float:
    """Bytes that this many layers hold for the backward pass if they are not checkpointed."""
    return 0.0 if load.hardware.checkpoint_activations else layers * load.here * _kept(load)


def layer_bytes(load: Load) -> float:
    """Bytes per token at the highest point of a layer's backward pass, without its input.

    That is inside the feed-forward: its gradients are there, and nothing is freed yet.
    """
    shape, size = load.shape, load.element
    # Fused, the gradients of gate and up take the place of gate and up.
    flowing = shape.feed_forward * (1 if load.fused else 2)
    return _kept(load) + size * (shape.width + _tiled(load, flowing))


def _kept(load: Load) -> float:
    """Bytes per token that one layer keeps for its backward pass, without its input."""
    shape, size, width = load.shape, load.element, load.shape.width
    # Before and after a norm stand its input and that of the matrices behind it. A norm that is
    # not fused also keeps what it normalised, and its input in fp32.
    queries_and_keys = shape.head_dim * (shape.heads + shape.key_value_heads)
    if load.fused:
        norms = size * width
        head_norms = size * queries_and_keys
    else:
        # In fp32 the input of the first norm is the layer's own.
        copies = 2 if size < 4 else 1
        norms = 4 * copies * width + 2 * size * width
        head_norms = (4 + size) * queries_and_keys
    norms += head_norms if shape.head_norms else 0

    behind_norms = 2 * size * width
    values = size * shape.head_dim * shape.key_value_heads
    # Gate, up and their product; not fused, also what the activation gives.
    feed_forward = size * _tiled(load, shape.feed_forward * (3 if load.fused else 4))
    return (
        norms
        + behind_norms
        + size * queries_and_keys
        + values
        + _attention_kept(load)
        + feed_forward
    )


def _attention_kept(load: Load) -> float:
    """Bytes per token of one layer's attention output, and of its log-sum-exps in fp32."""
    return load.shape.heads * (load.element * load.shape.head_dim + 4.0)


def _tiled(load: Load, elements: float) -> float:
    """Elements per token inside a feed-forward, of which a tile at a time may exist."""
    if TILED_MLP not in load.hardware.switches:
        return elements
    # Output and input gradient are then whole beside the tile, once each.
    return elements / max(load.here / TILE, 1.0) + load.shape.width
