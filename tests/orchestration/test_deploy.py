"""The files for deploying agree with each other and with Dagster, and never open the webserver to
the network.
"""

import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from configparser import ConfigParser
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from dagster import AssetKey, DagsterInstance, DagsterInvalidConfigError
from dagster._core.instance.ref import InstanceRef
from dagster._daemon.cli import _get_heartbeat_tolerance
from dagster._grpc import utils as limits
from dvc_world import make_world, materialize, out_of_date_in_dagster

from core import elsewhere
from core.environment import (
    ALERT_URL,
    BUDGET,
    NIGHTLY,
    PROGRESS,
    RUN_POOL,
    SECONDS_TO_STOP,
    TICK_SECONDS,
    VARIABLES,
    Variable,
)
from orchestration import ui
from orchestration.retention import delete, expired
from orchestration.ui import LONG_NIGHTS, LONG_TICKS

pytestmark = pytest.mark.slow

DEPLOY = Path(__file__).parents[2] / "deploy"
PG_CTL = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))), None)


def read(name: str) -> dict[str, object]:
    """One of the files."""
    return dict(yaml.safe_load((DEPLOY / name).read_text()))


def test_every_port_of_the_composition_is_on_loopback() -> None:
    services = read("compose.yaml")["services"]
    assert isinstance(services, dict)
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)


def test_no_secret_stands_in_a_file() -> None:
    for path in DEPLOY.iterdir():
        for line in path.read_text().splitlines():
            for value in re.findall(
                r"(?:PASSWORD|SECRET\w*|KEY|TOKEN|ALERT_URL)['\"]?\s*:\s*(\S+)", line
            ):
                assert value.strip("\"'").startswith(("${", "{env")), f"{path.name}: {line}"


def test_the_charts_values_keep_the_webserver_inside_the_cluster() -> None:
    values = read("values.yaml")
    assert values["dagsterWebserver"]["service"]["type"] == "ClusterIP"  # type: ignore[index]
    assert values["ingress"]["enabled"] is False  # type: ignore[index]


def test_every_service_stands_on_what_the_composition_has() -> None:
    composition = read("compose.yaml")
    services = composition["services"]
    assert isinstance(services, dict)
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services), name
        assert all("healthcheck" in services[other] for other in service.get("depends_on", {})), (
            name
        )
        assert set(service["networks"]) <= set(composition["networks"]), name  # type: ignore[call-overload]
        named = {
            volume.split(":")[0] for volume in service.get("volumes", ()) if volume[0] not in "./$"
        }
        assert named <= set(composition["volumes"]), name  # type: ignore[call-overload]
        for volume in service.get("volumes", ()):
            if volume.startswith("./"):
                assert (DEPLOY / volume.split(":")[0]).is_file(), volume


def test_every_setting_that_a_user_may_leave_out_has_a_default() -> None:
    services = read("compose.yaml")["services"]
    assert isinstance(services, dict)
    asked = {
        name: value
        for service in services.values()
        for name, value in service["environment"].items()
        if "${" in value and name != "POSTGRES_PASSWORD"
    }
    assert "NEEDLEWORK_POOLS" in asked and all(":-" in value for value in asked.values()), asked


def test_a_look_has_hours_wherever_it_is_deployed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    services, values = read("compose.yaml")["services"], read("values.yaml")
    assert isinstance(services, dict)
    assert services["daemon"]["environment"].items() >= LONG_TICKS.items()
    assert services["code"]["environment"].items() >= {**LONG_TICKS, **LONG_NIGHTS}.items()
    daemon = values["dagsterDaemon"]
    assert isinstance(daemon, dict)
    of_the_chart = {
        **daemon["env"],
        "DAGSTER_DAEMON_HEARTBEAT_TOLERANCE": str(daemon["heartbeatTolerance"]),
    }
    assert {**of_the_chart, "DAGSTER_GRPC_SHUTDOWN_GRACE_PERIOD": "60"} == LONG_TICKS
    for name, value in {**LONG_TICKS, **LONG_NIGHTS}.items():
        monkeypatch.setenv(name, value)
    tick = int(LONG_TICKS["DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS"])
    assert (
        limits.default_sensor_grpc_timeout(),
        limits.default_schedule_grpc_timeout(),
        limits.default_grpc_timeout(),
        limits.default_grpc_server_shutdown_grace_period(),
    ) == (tick, tick, tick, 60)
    assert _get_heartbeat_tolerance() > tick, "the daemon counts as dead while it waits for a tick"


def test_the_image_may_read_a_repository_of_another_user() -> None:
    assert "safe.directory /project\n" in (DEPLOY / "Dockerfile").read_text()
    services = read("compose.yaml")["services"]
    assert isinstance(services, dict)
    assert any(volume.endswith(":/project") for volume in services["code"]["volumes"])


def names_of(variables: Iterable[Variable]) -> set[str]:
    """Their names; for the launcher of a pool one for each pool of dvc.yaml."""
    pools = re.findall(r"pool: (\w+)", (DEPLOY.parent / "dvc.yaml").read_text())
    names = {each.name for each in variables} - {RUN_POOL.name}
    return names | {f"{elsewhere.VARIABLE}{pool}" for pool in pools}


NOT_OF_A_RUN = {TICK_SECONDS, NIGHTLY, BUDGET, PROGRESS}
"""The first three are read by sensors and schedule alone; a run sets the last for its items."""


def test_a_run_in_a_container_has_every_variable_that_it_reads() -> None:
    launcher = read("dagster.yaml")["run_launcher"]
    services = read("compose.yaml")["services"]
    assert isinstance(launcher, dict) and isinstance(services, dict)
    passed = {name for name in launcher["config"]["env_vars"] if name.startswith("NEEDLEWORK_")}
    assert passed == names_of(each for each in VARIABLES if each not in NOT_OF_A_RUN)
    given = services["daemon"]["environment"].keys()
    assert names_of(VARIABLES) - {PROGRESS.name} <= given


def test_a_pod_has_every_variable_and_no_secret_in_the_values() -> None:
    deployment = read("values.yaml")["dagster-user-deployments"]["deployments"][0]  # type: ignore[index]
    named = {name for name in deployment["env"] if name.startswith("NEEDLEWORK_")}
    assert named == names_of(VARIABLES) - {PROGRESS.name, ALERT_URL.name}
    assert ALERT_URL.name in (DEPLOY / "values.yaml").read_text(), "it comes from a secret"


def test_a_container_may_take_as_long_to_end_as_a_stage() -> None:
    launcher, values = read("dagster.yaml")["run_launcher"], read("values.yaml")
    assert isinstance(launcher, dict)
    k8s = values["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]  # type: ignore[index]
    step = read("op-tags.yaml")["gpu"]["dagster-k8s/config"]["pod_spec_config"]  # type: ignore[index]
    for limit in (
        launcher["config"]["container_kwargs"]["stop_timeout"],
        k8s["podSpecConfig"]["terminationGracePeriodSeconds"],
        step["termination_grace_period_seconds"],
    ):
        assert limit > float(SECONDS_TO_STOP.default)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DAGSTER_HOME with deploy/dagster.yaml as it stands, and what the composition sets."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(DEPLOY / "dagster.yaml", home)
    for name, value in {
        "DAGSTER_HOME": str(home),
        "POSTGRES_HOST": "127.0.0.1",
        "POSTGRES_USER": "dagster",
        "POSTGRES_PASSWORD": "unused",
        "POSTGRES_DB": "postgres",
    }.items():
        monkeypatch.setenv(name, value)
    return home


def test_dagster_and_the_docker_launcher_take_their_settings(environment: Path) -> None:
    docker = pytest.importorskip("dagster_docker", reason="the extra `deploy` is not installed")
    reference = InstanceRef.from_dir(str(environment))  # Dagster checks every section by its schema
    launcher = reference.run_launcher
    assert isinstance(launcher, docker.DockerRunLauncher)
    context = docker.container_context.DockerContainerContext.create_from_config(
        {"docker": {}}
    ).merge(
        docker.container_context.DockerContainerContext(
            env_vars=launcher.env_vars,
            networks=launcher.networks,
            container_kwargs=launcher.container_kwargs,
        )
    )
    services = read("compose.yaml")["services"]
    assert isinstance(services, dict)
    assert set(context.env_vars) <= set(services["daemon"]["environment"]), (
        "Dagster starts no run with one unset"
    )
    assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= set(context.env_vars)
    assert context.networks == [read("compose.yaml")["networks"]["needlework"]["name"]]  # type: ignore[index]
    assert reference.settings["run_retries"]["retry_on_asset_or_op_failure"] is False
    (environment / "dagster.yaml").write_text(
        (DEPLOY / "dagster.yaml").read_text().replace("env_vars:", "env_varz:")
    )
    with pytest.raises(DagsterInvalidConfigError, match="env_varz"):
        assert InstanceRef.from_dir(str(environment)).run_launcher


def test_the_charts_runs_have_the_project_once_and_its_secrets() -> None:
    k8s = pytest.importorskip(
        "dagster_k8s.container_context", reason="the extra `deploy` is not installed"
    )
    values = read("values.yaml")

    def context(given: dict[str, object]) -> object:
        known = {"envSecrets": "env_secrets", "volumes": "volumes", "volumeMounts": "volume_mounts"}
        config = {new: given[old] for old, new in known.items() if old in given}
        config["env"] = [
            {"name": name, "value": value} for name, value in given.get("env", {}).items()
        ]  # type: ignore
        config["env_secrets"] = [secret["name"] for secret in config["env_secrets"]]  # type: ignore[attr-defined]
        more = given.get("runK8sConfig", {})
        config["run_k8s_config"] = {"container_config": more.get("containerConfig", {})}  # type: ignore[attr-defined]
        return k8s.K8sContainerContext.create_from_config(
            {"k8s": config}
        )  # Dagster checks it by Kubernetes' models

    deployment = values["dagster-user-deployments"]["deployments"][0]  # type: ignore[index]
    launcher = values["runLauncher"]["config"]["k8sRunLauncher"]  # type: ignore[index]
    merged = context(deployment).merge(context(launcher))  # type: ignore[attr-defined]
    run = merged.run_k8s_config
    assert [mount["mount_path"] for mount in run.container_config["volume_mounts"]] == ["/project"]
    assert [volume["name"] for volume in run.pod_spec_config["volumes"]] == ["project"]
    assert [source["secret_ref"]["name"] for source in run.container_config["env_from"]] == [
        "needlework-remote"
    ]
    assert {"name": "NEEDLEWORK_POOLS", "value": "gpu=1"} in run.container_config["env"]
    environment = deployment["env"]
    assert environment["NEEDLEWORK_EXECUTOR"] == "dagster_k8s:k8s_job_executor"
    assert environment["NEEDLEWORK_OP_TAGS"] == "deploy/op-tags.yaml"
    assert "resources" not in run.container_config  # a step asks for GPUs, by its pool; no run does
    asked = read("op-tags.yaml")["gpu"]["dagster-k8s/config"]
    step = k8s.K8sContainerContext.create_from_config({"k8s": {"run_k8s_config": asked}})
    assert step.run_k8s_config.container_config["resources"]["limits"] == {"nvidia.com/gpu": 8}


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def postgres(tmp_path: Path, environment: Path) -> Iterator[Path]:
    """A Postgres of its own on a socket in a temporary folder; DAGSTER_HOME with the storage of
    deploy/dagster.yaml.
    """
    pytest.importorskip("dagster_postgres", reason="the extra `deploy` is not installed")
    if PG_CTL is None:
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    data, port, owner = tmp_path / "pg", free_port(), list[str]()
    if os.geteuid() == 0:  # Postgres refuses to run as root
        owner = ["runuser", "-u", "postgres", "--"]
        shutil.chown(tmp_path, "postgres")
        for folder in list(tmp_path.parents)[:3]:  # pytest's own, one more with several workers
            if folder != Path(tempfile.gettempdir()):
                folder.chmod(0o711)
    command = [*owner, str(PG_CTL), "-D", str(data)]
    subprocess.run(
        [*command, "initdb", "-o", "--auth=trust --username=dagster"],
        check=True,
        capture_output=True,
    )
    options = f"-c listen_addresses=127.0.0.1 -p {port} -k {tmp_path}"
    subprocess.run(
        [*command, "start", "-w", "-l", str(tmp_path / "log"), "-o", options],
        check=True,
        capture_output=True,
    )
    settings = read("dagster.yaml")
    settings["storage"]["postgres"]["postgres_db"]["port"] = port  # type: ignore[index]
    del settings["run_launcher"]
    (environment / "dagster.yaml").write_text(yaml.safe_dump(settings))
    yield environment
    subprocess.run([*command, "stop", "-m", "immediate"], check=True, capture_output=True)
    shutil.rmtree(data, ignore_errors=True)


def test_postgres_keeps_runs_until_retention_lets_them_go(tmp_path: Path, postgres: Path) -> None:
    world = make_world(tmp_path / "world")
    with DagsterInstance.get() as instance:
        _, run = materialize(world, instance)
        assert run.success
    with DagsterInstance.get() as again:
        assert again.get_latest_materialization_event(AssetKey(["raw", "book"])) is not None
        assert "postgres" in type(again.event_log_storage).__module__
        materialize(world, again)
        old = expired(again, datetime.now(UTC), 0)
        assert [gone.run_id for gone in old] == [run.run_id]
        delete(again, old[0])
        assert again.get_runs_count() == 1 and out_of_date_in_dagster(world, again) == set()


def test_systemd_ends_make_ui_and_waits_for_a_snapshot() -> None:
    unit = ConfigParser(interpolation=None)
    unit.read(DEPLOY / "needlework.service")
    service = unit["Service"]
    python, *module = service["ExecStart"].split()
    assert Path(python).parts[-3:] == (".venv", "bin", "python")
    assert module == ["-m", ui.__name__] and python.startswith(service["WorkingDirectory"])
    assert service["KillMode"] == "mixed" and service["Restart"] == "always"
    assert (
        float(service["TimeoutStopSec"]) > float(SECONDS_TO_STOP.default) + ui.SECONDS_FOR_SERVERS
    )
