"""Starts a run of a deployment, once its revision and settings are checked.

Usage: `reelnest run --set train.epochs=2`, which runs `python -m tasks.workspaces.start_run` in the checkout.
"""

import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reelnest.errors import ReelnestError, RunError
from reelnest.git import uncommitted
from reelnest.yaml_files import YAMLError, load_yaml
from tasks.process.arguments import Parser
from tasks.process.runner import quieten
from tasks.workspaces.revisions import check_checkout, commit_of, params_at

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

DEPLOYMENT = "reelnest-train/by-hand"
DEFAULT_API = "http://127.0.0.1:4200/api"
"""The server of `make up`, for shells without PREFECT_API_URL."""
SEEN_BY_RUNS = ("params.yaml", "data.dvc", "dvc.yaml", "src", "flows", "tasks", "configs")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = Parser(prog="reelnest run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting, such as train.epochs=2; repeatable")
    parser.add_argument("--revision", default="HEAD", help="the branch, tag or commit to run; only committed files count (HEAD)")
    parser.add_argument("--deployment", default=DEPLOYMENT, help=f"the deployment that runs ({DEPLOYMENT})")
    options = parser.parse_args(arguments)
    checkout = Path.cwd()
    try:
        settings = _settings(options.set)
        commit = _checked(checkout, options.revision, settings)
        quieten()  # before Prefect reads its settings
        # Imported after the checks, because a mistake should not have to wait for it.
        import httpx
        from prefect.exceptions import PrefectException

        try:
            return _start(checkout, options.deployment, options.revision, commit, settings)
        except (PrefectException, httpx.HTTPError) as error:
            raise RunError(str(error)) from error
    except ReelnestError as error:
        sys.stderr.write(f"reelnest run: error: {error}\n")
        return error.exit_status


def _settings(assignments: Sequence[str]) -> dict[str, Any]:
    """Returns the settings in `KEY=VALUE` arguments. Values are YAML, as in params.yaml."""
    settings = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise RunError(f"--set '{text}': expected KEY=VALUE, such as --set train.epochs=2.")
        try:
            settings[key.strip()] = load_yaml(value)
        except YAMLError:
            raise RunError(f"--set '{text}': the value is not readable as YAML. Expected one as in params.yaml.") from None
    return settings


def _checked(checkout: Path, revision: str, settings: Mapping[str, Any]) -> str:
    """Returns the commit of the revision. Raises RunError for an unknown revision, and for settings that it does not have or take."""
    check_checkout(checkout)
    commit = commit_of(checkout, revision)
    params_at(checkout, commit).change_all(settings)
    return commit


def _start(checkout: Path, name: str, revision: str, commit: str, settings: Mapping[str, Any]) -> int:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import WorkPoolStatus
    from prefect.deployments import run_deployment
    from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

    from tasks.services.prefect_server import is_answering

    api = str(get_current_settings().api.url or DEFAULT_API)
    if not is_answering(f"{api}/health"):
        raise RunError(f"No Prefect server responds at {api}. Start one with `make up`, or set PREFECT_API_URL to yours.")
    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        deployment = _deployment(client, name)
        parameters = {"revision": revision, "settings": dict(settings)} if settings else {"revision": revision}
        for parameter in parameters.keys() - deployment.parameter_openapi_schema.get("properties", {}).keys():
            raise RunError(f"--deployment {name}: takes no {parameter}. `reelnest run` starts {DEPLOYMENT}, or another training.")
        run = run_deployment(deployment.id, parameters=parameters, timeout=0, as_subflow=False)
        pool = client.read_work_pool(deployment.work_pool_name) if deployment.work_pool_name else None
    changed = "".join(f", {key}: {value}" for key, value in settings.items())
    sys.stdout.write(f"Started the run {run.name}: {revision} ({commit[:12]}){changed}\n")
    sys.stdout.write(f"{api.removesuffix('/api')}/runs/flow-run/{run.id}\n")
    if pool is not None and pool.status is not WorkPoolStatus.READY:
        sys.stderr.write(f"Warning: no worker is running for the work pool {pool.name}. The run waits for one (`make up` starts one).\n")
    changes = uncommitted(checkout, *SEEN_BY_RUNS) if commit == commit_of(checkout, "HEAD") else []
    if changes:
        files = ", ".join(changes[:3]) + (", …" if len(changes) > 3 else "")
        sys.stderr.write(f"Warning: the run uses committed files, without your changes to {files}. Commit them and start it again.\n")
    return 0


def _deployment(client: "SyncPrefectClient", name: str) -> "DeploymentResponse":
    """Returns the deployment with this name; the flow's name may be left out."""
    from prefect.exceptions import ObjectNotFound

    full = name if "/" in name else f"reelnest-train/{name}"
    try:
        return client.read_deployment_by_name(full)
    except ObjectNotFound:
        flows = {flow.id: flow.name for flow in client.read_flows()}
        known = sorted(f"{flows.get(deployment.flow_id)}/{deployment.name}" for deployment in client.read_deployments())
        near = difflib.get_close_matches(full, known, n=1, cutoff=0.5)
        advice = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}." if known else "run `reelnest deploy` first."
        raise RunError(f"--deployment {name}: there is no such deployment; {advice}") from None


if __name__ == "__main__":
    sys.exit(main())
