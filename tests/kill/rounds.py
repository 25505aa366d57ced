"""Rounds of kill and resume, each judged against one undisturbed run."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.kill import judge
from tests.kill.attempts import Moment, after_some_progress, finish, kill, moments
from tests.kill.scenes import Scene, look

MOST_ATTEMPTS = 60  # of a run that is killed until it completes


@dataclass(frozen=True, slots=True)
class Calm:
    """The undisturbed run that the others are held against."""

    scene: Scene
    took_s: float


@dataclass(frozen=True, slots=True)
class Round:
    """One kill and what came of it."""

    moment: str
    status: str  # after the kill
    num_lines: int
    num_kept: int
    num_made: int
    num_leftovers: int
    faults: tuple[str, ...]


def undisturbed(command: tuple[str, ...], place: Path) -> Calm:
    """Run the command once in peace. Raises RuntimeError when even that does not complete."""
    code, took_s = finish(command, place)
    scene = look(place / "outputs")
    if code or scene.status != "complete" or scene.problems:
        said = (place / "said.txt").read_text(errors="replace")
        raise RuntimeError(f"the undisturbed run ended with {code}, {scene.status}, {scene.problems}:\n{said}")
    return Calm(scene, took_s)


def killed_and_resumed(command: tuple[str, ...], place: Path, calm: Calm, moment: Moment) -> Round:
    """Kill a fresh run at a moment, start it again, compare."""
    kill(command, place, moment)
    before = look(place / "outputs")
    code, _ = finish(command, place)
    after = look(place / "outputs")
    found = judge.faults(before, after, calm.scene, code)
    return _round(str(moment), before, after, found)


def many(
    command: tuple[str, ...], place: Path, calm: Calm, *, times: int, seed: int, num_jobs: int = 1
) -> Iterator[Round]:
    """So many rounds in folders of their own; those of rounds that went well are removed."""

    def one(numbered: tuple[int, Moment]) -> Round:
        number, moment = numbered
        done = killed_and_resumed(command, place / str(number), calm, moment)
        if not done.faults:
            shutil.rmtree(place / str(number))
        return done

    chosen = moments(seed, times, calm.took_s, len(calm.scene.lines))
    with ThreadPoolExecutor(num_jobs) as pool:
        yield from pool.map(one, enumerate(chosen, start=1))


def until_complete(command: tuple[str, ...], place: Path, calm: Calm, *, seed: int) -> Iterator[Round]:
    """Kill one run again and again until it completes by itself; each attempt is judged against the one before."""
    chance = random.Random(seed)
    before = look(place / "outputs")
    for _ in range(MOST_ATTEMPTS):
        moment = after_some_progress(chance, len(before.lines))
        code = kill(command, place, moment)
        after = look(place / "outputs")
        ended = code != -signal.SIGKILL
        found = [*judge.of_a_step(before, after)]
        found += judge.of_the_end(after, calm.scene, code) if ended else judge.of_the_dead(after)
        yield _round("not killed" if ended else str(moment), before, after, found)
        if ended:
            return
        before = after
    raise RuntimeError(f"the run did not complete in {MOST_ATTEMPTS} attempts")


def _round(moment: str, before: Scene, after: Scene, found: list[str]) -> Round:
    made = len(after.made.keys() - before.made.keys())
    return Round(
        moment, before.status, len(before.lines), len(before.made), made, before.num_leftovers, tuple(found)
    )  # fmt: skip
