"""The few requests to Kubernetes' API that a launch needs.

Its address and credentials come from the kubeconfig, or from the service account of the pod in which a run works.
"""

import asyncio
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from reelnest.errors import ConfigError
from reelnest.launch.jobs.scheduler import SchedulerUnreachable

REQUEST_SECONDS = 30.0
OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
KUBECONFIG = "~/.kube/config"
SETTINGS = "launch.kubernetes in params.yaml"


class Conflict(Exception):  # noqa: N818 -- a state, not a mistake
    """There is an object of this name already."""


class KubernetesApi:
    """One namespace. Each method raises SchedulerUnreachable if the API does not respond, and ConfigError if it refuses a request."""

    def __init__(self, context: str | None, namespace: str | None) -> None:
        self._context, self._namespace = context, namespace
        self._connection: tuple[httpx.Client, str] | None = None

    def create_job(self, manifest: Mapping[str, Any]) -> None:
        """Creates a job. Raises Conflict if there is one of its name."""
        self._request("POST", "batch/v1", "jobs", json=manifest)

    def job(self, name: str) -> dict[str, Any] | None:
        """Returns a job; None if there is none of this name."""
        return self._json("GET", "batch/v1", f"jobs/{name}")

    def delete_job(self, name: str) -> None:
        """Deletes a job, and has its pods deleted with their own grace period."""
        self._request("DELETE", "batch/v1", f"jobs/{name}", params={"propagationPolicy": "Background"})

    def pods(self, job: str) -> list[dict[str, Any]]:
        """Returns the pods of a job that Kubernetes has not removed."""
        listed = self._json("GET", "v1", "pods", params={"labelSelector": f"job-name={job}"})
        return list((listed or {}).get("items") or [])

    def delete_pod(self, name: str, grace_seconds: int) -> None:
        """Deletes a pod."""
        self._request("DELETE", "v1", f"pods/{name}", params={"gracePeriodSeconds": grace_seconds})

    def log(self, pod: str, container: str, lines: int) -> str | None:
        """Returns the last lines that a container of a pod printed; None if it never ran."""
        response = self._request("GET", "v1", f"pods/{pod}/log", params={"container": container, "tailLines": lines}, may_fail=True)
        return None if response is None else response.text

    def _json(self, method: str, group: str, path: str, **options: Any) -> dict[str, Any] | None:
        response = self._request(method, group, path, **options)
        return None if response is None else response.json()

    def _request(self, method: str, group: str, path: str, *, may_fail: bool = False, **options: Any) -> httpx.Response | None:
        """Returns the response; None if there is no such object."""
        is_new = self._connection is None
        client, namespace = self._connection = self._connection or connect(self._context, self._namespace)
        root = f"/api/{group}" if group == "v1" else f"/apis/{group}"
        try:
            response = client.request(method, f"{root}/namespaces/{namespace}/{path}", **options)
        except httpx.TransportError as error:
            raise SchedulerUnreachable(f"Kubernetes' API does not respond ({error or type(error).__name__}).") from None
        if response.is_success:
            return response
        status, text = response.status_code, _message(response)
        if status == httpx.codes.UNAUTHORIZED and not is_new:  # a token that has expired: the next connection reads another
            client.close()
            self._connection = None
            return self._request(method, group, path, may_fail=may_fail, **options)
        if status == httpx.codes.NOT_FOUND and (method != "POST"):
            return None
        if status == httpx.codes.CONFLICT:
            raise Conflict(text)
        if response.is_server_error or status in (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.REQUEST_TIMEOUT):
            raise SchedulerUnreachable(f"Kubernetes' API does not respond ({status} {text}).")
        if may_fail:
            return None
        raise ConfigError(f"Kubernetes refused to {method} {path} in namespace {namespace}: {text}. Check {SETTINGS}.")


def connect(context: str | None, namespace: str | None) -> tuple[httpx.Client, str]:
    """Returns a client with credentials, and the namespace. Raises ConfigError if there is no usable configuration."""
    try:
        from kubernetes_asyncio import config
        from kubernetes_asyncio.client import Configuration
    except ImportError:
        raise ConfigError("launch.backend: kubernetes needs a package: pip install 'reelnest[kubernetes]'.") from None
    configuration = Configuration()
    file = os.environ.get("KUBECONFIG") or KUBECONFIG
    try:
        if context is None and not any(Path(entry).expanduser().is_file() for entry in file.split(os.pathsep) if entry):
            config.load_incluster_config(client_configuration=configuration)
            default = OWN_NAMESPACE.read_text(encoding="utf-8").strip()
        else:
            loading = config.load_kube_config(config_file=file, context=context, client_configuration=configuration, persist_config=False)
            loader = asyncio.run(loading)
            default = (loader.current_context or {})["context"].get("namespace") or "default"
    except (config.ConfigException, OSError, KeyError) as error:
        raise ConfigError(f"Kubernetes: no usable configuration ({error}). Set KUBECONFIG, or check {SETTINGS}.") from error
    return _client(configuration), namespace or default


def _client(configuration: Any) -> httpx.Client:
    """Returns an HTTP client with the address and the credentials of a configuration."""
    verify: ssl.SSLContext | bool = False
    if configuration.host.startswith("https"):
        verify = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        if not configuration.verify_ssl:
            verify.check_hostname = False
            verify.verify_mode = ssl.CERT_NONE
        if configuration.cert_file:
            verify.load_cert_chain(configuration.cert_file, configuration.key_file)
    token = asyncio.run(configuration.get_api_key_with_prefix("BearerToken"))
    headers = {"Authorization": token} if token else {}
    return httpx.Client(base_url=configuration.host, verify=verify, headers=headers, timeout=REQUEST_SECONDS)


def _message(response: httpx.Response) -> str:
    """Returns the reason that Kubernetes gives, in one line."""
    try:
        text = str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        text = response.text
    return " ".join(text.split())[:500] or response.reason_phrase
