"""What names a critic's profile: the digest of all that decides a score, and the lock that holds it to its version.

`conf/critic.lock.json` keeps every version of every profile as it was. It refuses a profile that changed under the same
version, and a lock that cannot be read. What it does not know: whether a profile makes sense; that is `profile_rules`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from runner import config, store
from runner.config.changes import changed_fields
from runner.config.critic import CriticProfile
from runner.contract.profile_rules import check_profile
from runner.contract.shown import shown
from runner.errors import Fault, Refused, Unavailable

FORMAT = "runner-critic-lock/1"
LOCK_NAME = "critic.lock.json"
VERSION = re.compile(r"[1-9][0-9]{0,17}")
COMMAND = "python -m runner critic lock"
COMPOSED_WITH = "demo"  # any shipped experiment: only its critic is looked at
MAX_CHANGES = 6  # shown of a profile that changed
MAX_CHARS = 200  # shown of one text that changed
CONTEXT_CHARS = 24  # shown before and after what changed in a text
NAMED_BY = ("id", "criterion", "score")  # what tells the entries of a list apart


def canonical(profile: CriticProfile) -> dict[str, Any]:
    """All of a profile that decides a score, as plain values: the whole of it but the budget."""
    return profile.model_dump(mode="json", exclude={"budget"})


def profile_digest(profile: CriticProfile) -> str:
    """What a verdict cites."""
    return store.digest_of(canonical(profile))


# ---- the lock


class Locked(NamedTuple):
    """One version of a profile as it was locked."""

    digest: str
    profile: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Lock:
    """Every locked version of every profile, by id and version."""

    profiles: Mapping[tuple[str, int], Locked]

    def state(self, profile: CriticProfile) -> str:
        """locked: as it was. new: not there yet. changed: there with another digest."""
        known = self.profiles.get((profile.profile, profile.version))
        return "new" if known is None else "locked" if known.digest == profile_digest(profile) else "changed"


class LockRow(NamedTuple):
    """One version of a profile for a person to look at."""

    id: str
    version: int
    digest: str
    state: str  # locked | new | changed


def read_lock(folder: Path | None = None) -> Lock:
    """The lock of a folder of config groups. Raises Refused when it is not there or is not as it was written."""
    path = (folder or config.conf_dir()) / LOCK_NAME
    back = f"Get it back (git checkout conf/{LOCK_NAME})"
    try:
        return Lock(_entries(json.loads(path.read_bytes())))
    except FileNotFoundError as error:
        raise Refused(_unreadable(path, "is not there", f"{back}, or make a new one with `{COMMAND}`")) from error
    except OSError as error:
        raise Refused(_unreadable(path, f"cannot be read: {error.strerror or error}", "Mend its rights")) from error
    except (ValueError, RecursionError) as error:
        raise Refused(_unreadable(path, f"is no lock of format {FORMAT}: {shown(str(error))}", back)) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise Refused(_unreadable(path, f"is no lock of format {FORMAT}: a part of it is missing", back)) from error


def _unreadable(path: Path, what: str, fix: str) -> Fault:
    return Fault("lock_unreadable", f"{path.parent.name}/{path.name}", what, fix)


def _entries(values: Any) -> dict[tuple[str, int], Locked]:
    if values["format"] != FORMAT:
        raise ValueError(f"it says {values['format']!r}")
    found = {
        (str(name), _version(name, version)): Locked(entry["digest"], entry["profile"])
        for name, versions in values["profiles"].items()
        for version, entry in versions.items()
    }
    for (name, version), entry in found.items():
        if store.digest_of(entry.profile) != entry.digest:
            raise ValueError(f"{name} version {version} was altered by hand")
    return found


def _version(name: str, text: str) -> int:
    if not VERSION.fullmatch(text):
        raise ValueError(f"{name} has a version {text[:40]!r}")
    return int(text)


def check_lock(profile: CriticProfile, lock: Lock) -> Iterator[Fault]:
    """A published version stays what it was; a new id or version is nobody's concern yet."""
    if lock.state(profile) == "changed":
        was = lock.profiles[profile.profile, profile.version]
        changes = _changes(was.profile, canonical(profile))
        more = f"; and {len(changes) - MAX_CHANGES} more" if len(changes) > MAX_CHANGES else ""
        what = f"{profile.profile} is not what it was locked as: {'; '.join(changes[:MAX_CHANGES])}{more}"
        fix = (
            f"Put it back (on the command line: leave it out), raise critic.version and run `{COMMAND}`, "
            "or give a copy a name of its own: profile: NAME, version: 1"
        )
        evidence = {"locked": was.digest, "found": profile_digest(profile)}
        where = f"critic.version ({profile.version})"
        yield Fault("profile_changed_without_version", where, what, fix, evidence)


def lock_profiles(folder: Path | None = None) -> list[LockRow]:
    """Put every profile of a folder of config groups into its lock. Raises Refused, and then nothing was written."""
    place = folder or config.conf_dir()
    lock = read_lock(place) if (place / LOCK_NAME).exists() else Lock({})
    entries, faults = dict(lock.profiles), list[Fault]()
    for profile in _profiles(place):
        faults += [*check_profile(profile), *check_lock(profile, Lock(entries))]
        entries.setdefault((profile.profile, profile.version), Locked(profile_digest(profile), canonical(profile)))
    if faults:
        raise Refused(faults)
    try:
        store.write_durably(place / LOCK_NAME, _written(entries))
    except OSError as error:
        what, fix = f"cannot be written: {error.strerror or error}", "Lock profiles in a checkout of your own"
        raise Unavailable(Fault("lock_unwritable", str(place / LOCK_NAME), what, fix)) from error
    return [LockRow(name, version, entry.digest, "locked") for (name, version), entry in sorted(entries.items())]


def lock_state(folder: Path | None = None) -> list[LockRow]:
    """Every version that is locked or in use, and whether the two agree; writes nothing."""
    place = folder or config.conf_dir()
    lock = read_lock(place) if (place / LOCK_NAME).exists() else Lock({})
    rows = {key: LockRow(*key, entry.digest, "locked") for key, entry in lock.profiles.items()}
    for profile in _profiles(place):
        key = (profile.profile, profile.version)
        rows[key] = LockRow(*key, profile_digest(profile), lock.state(profile))
    return [rows[key] for key in sorted(rows)]


def _profiles(folder: Path) -> Iterator[CriticProfile]:
    """The profiles of a folder as a request gets them, each composed by Hydra."""
    own = folder.resolve() == config.conf_dir().resolve()
    more = () if own else (f"hydra.searchpath=[file://{folder.resolve()}]",)
    for name in sorted(path.stem for path in (folder / "critic").glob("*.yaml")):
        values = config.compose((f"+experiment={COMPOSED_WITH}", f"critic={name}", *more))
        profile = config.parse_request(values).critic
        if profile is not None:
            yield profile


def _written(entries: Mapping[tuple[str, int], Locked]) -> bytes:
    """One line a value and everything sorted, so that a change reads well in a diff."""
    profiles: dict[str, dict[str, Any]] = {}
    for (name, version), entry in sorted(entries.items()):
        profiles.setdefault(name, {})[str(version)] = {"digest": entry.digest, "profile": entry.profile}
    values = {"format": FORMAT, "profiles": profiles}
    return (json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


# ---- what changed


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The fields in which two canonical profiles differ: entries of lists by their ids, texts by what changed."""
    return changed_fields(*_beside(before, now)) or ["the same entries in another order"]


def _beside(before: Any, now: Any) -> tuple[Any, Any]:
    """Both values with lists as tables by id, and of two texts the part that differs."""
    before, now = _by_id(before), _by_id(now)
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        both = {key: _beside(before[key], now[key]) for key in before.keys() & now.keys()}
        firsts, seconds = ({key: pair[side] for key, pair in both.items()} for side in (0, 1))
        return {**before, **firsts}, {**now, **seconds}
    if isinstance(before, str) and isinstance(now, str):
        return _part(before, now), _part(now, before)
    return before, now


def _by_id(value: Any) -> Any:
    """A list of tables as a table by what they are called; anything else as it is."""
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        return value
    key = next((key for key in NAMED_BY if all(key in entry for entry in value)), None)
    table = {str(entry[key]): entry for entry in value} if key else {}
    return table if len(table) == len(value) else value


def _part(text: str, other: str) -> str:
    """What of a text is not in the other one, with a few letters around it."""
    same = _num_alike(text, other)
    same_end = _num_alike(text[same:][::-1], other[same:][::-1])
    start, end = max(0, same - CONTEXT_CHARS), len(text) - max(0, same_end - CONTEXT_CHARS)
    end = min(end, start + MAX_CHARS)
    return f"{'...' if start else ''}{text[start:end]}{'...' if end < len(text) else ''}"


def _num_alike(one: str, other: str) -> int:
    """How many letters two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))
