"""The ports that `make up` is asked for."""

import socket

import pytest

from tasks.services.local_services import ServicesError, port


def test_a_taken_port_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("MLFLOW_PORT", str(taken.getsockname()[1]))
        with pytest.raises(ServicesError, match=rf"Port {taken.getsockname()[1]} .*make up MLFLOW_PORT="):
            port("MLFLOW_PORT", 5000)


@pytest.mark.parametrize("text", ["x", "0", "70000", "-1"])
def test_a_port_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_PORT", text)
    with pytest.raises(ServicesError, match="PREFECT_PORT"):
        port("PREFECT_PORT", 4200)
