"""Which records name an object: runs, the ledger, decisions, dataset versions.

A record has a name that is no path of this machine: `runs/<id>`, `ledger`, `decisions`, `datasets/<version>`. Whatever
an object's life depends on is said in a journal line or a manifest: an object named only inside the bytes of another
object is named by nobody. `namers` refuses to leave out what it cannot read; `images`, for finding, leaves it out.
What it does not know: whether the bytes are there.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from runner import gpu, journal, ledger, store
from runner.contract.shown import shown
from runner.errors import Corrupt, Fault, Refused, Unavailable, first_line

OUR_FIELDS = ("n", "at", "prev", "hash", "step")  # of a line; digests there are not of objects
DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
OF_OUTPUTS = ("runs", "objects", ledger.FOLDER, store.RECORD)  # any of these makes a folder an outputs folder
Namers = dict[str, set[str]]


def record_of(run_folder: Path) -> str:
    return f"runs/{run_folder.name}"


def refuse_missing(outputs: Path) -> None:
    """Refuse what is no outputs folder, and no run folder: nothing there, a file, a folder that no run wrote into."""
    try:
        if any((outputs / name).exists() for name in (*OF_OUTPUTS, journal.MANIFEST)):
            return
        what = f"{outputs} holds no runs"
    except OSError as error:
        what = f"{outputs} cannot be read ({error.strerror})"
    fix = "Name the outputs folder of your runs with --outputs DIR"
    raise Refused(Fault("outputs_missing", "--outputs", what, fix))


def refuse_while_written(outputs: Path, where: str) -> None:
    """A run that is being written may name any object in its next line."""
    for folder in sorted((outputs / "runs").glob("*")):
        if gpu.is_written(folder):
            what = f"run {folder.name} is being written"
            raise Unavailable(Fault("run_locked", where, what, "Wait until it ends: python -m runner status"))


def refuse_run_folder(outputs: Path, verb: str) -> None:
    """A run folder copied elsewhere has no store beside it."""
    if (outputs / journal.MANIFEST).exists():
        fix = "Name the outputs folder that the run was made in with --outputs DIR"
        raise Refused(Fault("outputs_missing", "--outputs", f"{outputs} is a run, and {verb} needs a store", fix))


def user() -> str:
    """Who types the command, as the operating system knows them."""
    try:
        return shown(getpass.getuser())
    except (KeyError, OSError):  # a user id without a name
        return f"uid {os.getuid()}"


def _given(folder: Path) -> set[str]:
    """The images that a run reviews although another made them."""
    with contextlib.suppress(Corrupt):
        manifest = journal.read_manifest(folder)
        return {digest for digests in manifest.get("given", {}).values() for digest in digests}
    return set()


def images(outputs: Path, known: ledger.Ledger) -> dict[str, list[str]]:
    """Every image that a readable run made or reviews, or that was imported, with the records whose image it is."""
    found: dict[str, list[str]] = {digest: [ledger.RECORD] for digest in known.imports}
    for folder in _folders(outputs / "runs"):
        with contextlib.suppress(OSError):
            state = journal.fold_slim(journal.Chain(folder))
            of_images = {item.object for key, item in state.made().items() if key.startswith("image/") and item.object}
            for digest in of_images | _given(folder):
                found.setdefault(digest, []).append(record_of(folder))
    return found


def namers(outputs: Path, known: ledger.Ledger) -> Namers:
    """Every digest that some record names, with the records. Raises Corrupt when a record cannot be read."""
    found: Namers = {digest: {ledger.RECORD} for digest in known.imports}
    for folder in _folders(outputs / "runs"):
        if (folder / journal.MANIFEST).exists() or (folder / journal.JOURNAL).exists():
            _add(found, record_of(folder), _of_run(folder))
    _add(found, ledger.DECISIONS, _of_log(outputs / ledger.DECISIONS))
    for folder in _folders(outputs / ledger.DATASETS):
        if folder.name.startswith("."):
            continue
        _add(found, f"{ledger.DATASETS}/{folder.name}", _digests(ledger.read_dataset(folder)))
    return found


def _of_run(folder: Path) -> Iterator[str]:
    """What any line of a run names, and its manifest: also what a later line no longer counts."""
    yield from _digests(journal.read_manifest(folder))
    chain = journal.Chain(folder)
    yield from _of_lines(chain)
    if chain.problem is None and chain.genesis not in (None, journal.manifest_digest(folder)):
        chain.problem = "belongs to another manifest"
    _refuse_broken(chain)


def _of_log(folder: Path) -> Iterator[str]:
    chain = journal.Chain(folder)
    yield from _of_lines(chain)
    _refuse_broken(chain)


def _of_lines(events: Iterable[journal.Event]) -> Iterator[str]:
    for event in events:
        yield from _digests({name: value for name, value in event.items() if name not in OUR_FIELDS})


def _digests(value: Any) -> list[str]:
    """Whatever in a JSON value may be the name of an object, wherever it stands."""
    return DIGEST.findall(json.dumps(value))


def _add(found: Namers, record: str, digests: Iterable[str]) -> None:
    try:
        for digest in digests:
            found.setdefault(digest, set()).add(record)
    except OSError as error:
        raise Corrupt(_unreadable(record, f"cannot be read ({first_line(error)})")) from error


def _refuse_broken(chain: journal.Chain) -> None:
    if chain.problem is not None:
        raise Corrupt(_unreadable(str(chain.folder / journal.JOURNAL), chain.problem))


def _unreadable(where: str, what: str) -> Fault:
    fix = (
        "Nothing was removed: it may name any object. `python -m runner verify --all` says more; put the original back"
    )
    return Fault("record_unreadable", where, what, fix)


def _folders(parent: Path) -> list[Path]:
    """Folders by name, hidden ones too: a renamed run is still a run. Raises Corrupt when they cannot be listed."""
    try:
        return sorted(path for path in parent.iterdir() if path.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Corrupt(_unreadable(str(parent), f"cannot be read ({error.strerror})")) from error


def resolve(prefix: str, among: Iterable[str], what: str) -> str | Fault:
    """The one digest that begins with a prefix, or why there is none."""
    if not re.fullmatch(r"[0-9a-f]{8,64}", prefix):
        fix = "Give at least its first 8 digits: `python -m runner inspect RUN --json` lists them"
        return Fault("unknown_image", shown(prefix), "is no digest: 8 to 64 digits 0-9 a-f", fix)
    matches = sorted(digest for digest in among if digest.startswith(prefix))
    if len(matches) == 1:
        return matches[0]
    if matches:
        some = ", ".join(digest[:20] for digest in matches[:8])
        return Fault("ambiguous_image", prefix, f"begins {len(matches)} digests: {some}", "Give more digits of one")
    return Fault(
        "unknown_image", prefix, f"is {what}", "`python -m runner inspect RUN --json` lists the digests of a run"
    )
