"""The one path: an accepted plan becomes a finished run, whether it is new or half done.

For each step: the device is leased, the worker works, its bytes are stored and read back, and one line per
item is committed to the journal. It refuses to write where another process writes, and never calls a run
complete that does not verify. What it does not know: how a step is done, Hydra, MLflow, or what people see.
"""

from __future__ import annotations

import io
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import environment, gpu, journal
from runner.config.tree import Request
from runner.contract import Contract, Pins, card, device_there
from runner.errors import Corrupt, Failed, Fault, Interrupted, Refused, RunnerError
from runner.plan import Plan, PromptPlan, Step, changed_fields, make_plan, manifest
from runner.store import Store
from runner.timing import Clock
from runner.worker import Bench, Outcome, Progress, Work


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that passed the contract, with its plan: what `execute` turns into a run."""

    contract: Contract
    pins: Pins
    plan: Plan
    device: str
    fallback: str | None

    @property
    def request(self) -> Request:
        return self.contract.request


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended."""

    run_id: str
    folder: Path
    status: str
    exit_code: int
    num_made: int
    num_kept: int
    failure: Fault | None


@dataclass(frozen=True, slots=True)
class Watch:
    """Who looks on: told of the run folder before anything loads, of journal lines, and of moments in a step."""

    on_open: Callable[[Path], None] = lambda folder: None
    on_event: journal.Watcher = lambda event: None
    on_progress: Callable[[Progress], None] = lambda moment: None


def accept(contract: Contract, pins: Pins) -> Accepted:
    """Plan an accepted contract on the device it will run on."""
    device, fallback = _device(contract.request)
    prompts = [
        PromptPlan(p.key, p.text, {s.name: s.text for s in p.sections}, p.triggered) for p in contract.prompts
    ]
    plan = make_plan(contract.request, prompts, pins.as_dict(), device.partition(":")[0])
    return Accepted(contract, pins, plan, device, fallback)


def execute(accepted: Accepted, workers: Mapping[str, Work], clock: Clock, watch: Watch) -> Result:
    """Run or resume. Raises Unavailable, Refused or Corrupt before anything starts; afterwards it always returns."""
    outputs = Path(accepted.request.outputs).absolute()
    _check_disk(accepted.request, outputs, len(accepted.plan.images))
    folder = _run_folder(accepted, outputs)
    owner = gpu.this_process(folder.name, "generator")
    with gpu.only_writer(folder, owner):
        digest = _manifest(accepted, folder)
        log, events = journal.open_journal(folder, digest)
        state = journal.fold(events)
        objects = Store(outputs / "objects")
        run = _Run(accepted, folder, log, objects, clock, watch, state)
        return run.go(workers, owner)


class _Run:
    """One attempt: the loop and what it keeps in mind. Lives inside `execute` only."""

    def __init__(
        self, accepted: Accepted, folder: Path, log: journal.Journal, objects: Store, clock: Clock,
        watch: Watch, state: journal.State,
    ) -> None:  # fmt: skip
        self.accepted, self.folder, self.log, self.objects = accepted, folder, log, objects
        self.clock, self.watch, self.state = clock, watch, state
        self.made: dict[str, str] = {}
        self.num_kept = self.num_made = 0

    def go(self, workers: Mapping[str, Work], owner: gpu.Owner) -> Result:
        with self.clock.phase("verify"):
            work = self._what_is_left()
        if self.state.status == "complete" and not any(work.values()):
            return Result(self.folder.name, self.folder, "complete", 0, 0, self.num_kept, None)
        self._refuse_changed_environment(any(work.values()))
        self.log.watchers.append(self.watch.on_event)
        self.log.append({"event": "started", "owner": owner.as_dict(), "left": sum(map(len, work.values()))})
        self.watch.on_open(self.folder)
        try:
            with _interruptible():
                self._loop(work, workers, owner)
            return self._end(*self._verified())
        except Interrupted:
            return self._end("interrupted", Interrupted.exit_code, _INTERRUPTED)
        except RunnerError as error:
            return self._end("failed", error.exit_code, error.faults[0], getattr(error, "kind", "internal"))
        except MemoryError as error:
            return self._end("failed", Failed.exit_code, _out_of_memory(error), "oom")
        except Exception as error:
            self._end("failed", Failed.exit_code, _bug(error), "internal")
            raise

    def _what_is_left(self) -> dict[str, list[str]]:
        """Per step, the items that are missing or do not verify; the others are kept, each with its digest."""
        known = self.state.made()
        work: dict[str, list[str]] = {}
        for step in self.accepted.plan.steps:
            left = work[step.digest] = []
            for item in step.items:
                event = known.get(item)
                if event and event["step"] == step.digest and self.objects.holds(event["object"]):
                    self.made[item] = event["object"]
                    self.num_kept += 1
                else:
                    left.append(item)
        return work

    def _loop(self, work: Mapping[str, list[str]], workers: Mapping[str, Work], owner: gpu.Owner) -> None:
        self._note_resumption(work)
        if not any(work.values()):
            return
        bench = self._bench()
        with self._leased(owner):
            for step in self.accepted.plan.steps:
                if work[step.digest]:
                    self._do(step, work[step.digest], workers[step.kind], bench)
            bench.release()

    def _do(self, step: Step, left: Sequence[str], work: Work, bench: Bench) -> None:
        """One step in its planned shape: work, store, commit. Items that were kept are not stored again."""
        outcome = work(step, bench)
        with self.clock.phase("store"):
            lines = list(self._store(step, outcome, set(left)))
        with self.clock.phase("record"):
            self.log.append(*lines)

    def _store(self, step: Step, outcome: Outcome, left: set[str]) -> Iterator[journal.Event]:
        for done in outcome.made:
            if done.item in left:
                self.made[done.item] = self.objects.put(done.data)
                self.num_made += 1
                facts = dict(done.facts)
                yield {
                    "event": "made", "key": done.item, "step": step.digest, "object": self.made[done.item],
                    "bytes": len(done.data), "facts": facts,
                }  # fmt: skip
        for lost in outcome.unmade:
            yield {"event": "unmade", "key": lost.item, "step": step.digest, "kind": lost.kind, "reason": lost.reason}

    def _verified(self) -> tuple[str, int, Fault | None]:
        """`complete` means: every expected object is there, is itself, and every image decodes at its size."""
        self._status("verifying")
        with self.clock.phase("verify"):
            problems = [problem for step in self.accepted.plan.steps for problem in self._problems(step)]
        if not problems:
            return "complete", 0, None
        what = f"{len(problems)} of {sum(len(s.images) for s in self.accepted.plan.steps)} items are not there: "
        what += "; ".join(problems[:3])
        fix = "`python -m runner status` names them; the same command tries again"
        return "incomplete", Failed.exit_code, Fault("incomplete", "run", what, fix)

    def _problems(self, step: Step) -> Iterator[str]:
        for item in step.items:
            if item not in self.made:
                yield f"{item} was not made"
            elif step.kind == "generate":
                if wrong := image_problem(self.objects.get(self.made[item]), self.accepted.request):
                    yield f"{item} {wrong}"
            elif not self.objects.holds(self.made[item]):
                yield f"{item} does not verify"

    def _bench(self) -> Bench:
        accepted = self.accepted
        return Bench(
            request=accepted.request, facts=accepted.contract, store=self.objects, clock=self.clock,
            device=accepted.device, images=self.made, note=self._note, status=self._status,
            progress=self.watch.on_progress,
        )  # fmt: skip

    @contextmanager
    def _leased(self, owner: gpu.Owner) -> Iterator[None]:
        def on_wait(holder: Mapping[str, Any]) -> None:
            self._status("waiting_for_gpu", holder=dict(holder))

        wait = self.accepted.request.hardware.wait
        with ExitStack() as held:
            with self.clock.phase("gpu_wait"):
                held.enter_context(gpu.lease(self.accepted.device, owner, wait=wait, on_wait=on_wait))
            yield

    def _status(self, status: str, **facts: Any) -> None:
        if status != self.state.status:
            self.state.status = status
            self.log.append({"event": "status", "status": status, **facts})

    def _note(self, event: str, **facts: Any) -> None:
        self.log.append({"event": event, **facts})

    def _note_resumption(self, work: Mapping[str, list[str]]) -> None:
        """Say why each item is kept or made again; silent on a first pass."""
        if self.state.attempts == 0:
            return
        known = self.state.made()
        again = [item for items in work.values() for item in items]
        reasons = {item: "its object does not verify" if item in known else "not made yet" for item in again}
        self._note("resumed", kept=self.num_kept, kept_because="journal line and object verify", again=reasons)

    def _refuse_changed_environment(self, work_left: bool) -> None:
        before = journal.read_manifest(self.folder)["environment"]
        changes = environment.changed(before, environment.fingerprint(self.accepted.device))
        if changes and work_left and self.state.attempts:
            fix = "Go back to those versions, or start again with run.fresh=true"
            what = f"{self.folder.name} was begun elsewhere: {'; '.join(changes)}"
            raise Refused(Fault("environment_changed", "run", what, fix))

    def _end(self, status: str, exit_code: int, fault: Fault | None, kind: str | None = None) -> Result:
        failure = None
        if fault is not None:
            failure = {**fault.as_dict(), "kind": kind, "phase": self.state.status}
        self.log.append(
            {
                "event": "ended", "status": status, "exit_code": exit_code, "failure": failure,
                "timings": self.clock.summary(), "wall_s": round(self.clock.wall_s(), 6),
            }
        )  # fmt: skip
        return Result(self.folder.name, self.folder, status, exit_code, self.num_made, self.num_kept, fault)


def image_problem(data: bytes, request: Any) -> str | None:
    """Why bytes are not an image of the recorded size; None when they are."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            size = image.size
    except (UnidentifiedImageError, OSError) as error:
        return f"does not decode ({error})"
    wanted = (request.generate.width, request.generate.height)
    return None if size == wanted else f"is {size[0]}x{size[1]}, planned was {wanted[0]}x{wanted[1]}"


def _device(request: Request) -> tuple[str, str | None]:
    hardware = request.hardware
    if device_there(hardware.device, hardware.index):
        return hardware.device if hardware.device != "cuda" else f"cuda:{hardware.index}", None
    return "cpu", f"{hardware.device}:{hardware.index} is not there; hardware.on_missing=cpu"


def _check_disk(request: Request, outputs: Path, num_images: int) -> None:
    """Outputs writable, and room for the images: a raw image is the most that a PNG takes."""
    try:
        for folder in ("objects", "runs"):
            (outputs / folder).mkdir(parents=True, exist_ok=True)
        probe = outputs / "runs" / f".probe-{threading.get_native_id()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        fix = "Choose another folder with outputs=DIR, or mend its permissions"
        raise Refused(Fault("outputs_unwritable", "outputs", f"{outputs} cannot be written ({error.strerror})", fix)) from error
    free_mib = shutil.disk_usage(outputs).free >> 20
    need_mib = request.storage.min_free_mib + (num_images * request.generate.width * request.generate.height * 3 >> 20)
    if free_mib < need_mib:
        what = f"{outputs} has {free_mib} MiB free, this run needs {need_mib} MiB"
        raise Refused(Fault("over_capacity", "outputs", what, "Free space, or choose another folder with outputs=DIR"))


def _run_folder(accepted: Accepted, outputs: Path) -> Path:
    """The folder of this request: the latest attempt at it, a new one when asked for, or the one named."""
    request = accepted.request
    if request.run.id:
        return outputs / "runs" / request.run.id
    name = f"{request.name}-{accepted.plan.identity[:10]}"
    attempts = [outputs / "runs" / name]
    while (outputs / "runs" / f"{name}-{len(attempts) + 1}").exists():
        attempts.append(outputs / "runs" / f"{name}-{len(attempts) + 1}")
    if request.run.fresh and attempts[0].exists():
        return outputs / "runs" / f"{name}-{len(attempts) + 1}"
    return attempts[-1]


def _manifest(accepted: Accepted, folder: Path) -> str:
    """The digest of this run's manifest; writes it on the first attempt, compares it on a later one."""
    if not (folder / journal.MANIFEST).exists():
        return journal.write_manifest(folder, _new_manifest(accepted, folder.name))
    stored = journal.read_manifest(folder)
    if stored.get("identity") != accepted.plan.identity:
        _refuse_changed_settings(accepted, folder, stored)
    return journal.manifest_digest(folder)


def _new_manifest(accepted: Accepted, run_id: str) -> dict[str, Any]:
    return manifest(
        accepted.request, accepted.plan, card(accepted.contract, accepted.pins), accepted.pins.as_dict(),
        run_id=run_id, environment=environment.fingerprint(accepted.device), fallback=accepted.fallback,
        tokens=[count.as_dict() for count in accepted.contract.tokens],
    )  # fmt: skip


def _refuse_changed_settings(accepted: Accepted, folder: Path, stored: Mapping[str, Any]) -> None:
    now = _new_manifest(accepted, folder.name)
    changes = changed_fields(stored.get("request"), now["request"]) + changed_fields(stored.get("pins"), now["pins"])
    if not accepted.request.run.id:
        raise Corrupt(
            Fault("manifest_altered", str(folder / journal.MANIFEST), "is not the one this run was named by",
                  "Nothing was changed. Put the original back, or start again with run.fresh=true")
        )  # fmt: skip
    fix = "Leave out run.id: other settings are another run"
    raise Refused([Fault("settings_changed", f"run.id={folder.name}", change, fix) for change in changes])


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM end the loop with Interrupted; outside the main thread signals stay as they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise Interrupted(signal.Signals(number).name)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_INTERRUPTED = Fault(
    "interrupted", "run", "was interrupted; finished images are kept", "The same command makes the rest"
)


def _out_of_memory(error: BaseException) -> Fault:
    fix = "Choose a smaller generate.batch_size or size, a smaller runtime.dtype, or runtime.offload"
    return Fault("out_of_memory", "device", f"ran out of memory ({str(error).splitlines()[0][:160]})", fix)


def _bug(error: BaseException) -> Fault:
    what = f"stopped on {type(error).__name__}: {str(error)[:300]}"
    return Fault("internal_error", "run", what, "This is a bug: please report it with the traceback")
