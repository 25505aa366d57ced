"""The one path: an accepted plan becomes a finished run, whether it is new or half done.

For each step: the device is leased, the worker works, its bytes are stored and read back, and one line per
item is committed to the journal. It refuses to write where another process writes, and never calls a run
complete that does not verify. What it does not know: how a step is done, Hydra, MLflow, or what people see.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from runner import environment, gpu, index, journal, ledger
from runner.errors import Failed, Fault, Refused, RunnerError
from runner.execute import folders
from runner.execute.ending import Ending, Lost, ending_of, incomplete, interruptible, unscored
from runner.execute.folders import Accepted
from runner.execute.left import Left, decide, is_stale, unsound
from runner.execute.lines import lines_of, unmade
from runner.execute.memory import peak_key
from runner.execute.pulse import Pulse
from runner.plan import Step
from runner.store import Objects, open_store
from runner.timing import Clock
from runner.worker import Bench, Outcome, Progress, Unmade, Work

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
    num_deleted: int = 0  # images that a human deleted; they are not made again


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
        objects = open_store(outputs, accepted.request.storage)
    with ledger.using(outputs), gpu.only_writer(folder, owner):
        with clock.phase("plan"):
            genesis, began_in = folders.keep_manifest(accepted, folder)
        with clock.phase("verify"), _no_garbage():
            log, state = journal.open_log(folder, genesis, journal.fold_slim)
            left = decide(accepted.plan, state, objects, folders.tombstones(folder))
        return Run(accepted, folder, log, objects, clock, watch, state, left, began_in).go(workers, owner)


class Run:
    """One attempt: the loop and what it keeps in mind. Lives inside `execute` only."""

    def __init__(
        self, accepted: Accepted, folder: Path, log: journal.Journal, objects: Objects, clock: Clock,
        watch: Watch, state: journal.State, left: Left, began_in: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self.accepted, self.folder, self.log, self.objects = accepted, folder, log, objects
        self.clock, self.watch, self.state, self.left, self.began_in = clock, watch, state, left, began_in
        self.made = left.made  # item -> digest of what is stored and committed
        self.now: set[str] = set()  # items that this attempt made
        self.lost: dict[str, Lost] = {}
        self.pulse = Pulse(log, clock)
        self._look_up: Callable[[str], str | None] | None = None
        self.meter = gpu.PeakMeter(accepted.device)

    def go(self, workers: Mapping[str, Work], owner: gpu.Owner) -> Result:
        """Do what is left, and end the attempt with one line, whatever happens on the way."""
        if self.state.status == "complete" and not self.left.again:
            with self.clock.phase("verify"):
                self._forget(self._unsound())
            if not self.left.again:
                self._seal()
                return self._result(Ending("complete", 0))
        if self.left.again and self.state.attempts:
            _refuse_changed_environment(self.began_in, self.folder, self.accepted.device)
        with interruptible(self.log) as stop_listening:
            try:
                with self.pulse.beating():
                    self._start(owner)
                    ending = self._work(workers, owner)
                stop_listening()
            except BaseException as error:
                stop_listening()
                ending = ending_of(error, self.clock.broke_in or PHASES_OF.get(self.state.status))
            return self._end(ending)

    def _work(self, workers: Mapping[str, Work], owner: gpu.Owner) -> Ending:
        """Make what is left and hash everything; what does not verify is made once more before it counts as lost."""
        self._loop(workers, owner)
        if self._unsound_again():
            self._loop(workers, owner)
            self._unsound_again()
        return self._ending()

    def _start(self, owner: gpu.Owner) -> None:
        with self.clock.phase("record"):
            self.log.watchers += [self._hear, self.watch.on_event]
            self.log.append({"event": "started", "owner": owner.as_dict(), "left": count_kinds(self.left.again)})
            if self.state.attempts:  # why each item is kept or made again; a first pass has nothing to say
                left, kept = self.left, len(self.made.keys() - self.left.again.keys())
                self._note("resumed", kept=kept, kept_because=left.kept_because, again=left.again, deleted=left.deleted)
            folders.reserve(self.folder)
            self.watch.on_open(self.folder)

    def _loop(self, workers: Mapping[str, Work], owner: gpu.Owner) -> None:
        if not self.left.again:
            return
        bench = self._bench()
        with self._leased(owner):
            try:
                for step in self.accepted.plan.steps:
                    if wanted := {item for item in step.items if self._is_wanted(item)}:
                        self._do(step, wanted, workers[step.kind], bench)
            finally:  # the device is free before the lease is
                bench.close()

    def _is_wanted(self, item: str) -> bool:
        return item in self.left.again or is_stale(item, self.state, self.made)

    def _do(self, step: Step, wanted: set[str], work: Work, bench: Bench) -> None:
        """One step in its planned shape: work, store, commit. Items that were kept are not stored again."""
        bench.wanted, bench.deliver = wanted, partial(self._keep, step, wanted)
        self._keep(step, wanted, work(step, bench))

    def _keep(self, step: Step, wanted: set[str], outcome: Outcome) -> None:
        with self.clock.phase("store"):
            lines = list(lines_of(step, outcome, wanted, self.made, self.objects, self.accepted.request))
        with self.clock.phase("record"):
            self.log.append(*lines)

    def _hear(self, line: journal.Event) -> None:
        """Every line of ours as soon as it is committed, also when a signal waited for that."""
        if line["event"] == "made":
            self._remember(line)
        elif line["event"] == "unmade":
            self._forget({line["key"]: (line["kind"], f"was not made: {line['reason']}")})

    def _remember(self, line: journal.Event) -> None:
        item = line["key"]
        self.now.add(item)
        self.made[item] = line["object"]
        self.state.items[item] = journal.item_of({**line, "at": ""}, slim=True)
        self.left.again.pop(item, None)
        self.lost.pop(item, None)

    def _unsound_again(self) -> bool:
        """Hash every object; those that do not verify become items to be made, with a line that says so."""
        self._status("verifying")
        with self.clock.phase("verify"):
            wrong = self._unsound()
        if wrong:
            step_of = {item: step for step in self.accepted.plan.steps for item in step.items if item in wrong}
            self.log.append(*(unmade(step_of[item], Unmade(item, *lost)) for item, lost in wrong.items()))
        return bool(wrong)

    def _unsound(self) -> dict[str, Lost]:
        return {item: ("storage", reason) for item, reason in unsound(self.made, self.objects).items()}

    def _forget(self, lost: Mapping[str, Lost]) -> None:
        """What is not there, or no longer counts, is to be made."""
        for item, (kind, reason) in lost.items():
            self.made.pop(item, None)
            self.now.discard(item)
            self.left.again[item] = reason
            self.lost[item] = (kind, reason)

    def _ending(self) -> Ending:
        """`complete` means: every expected object is there and itself, images decode, verdicts judge them."""
        if self.left.again:
            lost = {item: self.lost.get(item, ("internal", "was not made")) for item in self.left.again}
            return incomplete(lost, sum(len(step.images) for step in self.accepted.plan.steps))
        verdicts = [self.state.items[item] for item in self.made if item.startswith("verdict/")]
        num_unscored, critic = sum(not verdict.scored for verdict in verdicts), self.accepted.request.critic
        if verdicts and critic and num_unscored / len(verdicts) > critic.budget.max_unscored_share:
            return unscored(num_unscored, len(verdicts), critic.budget.max_unscored_share)
        return Ending("complete", 0)

    def _bench(self) -> Bench:
        accepted = self.accepted
        return Bench(
            request=accepted.request, facts=accepted.contract, store=self.objects, clock=self.clock,
            device=accepted.device, images=self.made, note=self._note, status=self._status,
            progress=self._progress, meter=self.meter, took=self._took, recall=self._recall,
        )  # fmt: skip

    @contextmanager
    def _leased(self, owner: gpu.Owner) -> Iterator[None]:
        """The device, when its turn has come: its record beats with the pulse and says what we took."""
        accepted = self.accepted
        with ExitStack() as leased:
            with self.clock.phase("gpu_wait"):
                wait = accepted.request.hardware.wait
                held = leased.enter_context(
                    gpu.lease(accepted.needs, owner, wait=wait, on_wait=self._wait, on_takeover=self._take_over)
                )
            self.pulse.beat_lease = lambda: held.beat(self.meter.read())
            try:
                yield
            finally:
                self.pulse.beat_lease = lambda: True

    def _wait(self, holder: dict[str, Any]) -> None:
        """Told again whenever somebody else is in the way."""
        self.state.status = "waiting_for_gpu"
        reason = holder.pop("reason", None)
        self._note("status", status="waiting_for_gpu", phase="gpu_wait", holder=holder, reason=reason)

    def _take_over(self, before: dict[str, Any]) -> None:
        self._note("lease_taken_over", device=self.accepted.device, before=before)

    def _took(self, role: str, peak_mib: int | None) -> None:
        if peak_mib is not None:
            accepted = self.accepted
            key = peak_key(accepted.request, accepted.pins, accepted.device)
            self._note("peak", role=role, key=key, peak_mib=peak_mib)

    def _status(self, status: str, role: str | None = None) -> None:
        assert status in journal.RUNNING, status
        if status != self.state.status:
            self.state.status = status
            phase = "load_critic" if (status, role) == ("loading", "critic") else PHASES_OF.get(status)
            self._note("status", status=status, phase=phase, **({"role": role} if role else {}))

    def _recall(self, key: str) -> str | None:
        """The digest of a verdict that any run was given for the same question; a fresh attempt asks anew.

        The index is brought up to date first: it may not know of an exam that was failed since.
        """
        if self.accepted.request.run.fresh:
            return None
        if self._look_up is None:
            outputs = self.folder.parent.parent
            with suppress(OSError, RunnerError):
                index.refresh(outputs)
            self._look_up = index.verdicts_by_key(outputs)
        return self._look_up(key)

    def _progress(self, moment: Progress) -> None:
        self.pulse.moment = moment
        self.watch.on_progress(moment)

    def _note(self, event: str, **facts: Any) -> None:
        with self.clock.phase("record"):
            self.log.append({"event": event, **facts})

    def _end(self, ending: Ending) -> Result:
        """The last line. A full disk gives back what was kept in reserve for it."""
        assert ending.status in journal.ENDED, ending.status
        line = {
            "event": "ended", "status": ending.status, "exit_code": ending.exit_code, "failure": ending.as_dict(),
            "timings": self.clock.summary(), "wall_s": round(self.clock.wall_s(), 6),
        }  # fmt: skip
        try:
            self.log.append(line)
        except Failed:
            with suppress(OSError):
                folders.free_reserve(self.folder)
            try:
                self.log.append(line)
            except Failed as error:  # not even one line: the run reads as crashed, and the exit code says failed
                ending = ending_of(error, "record")
        with suppress(OSError):
            folders.free_reserve(self.folder)
        self._seal()
        return self._result(ending)

    def _seal(self) -> None:
        """Note where the journal ends, unless that is noted already: a crash may have come between line and seal."""
        with suppress(OSError):
            if self.log.path.exists() and not journal.is_sealed(self.folder, self.log):
                journal.seal(self.folder, self.log)

    def _result(self, ending: Ending) -> Result:
        kept = count_kinds(item for item in self.made if item not in self.now)
        return Result(
            self.folder.name, self.folder, ending.status, ending.exit_code, count_kinds(self.now), kept, ending.fault,
            ending.bug, sum(item.startswith("image/") for item in self.left.deleted),
        )  # fmt: skip


def _refuse_changed_environment(before: Mapping[str, Any], folder: Path, device: str) -> None:
    """What is left must come out as it would have: the same libraries on the same kind of device."""
    if changes := environment.changed(dict(before), environment.fingerprint(device)):
        fix = "Go back to those versions, or start again with run.fresh=true"
        what = f"{folder.name} was begun elsewhere: {'; '.join(changes)}"
        raise Refused(Fault("environment_changed", "run", what, fix))


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Reading a long journal makes many objects that stay: looking for garbage among them would double its time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def count_kinds(items: Iterable[str]) -> Counter[str]:
    """How many items of each kind there are: {"image": 4, "verdict": 16}."""
    return Counter(item.partition("/")[0] for item in items)
