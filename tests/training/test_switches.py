"""Switches make training faster or smaller; loss and gradients are those of the plain path."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from worlds import VOCABULARY, tiny

from core.environment import SWITCHES
from core.errors import UserError
from training import attention, switches
from training.batches import Batch
from training.hardware import Hardware
from training.loss import TokenLoss
from training.micro_batches import forward
from training.parallel import World, divide

LENGTH = 96


def world(*names: str) -> World:
    """One CPU process with these switches."""
    environment = {SWITCHES.name: ",".join(names)}
    return World(device=torch.device("cpu"), hardware=Hardware.of_environment(environment))


def trained(*names: str) -> tuple[float, torch.Tensor]:
    """Loss and all gradients of one sequence under these switches."""
    model = tiny()
    attention.register(torch.device("cpu"), None)
    model.set_attn_implementation(attention.NAME)
    loss = divide(TokenLoss(model), world(*names), bf16=False)
    loss.train()
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (1, LENGTH))
    batch = Batch(ids=ids, starts=[np.zeros(1, np.int64)])
    value = forward(loss, batch, world(*names), False, False)
    value.backward()
    return value.item(), torch.cat([part.grad.flatten() for part in loss.parameters()])


@pytest.mark.parametrize(
    "names",
    [
        ("checkpoint",),
        ("keep_attention",),
        ("offload",),
        ("tiled_mlp",),
        ("keep_attention", "tiled_mlp"),
        ("compile", "keep_attention"),
    ],
    ids="+".join,
)
def test_a_switch_keeps_loss_and_gradients(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switches, "TILE", LENGTH // 4)
    plain, gradients = trained()
    with torch.compiler.set_stance("force_eager"):  # Real compiling takes a minute here.
        value, found = trained(*names)
    assert value == pytest.approx(plain, rel=1e-6)
    torch.testing.assert_close(found, gradients, rtol=1e-4, atol=1e-6)


class Counting(TorchDispatchMode):
    """Counts forward passes of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += str(function) == "aten._scaled_dot_product_flash_attention_for_cpu.default"
        return function(*args, **(kwargs or {}))


def test_kept_attention_is_not_computed_again() -> None:
    """Two layers: two passes of attention, and two more where all of a layer is computed again."""

    def passes(*names: str) -> int:
        with Counting() as counting:
            trained(*names)
        return counting.count

    assert passes() == 2
    assert passes("checkpoint") == 4
    assert passes("keep_attention") == 2


def test_tiles_do_not_change_what_a_feed_forward_gives() -> None:
    layer = tiny().base_model.layers[0].mlp
    hidden = torch.randn(2, switches.TILE + 5, 32)
    whole = layer(hidden)
    torch.testing.assert_close(switches._tiled(layer.forward)(hidden), whole)


def test_an_unknown_switch_is_refused_with_the_known_names() -> None:
    with pytest.raises(UserError, match="no switch is called 'fast'.*checkpoint.*tiled_mlp"):
        world("checkpoint", "fast")
    with pytest.raises(UserError, match="Choose one of them"):
        world("liger", "compile")
    with pytest.raises(UserError, match="liger needs a GPU"):
        trained("liger")


def gradients_on(hardware: Hardware) -> list[torch.Tensor]:
    """The gradients of one sequence's loss."""
    here = World(device=torch.device("cpu"), hardware=hardware)
    loss = divide(TokenLoss(tiny()), here, bf16=False).train()
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (1, LENGTH))
    forward(loss, Batch(ids=ids, starts=[np.zeros(1, np.int64)]), here, False, False).backward()
    return [part.grad for part in loss.parameters() if part.grad is not None]


def test_recomputed_activations_change_no_gradient() -> None:
    again = gradients_on(Hardware(checkpoint_activations=True, offload_activations=True))
    assert all(
        torch.equal(one, other) for one, other in zip(gradients_on(Hardware()), again, strict=True)
    )
