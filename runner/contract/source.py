"""The finished run whose images a request reviews again: `stages=[critique] critique.images_of=RUN`.

Its manifest names the parties, so the request takes them from there and may not name others; its images are reviewed
as they are. It refuses a run that is not there, that is altered, or that made nothing. What it does not know: whether
the stored bytes are still themselves; the critic finds out when it reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import journal, ledger
from runner.config.faults import MISSING
from runner.config.tree import Request
from runner.errors import Corrupt, Fault, Refused, choose
from runner.store import open_store

PARTIES = ("mode", "seed", "base_model", "lora", "trigger", "prompt", "generate")  # what a review takes from its run


@dataclass(frozen=True, slots=True)
class Source:
    """A run as far as a review of it needs it; `images` are those that it made: key, place of the prompt, seed,
    digests (one, or two of a pair)."""

    run: str
    against: str | None
    manifest: Mapping[str, Any]
    images: tuple[tuple[str, int, int, tuple[str, ...]], ...]


def take_parties(values: dict[str, Any]) -> dict[str, Any]:
    """Composed values with the parties of the run under review; values of other requests as they are.

    Raises Refused when the run cannot be read, or when the request names a party itself.
    """
    name = (values.get("critique") or {}).get("images_of")
    if name in (None, MISSING) and list(values.get("stages") or ()) == ["critique"]:
        fix = "Name a finished run: critique.images_of=RUN; `python -m runner status` lists them"
        raise Refused(Fault("missing_value", "critique.images_of", "has no value, and stages are [critique]", fix))
    if not isinstance(name, str):
        return values
    stored = _manifest(Path(str(values["outputs"])), "critique.images_of", name)["request"]
    named = [key for key in PARTIES if values.get(key) is not None and values[key] != stored[key]]
    if named:
        fix = f"Leave it out, as +experiment=rereview does; {name} says what it was"
        raise Refused([Fault("setting_ignored", key, f"would be ignored: {name} is reviewed", fix) for key in named])
    return {**values, **{key: stored[key] for key in PARTIES}}


def read_source(request: Request, faults: list[Fault]) -> Source | None:
    """The images that a request reviews again; None when it reviews its own."""
    asked = request.critique
    if asked.images_of is None:
        if asked.against is not None:
            what = f"{asked.against} would be ignored: critique.images_of is null"
            faults.append(Fault("setting_ignored", "critique.against", what, "Name the first run as well"))
        return None
    try:
        first = _made(Path(request.outputs), "critique.images_of", asked.images_of)
        second = _made(Path(request.outputs), "critique.against", asked.against) if asked.against else None
    except Refused as refusal:
        faults += refusal.faults
        return None
    manifest, digests = first
    images = tuple(
        (key, place, seed, (digests[key],) if second is None else (digests[key], second[1][key]))
        for key, place, seed in manifest["images"]
        if key in digests and (second is None or key in second[1])
    )
    faults += _faults(request, manifest, second, images)
    return Source(asked.images_of, asked.against, manifest, images)


def _faults(request: Request, manifest: Mapping[str, Any], second: Any, images: tuple[Any, ...]) -> Iterator[Fault]:
    asked = request.critique
    if request.stages != ("critique",):
        what = f"{asked.images_of} is reviewed again, and stages are {list(request.stages)}"
        yield Fault("stage_order", "stages", what, "Use stages=[critique], or leave out critique.images_of")
    if asked.against == asked.images_of:
        what = f"is {asked.against}, and so is critique.images_of"
        yield Fault("not_comparable", "critique.against", what, "Name another run: a picture beside itself is a tie")
    elif second is not None:
        yield from _other_prompts(asked.against, manifest, second[0])
    yield from _gone(request, [digest for *_, digests in images for digest in digests])
    if not images:
        what = f"{asked.images_of} has no images" + (f" in common with {asked.against}" if asked.against else "")
        yield Fault("sources_missing", "critique.images_of", what, "Choose a run that made images")


def _gone(request: Request, digests: list[str]) -> Iterator[Fault]:
    """Images of which there is a line, and no object."""
    look = open_store(Path(request.outputs).absolute(), request.storage).look(len(digests))
    if gone := [digest for digest in dict.fromkeys(digests) if look(digest) is None]:
        what = f"has lost {len(gone)} of {len(digests)} images (first {gone[0][:16]})"
        fix = "`python -m runner verify` says where they went; the run's own command makes them again"
        yield Fault("sources_missing", "critique.images_of", what, fix)


def _other_prompts(name: str | None, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Fault]:
    """Pairs share prompt and seed, or they are no pairs."""
    texts = [{key: (run["prompts"][place]["text"], seed) for key, place, seed in run["images"]} for run in (a, b)]
    other = [key for key, value in texts[0].items() if texts[1].get(key, value) != value]
    if other:
        what = f"{name} has another prompt or seed for {len(other)} images (first {other[0]})"
        yield Fault("not_comparable", "critique.against", what, "Choose a run of the same prompts and seed")


def _made(outputs: Path, where: str, name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """A run's manifest, and the digest of each image that it made or reviewed, and that nobody deleted since."""
    manifest = _manifest(outputs, where, name)
    run = journal.read_run(outputs / "runs" / name)
    if run.problem:
        raise Refused(Fault("journal_altered", where, f"{name} cannot be relied on: {run.problem}", VERIFY))
    if any(len(digests) > 1 for digests in manifest.get("given", {}).values()):
        fix = "Name one of the two runs that it compared"
        raise Refused(Fault("not_comparable", where, f"{name} compares two runs, and made no image", fix))
    known, record = ledger.read(outputs), f"runs/{name}"
    made = {row["key"]: row["digest"] for row in run.images() if row["status"] == "complete"}
    return manifest, {key: digest for key, digest in made.items() if not known.deletes(digest, record)}


VERIFY = "`python -m runner verify` says more; choose another run, or put the original back"


def _manifest(outputs: Path, where: str, name: str) -> dict[str, Any]:
    folder = outputs / "runs" / name
    if not (folder / journal.MANIFEST).exists():
        known = [path.parent.name for path in (outputs / "runs").glob(f"*/{journal.MANIFEST}")]
        raise Refused(Fault("unknown_run", where, f"{name} is no run of {outputs}", choose(name, known)))
    try:
        return journal.read_manifest(folder)
    except Corrupt as error:
        raise Refused(Fault("manifest_altered", where, f"{name}: {error.faults[0].what}", VERIFY)) from error
