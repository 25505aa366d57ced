"""The one path: an accepted plan becomes a finished run, whether it is new or half done.

For each step: the device is leased, the worker works, its bytes are stored and read back, and one line per
item is committed to the journal. It refuses to write where another process writes, and never calls a run
complete that does not verify. What it does not know: how a step is done, Hydra, MLflow, or what people see.
"""

from __future__ import annotations

import io
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import environment, gpu, journal
from runner.errors import Failed, Fault, Interrupted, Refused, RunnerError, Unavailable, first_line
from runner.execute import folders
from runner.execute.folders import Accepted
from runner.plan import Step
from runner.store import Store, digest
from runner.timing import Clock
from runner.worker import Bench, Outcome, Progress, Work


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended."""

    run_id: str
    folder: Path
    status: str
    exit_code: int
    made: Mapping[str, int]  # by kind, in this attempt
    kept: Mapping[str, int]  # by kind, from earlier attempts
    failure: Fault | None


@dataclass(frozen=True, slots=True)
class Watch:
    """Who looks on: told of the run folder before anything loads, of journal lines, and of moments in a step."""

    on_open: Callable[[Path], None] = lambda folder: None
    on_event: journal.Watcher = lambda event: None
    on_progress: Callable[[Progress], None] = lambda moment: None


def execute(accepted: Accepted, workers: Mapping[str, Work], clock: Clock, watch: Watch) -> Result:
    """Run or resume. Raises Unavailable, Refused or Corrupt before anything starts; afterwards it always returns."""
    outputs = Path(accepted.request.outputs).absolute()
    with clock.phase("plan"):
        folders.check_disk(accepted.request, outputs, len(accepted.plan.images))
        folder = folders.run_folder(accepted, outputs)
        owner = gpu.this_process(folder.name, "generator")
    with gpu.only_writer(folder, owner):
        with clock.phase("plan"):
            log, events = journal.open_journal(folder, folders.keep_manifest(accepted, folder))
        run = Run(accepted, folder, log, Store(outputs / "objects"), clock, watch, journal.fold(events))
        return run.go(workers, owner)


class Run:
    """One attempt: the loop and what it keeps in mind. Lives inside `execute` only."""

    def __init__(
        self, accepted: Accepted, folder: Path, log: journal.Journal, objects: Store, clock: Clock,
        watch: Watch, state: journal.State,
    ) -> None:  # fmt: skip
        self.accepted, self.folder, self.log, self.objects = accepted, folder, log, objects
        self.clock, self.watch, self.state = clock, watch, state
        self.made: dict[str, str] = {}
        self.kept_items: list[str] = []

    def go(self, workers: Mapping[str, Work], owner: gpu.Owner) -> Result:
        with self.clock.phase("verify"):
            work = self._what_is_left()
        if self.state.status == "complete" and not any(work.values()):
            return Result(self.folder.name, self.folder, "complete", 0, {}, count_kinds(self.kept_items), None)
        if any(work.values()) and self.state.attempts:
            self._refuse_changed_environment()
        try:
            with _interruptible(self.log):
                self._start(work, owner)
                self._loop(work, workers, owner)
                ending = self._verified()
            return self._end(*ending)
        except Interrupted:
            return self._end("interrupted", Interrupted.exit_code, _INTERRUPTED, "interrupted")
        except Unavailable as error:
            return self._end("blocked", error.exit_code, error.faults[0], "preflight")
        except RunnerError as error:
            return self._end("failed", error.exit_code, error.faults[0], *_kind_and_item(error))
        except MemoryError as error:
            return self._end("failed", Failed.exit_code, _out_of_memory(error), "oom")
        except Exception as error:
            self._end("failed", Failed.exit_code, _bug(error), "internal")
            raise

    def _start(self, work: Mapping[str, list[str]], owner: gpu.Owner) -> None:
        with self.clock.phase("record"):
            left = count_kinds(item for items in work.values() for item in items)
            self.log.watchers.append(self.watch.on_event)
            self.log.append({"event": "started", "owner": owner.as_dict(), "left": left})
            self._note_resumption(work)
            self.watch.on_open(self.folder)

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
                    self.kept_items.append(item)
                else:
                    left.append(item)
        return work

    def _loop(self, work: Mapping[str, list[str]], workers: Mapping[str, Work], owner: gpu.Owner) -> None:
        if not any(work.values()):
            return
        bench = self._bench()
        with self._leased(owner):
            for step in self.accepted.plan.steps:
                if left := [*work[step.digest], *self._stale(step)]:
                    self._do(step, left, workers[step.kind], bench)
            bench.release()

    def _stale(self, step: Step) -> Iterator[str]:
        """Verdicts kept from before whose image has been made again with other bytes: they judge a picture no more."""
        if step.kind == "critique":
            for item in step.items:
                event = self.state.items.get(item, {})
                image = self.made.get(item.replace("verdict/", "image/", 1))
                if item in self.made and event["facts"]["image"] != image:
                    yield item

    def _do(self, step: Step, left: Sequence[str], work: Work, bench: Bench) -> None:
        """One step in its planned shape: work, store, commit. Items that were kept are not stored again."""
        outcome = work(step, bench)
        with self.clock.phase("store"):
            lines = list(self._store(step, outcome, set(left)))
        with self.clock.phase("record"):
            if lines:
                self.log.append(*lines)
            self.made.update({line["key"]: line["object"] for line in lines if line["event"] == "made"})

    def _store(self, step: Step, outcome: Outcome, left: set[str]) -> Iterator[journal.Event]:
        for done in outcome.made:
            if done.item in left:
                yield {
                    "event": "made", "key": done.item, "step": step.digest, "object": self.objects.put(done.data),
                    "bytes": len(done.data), "facts": dict(done.facts),
                }  # fmt: skip
            elif digest(done.data) != self.made[done.item]:  # kept from before, and sampled again beside the others
                yield {"event": "differs", "key": done.item, "step": step.digest, "object": digest(done.data)}
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
            self._note("status", status=status, **facts)

    def _note(self, event: str, **facts: Any) -> None:
        with self.clock.phase("record"):
            self.log.append({"event": event, **facts})

    def _note_resumption(self, work: Mapping[str, list[str]]) -> None:
        """Say why each item is kept or made again; silent on a first pass."""
        if self.state.attempts == 0:
            return
        known = self.state.made()
        again = [item for items in work.values() for item in items]
        reasons = {item: "its object does not verify" if item in known else "not made yet" for item in again}
        self._note("resumed", kept=len(self.kept_items), kept_because="journal line and object verify", again=reasons)

    def _refuse_changed_environment(self) -> None:
        before = journal.read_manifest(self.folder)["environment"]
        changes = environment.changed(before, environment.fingerprint(self.accepted.device))
        if changes:
            fix = "Go back to those versions, or start again with run.fresh=true"
            what = f"{self.folder.name} was begun elsewhere: {'; '.join(changes)}"
            raise Refused(Fault("environment_changed", "run", what, fix))

    def _end(
        self, status: str, exit_code: int, fault: Fault | None, kind: str | None = None, item: str | None = None
    ) -> Result:
        failure = None
        if fault is not None:
            failure = {**fault.as_dict(), "kind": kind, "phase": self.clock.broke_in, "item": item}
        self.log.append(
            {
                "event": "ended", "status": status, "exit_code": exit_code, "failure": failure,
                "timings": self.clock.summary(), "wall_s": round(self.clock.wall_s(), 6),
            }
        )  # fmt: skip
        kept = count_kinds(self.kept_items)
        made = count_kinds(self.made.keys() - set(self.kept_items))
        return Result(self.folder.name, self.folder, status, exit_code, made, kept, fault)


def count_kinds(items: Iterable[str]) -> dict[str, int]:
    """How many items of each kind there are: {"image": 4, "verdict": 16}."""
    return dict(Counter(item.partition("/")[0] for item in items))


def _kind_and_item(error: RunnerError) -> tuple[str, str | None]:
    return (error.kind, error.item) if isinstance(error, Failed) else ("storage", None)


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


@contextmanager
def _interruptible(log: journal.Journal) -> Iterator[None]:
    """SIGINT and SIGTERM end the loop with Interrupted; outside the main thread signals stay as they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        log.interrupt(Interrupted(signal.Signals(number).name))

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
    return Fault("out_of_memory", "device", f"ran out of memory ({first_line(error)})", fix)


def _bug(error: BaseException) -> Fault:
    what = f"stopped on {type(error).__name__}: {str(error)[:300]}"
    return Fault("internal_error", "run", what, "This is a bug: please report it with the traceback")
