"""What a critic said of a run's images as one set, and what changed between two sets of the same images. Pure.

Two sets may come from two profiles, two versions of one, or two critics; they are paired by the digest of the image, or
of both images where a pair was judged.
Scores are compared where both gave one: the mean difference with its interval (`runner.paired`) and the rank
correlation, which does not mind the scale. Where the scales differ, scores are shares of them. Tags and advice are
compared where both scored; what one side alone scored is counted with the reason. Verdicts of a critic that failed an
exam are in no number. It refuses sets without a common image. What it does not know: which of the two is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from runner import journal, paired
from runner.critic.worth import agreement
from runner.errors import Fault, Refused

ADVICE = ("accept", "unsure", "reject")
Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one critic said of one image, or of a pair; `unscored` is the class of failure."""

    key: str
    scores: Mapping[str, float]
    tags: frozenset[str]
    advice: str | None
    unscored: str | None


@dataclass(frozen=True, slots=True)
class ReviewSet:
    """The verdicts of one run by what was judged (`A`, or `A B` of a pair, as digests), and who gave them."""

    name: str
    critic: Mapping[str, Any]  # profile, version, digest, runtime, files
    scale: tuple[float, float]
    vocabulary: frozenset[str]
    verdicts: Mapping[str, Verdict]  # those that count
    quarantined: frozenset[str]  # images whose verdict does not
    num_repeated: int = 0  # images that the run judged more than once: the first verdict counts

    @property
    def digests(self) -> frozenset[str]:
        """Every image that was judged."""
        return self.quarantined | self.verdicts.keys()

    @property
    def criteria(self) -> list[str]:
        """The criteria that scored at least one image, in the order of the verdicts."""
        return list(dict.fromkeys(name for verdict in self.verdicts.values() for name in verdict.scores))


def review_set(run: journal.Run) -> ReviewSet:
    """The verdicts of a run folder. Raises Refused for a run that reviewed nothing."""
    critic = run.manifest["request"].get("critic") or {}
    judged = [(_judged(run, row), row) for row in run.images() if row["verdict"] and row["digest"]]
    if not judged or not critic:
        fix = "Name a run with the stage critique, or review its images: stages=[critique] critique.images_of=RUN"
        raise Refused(Fault("verdicts_missing", run.id, "has no verdicts", fix))
    verdicts: dict[str, Verdict] = {}
    for name, row in judged:
        if not row.get("quarantined"):
            verdicts.setdefault(name, _verdict(row))
    quarantined = frozenset(name for name, row in judged if row.get("quarantined")) - verdicts.keys()
    return ReviewSet(
        run.id, _who(run.manifest), _scale(critic), _vocabulary(critic), verdicts, quarantined,
        len(judged) - len(verdicts) - len(quarantined),
    )  # fmt: skip


def _judged(run: journal.Run, row: Mapping[str, Any]) -> str:
    return " ".join(run.manifest.get("given", {}).get(row["key"], [row["digest"]]))


def _who(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The critic as a person tells it from another: profile, runtime, and the digests that decide what it says."""
    request, pins = manifest["request"], manifest["pins"]
    critic, runtime = request["critic"], request.get("critic_runtime") or {}
    told = {"profile": critic.get("profile"), "version": critic.get("version"), "digest": pins.get("profile")}
    return {**told, "runtime": runtime.get("id"), "files": pins.get("critic_files")}


def _scale(critic: Mapping[str, Any]) -> tuple[float, float]:
    """Of a pair the score is who won: 1, 0, or 0.5 for a tie."""
    return (0.0, 1.0) if critic.get("mode") == "pairwise" else (critic["scale"]["min"], critic["scale"]["max"])


def _vocabulary(critic: Mapping[str, Any]) -> frozenset[str]:
    """The tags there are; profiles of before had them in their criteria."""
    tags = [tag["id"] for tag in critic["tags"]] if "tags" in critic else [c["tag"] for c in critic["criteria"]]
    return frozenset(tags)


def _verdict(row: Mapping[str, Any]) -> Verdict:
    scores = {name: score for name, score in row["scores"].items() if score is not None}
    unscored = str(row["unscored"]).partition(":")[0] if row["unscored"] else None
    return Verdict(row["key"], scores, frozenset(row["tags"]), row.get("advice"), unscored)


def difference(one: ReviewSet, other: ReviewSet) -> dict[str, Any]:
    """What the other set says otherwise. Raises Refused when no image is in both."""
    common = [digest for digest in one.verdicts if digest in other.verdicts]
    if not common:
        raise Refused(_apart(one, other))
    both = [d for d in common if one.verdicts[d].unscored is None and other.verdicts[d].unscored is None]
    pairs = {digest: (one.verdicts[digest], other.verdicts[digest]) for digest in common}
    scored = [pairs[digest] for digest in both]
    return {
        "a": one.name,
        "b": other.name,
        "critics": {"a": dict(one.critic), "b": dict(other.critic)},
        "n": len(common),
        "alone": {"a": sorted(one.digests - other.digests), "b": sorted(other.digests - one.digests)},
        "quarantined": {"a": len(one.quarantined), "b": len(other.quarantined)},
        "repeated": {"a": one.num_repeated, "b": other.num_repeated},
        "scored": _scored(pairs.values()),
        "criteria": _criteria(one, other, scored),
        "criteria_alone": {"a": _without(one.criteria, other.criteria), "b": _without(other.criteria, one.criteria)},
        "advice": _advice(scored),
        "tags": _tags(one, other, scored),
        "changed": [row for digest, pair in pairs.items() if (row := _changed(digest, *pair))],
    }


def _apart(one: ReviewSet, other: ReviewSet) -> Fault:
    told = [f"{side.name} judged {len(side.digests)} images" for side in (one, other)]
    lost = len(one.digests & other.digests)
    more = f", and the {lost} that both judged are quarantined in one of them" if lost else ""
    fix = f"Review the same images: stages=[critique] critique.images_of={one.name}"
    return Fault("no_common_image", other.name, f"shares no image with {one.name}: {' and '.join(told)}{more}", fix)


def _scored(pairs: Iterable[tuple[Verdict, Verdict]]) -> dict[str, Any]:
    """How many have scores on both sides or on none; on one side alone by the class of the other's failure."""
    counts: Counter[str] = Counter()
    alone: dict[str, Counter[str]] = {"a": Counter(), "b": Counter()}
    for a, b in pairs:
        if a.unscored is None and b.unscored is not None:
            alone["a"][b.unscored] += 1
        elif a.unscored is not None and b.unscored is None:
            alone["b"][a.unscored] += 1
        else:
            counts["both" if a.unscored is None else "neither"] += 1
    return {
        "both": counts["both"],
        "neither": counts["neither"],
        "alone": {side: dict(by) for side, by in alone.items()},
    }


# ---- scores


def _criteria(one: ReviewSet, other: ReviewSet, scored: Sequence[tuple[Verdict, Verdict]]) -> Rows:
    same_scale = one.scale == other.scale
    names = [name for name in one.criteria if name in other.criteria]
    return [_criterion(name, scored, *((None, None) if same_scale else (one.scale, other.scale))) for name in names]


def _criterion(
    name: str,
    scored: Sequence[tuple[Verdict, Verdict]],
    scale_a: tuple[float, float] | None,
    scale_b: tuple[float, float] | None,
) -> dict[str, Any]:
    rated = [(a.scores[name], b.scores[name]) for a, b in scored if name in a.scores and name in b.scores]
    left_out = sum((name in a.scores) != (name in b.scores) for a, b in scored)
    columns = [_on(scale_a, a) for a, _ in rated], [_on(scale_b, b) for _, b in rated]
    unit = "score" if scale_a is None else "share of the scale"
    return {
        "criterion": name, "unit": unit, **asdict(paired.difference(*columns)),
        "correlation": agreement.spearman(*columns), "left_out": left_out,
    }  # fmt: skip


def _on(scale: tuple[float, float] | None, score: float) -> float:
    return score if scale is None else (score - scale[0]) / (scale[1] - scale[0])


def _without(names: Iterable[str], others: Sequence[str]) -> list[str]:
    return [name for name in names if name not in others]


# ---- advice and tags


def _advice(scored: Sequence[tuple[Verdict, Verdict]]) -> dict[str, Any]:
    """How often each advice of A became each advice of B; older verdicts have none."""
    counts = Counter((a.advice, b.advice) for a, b in scored)
    table = {a: {b: counts[a, b] for b in ADVICE} for a in ADVICE}
    same = sum(table[word][word] for word in ADVICE)
    num_advised = sum(sum(row.values()) for row in table.values())
    return {"same": same, "changed": num_advised - same, "without": len(scored) - num_advised, "table": table}


def _tags(one: ReviewSet, other: ReviewSet, scored: Sequence[tuple[Verdict, Verdict]]) -> Rows:
    """Every tag that either side cites: on how many images, and where B differs from A."""
    names = sorted({tag for pair in scored for verdict in pair for tag in verdict.tags})
    return [
        {
            "tag": tag,
            "a": sum(tag in a.tags for a, _ in scored),
            "b": sum(tag in b.tags for _, b in scored),
            "added": sum(tag in b.tags and tag not in a.tags for a, b in scored),
            "removed": sum(tag in a.tags and tag not in b.tags for a, b in scored),
            "unknown_to": [side for side, of in (("a", one), ("b", other)) if tag not in of.vocabulary],
        }
        for tag in names
    ]


def _changed(name: str, a: Verdict, b: Verdict) -> dict[str, Any] | None:
    """What is otherwise but for a score: advice, tags, or whether there are scores. An unscored image has no tags."""
    both = a.unscored is None and b.unscored is None
    added, removed = (sorted(b.tags - a.tags), sorted(a.tags - b.tags)) if both else ([], [])
    if (a.unscored, a.advice) == (b.unscored, b.advice) and not added and not removed:
        return None
    advice, unscored = [a.advice, b.advice], [a.unscored, b.unscored]
    return {"image": name, "key": a.key, "advice": advice, "unscored": unscored, "added": added, "removed": removed}
