"""A real SLURM with four simulated nodes on this machine: one controller, and one `slurmd` a node. They share its CPUs and its files.

Debian's packages: `apt-get install --no-install-recommends slurmctld slurmd slurm-client munge slurm-wlm-basic-plugins`.
"""

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
NODES = ("node1", "node2", "node3", "node4")
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

CONFIG = """
ClusterName=sim
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/run/munge.socket,cred_expire=5
SlurmctldPort={controller_port}
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state/ctld
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmdLogFile={folder}/log/slurmd.%n.log
SlurmdSpoolDir={folder}/state/d.%n
PlugStackConfig={folder}/etc/plugstack.conf
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
MpiDefault=none
MinJobAge=3600
GresTypes=gpu
KillWait=15
SlurmdTimeout=15
SlurmctldTimeout=5
MessageTimeout=5
{nodes}
PartitionName=main Nodes=node[1-4] Default=YES MaxTime=1:00:00 PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=high Nodes=node[1-4] MaxTime=1:00:00 PriorityTier=10 PreemptMode=OFF
"""


def require_slurm() -> None:
    """Skips a test without SLURM; in continuous integration, which installs it, the test fails instead."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=SEARCH_PATH) is None]
    if missing and "CI" not in os.environ:
        pytest.skip(
            f"needs SLURM ({', '.join(missing)} not found): apt-get install slurmctld slurmd slurm-client munge slurm-wlm-basic-plugins"
        )


class Cluster:
    """A running SLURM. `environment` makes its commands (`sbatch`, `squeue`) use it."""

    def __init__(self, folder: Path, gpus: int = 0) -> None:
        self.folder, self._gpus = folder, gpus
        self.environment = {"SLURM_CONF": str(folder / "etc" / "slurm.conf"), "PATH": SEARCH_PATH}

    def command(self, *arguments: str) -> str:
        """Runs a command of SLURM and returns what it prints."""
        done = subprocess.run(arguments, env=os.environ | self.environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (arguments, done.stderr)
        return done.stdout.strip()

    def jobs(self, states: str = "pending,running,suspended,completing,configuring") -> list[list[str]]:
        """Id, state, name and restarts of each job in the queue."""
        listed = self.command("squeue", "--noheader", "--states", states, "--format", "%i %T %j")
        return [line.split() for line in listed.splitlines()]

    def is_idle(self) -> bool:
        """Whether neither a job nor a process of one is left."""
        return not self.jobs() and not self.processes()

    def processes(self) -> list[psutil.Process]:
        """The processes of all jobs, on all nodes."""
        running = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                variables = process.environ()
                if variables.get("SLURM_JOB_ID") and variables.get("SLURM_CONF") == self.environment["SLURM_CONF"]:
                    running.append(process)
        return running

    def start_controller(self) -> None:
        """Starts the controller and waits until it responds."""
        self._start("slurmctld", "-f", self.environment["SLURM_CONF"])
        _wait(lambda: self._succeeds("scontrol", "ping") and "UP" in self.command("scontrol", "ping"))

    def kill_controller(self) -> None:
        """Kills the controller, as a crash does."""
        self._kill(self.folder / "run" / "slurmctld.pid")

    def start_node(self, node: str) -> None:
        """Starts a node."""
        self._start("slurmd", "-f", self.environment["SLURM_CONF"], "-N", node)

    def kill_node(self, node: str) -> None:
        """Kills a node with all its processes, as a power failure does."""
        processes = [process for process in self.processes() if process.environ().get("SLURMD_NODENAME") == node]
        self._kill(self.folder / "run" / f"slurmd.{node}.pid")
        _kill_all([*self._step_daemons(node), *processes])

    def start(self) -> None:
        """Starts everything."""
        for name in ("etc", "run", "log", "state/ctld", "munge"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "munge").chmod(0o700)
        (self.folder / "etc" / "plugstack.conf").touch()
        host = socket.gethostname().partition(".")[0]
        gres = f" Gres=gpu:{self._gpus}" if self._gpus else ""
        devices = [self.folder / "etc" / f"nvidia{number}" for number in range(self._gpus)]
        for device in devices:  # SLURM insists on devices; these are /dev/null
            os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        lines = [f"NodeName=node[1-4] Name=gpu File={device}\n" for device in devices]
        (self.folder / "etc" / "gres.conf").write_text("".join(lines))
        nodes = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={_free_port()} CPUs=2 RealMemory=6000{gres} State=UNKNOWN"
            for node in NODES
        ]
        text = CONFIG.format(host=host, user=getpass.getuser(), folder=self.folder, controller_port=_free_port(), nodes="\n".join(nodes))
        (self.folder / "etc" / "slurm.conf").write_text(text)
        key = self.folder / "munge" / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        files = {
            "socket": "run/munge.socket",
            "pid-file": "run/munged.pid",
            "log-file": "munge/munged.log",
            "seed-file": "munge/munged.seed",
        }
        self._start("munged", f"--key-file={key}", *(f"--{name}={self.folder / file}" for name, file in files.items()))
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        _wait(self._all_idle)

    def stop(self) -> None:
        """Stops everything, jobs included."""
        # Not by their pid files, which a daemon that has just started may not have written.
        daemons = [process for process in psutil.process_iter(["cmdline"]) if str(self.folder) in " ".join(process.info["cmdline"] or [])]
        _kill_all(daemons)
        _kill_all([*self._step_daemons("*"), *self.processes()])

    def _step_daemons(self, node: str) -> list[psutil.Process]:
        """The processes that serve the steps of jobs on a node. Each has the log of its node open."""
        logs = {str(path) for path in (self.folder / "log").glob(f"slurmd.{node}.log")}
        daemons = [process for process in psutil.process_iter(["name"]) if process.info["name"] == "slurmstepd"]
        return [daemon for daemon in daemons if logs & _open_files(daemon)]

    def _all_idle(self) -> bool:
        states = self.command("sinfo", "--noheader", "--Node", "--format", "%t").split()
        return bool(states) and set(states) == {"idle"}

    def _start(self, *arguments: str) -> None:
        program = shutil.which(arguments[0], path=SEARCH_PATH)
        assert program is not None
        variables = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")} | self.environment
        subprocess.run([program, *arguments[1:]], env=variables, stdin=subprocess.DEVNULL, check=True, timeout=30)

    def _succeeds(self, *arguments: str) -> bool:
        done = subprocess.run(arguments, env=os.environ | self.environment, capture_output=True, timeout=30, check=False)
        return done.returncode == 0

    @staticmethod
    def _kill(pid_file: Path) -> None:
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            _kill_all([psutil.Process(int(pid_file.read_text()))])
        pid_file.unlink(missing_ok=True)


@contextmanager
def simulated_cluster(gpus: int = 0) -> Iterator[Cluster]:
    """A SLURM for the block, whose nodes count `gpus` GPUs without having any (as root only).

    Its folder has a short path that all users may enter, which the socket of munge needs.
    """
    with TemporaryDirectory(prefix="slurm-") as name:
        Path(name).chmod(0o755)
        cluster = Cluster(Path(name), gpus)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def _kill_all(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    _wait(lambda: not any(_is_alive(process) for process in processes))


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE  # nobody may collect its status
    return False


def _open_files(process: psutil.Process) -> set[str]:
    with contextlib.suppress(psutil.Error):
        return {file.path for file in process.open_files()}
    return set()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.1)
