"""What the verdicts of runs say, as text for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runner.contract.shown import shown
from runner.verbs.show import table

MAX_CHANGED = 20
NOTHING = "-"
NOBODY = "(no name)"
Row = list[str]
FIGURES = {
    "agreement": "agreement, where both chose",
    "kappa": "Cohen's kappa, where both chose",
    "kappa_3_steps": "kappa of three steps, with unsure and maybe",
    "precision": "of those it accepts, approved",
    "recall": "of those approved, it accepts",
}


# ---- diff


def diff_text(value: Mapping[str, Any]) -> str:
    parts = [table(["what", "A", "B"], list(_sides(value)))]
    if rows := [_criterion(row) for row in value["criteria"]]:
        columns = ["criterion", "n", "A", "B", "B - A", "95 % interval", "verdict", "rank correlation"]
        parts.append(table(columns, rows))
    parts.append(_advice(value["advice"]))
    if rows := [_tag(row) for row in value["tags"]]:
        parts.append(table(["tag", "A", "B", "added", "removed", ""], rows))
    parts.append(_changed(value["changed"]))
    return "\n".join(part for part in [*parts, *(f"- {shown(note)}" for note in value["notes"])] if part)


def _sides(value: Mapping[str, Any]) -> Iterator[Row]:
    a, b = value["critics"]["a"], value["critics"]["b"]
    yield ["run", value["a"], value["b"]]
    yield ["profile", _profile(a), _profile(b)]
    yield ["runtime", str(a["runtime"] or "unknown"), str(b["runtime"] or "unknown")]
    yield ["judged by both", str(value["n"]), str(value["n"])]
    yield ["judged alone", *(str(len(value["alone"][side]) or "none") for side in "ab")]
    yield ["scored alone; why the other is not", *(_classes(value["scored"]["alone"][side]) for side in "ab")]
    for name, words in (("quarantined", "quarantined, not counted"), ("repeated", "judged again, not counted")):
        if any(value[name].values()):
            yield [words, str(value[name]["a"]), str(value[name]["b"])]
    if any(value["criteria_alone"].values()):
        yield ["criteria of one alone", *(", ".join(value["criteria_alone"][side]) or "none" for side in "ab")]


def _profile(critic: Mapping[str, Any]) -> str:
    return f"{critic['profile']} version {critic['version']} ({str(critic['digest'])[:12]})"


def _classes(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"


def _criterion(row: Mapping[str, Any]) -> Row:
    unit = "" if row["unit"] == "score" else f" ({row['unit']})"
    left_out = f"; {row['left_out']} left out" if row["left_out"] else ""
    interval = NOTHING if row["low"] is None else f"{row['low']:+.4g} to {row['high']:+.4g}"
    means = [_number(row["mean_a"]), _number(row["mean_b"]), _number(row["difference"], "+.4g")]
    correlation = NOTHING if row["correlation"] is None else f"{row['correlation']:.3f}"
    return [row["criterion"] + unit, f"{row['n']}{left_out}", *means, interval, row["verdict"], correlation]


def _number(value: float | None, form: str = ".4g") -> str:
    return NOTHING if value is None else format(value, form)


def _advice(advice: Mapping[str, Any]) -> str:
    """How often each advice of A became each of B; nothing to show where no verdict has any."""
    num_advised = advice["same"] + advice["changed"]
    if not num_advised:
        return ""
    words = list(advice["table"])
    rows = [[f"A: {a}", *(str(advice["table"][a][b] or "") for b in words)] for a in words]
    without = f", {advice['without']} without advice" if advice["without"] else ""
    told = f"Advice changed for {advice['changed'] or 'none'} of {num_advised} images{without}."
    return table([told, *(f"B: {word}" for word in words)], rows)


def _tag(row: Mapping[str, Any]) -> Row:
    unknown = ", ".join(f"no tag of {side.upper()}" for side in row["unknown_to"])
    counts = [str(row[name] or "") for name in ("a", "b", "added", "removed")]
    return [row["tag"], *counts, unknown]


def _changed(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "No image has another advice or other tags."
    columns = ["image", "key", "advice", "tags"]
    text = table(columns, [_changed_row(row) for row in rows[:MAX_CHANGED]])
    return text + (f"\nand {len(rows) - MAX_CHANGED} more; --json has them all" if len(rows) > MAX_CHANGED else "")


def _changed_row(row: Mapping[str, Any]) -> Row:
    before, after = (
        f"unscored: {why}" if why else str(word) for word, why in zip(row["advice"], row["unscored"], strict=True)
    )
    tags = [*(f"+{tag}" for tag in row["added"]), *(f"-{tag}" for tag in row["removed"])]
    name = " ".join(digest[:16] for digest in row["image"].split())
    return [name, row["key"], before if before == after else f"{before} -> {after}", ", ".join(tags)]


# ---- calibrate


def calibration_text(value: Mapping[str, Any]) -> str:
    parts = [table(["what", "is"], list(_about(value)))]
    words = list(next(iter(value["table"].values())))
    rows = [[advice, *(str(row[word] or "") for word in words)] for advice, row in value["table"].items()]
    parts.append(table(["the critic says", *(f"people: {word}" for word in words)], rows))
    parts.append(
        table(["figure", "is", "95 % interval", "n"], [_figure(words, value[n]) for n, words in FIGURES.items()])
    )
    if value["criteria"]:
        columns = ["criterion", "rank correlation with approval", "n"]
        parts.append(table(columns, [_correlation(row) for row in value["criteria"]]))
    if value["reviewers"]:
        rows = [_figure(f"{words}: {_two(row)}", row[n]) for row in value["reviewers"] for n, words in BETWEEN.items()]
        parts.append(table(["two people", "is", "95 % interval", "n"], rows))
    return "\n".join([*parts, *(f"- {shown(note)}" for note in value["notes"])])


BETWEEN = {"agreement": "agreement", "kappa": "Cohen's kappa"}


def _about(value: Mapping[str, Any]) -> Iterator[Row]:
    left_out = value["left_out"]
    yield ["run", value["run"]]
    yield ["profile", _profile(value["critic"])]
    yield ["compared", f"{value['n'] or 'no'} decisions on {value['images'] or 'no'} images"]
    if left_out["split"]:
        yield ["left out", f"{left_out['split']} of split {value['shown_split']}, which the critic may be shown"]
    if left_out["unscored"]:
        yield ["left out", f"unscored: {_classes(left_out['unscored'])}"]
    for name, words in (
        ("quarantined", "its critic failed an exam"),
        ("without_advice", "verdicts without advice"),
        ("other_words", "decisions in a word that is not known here"),
    ):
        if left_out[name]:
            yield ["left out", f"{left_out[name]}: {words}"]


def _figure(words: str, figure: Mapping[str, Any]) -> Row:
    if figure["value"] is None:
        return [words, figure["because"], NOTHING, str(figure["n"])]
    interval = (
        "none: every image says the same" if figure["low"] is None else f"{figure['low']:.3f} to {figure['high']:.3f}"
    )
    return [words, f"{figure['value']:.3f}", interval, str(figure["n"])]


def _correlation(row: Mapping[str, Any]) -> Row:
    return [row["criterion"], row["because"] or f"{row['correlation']:.3f}", str(row["n"])]


def _two(row: Mapping[str, Any]) -> str:
    return f"{row['a'] or NOBODY} and {row['b'] or NOBODY}"
