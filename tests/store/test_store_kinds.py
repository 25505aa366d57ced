"""One outputs folder, one kind of store: decided once, recorded, and refused with both sides when asked otherwise."""

from __future__ import annotations

import importlib.util
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from runner.config.tree import Storage
from runner.errors import Corrupt, Refused, RunnerError
from runner.store import Store, open_store, storage_faults
from runner.store.kinds import CREDENTIAL_VARIABLES, ENDPOINT_VARIABLES
from runner.store.s3 import Bucket
from tests import fakes
from tests.store.server import hands, settings

ENDPOINT = "http://127.0.0.1:9000"
S3 = settings(kind="s3", uri="s3://bucket/prefix", endpoint=ENDPOINT, region="us-east-1")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore", reason="the extra s3 is not installed")
    for name in (*ENDPOINT_VARIABLES, *CREDENTIAL_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


def said(asked: Storage, outputs: Path) -> list[tuple[str, str]]:
    return [(fault.code, str(fault)) for fault in storage_faults(asked, outputs)]


def test_a_folder_needs_no_record(tmp_path: Path) -> None:
    assert open_store(tmp_path, settings()) == open_store(tmp_path, None) == Store(tmp_path / "objects")
    assert not (tmp_path / "storage.json").exists()


def test_a_verb_writes_nothing(tmp_path: Path) -> None:
    assert not open_store(tmp_path / "outputs", None).there()
    assert not (tmp_path / "outputs").exists()


def test_the_first_run_that_uses_a_bucket_records_it(s3: Storage, tmp_path: Path) -> None:
    opened = open_store(tmp_path, s3)
    assert isinstance(opened, Bucket)
    assert json.loads((tmp_path / "storage.json").read_bytes()) == {
        "kind": "s3", "uri": s3.uri, "endpoint": s3.endpoint, "region": "us-east-1", "owner": opened.owner,
    }  # fmt: skip
    assert open_store(tmp_path, None).where == open_store(tmp_path, s3).where == s3.uri


def test_a_bucket_that_does_not_work_is_not_recorded(s3: Storage, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="NoSuchBucket"):
        open_store(tmp_path, s3.model_copy(update={"uri": "s3://mistyped"}))
    assert open_store(tmp_path, s3).where == s3.uri


@pytest.mark.parametrize("other", ["folder", "bucket", "region"])
def test_another_storage_than_the_recorded_one_is_refused_with_both_sides(
    s3: Storage, tmp_path: Path, other: str
) -> None:
    changes: dict[str, dict[str, Any]] = {"folder": {"kind": "folder", "uri": None, "endpoint": None, "region": None},
               "bucket": {"uri": "s3://other"}, "region": {"region": "eu-west-1"}}  # fmt: skip
    open_store(tmp_path, s3)
    with pytest.raises(Refused, match=rf"storage: asks for .*; {tmp_path} uses {s3.uri} at {s3.endpoint}") as no:
        open_store(tmp_path, s3.model_copy(update=changes[other]))
    (fault,) = no.value.faults
    assert (fault.code, fault.evidence["found"]["uri"]) == ("storage_mismatch", s3.uri)
    assert not (tmp_path / "objects").exists()


@pytest.mark.usefixtures("environment")
def test_a_folder_of_objects_is_not_left_for_a_bucket(tmp_path: Path) -> None:
    open_store(tmp_path, settings()).put(b"x")
    with pytest.raises(
        Refused, match=rf"asks for s3://bucket/prefix .*; {tmp_path} uses a folder of objects\. Ask for"
    ):
        open_store(tmp_path, S3)
    assert not (tmp_path / "storage.json").exists()


@pytest.mark.parametrize("number", range(4))
def test_two_first_runs_at_once_decide_on_one_kind(s3: Storage, tmp_path: Path, number: int) -> None:
    def ask(asked: Storage) -> str:
        try:
            return open_store(tmp_path, asked).where
        except RunnerError as error:
            return error.faults[0].code

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(ask, [s3, settings()][:: -1 if number % 2 else 1]))
    assert answers.count("storage_mismatch") == 1, answers
    assert (tmp_path / "storage.json").exists() != (tmp_path / "objects").exists()


def test_first_runs_at_once_give_their_outputs_folder_one_mark(s3: Storage, tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        opened = list(pool.map(lambda _: open_store(tmp_path, s3), range(3)))
    assert len({each.owner for each in opened if isinstance(each, Bucket)}) == 1
    assert open_store(tmp_path, None).shared() is None


def test_first_runs_of_two_outputs_folders_at_once_leave_neither_alone(s3: Storage, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        a, b = pool.map(lambda name: open_store(tmp_path / name, s3), "ab")
    assert isinstance(a, Bucket) and isinstance(b, Bucket)
    assert re.match(rf"{s3.uri}: this store also belongs to .* remove {s3.uri}/.owners/{b.owner}", str(a.shared()))
    assert f"remove {s3.uri}/.owners/{a.owner}" in str(open_store(tmp_path / "b", None).shared())


def test_a_record_from_before_there_were_marks_gets_one_from_the_next_run(s3: Storage, tmp_path: Path) -> None:
    old = {"kind": "s3", "uri": s3.uri, "endpoint": s3.endpoint, "region": s3.region}
    (tmp_path / "storage.json").write_text(json.dumps(old))
    assert open_store(tmp_path, None).shared() is None
    marked = open_store(tmp_path, s3)
    assert isinstance(marked, Bucket) and marked.owner
    assert (marked.shared(), json.loads((tmp_path / "storage.json").read_bytes())) == (
        None,
        {**old, "owner": marked.owner},
    )


def test_a_mark_that_was_lost_is_put_again_by_the_next_run(s3: Storage, tmp_path: Path) -> None:
    first = open_store(tmp_path / "a", s3)
    assert isinstance(first, Bucket)
    hands(first).delete(f".owners/{first.owner}")
    open_store(tmp_path / "a", s3)
    assert open_store(tmp_path / "b", s3).shared() is not None


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"kind": "s3", "region": "x"}, "setting_missing", "storage.uri: is null, and storage.kind is s3. Say where:"),
        ({"kind": "s3", "uri": "s3://abc"}, "setting_missing", "storage.region: is null, and storage.kind is s3. Say"),
        ({"uri": "s3://abc"}, "setting_ignored", "storage.uri: is s3://abc, and storage.kind is folder. Choose"),
        ({"region": "x"}, "setting_ignored", "storage.region: is x, and storage.kind is folder. Choose storage=s3, or"),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(
    tmp_path: Path, changes: dict[str, Any], code: str, text: str
) -> None:
    ((found, message),) = said(settings(**changes), tmp_path)
    assert found == code
    assert message.startswith(text)


@pytest.mark.usefixtures("environment")
def test_a_bucket_without_its_library_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = "storage.kind: s3 needs obstore, which is not installed. Install it: pip install 'runner[s3]', or choose"
    ((code, said_so),) = said(S3, tmp_path)
    assert (code, said_so.startswith(message)) == ("dependency_missing", True)


@pytest.mark.usefixtures("environment")
def test_a_server_without_credentials_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    ((code, message),) = said(S3, tmp_path)
    assert code == "credentials_missing"
    assert message.endswith(f"is {ENDPOINT}, and the environment has no credentials for it. Set AWS_ACCESS_KEY_ID and "
                            "AWS_SECRET_ACCESS_KEY.")  # fmt: skip
    with pytest.raises(Refused, match="the environment has no credentials for it"):
        open_store(tmp_path, S3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("endpoint", [ENDPOINT, None])
def test_an_environment_that_would_send_the_bytes_elsewhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str | None
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    ((code, message),) = said(S3.model_copy(update={"endpoint": endpoint}), tmp_path)
    assert (code, "AWS_ENDPOINT_URL_S3 would send the bytes to http://127.0.0.1:1. Unset" in message) == (
        "setting_ignored", True,
    )  # fmt: skip


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    "record",
    [
        "",
        "{",
        "[]",
        '{"kind":"tape"}',
        '{"kind":"s3"}',
        '{"kind":"folder","disk":1}',
        '{"kind":"folder","owner":"../x"}',
    ],
)
def test_a_record_that_cannot_be_read_is_corrupt_and_kept(tmp_path: Path, record: str) -> None:
    (tmp_path / "storage.json").write_text(record)
    with pytest.raises(Corrupt, match=r"storage\.json: cannot be read .*Put the original back: it says where the obj"):
        open_store(tmp_path, None)
    with pytest.raises(Corrupt, match=r"storage\.json: cannot be read"):
        open_store(tmp_path, S3)
    assert (tmp_path / "storage.json").read_text() == record


def test_an_experiment_composes_with_a_bucket() -> None:
    asked = fakes.request(
        {}, "demo", "storage=s3", "storage.uri=s3://bucket/some/prefix", f"storage.endpoint={ENDPOINT}"
    )
    assert (asked.storage.kind, asked.storage.uri, asked.storage.region) == (
        "s3",
        "s3://bucket/some/prefix",
        "us-east-1",
    )


@pytest.mark.parametrize("changes", [{"uri": "http://x"}, {"uri": "s3://Bucket"}, {"endpoint": "http://me:pw@host"}])
def test_an_address_with_a_password_or_of_another_kind_is_no_setting(changes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="String should match pattern"):
        settings(**{"kind": "s3", **changes})
