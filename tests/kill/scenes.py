"""What an outputs folder holds at a moment, read without the program that wrote it, and what the program says of it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.__main__ import main

Event = dict[str, Any]
NO_RUN = "no run"
_ONE_AT_A_TIME = threading.Lock()  # standard output is the process's, not the thread's


@dataclass(frozen=True, slots=True)
class Scene:
    """One look at an outputs folder."""

    status: str  # as the `status` verb says it
    lines: tuple[bytes, ...]  # whole lines of the journal
    torn: bool  # the journal ends inside a line
    objects: Mapping[str, tuple[int, int]]  # those that have their name: sha256 -> inode, time of change
    num_leftovers: int  # hidden neighbours of objects that were being written
    wrong: tuple[str, ...]  # objects that do not have their name
    problems: tuple[Event, ...]  # as `verify --all` says them

    @property
    def events(self) -> list[Event]:
        return [json.loads(line) for line in self.lines]

    @property
    def made(self) -> dict[str, str]:
        """Items that are committed and whole, with their object."""
        return {key: name for key, name in self.committed if name in self.objects}

    @property
    def committed(self) -> list[tuple[str, str]]:
        """Item and object of each `made` line, in order."""
        return [(event["key"], event["object"]) for event in self.of("made")]

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["event"] == kind]


def look(outputs: Path) -> Scene:
    """An outputs folder with at most one run in it."""
    logs = sorted(outputs.glob("runs/*/journal.jsonl"))
    data = logs[0].read_bytes() if logs else b""
    *lines, rest = data.split(b"\n")
    files = [path for path in sorted(outputs.glob("objects/*/*")) if path.is_file()]
    named = [path for path in files if not path.name.startswith(".")]
    sound = {name_of(path): path.stat() for path in named if sha256(path) == name_of(path)}
    objects = {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in sound.items()}
    wrong = tuple(name_of(path) for path in named if name_of(path) not in objects)
    return Scene(
        said_status(outputs), tuple(lines), bool(rest), objects, len(files) - len(named), wrong,
        tuple(said_problems(outputs)),
    )  # fmt: skip


def num_lines(outputs: Path) -> int:
    """Whole lines in the journals so far."""
    return sum(path.read_bytes().count(b"\n") for path in outputs.glob("runs/*/journal.jsonl"))


def name_of(path: Path) -> str:
    return path.parent.name + path.name


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def said_status(outputs: Path) -> str:
    answer = ask("status", "--json", "--outputs", str(outputs))
    return str(answer["runs"][0]["status"]) if answer.get("runs") else NO_RUN


def said_problems(outputs: Path) -> Iterator[Event]:
    if (outputs / "runs").is_dir():
        yield from ask("verify", "--all", "--json", "--outputs", str(outputs)).get("problems", [])


def ask(*words: str) -> dict[str, Any]:
    """What a verb answers to a program."""
    out = io.StringIO()
    silent, difference = contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit)
    with _ONE_AT_A_TIME, contextlib.redirect_stdout(out), silent, difference:
        main([*words])
    answer: dict[str, Any] = json.loads(out.getvalue().splitlines()[-1])
    return answer
