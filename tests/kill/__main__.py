"""Kill runs at random moments and compare what the same command makes of them with an undisturbed run.

Prints a row per kill and a summary; the exit code is 1 if anything was lost, doubled, made again or untrue.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.kill import attempts, rounds
from tests.kill.rounds import Round

COLUMNS = ("kill", "moment", "status then", "lines", "kept", "made", "leftovers", "ok")


def main() -> int:
    asked = arguments()
    command = attempts.PAINTED if asked.painted else attempts.real(asked.experiment)
    print(f"seed {asked.seed}: python -m {' '.join(command)}", flush=True)
    place = Path(tempfile.mkdtemp(prefix="kill-"))
    calm = rounds.undisturbed(command, place / "calm")
    print(f"undisturbed: {calm.took_s:.1f} s, {len(calm.scene.lines)} lines, {len(calm.scene.made)} items", flush=True)
    if asked.until_complete:
        done = told(rounds.until_complete(command, place / "run", calm, seed=asked.seed))
    else:
        done = told(
            rounds.many(command, place, calm, times=asked.times, seed=asked.seed, num_jobs=asked.jobs)
        )  # fmt: skip
    return summary(done, place)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=__doc__)
    parser.add_argument("--times", type=int, default=50, help="kills, each in a run of its own")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="of the moments")
    parser.add_argument("--jobs", type=int, default=2, help="rounds at the same time")
    parser.add_argument("--experiment", default="demo", help="a shipped experiment")
    parser.add_argument("--until-complete", action="store_true", help="kill one run until it completes by itself")
    parser.add_argument("--painted", action="store_true", help="fake workers: the path and the disk, without models")
    return parser.parse_args()


def told(found: Iterable[Round]) -> list[Round]:
    """All rounds, each said as it ends."""
    done = []
    for number, each in enumerate(found, start=1):
        done.append(each)
        print(f"{number}: {each.moment}: {'ok' if not each.faults else '; '.join(each.faults)}", flush=True)
    return done


def summary(done: list[Round], place: Path) -> int:
    """The table, the count, and the exit code; the folders of rounds that went wrong stay."""
    table = Table(*COLUMNS)
    for number, each in enumerate(done, start=1):
        counts = (each.num_lines, each.num_kept, each.num_made, each.num_leftovers)
        row = (number, each.moment, each.status, *counts, "no" if each.faults else "yes")
        table.add_row(*(str(value) for value in row))
    Console(width=110).print(table)
    num_bad = sum(bool(each.faults) for each in done)
    print(f"{len(done)} kills: {len(done) - num_bad} as undisturbed, {num_bad} not" + f" (see {place})" * bool(num_bad))
    return int(bool(num_bad))


if __name__ == "__main__":
    sys.exit(main())
