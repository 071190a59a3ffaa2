"""make check and make plan start light, for every run and every change asks them."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from evaluation.settings import ALWAYS, OF_MODELS

ROOT = Path(__file__).parents[1]
HEAVY = ("accelerate", "lm_eval", "matplotlib", "pandas", "torch", "transformers")


def brought_along(project: Path, module: str, *arguments: str) -> str:
    """The heavy packages that a command has imported when it ends, by the last line it prints."""
    program = f"""
import runpy, sys
sys.argv[1:] = {list(arguments)!r}
try:
    runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
finally:
    print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=project
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "command",
    [
        "evaluation.settings",
        "evaluation.settings --json",
        "training.plan sample",
        "training.plan llama2-7b-80k",
        "training.plan qwen3-8b-128k",
    ],
)
def test_make_check_and_make_plan_start_without_torch_and_what_draws(command: str) -> None:
    module, *arguments = command.split()
    assert brought_along(ROOT, module, *arguments) == "[]"


def test_every_stage_with_settings_is_checked() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert ALWAYS.keys() | OF_MODELS.keys() == stages.keys()
