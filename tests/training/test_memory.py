"""The plan counts what FakeTensor counts: every tensor that layers hold in a step, by shape alone."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import AutoModel, LlamaConfig, PretrainedConfig, Qwen3Config

from training.flops import shape_of
from training.hardware import Hardware
from training.memory import GIB, Load, moments, on_device
from training.switches import checkpoint_activations

LAYERS = 2
MANY = 1 << 17  # tokens, with which activations take more than the weights' gradients
HELD = ("inside layers", "inputs of layers", "checkpointed activations", "attention outputs")
SIZES = {
    "Llama 2 7B": LlamaConfig(hidden_size=4096, intermediate_size=11_008, num_attention_heads=32),
    "Qwen3 8B": Qwen3Config(
        hidden_size=4096,
        intermediate_size=12_288,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
    ),
    "SmolLM2 135M": LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_attention_heads=9, num_key_value_heads=3
    ),
}


def counted(config: PretrainedConfig, kind: torch.dtype, hardware: Hardware, length: int) -> float:
    """Bytes at the highest point of a step through all layers, without weights and gradients."""
    with FakeTensorMode():
        model = AutoModel.from_config(config, dtype=kind, attn_implementation="sdpa")
        if hardware.checkpoint_activations:
            checkpoint_activations(model, hardware.keep_attention, False)
        hidden = torch.empty(1, length, config.hidden_size, dtype=kind, requires_grad=True)
        turns = model.rotary_emb(hidden, torch.arange(length)[None])

        tracker = MemTracker()
        tracker.track_external(model)
        with tracker:
            state = hidden * 1  # an activation, as the embedding gives it
            for layer in model.layers:
                state = layer(state, position_embeddings=turns, attention_mask=None)
            slope = torch.empty_like(state)
            del hidden
            last, state = state, None
            last.backward(slope)
        parts = next(iter(tracker.get_tracker_snapshot("peak").values()))

    bytes_of = {str(key).rpartition(".")[2]: value for key, value in parts.items()}
    # The output and its slope stay to the end here, as they do not in a training.
    ours = 2 * slope.numel() * slope.element_size()
    return float(bytes_of["Total"] - bytes_of["PARAM"] - bytes_of["GRAD"] - ours)


HOW = {
    "plain": Hardware(),
    "checkpointed": Hardware(checkpoint_activations=True),
    "attention kept": Hardware(checkpoint_activations=True, keep_attention=True),
}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(
    ("how", "moment", "kind"),
    [
        ("plain", "last layer", torch.bfloat16),
        ("plain", "last layer", torch.float32),
        ("checkpointed", "last layer", torch.bfloat16),
        ("checkpointed", "last layer", torch.float32),
        ("checkpointed", "first layer", torch.bfloat16),
        ("attention kept", "last layer", torch.bfloat16),
    ],
)
def test_layers_hold_what_is_planned(name: str, how: str, moment: str, kind: torch.dtype) -> None:
    config = SIZES[name]
    config.num_hidden_layers, config.vocab_size = LAYERS, 64
    # With few tokens the weights' gradients take the most, so the first layer is the highest point.
    length = MANY if moment == "last layer" else config.hidden_size
    load = Load(shape=shape_of(config), hardware=HOW[how], tokens=length, element=kind.itemsize)
    planned = sum(moments(load)[moment].get(part, 0) for part in HELD)
    assert planned == pytest.approx(counted(config, kind, HOW[how], length), rel=0.05)


@pytest.mark.parametrize(
    ("tokens", "layers", "switches", "keep", "optimizer", "measured"),
    [
        (4096, 8, "", False, "adamw", 29.26),
        (32_768, 8, "", False, "adamw", 35.86),
        (131_072, 8, "", False, "adamw", 59.99),
        (81_920, 8, "", True, "adamw", 50.23),
        (81_920, 8, "liger", True, "adamw", 43.74),
        (81_920, 8, "liger,tiled_mlp", True, "adamw", 39.73),
        (81_920, 32, "liger", True, "adamw_8bit", 90.80),
    ],
)
def test_the_plan_is_near_what_an_h200_measured(
    tokens: int, layers: int, switches: str, keep: bool, optimizer: str, measured: float
) -> None:
    """GiB of one sequence a step, 7B's width: docs/benchmarks/gpu.md."""
    config = LlamaConfig(
        hidden_size=4096,
        intermediate_size=11_008,
        num_attention_heads=32,
        num_hidden_layers=layers,
        vocab_size=32_000,
        tie_word_embeddings=False,
    )
    hardware = Hardware(
        checkpoint_activations=True,
        keep_attention=keep,
        switches=frozenset(switches.split(",")) - {""},
    )
    load = Load(
        shape=shape_of(config),
        hardware=hardware,
        tokens=tokens,
        optimizer=optimizer,
        accumulates=False,
    )
    assert sum(on_device(load).values()) / GIB == pytest.approx(measured, rel=0.04)
