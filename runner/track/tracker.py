"""The tracking process seen from the run: started, told to finish, and asked how it went. Imports no MLflow."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from runner.config.tree import Track
from runner.track.place import LEAN, shown_uri, store_uri

LOG = "tracking.log"


@dataclass(frozen=True, slots=True)
class Answer:
    """How tracking ended: `tracked`, `late` (it goes on by itself), `down` (the store does not answer) or `failed`."""

    status: str
    reason: str | None = None  # a fact, with where in it
    code: str | None = None  # `tracker_down`, `tracker_failed`

    def line(self, outputs: Path) -> str | None:
        """What a person is told; nothing when all went well."""
        if self.status == "tracked":
            return None
        later = f"python -m runner rebuild mlflow --outputs {outputs} brings it up to date later"
        return f"{self.reason}; the journal has it all: {later}"


@dataclass(slots=True)
class Tracker:
    """The tracking process of one run."""

    folder: Path
    timeout_s: float
    process: subprocess.Popen[bytes] | None = None
    uri: str = "MLflow"

    def start(self, track: Track) -> None:
        """Start projecting; a tracker that cannot start is noted by `finish` and stops nothing."""
        self.uri = shown_uri(store_uri(self.folder.parent.parent, track))
        command = [sys.executable, "-m", "runner.track", str(self.folder), track.model_dump_json()]
        with contextlib.suppress(OSError), (self.folder / LOG).open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
                env=environment(),
            )  # fmt: skip

    def finish(self) -> Answer:
        """Ask for the final projection and wait for the answer: at once from a store that does not answer."""
        process = self.process
        if process is None or process.stdin is None or process.stdout is None:
            return Answer("failed", "the tracking process did not start", "tracker_failed")
        with contextlib.suppress(OSError):
            process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):  # the run has its own ending
            process.wait(self.timeout_s)
        if process.returncode is None:
            return Answer("late", f"MLflow at {self.uri} is still being written ({self.folder / LOG})")
        with process.stdout as said:
            return self._answer(said.read())

    def _answer(self, said: bytes) -> Answer:
        try:
            answer = Answer(**json.loads(said))
        except (ValueError, TypeError):
            ending = self.process.returncode if self.process else None
            what = f"the tracking process of MLflow at {self.uri} ended with {ending} ({self.folder / LOG})"
            return Answer("failed", what, "tracker_failed")
        return answer


def environment() -> dict[str, str]:
    """What a tracking process sees: MLflow lean, one thread, our code."""
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return {**os.environ, **LEAN, **own}
