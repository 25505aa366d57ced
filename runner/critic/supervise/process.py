"""One process in a session of its own: begun, written down before it does anything, and listened to.

The process is the child of a thread that lives as long as it does: Linux ends it when that thread goes, which is when
we die, and no other thread of ours can take it along. What it does not know: what the program is.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import queue
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from runner.critic.supervise import family, hatch

FORMAT = 1
MAX_LINE = 8192  # characters of a line that are read; the rest is passed over
LISTENER_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Running:
    """A begun process, and the record by which it is found again."""

    child: subprocess.Popen[bytes]
    record: Mapping[str, Any]
    listener: threading.Thread

    def alive(self) -> bool:
        return self.child.poll() is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs; 128+n after signal n, as a shell says it."""
        code = self.child.poll()
        return code if code is None or code >= 0 else 128 - code

    def end(self, within_s: float) -> list[int]:
        """End it and all that it started; the pids that are still there."""
        left = family.end(self.record, within_s)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(LISTENER_WAIT_S)
        self.listener.join(LISTENER_WAIT_S)
        return left


def begin(
    words: Sequence[str], env: Mapping[str, str], facts: Mapping[str, Any], *,
    hear: Callable[[str], None], write: Callable[[Mapping[str, Any]], None],
) -> Running:  # fmt: skip
    """Start a program. `write` gets its record before it runs; `hear` gets every line that it or its children say.

    Raises OSError when no process can be made.
    """
    mark = secrets.token_hex(16)
    born: queue.SimpleQueue[subprocess.Popen[bytes] | OSError] = queue.SimpleQueue()
    given = (words, {**env, family.MARK: mark}, hear, born)
    listener = threading.Thread(target=_live, args=given, name="critic-server", daemon=True)
    listener.start()
    child = born.get()
    if isinstance(child, OSError):
        raise child
    try:
        record = _record(child, mark, facts)
        write(record)
    except BaseException:
        child.kill()
        child.wait()
        raise
    finally:
        _go(child)
    return Running(child, record, listener)


def _go(child: subprocess.Popen[bytes]) -> None:
    """Let it go on; one that was killed hears nothing."""
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError), child.stdin:
        child.stdin.write(b".")


def _live(
    words: Sequence[str], env: Mapping[str, str], hear: Callable[[str], None],
    born: queue.SimpleQueue[subprocess.Popen[bytes] | OSError],
) -> None:  # fmt: skip
    """The life of the thread whose child the process is: it ends when the process and all its output have."""
    command = [sys.executable, "-I", "-S", str(Path(hatch.__file__).resolve()), *words]
    try:
        child = subprocess.Popen(
            command, env=env, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except OSError as error:
        born.put(error)
        return
    born.put(child)
    assert child.stdout is not None
    for line in lines(child.stdout):
        hear(line)
    child.wait()


def lines(pipe: IO[bytes]) -> Iterator[str]:
    """Lines of a program's output; a progress bar's carriage returns end lines as well."""
    with io.TextIOWrapper(pipe, "utf-8", errors="replace") as text:
        while line := text.readline(MAX_LINE):
            rest = line
            while rest and not rest.endswith("\n"):
                rest = text.readline(MAX_LINE)
            yield line.rstrip()


def _record(child: subprocess.Popen[bytes], mark: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    assert child.stdout is not None
    try:
        started = psutil.Process(child.pid).create_time()
    except psutil.Error as error:
        raise OSError("the process was gone at once") from error
    return {
        "format": FORMAT, "pid": child.pid, "process_started": started,
        "host": platform.node(), "boot": family.boot(), "mark": mark,
        "pipe": f"pipe:[{os.fstat(child.stdout.fileno()).st_ino}]", **facts,
    }  # fmt: skip
