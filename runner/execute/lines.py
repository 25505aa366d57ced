"""What the outcome of a step becomes: bytes in the store, and the journal lines that name them.

Bytes are stored and read back before their line is given out. A picture that does not decode at its planned size gets
no object, and a line that says so. What it does not know: whether the lines are committed.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping

from runner.config.tree import Request
from runner.journal import Event
from runner.plan import Step
from runner.store import Objects, digest
from runner.worker import Made, Outcome, Unmade


def lines_of(
    step: Step, outcome: Outcome, wanted: Collection[str], made: Mapping[str, str], objects: Objects, request: Request
) -> Iterator[Event]:
    """A line for each wanted item; kept ones that came out with other bytes when sampled again are noted."""
    for done in outcome.made:
        if wrong := image_problem(done.data, request) if step.kind == "generate" else None:
            yield unmade(step, Unmade(done.item, "sampling", wrong))
        elif done.item in wanted:
            yield _stored(step, done, objects)
        elif done.item in made and digest(done.data) != made[done.item]:
            yield {"event": "differs", "key": done.item, "step": step.digest, "object": digest(done.data)}
    yield from (unmade(step, lost) for lost in outcome.unmade if lost.item in wanted)


def _stored(step: Step, done: Made, objects: Objects) -> Event:
    return {
        "event": "made", "key": done.item, "step": step.digest, "object": objects.put(done.data),
        "bytes": len(done.data), "facts": dict(done.facts),
    }  # fmt: skip


def unmade(step: Step, lost: Unmade) -> Event:
    return {"event": "unmade", "key": lost.item, "step": step.digest, "kind": lost.kind, "reason": lost.reason}


def image_problem(data: bytes, request: Request) -> str | None:
    """Why bytes are not an image of the planned size; None when they are."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            size = image.size
    except (UnidentifiedImageError, OSError) as error:
        return f"does not decode ({type(error).__name__})"
    wanted = (request.generate.width, request.generate.height)
    return None if size == wanted else f"is {size[0]}x{size[1]}, planned was {wanted[0]}x{wanted[1]}"
