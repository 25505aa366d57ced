"""The critic while it is loaded: a backend that passed its exam, and the server behind it where we run one.

Nothing is asked of a critic before its exam, nor after a restart before the next one. A critic that fails is refused
with what it got wrong; a server that dies is started again as often as its runtime allows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.config.critic import CriticProfile, CriticRuntime, OpenAIRuntime
from runner.contract.critic import critic_files, critic_weights
from runner.critic import exam, schema
from runner.critic.ask import judge
from runner.critic.backends.clip import load_clip
from runner.critic.backends.in_process import load_transformers
from runner.critic.question import Backend
from runner.errors import Failed, Fault
from runner.worker import Bench, Progress

if TYPE_CHECKING:
    from runner.critic.supervise import Supervised

IN_PROCESS: dict[str, Callable[[Bench], Backend]] = {"clip": load_clip, "transformers": load_transformers}
PLACE = "critic"  # folder below scratch: the record and the log of our server


@dataclass(slots=True)
class Resident:
    """What answers, and what is known of it."""

    profile: CriticProfile
    backend: Backend
    server: Supervised | None
    schema: dict[str, Any]
    files: str | None  # digest of everything here that decides its answers; None where others keep it
    began_s: float | None = None  # the first question
    failed_in_a_row: int = 0
    turn: int = 0  # how often it was looked at again

    @property
    def model(self) -> dict[str, Any]:
        """Who answers: what the backend knows of itself, and the files that it was given."""
        return {**self.backend.identity, **({"files": self.files} if self.files else {})}

    def begin(self) -> None:
        """Questions are asked from now on: loading and the exam are no part of the time that a review may take."""
        self.began_s = self.began_s or time.monotonic()

    def spent_s(self) -> float:
        return 0.0 if self.began_s is None else time.monotonic() - self.began_s


def load(bench: Bench) -> Resident:
    """Load or start the critic; it must pass its exam. Raises Failed(load | critic), Unavailable."""
    resident = begin(bench)
    _must_pass(resident, bench, "start")
    return resident


def begin(bench: Bench) -> Resident:
    """Load or start the critic, or wake its server, and ask it nothing yet. Raises Failed(load), Unavailable."""
    profile, runtime = bench.request.critic, bench.request.critic_runtime
    assert profile is not None and runtime is not None, "the contract refuses a critique without a critic"
    backend, server = _begin(runtime, bench)
    wanted = schema.answer_schema(profile, continuous=backend.continuous)
    return Resident(profile, backend, server, wanted, critic_files(bench.request))


def restart(resident: Resident, bench: Bench) -> None:
    """Start our server again after it died, and examine it. Raises Failed when it may not be, or does not pass."""
    assert resident.server is not None
    bench.status("loading", "critic")
    with bench.clock.phase("load_critic"):
        resident.backend.close()
        resident.server.restart()
        resident.backend = _client(_openai(bench.request.critic_runtime), resident.server, bench)
    _must_pass(resident, bench, "restart")
    bench.status("reviewing")


def examine(resident: Resident, bench: Bench, when: str) -> exam.Exam:
    """Take the exam and note how it went."""
    bench.status("warming", "critic")
    began = time.perf_counter()
    with bench.clock.phase("warmup"):
        taken = exam.take(
            resident.backend, resident.profile, judge,
            lambda done, most: bench.progress(Progress("warming", "warmup", done, most)),
        )  # fmt: skip
    took_s = round(time.perf_counter() - began, 6)
    resident.backend.structured = taken.enforced is not False
    bench.note("exam", when=when, took_s=took_s, identity=resident.model, **taken.as_dict())
    return taken


def look_again(resident: Resident, bench: Bench) -> None:
    """After each step of a review: a critic that is wrong about one pair must pass its whole exam again.

    Raises Failed(critic): what it said since it last passed is marked then.
    """
    resident.turn += 1
    if not exam.still(resident.backend, resident.profile, judge, resident.turn):
        _must_pass(resident, bench, "a wrong answer between two steps")
        bench.status("reviewing")


def _must_pass(resident: Resident, bench: Bench, when: str) -> None:
    """Raises Failed(critic) when it does not: quarantined, with what it got wrong."""
    taken, runtime = examine(resident, bench, when), bench.request.critic_runtime
    if taken.passed or runtime is None:
        return
    wrong = "; ".join(f"{check.name}: {check.what}" for check in taken.checks if not check.passed)
    what = f"{runtime.id} failed its exam ({wrong})"
    fix = "Its scores are not used. Choose another critic_runtime, or mend it: `python -m runner critic exam`"
    raise Failed("critic", Fault("critic_quarantined", "critic_runtime", what, fix, taken.as_dict()))


def _begin(runtime: CriticRuntime, bench: Bench) -> tuple[Backend, Supervised | None]:
    """The backend, ready to be asked; what it holds is closed when the role is released."""
    if not isinstance(runtime, OpenAIRuntime):
        backend = IN_PROCESS[runtime.backend](bench)
        bench.on_release.callback(backend.close)
        return backend, None
    with bench.clock.phase("load_critic"):
        server = _serve(runtime, bench) if runtime.server else None
        backend = _client(runtime, server, bench)
    return backend, server


def _serve(runtime: OpenAIRuntime, bench: Bench) -> Supervised:
    """Our server, started, or woken where it sleeps between the turns of its role."""
    from runner.critic import supervise

    assert runtime.server is not None
    server: Supervised | None = bench.kept.get(PLACE)
    if server is None:
        place = Path(bench.request.outputs).absolute() / "scratch" / PLACE / bench.device.replace(":", "-")
        server = supervise.start(runtime, place, device=bench.device, note=bench.note, progress=bench.progress)
        (bench.on_release if runtime.server.between == "restart" else bench.at_end).callback(server.stop)
    else:
        server.wake()
    if runtime.server.between == "sleep":
        bench.kept[PLACE] = server
        bench.on_release.callback(server.sleep)
    return server


def _client(runtime: OpenAIRuntime, server: Supervised | None, bench: Bench) -> Backend:
    from runner.critic.backends import openai, wire

    url = server.url if server else runtime.url
    key = server.key if server else os.environ.get(runtime.key_env) if runtime.key_env else None
    assert url is not None, "the contract refuses a runtime without an address"
    said = wire.identity_of(url, key, runtime.model)
    identity = {**said, **(server.identity if server else {}), **_declared(bench)}
    backend = openai.load_openai(runtime, url=url, key=key, identity=identity)
    bench.on_release.callback(backend.close)
    return backend


def _declared(bench: Bench) -> dict[str, Any]:
    """What the request says of the weights that a server loads, and their digest where they lie here."""
    runtime = _openai(bench.request.critic_runtime)
    known = {"family": runtime.family, "quantization": runtime.quantization, "model": runtime.model}
    known["weights"] = critic_weights(bench.request)
    return {name: value for name, value in known.items() if value is not None}


def _openai(runtime: CriticRuntime | None) -> OpenAIRuntime:
    assert isinstance(runtime, OpenAIRuntime), "only a server can be started again"
    return runtime
