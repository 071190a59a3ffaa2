"""make check and make plan start light, for every run and every change asks them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from evaluation.preflight import ALWAYS, OF_MODELS

ROOT = Path(__file__).parents[1]
HEAVY = ("accelerate", "lm_eval", "matplotlib", "pandas", "torch", "transformers")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's project without code, and without models that were downloaded."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("models/sample-base", "profiles", "sources", "training/accelerate"):
        shutil.copytree(ROOT / name, folder / name)
    for path in (ROOT / "models").glob("*.json"):
        shutil.copyfile(path, folder / "models" / path.name)
    shutil.copyfile(ROOT / "dvc.yaml", folder / "dvc.yaml")
    shutil.copyfile(ROOT / "profiles" / "sample.yaml", folder / "params.yaml")
    return folder


def brought_along(project: Path, module: str, *arguments: str) -> str:
    """The heavy packages that a command has imported when it ends."""
    program = f"""
import runpy, sys
sys.argv[1:] = {list(arguments)!r}
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "command",
    ["evaluation.preflight", "evaluation.preflight --json", "training.plan llama2-7b-80k"],
)
def test_make_check_and_make_plan_import_nothing_heavy(project: Path, command: str) -> None:
    module, *arguments = command.split()
    assert brought_along(project, module, *arguments) == "[]"


def test_every_stage_with_settings_is_checked() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert ALWAYS.keys() | OF_MODELS.keys() == stages.keys()
