"""Values of the verbs as text for a person."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

LONG = ("manifest", "tokens", "images", "timings", "metadata", "environment")


def runs(value: Mapping[str, Any]) -> str:
    """A table of runs."""
    if not value["runs"]:
        return "No runs yet. Start one: python -m runner +experiment=demo"
    rows = [
        [r["run_id"], r["status"], f"{r['complete']}/{r['planned']}", str(r["failed"] or ""), (r["started"] or "")[:19]]
        for r in value["runs"]
    ]
    text = _table(["run", "status", "images", "failed", "started"], rows)
    failures = [
        f"{r['run_id']}: {r['failure']['what']}. {r['failure']['fix']}" for r in value["runs"] if r.get("failure")
    ]
    problems = [f"{r['run_id']}: {r['problem']}" for r in value["runs"] if r.get("problem")]
    return "\n".join([text, *failures, *problems])


def facts(value: Mapping[str, Any]) -> str:
    """Names and values; long parts by their size, the images of a run as a table."""
    rows = [[name, _plain(entry)] for name, entry in value.items() if name not in LONG]
    text = _table(["what", "is"], rows)
    if isinstance(value.get("images"), list):
        images = [
            [i["key"], i["status"], (i["digest"] or "")[:16], str(i["seed"]), i["prompt"]] for i in value["images"]
        ]
        text += "\n" + _table(["image", "status", "digest", "seed", "prompt"], images)
    if value.get("metadata"):
        text += "\n" + _table(
            ["metadata", "says"], [[name, str(said)[:200]] for name, said in value["metadata"].items()]
        )
    return text


def verification(value: Mapping[str, Any]) -> str:
    """One line when everything is as it was; otherwise every difference by name."""
    if value["ok"]:
        return f"All is as it was written: {value['checked']} things checked."
    rows = [[p["kind"], p["name"], str(p["expected"] or ""), str(p["found"] or "")] for p in value["problems"]]
    return _table(["difference", "name", "expected", "found"], rows)


def _plain(entry: Any) -> str:
    if isinstance(entry, Mapping):
        return ", ".join(f"{name} {_plain(part)}" for name, part in entry.items())
    if isinstance(entry, list):
        return ", ".join(map(_plain, entry))
    return "none" if entry is None else str(entry)


def _table(columns: list[str], rows: list[list[str]]) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_printable(cell)) for cell in row))
    buffer = io.StringIO()
    Console(file=buffer, width=160, highlight=False).print(table)
    return buffer.getvalue().rstrip()


def _printable(text: str) -> str:
    """Text from files may carry control characters that would steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
