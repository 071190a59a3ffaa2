"""Two processes train what one trains: sharded, with divided rows, masked, and after a resume in
another number of processes.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import starts
import torch
import yaml
from safetensors.torch import load_file
from starts import Started
from torch.distributed.launcher.api import LaunchConfig
from worlds import LENGTH, tiny

from core.errors import UserError
from core.sealed import is_whole
from training.checkpoint import run
from training.launch import be_patient

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
Project = Callable[..., Path]


def accelerate_file(root: Path, processes: int = 2, **options: object) -> Path:
    """training/accelerate/cpu-2.yaml with changes."""
    values = yaml.safe_load((ROOT / "training/accelerate/cpu-2.yaml").read_text())
    values["num_processes"] = processes
    values["fsdp_config"] |= options.pop("fsdp", {})
    values |= options
    path = root / "accelerate.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def started(file: Path, **environment: str) -> Started:
    """The stage under that file."""
    settings = {
        "PYTHONPATH": str(ROOT),
        "NEEDLEWORK_ACCELERATE": str(file),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        **environment,
    }
    return starts.start(
        "training.checkpoint", "model", env={**os.environ, **settings}, new_session=True
    )


def launched(file: Path, until: str | None = None, **environment: str) -> str:
    """Run the stage under that file, or kill it when a snapshot of the name `until` is there;
    returns what it said.
    """
    process = started(file, **environment)
    if until is not None:
        process.wait_for(lambda: list(Path(".training/checkpoint/model").glob(f"*/{until}")))
        os.killpg(process.pid, 9)
    said = process.communicate()[1]
    assert until is not None or process.returncode == 0, said[-3000:]
    return said


def weights(root: Path) -> dict[str, torch.Tensor]:
    """The trained model's."""
    return load_file(root / "data/checkpoint/model/model.safetensors")


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Equal up to the order of fp32 sums over six steps."""
    return one.keys() == other.keys() and all(
        torch.allclose(one[name], other[name], atol=2e-5) for name in one
    )


@pytest.mark.parametrize(
    "case", ["sharded, masked, recomputed", "along the row", "along the row, masked"]
)
def test_two_processes_train_the_model_that_one_trains(project: Project, case: str) -> None:
    overrides = {
        "document_mask": "masked" in case,
        "tokens": 3 * 5 * LENGTH,
        "optimizer": {"batch_tokens": 5 * LENGTH},
        "models": {"model": {"source": "data/packed_shards/rows"}},
    }
    alone = project(**overrides)
    run("model")
    together = project(**overrides)
    row = {"parallelism_config": {"parallelism_config_sp_size": 2}} if "along" in case else {}
    fsdp = {"fsdp_activation_checkpointing": True} if "recomputed" in case else {}
    said = launched(accelerate_file(together, fsdp=fsdp, **row))
    assert "2 x cpu" in said and ("Ulysses" in said) == ("along" in case)
    assert close(weights(alone), weights(together))
    assert not close(weights(alone), load_file(alone / "data/base_checkpoint/model.safetensors"))


def test_a_training_goes_on_with_another_number_of_processes(project: Project) -> None:
    """Its first steps are sharded without a mask: the case that the test above leaves out."""
    alone = project()
    run("model")
    changed = project()
    launched(accelerate_file(changed, 2), until="step-00000003", NEEDLEWORK_SNAPSHOT_SECONDS="0")
    assert "resuming after step" in launched(accelerate_file(changed, 1))
    assert close(weights(alone), weights(changed))
    assert not close(weights(alone), load_file(alone / "data/base_checkpoint/model.safetensors"))


def test_sigterm_leaves_a_snapshot_of_all_processes(project: Project) -> None:
    root = project(tokens=100_000 * 4 * LENGTH)
    process = started(accelerate_file(root), NEEDLEWORK_SNAPSHOT_SECONDS="3600")
    process.wait_for(lambda: list(root.glob(".training/checkpoint/model/*/at/*/record.json")))
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1]
    assert process.returncode == 143 and "stopped after step" in said
    (left,) = root.glob(".training/checkpoint/model/*/step-*")
    assert len(list(left.glob("part-*"))) == 2 and is_whole(left)


def test_the_launcher_waits_the_seconds_to_stop_after_sigterm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def waits() -> int | None:
        be_patient()
        found = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=1).shutdown_timeout
        monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT")
        return found

    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "7")
    assert waits() == 7
    monkeypatch.delenv("NEEDLEWORK_SECONDS_TO_STOP", raising=False)
    assert waits() == 900
    monkeypatch.setenv("NEEDLEWORK_SECONDS_TO_STOP", "120")
    assert waits() == 120
    monkeypatch.setenv("NEEDLEWORK_SECONDS_TO_STOP", "2m")
    with pytest.raises(UserError, match="NEEDLEWORK_SECONDS_TO_STOP = 2m"):
        be_patient()


def test_8_bit_moments_resume_only_in_as_many_processes(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchao", reason="the extra `memory` is not installed")
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")  # torchao compiles its step, which takes minutes
    overrides = {
        "optimizer": {"kind": "adamw_8bit"},
        "models": {"model": {"source": "data/packed_shards/rows"}},
    }
    whole = project(**overrides)
    tiny(feed_forward=512).save_pretrained(
        whole / "data/base_checkpoint"
    )  # half of a smaller layer stays in fp32
    launched(accelerate_file(whole))
    struck = project(**overrides)
    tiny(feed_forward=512).save_pretrained(struck / "data/base_checkpoint")
    launched(accelerate_file(struck), until="step-00000003", NEEDLEWORK_SNAPSHOT_SECONDS="0")
    (newest, *_) = sorted(struck.glob(".training/checkpoint/model/*/step-*"), reverse=True)
    parts = [load_file(part) for part in sorted(newest.glob("part-*"))]
    codes = [{name.split("/")[0] for name in part if ".codes" in name} for part in parts]
    assert codes == [{f"exp_avg.codes@{rank}", f"exp_avg_sq.codes@{rank}"} for rank in (0, 1)]
    with pytest.raises(UserError, match="belong to 2 processes.*can't be used by 1"):
        run("model")
    assert "resuming after step" in launched(accelerate_file(struck))
    assert all(torch.equal(part, weights(struck)[name]) for name, part in weights(whole).items())


def test_a_mistake_under_several_processes_is_one_line(project: Project) -> None:
    root = project()
    file = accelerate_file(root, parallelism_config={"parallelism_config_cp_size": 2})
    process = started(file)
    said = process.communicate()[1]
    assert process.returncode == 1 and "documents would silently see each other" in said
    assert "Traceback" not in said
