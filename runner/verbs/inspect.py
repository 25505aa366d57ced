"""`inspect`: what one thing is; a thing we do not know reads UNKNOWN."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from runner import index, ledger
from runner.contract import locate
from runner.contract.folders import ModelFolder
from runner.errors import Corrupt, Refused
from runner.journal import Run, read_run
from runner.store import open_store
from runner.verbs import show, weights
from runner.verbs.status import find_run, status

MANIFEST = "manifest.json"
UNKNOWN = "UNKNOWN"
WHOLE = 64  # digits of a digest


def inspect(outputs: Path, thing: str, base: Path | None) -> dict[str, Any]:
    """Facts about a run, an image or verdict digest, a weight file, an adapter or model folder, or a folder of them."""
    place = locate(thing)
    if place is not None and (found := _on_disk(place, base)):
        return found
    if re.fullmatch(r"[0-9a-f]{8,64}", thing) and (found := _by_digest(outputs, thing)):
        return found
    try:
        return _run(outputs, find_run(outputs, thing))
    except Refused:
        reason = "no run, image, verdict, file or folder we know"
        return {"thing": thing, "unknown": True, "kind": UNKNOWN, "reason": reason}


def text(facts: dict[str, Any]) -> str:
    """Facts as a person reads them."""
    if "files" in facts:
        return show.files(facts)
    if facts["kind"] == "verdict":
        from runner.verbs import verdict

        return verdict.text(facts)
    judged = facts.get("verdicts") if facts["kind"] == "image" else None  # of a run it is how many
    told = show.facts({name: value for name, value in facts.items() if name != "verdicts"} if judged else facts)
    return told + ("\n" + show.table(["verdict", "run", "by", "said"], list(map(_said, judged))) if judged else "")


def _said(row: dict[str, Any]) -> list[str]:
    """One verdict on an image in a line."""
    scores = ", ".join(f"{name} {score:g}" for name, score in row["scores"].items())
    words = [f"unscored: {row['unscored']}" if row["unscored"] else row["advice"], scores, ", ".join(row["tags"])]
    words += [f"(as {row['side']} of a pair)"] * bool(row["side"]) + ["quarantined"] * row["quarantined"]
    by = f"{row['profile']} v{row['version']}, {row['runtime']}"
    return [row["verdict"][:16], f"{row['run_id']} {row['key']}", by, "; ".join(filter(None, words))]


def inspect_many(things: Sequence[str], base: Path | None) -> dict[str, Any]:
    """One row of facts for each of many files; `unknown` when one of them is broken or not there."""
    model = weights.read_base(base)
    files = [_one_of_many(thing, model) for thing in things]
    return {"files": files, "unknown": any(facts.get("unknown") for facts in files)}


def _one_of_many(thing: str, base: ModelFolder | str | None) -> dict[str, Any]:
    place = locate(thing)
    if place is None:
        return {"kind": UNKNOWN, "path": thing, "reason": "is not there", "unknown": True}
    if place.is_dir() and weights.is_model_folder(place):
        return weights.folder_facts(place)
    return weights.file_facts(place, base, hashed=False)


def _on_disk(place: Path, base: Path | None) -> dict[str, Any] | None:
    if not place.is_dir() or weights.is_adapter_folder(place) or place.suffix == ".safetensors":
        return weights.file_facts(place, weights.read_base(base))
    if (place / MANIFEST).is_file():
        return None
    if weights.is_model_folder(place):
        return weights.folder_facts(place)
    inside = weights.weights_in(place)
    return inspect_many([str(path) for path in inside], base) if inside else None


def _run(outputs: Path, folder: Path) -> dict[str, Any]:
    run = read_run(folder)
    row = status(outputs, str(folder))[0]
    return {
        "kind": "run",
        **row,
        "contract": run.manifest["contract"],
        "manifest": run.manifest,
        "tokens": run.manifest["tokens"],
        "images": run.images(),
        "timings": run.state.timings,
    }


def _by_digest(outputs: Path, digest: str) -> dict[str, Any] | None:
    """An image or a verdict, by the beginning of its digest."""
    known = ledger.read(outputs)
    imported = {name: event for name, event in known.imports.items() if name.startswith(digest)}
    made, said = list(_made(outputs, digest)), _verdicts(outputs, digest)
    names = {image["digest"] for _, image in made} | imported.keys() | {name for _, _, name in said}
    if len(names) > 1:
        return _ambiguous(digest, sorted(names))
    if made or imported:
        facts = _image(outputs, made, known) if made else _imported(imported[names.pop()], outputs, known)
        return {**facts, "verdicts": _on_image(outputs, facts["digest"])}
    return _verdict(outputs, names.pop() if names else digest, [(run, key) for run, key, _ in said])


def _image(outputs: Path, found: list[tuple[Run, dict[str, Any]]], known: ledger.Ledger) -> dict[str, Any]:
    """Full provenance of an image: the settings of the run that made it, and its journal line there."""
    made = [(run, image) for run, image in found if image["key"] not in run.manifest.get("given", {})]
    facts = _provenance(*(made or found)[0], outputs)
    runs = list(dict.fromkeys(run.id for run, _ in made))
    more = (
        {"runs": runs} if made else {"runs": UNKNOWN, "unknown": True}
    )  # what reviewed it is here, what made it is not
    return {**facts, **more, "deleted": _deleted(known, facts["digest"])}


def _made(outputs: Path, digest: str) -> Iterator[tuple[Run, dict[str, Any]]]:
    """The runs that made an image, or were given it, with its row in each."""
    alone = (outputs / MANIFEST).exists()  # a run folder copied elsewhere
    folders = [outputs] if alone else [outputs / "runs" / run for run, _ in _places(outputs, digest)]
    for folder in dict.fromkeys(folders):
        with suppress(Corrupt):
            run = read_run(folder)
            yield from ((run, image) for image in run.images() if (image["digest"] or "").startswith(digest))


def _places(outputs: Path, digest: str) -> list[tuple[str, str]]:
    return index.where_is(outputs, digest) if (outputs / "runs").is_dir() else []


def _verdicts(outputs: Path, digest: str) -> list[tuple[str, str, str]]:
    from runner.index import answer

    return answer.verdicts(outputs, digest)


def _verdict(outputs: Path, digest: str, places: list[tuple[str, str]]) -> dict[str, Any] | None:
    if not places and len(digest) < WHOLE:
        return None
    from runner.verbs import verdict

    return verdict.inspect(outputs, digest, places)


def _on_image(outputs: Path, digest: str) -> list[dict[str, Any]]:
    from runner.index import answer
    from runner.verbs.verdict import lines

    return lines.on_image(outputs, digest, answer.judged(outputs, digest))


def _ambiguous(digest: str, names: list[str]) -> dict[str, Any]:
    reason = f"begins {len(names)} digests: {', '.join(name[:16] for name in names[:4])}; give more of it"
    return {"thing": digest, "unknown": True, "kind": UNKNOWN, "reason": reason}


def _imported(event: dict[str, Any], outputs: Path, known: ledger.Ledger) -> dict[str, Any]:
    digest = event["object"]
    facts = {key: value for key, value in event.items() if key not in ("event", "object", "n", "prev", "hash")}
    stored = open_store(outputs, None).holds(digest)
    return {"kind": "imported image", "digest": digest, "stored": stored, **facts, "deleted": _deleted(known, digest)}


def _deleted(known: ledger.Ledger, digest: str) -> str | None:
    tombstone = known.tombstones.get(digest)
    return str(tombstone["reason"]) if tombstone else None


def _provenance(run: Run, image: dict[str, Any], outputs: Path) -> dict[str, Any]:
    request, pins = run.manifest["request"], run.manifest["pins"]
    objects = open_store(outputs, None)
    return {
        "kind": "image",
        **image,
        "stored": objects.holds(image["digest"]),
        "run_id": run.id,
        "mode": request["mode"],
        "base_model": {"id": request["base_model"]["id"], "sha256": pins["base_sha256"]},
        "lora": {"id": request["lora"]["id"], "sha256": pins["lora_sha256"], "scale": request["lora"]["scale"]}
        if pins["lora_sha256"]
        else None,
        "trigger": request["trigger"]["token"],
        "generate": request["generate"],
        "runtime": request["runtime"],
        "environment": run.manifest["environment"],
        "contract": run.manifest["contract"]["digest"],
        "fallback": run.manifest["fallback"],
    }
