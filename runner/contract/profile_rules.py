"""Does a critic's profile make sense by itself? Pure: a profile in, faults out.

It refuses ids that stand twice or point nowhere, numbers outside their scale, replies without a bound or longer than
their tokens, texts that cannot be filled in and an exam that nothing could pass. What it does not know: whether
anything here can run it; that is `contract.critic`.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runner.config.critic import Criterion, CriticProfile
from runner.contract import templates
from runner.errors import Fault, choose

MIN_CHARS_PER_TOKEN = 3  # of a reply: punctuation and short words; English prose has four and more


def check_profile(profile: CriticProfile) -> Iterator[Fault]:
    """Every rule that a profile has to keep whatever runs it."""
    yield from _check_ids(profile)
    yield from _check_references(profile)
    yield from _check_scale(profile)
    yield from _check_decision(profile)
    yield from _check_clip(profile)
    yield from _check_bounds(profile)
    yield from _check_exam(profile)
    for name in templates.VARIABLES:
        yield from templates.check_template(profile, name)


# ---- names


def _check_ids(profile: CriticProfile) -> Iterator[Fault]:
    """What verdicts cite is there once."""
    named = {
        "rules": [rule.id for rule in profile.rules],
        "tags": [tag.id for tag in profile.tags],
        "criteria": [criterion.id for criterion in profile.criteria],
        "decision.gates": [gate.criterion for gate in profile.decision.gates],
    }
    for place, ids in named.items():
        for twice in dict.fromkeys(name for name in ids if ids.count(name) > 1):
            yield Fault("duplicate_id", f"critic.{place} ({twice})", "stands twice", "Give each an id of its own")


def _check_references(profile: CriticProfile) -> Iterator[Fault]:
    """Every id that is named is one that there is."""
    rules = [rule.id for rule in profile.rules]
    tags = [tag.id for tag in profile.tags]
    criteria = [criterion.id for criterion in profile.criteria]
    for criterion in profile.criteria:
        for rule in criterion.rules:
            yield from _known(f"critic.criteria ({criterion.id}).rules", rule, rules)
        if criterion.clip:
            yield from _known(f"critic.criteria ({criterion.id}).clip.tag", criterion.clip.tag, tags)
    for tag in profile.tags:
        yield from _known(f"critic.tags ({tag.id}).rule", tag.rule, rules)
    for gate in profile.decision.gates:
        yield from _known("critic.decision.gates", gate.criterion, criteria)
    yield from _known("critic.exam.criterion", profile.exam.criterion, criteria)


def _known(where: str, name: str, known: Sequence[str]) -> Iterator[Fault]:
    if name not in known:
        yield Fault("unknown_key", where, f"names {name!r}, which the profile does not have", choose(name, known))


# ---- numbers


def _check_scale(profile: CriticProfile) -> Iterator[Fault]:
    scale = profile.scale
    if scale.min >= scale.max:
        what = f"runs from {scale.min:g} to {scale.max:g}"
        yield Fault("out_of_bounds", "critic.scale", what, "Set min below max")
        return  # nothing is inside of it
    if list(scale.levels) != sorted(set(scale.levels)):
        what = f"are {_listed(scale.levels)}"
        yield Fault("out_of_bounds", "critic.scale.levels", what, "Write each once, the lowest first")
    for level in scale.levels:
        yield from _inside(profile, "critic.scale.levels", level)
    for criterion in profile.criteria:
        where = f"critic.criteria ({criterion.id})"
        yield from _inside(profile, f"{where}.evidence_below", criterion.evidence_below)
        for anchor in criterion.anchors:
            yield from _inside(profile, f"{where}.anchors", anchor.score)
        yield from _check_citable(profile, criterion)
    for gate in profile.decision.gates:
        yield from _inside(profile, f"critic.decision.gates ({gate.criterion}).min", gate.min)


def _inside(profile: CriticProfile, where: str, value: float) -> Iterator[Fault]:
    low, high = profile.scale.min, profile.scale.max
    if not low <= value <= high:
        what, fix = f"has {value:g}, outside the scale", f"Choose from {low:g} to {high:g}, or widen critic.scale"
        yield Fault("out_of_bounds", where, what, fix)


def _check_citable(profile: CriticProfile, criterion: Criterion) -> Iterator[Fault]:
    """A low score that must cite a finding needs a word for that finding."""
    cited = {tag.rule for tag in profile.tags}
    if criterion.evidence_below > profile.scale.min and not cited & {*criterion.rules}:
        what = f"asks for evidence below {criterion.evidence_below:g}, and no tag is of {_listed(criterion.rules)}"
        fix = f"Add a tag of one of its rules, or set evidence_below: {profile.scale.min:g}"
        yield Fault("missing_value", f"critic.criteria ({criterion.id})", what, fix)


def _check_decision(profile: CriticProfile) -> Iterator[Fault]:
    decision, retrieval = profile.decision, profile.retrieval
    if decision.accept_at < decision.reject_below:
        what = f"is {decision.accept_at:g}, under critic.decision.reject_below {decision.reject_below:g}"
        yield Fault("out_of_bounds", "critic.decision.accept_at", what, "Raise it, or lower the other")
    if retrieval.source == "none" and retrieval.num_examples:
        what = f"{retrieval.num_examples} would be ignored: critic.retrieval.source is none"
        fix = "Set it to 0, or critic.retrieval.source=decisions"
        yield Fault("setting_ignored", "critic.retrieval.num_examples", what, fix)
    if retrieval.source != "none" and not retrieval.num_examples:
        what = f"{retrieval.source} would be ignored: critic.retrieval.num_examples is 0"
        fix = "Set it to none, or say how many examples are shown"
        yield Fault("setting_ignored", "critic.retrieval.source", what, fix)


# ---- what an embedding model is asked


def _check_clip(profile: CriticProfile) -> Iterator[Fault]:
    for criterion in profile.criteria:
        asked, where = criterion.clip, f"critic.criteria ({criterion.id}).clip"
        if asked is None:
            continue
        if asked.kind == "choice" and (not asked.labels or _fields(asked.template) != ["label"]):
            what = f"is a choice with {len(asked.labels)} labels and the template {asked.template!r}"
            yield Fault("missing_value", where, what, "List its labels, and write {label} once in its template")
        if asked.kind == "reference" and not asked.references:
            yield Fault("missing_value", where, "is a reference without pictures", "Name a folder of PNG files")


def _fields(template: str) -> list[str | None]:
    """The names in braces of a template; [None] when it is no template."""
    try:
        return [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError:
        return [None]


# ---- the length of a reply


def _check_bounds(profile: CriticProfile) -> Iterator[Fault]:
    """A reply without a bound goes on until something breaks; one that is longer than its tokens is always cut."""
    bounds: Mapping[str, int | None] = {
        "evidence.max_items": profile.evidence.max_items,
        "evidence.max_chars": profile.evidence.max_chars,
        "sampling.max_tokens": profile.sampling.max_tokens,
    }
    endless = [name for name, bound in bounds.items() if bound is None]
    for name in endless:
        what = f"is null in profile {profile.profile}: a reply could go on without end"
        yield Fault("profile_schema_unbounded", f"critic.{name}", what, "Set a number")
    if profile.sampling.max_tokens is None or endless:
        return
    longest, given = longest_reply_chars(profile), profile.sampling.max_tokens
    needed = -(-longest // MIN_CHARS_PER_TOKEN)
    if needed > given:
        what = f"is {given}; the longest reply has {longest} characters, which may take {needed} tokens"
        fix = f"Set {needed} or more, or lower critic.evidence.max_items or max_chars"
        yield Fault("out_of_bounds", "critic.sampling.max_tokens", what, fix)
    most = most_tokens(profile)
    if most >= profile.requires.min_context:
        what = f"is {profile.requires.min_context}; a reply alone may take {most} tokens after truncated ones"
        fix = "Raise it, by what prompt and images take too, or lower critic.sampling.max_tokens"
        yield Fault("out_of_bounds", "critic.requires.min_context", what, fix)


def most_tokens(profile: CriticProfile) -> int:
    """Tokens that the last attempt may take: after each truncated one there are more."""
    most = profile.sampling.max_tokens or 0
    for _ in range(1, profile.retry.max_attempts):
        most = int(most * profile.retry.more_tokens)
    return most


def longest_reply_chars(profile: CriticProfile) -> int:
    """Characters of the longest answer that the bounds of a profile allow, as JSON."""
    evidence, pairwise = profile.evidence, profile.mode == "pairwise"
    num_items = (evidence.max_items or 0) if profile.tags else 0
    name, text = f"e{num_items}", "x" * (evidence.max_chars or 0)
    finding: dict[str, Any] = {"id": name, "tag": max((tag.id for tag in profile.tags), key=len, default="")}
    finding |= {"what": text, "severity": "critical"} | ({"image": "A"} if pairwise else {})
    finding |= {} if evidence.boxes == "none" else {"box": [1000] * 4}
    judged = (
        {"winner": "tie"} if pairwise else {"score": max((*map(_whole, profile.scale.levels), None), key=_num_chars)}
    )
    one = {"evidence": [name] * num_items, "reason": text, **judged}
    answer = {"evidence": [finding] * num_items, "criteria": {criterion.id: one for criterion in profile.criteria}}
    return _num_chars({**answer, **({"winner": "tie"} if pairwise else {}), "confidence": "medium"})


def _num_chars(value: Any) -> int:
    return len(json.dumps(value))


def _whole(level: float) -> float:
    """1, not 1.0, as a reply has it."""
    return int(level) if level.is_integer() else level


# ---- the exam


def _check_exam(profile: CriticProfile) -> Iterator[Fault]:
    """An exam shows pictures that differ in what their prompts ask for; it must be able to pass and to fail."""
    exam, scale = profile.exam, profile.scale
    groups = {rule.id: rule.group for rule in profile.rules}
    asked = next((criterion for criterion in profile.criteria if criterion.id == exam.criterion), None)
    if asked and profile.mode == "pointwise" and "prompt" not in {groups.get(rule) for rule in asked.rules}:
        what = f"is {exam.criterion}, which concerns no rule of group prompt: a swapped picture would not show in it"
        fine = [c.id for c in profile.criteria if any(groups.get(rule) == "prompt" for rule in c.rules)]
        yield Fault("out_of_bounds", "critic.exam.criterion", what, choose(exam.criterion, fine))
    if not scale.min + exam.apart_at_least <= exam.good_at_least <= scale.max:
        what = f"is {exam.good_at_least:g}; from it down by apart_at_least {exam.apart_at_least:g} must be in the scale"
        fix = f"Choose both so that they fit from {scale.min:g} to {scale.max:g}"
        yield Fault("out_of_bounds", "critic.exam.good_at_least", what, fix)
    if exam.repeat_within >= exam.apart_at_least:
        what = f"is {exam.repeat_within:g}, not under apart_at_least {exam.apart_at_least:g}"
        yield Fault(
            "out_of_bounds", "critic.exam.repeat_within", what, "Lower it: chance must not look like a judgement"
        )


def _listed(values: Sequence[object]) -> str:
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
