"""The files for deploying agree with each other and with Dagster, and never open the webserver to the network."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dagster import AssetKey, DagsterInstance
from dvc_world import make_world, materialize

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
            for value in re.findall(r"(?:PASSWORD|SECRET\w*|KEY)['\"]?\s*:\s*(\S+)", line):
                assert value.strip("\"'").startswith(("${", "{env")), f"{path.name}: {line}"


def test_the_charts_values_keep_the_webserver_inside_the_cluster() -> None:
    values = read("values.yaml")
    assert values["dagsterWebserver"]["service"]["type"] == "ClusterIP"  # type: ignore[index]
    assert values["ingress"]["enabled"] is False  # type: ignore[index]


@pytest.fixture
def postgres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Postgres of its own on a socket in a temporary folder; DAGSTER_HOME with the storage of deploy/dagster.yaml."""
    pytest.importorskip("dagster_postgres", reason="the extra `deploy` is not installed")
    if PG_CTL is None:
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    data, owner = tmp_path / "pg", []
    if os.geteuid() == 0:  # Postgres refuses to run as root
        owner = ["runuser", "-u", "postgres", "--"]
        for folder in (tmp_path, *list(tmp_path.parents)[:2]):
            folder.chmod(0o777)
    command = [*owner, str(PG_CTL), "-D", str(data)]
    subprocess.run([*command, "initdb", "-o", "--auth=trust --username=dagster"], check=True, capture_output=True)
    options = f"-c listen_addresses=127.0.0.1 -p 54329 -k {tmp_path}"
    subprocess.run([*command, "start", "-w", "-l", str(tmp_path / "log"), "-o", options], check=True,
                   capture_output=True)
    home = tmp_path / "home"
    home.mkdir()
    settings = read("dagster.yaml")
    settings["storage"]["postgres"]["postgres_db"]["port"] = 54329  # type: ignore[index]
    del settings["run_launcher"]
    (home / "dagster.yaml").write_text(yaml.safe_dump(settings))
    for name, value in {"DAGSTER_HOME": str(home), "POSTGRES_HOST": "127.0.0.1", "POSTGRES_USER": "dagster",
                        "POSTGRES_PASSWORD": "unused", "POSTGRES_DB": "postgres"}.items():
        monkeypatch.setenv(name, value)
    yield home
    subprocess.run([*command, "stop", "-m", "immediate"], check=True, capture_output=True)
    shutil.rmtree(data, ignore_errors=True)


def test_runs_and_assets_are_kept_in_postgres(tmp_path: Path, postgres: Path) -> None:
    world = make_world(tmp_path / "world")
    with DagsterInstance.get() as instance:
        _, run = materialize(world, instance)
        assert run.success
    with DagsterInstance.get() as again:
        assert again.get_latest_materialization_event(AssetKey(["raw", "book"])) is not None
        assert "postgres" in type(again.event_log_storage).__module__
