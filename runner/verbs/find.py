"""`find`: images across runs, by what made them and by what was said of them.

A verdict of a critic that failed an exam since is no answer to a question about scores, tags or advice: such an image
is found by everything else, and reads `quarantined`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner import index
from runner.errors import Fault, Refused
from runner.verbs.show import table
from runner.verbs.status import find_run


def find(
    outputs: Path, query: index.ImageQuery, at_least: Sequence[str], at_most: Sequence[str], *, count: bool
) -> dict[str, Any]:
    """How many images a query has, and the first of them; `concept=0.8` is the form of a bound. Raises Refused."""
    _refuse_unreadable(query)
    query = replace(query, at_least=_bounds("--min", at_least), at_most=_bounds("--max", at_most))
    if query.run is not None:
        query = replace(query, run=find_run(outputs, query.run).name)
    found = index.find_images(outputs, replace(query, limit=0) if count else query)
    return {"images": found.images, "total": found.total}


def show(value: Mapping[str, Any]) -> str:
    """A table of images, and how many more there are; only the number when it was asked for."""
    images, total = value["images"], value["total"]
    if not images:
        return f"{total} images" if total else "No image is so."
    criteria = sorted({name for image in images for name in image["scores"]})
    advised = ["advice"] * any(image["advice"] or image["quarantined"] for image in images)
    rows = [_row(image, criteria, advised) for image in images]
    more = f"\n{len(images)} of {total} images; --limit shows more" if len(images) < total else ""
    return table(["image", "run", "key", "status", *advised, *criteria, "prompt"], rows) + more


def _row(image: Mapping[str, Any], criteria: Sequence[str], advised: Sequence[str]) -> list[str]:
    status = "deleted" if image["deleted"] else image["status"]
    advice = ["quarantined" if image["quarantined"] else image["advice"] or ""] * len(advised)
    scores = (image["scores"].get(name) for name in criteria)
    told = ["" if score is None else f"{score:.3f}" for score in scores]
    name = (image["digest"] or "")[:16]
    return [name, image["run_id"] or "(imported)", str(image["key"]), status, *advice, *told, image["prompt"] or ""]


def _bounds(option: str, words: Sequence[str]) -> tuple[tuple[str, float], ...]:
    return tuple(_bound(option, word) for word in words)


def _bound(option: str, word: str) -> tuple[str, float]:
    name, _, number = word.rpartition("=")
    try:
        score = float(number)
    except ValueError:
        score = math.nan
    if not name or not math.isfinite(score):
        fix = f"Write a criterion and a number, as in {option} concept=0.8"
        raise Refused(Fault("bad_option", option, f"{word!r} is no bound", fix))
    return name, score


def _refuse_unreadable(query: index.ImageQuery) -> None:
    """Bytes of a command line that are no text stand in no prompt and name nothing; a seed has 32 bits."""
    if query.seed is not None and not 0 <= query.seed < 2**32:
        raise Refused(Fault("bad_option", "--seed", f"{query.seed} is no seed", "Write a number from 0 to 4294967295"))
    words = (
        query.run,
        query.experiment,
        query.lora,
        query.base,
        query.prompt,
        query.tag,
        query.advice,
        query.status,
        query.sort,
    )
    for word in words:
        try:
            (word or "").encode()
        except UnicodeEncodeError as error:
            fault = Fault("bad_option", "find", f"{word!r} is no text", "Write it in UTF-8")
            raise Refused(fault) from error
