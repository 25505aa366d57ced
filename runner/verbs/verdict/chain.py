"""The links of a verdict, each asked and answered: yes, no, or UNKNOWN, with what was found."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runner import ledger, store
from runner.contract import profile as profiles
from runner.critic import verdict
from runner.errors import Corrupt, Failed, Refused
from runner.store import Objects
from runner.verbs.verdict import again
from runner.verbs.verdict.again import Remade
from runner.verbs.verdict.lines import Line, lines_of

YES, NO, UNKNOWN = "yes", "no", "UNKNOWN"
FORMATS = "runner-verdict/"
OLDER = "its profile or its record is of an older form"
NOTHING = "there is no record to compare with"
OF_THE_ANSWER = ("status", "reason", "criteria", "findings", "tags", "rules", "winner", "confidence", "notes")
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Link:
    """One question about a verdict."""

    step: str
    answer: str  # YES | NO | UNKNOWN
    what: str


def inspect(outputs: Path, digest: str, places: Sequence[tuple[str, str]]) -> dict[str, Any] | None:
    """All that is known of a verdict; None when nobody holds it and no verdict of that name is stored.

    `places` are the runs that hold it, with the key in each. `unknown` and `altered` say what its links came to.
    """
    objects, lines = store.open_store(outputs, None), lines_of(outputs, digest, places)
    said, first = _read(digest, objects)
    if not lines and not str(said.get("format", "")).startswith(FORMATS):
        return None
    made = again.remade(lines[0].run, lines[0].key, said, objects) if lines else None
    links = [first, *_links(outputs, said, lines, objects, made)]
    return {
        "kind": "verdict",
        "digest": digest,
        "stored": first.answer == YES,
        **{name: said.get(name) for name in ("image", "against", "prompt", "profile", "model", "status", "reason")},
        "advice": said.get("advice"),
        "scores": _scores(said, lines),
        "runs": [line.as_dict(lines) for line in lines],
        "request": _request(said, made),
        "chain": [asdict(link) for link in links],
        "record": dict(said),
        "unknown": any(link.answer == UNKNOWN for link in links),
        "altered": any(link.answer == NO for link in links),
    }


def _read(digest: str, objects: Objects) -> tuple[Record, Link]:
    """The record of a verdict, empty when its bytes are not there or are others."""
    if not objects.there():
        return {}, Link("verdict", UNKNOWN, "the store is not here")
    try:
        value = json.loads(objects.get(digest))
    except Corrupt as error:
        return {}, Link("verdict", NO, error.faults[0].what)
    except (Failed, ValueError, RecursionError) as error:
        return {}, Link("verdict", NO, f"cannot be read ({error})")
    if not isinstance(value, dict):
        return {}, Link("verdict", NO, "is no record")
    return value, Link("verdict", YES, f"there and itself{', of an older form' * ('format' not in value)}")


def _scores(said: Record, lines: Sequence[Line]) -> dict[str, float]:
    """Of the record; where it is gone or of an older form, of the line that holds it."""
    if said.get("format") == verdict.FORMAT:
        return verdict.scores_of(dict(said))
    return dict(lines[0].facts.get("scores", {})) if lines else {}


def _request(said: Record, made: Remade | None) -> dict[str, Any]:
    """What the critic was asked, in words where it could be rendered again."""
    asked = said.get("request") or {}
    texts = {"system": made.system, "user": made.record["request"]["text"]} if made else {}
    return {**asked, **texts, "rendered": made.record["request"]["digest"] if made else None}


# ---- the links


def _links(outputs: Path, said: Record, lines: Sequence[Line], objects: Objects, made: Remade | None) -> Iterator[Link]:
    if said:
        yield from _images(outputs, said, objects)
    if not lines:
        yield Link("run", UNKNOWN, "no run holds it, or holds it any more")
        return
    for line in lines:
        yield _line(line, said)
    yield _profile(said, lines[0].run.manifest)
    yield from _made_again(said, made, lines[0].run.manifest, objects)
    yield from (_exam(line, said) for line in lines)
    yield from (_cached(line, lines) for line in lines if line.cached)


def _images(outputs: Path, said: Record, objects: Objects) -> Iterator[Link]:
    deleted = ledger.read(outputs).tombstones
    for name in ("image", "against"):
        if digest := said.get(name):
            yield _bytes(name, str(digest), objects, deleted)


def _bytes(step: str, digest: str, objects: Objects, deleted: Mapping[str, Any]) -> Link:
    if not objects.there():
        return Link(step, UNKNOWN, f"{digest[:16]}: the store is not here")
    try:
        size = len(objects.get(digest))
    except Corrupt as error:
        if digest in deleted:
            return Link(step, UNKNOWN, f"{digest[:16]} was deleted: {deleted[digest].get('reason')}")
        return Link(step, NO, f"{digest[:16]} {error.faults[0].what}")
    except Failed as error:
        return Link(step, UNKNOWN, f"{digest[:16]} {error.faults[0].what}")
    return Link(step, YES, f"{digest[:16]} is there and itself, {size} bytes")


def _line(line: Line, said: Record) -> Link:
    """Whether the run's journal is whole, and says what the verdict says of the image that the run has."""
    where = f"{line.run.id}, {line.key}, line {line.event['n'] + 1}"
    if line.run.problem:
        return Link("run", NO, f"{where}: its journal is broken: {line.run.problem}")
    if not said:
        return Link("run", UNKNOWN, f"{where}: {NOTHING}")
    if line.judged != again.judged_of(said):
        return Link("run", NO, f"{where}: the run's image is another now")
    told = verdict.told(dict(said)) if said.get("format") == verdict.FORMAT else {}
    other = [name for name, value in told.items() if line.facts.get(name) != value]
    if other:
        return Link("run", NO, f"{where}: says otherwise: {', '.join(other)}")
    return Link("run", YES if told else UNKNOWN, f"{where}: {'says the same' if told else OLDER}")


def _profile(said: Record, manifest: Record) -> Link:
    """Whether the profile it cites is the manifest's, byte for byte, and what the lock has under its version."""
    cited, profile = said.get("profile") or {}, again.profile_of(manifest)
    name, pinned = f"{cited.get('id')} version {cited.get('version')}", manifest["pins"].get("profile")
    if not cited:
        return Link("profile", UNKNOWN, NOTHING)
    digest = profiles.profile_digest(profile) if profile else pinned
    if len({cited.get("digest"), digest, pinned}) > 1:
        what = f"{name} is cited as {_short(cited.get('digest'))}, the manifest has {_short(digest)}, pinned is "
        return Link("profile", NO, what + _short(pinned))
    if profile is None:
        return Link(
            "profile", UNKNOWN, f"{name} ({_short(pinned)}) is the one that the manifest pins, of an older form"
        )
    locked = _lock_state(profile)
    if locked == "changed":
        return Link("profile", NO, f"{name} ({digest[:12]}) is not what the lock has under that version")
    more = {"locked": "as locked", "new": "in no lock yet"}.get(locked, locked)
    return Link("profile", YES, f"{name} ({digest[:12]}) is the manifest's, {more}")


def _lock_state(profile: Any) -> str:
    try:
        return profiles.read_lock().state(profile)
    except Refused:
        return "and there is no lock to look at"


def _exam(line: Line, said: Record) -> Link:
    """What answered had passed its exam before, and was the one that is named."""
    if line.exam is None:
        return Link("exam", UNKNOWN, f"{line.run.id} notes no exam before it")
    exam = f"{line.run.id}, {line.exam['at'][:19]}, {_short(line.exam.get('digest'))}"
    if not line.exam.get("passed"):
        return Link("exam", NO, f"{exam}: failed")
    if said and line.exam.get("identity") != said.get("model"):
        return Link("exam", NO, f"{exam}: passed by another model than the verdict names")
    return Link("exam", YES, f"{exam}: passed by the model that the verdict names")


def _cached(line: Line, lines: Sequence[Line]) -> Link:
    asked = next((other.run.id for other in lines if not other.cached), None)
    if asked is None:
        return Link("asked", UNKNOWN, f"{line.run.id} took it from a run that is not here")
    return Link("asked", YES, f"{line.run.id} took it from {asked}")


# ---- what follows from something else


def _made_again(said: Record, made: Remade | None, manifest: Record, objects: Objects) -> Iterator[Link]:
    if made is None:
        for step in ("schema", "request", "examples", "sampling", "attempts", "answer", "advice"):
            yield Link(step, UNKNOWN, OLDER if said else NOTHING)
        return
    strangers = again.strangers(manifest)
    asked, now = said["request"], made.record["request"]
    yield _same("schema", asked["schema"], now["schema"], _short(asked["schema"]), strangers)
    yield _rendered(said, made, strangers)
    yield _examples(asked["examples"], now["examples"], objects)
    sampling = ", ".join(f"{name} {value}" for name, value in said["sampling"].items())
    yield _same("sampling", said["sampling"], made.record["sampling"], sampling, strangers)
    yield _attempts(said, made, strangers)
    told = [{name: record.get(name) for name in OF_THE_ANSWER} for record in (said, made.record)]
    yield _same("answer", told[0], told[1], f"{said['status']}, findings: {len(said['findings'])}", strangers)
    advice = said["advice"] or {"recommend": "none", "because": "nothing to advise on"}
    words = f"{advice['recommend']} ({advice['because']})"
    yield _same("advice", said["advice"], made.record["advice"], words, strangers)


def _same(step: str, before: Any, now: Any, words: str, strangers: Sequence[str]) -> Link:
    """Made again it is the same; where the code or its libraries changed since, a difference proves nothing."""
    if before == now:
        return Link(step, YES, f"{words}: the same again")
    if strangers:
        return Link(step, UNKNOWN, f"{words}: otherwise today, and {'; '.join(strangers)}")
    return Link(step, NO, f"{words}: made again it is another{_where(before, now)}")


def _where(before: Any, now: Any) -> str:
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return ""
    return f" ({', '.join(name for name in before if before[name] != now.get(name))})"


def _rendered(said: Record, made: Remade, strangers: Sequence[str]) -> Link:
    asked, now = said["request"], made.record["request"]
    if any(not picture.data for picture in made.question.images):
        return Link("request", UNKNOWN, f"{_short(asked['digest'])}: a picture of it is not there")
    if asked["digest"] is None and now["digest"] is None:
        return Link("request", YES, "none could be made: a picture does not decode")
    before, today = ({name: each[name] for name in ("digest", "text")} for each in (asked, now))
    return _same("request", before, today, _short(asked["digest"]), strangers)


def _examples(cited: Sequence[str], now: Sequence[str], objects: Objects) -> Link:
    if list(cited) != list(now):
        return Link("examples", NO, f"{len(cited)} were shown, the manifest pins {len(now)} of them")
    gone = [digest[:16] for digest in cited if not objects.holds(digest)]
    if gone:
        return Link("examples", UNKNOWN, f"{len(gone)} of {len(cited)} are not there (first {gone[0]})")
    return Link("examples", YES, f"{len(cited)}, as pinned, there and themselves" if cited else "none were shown")


def _attempts(said: Record, made: Remade, strangers: Sequence[str]) -> Link:
    ends = ", ".join(attempt["failure"] or "an answer" for attempt in said["attempts"])
    words = f"{len(said['attempts'])} ({ends})"
    if not made.other_replies:
        return Link("attempts", YES, f"{words}: the raw replies read the same again")
    return _same("attempts", [], made.other_replies, f"{words}; {'; '.join(made.other_replies)}", strangers)


def _short(digest: object) -> str:
    return str(digest)[:16] if digest else "none"
