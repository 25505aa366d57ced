"""The one path: an accepted plan becomes a finished run, whether it is new or half done.

For each step: the device is leased, the worker works, its bytes are stored and read back, and one line per
item is committed to the journal. It refuses to write where another process writes, and never calls a run
complete that does not verify. What it does not know: how a step is done, Hydra, MLflow, or what people see.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import environment, gpu, journal
from runner.errors import Fault, Refused, Unavailable
from runner.execute import folders
from runner.execute.ending import Ending, ending_of, image_problem, incomplete, interruptible, unscored
from runner.execute.folders import Accepted
from runner.plan import Step
from runner.store import Store, digest
from runner.timing import Clock
from runner.worker import Bench, Outcome, Progress, Work

PHASES_OF = {
    "waiting_for_gpu": "gpu_wait", "loading": "load_base", "warming": "warmup", "generating": "sample",
    "reviewing": "review", "releasing": "release", "verifying": "verify",
}  # fmt: skip


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
    bug: BaseException | None = None


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
        self.made: dict[str, str] = {}  # item -> digest of what is stored and committed
        self.kept: set[str] = set()  # items of earlier attempts that verify

    def go(self, workers: Mapping[str, Work], owner: gpu.Owner) -> Result:
        """Do what is left, and end the attempt with one line, whatever happens on the way."""
        with self.clock.phase("verify"):
            work = self._what_is_left()
        if self.state.status == "complete" and not any(work.values()):
            return Result(self.folder.name, self.folder, "complete", 0, {}, count_kinds(self.kept), None)
        if any(work.values()) and self.state.attempts:
            self._refuse_changed_environment()
        with interruptible(self.log) as stop_listening:
            try:
                self._start(work, owner)
                self._loop(work, workers, owner)
                ending = self._verified()
            except BaseException as error:
                ending = ending_of(error, self.clock.broke_in)
            stop_listening()
            return self._end(ending)

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
                    self.kept.add(item)
                    if self._judges_another_image(item):
                        left.append(item)
                else:
                    left.append(item)
        return work

    def _judges_another_image(self, item: str) -> bool:
        """A verdict whose image has been made again with other bytes judges a picture that is gone."""
        image = self.made.get(item.replace("verdict/", "image/", 1)) if item.startswith("verdict/") else None
        return image is not None and self.state.items[item]["facts"].get("image") != image

    def _loop(self, work: Mapping[str, list[str]], workers: Mapping[str, Work], owner: gpu.Owner) -> None:
        if not any(work.values()):
            return
        bench = self._bench()
        with self._leased(owner):
            try:
                for step in self.accepted.plan.steps:
                    stale = [item for item in step.items if item in self.kept and self._judges_another_image(item)]
                    if left := {*work[step.digest], *stale}:
                        self._do(step, left, workers[step.kind], bench)
            finally:  # the device is free before the lease is
                bench.release()

    def _do(self, step: Step, left: set[str], work: Work, bench: Bench) -> None:
        """One step in its planned shape: work, store, commit. Items that were kept are not stored again."""
        outcome = work(step, bench)
        with self.clock.phase("store"):
            lines = list(self._store(step, outcome, left))
        with self.clock.phase("record"):
            self.log.append(*lines)
        self.kept -= left
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

    def _verified(self) -> Ending:
        """`complete` means: every expected object is there and itself, images decode, verdicts judge them."""
        self._status("verifying")
        request = self.accepted.request
        with self.clock.phase("verify"):
            problems = [problem for step in self.accepted.plan.steps for problem in self._problems(step)]
        if problems:
            return incomplete(problems, sum(len(step.images) for step in self.accepted.plan.steps))
        num_unscored, num_verdicts = self._unscored()
        if num_verdicts and num_unscored / num_verdicts > request.critic.max_unscored_share:
            return unscored(num_unscored, num_verdicts, request.critic.max_unscored_share)
        return Ending("complete", 0)

    def _problems(self, step: Step) -> Iterator[str]:
        for item in step.items:
            if item not in self.made:
                yield f"{item} was not made"
            elif step.kind == "generate":
                if not self.objects.holds(self.made[item]):
                    yield f"{item} does not verify"
                elif wrong := image_problem(self.objects.get(self.made[item]), self.accepted.request):
                    yield f"{item} {wrong}"
            elif not self.objects.holds(self.made[item]):
                yield f"{item} does not verify"

    def _unscored(self) -> tuple[int, int]:
        """Verdicts without a score, and all verdicts."""
        records = [json.loads(self.objects.get(d)) for item, d in self.made.items() if item.startswith("verdict/")]
        return sum(1 for record in records if record.get("status") == "unscored"), len(records)

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

        accepted = self.accepted
        with ExitStack() as held:
            with self.clock.phase("gpu_wait"):
                wait = accepted.request.hardware.wait
                held.enter_context(gpu.lease(accepted.device, owner, wait=wait, on_wait=on_wait))
                if fault := gpu.admit(accepted.weights_mib, gpu.free_mib(accepted.device), accepted.device, "free"):
                    raise Unavailable(fault)
            yield

    def _status(self, status: str, **facts: Any) -> None:
        assert status in journal.RUNNING, status
        if status != self.state.status:
            self.state.status = status
            self._note("status", status=status, phase=PHASES_OF.get(status), **facts)

    def _note(self, event: str, **facts: Any) -> None:
        with self.clock.phase("record"):
            self.log.append({"event": event, **facts})

    def _note_resumption(self, work: Mapping[str, list[str]]) -> None:
        """Say why each item is kept or made again; silent on a first pass."""
        if self.state.attempts == 0:
            return
        known = self.state.made()
        again = {item: self._reason(item, known) for items in work.values() for item in items}
        self._note("resumed", kept=len(self.kept), kept_because="journal line and object verify", again=again)

    def _reason(self, item: str, known: Mapping[str, Any]) -> str:
        if item in self.made:
            return "its image was made again with other bytes"
        return "its object does not verify" if item in known else "not made yet"

    def _refuse_changed_environment(self) -> None:
        before = journal.read_manifest(self.folder)["environment"]
        changes = environment.changed(before, environment.fingerprint(self.accepted.device))
        if changes:
            fix = "Go back to those versions, or start again with run.fresh=true"
            what = f"{self.folder.name} was begun elsewhere: {'; '.join(changes)}"
            raise Refused(Fault("environment_changed", "run", what, fix))

    def _end(self, ending: Ending) -> Result:
        assert ending.status in journal.ENDED, ending.status
        self.log.append(
            {
                "event": "ended", "status": ending.status, "exit_code": ending.exit_code, "failure": ending.as_dict(),
                "timings": self.clock.summary(), "wall_s": round(self.clock.wall_s(), 6),
            }
        )  # fmt: skip
        journal.seal(self.folder, self.log)
        made = count_kinds(self.made.keys() - self.kept)
        return Result(
            self.folder.name, self.folder, ending.status, ending.exit_code, made, count_kinds(self.kept),
            ending.fault, ending.bug,
        )  # fmt: skip


def count_kinds(items: Iterable[str]) -> dict[str, int]:
    """How many items of each kind there are: {"image": 4, "verdict": 16}."""
    return dict(Counter(item.partition("/")[0] for item in items))
