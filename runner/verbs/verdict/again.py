"""A verdict made again from what it came from: the manifest's profile and prompt, the stored pictures, the raw replies.

The same code that wrote the record writes it once more; nobody is asked. What it refuses: to guess. Where a part is
not there, or the profile is of an older form, there is nothing to compare with. What it does not know: what differs if
the code itself has changed since; `strangers` names that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from runner import environment, journal, store
from runner.config.critic import CriticProfile
from runner.critic import answer as answers
from runner.critic import pairwise, request, schema, verdict
from runner.critic.answer import Answer
from runner.critic.ask import Judged
from runner.critic.question import Example, Picture, Question, Unanswered
from runner.errors import Corrupt, Failed
from runner.plan import PromptPlan
from runner.store import Objects

DECIDES_A_RECORD = ("runner", "git_commit", "pillow")  # what packs pictures and writes records
READ = ("parse", "schema", "semantic")  # classes that follow from a reply alone
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Remade:
    """What a verdict would be now: the question, the record, and which replies read otherwise than they were noted."""

    question: Question
    record: dict[str, Any]
    system: str
    other_replies: list[str]


def profile_of(manifest: Record) -> CriticProfile | None:
    """The profile in a manifest; None for one of an older form."""
    try:
        return CriticProfile.model_validate_json(json.dumps(manifest["request"].get("critic")))
    except ValidationError:
        return None


def remade(run: journal.Run, key: str, said: Record, objects: Objects) -> Remade | None:
    """The record once more; None where the profile or the record is of an older form."""
    profile = profile_of(run.manifest)
    if profile is None or said.get("format") != verdict.FORMAT:
        return None
    question = _question(run.manifest, key, said, profile, objects)
    judged, other = _judged(said, question)
    structured = bool(said.get("decoded_under_schema"))
    record = json.loads(store.canonical(verdict.record_of(question, judged, said["model"], structured=structured)))
    return Remade(question, record, request.system_text(profile), other)


def strangers(manifest: Record) -> list[str]:
    """What writes records and is not as it was when the run was begun."""
    before = manifest["environment"]
    now = environment.fingerprint(before.get("device") or "cpu")
    return [f"{k} was {before.get(k)}, is {now.get(k)}" for k in DECIDES_A_RECORD if before.get(k) != now.get(k)]


# ---- the question


def _question(manifest: Record, key: str, said: Record, profile: CriticProfile, objects: Objects) -> Question:
    pictures = [_picture(digest, objects) for digest in judged_of(said)]
    shown = [row for row in manifest["pins"].get("examples", ()) if row[0] in said["request"]["examples"]]
    examples = [Example(_picture(image, objects), text, word, note) for image, text, word, note in shown]
    return Question(profile, _prompt(manifest, key), tuple(pictures), _schema(profile, said), tuple(examples))


def judged_of(said: Record) -> list[str]:
    """The digests of what a record judges: an image, or the two of a pair."""
    return [said[name] for name in ("image", "against") if said.get(name)]


def _prompt(manifest: Record, key: str) -> PromptPlan:
    """Sections in the order in which they were composed; canonical JSON has sorted them."""
    place = next(place for name, place, _ in manifest["images"] if name == key)
    entry, order = manifest["prompts"][place], manifest["request"]["prompt"]["sections"]
    sections = {n: entry["sections"][n] for n in (*order, *entry["sections"]) if n in entry["sections"]}
    return PromptPlan(entry["key"], entry["id"], entry["text"], sections, entry["triggered"])


def _schema(profile: CriticProfile, said: Record) -> dict[str, Any]:
    """The schema for levels of the scale, or for any number of it where the record was given under that."""
    either = [schema.answer_schema(profile, continuous=continuous) for continuous in (False, True)]
    return next((one for one in either if store.digest_of(one) == said["request"]["schema"]), either[0])


def _picture(digest: str, objects: Objects) -> Picture:
    """A picture that is gone has no bytes, and then no request can be made of it."""
    try:
        return Picture(digest, objects.get(digest))
    except (Corrupt, Failed):
        return Picture(digest, b"")


# ---- the answer


def _judged(said: Record, question: Question) -> tuple[Judged, list[str]]:
    """What the noted attempts come to, and which of them read otherwise now."""
    given, other = list[Answer](), list[str]()
    for number, attempt in enumerate(said["attempts"], 1):
        failure, answer = _read_again(attempt, question)
        if answer is not None and attempt["failure"] is None:
            given.append(answer)
        if failure != attempt["failure"] and not _came_otherwise(attempt):
            other.append(f"attempt {number} was {attempt['failure'] or 'an answer'}, reads as {failure or 'an answer'}")
    last = said["attempts"][-1] if said["attempts"] else {"failure": None, "detail": None}
    if said["status"] == "unscored" or len(given) < len(question.images):
        return Judged(None, last["failure"], last["detail"]), other
    whole = pairwise.as_answer(pairwise.combine(*given)) if len(question.images) > 1 else given[-1]
    return Judged(whole, None, None), other


def _read_again(attempt: Record, question: Question) -> tuple[str | None, Answer | None]:
    try:
        return None, answers.read(attempt["reply"] or "", question.profile, question.schema)
    except Unanswered as error:
        return error.failure, None


def _came_otherwise(attempt: Record) -> bool:
    """Whether its failure was seen while it came, and cannot be read in the reply."""
    return attempt["failure"] is not None and (attempt["failure"] not in READ or attempt["finish"] != "stop")
