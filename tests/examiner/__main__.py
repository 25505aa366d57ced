"""Put the corpus before the inspector and count: right, cannot tell, lucky, wrong.

`python -m tests.examiner [--only TEXT] [--wrong] [--unsure] [--files | --pairs] [--all] [--every N]`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.examiner.entries import entries
from tests.examiner.examine import examine_files, examine_pairs
from tests.examiner.marks import UNSURE, WRONG, Mark, listed, table
from tests.examiner.pairs import pairs, quantised_pairs, rounds


def main() -> int:
    """Examine, print the table, list what went wrong; 1 if anything did."""
    asked = arguments()
    with tempfile.TemporaryDirectory() as temporary:
        marks = [] if asked.pairs else _files(Path(temporary), asked)
        marks += [] if asked.files else _pairs(Path(temporary), asked)
    print(table(marks))
    for line in listed(marks, {WRONG, UNSURE} if asked.unsure else {WRONG}, None if asked.wrong else 8):
        print(line)
    return int(any(mark.verdict == WRONG for mark in marks))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.examiner", description=__doc__)
    parser.add_argument("--only", default="", help="entries whose name contains this text")
    parser.add_argument("--wrong", action="store_true", help="list every wrong answer, not the first of each sort")
    parser.add_argument("--unsure", action="store_true", help="list the cannot-tells too")
    parser.add_argument("--files", action="store_true", help="single files only")
    parser.add_argument("--pairs", action="store_true", help="pairs only")
    parser.add_argument("--all", action="store_true", help="all pairs, not one in 24 of the plain refusals")
    parser.add_argument("--every", type=int, default=1, help="every N-th file and pair")
    return parser.parse_args()


def _files(room: Path, asked: argparse.Namespace) -> list[Mark]:
    start = time.perf_counter()
    chosen = [entry for entry in entries() if asked.only in entry.name][:: asked.every]
    marks = list(examine_files(room, chosen))
    print(f"{len(chosen)} files, {time.perf_counter() - start:.0f} s", flush=True)
    return marks


def _pairs(room: Path, asked: argparse.Namespace) -> list[Mark]:
    start = time.perf_counter()
    wide = pairs(1 if asked.all else 24)
    chosen = [pair for pair in wide if asked.only in f"{pair.entry.name} on {pair.base}"][:: asked.every]
    packed = [] if asked.only else list(quantised_pairs())
    marks = [mark for how, some in rounds(chosen, packed).items() for mark in examine_pairs(room, some, how)]
    print(f"{len(chosen)} pairs, {time.perf_counter() - start:.0f} s", flush=True)
    return marks


if __name__ == "__main__":
    sys.exit(main())
