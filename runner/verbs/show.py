"""Values of the verbs as text for a person."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from runner.contract.shown import shown

MAX_CHARS = 4_000  # of a cell or a line; what comes from files is made safe for a terminal by `shown`
MAX_EXAMPLES = 8  # of layers that do not fit
MAX_ROWS = 300  # of metadata; kohya's trainer writes about a hundred
CRASHED = "its process is gone. Run the same command again to go on"
LONG = ("manifest", "tokens", "images", "timings", "metadata", "environment")


def runs(value: Mapping[str, Any]) -> str:
    """A table of runs."""
    if not value["runs"]:
        return "No runs yet. Start one: python -m runner +experiment=demo"
    text = table(["run", "status", "images", "verdicts", "failed", "started"], [_run_row(r) for r in value["runs"]])
    failures = [
        f"{r['run_id']}: {r['failure']['cause']}. {r['failure']['hint']}" for r in value["runs"] if r.get("failure")
    ]
    failures += [f"{r['run_id']}: {CRASHED}" for r in value["runs"] if r["status"] == "crashed"]
    waiting = [f"{r['run_id']}: {r['waits_for']}" for r in value["runs"] if r.get("waits_for")]
    problems = [f"{r['run_id']}: {r['problem']}" for r in value["runs"] if r.get("problem")]
    return "\n".join([text, *(shown(line, MAX_CHARS) for line in (*failures, *waiting, *problems))])


def _run_row(row: Mapping[str, Any]) -> list[str]:
    images = f"{row['complete']}/{row['planned']}" + (f", {row['deleted']} deleted" if row.get("deleted") else "")
    counts = [images, str(row.get("verdicts") or ""), str(row["failed"] or "")]
    return [row["run_id"], row["status"], *counts, (row["started"] or "")[:19]]


def lines(value: Mapping[str, Any]) -> str:
    """A line for each run, for logs: when, which, what it does, how far, and its last sign of life."""
    clock = datetime.now().strftime("%H:%M:%S")
    return "\n".join(f"{clock} {shown(_line(row), MAX_CHARS)}" for row in value["runs"])


def _line(row: Mapping[str, Any]) -> str:
    told = [f"{row['run_id']}: {row['status']}", f"images {row['complete']}/{row['planned']}"]
    told += [f"{row['failed']} failed"] * bool(row["failed"]) + [f"verdicts {row.get('verdicts')}"]
    if row.get("heartbeat"):
        told += [_in_phase(row), f"last sign of life {row['silent_s']:.0f} s ago"]
    if row.get("waits_for"):
        told.append(row["waits_for"])
    failure = row.get("failure")
    return ", ".join(told) + (f". {failure['cause']}" if failure else "")


def _in_phase(row: Mapping[str, Any]) -> str:
    """The phase, since when, and how many of its steps are done where it said so."""
    step = f" step {row['done']}/{row['total']}" if row.get("total") else ""
    return f"{row['beat_phase'] or row['phase'] or 'starting'}{step} for {row['phase_s']:.0f} s"


def live(all_rows: Iterable[list[dict[str, Any]]]) -> None:
    """Runs on a terminal, drawn again as time passes; the last table stays."""
    from rich.live import Live
    from rich.text import Text

    with Live(refresh_per_second=4) as screen:
        for rows in all_rows:
            at_work = [r for r in rows if r["heartbeat"]]
            doing = [[r["run_id"], r["status"], _in_phase(r), f"{r['silent_s']:.0f} s ago"] for r in at_work]
            now = table(["run", "status", "in phase", "sign of life"], doing) if doing else ""
            screen.update(Text.from_ansi("\n".join([runs({"runs": rows}), now])), refresh=True)


def facts(value: Mapping[str, Any]) -> str:
    """Names and values; long parts by their size, the images of a run as a table."""
    if "format" in value:
        return _card(value)
    rows = [[name, _plain(entry)] for name, entry in value.items() if name not in LONG]
    text = table(["what", "is"], rows)
    if isinstance(value.get("images"), list):
        images = [
            [i["key"], i["status"], (i["digest"] or "")[:16], str(i["seed"]), i["prompt"]] for i in value["images"]
        ]
        text += "\n" + table(["image", "status", "digest", "seed", "prompt"], images)
    return text


def _card(value: Mapping[str, Any]) -> str:
    """A weight file: what it is, the evidence, what speaks against it, and whether it fits the base."""
    if value["kind"] == "broken":
        return f"{shown(value['path'])} {value['reason']}"
    strength = "" if value["scaling"] is None else f" (applied at alpha/rank {value['scaling']:g})"
    rank = _plain(value["rank"]) if value["rank"] or not value["ranks"] else _ranks(value["ranks"])
    rows = [
        ["kind", value["kind"]],
        ["family", _family(value)],
        ["of models", _plain(value["models"])],
        ["naming", f"{value['format']}, {value['algorithm']}"],
        ["rank", rank],
        ["alpha", _plain(value["alpha"]) + strength],
        ["text encoders", _plain(value["text_encoders"])],
        ["trigger", _plain(value["trigger"])],
        ["captions often say", _plain(value["trigger_hints"])],
        ["layers", f"{value['modules']} adapted, by {value['tensors']} tensors"],
        ["sha256", _plain(value["sha256"])],
        *([f"evidence {number}", line] for number, line in enumerate(value["evidence"], 1)),
    ]
    if "compatible" in value:
        rows += [["fits the base", f"{value['compatible'].replace('_', ' ')}: {value['reason']}"]]
        rows += [["conflict", line] for line in value["conflicts"][:MAX_EXAMPLES]]
        rows += [["without a place", line] for line in value["unbound"][:MAX_EXAMPLES]]
    said = list(value.get("metadata", {}).items())
    more = [[f"and {len(said) - MAX_ROWS} more", ""]] if len(said) > MAX_ROWS else []
    meta = [[shown(name), shown(str(text))] for name, text in said[:MAX_ROWS]]
    text = shown(value["path"], MAX_CHARS) + "\n" + table(["what", "is"], [row for row in rows if row[1] != "none"])
    return text + ("\n" + table(["its metadata", "says"], meta + more) if meta else "")


def _family(value: Mapping[str, Any]) -> str:
    return str(value["family"] or f"cannot tell ({' or '.join(value['families']) or 'nothing we know'})")


def _ranks(ranks: Mapping[str, int]) -> str:
    return ", ".join(f"{rank} in {number} layers" for rank, number in ranks.items())


def files(value: Mapping[str, Any]) -> str:
    """Many weight files, a line each."""
    rows = [_file_row(entry) for entry in value["files"]]
    columns = ["file", "kind", "family", "naming", "rank", "notes", "fits", "layers"]
    return table(columns[: max(map(len, rows), default=6)], rows)


def _file_row(value: Mapping[str, Any]) -> list[str]:
    name = Path(value["path"]).name
    if "format" not in value or value["kind"] == "broken":
        return [name, value["kind"], str(value.get("family") or ""), "", "", str(value.get("reason", ""))]
    fits = [value["compatible"].replace("_", " "), str(value["coverage"] or "")] if "compatible" in value else []
    rank = str(value["rank"] or "/".join(value["ranks"]))
    note = "; ".join(value["flags"]) or value["trigger"] or ""
    return [name, value["kind"], _family(value), str(value["format"]), rank, note, *fits]


def verification(value: Mapping[str, Any]) -> str:
    """One line when everything is as it was; otherwise every difference by name. What was repaired comes first."""
    parts = []
    if repaired := value.get("repaired"):
        parts.append(table(["repaired", "name", "how"], [[r["kind"], r["name"], r["how"]] for r in repaired]))
    if failed := value.get("failed"):
        parts.append(table(["not repaired", "name", "why"], [[r["kind"], r["name"], r["reason"]] for r in failed]))
    parts += [shown(f"{n['name']}: {n['kind']}, {n['bytes']} bytes of a crashed write") for n in value.get("notes", [])]
    if value["ok"]:
        alone = "" if value["objects"] else " Manifest and journal alone: the images are not here."
        parts.append(f"All is as it was written: {value['checked']} things checked.{alone}")
    else:
        parts += [_problem(problem) for problem in value["problems"]]
        parts += [WHAT_NEXT[kind] for kind in WHAT_NEXT if any(p["kind"] in kind for p in value["problems"])]
    return "\n".join(parts)


WHAT_NEXT = {  # kinds of difference -> what to do
    ("missing", "altered", "truncated", "misplaced", "extra"):
        "`verify --all --repair` mends what it can from bytes that verify; a run's own command makes the rest again.",
    ("orphan",): "Orphans are named by no record; `gc` says what could go.",
    ("manifest_altered", "journal_altered"):
        "A manifest or journal is never repaired: put the original back, or start again with run.fresh=true.",
}  # fmt: skip


def _problem(problem: Mapping[str, Any]) -> str:
    """A difference on a line of its own, names whole: they are there to be copied."""
    told = [f"{side} {problem[side]}" for side in ("expected", "found") if problem[side]]
    return shown(f"{problem['kind']}: {problem['name']}" + (f" ({', '.join(told)})" if told else ""), MAX_CHARS)


def _plain(entry: Any) -> str:
    if isinstance(entry, Mapping):
        return ", ".join(f"{name} {_plain(part)}" for name, part in entry.items())
    if isinstance(entry, list | tuple):
        return ", ".join(map(_plain, entry)) or "none"
    return "none" if entry is None else str(entry)


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A table as text, safe for a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(cell, MAX_CHARS)) for cell in row))
    buffer = io.StringIO()
    Console(file=buffer, width=160, highlight=False).print(table)
    return buffer.getvalue().rstrip()
