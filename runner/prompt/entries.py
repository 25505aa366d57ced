"""What a prompt set lists: from config, or from a file of up to 100,000 prompts.

A file is CSV (a column `prompt`, or one per section, and `id` if wanted), JSON Lines (a text, `{id, prompt}` or
`{id, sections}` a line), or plain text (a prompt a line; blank lines and lines that begin with `#` are skipped). It
refuses what is no UTF-8, has NUL bytes, an unknown column or key, or is larger than the limits below, each with file
and line. What it does not know: whether sections and triggers are right; composing and the contract say so.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.config import tree
from runner.errors import Fault, Refused, choose

PLAIN_SECTION = "text"  # the one section of a prompt that is given as a plain text
MAX_SHOWN = 20
MAX_FILE_BYTES = 64 << 20
MAX_PROMPTS = 100_000
MAX_LINE_CHARS = 20_000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # as config's Name


@dataclass(frozen=True, slots=True)
class Entry:
    """One prompt as a person wrote it: a plain text (the section `text`), or named sections."""

    where: str  # `prompt.items[3]`, or `prompts.csv:17`
    id: str | None
    sections: Mapping[str, str]
    plain: bool
    line: str = ""  # file and line, empty for one of prompt.items


def inline_entries(prompt: tree.Prompt) -> tuple[Entry, ...]:
    """The entries of `prompt.items`."""
    places = ((f"prompt.items[{number}]", item) for number, item in enumerate(prompt.items or ()))
    return tuple(
        Entry(where, None, {PLAIN_SECTION: item}, plain=True)
        if isinstance(item, str)
        else Entry(where, item.id, item.sections, plain=False)
        for where, item in places
    )


def read_entries(path: Path, sections: Sequence[str]) -> tuple[Entry, ...]:
    """The entries of a prompt file, whose columns or keys are `sections`. Raises Refused with all faults of it."""
    read = READERS.get(path.suffix.lower())
    if read is None:
        fix = f"Name a file that ends in {', '.join(READERS)}"
        raise Refused(Fault("prompt_file_unreadable", "prompt.file", f"{path} is of no kind that is known", fix))
    faults: list[Fault] = []
    source = _Source(path.name, faults)
    entries: list[Entry] = []
    for entry in read(source, _text(path), sections):
        if len(entries) == MAX_PROMPTS:
            source.fault(entry.line, f"is prompt {MAX_PROMPTS + 1} of the file", "Split the file")
            break
        entries.append(entry)
    if not entries and not faults:
        fix = "Write a prompt a line"
        faults.append(Fault("prompt_file_unreadable", path.name, "has no prompts", fix))
    faults += _doubled_ids(entries)
    if faults:
        raise Refused(few(faults))
    return tuple(entries)


def few(faults: Iterable[Fault]) -> list[Fault]:
    """The first 20 faults of each code; the rest of each are counted in one more."""
    by_code: dict[str, list[Fault]] = {}
    for fault in faults:
        by_code.setdefault(fault.code, []).append(fault)
    kept = [fault for same in by_code.values() for fault in same[:MAX_SHOWN]]
    return kept + [_counted(same[MAX_SHOWN:]) for same in by_code.values() if len(same) > MAX_SHOWN]


def _counted(rest: Sequence[Fault]) -> Fault:
    what = f"and {len(rest) - 1} more have faults like these" if len(rest) > 1 else "has a fault like these"
    return Fault(rest[0].code, rest[0].where, what, "Mend those that are shown, then ask again")


@dataclass(frozen=True, slots=True)
class _Source:
    """A file by its name, and what is wrong with it so far."""

    name: str
    faults: list[Fault]

    def place(self, number: int) -> str:
        return f"{self.name}:{number}"

    def fault(self, where: str, what: str, fix: str, code: str = "prompt_file_unreadable") -> None:
        self.faults.append(Fault(code, where, what, fix))

    def entry(self, number: int, name: Any, content: Any, sections: Sequence[str]) -> Iterator[Entry]:
        """The entry of a line, if it is one; its faults otherwise."""
        where = self.place(number)
        if name is not None and not (isinstance(name, str) and NAME.fullmatch(name)):
            fix = "Use letters, digits, `_`, `.` and `-`, at most 64 of them"
            self.fault(where, f"has the id {_short(name)}", fix, "bad_name")
        elif isinstance(content, str):
            yield Entry(where, name, {PLAIN_SECTION: content}, plain=True, line=where)
        elif not isinstance(content, dict) or not all(isinstance(text, str) for text in content.values()):
            self.fault(
                where, f"has {_short(content)} where a prompt stands", "Write a text, or a text for each section"
            )
        elif unknown := [key for key in content if key not in sections]:
            what = f"has a section {unknown[0]!r} that prompt.sections does not list"
            self.fault(where, what, choose(unknown[0], sections), "unknown_key")
        else:
            yield Entry(where, name, content, plain=False, line=where)


def _text(path: Path) -> str:
    """The whole file as text. Raises Refused when it is too large or no UTF-8 text."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        what = f"{path} cannot be read ({error.strerror})"
        raise Refused(Fault("prompt_file_missing", "prompt.file", what, "Name a file that can be read")) from error
    where, what = path.name, ""
    if len(data) > MAX_FILE_BYTES:
        what, fix = f"is larger than {MAX_FILE_BYTES >> 20} MiB", "Split the file"
    elif data.startswith((b"\xff\xfe", b"\xfe\xff")):
        what, fix = "is UTF-16", "Save it as UTF-8"
    elif b"\0" in data:
        where, what, fix = f"{where}:{_line_of(data, data.index(0))}", "has a NUL byte", "Save it as UTF-8 text"
    try:
        text = data.decode("utf-8-sig") if not what else ""
    except UnicodeDecodeError as error:
        where, fix = f"{where}:{_line_of(data, error.start)}", "Save it as UTF-8"
        what = f"is no UTF-8 (byte 0x{data[error.start]:02x})"
    if what:
        raise Refused(Fault("prompt_file_unreadable", where, what, fix))
    return text


def _line_of(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def _lines(source: _Source, text: str) -> Iterator[tuple[int, str]]:
    """The lines that say something, with their numbers."""
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line) > MAX_LINE_CHARS:
            what = f"has {len(line)} characters in one line, {MAX_LINE_CHARS} are read"
            source.fault(source.place(number), what, "Look whether the line ends are missing")
        elif line.strip():
            yield number, line.strip()


def _plain(source: _Source, text: str, sections: Sequence[str]) -> Iterator[Entry]:
    for number, line in _lines(source, text):
        if not line.startswith("#"):
            yield from source.entry(number, None, line, sections)


def _jsonl(source: _Source, text: str, sections: Sequence[str]) -> Iterator[Entry]:
    for number, line in _lines(source, text):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            at = f" at character {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            source.fault(source.place(number), f"is no JSON{at}", 'Write "a text" or {"id": ..., "prompt": ...}')
            continue
        table = {"prompt": value} if isinstance(value, str) else value
        if not isinstance(table, dict) or len(table.keys() & {"prompt", "sections"}) != 1:
            source.fault(source.place(number), "is no prompt", "Give exactly one of `prompt` and `sections`")
        elif unknown := sorted(table.keys() - {"id", "prompt", "sections"}):
            source.fault(
                source.place(number), f"has a key {unknown[0]!r}", "Known: id, prompt, sections", "unknown_key"
            )
        elif not isinstance(table.get("prompt", ""), str) or not isinstance(table.get("sections", {}), dict):
            source.fault(source.place(number), "is no prompt", "`prompt` is a text, `sections` a table of texts")
        else:
            yield from source.entry(number, table.get("id"), table.get("prompt", table.get("sections")), sections)


def _csv(source: _Source, text: str, sections: Sequence[str]) -> Iterator[Entry]:
    rows = _rows(source, text)
    number, header = next(rows, (1, []))
    columns = [name.strip() for name in header]
    if not _known_columns(source, number, columns, sections):
        return
    for number, row in rows:
        if len(row) != len(columns):
            what = f"has {len(row)} values for {len(columns)} columns"
            source.fault(source.place(number), what, 'Put a text that holds a comma in quotes: "a, b"')
            continue
        values = dict(zip(columns, row, strict=True))
        name = values.pop("id", "").strip() or None
        parts = {section: part for section, part in values.items() if part.strip()}
        yield from source.entry(number, name, values.get("prompt", parts), sections)


def _rows(source: _Source, text: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that say something, each with the number of the line on which it begins."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            source.fault(source.place(number), f"is no CSV ({error})", 'Write a quote inside quotes twice: ""')
            return
        if row is None:
            return
        if sum(map(len, row)) > MAX_LINE_CHARS:
            what = f"has {sum(map(len, row))} characters in one row, {MAX_LINE_CHARS} are read"
            source.fault(source.place(number), what, "Look whether a quote is missing")
        elif any(value.strip() for value in row):
            yield number, row


def _known_columns(source: _Source, number: int, columns: Sequence[str], sections: Sequence[str]) -> bool:
    known = ("id", "prompt", *sections)
    where, code = source.place(number), "unknown_key"
    twice = [name for name in dict.fromkeys(columns) if columns.count(name) > 1]
    for name in columns:
        if name not in known:
            source.fault(where, f"has a column {name!r} that is no section", choose(name, known), code)
    if twice:
        source.fault(where, f"has two columns {twice[0]!r}", "Give each column a name of its own", code)
    if ("prompt" in columns) == bool(set(columns) & set(sections)):
        what = "has no column that holds prompts, or both kinds of them"
        source.fault(where, what, f"Name a column `prompt`, or columns of {', '.join(sections)}", code)
    return not source.faults


def _doubled_ids(entries: Iterable[Entry]) -> Iterator[Fault]:
    first: dict[str, str] = {}
    for entry in entries:
        if entry.id is not None and first.setdefault(entry.id, entry.line) != entry.line:
            what = f"has the id {entry.id!r} again, after {first[entry.id]}"
            yield Fault("prompt_doubled", entry.line, what, "Give each prompt an id of its own")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


READERS: dict[str, Callable[[_Source, str, Sequence[str]], Iterator[Entry]]] = {
    ".csv": _csv, ".jsonl": _jsonl, ".txt": _plain,
}  # fmt: skip
