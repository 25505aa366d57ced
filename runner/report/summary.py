"""What the terminal shows at the end of a command: faults, the contract card, or what a run made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.contract.shown import shown
from runner.errors import Fault, RunnerError
from runner.report.verdicts import Review, review_of

if TYPE_CHECKING:
    from runner.journal import Run

MAX_PLACES = 3
MAX_CHARS = 4_000  # of one fault or one cell; names in it may come from a file
WIDTH = 130  # columns of a table that goes to a file or a pipe


def print_faults(error: RunnerError) -> None:
    """Every fault as where, what, fix on standard error; the same fault of many prompts is said once."""
    import sys

    groups: dict[tuple[str, str, str], list[str]] = {}
    for fault in error.faults:
        groups.setdefault((fault.code, fault.what, fault.fix), []).append(fault.where)
    lines = [f"{error.title}:"]
    for (code, what, fix), places in groups.items():
        more = f" (and {len(places) - MAX_PLACES} more)" if len(places) > MAX_PLACES else ""
        where = ", ".join(dict.fromkeys(places[:MAX_PLACES])) + more
        lines.append(shown(f"- {Fault(code, where, what, fix)}", MAX_CHARS))
    print("\n".join(lines), file=sys.stderr)


def print_card(card: Mapping[str, Any], tokens: Sequence[Mapping[str, Any]]) -> None:
    """The contract card and the token table of an accepted request."""
    console, table = _console(), _table
    parties = card["parties"]
    about = table("contract", "party", "is")
    for name, party in parties.items():
        about.add_row(name, shown(_plain(party), MAX_CHARS))
    about.add_row("digest", card["digest"][:16])
    found = table("what was compared", "question", "answer", "evidence")
    for finding in card["findings"]:
        found.add_row(finding["question"], finding["answer"], shown(finding["evidence"], MAX_CHARS))
    console.print(about, found, _token_table(tokens), sep="\n")


def print_plan(expected: Mapping[str, int], steps: int, device: str, need: str) -> None:
    """What a run would do, in one table."""
    table = _table("plan", "what", "count")
    for kind, count in expected.items():
        table.add_row(f"{kind}s", str(count))
    table.add_row("steps (batches)", str(steps))
    table.add_row("device", device)
    table.add_row("memory", need)
    _console().print(table)


def print_summary(
    run: Run, status: str, made: Mapping[str, int], kept: Mapping[str, int], tracked: str | None, num_deleted: int = 0
) -> None:
    """Images, tokens, phases, scores and where to look."""
    console = _console()
    images = run.images()
    complete = [image for image in images if image["status"] == "complete"]
    idle = status == "complete" and not made
    heading = f"{run.id}: everything was already there, nothing was made" if idle else f"{run.id}: {status}"
    overview = _table(heading, "what", "value")
    there = len(complete) - num_deleted
    of_others = _of_others(run)
    overview.add_row("images", of_others or f"{there} of {len(images)}{_now_and_before('image', made, kept)}")
    if num_deleted:
        overview.add_row("deleted", f"{num_deleted}, and not made again; run.fresh=true makes new ones")
    if review := review_of(run):
        num_verdicts = review.num_counted + review.num_quarantined
        cached = sum(item.facts.get("cached") is True for item in run.state.items.values())
        before = f"; {cached} as they were given to the same questions before" if cached else ""
        overview.add_row("verdicts", f"{num_verdicts}{_now_and_before('verdict', made, kept)}{before}")
    target = run.manifest["request"]["prompt"]["budget"]["target"]
    if not of_others:
        overview.add_row("tokens (max)", f"{_token_line(run.manifest['tokens'])}; target {target}")
    for what, value in _said(run, review) if review else ():
        overview.add_row(what, value)
    if run.state.timings:
        overview.add_row("slowest phases", _phase_line(run.state.timings))
    failure = run.state.failure
    if failure:
        overview.add_row("why", f"{failure['where']}: {failure['cause']}. {failure['hint']}")
    if run.state.num_differing:
        overview.add_row(
            "not repeatable", f"{run.state.num_differing} kept images came out otherwise when sampled again"
        )
    if run.manifest["fallback"]:
        overview.add_row("fallback", run.manifest["fallback"])
    overview.add_row("look at", str(_near(run.folder / "report.html")))
    overview.add_row("MLflow run", tracked or "not tracked")
    console.print(overview)


def _of_others(run: Run) -> str | None:
    """Whose images a run judges, when it made none itself."""
    asked = run.manifest["request"].get("critique") or {}
    if not asked.get("images_of"):
        return None
    num_given = len(run.manifest.get("given", {}))
    if asked["against"]:
        return f"{num_given} pairs: A of {asked['images_of']}, B of {asked['against']}"
    return f"{num_given} of {asked['images_of']}, judged again"


def _now_and_before(kind: str, made: Mapping[str, int], kept: Mapping[str, int]) -> str:
    return f" ({made.get(kind, 0)} made now, {kept.get(kind, 0)} already there)"


def _said(run: Run, review: Review) -> Iterator[tuple[str, str]]:
    """Who judged and what was said: advice, scores, tags, what has no score and what does not count."""
    critic = run.manifest["request"].get("critic") or {}
    runtime = (run.manifest["request"].get("critic_runtime") or {}).get("id")
    by = f" by {runtime}" if runtime else ""
    yield "critic", f"{critic.get('profile')} v{critic.get('version')}{by}{_exam_line(run)}"
    if review.advice is not None:
        yield "advice", _counts(review.advice)
    if (critic or {}).get("mode") == "pairwise":
        yield "scores", "1 where A is better, 0 where B is, 0.5 for a tie"
    for name, scores in review.scores.items():
        yield f"score {name}", f"mean {sum(scores) / len(scores):.3f} of {len(scores)}"
    if review.tags:
        yield "tags", _counts(review.tags)
    if review.unscored:
        yield "unscored", _counts(review.unscored)
    if review.num_quarantined:
        yield "quarantined", f"{review.num_quarantined} verdicts, in no figure here: their critic failed an exam since"


def _exam_line(run: Run) -> str:
    exams = run.state.exams
    return f"; exam {'passed' if exams[-1]['passed'] else 'FAILED'}" if exams else ""


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _token_table(tokens: Sequence[Mapping[str, Any]]) -> Any:
    table = _table("tokens", "prompt", "encoder", "raw", "templated", "limit", "headroom", "trigger at", "pieces")
    for row in tokens[:40]:
        spans = ", ".join(f"{begin}..{end}" for begin, end in row["trigger_spans"]) or "-"
        pieces = " ".join(piece.removesuffix("</w>") for piece in row["trigger_pieces"]) or "-"
        numbers = [str(row[name]) for name in ("raw", "templated", "limit", "headroom")]
        table.add_row(row["prompt"], row["encoder"], *numbers, spans, pieces)
    if len(tokens) > 40:
        table.add_row(f"and {len(tokens) - 40} more", *[""] * 7)
    return table


def _token_line(tokens: Sequence[Mapping[str, Any]]) -> str:
    most = {row["encoder"]: 0 for row in tokens}
    for row in tokens:
        most[row["encoder"]] = max(most[row["encoder"]], row["templated"])
    limits = {row["encoder"]: row["limit"] for row in tokens}
    return ", ".join(f"{name} {count} of {limits[name]}" for name, count in most.items()) or "none"


def _phase_line(timings: Mapping[str, Mapping[str, float]]) -> str:
    slowest = sorted(timings.items(), key=lambda entry: -entry[1]["total_s"])[:5]
    return ", ".join(f"{name} {row['total_s']:.2f} s" for name, row in slowest)


def _near(path: Path) -> Path:
    """The path from here if it is below here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _plain(party: Any) -> str:
    if isinstance(party, Mapping):
        return ", ".join(f"{name} {_short(value)}" for name, value in party.items() if value is not None)
    return "none" if party is None else str(party)


def _short(value: Any) -> str:
    return value[:12] + "..." if isinstance(value, str) and len(value) == 64 else str(value)


def _table(title: str, *columns: str) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _console() -> Any:
    from rich.console import Console

    console = Console(markup=False, highlight=False)
    return console if console.is_terminal else Console(markup=False, highlight=False, width=WIDTH)
