"""Objects in a bucket of a server that speaks S3: `<prefix>/ab/cdef...` holds the bytes named `abcdef...`.

A put is atomic on the server, created only where nothing is, and read back before its name is given out; transient
errors are tried again by the library, for a bounded time. Every outputs folder that stores here has a mark of its own,
`.owners/<its id>`. Credentials come from the environment alone. It refuses nothing by itself; what it does not know:
unfinished multipart uploads, which the bucket's lifecycle rules clear, and a copied outputs folder, whose mark is the
same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Literal

from runner.errors import Corrupt, Failed, Fault, Refused, Unavailable, first_line
from runner.store.kinds import Kind
from runner.store.names import digest, is_name
from runner.store.objects import Checked, Leftover, Listed, altered, check_in_threads, gone, shared

PROBE = ".probe"  # written by the first run of an outputs folder, and never removed
OWNERS = ".owners"  # a key here for each outputs folder that stores in this prefix, written again before every run
MARK = re.compile(r"\.owners/[0-9a-f]{32}")
SINGLE_PUT_BYTES = 64 << 20  # larger objects go up in parts, each tried again by itself
FEW_NAMES = 256  # so many are looked at one by one; for more, listing the bucket is quicker
ABSENT = (FileNotFoundError,)  # what obstore raises for a key that is not there


@dataclass(frozen=True, slots=True)
class Stray:
    """A key that no object has; `digest` is None when it is gone by now."""

    place: str  # below the prefix
    digest: Callable[[], str | None]
    read: Callable[[], bytes]


def connect(kind: Kind) -> Bucket:
    """The bucket of an outputs folder; nothing is asked of the server yet."""
    assert kind.uri is not None, kind
    patient, impatient = _client(kind, num_retries=8, retry_s=90), _client(kind, num_retries=2, retry_s=10)
    return Bucket(kind.uri, patient, impatient, kind.owner)


def _client(kind: Kind, *, num_retries: int, retry_s: float) -> Any:
    from obstore.store import S3Store

    where = {"region": kind.region} | ({"endpoint": kind.endpoint} if kind.endpoint else {})
    plain = (kind.endpoint or "").startswith("http://")
    return S3Store.from_url(
        str(kind.uri),
        config=where,  # type: ignore[arg-type]  # obstore's dict of every option; ours is two of them
        client_options={"allow_http": plain, "connect_timeout": "5s", "read_timeout": "30s", "timeout": "600s"},
        retry_config={"max_retries": num_retries, "retry_timeout": timedelta(seconds=retry_s)},
    )


@dataclass(frozen=True, slots=True)
class Bucket:
    """Objects under a prefix of a bucket."""

    uri: str
    client: Any  # an obstore store
    impatient: Any  # the same, giving up soon: asked before a run, when a person waits
    owner: str | None = None  # the id of the outputs folder

    @property
    def where(self) -> str:
        return self.uri

    def place(self, name: str) -> str:
        return f"{self.uri}/{_key(name)}"

    def there(self) -> bool:
        self._reach()
        return True

    def probe(self) -> None:
        """List, write, and read back a key. Raises Unavailable(storage_unreachable, storage_denied) or Refused."""
        import obstore

        self._reach()
        with self._reaching():
            obstore.put(self.impatient, self._mark() or PROBE, b"", mode="overwrite", use_multipart=False)
            obstore.get(self.impatient, self._mark() or PROBE).bytes()

    def shared(self) -> Fault | None:
        others = {meta["path"] for meta in self._metas(OWNERS) if MARK.fullmatch(meta["path"])} - {self._mark()}
        if not others:
            return None
        mark = f"{self.uri}/{min(others)}"
        return shared(self.uri, f"Use a prefix of its own. When that outputs folder is gone for good, remove {mark}")

    def put(self, data: bytes) -> str:
        name = digest(data)
        found = self._measure(_key(name))
        if found is None:
            self._write(name, data, "create")
        elif found[0] != name:
            self._write(name, data, "overwrite")
        else:
            return name
        if not self.holds(name):
            raise _failed(self.place(name), "reads back other bytes than were written")
        return name

    def get(self, name: str) -> bytes:
        data = self._read(_key(name))
        if data is None:
            raise Corrupt(gone(name))
        found = digest(data)
        if found != name:
            raise Corrupt(altered(name, found))
        return data

    def holds(self, name: str) -> bool:
        found = self._measure(_key(name))
        return found is not None and found[0] == name

    def look(self, num_names: int) -> Callable[[str], Listed | None]:
        if num_names > FEW_NAMES:
            return {listed.name: listed for listed in self.listing()}.get
        return self._look_at

    def listing(self) -> Iterator[Listed]:
        for meta in self._metas():
            if name := _name(meta["path"]):
                yield Listed(name, meta["size"], meta["last_modified"].timestamp())

    def check(self, names: Iterable[str], num_threads: int) -> Iterator[Checked]:
        return check_in_threads(self._check_one, names, num_threads)

    def strays(self) -> Iterator[Stray]:
        """Everything that is neither an object nor ours."""
        for meta in self._metas():
            key = meta["path"]
            if not _name(key) and key != PROBE and not MARK.fullmatch(key):
                yield Stray(key, partial(self._stray_digest, key), partial(self._stray_bytes, key))

    def leftovers(self) -> Iterator[Leftover]:
        return iter(())

    def remove(self, name: str) -> None:
        assert is_name(name), name
        self._delete(_key(name))

    def discard(self, place: str) -> None:
        assert not _name(place), place
        self._delete(place)

    def _reach(self) -> None:
        import obstore

        with self._reaching():
            next(iter(obstore.list(self.impatient)), None)

    def _write(self, name: str, data: bytes, mode: Literal["create", "overwrite"]) -> None:
        """Raises Failed(storage). A writer that was there first is no failure: reading back decides."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        in_parts = len(data) > SINGLE_PUT_BYTES
        put = partial(obstore.put, self.client, _key(name), data, use_multipart=in_parts)
        with _failing(self.place(name), "written"):
            try:
                put(mode="overwrite" if in_parts else mode)  # the library has no conditional create in parts
            except AlreadyExistsError:
                return
            except (obstore.exceptions.BaseError, NotImplementedError) as error:
                if "NotImplemented" not in f"{type(error).__name__} {error}":
                    raise
                put(mode="overwrite")  # a server without conditional create; the bytes are the same in any case

    def _read(self, key: str) -> bytes | None:
        import obstore

        with _failing(f"{self.uri}/{key}", "read"):
            try:
                return bytes(obstore.get(self.client, key).bytes())
            except ABSENT:
                return None

    def _measure(self, key: str) -> tuple[str, int] | None:
        """Digest and size of what is under a key, read in pieces."""
        import obstore

        sha, size = hashlib.sha256(), 0
        with _failing(f"{self.uri}/{key}", "read"):
            try:
                for piece in obstore.get(self.client, key).stream():
                    sha.update(piece)
                    size += len(piece)
            except ABSENT:
                return None
        return sha.hexdigest(), size

    def _look_at(self, name: str) -> Listed | None:
        import obstore

        with _failing(self.place(name), "read"):
            try:
                meta = obstore.head(self.client, _key(name))
            except ABSENT:
                return None
        return Listed(name, meta["size"], meta["last_modified"].timestamp())

    def _check_one(self, name: str) -> Checked:
        return Checked(name, *(self._measure(_key(name)) or (None, None)))

    def _stray_digest(self, key: str) -> str | None:
        found = self._measure(key)
        return found[0] if found else None

    def _stray_bytes(self, key: str) -> bytes:
        data = self._read(key)
        if data is None:
            raise _failed(f"{self.uri}/{key}", "is gone")
        return data

    def _mark(self) -> str | None:
        return f"{OWNERS}/{self.owner}" if self.owner else None

    def _metas(self, below: str | None = None) -> Iterator[Any]:
        import obstore

        with _failing(self.uri, "listed"):
            for page in obstore.list(self.client, below):
                yield from page

    def _delete(self, key: str) -> None:
        import obstore

        with _failing(f"{self.uri}/{key}", "removed"):
            try:
                obstore.delete(self.client, key)
            except ABSENT:
                return

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """The library's errors as a person hears them before a run."""
        try:
            with _failing(self.uri, "reached"):
                yield
        except Failed as error:
            raise _before_a_run(self.uri, error.faults[0]) from error


def _key(name: str) -> str:
    return f"{name[:2]}/{name[2:]}"


def _name(key: str) -> str | None:
    """The name of the object that has this key; None when only something else could have it."""
    name = key[:2] + key[3:]
    return name if key[2:3] == "/" and is_name(name) else None


@contextmanager
def _failing(place: str, verb: str) -> Iterator[None]:
    """The library's errors as ours. Some of them are Python's own: obstore's table of exceptions says which."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError, NotImplementedError) as error:
        raise _failed(place, f"cannot be {verb} ({_cause(error)})") from error


def _failed(place: str, what: str) -> Failed:
    fix = "Mend the storage or its credentials, then run the same command again to resume"
    return Failed("storage", Fault("storage_failed", f"storage ({place})", what, fix))


def _cause(error: BaseException) -> str:
    """What the server or the network said, out of the library's long text."""
    text = str(error)
    if said := re.search(r"<Code>(\w+)</Code>", text):
        return f"the server says {said[1]}"
    if status := re.search(r"non-2xx status code: (\d+[\w ]*)", text):
        return f"the server says {status[1]}"
    if kind := re.search(r"kind: (Connect|Timeout)", text):
        return "no connection" if kind[1] == "Connect" else "no answer in time"
    return first_line(error)


def _before_a_run(uri: str, fault: Fault) -> Unavailable | Refused:
    where, what = f"storage.uri ({uri})", fault.what
    if "NoSuchBucket" in what:
        return Refused(Fault("storage_missing", where, what, "Make the bucket, or name another with storage.uri"))
    if re.search(r"AccessDenied|SignatureDoesNotMatch|InvalidAccessKeyId|Token|\b40[13]\b|credential", what):
        fix = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to a key that may list, read and write there"
        return Unavailable(Fault("storage_denied", where, what, fix))
    fix = "Look whether the server runs and storage.endpoint is right, then run the same command again"
    return Unavailable(Fault("storage_unreachable", where, what, fix))
