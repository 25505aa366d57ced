"""Where a server's record lies: a file that one supervisor has locked, and that outlives it when it is killed.

Whoever finds it unlocked with a record in it has found a dead run's, and may end that run's server. It refuses a place
that a living run has. What it does not know: how a server is ended.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from runner.errors import Fault, Unavailable
from runner.gpu import lockfile

RECORD = "critic-server.json"
OPEN_MODE = 0o600  # other users have no business here, unlike with a device's lease


@dataclass(slots=True)
class Place:
    """A folder for one server at a time."""

    folder: Path
    _file: BinaryIO | None = field(default=None, repr=False)

    @property
    def path(self) -> Path:
        return self.folder / RECORD

    def take(self) -> Mapping[str, Any] | None:
        """Have the place for ourselves; the record of a server that a dead run left. Raises Unavailable."""
        if self._file is not None:
            return None
        with contextlib.suppress(OSError):  # opening it says what is wrong
            self.folder.mkdir(parents=True, exist_ok=True)
            self.path.touch(OPEN_MODE)
        self._file = lockfile.taken(self.path)
        if self._file is None:
            what = f"is held: the critic's server of a run that lives{_told(self.path)}"
            fix = "Wait for that run, or use another outputs folder"
            raise Unavailable(Fault("critic_server_held", str(self.path), what, fix))
        return lockfile.read_left(self._file)

    def write(self, record: Mapping[str, Any] | None) -> None:
        """Put a record down, durably; None when nothing runs."""
        assert self._file is not None, "a record is written by who has taken the place"
        lockfile.write(self._file, record)
        os.fsync(self._file.fileno())

    def leave(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _told(path: Path) -> str:
    record = lockfile.read(path) or {}
    return f" (process {record['pid']}, port {record.get('port')})" if "pid" in record else ""
