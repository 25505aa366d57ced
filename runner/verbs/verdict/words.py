"""A verdict as text for a person: what was judged and advised, every link, then findings, scores and raw replies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runner.report.verdicts import findings_of
from runner.verbs.show import table

MAX_REPLY_CHARS = 1_500
Row = list[str]
Facts = Mapping[str, Any]


def text(facts: Facts) -> str:
    """Everything but the system text, which --json has."""
    record = facts["record"]
    parts = [
        table(["verdict", facts["digest"]], list(_overview(facts))),
        table(
            ["link", "", "what was found"], [[link["step"], link["answer"], link["what"]] for link in facts["chain"]]
        ),
        table(["run", "image", "asked", "took", "attempts", "tokens", "stands"], [_run(row) for row in facts["runs"]]),
    ]
    if found := [_finding(each) for each in findings_of(record)]:
        parts.append(table(["finding", "tag", "severity", "what", "box"], found))
    if scores := list(_scores(record.get("criteria") or {})):
        parts.append(table(["criterion", "score", "reason", "findings"], scores))
    if asked := facts["request"].get("user") or facts["request"].get("text"):
        parts.append(table(["asked, after the system text that --json shows"], [[line] for line in asked.splitlines()]))
    if replies := list(_replies(record.get("attempts") or ())):
        parts.append(table(["attempt", "ended", "raw reply"], replies))
    return "\n".join(parts)


def _overview(facts: Facts) -> Iterator[Row]:
    yield ["image", str(facts["image"] or "UNKNOWN")]
    if facts["against"]:
        yield ["against", str(facts["against"])]
    yield ["prompt", str(facts["prompt"] or "UNKNOWN")]
    yield ["critic", _critic(facts)]
    yield ["model", _pairs(facts["model"])]
    advice, winner = facts["advice"] or {}, facts["record"].get("winner")
    yield ["said", f"unscored: {facts['reason']}" if facts["reason"] else _pairs(facts["scores"])]
    if winner:
        yield ["winner", str(winner)]
    elif not facts["reason"]:
        yield ["advice", f"{advice['recommend']} ({advice['because']})" if advice else "none"]
    if any(row["quarantined"] for row in facts["runs"]):
        yield ["quarantined", "its critic failed an exam since: it counts in no figure"]


def _critic(facts: Facts) -> str:
    cited = facts["profile"] or {}
    return f"{cited['id']} version {cited['version']} ({cited['digest'][:16]})" if cited else "UNKNOWN"


def _pairs(values: Facts | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in (values or {}).items()) or "UNKNOWN"


def _run(row: Facts) -> Row:
    tokens = ", ".join(f"{count} {name.removesuffix('_tokens')}" for name, count in row.get("tokens", {}).items())
    asked = f"no, taken from {row['cached_from'] or 'UNKNOWN'}" if row["cached"] else row["at"][:19]
    took = f"{row['latency_s']:.3f} s" if "latency_s" in row and not row["cached"] else ""
    stands = "quarantined" if row["quarantined"] else "yes"
    return [row["run_id"], row["key"], asked, took, str(row.get("num_attempts", "")), tokens, stands]


def _finding(found: Facts) -> Row:
    box = ", ".join(map(str, found.get("box") or ())) or "none"
    side = f"{found['image']}: " if found.get("image") else ""
    return [str(found.get("id")), str(found.get("tag")), str(found.get("severity")), f"{side}{found.get('what')}", box]


def _scores(criteria: Facts) -> Iterator[Row]:
    for name, said in criteria.items():
        score = said.get("winner") or ("null" if said.get("score") is None else f"{said['score']:g}")
        yield [name, str(score), str(said.get("reason") or ""), ", ".join(said.get("evidence") or ())]


def _replies(attempts: Sequence[Facts]) -> Iterator[Row]:
    for number, attempt in enumerate(attempts, 1):
        ended = f"{attempt['failure']}: {attempt['detail']}" if attempt["failure"] else "an answer"
        reply = attempt["reply"] or ""
        more = f" ... and {len(reply) - MAX_REPLY_CHARS} more characters" if len(reply) > MAX_REPLY_CHARS else ""
        yield [str(number), ended, reply[:MAX_REPLY_CHARS] + more or "none"]
