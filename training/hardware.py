"""What trains, as the environment and the files of training/accelerate/ say it.

Hardware is no parameter, so it never becomes part of an artefact's identity. What is said is read
here, without PyTorch, because make plan needs no more; training/parallel.py divides a model by it
and training/switches.py changes its parts. The cost: a switch has its name here and its work there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from core.environment import SWITCHES, text_of
from core.errors import UserError

CHECKPOINT, KEEP_ATTENTION, OFFLOAD = "checkpoint", "keep_attention", "offload"
LIGER, COMPILE, TILED_MLP = "liger", "compile", "tiled_mlp"
KNOWN = (CHECKPOINT, KEEP_ATTENTION, OFFLOAD, LIGER, COMPILE, TILED_MLP)


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What an accelerate file says beyond how many processes there are."""

    sp: int = 1
    """Processes along which a row is divided (parallelism_config_sp_size)."""
    checkpoint_activations: bool = False
    """Keep only what enters each layer and compute the rest again: a third more FLOP for a tenth of
    the memory.
    """
    offload_activations: bool = False
    """Keep that in the host's memory, at the cost of two copies a layer
    (fsdp_activation_checkpointing_offload).
    """
    offload_weights: bool = False
    """Keep weights, gradients and the optimizer's moments in the host's memory and update them
    there.
    """
    reshard: bool = True
    """Give up a layer's gathered weights after its forward pass."""
    keep_attention: bool = False
    """With checkpointed activations: also keep attention's outputs."""
    switches: frozenset[str] = frozenset()
    """All names in NEEDLEWORK_SWITCHES (training/switches.py)."""

    @classmethod
    def of_file(cls, path: Path) -> tuple["Hardware", int]:
        """What `accelerate launch` would make of that file, and how many processes it starts.
        Raises UserError.
        """
        try:
            values = yaml.safe_load(path.read_text())
        except (OSError, yaml.YAMLError) as error:
            raise UserError(
                f"{path}: {error}. training/accelerate/ has some that are right."
            ) from None
        return cls.of_environment(
            {
                name.upper(): str(value)
                for part in ("fsdp_config", "parallelism_config")
                for name, value in (values.get(part) or {}).items()
            }
        ), int(values["num_processes"])

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> "Hardware":
        """What `accelerate launch` left there. Raises UserError for what is refused."""

        def size(name: str) -> int:
            return int(environment.get(f"PARALLELISM_CONFIG_{name}_SIZE", "1"))

        def on(name: str, default: bool = False) -> bool:
            return environment.get(f"FSDP_{name}", str(default)).lower() in (
                "true",
                "1",
                "full_shard",
            )

        if size("CP") > 1:
            raise UserError(
                "parallelism_config_cp_size > 1: context parallelism drops attention masks and is "
                "plain "
                "causal whatever is asked, so with checkpoint.document_mask documents would "
                "silently see "
                "each other. Divide rows with parallelism_config_sp_size instead (Ulysses)."
            )
        if size("TP") > 1:
            raise UserError(
                "parallelism_config_tp_size > 1: tensor parallelism is not offered; weights are "
                "sharded "
                "over all processes anyway (FSDP2). Remove it."
            )
        switches = switches_of(environment)
        keep = KEEP_ATTENTION in switches
        offload = on("ACTIVATION_CHECKPOINTING_OFFLOAD") or OFFLOAD in switches
        return cls(
            sp=size("SP"),
            checkpoint_activations=on("ACTIVATION_CHECKPOINTING")
            or bool({CHECKPOINT, KEEP_ATTENTION, OFFLOAD} & switches),
            offload_activations=offload,
            offload_weights=on("OFFLOAD_PARAMS"),
            reshard=on("RESHARD_AFTER_FORWARD", True),
            keep_attention=keep,
            switches=switches,
        )


def switches_of(environment: Mapping[str, str]) -> frozenset[str]:
    """The switches in the environment. Raises UserError for an unknown name."""
    text = text_of(SWITCHES, environment)
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in KNOWN]
    if unknown:
        raise UserError(
            f"{SWITCHES} = {text}: no switch is called {unknown[0]!r}. There are: "
            f"{', '.join(KNOWN)}."
        )
    if LIGER in names and COMPILE in names:
        raise UserError(
            f"{SWITCHES}: {LIGER} and {COMPILE} fuse the same operations. Choose one of them."
        )
    return frozenset(names)
