"""The tracking process itself: `python -m runner.track RUN_FOLDER SETTINGS`, and `... reap OUTPUTS` for the reaper.

It projects now, again and again until the pipe of the run closes, and once more; then it answers in one line.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from runner import gpu
from runner.config.tree import Track
from runner.errors import Fault, RunnerError, first_line
from runner.track import runs
from runner.track.place import shown_uri, store_uri
from runner.track.probe import LIMIT_S, unreachable
from runner.track.project import project
from runner.track.tracker import Answer, environment

EVERY_S = 10.0  # how often a running run is projected
REST = 9  # times as long as the last projection took: a long journal must not cost the run a processor
EXIT_CODES = {"tracked": 0, "down": 1}
WRITER_GONE_S = 5.0
SECOND_CHANCE_S = 0.25  # for a store that was down the last time to answer before the run ends


def main(words: list[str]) -> int:
    """Follow one run, or reap the runs of an outputs folder; returns the exit code."""
    if words[0] == "reap":
        runs.reap(Path(words[1]), print_problem)
        return 0
    pipe = os.dup(1)  # standard output is for the one answer; what libraries print goes to the log
    os.dup2(2, 1)
    answer = Following(Path(words[0]), Track.model_validate_json(words[1])).until(sys.stdin)
    with contextlib.suppress(OSError):  # nobody listens when the run's process was killed
        os.write(pipe, json.dumps(asdict(answer)).encode())
    return EXIT_CODES.get(answer.status, 3)


@dataclass(slots=True)
class Following:
    """One run being projected."""

    folder: Path
    track: Track
    noted: str | None = None  # what was wrong the last time

    @property
    def outputs(self) -> Path:
        return self.folder.parent.parent

    def until(self, closed: IO[str]) -> Answer:
        """Project until the pipe closes, and once more. A projection that fails does not cost the next."""
        self._send_reaper()
        rest_s = self._timed(self.project)
        while not select.select([closed], [], [], rest_s)[0]:
            rest_s = self._timed(self.project)
        self._wait_for_the_writer()
        return self.project(SECOND_CHANCE_S if self.noted else LIMIT_S)  # the run's process waits now

    def project(self, limit_s: float = LIMIT_S) -> Answer:
        """Project if the store answers in time; what goes wrong is noted in the log once."""
        answer = self._project(limit_s)
        if answer.reason and answer.reason != self.noted:
            print(f"{answer.code}: {answer.reason}", file=sys.stderr, flush=True)
        self.noted = answer.reason
        return answer

    def _project(self, limit_s: float) -> Answer:
        uri = store_uri(self.outputs, self.track)
        if fault := unreachable(uri, limit_s):
            return down(fault)
        try:
            project(self.folder, self.track)
        except RunnerError as error:
            return Answer("failed", error.faults[0].what, error.faults[0].code)
        except Exception as error:
            traceback.print_exc()
            if fault := unreachable(uri):  # it went away meanwhile
                return down(fault)
            what = f"MLflow at {shown_uri(uri)} could not be written ({first_line(error)})"
            return Answer("failed", what, "tracker_failed")
        return Answer("tracked")

    def _timed(self, projection: Callable[[], Answer]) -> float:
        """Do it; returns how long to rest before the next time."""
        begun = time.monotonic()
        projection()
        return max(EVERY_S, REST * (time.monotonic() - begun))

    def _send_reaper(self) -> None:
        """Runs that were left open by processes that are gone are closed by a process of its own."""
        if next(runs.left_behind(self.outputs, but=self.folder), None) is None:
            return
        nothing = subprocess.DEVNULL
        command = [sys.executable, "-m", "runner.track", "reap", str(self.outputs)]
        with contextlib.suppress(OSError):
            subprocess.Popen(command, stdin=nothing, stdout=nothing, start_new_session=True, env=environment())

    def _wait_for_the_writer(self) -> None:
        """The pipe of a killed process closes a moment before the process is gone."""
        deadline = time.monotonic() + WRITER_GONE_S
        while runs.is_open(self.folder) and gpu.is_written(self.folder) and time.monotonic() < deadline:
            time.sleep(0.05)


def down(fault: Fault) -> Answer:
    return Answer("down", fault.what, fault.code)


def print_problem(problem: dict[str, Any]) -> None:
    print(f"{problem['code']}: {problem['run_id']}: {problem['what']}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
