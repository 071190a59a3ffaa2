"""The hardware of a training: the environment and the files of training/accelerate/, parsed.

Hardware is not a parameter, so it is never part of an artefact's identity. It is parsed here
without PyTorch, because make plan needs no more. training/parallel.py divides the model accordingly
and training/switches.py changes its layers. The cost: a switch is named here and implemented there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from core.environment import SWITCHES, text_of
from core.errors import UserError, one_line

CHECKPOINT, KEEP_ATTENTION, OFFLOAD = "checkpoint", "keep_attention", "offload"
LIGER, COMPILE, TILED_MLP = "liger", "compile", "tiled_mlp"
KNOWN = (CHECKPOINT, KEEP_ATTENTION, OFFLOAD, LIGER, COMPILE, TILED_MLP)


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """How a training uses its devices, besides the number of processes."""

    sp: int = 1
    """Processes over which a row is divided (parallelism_config_sp_size)."""
    checkpoint_activations: bool = False
    """Keep only the inputs of each layer and recompute the rest in the backward pass.

    A third more FLOP for a tenth of the memory.
    """
    offload_activations: bool = False
    """Keep those inputs in the host's memory (fsdp_activation_checkpointing_offload).

    It costs two copies per layer.
    """
    offload_weights: bool = False
    """Keep and update weights, gradients and moments in the host's memory."""
    reshard: bool = True
    """Free a layer's gathered weights after its forward pass."""
    keep_attention: bool = False
    """With checkpointed activations: also keep attention's outputs."""
    switches: frozenset[str] = frozenset()
    """All names in NEEDLEWORK_SWITCHES (training/switches.py)."""

    @classmethod
    def of_file(cls, path: Path) -> tuple["Hardware", int]:
        """The hardware of an accelerate file, and the number of processes that it starts.

        Raises UserError if the file can't be read, or is not a file of accelerate's.
        """
        try:
            values = yaml.safe_load(path.read_text())
            # `accelerate launch` passes these sections on as environment variables, in upper case.
            environment = {}
            for section in ("fsdp_config", "parallelism_config"):
                for name, value in (values.get(section) or {}).items():
                    environment[name.upper()] = str(value)
            return cls.of_environment(environment), int(values["num_processes"])
        except (OSError, yaml.YAMLError) as error:
            raise UserError(
                f"{path}: {one_line(error)}. training/accelerate/ has valid ones."
            ) from None
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{path}: not as `accelerate config` writes it ({type(error).__name__}: "
                f"{one_line(error)}). training/accelerate/ has valid ones."
            ) from None

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> "Hardware":
        """The hardware in the variables that `accelerate launch` sets.

        Raises UserError for kinds of parallelism that training here can't use.
        """

        def size(name: str) -> int:
            """The size of one kind of parallelism; 1 if it is not set."""
            return int(environment.get(f"PARALLELISM_CONFIG_{name}_SIZE", "1"))

        def on(name: str, default: bool = False) -> bool:
            """Whether an option of FSDP is on."""
            value = environment.get(f"FSDP_{name}", str(default)).lower()
            # FSDP1 files say full_shard where FSDP2 files say true.
            return value in ("true", "1", "full_shard")

        if size("CP") > 1:
            raise UserError(
                "parallelism_config_cp_size > 1: context parallelism drops attention masks, so "
                "with checkpoint.document_mask documents would silently see each other. "
                "Divide rows with parallelism_config_sp_size instead (Ulysses)."
            )
        if size("TP") > 1:
            raise UserError(
                "parallelism_config_tp_size > 1: tensor parallelism is not offered; "
                "weights are sharded over all processes anyway (FSDP2). Remove it."
            )

        switches = switches_of(environment)
        # Each of these switches is a kind of activation checkpointing.
        checkpoint = bool({CHECKPOINT, KEEP_ATTENTION, OFFLOAD} & switches)
        return cls(
            sp=size("SP"),
            checkpoint_activations=on("ACTIVATION_CHECKPOINTING") or checkpoint,
            offload_activations=on("ACTIVATION_CHECKPOINTING_OFFLOAD") or OFFLOAD in switches,
            offload_weights=on("OFFLOAD_PARAMS"),
            reshard=on("RESHARD_AFTER_FORWARD", True),
            keep_attention=KEEP_ATTENTION in switches,
            switches=switches,
        )


def switches_of(environment: Mapping[str, str]) -> frozenset[str]:
    """The names in NEEDLEWORK_SWITCHES. Raises UserError for an unknown name or a conflict."""
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
