"""The services of docker/compose.yaml as processes of this machine: each one's own command and environment, and its own health check.

What a container would give is put in its place: names of hosts become ports of this machine, /run/secrets and the volumes become folders.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from tasks.services.prefect_server import free_port

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
PORTS = {"postgres": 5432, "redis": 6379, "store": 8333, "prefect-server": 4200, "mlflow": 5000, "worker": 8080}
READY_SECONDS = 400
STOP_SECONDS = 60


def needed_programs() -> list[str]:
    """Those of the programs that the images bring which are missing here."""
    return [name for name in ("initdb", "redis-server", "weed") if shutil.which(name, path=_path()) is None]


def _path() -> str:
    debian = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], *debian])


class Services:
    """Starts and stops services in `folder`, which holds their volumes, secrets and logs. `project` is the worker's checkout."""

    def __init__(self, folder: Path, project: Path) -> None:
        self.folder, self.project = folder, project
        self.compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
        self.ports = {service: free_port() for service in PORTS}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("volumes", "logs", "backups"):
            (folder / name).mkdir()
            (folder / name).chmod(0o755)
        subprocess.run([DOCKER / "make-secrets", folder / "secrets"], check=True)
        for path in (folder / "secrets").iterdir():
            text = self._local(path.read_text())
            path.unlink()
            path.write_text(text)
        for name in ("with-secrets", "databases.sql", "mlflow_auth.ini"):
            (folder / name).write_text(self._local((DOCKER / name).read_text()))
        (folder / "with-secrets").chmod(0o755)

    def secret(self, name: str) -> str:
        return (self.folder / "secrets" / name).read_text()

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.ports[service]}"

    def environment(self, service: str) -> dict[str, str]:
        """What the service's command gets, with its secrets still as files."""
        temporary = self.folder / "tmp" / service
        temporary.mkdir(parents=True, exist_ok=True)
        written: dict[str, Any] = self.compose["services"][service].get("environment", {})
        given = {name: self._local(re.sub("^/tmp", str(temporary), str(value)), service) for name, value in written.items()}
        given |= {name: "127.0.0.1" for name in given if name.endswith("HOST")}
        extra = {
            "PATH": _path(),
            "PYTHONPATH": f"{self.project / 'src'}",
            "LC_ALL": "C.UTF-8",
            "DO_NOT_TRACK": "1",
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(temporary),
        }
        if service == "worker":
            extra["PREFECT_WORKER_WEBSERVER_PORT"] = str(self.ports["worker"])
        if service == "mlflow":
            extra |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        if service == "postgres":
            extra |= {"PGPORT": str(self.ports["postgres"]), "PGDATA": str(self.folder / "volumes" / "postgres")}
        return {**given, **extra}

    def command(self, service: str) -> list[str]:
        words = [self._local(word, service) for word in self.compose["services"][service]["command"]]
        if service == "postgres":
            words += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.folder / 'volumes'}"]
            return [*_as_postgres(), *words]
        if service == "store":  # ports that a container has for itself
            words += [f"-{part}={free_port()}" for part in ("master.port", "volume.port", "filer.port")]
            words += [f"-{part}={free_port()}" for part in ("master.port.grpc", "volume.port.grpc", "filer.port.grpc", "s3.port.grpc")]
        return [str(self.folder / "with-secrets"), *words]

    def start(self, *names: str) -> None:
        """Starts services and waits until each one's health check passes."""
        for name in names:
            if name == "postgres":
                self._make_databases()
            (self.folder / "volumes" / name).mkdir(exist_ok=True)
            folder = self.project if "working_dir" in self.compose["services"][name] else self.folder
            with (self.folder / "logs" / f"{name}.log").open("ab") as log:
                self._running[name] = subprocess.Popen(
                    self.command(name), cwd=folder, env=self.environment(name), stdout=log, stderr=log, start_new_session=True
                )
        for name in names:
            self._wait_until_healthy(name)

    def run(self, name: str, *arguments: str) -> str:
        """Runs a service that ends by itself; `arguments` take the place of its last ones."""
        words = self.command(name)
        words[len(words) - len(arguments) :] = arguments
        folder = self.project if "working_dir" in self.compose["services"][name] else self.folder
        done = subprocess.run(
            words, cwd=folder, env=self.environment(name), capture_output=True, text=True, timeout=READY_SECONDS, check=False
        )
        with (self.folder / "logs" / f"{name}.log").open("a") as log:
            log.write(done.stdout + done.stderr)
        assert done.returncode == 0, f"{name}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def stop(self, *names: str) -> None:
        """Asks services to end, in the order given, as Docker does: SIGTERM to the one process. All, without names."""
        for name in names or tuple(reversed(self._running)):
            process = self._running.pop(name)
            children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)  # SIGINT: the image's STOPSIGNAL
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for child in children:  # what a container's end would take along
                if child.is_running():
                    child.kill()

    def wipe(self) -> None:
        """Every volume's content is gone."""
        shutil.rmtree(self.folder / "volumes")
        (self.folder / "volumes").mkdir()

    def log(self, name: str) -> str:
        return (self.folder / "logs" / f"{name}.log").read_text(errors="replace")

    def _wait_until_healthy(self, name: str) -> None:
        check = self.compose["services"][name].get("healthcheck")
        deadline = time.monotonic() + READY_SECONDS
        while check:
            kind, *words = [self._local(word, name) for word in check["test"]]
            words = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
            if subprocess.run(words, env=self.environment(name), capture_output=True, check=False).returncode == 0:
                return
            assert self._running[name].poll() is None, f"{name} ended: {self.log(name)[-3000:]}"
            assert time.monotonic() < deadline, f"{name} is not healthy: {self.log(name)[-3000:]}"
            time.sleep(0.5)

    def _make_databases(self) -> None:
        """What the postgres image does when its volume is new."""
        volume = self.folder / "volumes" / "postgres"
        if volume.exists():
            return
        volume.mkdir(mode=0o700)
        if os.getuid() == 0:
            shutil.chown(volume, "postgres", "postgres")
            shutil.chown(self.folder / "volumes", "postgres", "postgres")
        environment = self.environment("postgres")
        password = self.folder / "postgres-password"
        password.write_text(self.secret("postgres_password"))
        arguments = environment["POSTGRES_INITDB_ARGS"].split()
        initdb = [*_as_postgres(), "initdb", "--username=postgres", f"--pwfile={password}", *arguments]
        subprocess.run(initdb, env=environment, cwd=volume, check=True, capture_output=True)
        password.unlink()
        control = [*_as_postgres(), "pg_ctl", "--wait", "--silent", f"--log={volume / 'init.log'}"]
        options = f"-c listen_addresses='' -c unix_socket_directories={volume}"
        subprocess.run([*control, "start", "--options", options], env=environment, cwd=volume, check=True, capture_output=True)
        # psql reads the secrets' files itself; it is run as this user, who may.
        sign_in = environment | {"PGPASSWORD": self.secret("postgres_password"), "PGHOST": str(volume), "PGUSER": "postgres"}
        subprocess.run(
            ["psql", "--set=ON_ERROR_STOP=1", f"--file={self.folder / 'databases.sql'}"], env=sign_in, check=True, capture_output=True
        )
        subprocess.run([*control, "stop"], env=environment, cwd=volume, check=True, capture_output=True)

    def _local(self, text: str, service: str | None = None) -> str:
        """A text of compose.yaml (or, without `service`, of another file) as it reads on this machine."""
        if service is not None:
            text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text).replace("$$", "$")
        text = text.replace("/run/secrets/", f"{self.folder / 'secrets'}/").replace("0.0.0.0", "127.0.0.1")  # noqa: S104 (replaced, not bound)
        text = text.replace("/opt/reelnest/mlflow_auth.ini", str(self.folder / "mlflow_auth.ini")).replace("/opt/reelnest", str(DOCKER))
        text = text.replace("/data", str(self.folder / "volumes" / service)) if service in ("redis", "store") else text
        text = text.replace("/backups", str(self.folder / "backups")) if service == "backup" else text
        for name, port in PORTS.items():
            text = re.sub(rf"\b(?:{name}|localhost|127\.0\.0\.1):{port}\b", f"127.0.0.1:{self.ports[name]}", text)
            if name == service or text == str(port):
                text = re.sub(rf"\b{port}\b", str(self.ports[name]), text)
        return text


def _as_postgres() -> list[str]:
    """PostgreSQL refuses to run as root."""
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []


def compose_secrets(services: Services) -> dict[str, str]:
    """Every secret's text."""
    names: dict[str, Any] = services.compose["secrets"]
    return {name: services.secret(name) for name in names}
