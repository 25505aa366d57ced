"""A bucket on a real server: who cannot be reached, who is not let in, and what a broken connection leaves."""

from __future__ import annotations

import http.client
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from runner import store
from runner.config.tree import Storage
from runner.errors import Failed, Refused, Unavailable
from runner.store.kinds import asked
from runner.store.s3 import Bucket, _client, connect
from tests.store import server

NAME = store.digest(b"x")


def bucket(settings: Storage) -> Bucket:
    """A bucket that tries everything once."""
    once = _client(asked(settings), num_retries=0, retry_s=5)
    return Bucket(str(settings.uri), once, once)


@pytest.fixture
def nowhere(s3: Storage) -> Bucket:
    return bucket(s3.model_copy(update={"endpoint": f"http://127.0.0.1:{server.free_port()}"}))


def test_a_server_that_does_not_answer_is_unavailable_before_a_run(nowhere: Bucket) -> None:
    for ask in (nowhere.probe, nowhere.there):
        with pytest.raises(
            Unavailable, match=r"storage\.uri \(s3://objects/\w+\): cannot be reached \(no connection\)\. L"
        ) as no:
            ask()
        assert no.value.faults[0].code == "storage_unreachable"


def test_a_server_that_is_gone_in_the_middle_is_a_storage_failure(nowhere: Bucket) -> None:
    for verb, ask in (
        ("read", lambda: nowhere.put(b"x")), ("read", lambda: nowhere.get(NAME)),
        ("read", lambda: nowhere.look(1)(NAME)), ("read", lambda: list(nowhere.check([NAME], 1))),
        ("listed", lambda: list(nowhere.listing())), ("removed", lambda: nowhere.remove(NAME)),
    ):  # fmt: skip
        with pytest.raises(Failed, match=rf"storage \(s3://.*\): cannot be {verb} \(no connection\)\. Mend") as error:
            ask()
        assert (error.value.kind, error.value.faults[0].code) == ("storage", "storage_failed")


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_said_to_be_wrong(s3: Storage, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "somebody-elses-key")
    with pytest.raises(
        Unavailable, match=r"the server says (InvalidAccessKeyId|SignatureDoesNotMatch)\)\. Set AWS_"
    ) as no:
        bucket(s3).probe()
    assert no.value.faults[0].code == "storage_denied"
    assert "somebody-elses-key" not in str(no.value)


def test_a_bucket_that_is_not_there_is_refused(s3: Storage) -> None:
    absent = bucket(s3.model_copy(update={"uri": "s3://no-such-bucket"}))
    with pytest.raises(Refused, match=r"storage\.uri \(s3://no-such-bucket\): .*NoSuchBucket\)\. Make the bucket, or"):
        absent.probe()


def test_a_server_that_is_busy_is_asked_again(s3: Storage) -> None:
    door = server.Flaky(str(s3.endpoint), num_failures=2)
    with door.serving() as endpoint:
        objects = connect(asked(s3.model_copy(update={"endpoint": endpoint})))
        assert objects.get(objects.put(b"x")) == b"x"
    assert connect(asked(s3)).holds(NAME)
    assert len(door.asked) > 4


def test_an_upload_that_breaks_off_leaves_no_object(s3: Storage) -> None:
    import obstore

    objects = bucket(s3)
    url = urlsplit(obstore.sign(objects.client, "PUT", server.place(NAME), timedelta(minutes=1)))
    line = http.client.HTTPConnection(url.netloc)
    line.putrequest("PUT", f"{url.path}?{url.query}")
    line.putheader("Content-Length", "1000000")
    line.endheaders(b"half")
    line.close()
    assert (objects.holds(NAME), list(objects.listing()), list(objects.strays())) == (False, [], [])
    assert objects.get(objects.put(b"x")) == b"x"


def test_what_has_no_place_is_a_stray_with_its_digest_and_a_mark_is_none(s3: Storage, tmp_path: Path) -> None:
    objects = store.open_store(tmp_path, s3)
    assert isinstance(objects, Bucket)
    objects.put(b"x")
    strange = ["notes.txt", f"zz/{NAME[2:]}", f"2d/{NAME[2:10]}", ".owners/mine"]
    for where in strange:
        server.hands(objects).write(where, where.encode())
    found = {stray.place: stray for stray in objects.strays()}
    assert sorted(found) == sorted(strange)
    assert all(stray.digest() == store.digest(where.encode()) for where, stray in found.items())
    assert all(stray.read() == where.encode() for where, stray in found.items())


def test_a_large_object_goes_up_in_parts(s3: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.store.s3.SINGLE_PUT_BYTES", 1 << 20)
    objects, data = bucket(s3), bytes(6 << 20)
    assert objects.get(objects.put(data)) == data


def test_a_writer_that_was_there_first_is_no_failure() -> None:
    obstore_store = pytest.importorskip("obstore.store", reason="the extra s3 is not installed")
    memory = obstore_store.MemoryStore()  # it knows conditional create, as AWS does
    objects = Bucket("memory://", memory, memory)
    for data in (b"x", b"y"):
        objects._write(NAME, data, "create")
    assert objects.get(NAME) == b"x"
    objects.probe()
    assert [listed.name for listed in objects.listing()] == [NAME]


def test_no_credentials_are_written_or_shown(s3: Storage, tmp_path: Path) -> None:
    objects = store.open_store(tmp_path, s3)
    assert server.SECRET not in repr(objects) + (tmp_path / "storage.json").read_text()
    assert server.KEY not in repr(objects) + (tmp_path / "storage.json").read_text()
