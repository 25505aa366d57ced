"""What every test stands on: no network but loopback, and leases, caches and outputs of its own."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.fakes import Door

settings.register_profile("runner", deadline=None, derandomize=True, database=None, max_examples=20)
settings.load_profile("runner")


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test sees this machine's leases, caches or outputs."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RUNNER_LEASES", str(tmp_path_factory.mktemp("leases")))
        environment.setenv("RUNNER_CACHE", str(tmp_path_factory.mktemp("cache")))
        environment.delenv("RUNNER_OUTPUTS", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def only_loopback() -> Iterator[None]:
    """A socket that would leave this machine is a failed test, not a slow one."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not _is_loopback(address[0]):
            raise OSError(f"tests have no network: {address[0]}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as environment:
        environment.setattr(socket.socket, "connect", connect_here)
        yield


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


@pytest.fixture
def door(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Door:
    """The command line, called in this process, with an outputs folder that does not exist yet."""
    return Door(tmp_path / "outputs", capsys)
