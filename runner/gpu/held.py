"""Holding something: a device for as long as work lasts, a run folder for as long as one process writes it.

It refuses what another process holds, or waits for its turn, in the one place where anybody waits for a device. It
never takes from a process that lives. What it does not know: processes that ignore the lease.
"""

from __future__ import annotations

import contextlib
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from runner.errors import Fault, Refused, Unavailable
from runner.gpu import devices, lockfile, owner, tickets
from runner.gpu.admission import Admission, Holder, Memory, Needs, admit
from runner.gpu.memory import memory_of
from runner.gpu.owner import Owner

POLL_S = 0.2  # for a device
POLL_MEMORY_S = 1.0  # for memory: asking a card starts a program
NAME_TRIES = 12
LOCK = "lock"  # in a run folder: who writes it
SILENT_S = 60.0  # a writer on another machine that wrote nothing for so long is gone

Told = Callable[[dict[str, Any]], None]


@dataclass(slots=True)
class Held:
    """A device while we have it: keeps its record true. Safe to call from another thread, also after the end."""

    device: str
    file: BinaryIO
    record: dict[str, Any]
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> dict[str, Any] | None:
        """Write our record; returns that of a holder that died. Raises Unavailable when it cannot be written."""
        try:
            before = lockfile.read_left(self.file)
            self.record["since"] = self.record["beat"] = owner.now_iso()
            lockfile.write(self.file, self.record)
        except BaseException as error:
            self.file.close()
            if isinstance(error, OSError):
                raise lockfile.unusable(devices.lease_file(self.device), error) from error
            raise
        return before

    def beat(self, peak_mib: int | None = None) -> bool:
        """Say that the holder lives, and the most memory that it has taken so far. Never raises.

        False when the lease file is gone: somebody deleted it, and another may take the device.
        """
        with self._guard:
            self.record["beat"] = owner.now_iso()
            self.record["peak_mib"] = max(peak_mib or 0, self.record["peak_mib"] or 0) or None
            self._write()
            return self.file.closed or lockfile.is_at(self.file, devices.lease_file(self.device))

    def name_child(self, pid: int, process_started: float) -> None:
        """The process that works under this lease and has inherited its lock."""
        with self._guard:
            self.record["child"] = {"pid": pid, "process_started": process_started}
            self._write()

    def _write(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # a full disk; a file that is closed
            lockfile.write(self.file, self.record)

    def let_go(self) -> None:
        """Empty the record and close the file; a child that inherited the lock keeps it."""
        with self._guard, contextlib.suppress(OSError, ValueError):
            try:
                lockfile.write(self.file, None)
            finally:
                self.file.close()


@contextmanager
def lease(
    needs: Needs | str, owned_by: Owner, *, wait: bool, on_wait: Told, on_takeover: Told = lambda before: None,
    ask_memory: Callable[[str], Memory] = memory_of,
) -> Iterator[Held]:  # fmt: skip
    """Hold a device (`cpu`, `cuda:0`), with memory free for what is needed, when its turn has come.

    `on_wait` is told who is in the way (its record, and `reason`) at first and at every change; `on_takeover` gets the
    record of a holder that died. Raises Unavailable when it would have to wait and `wait` is false, and Refused
    when the device never has enough.
    """
    needs = needs if isinstance(needs, Needs) else Needs(needs)
    lockfile.make_shared_folder(devices.lease_folder())
    path, queue = devices.lease_file(needs.device), devices.queue_folder(needs.device)
    record = owner.record(owned_by, devices.device_of(path) or needs.device, needs.need_mib)
    with tickets.drawn(queue, record) as ticket:
        held = Held(needs.device, _take_turn(path, ticket, needs, on_wait if wait else None, ask_memory), record)
        before = held.begin()
    try:
        if before is not None:
            on_takeover(before)
        yield held
    finally:
        held.let_go()


def _take_turn(
    path: Path, ticket: Path, needs: Needs, on_wait: Told | None, ask_memory: Callable[[str], Memory]
) -> BinaryIO:
    """The locked lease file, as soon as nobody is before us, nobody holds it, and the memory is free.

    While memory is short the file is let go of, so that it says who works; our ticket keeps our turn.
    """
    told: object = "nobody yet"
    while True:
        file, holder = _look(path, ticket)
        reason = _identity(holder)
        if file is not None or told != reason:
            admission = _judge(file, needs, holder, ask_memory)
            if file is not None and admission.verdict == "admit":
                return file
            _refuse(admission, waiting=on_wait is not None)
            if on_wait is not None and told != reason:
                on_wait({**(holder.record if holder else {}), "reason": admission.text})
                told = reason
        time.sleep(POLL_S if holder else POLL_MEMORY_S)


def _look(path: Path, ticket: Path) -> tuple[BinaryIO | None, Holder | None]:
    """The lease file, locked, or who is in the way."""
    before = tickets.first_before(ticket)
    file = lockfile.taken(path) if before is None else None
    if file is not None:
        return file, None
    if before is not None and not lockfile.is_held(path):
        return None, Holder(before, waits=True)
    return None, Holder(_holder(path))


def _holder(path: Path) -> Mapping[str, Any]:
    """The record of who has the lease: a process that has only just locked it writes its name within a moment."""
    for _ in range(NAME_TRIES):
        if record := owner.of_holder(lockfile.read(path)):
            return record
        time.sleep(lockfile.PAUSE_S)
    return {}


def _judge(
    file: BinaryIO | None, needs: Needs, holder: Holder | None, ask_memory: Callable[[str], Memory]
) -> Admission:
    """The verdict; unless it is `admit`, the file is let go of."""
    admission = None
    try:
        admission = admit(needs, ask_memory(needs.device), holder)
        return admission
    finally:
        if file is not None and (admission is None or admission.verdict != "admit"):
            file.close()


def _refuse(admission: Admission, *, waiting: bool) -> None:
    if admission.fault is not None and admission.verdict == "never":
        raise Refused(admission.fault)
    if admission.fault is not None and not waiting:
        raise Unavailable(admission.fault)


def _identity(holder: Holder | None) -> object:
    return holder and (holder.waits, holder.record.get("pid"), holder.record.get("process_started"))


@contextmanager
def only_writer(run_folder: Path, owned_by: Owner) -> Iterator[None]:
    """Hold a run folder for writing. Raises Unavailable when another process writes into it."""
    file = lockfile.open_shared(run_folder / LOCK)
    try:
        # The folder is locked as well as the file: the file may be deleted by hand while we work.
        with lockfile.folder_taken(run_folder) as free:
            if not (lockfile.take(file) and free):
                raise Unavailable(_second_writer(run_folder))
            _record(file, owned_by)
            yield
    finally:
        file.close()


def _record(file: BinaryIO, owned_by: Owner) -> None:
    with contextlib.suppress(OSError):  # a full disk: the lock counts, the record is a courtesy
        lockfile.write(file, owned_by.as_dict())


def is_written(run_folder: Path) -> bool:
    """Whether a process of this machine writes into a run folder now."""
    return lockfile.is_held(run_folder / LOCK) or lockfile.is_folder_held(run_folder)


def alive(run_folder: Path, owned_by: Mapping[str, Any] | None) -> bool:
    """Whether a run's writer is at work: it holds the folder, which the kernel takes back when it dies.

    A writer on another machine cannot be asked: it is alive while something in its folder is still written, which
    its pulse sees to.
    """
    if is_written(run_folder):
        return True
    is_foreign = owned_by is not None and owned_by.get("host") != platform.node()
    return is_foreign and _last_written_s(run_folder) > time.time() - SILENT_S


def _last_written_s(run_folder: Path) -> float:
    try:
        return max(entry.stat().st_mtime for entry in run_folder.iterdir())
    except (OSError, ValueError):
        return 0.0


def _second_writer(run_folder: Path) -> Fault:
    what = f"run {run_folder.name} is being written by {owner.who(lockfile.read(run_folder / LOCK) or {})}"
    return Fault("run_locked", "run", what, "Follow it with `python -m runner status`, or wait until it ends")
