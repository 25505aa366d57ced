"""What of a plan is left to do: a quick decision before the work, and the truth by hash after it.

The decision looks at size and time of each object and hashes only what was touched since its line was written, so
that a run of hundreds of thousands of items goes on within seconds. Before a run is called complete every object
is hashed. What it does not know: how anything is made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from runner.journal import Item, State
from runner.plan import Plan
from runner.store import Objects

CLOCK_SLACK_S = 0.01  # a line's time is cut to milliseconds; bytes are written before their line
NUM_THREADS = 4  # hashing lets go of Python's lock

NOT_MADE = "not made yet"
OTHER_STEP = "it was made from another step"
GONE = "its object is gone"
ALTERED = "its object does not verify"
OTHER_IMAGE = "it judges another image"
QUARANTINED = "its critic failed an exam since"
UNSCORED = "its critic had no answer then"
AS_WRITTEN = "line and object are there, its size and time as written"
HASHED_AGAIN = "its object was touched and still verifies"


@dataclass(slots=True)
class Left:
    """What is kept and what is to be made, each with the reason."""

    made: dict[str, str] = field(default_factory=dict)  # item -> digest of what is stored and committed
    again: dict[str, str] = field(default_factory=dict)  # item -> why it has to be made
    kept_because: Counter[str] = field(default_factory=Counter)
    deleted: dict[str, str] = field(default_factory=dict)  # item -> why a human deleted it


def decide(plan: Plan, state: State, objects: Objects, tombstones: Mapping[str, str]) -> Left:
    """What is left of a plan, given its journal. `tombstones` are deleted digests with the reason."""
    left = Left()
    touched: dict[str, list[str]] = {}
    look = objects.look(len(state.items))
    left.deleted.update(_given_and_deleted(plan, tombstones))
    for item, known, why in _told(plan, state):
        if item in left.deleted:
            continue
        if image_of(item) in left.deleted:
            left.deleted[item] = left.deleted[image_of(item)]
        elif known is None or known.object is None:
            left.again[item] = why
        elif known.object in tombstones:
            left.deleted[item] = tombstones[known.object]
        elif known.quarantined or not (known.scored or state.status == "complete"):
            left.again[item] = QUARANTINED if known.quarantined else UNSCORED
        elif (seen := look(known.object)) is None:
            left.again[item] = GONE
        elif seen.size != known.bytes:
            left.again[item] = f"{ALTERED}: {seen.size} bytes in place of {known.bytes}"
        else:
            left.made[item] = known.object
            if seen.modified_s > datetime.fromisoformat(known.at).timestamp() + CLOCK_SLACK_S:
                touched.setdefault(known.object, []).append(item)
    _hash_touched(left, touched, objects)
    left.kept_because[AS_WRITTEN] = len(left.made) - left.kept_because[HASHED_AGAIN]
    left.again.update((item, OTHER_IMAGE) for item in left.made if is_stale(item, state, left.made))
    return left


def _given_and_deleted(plan: Plan, tombstones: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Reviews of images that another run made and that were deleted since."""
    for step in plan.steps if tombstones else ():
        for item, image in zip(step.items, step.images, strict=True):
            yield from ((item, tombstones[digest]) for digest in image.given if digest in tombstones)


def _told(plan: Plan, state: State) -> Iterator[tuple[str, Item | None, str]]:
    """Each planned item with its line when that counts, else with the reason why it does not."""
    for step in plan.steps:
        for item in step.items:
            known = state.items.get(item)
            if known is None:
                yield item, None, NOT_MADE
            elif not known.made:
                yield item, None, f"was not made: {known.reason}"
            else:
                yield item, known if known.step == step.digest else None, OTHER_STEP


def _hash_touched(left: Left, touched: Mapping[str, list[str]], objects: Objects) -> None:
    for seen in objects.check(touched, NUM_THREADS):
        for item in touched[seen.name]:
            if seen.found == seen.name:
                left.kept_because[HASHED_AGAIN] += 1
            else:
                left.again[item] = ALTERED
                del left.made[item]


def is_stale(item: str, state: State, made: Mapping[str, str]) -> bool:
    """Whether a kept verdict judges a picture that has been made again with other bytes."""
    verdict = state.items.get(item) if item.startswith("verdict/") else None
    image = made.get(image_of(item)) if verdict else None
    return verdict is not None and image is not None and verdict.image != image


def image_of(item: str) -> str:
    """The image that a verdict is about."""
    return item.replace("verdict/", "image/", 1)


def unsound(made: Mapping[str, str], objects: Objects) -> dict[str, str]:
    """Items whose object is not there or is not itself, by hash, with the reason."""
    items: dict[str, list[str]] = {}
    for item, name in made.items():
        items.setdefault(name, []).append(item)
    wrong = (seen for seen in objects.check(items, NUM_THREADS) if seen.found != seen.name)
    return {item: GONE if seen.found is None else ALTERED for seen in wrong for item in items[seen.name]}
