"""A training that the host's memory can't hold is refused before its first step."""

from pathlib import Path

import numpy as np
import pytest
from worlds import tiny

from core.errors import UserError
from training.batches import PackedRows
from training.extension import _room
from training.flops import Shape
from training.hardware import Hardware
from training.host_memory import available, pinned, planned, why_too_much
from training.memory import GIB, Load
from training.optimizer_config import OptimizerConfig
from training.parallel import alone
from training.trainer import Task

LLAMA = Shape(
    layers=32,
    width=4096,
    heads=32,
    key_value_heads=32,
    head_dim=128,
    feed_forward=11_008,
    vocabulary=32_000,
    tied=False,
)


@pytest.mark.parametrize(("size", "taken"), [(1, 1), (4, 4), (5, 8), (172, 256)])
def test_a_pinned_block_takes_the_next_power_of_two(size: int, taken: int) -> None:
    assert pinned(size) == taken


def test_offloading_a_7b_takes_more_than_the_sum_of_sizes() -> None:
    """148 GiB, where the sizes alone are 120: a host of 128 GiB killed it (pytorch#95823)."""
    away = Hardware(checkpoint_activations=True, offload_activations=True, offload_weights=True)
    load = Load(shape=LLAMA, hardware=away, tokens=81_920)
    assert planned(load, on_cpu=False) / GIB == pytest.approx(148, rel=0.02)
    assert planned(Load(shape=LLAMA, hardware=Hardware(), tokens=81_920), on_cpu=False) == 0


def test_the_host_has_what_kernel_and_container_leave(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:    8 kB\n")
    assert available(meminfo, tmp_path) == 8 * 1024
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("4000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500\n")
    assert available(meminfo, tmp_path) == 1500, "files that were read can be given back"
    (tmp_path / "memory.max").write_text("max\n")
    assert available(meminfo, tmp_path) == 8 * 1024
    assert available(tmp_path / "none", tmp_path) is None


def test_more_than_there_is_is_one_sentence_with_both_numbers() -> None:
    assert why_too_much(GIB, 2 * GIB, 2) is None
    assert why_too_much(GIB, None, 2) is None, "unknown: the training decides"
    told = why_too_much(1.5 * GIB, 2 * GIB, 2)
    assert told is not None and "1.5 GiB" in told and "2 processes" in told and "2.0 GiB" in told


def test_a_training_is_refused_before_its_first_step() -> None:
    model = tiny()
    assert "planned 0." in _room(model.config, alone(), task(64))
    with pytest.raises(UserError, match="x: this training needs about .* are available"):
        _room(model.config, alone(), task(1 << 50))


def task(micro_batch: int) -> Task:
    """One step of so many tokens at once."""
    rates = OptimizerConfig(
        learning_rate=1e-3, batch_tokens=micro_batch, micro_batch_tokens=micro_batch
    )
    rows = PackedRows(length=64, first=np.zeros(1, np.int64), blocks=[])
    return Task(what="x", rows=rows, steps=1, optimizer=rates, seed=0, bf16=False)
