"""`import`: images from elsewhere become objects of the store, with where they come from in the ledger.

Everything is looked at first; then bytes are stored, read back, and named by one line each. Whatever is no image gets a
row with the reason and changes nothing; `strict` refuses all then. The same image twice is one object and one line;
other words about it are a new line. It refuses a source that is a path: no record says where a file lay on this
machine. What it does not know: whether the source and the licence are true.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runner import ledger, store
from runner.contract.shown import shown
from runner.errors import Fault, Refused
from runner.prompt import few
from runner.verbs import records
from runner.verbs.foreign_image import ForeignImage, examine, files_in, read_again, safe

Row = dict[str, Any]
IMAGES_PER_COMMIT = 64
MAX_TEXT_CHARS = {"source": 2_000, "license": 500, "note": 4_000, "prompt": 20_000}
A_PATH = re.compile(r"(/|~|\.{1,2}/|file:|[A-Za-z]:[\\/]|\\\\)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class About:
    """What a person says of the images they import."""

    source: str  # where they come from: an address, a person, a project
    license: str | None = None
    note: str | None = None
    prompt: str | None = None  # what was asked for, when it is known


@dataclass(frozen=True, slots=True)
class Found:
    """A file that was named, or lay in a folder that was, and the image in it or why there is none."""

    path: Path
    image: ForeignImage | str


def bring(outputs: Path, places: Sequence[Path], about: About, *, strict: bool, again: bool) -> dict[str, Any]:
    """Import files and folders; `again` also takes images that were deleted. `ok` is false when some were not taken.

    Raises Refused before anything is written, Unavailable while another process writes the ledger, Failed(storage).
    """
    records.refuse_run_folder(outputs, "import")
    if outputs.exists() and not outputs.is_dir():
        records.refuse_missing(outputs)
    if faults := [*_faults_of(about), *(_missing(place) for place in places if not os.path.lexists(place))]:
        raise Refused(faults)
    found = [Found(path, examine(path)) for place in places for path in files_in(place)]
    if strict and (lost := [_no_image(each) for each in found if isinstance(each.image, str)]):
        raise Refused(few(lost))
    is_any = any(isinstance(each.image, ForeignImage) for each in found)
    rows = (
        list(_import_all(outputs, found, about, again)) if is_any else [_row(f, "refused", str(f.image)) for f in found]
    )
    return {"ok": all(row["status"] not in ("refused", "deleted") for row in rows), "images": rows}


def text(value: Mapping[str, Any]) -> str:
    """For a person: a line for each file that was not simply imported, then the counts."""
    rows = value["images"]
    lines = [f"{row['file']}: {row['status']}, {row['reason']}" for row in rows if row["reason"]]
    count = {word: sum(1 for row in rows if row["status"] == word) for word in dict.fromkeys(r["status"] for r in rows)}
    counted = ", ".join(f"{number} {word}" for word, number in count.items())
    return "\n".join([*lines, f"{len(rows)} files: {counted or 'no file was found there'}"])


def _import_all(outputs: Path, found: Sequence[Found], about: About, again: bool) -> Iterator[dict[str, Any]]:
    with ledger.writing(outputs) as book:
        bringer = _bringer(outputs, book.known, about, again)
        for at in range(0, len(found), IMAGES_PER_COMMIT):
            rows = [bringer.take(each) for each in found[at : at + IMAGES_PER_COMMIT]]
            book.append(*bringer.lines)  # the bytes are stored: a crash before this line leaves objects without a name
            bringer.lines.clear()
            yield from rows


def _bringer(outputs: Path, known: ledger.Ledger, about: About, again: bool) -> _Bringer:
    runs = {
        digest: [record for record in names if record != ledger.RECORD and not known.deletes(digest, record)]
        for digest, names in records.images(outputs, known).items()
    }
    claims: dict[str, Mapping[str, Any]] = {digest: _claims(event) for digest, event in known.imports.items()}
    gone = {d: event for d, event in known.tombstones.items() if d not in claims or known.deletes(d, ledger.RECORD)}
    deleted = {} if again else gone
    back = set(gone) if again else set()
    said = {name: value and safe(value, MAX_TEXT_CHARS[name]) for name, value in asdict(about).items()}
    return _Bringer(store.open_store(outputs, None), said, runs, claims, deleted, back)


@dataclass(frozen=True, slots=True)
class _Bringer:
    """Stores images and gathers the lines that name them. Lives inside `_import_all` only."""

    objects: store.Objects
    about: Mapping[str, str | None]
    runs: Mapping[str, Sequence[str]]  # whose image it is already
    claims: dict[str, Mapping[str, Any]]  # what was said of the imported ones
    deleted: Mapping[str, ledger.Event]  # and not to come back
    back: set[str]  # deleted, and to come back
    lines: list[ledger.Event] = field(default_factory=list)

    def take(self, found: Found) -> Row:
        """Store one image, if it is one and is new; its row says what became of it."""
        image = found.image
        if isinstance(image, str):
            return _row(found, "refused", image)
        if event := self.deleted.get(image.digest):
            reason = f"on {event['at'][:10]}, because: {shown(event['reason'])}; --again takes it back"
            return _row(found, "deleted", reason)
        if image.digest not in self.back and (where := self._known(image)):
            return self._mended(found, image, where)
        return self._stored(found, image)

    def _known(self, image: ForeignImage) -> str | None:
        if image.digest in self.claims:
            return "imported before" if self.claims[image.digest] == self.about else None
        runs = self.runs.get(image.digest, ())
        return f"an image of {', '.join(runs[:3])}" if runs else None

    def _mended(self, found: Found, image: ForeignImage, where: str) -> Row:
        """Nothing to do for an image that is there; one whose bytes are gone or are others gets them back."""
        if self.objects.holds(image.digest):
            return _row(found, "known", where)
        checked = next(iter(self.objects.check([image.digest], 1)))
        if isinstance(data := read_again(found.path, image), str):
            return _row(found, "refused", data)
        kind = "missing" if checked.found is None else "altered"
        self.objects.put(data)
        self.lines.append({"event": "repaired", "kind": kind, "name": image.digest, "how": "imported again"})
        return _row(found, "repaired", f"{where}; its bytes were {kind}")

    def _stored(self, found: Found, image: ForeignImage) -> Row:
        if isinstance(data := read_again(found.path, image), str):
            return _row(found, "refused", data)
        self.objects.put(data)
        amended = image.digest in self.claims and image.digest not in self.back
        self.lines.append(_line(image, self.about))
        self.claims[image.digest] = self.about
        self.back.discard(image.digest)
        return _row(
            found, "amended" if amended else "imported", "imported before, with other words" if amended else None
        )


def _line(image: ForeignImage, about: Mapping[str, str | None]) -> ledger.Event:
    return {
        "event": "imported", "object": image.digest, "bytes": image.num_bytes, "width": image.width,
        "height": image.height, "media_type": image.media_type, "name": image.name, "says": dict(image.says),
        "user": records.user(), **about,
    }  # fmt: skip


def _claims(event: ledger.Event) -> dict[str, Any]:
    return {name: event.get(name) for name in MAX_TEXT_CHARS}


def _row(found: Found, status: str, reason: str | None) -> Row:
    image = found.image
    row: Row = {"file": shown(str(found.path), 1_000), "status": status, "reason": reason, "digest": None}
    if isinstance(image, ForeignImage):
        size = {"bytes": image.num_bytes, "width": image.width, "height": image.height}
        row |= {"digest": image.digest, "media_type": image.media_type, **size}
    return row


def _faults_of(about: About) -> Iterator[Fault]:
    """What is against the words that go into the record."""
    for name, value in asdict(about).items():
        if value is None:
            continue
        if not value.strip():
            yield Fault("bad_option", f"--{name}", "is empty", f"Say it in words, or leave out --{name}")
        if len(value) > MAX_TEXT_CHARS[name]:
            what = f"has {len(value)} characters; the limit is {MAX_TEXT_CHARS[name]}"
            yield Fault("bad_option", f"--{name}", what, "Say it in fewer words")
    if A_PATH.match(about.source):
        fix = (
            "Say who made them or where one can get them: an address, a person, a project. No record holds a local path"
        )
        yield Fault("source_is_path", "--source", f"{shown(about.source)} is a path", fix)


def _missing(place: Path) -> Fault:
    return Fault(
        "file_missing", "import", f"{shown(str(place), 1_000)} is not there", "Name files or folders of images"
    )


def _no_image(found: Found) -> Fault:
    fix = "Leave it out, or import without --strict"
    return Fault("no_image", shown(str(found.path), 1_000), str(found.image), fix)
