"""An accelerate file is read as accelerate reads it, or refused in one line."""

from pathlib import Path

import pytest

from core.errors import UserError
from training.hardware import Hardware

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "training/accelerate").glob("*.yaml")))
def test_every_file_of_ours_is_read(path: Path) -> None:
    hardware, processes = Hardware.of_file(path)
    assert processes % hardware.sp == 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"- num_processes: 2",
        b"fsdp_config: {}",
        b"num_processes: many",
        b"num_processes: 2\nfsdp_config: on",
        b"num_processes: 2\nparallelism_config: {parallelism_config_sp_size: all}",
        b"num_processes: [",
        b"\xff",
    ],
)
def test_a_file_that_is_not_of_accelerate_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"mine.yaml: .*training/accelerate/ has valid ones.") as it:
        Hardware.of_file(file)
    assert "\n" not in str(it.value)
