"""What every kind of store can do, and what it says of what lies in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from runner.errors import Fault

NAMES_AT_ONCE = 8  # names that a thread checks before it looks for more: small files cost less than a hand-over


@dataclass(frozen=True, slots=True)
class Listed:
    """An object that has its place, as the store lists it; its bytes were not read."""

    name: str
    size: int  # bytes
    modified_s: float  # seconds since 1970


@dataclass(frozen=True, slots=True)
class Checked:
    """What is in an object's place: the digest and size of its bytes, None where there are none."""

    name: str
    found: str | None
    size: int | None
    problem: str | None = None  # why the bytes could not be read, though something is there

    @property
    def sound(self) -> bool:
        return self.found == self.name


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a write left behind when its process died: never visible as an object."""

    place: str  # below the root of the store
    size: int
    modified_s: float


class Objects(Protocol):
    """A store of bytes by their sha256. Methods that touch bytes raise Failed(storage) when the store lets go."""

    @property
    def where(self) -> str:
        """The root of the store, as a person would look for it."""

    def place(self, name: str) -> str:
        """Where an object lies or would lie, for messages."""

    def there(self) -> bool:
        """Whether there is a store; a run folder copied away has none beside it. Raises Unavailable."""

    def probe(self) -> None:
        """Try to write and read before anything expensive happens. Raises Unavailable or Refused."""

    def shared(self) -> Fault | None:
        """What says that other outputs folders use this store too; None where nothing does. `gc` asks."""

    def put(self, data: bytes) -> str:
        """Store bytes, read them back, and return their digest."""

    def get(self, name: str) -> bytes:
        """The bytes named `name`. Raises Corrupt when they are gone or are others."""

    def holds(self, name: str) -> bool:
        """Whether the object is there and its bytes have its name."""

    def look(self, num_names: int) -> Callable[[str], Listed | None]:
        """A way to see size and time of objects one by one, made for so many of them; no bytes are read."""

    def listing(self) -> Iterator[Listed]:
        """Everything that has an object's name and place; no bytes are read."""

    def check(self, names: Iterable[str], num_threads: int) -> Iterator[Checked]:
        """Hash objects in parallel; yields as they finish, in no order."""

    def leftovers(self) -> Iterator[Leftover]:
        """What dead writes left behind, and what living ones write at this moment: look at `modified_s`."""

    def remove(self, name: str) -> None:
        """Remove an object, durably; one that is gone stays gone. `gc` alone calls this."""

    def discard(self, place: str) -> None:
        """Remove a leftover by its place; never an object."""


def check_in_threads(check_one: Callable[[str], Checked], names: Iterable[str], num_threads: int) -> Iterator[Checked]:
    """Check names in threads, a bounded number ahead of the reader; memory does not grow with their number."""
    rest, waiting = iter(names), set[Future[list[Checked]]]()
    pool = ThreadPoolExecutor(num_threads)
    try:
        while piece := list(islice(rest, NAMES_AT_ONCE)):
            waiting.add(pool.submit(_check_all, check_one, piece))
            if len(waiting) >= 3 * num_threads:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield from future.result()
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield from future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _check_all(check_one: Callable[[str], Checked], names: list[str]) -> list[Checked]:
    return [check_one(name) for name in names]


def shared(where: str, fix: str) -> Fault:
    what = "this store also belongs to another outputs folder: gc would remove what its runs name"
    return Fault("store_shared", where, what, fix)


def gone(name: str) -> Fault:
    return _object_fault(name, "is not in the store", None)


def altered(name: str, found: str) -> Fault:
    return _object_fault(name, f"holds bytes with sha256 {found[:12]}", found)


def _object_fault(name: str, what: str, found: str | None) -> Fault:
    fix = "`python -m runner verify --all` lists every difference; the same run command makes it again"
    return Fault("object_corrupt", f"object {name[:12]}", what, fix, {"expected": name, "found": found})
