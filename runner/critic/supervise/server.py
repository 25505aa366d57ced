"""A server of ours from its start to its end: one place, one record, one process at a time.

It is started only where its memory fits, and is ended whole, also when its start fails or is interrupted. What a killed
run left behind is ended first; the server of a run that lives is never touched. What it does not know: whether the
critic behind it is any good; the exam says that.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runner import gpu, store
from runner.config.critic import OpenAIRuntime, Server
from runner.critic.supervise import family, launch, log, memory, process, sleep
from runner.critic.supervise.place import Place
from runner.critic.supervise.starting import SHOWN_LINES, PortTaken, Start, failed, port_taken
from runner.critic.supervise.talk import Line
from runner.errors import Failed, Fault, Refused, first_line
from runner.worker import Progress

EVENT = "critic_server"
PORT_TRIES = 3


@dataclass(slots=True)
class Supervised:
    """A server that we started: where it is, its key, and how to end it, start it again or let it sleep."""

    runtime: OpenAIRuntime
    device: str
    place: Place
    log: log.Log
    note: Callable[..., None] = field(repr=False)
    progress: Callable[[Progress], None] = field(repr=False)
    ask_memory: memory.Ask = field(repr=False)
    choose_port: Callable[[str], int] = field(default=launch.free_port, repr=False)
    url: str = ""
    key: str = field(default="", repr=False)
    num_restarts: int = 0
    asleep: bool = False
    _running: process.Running | None = field(default=None, repr=False)

    @property
    def identity(self) -> dict[str, str]:
        """What its start decides of its answers; never a key, a port or a path."""
        return launch.identity(self.runtime)

    def alive(self) -> bool:
        """Whether its process runs. Says nothing of whether it answers."""
        return self._running is not None and self._running.alive()

    def last_lines(self, count: int = SHOWN_LINES) -> list[str]:
        return self.log.tail(count)

    # ---- begin

    def begin(self) -> None:
        """Start it and wait until it answers. Raises Failed, Unavailable, Refused; nothing of it runs then."""
        try:
            self._end_orphan(self.place.take())
            before = self._fitting()
            self._begin_somewhere()
            self._handed_over("device", "critic", before)
        except BaseException:
            with contextlib.suppress(Failed):  # what could not be ended stays on record for the next start
                self.stop()
            raise

    def _end_orphan(self, record: Mapping[str, Any] | None) -> None:
        """End the server of a run that was killed, and nothing else."""
        if record is None:
            return
        pids, began_s = [each.pid for each in family.find(record)], time.monotonic()
        _refuse_left(family.end(record, self._server.stop_timeout_s))
        self.place.write(None)
        if pids:
            self._tell("orphan_ended", time.monotonic() - began_s, pids=pids)

    def _fitting(self, *, waking: bool = False) -> gpu.Memory:
        """The memory of the device now, if it is enough. Raises Failed(over_capacity) before anything starts."""
        wanted_mib = memory.needed_mib(self._server.memory, waking=waking)
        now = memory.once_free(self.device, wanted_mib, self.ask_memory)
        if memory.check_memory(self.runtime, now.free_mib, now.total_mib, {}, waking=waking) is None:
            return now
        others = memory.holders(self.device)
        fault = memory.check_memory(self.runtime, now.free_mib, now.total_mib, others, waking=waking)
        assert fault is not None, "who else is there changes the words only"
        raise Failed("load", fault)

    def _begin_somewhere(self) -> None:
        """At its port; where any port will do, at another one when a program took the first meanwhile."""
        port, host = self._server.port, self._server.host
        if port and not launch.is_free(host, port):
            raise port_taken(port)
        for _ in range(PORT_TRIES):
            try:
                return self._begin_at(port or self.choose_port(host))
            except PortTaken:
                continue
        raise failed(self.runtime, self.log, f"lost its port to other programs {PORT_TRIES} times")

    def _begin_at(self, port: int) -> None:
        server = self._server
        self.url, self.key = launch.base_url(server, port), secrets.token_urlsafe(32)
        self.log.begin(server.phases, self.key, f"{self.runtime.id} on {self.device}")
        self._running = self._spawned(port)
        try:
            Start(self.runtime, self._running, self.log, self._line, port, self._tell, self.progress).until_it_answers()
        except PortTaken:
            self._end()
            raise

    def _spawned(self, port: int) -> process.Running:
        words = launch.command(self.runtime, port)
        env = launch.environment(self.runtime, self.device, self.key, os.environ)
        facts = {"engine": self._server.engine, "port": port, "command": store.digest_of(words)}
        try:
            launch.cache_folder(self.runtime).mkdir(parents=True, exist_ok=True)
            return process.begin(words, env, facts, hear=self.log.hear, write=self.place.write)
        except OSError as error:
            raise failed(self.runtime, self.log, f"cannot be started ({first_line(error)})") from error

    # ---- end, and begin again

    def stop(self) -> None:
        """End it and all that it started, and leave the place. May be called again. Raises Failed when it lives on."""
        try:
            self._end()
        finally:
            self.place.leave()

    def restart(self) -> None:
        """Start it again after it died or answers no more. Raises Failed when it may not be, or does not start."""
        if self.num_restarts >= self._server.max_restarts:
            fault = self._exhausted()
            self.stop()
            raise Failed("critic", fault)
        self.num_restarts += 1
        self._end()
        self.begin()

    def _exhausted(self) -> Fault:
        said, most = self.log.telling(), self._server.max_restarts
        what = f"{self.runtime.id} ended once more; critic_runtime.server.max_restarts is {most}"
        fix = f"Its last lines are in {self.log.path}. The same command goes on with what is left"
        evidence = {"num_restarts": self.num_restarts, "last_lines": self.last_lines()}
        what += f"; it said: {said}" if said else ""
        return Fault("critic_restarts_exhausted", "critic_runtime", what, fix, evidence)

    def _end(self) -> None:
        """End what runs. Its record goes when all of it is gone, and not before."""
        running = self._running
        if running is None:
            return
        before, began_s, died = self.ask_memory(self.device), time.monotonic(), not running.alive()
        held_mib = 0 if died or self.asleep else self._server.memory.weights_mib
        _refuse_left(running.end(self._server.stop_timeout_s))
        self.place.write(None)
        self._running, self.asleep = None, False
        self._tell("died" if died else "ended", time.monotonic() - began_s, exit_code=running.exit_code)
        self._handed_over("critic", "device", before, held_mib)

    # ---- sleep

    def sleep(self) -> bool:
        """Give the device back and stay; true when its memory really came free. Where it did not, it is ended instead.

        Raises Refused for a runtime that cannot sleep.
        """
        if (fault := sleep.check_sleep(self.runtime)) is not None:
            raise Refused(fault)
        if self._running is None:
            return False
        before, began_s = self.ask_memory(self.device), time.monotonic()
        why_not = sleep.put_to_sleep(self._line, self.runtime, self.device, before.free_mib, self.ask_memory)
        self.asleep = why_not is None
        self._tell_turn("asleep", "sleep_failed", began_s, why_not)
        if why_not is None:
            self._handed_over("critic", "device", before)
        else:
            self._end()
        return self.asleep

    def wake(self) -> None:
        """Take the device again; the caller examines the critic afterwards. It is started anew where it was ended.

        Raises Failed(over_capacity) while others have the memory: it goes on sleeping.
        """
        if self._running is None:
            return self.begin()
        if not self.asleep:
            return None
        before, began_s = self._fitting(waking=True), time.monotonic()
        why_not = sleep.wake_up(self._line, self.runtime)
        self.asleep = False
        self._tell_turn("awake", "wake_failed", began_s, why_not)
        return self.restart() if why_not else self._handed_over("device", "critic", before)

    # ---- what is told

    def _tell_turn(self, done: str, not_done: str, began_s: float, why_not: str | None) -> None:
        because = {} if why_not is None else {"because": self.log.clean(why_not)}
        self._tell(not_done if because else done, time.monotonic() - began_s, **because)

    def _tell(self, phase: str, took_s: float, **facts: Any) -> None:
        self.note(EVENT, runtime=self.runtime.id, phase=phase, took_s=round(took_s, 3), **facts)

    def _handed_over(self, giver: str, taker: str, before: gpu.Memory, held_mib: int = 0) -> None:
        """Note what a change of hands did to the memory of the device; where it was given back, once that shows."""
        wanted_mib = (before.free_mib or 0) + int(sleep.SHARE * held_mib) if held_mib else 0
        after = memory.once_free(self.device, wanted_mib, self.ask_memory)
        free = {"free_before_mib": before.free_mib, "free_after_mib": after.free_mib}
        self.note("handed_over", device=self.device, **{"from": giver, "to": taker}, **free)

    @property
    def _server(self) -> Server:
        return launch.server_of(self.runtime)

    @property
    def _line(self) -> Line:
        return Line(self.url, self.key)


def _refuse_left(pids: list[int]) -> None:
    if pids:
        what = f"processes {', '.join(map(str, pids))} live on after SIGKILL"
        fix = "A driver or a disk holds them: look at them with `ps`, then run the same command again"
        raise Failed("critic", Fault("critic_not_ended", "critic_runtime", what, fix, {"pids": pids}))
