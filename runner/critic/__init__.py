"""The critic: images become verdicts under a versioned profile, given by a critic that passed its exam.

A verdict has scores inside the scale, each with its evidence, or is `unscored` with a class of failure; never a guess
or a 0 in place of one. It refuses to go on with a critic that fails its exam, and with one that fails too often.
Advisory only: nothing here can write a human decision. What it does not know: which LoRA or seed made an image.
"""

from __future__ import annotations

import json
import threading
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from runner import store
from runner.critic import exam, resident, verdict
from runner.critic.ask import Asker, Judged, judge_both_orders
from runner.critic.question import OF_THE_RUNTIME, Example, Picture, Question
from runner.critic.resident import Resident
from runner.critic.review import as_they_come
from runner.errors import Corrupt, Failed, Fault
from runner.plan import ImagePlan, Step
from runner.worker import Bench, Made, Outcome, Progress, Unmade

__all__ = ["examine", "work"]

ROLE = "critic"
OVER = "budget_exhausted: critic.budget.max_seconds is over; the same command goes on"


def examine(bench: Bench) -> tuple[dict[str, Any], exam.Exam]:
    """Load the critic of a request, examine it and let go of it: who it is, and how it did. Raises as `work`."""
    try:
        critic: Resident = bench.model(ROLE, resident.begin)
        return critic.model, resident.examine(critic, bench, "asked for")
    finally:
        bench.close()


@dataclass(frozen=True, slots=True)
class Task:
    """One verdict to give."""

    item: str
    question: Question
    key: str


def work(step: Step, bench: Bench) -> Outcome:
    """Review what is wanted of one step; each verdict is delivered as it comes. Raises Failed(load | critic)."""
    critic: Resident = bench.model(ROLE, resident.load)
    bench.status("reviewing")
    with bench.clock.phase("review"):
        tasks, lost = _tasks(step, bench, critic)
        asked = [task for task in tasks if critic.files is None or not _recalled(task, bench)]
        critic.begin()
        num_asked = len(asked)
        while asked and not _is_over(critic):
            asked = _ask_all(asked, critic, bench, len(tasks))
        if num_asked > len(asked):
            resident.look_again(critic, bench)
    return Outcome((), (*lost, *(Unmade(task.item, "critic", OVER) for task in asked)))


def _tasks(step: Step, bench: Bench, critic: Resident) -> tuple[list[Task], list[Unmade]]:
    """What is to be asked; an image that was not made, or is not itself, has no verdict."""
    tasks, lost = list[Task](), list[Unmade]()
    examples = _examples(bench)
    for item, image in zip(step.items, step.images, strict=True):
        if item not in bench.wanted:
            continue
        try:
            pictures = tuple(Picture(digest, bench.store.get(digest)) for digest in _digests(image, bench))
        except KeyError:
            lost.append(Unmade(item, "critic", "its image was not made"))
        except Corrupt as error:  # it will be made again, and judged then
            lost.append(Unmade(item, "storage", f"its image {error.faults[0].what}"))
        else:
            others = tuple(e for e in examples if e.image not in pictures)  # no image is shown what was decided on it
            question = Question(critic.profile, image.prompt, pictures, critic.schema, others)
            tasks.append(Task(item, question, verdict.key_of(question, critic.model)))
    return tasks, lost


def _digests(image: ImagePlan, bench: Bench) -> tuple[str, ...]:
    return image.given or (bench.images[f"image/{image.key}"],)


def _examples(bench: Bench) -> tuple[Example, ...]:
    """The decisions that the accepted request pinned, with their pictures. Raises Corrupt when one is gone."""
    return tuple(
        Example(Picture(e.image, bench.store.get(e.image)), e.prompt, e.decision, e.note) for e in bench.facts.examples
    )


def _recalled(task: Task, bench: Bench) -> bool:
    """Deliver the verdict that was given for the same question before, if there is one and its bytes are there."""
    digest = bench.recall(task.key)
    try:
        data = bench.store.get(digest) if digest else None
        record = json.loads(data) if data else None
    except (Corrupt, Failed):
        return False
    if data is None or record is None or record.get("format") != verdict.FORMAT:
        return False
    facts = {**verdict.told(record), "key": task.key, "latency_s": 0.0, "cached": True}
    bench.deliver(Outcome((Made(task.item, data, facts),)))
    return True


def _is_over(critic: Resident) -> bool:
    most = critic.profile.budget.max_seconds
    return most is not None and critic.spent_s() > most


def _ask_all(tasks: list[Task], critic: Resident, bench: Bench, num_tasks: int) -> list[Task]:
    """Ask; returns what has no verdict yet: our server died and was started anew, or the time is over.

    Raises Failed(critic) when a server that we did not start is gone, or when too many fail in a row.
    """
    stop = threading.Event()
    asker = Asker(critic.backend, wait=stop.wait, give_up=stop.is_set)
    left = {task.item: task for task in tasks}

    def beat() -> None:
        bench.progress(Progress("reviewing", "review", num_tasks - len(left), num_tasks))

    with closing(as_they_come(tasks, lambda task: _judge(task, asker), critic.backend, stop, beat)) as answers:
        for task, judged in answers:
            if judged.failure in OF_THE_RUNTIME:
                _revive(critic, bench, str(judged.detail))
                break
            del left[task.item]
            _deliver(task, judged, critic, bench)
            if _is_over(critic):
                break
    return list(left.values())


def _judge(task: Task, asker: Asker) -> Judged:
    return judge_both_orders(task.question, asker) if len(task.question.images) > 1 else asker(task.question)


def _deliver(task: Task, judged: Judged, critic: Resident, bench: Bench) -> None:
    record = verdict.record_of(task.question, judged, critic.model, structured=critic.backend.structured)
    facts = verdict.facts_of(task.question, judged, record, task.key)
    bench.deliver(Outcome((Made(task.item, store.canonical(record), facts),)))
    critic.failed_in_a_row = 0 if judged.answer else critic.failed_in_a_row + 1
    if critic.failed_in_a_row >= critic.profile.budget.max_in_a_row:
        what = f"left {critic.failed_in_a_row} images in a row unscored, the last one {verdict.reason_of(judged)}"
        fix = "Look at their verdicts with `python -m runner inspect DIGEST`; the same command goes on after that"
        raise Failed("critic", Fault("critic_failing", "critic_runtime", what, fix), item=task.item)


def _revive(critic: Resident, bench: Bench, said: str) -> None:
    """Start our own server again; a server of somebody else is waited for by nobody."""
    if critic.server is None:
        runtime = bench.request.critic_runtime
        what = f"{runtime and runtime.id} is gone ({said})"
        raise Failed("critic", Fault("critic_down", "critic_runtime", what, "Start it, then run the same command"))
    resident.restart(critic, bench)
