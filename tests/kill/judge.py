"""What must hold between a run as a kill left it, the same run after the same command, and an undisturbed one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tests.kill.scenes import NO_RUN, Scene

TRUE_WHEN_DEAD = {NO_RUN, "planned", "crashed", "complete"}  # what `status` may say of a process that is gone
HARMLESS = {"orphan"}  # what a kill may leave for `verify` to name


def faults(before: Scene, after: Scene, calm: Scene, exit_code: int) -> list[str]:
    """Everything that is wrong with a run that was killed (`before`) and ended by the same command (`after`)."""
    return [*of_the_dead(before), *of_a_step(before, after), *of_the_end(after, calm, exit_code)]


def of_the_dead(scene: Scene) -> Iterator[str]:
    """A run whose process was killed."""
    if scene.status not in TRUE_WHEN_DEAD:
        yield f"status says {scene.status} of a process that is gone"
    if scene.wrong:
        yield f"objects that are not themselves after the kill: {', '.join(scene.wrong)}"
    lost = [key for key, name in scene.committed if name not in scene.objects]
    if lost:
        yield f"committed, and their object is not there: {', '.join(lost)}"
    for problem in scene.problems:
        if problem["kind"] not in HARMLESS:
            yield f"verify after the kill: {problem}"


def of_a_step(before: Scene, after: Scene) -> Iterator[str]:
    """From one look to the next nothing is lost, written twice or made again, and each item has its reason."""
    if after.lines[: len(before.lines)] != before.lines:
        yield "lines of the journal were changed"
    for name in set(before.made.values()):
        if after.objects.get(name) != before.objects[name]:
            yield f"object {name[:12]} was written again though it was whole"
    twice = [key for key, count in Counter(key for key, _ in after.committed).items() if count > 1]
    if twice:
        yield f"made twice: {', '.join(twice)}"
    yield from _of_reasons(before, after)


def _of_reasons(before: Scene, after: Scene) -> Iterator[str]:
    began = [event for event in after.of("started") if event["n"] >= len(before.lines)]
    resumed = [event for event in after.of("resumed") if event["n"] >= len(before.lines)]
    if not before.of("started") or not began:
        return
    if not resumed:
        if began[0]["n"] < len(after.lines) - 1:  # it may have been killed between the two lines
            yield "the resumption says nothing of what it keeps"
        return
    kept, again = resumed[0]["kept"], resumed[0]["again"]
    if kept != len(before.made):
        yield f"says that it keeps {kept} items; {len(before.made)} were whole"
    if wrongly := again.keys() & before.made.keys():
        yield f"makes again what was whole: {', '.join(sorted(wrongly))}"
    if sum(began[0]["left"].values()) != len(again):
        yield f"starts on {began[0]['left']} and gives {len(again)} reasons"
    if not all(isinstance(reason, str) and reason for reason in again.values()):
        yield "an item is made again without a reason"
    if missing := {key for key, _ in after.committed} - before.made.keys() - again.keys():
        yield f"made without having been named: {', '.join(sorted(missing))}"


def of_the_end(after: Scene, calm: Scene, exit_code: int) -> Iterator[str]:
    """The same command has come to an end, and it is the undisturbed one."""
    if exit_code != 0:
        yield f"the same command ended with {exit_code}"
    if after.status != "complete":
        yield f"status says {after.status} at the end"
    if after.made != calm.made:
        differing = {key for key in after.made.keys() | calm.made.keys() if after.made.get(key) != calm.made.get(key)}
        yield f"other bytes than the undisturbed run: {', '.join(sorted(differing))}"
    if after.objects.keys() != calm.objects.keys():
        yield f"{len(after.objects)} objects; the undisturbed run has {len(calm.objects)}"
    if after.torn:
        yield "the journal ends inside a line"
    if [event["n"] for event in after.events] != list(range(len(after.lines))):
        yield "the lines of the journal are not numbered in order"
    for problem in after.problems:
        yield f"verify at the end: {problem}"
