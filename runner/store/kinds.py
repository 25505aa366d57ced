"""Which kind of store an outputs folder uses, and whether a request may use it: read, never written here.

`outputs/storage.json` says it; without that file, a folder of objects means a folder. What it does not know: how
the kinds work.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import Corrupt, Fault

if TYPE_CHECKING:
    from runner.config.tree import Storage

RECORD = "storage.json"
OBJECTS = "objects"
OWNER = re.compile(r"[0-9a-f]{32}")
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
CREDENTIAL_VARIABLES = (
    "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SKIP_SIGNATURE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kind:
    """Where the objects of an outputs folder are; for a folder everything but the kind is null."""

    kind: str
    uri: str | None = None
    endpoint: str | None = None
    region: str | None = None
    owner: str | None = field(default=None, compare=False)  # the id of this outputs folder in a bucket; no request's

    def as_dict(self) -> dict[str, str | None]:
        return asdict(self)

    def __str__(self) -> str:
        if self.kind == "folder":
            return "a folder of objects"
        return f"{self.uri} at {self.endpoint or 'AWS'} in {self.region}"


FOLDER = Kind("folder")


def asked(settings: Storage) -> Kind:
    """The kind that a request asks for."""
    return FOLDER if settings.kind == "folder" else Kind("s3", settings.uri, settings.endpoint, settings.region)


def recorded(outputs: Path) -> Kind | None:
    """The kind that an outputs folder uses; None where nothing was stored yet. Raises Corrupt."""
    path = outputs / RECORD
    try:
        record: Any = json.loads(path.read_bytes())
        kind = Kind(**record)
        if kind.kind not in ("folder", "s3") or (kind.kind == "s3") != (kind.uri is not None):
            raise ValueError(f"says kind {kind.kind!r} and uri {kind.uri!r}")
        if kind.owner is not None and not OWNER.fullmatch(kind.owner):
            raise ValueError(f"says owner {kind.owner!r}")
    except (FileNotFoundError, NotADirectoryError):
        return FOLDER if (outputs / OBJECTS).is_dir() else None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        fix = "Put the original back: it says where the objects of these runs are"
        raise Corrupt(Fault("storage_altered", str(path), f"cannot be read ({error})", fix)) from error
    return kind


def storage_faults(settings: Storage, outputs: Path) -> list[Fault]:
    """What is against a request's storage settings on this machine and in this outputs folder. Raises Corrupt."""
    if faults := list(_setting_faults(settings)):
        return faults
    return [*machine_faults(asked(settings)), *_mismatch(settings, outputs)]


def _setting_faults(settings: Storage) -> Iterator[Fault]:
    if settings.kind == "s3" and settings.uri is None:
        fix = "Say where: storage.uri=s3://BUCKET/PREFIX, or choose storage=folder"
        yield Fault("setting_missing", "storage.uri", "is null, and storage.kind is s3", fix)
    if settings.kind == "s3" and settings.region is None:
        fix = "Say it, such as storage.region=us-east-1; a server of your own takes any"
        yield Fault("setting_missing", "storage.region", "is null, and storage.kind is s3", fix)
    if settings.kind == "folder":
        for name, value in (("uri", settings.uri), ("endpoint", settings.endpoint), ("region", settings.region)):
            if value is not None:
                fix = f"Choose storage=s3, or leave out storage.{name}"
                yield Fault("setting_ignored", f"storage.{name}", f"is {value}, and storage.kind is folder", fix)


def machine_faults(kind: Kind) -> list[Fault]:
    """What this machine and its environment lack for a kind of store; a verb asks as well as a run."""
    return [*_package_faults(), *_endpoint_faults(kind), *_credential_faults(kind)] if kind.kind == "s3" else []


def _package_faults() -> Iterator[Fault]:
    if importlib.util.find_spec("obstore") is None:
        fix = "Install it: pip install 'runner[s3]', or choose storage=folder"
        yield Fault("dependency_missing", "storage.kind", "s3 needs obstore, which is not installed", fix)


def _endpoint_faults(kind: Kind) -> Iterator[Fault]:
    """The library lets AWS_ENDPOINT_URL_S3 overrule what it is told, and the others where it is told nothing."""
    overruling = ENDPOINT_VARIABLES[:1] if kind.endpoint else ENDPOINT_VARIABLES
    for name in overruling:
        value = os.environ.get(name)
        if value and value.rstrip("/") != kind.endpoint:
            what = f"is {kind.endpoint or 'null (AWS)'}, and the environment's {name} would send the bytes to {value}"
            yield Fault("setting_ignored", "storage.endpoint", what, f"Unset {name}, or say storage.endpoint={value}")


def _credential_faults(kind: Kind) -> Iterator[Fault]:
    """A server of one's own has no role to ask for; on AWS the machine's role may serve."""
    if kind.endpoint is not None and not any(os.environ.get(name) for name in CREDENTIAL_VARIABLES):
        what = f"is {kind.endpoint}, and the environment has no credentials for it"
        fix = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        yield Fault("credentials_missing", "storage.endpoint", what, fix)


def _mismatch(settings: Storage, outputs: Path) -> Iterator[Fault]:
    before, now = recorded(outputs), asked(settings)
    if before is not None and before != now:
        what = f"asks for {now}; {outputs} uses {before}"
        fix = "Ask for the same storage, or for another folder with outputs=DIR"
        yield Fault("storage_mismatch", "storage", what, fix, {"asked": now.as_dict(), "found": before.as_dict()})
