"""Put files before the inspector: write, ask, mark, remove.

The inspector is asked as `inspect` asks itself about many files: their own digests (they are holes of many
gigabytes) are left out. It does not know which files are asked about, nor which answers are right.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from runner.verbs.inspect import inspect_many
from tests.examiner.bases import write_base, write_quantised
from tests.examiner.expect import Entry
from tests.examiner.marks import Answer, Mark, mark_file, mark_pair
from tests.examiner.pairs import Pair
from tests.examiner.write import write_entry


def ask(paths: list[Path], base: Path | None) -> list[Answer]:
    """What the inspector says of each; a crash is one file's wrong answer, and the examination goes on."""
    try:
        answers: list[Answer] = inspect_many([str(path) for path in paths], base)["files"]
    except Exception as error:
        if len(paths) > 1:
            return [answer for path in paths for answer in ask([path], base)]
        said = f"CRASH {type(error).__name__}: {error}"[:200]
        return [{"kind": said, "compatible": "CRASH", "family": "CRASH"}]
    return answers


def examine_files(room: Path, chosen: Iterable[Entry]) -> Iterator[Mark]:
    """One file at a time."""
    for num, entry in enumerate(chosen):
        folder = room / f"file{num}"
        (answer,) = ask([write_entry(folder, entry)], None)
        yield from mark_file(entry, answer)
        shutil.rmtree(folder)


def examine_pairs(room: Path, chosen: Iterable[Pair], how: str) -> Iterator[Mark]:
    """One base at a time, kept with `weights`, in `fp16` file names, as `configs` alone, or packed (`nf4`)."""
    groups: dict[str, list[Pair]] = {}
    for pair in chosen:
        groups.setdefault(pair.base, []).append(pair)
    for name, group in groups.items():
        folder = room / f"{name}-{how}"
        base = _write_base(folder / "base", name, how)
        paths = [write_entry(folder / f"lora{num}", pair.entry) for num, pair in enumerate(group)]
        for pair, answer in zip(group, ask(paths, base), strict=True):
            yield mark_pair(pair, how, answer)
        shutil.rmtree(folder)


def _write_base(folder: Path, name: str, how: str) -> Path:
    if how == "nf4":
        return write_quantised(folder, name)
    return write_base(folder, name, weights=how != "configs", variant="fp16" if how == "fp16" else "")
