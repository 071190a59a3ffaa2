"""Train a model in its scratch folder: in this process, or in those of an accelerate file.

NEEDLEWORK_ACCELERATE names a file of training/accelerate/ that says which devices train. Without it
this one CPU process trains. The cost of the second way: the processes report through the scratch
folder and their exit status only.
"""

import os
import sys
from pathlib import Path

from core.environment import ACCELERATE, SECONDS_TO_STOP, number_of, text_of
from core.errors import UserError
from core.sealed import is_whole
from training.extension import STOPPED, extend
from training.parallel import alone
from training.scratch import clear_others, decides, model_params
from training.trainer import Stopped

TORCH_PATIENCE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"  # without it, torch kills 30 s after SIGTERM


def train_in_scratch(name: str, scratch: Path) -> Path:
    """Train the model `name`, unless that is done; returns the folder of the finished model."""
    clear_others(scratch, decides(name, *model_params(name)))
    file = text_of(ACCELERATE)
    if not file:
        try:
            return extend(name, alone())
        except Stopped:
            sys.exit(STOPPED)

    if not Path(file).is_file():
        raise UserError(
            f"{ACCELERATE} = {file}: no such file. training/accelerate/ has some; "
            "`accelerate config` writes others."
        )
    _launch(file, name)
    if not is_whole(scratch / "final"):
        raise UserError(
            f"{name}: trained, but not into {scratch}: parameters, base or rows "
            "changed while it ran. Run it again."
        )
    return scratch / "final"


def _launch(file: str, name: str) -> None:
    """Run training.extension under `accelerate launch`. Its processes print their own errors."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    be_patient()
    arguments = ["--config_file", file, "--module", "training.extension", name]
    try:
        launch_command(launch_command_parser().parse_args(arguments))
    except SignalException:
        sys.exit(STOPPED)
    except ChildFailedError as error:
        codes = sorted({failure.exitcode for failure in error.failures.values()})
        if STOPPED in codes:
            sys.exit(STOPPED)
        raise UserError(
            f"training under {file} ended with exit status {', '.join(map(str, codes))}; "
            "the reason is above."
        ) from None


def be_patient() -> None:
    """Make the launcher wait NEEDLEWORK_SECONDS_TO_STOP after SIGTERM, unless it is set already.

    In this time the current micro-batch ends (minutes, for a 7B at 80K), and the snapshot is
    written (84 GB for a 7B).
    """
    seconds = int(number_of(SECONDS_TO_STOP))
    os.environ.setdefault(TORCH_PATIENCE, str(seconds))
