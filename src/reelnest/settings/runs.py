"""The sections `launch`, `tracking` and `runs`: how a run's processes start, and where it is recorded."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from reelnest.settings.section import Positive, Section, Text

Port = Annotated[int, Field(ge=1024, le=65535)]


class Tracking(Section):
    """MLflow, which stores runs, metrics, checkpoints and models. No DVC stage depends on it."""

    uri: Text = "sqlite:///mlflow.db"
    """The environment variable MLFLOW_TRACKING_URI overrides this."""
    experiment: Text = "reelnest"


class Runs(Section):
    """Remotes to which the runs of deployments are pushed."""

    push: Text | None = None
    """The git remote for each completed run's ref, such as `origin`; null: nothing is pushed."""
    push_outputs: Text | None = None
    """The DVC remote for the outputs of pushed runs; null: DVC's default remote, if any."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.push_outputs is not None and self.push is None:
            raise ValueError("push_outputs needs push, because outputs are found by the run's ref. Set runs.push, such as origin")
        return self


class JobSettings(Section):
    """What all clusters' jobs have in common."""

    socket_interface: Text | None = None
    """The network interface over which the processes of several nodes communicate, for NCCL and gloo; null: their own choice."""
    ports: Annotated[tuple[Port, Port], Field(strict=False)] = (20000, 29999)
    """First and last port on which the first process may listen for the others."""
    requeues: Annotated[int, Field(ge=0)] = 20
    """How often a job may be started again after a preemption, a lost node or the end of its time."""
    poll_seconds: Annotated[float, Field(gt=0)] = 5.0
    """Time between two questions about the job's state."""
    lost_node_seconds: Annotated[float, Field(gt=0)] = 180.0
    """A node that has shown no life for this long counts as lost. Longer than a network file system takes to show a change."""
    abandoned_minutes: Annotated[float, Field(gt=0)] | None = 30.0
    """A job saves a checkpoint and stops if the command that started it has been gone for this long; null: it runs to its end."""

    @model_validator(mode="after")
    def _ports_are_a_range(self) -> Self:
        if self.ports[1] < self.ports[0]:
            raise ValueError(f"ports: the last port must not be below the first; found {list(self.ports)}")
        return self


class Slurm(JobSettings):
    """The SLURM job of a stage. null leaves a value to the cluster's default. `launch.config` sets the number of nodes."""

    partition: Text | None = None
    account: Text | None = None
    qos: Text | None = None
    time: Text | None = None
    """The time limit, such as `1-00:00:00`. Before it ends, the training saves a checkpoint and the job is queued again. It must be
    well above `launch.grace_seconds`."""
    constraint: Text | None = None
    """Features that the nodes must have."""
    reservation: Text | None = None
    gres: Text | None = None
    """Generic resources of each node, such as `gpu:a100:8`."""
    gpus_per_node: Text | Positive | None = None
    """A number of GPUs, or a type and number such as `a100:8`."""
    cpus_per_task: Positive | None = None
    """CPUs of the launcher of each node, which its processes share."""
    mem: Text | None = None
    """Memory of each node, such as `64G`."""
    exclusive: bool = False
    """Whether no other job may use the nodes."""
    sbatch_arguments: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Further arguments of `sbatch`, such as `--mail-type=FAIL`."""
    srun_arguments: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Further arguments of `srun`, such as `--mpi=none`."""
    prologue: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Lines of bash that run at the start of the job, such as `module load cuda`."""


class Kubernetes(JobSettings):
    """The Kubernetes job of a stage, with one pod for each machine of `launch.config`. Everything else is in the template."""

    template: Text = "configs/kubernetes/job.yaml"
    """A file with the manifest of a job, to which each launch adds its command, its number of pods and the settings below."""
    context: Text | None = None
    """A context of the kubeconfig; null: the current one, or inside of a cluster the pod's own service account."""
    namespace: Text | None = None
    """null: the context's, or the pod's own."""
    image: Text | None = None
    """null: the template's."""
    gpus: Annotated[int, Field(ge=0)] | None = None
    """GPUs of each pod (the limit `nvidia.com/gpu`); null: the template's."""
    cpu: Text | Positive | None = None
    """CPUs that each pod requests, such as `8` or `500m`; null: the template's."""
    memory: Text | None = None
    """Memory of each pod, request and limit, such as `64Gi`; null: the template's."""


class Resources(Section):
    """The settings of the backend's section that differ for a stage, such as `{partition: cpu, cpus_per_task: 32, gpus_per_node: null}`."""

    preprocess: dict[str, Any] | None = None
    """null: preprocessing is no job, but runs where it was started."""
    train: dict[str, Any] = Field(default_factory=dict)
    evaluate: dict[str, Any] = Field(default_factory=dict)
    """Also for the champion's evaluation, with which a new model is compared."""


class Launch(Section):
    """How training and embedding processes are started."""

    backend: Literal["local", "slurm", "kubernetes"] = "local"
    """local: on this machine. slurm, kubernetes: in a job of the cluster."""
    config: Text = "cpu-2"
    """A file of `configs/accelerate/`, without its suffix."""
    grace_seconds: Annotated[float, Field(gt=0)] = 120.0
    """Time for processes to finish a step and save after a stop request, before they are killed."""
    slurm: Slurm = Slurm()
    kubernetes: Kubernetes = Kubernetes()
    resources: Resources = Resources()
    prices: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """The price of a GPU hour, by `local`, `slurm`, `kubernetes` or the name of a SLURM partition, such as `{local: 2.5}`."""
    share_gpus: bool = False
    """Whether several runs may train or evaluate on this machine's GPUs at once. Otherwise they wait for each other. (`local` only.)"""

    @model_validator(mode="after")
    def _resources_are_settings_of_the_backend(self) -> Self:
        for stage in Resources.model_fields:
            try:
                self.job_settings(stage)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                key = ".".join(["resources", stage, *map(str, first["loc"][:1])])
                known = ", ".join(type(getattr(self, self._section)).model_fields)
                unknown = f"unknown setting; launch.{self._section} has {known}"
                text = unknown if first["type"] == "extra_forbidden" else f"{first['msg']}; found {first['input']!r}"
                raise ValueError(f"{key}: {text}") from None
        return self

    def job_settings(self, stage: str) -> Slurm | Kubernetes:
        """Returns the settings of a stage's job on the cluster."""
        section: Slurm | Kubernetes = getattr(self, self._section)
        return type(section).model_validate(section.model_dump() | (getattr(self.resources, stage) or {}))

    @property
    def _section(self) -> str:
        return "slurm" if self.backend == "local" else self.backend
