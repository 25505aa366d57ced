"""`critic profiles` and `critic lock`: every version of every profile, and whether it is what it was locked as."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.contract import profile
from runner.contract.profile import LockRow
from runner.verbs.show import table

WORDS = {
    "locked": "locked",
    "new": f"not in the lock: {profile.COMMAND}",
    "changed": "changed under its version: raise it, or put the profile back",
}


def profiles() -> dict[str, Any]:
    """Every version that is locked or in use; `ok` when the lock is what the files say. Raises Refused."""
    return _told(profile.lock_state())


def lock() -> dict[str, Any]:
    """Put what is new into the lock. Raises Refused for a profile that changed under its version, Unavailable."""
    return _told(profile.lock_profiles())


def _told(rows: list[LockRow]) -> dict[str, Any]:
    return {"ok": all(row.state == "locked" for row in rows), "profiles": [row._asdict() for row in rows]}


def text(value: Mapping[str, Any]) -> str:
    rows = [[row["id"], str(row["version"]), row["digest"][:16], WORDS[row["state"]]] for row in value["profiles"]]
    return table(["profile", "version", "digest", "state"], rows)
