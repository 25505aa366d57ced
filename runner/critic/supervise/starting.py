"""The start of a server: from its words to its first answer, in phases, or why there is none.

It answers when it lists its models, does not say that it is loading, and is itself what listens there. A process that
dies is noticed at once. What it does not know: whether its answers are worth anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from runner.config.critic import OpenAIRuntime
from runner.contract import machine
from runner.critic.supervise import family, launch, process
from runner.critic.supervise.log import LAST, Log
from runner.critic.supervise.process import Running
from runner.critic.supervise.talk import Line
from runner.errors import Failed, Fault, Unavailable
from runner.worker import Progress

POLL_S = 0.05
SHOWN_LINES = 20
PHASE = "load_critic"  # the clock's name of a start


class PortTaken(Exception):
    """It ended because another program took the port that had been chosen for it."""


@dataclass(frozen=True, slots=True)
class Start:
    """One start that goes on."""

    runtime: OpenAIRuntime
    running: Running
    log: Log
    line: Line
    port: int
    tell: Callable[..., None]  # tell(phase, took_s, **facts)
    progress: Callable[[Progress], None]

    def until_it_answers(self) -> None:
        """Raises Failed when it dies or its time is up, PortTaken when it lost its port."""
        server, phases = launch.server_of(self.runtime), self.log.phases
        while not (self.line.answers() and self._is_own()):
            self._tell_phases()
            if not self.running.alive():
                raise self._death()
            if phases.total_s() > server.start_timeout_s:
                raise failed(self.runtime, self.log, f"did not answer within {server.start_timeout_s:g} s")
            time.sleep(POLL_S)
        phases.finish()
        self._tell_phases()
        self.tell(LAST, phases.total_s(), key_checked=self.line.wants_key())

    def _tell_phases(self) -> None:
        phases = self.log.phases
        for name, took_s in phases.ended():
            self.tell(name, took_s)
            self.progress(Progress("loading", PHASE, len(phases.begun) - 1, len(phases.patterns) + 1))

    def _is_own(self) -> bool:
        """Whether it is ours that answers. An engine of another kind is believed: it may be a container."""
        return launch.server_of(self.runtime).engine == "other" or family.listens(self.running.record, self.port)

    def _death(self) -> Exception:
        server = launch.server_of(self.runtime)
        self.running.listener.join(process.LISTENER_WAIT_S)  # its last words
        if not launch.is_free(server.host, self.port):
            return port_taken(self.port) if server.port else PortTaken()
        how = f"ended with exit code {self.running.exit_code} while it started"
        return failed(self.runtime, self.log, how, exit_code=self.running.exit_code)


def failed(runtime: OpenAIRuntime, log: Log, how: str, **evidence: Any) -> Failed:
    """Why a server is not there: how it ended, in which phase, and what it said last."""
    (phase, for_s), said, tail = log.phases.current(), log.telling(), log.tail(SHOWN_LINES)
    what = f"{runtime.id} {how}, {for_s:.1f} s into phase {phase}"
    what += f"; it said: {said}" if said else "; it said nothing"
    fix = f"Its last lines are in {log.path}; `python -m runner critic plan` shows its command"
    kind = "oom" if machine.is_out_of_memory(Exception("\n".join(tail))) else "load"
    told = {"phase": phase, "last_lines": tail, **evidence}
    return Failed(kind, Fault("critic_start_failed", "critic_runtime", log.clean(what), fix, told))


def port_taken(port: int) -> Unavailable:
    fix = "End that program, or set critic_runtime.server.port=0 for a free one"
    what = f"is {port}, where another program listens"
    return Unavailable(Fault("port_taken", "critic_runtime.server.port", what, fix))
