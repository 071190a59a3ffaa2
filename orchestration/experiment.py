"""Try other parameters without editing a file: the job `experiment`, started from Dagster's launchpad.

It is `dvc exp run --temp` with the overrides: the same graph in a folder of DVC's own, the same cache, so what the
overrides do not touch is restored and not made again. What comes out is an experiment of DVC's, with its parameters and
metrics (`dvc exp show`), and can be brought into the project with `dvc exp apply NAME`. The cost: DVC copies what git
tracks, so parameters that name files beside the project must be absolute paths, and the project a git repository.
"""

import subprocess
import sys
from pathlib import Path

from dagster import Config, Failure, JobDefinition, MetadataValue, OpExecutionContext, Output, job, op
from pydantic import Field

from orchestration.running import Children, environment


class Experiment(Config):  # type: ignore[misc]  # dagster leaves its base untyped
    """What the launchpad asks for."""

    name: str = Field(description="The experiment's name, as `dvc exp show` will list it")
    overrides: dict[str, str] = Field(description='e.g. {"mixed_dataset.recipes.per_source.long_share": "0.8"}')
    targets: list[str] = Field(default=[], description="Items to make, with what lies upstream; none: everything")


def experiment_command(config: Experiment) -> list[str]:
    """What a user would type."""
    changes = [part for key, value in config.overrides.items() for part in ("--set-param", f"{key}={value}")]
    return [sys.executable, "-m", "dvc", "exp", "run", "--temp", "--name", config.name, *changes, *config.targets]


def experiment_job(root: Path) -> JobDefinition:
    """A job of one op on the project in `root`."""

    @op
    def dvc_exp_run(context: OpExecutionContext, config: Experiment) -> Output[None]:
        if not (root / ".git").exists():
            raise Failure("An experiment needs a git repository, and this project is none: git init, and commit.")
        children, lines = Children(root), list[str]()
        try:
            for line in filter(None, children.lines(experiment_command(config))):
                lines.append(line)
                context.log.info(line)
        except subprocess.CalledProcessError:
            raise Failure("dvc exp run failed. Its last lines:\n" + "\n".join(lines[-20:])) from None
        finally:
            children.stop()
        shown = subprocess.run([sys.executable, "-m", "dvc", "metrics", "diff", "HEAD", config.name, "--md"], cwd=root,
                               env=environment(), text=True, capture_output=True)
        return Output(None, metadata={"experiment": config.name,
                                      "overrides": MetadataValue.json(dict(config.overrides)),
                                      "metrics, HEAD and experiment": MetadataValue.md(shown.stdout),
                                      "to keep it": f"dvc exp apply {config.name}"})

    @job(name="experiment", description="Other parameters, without editing a file: `dvc exp run` with overrides")
    def experiment() -> None:
        dvc_exp_run()

    return experiment
