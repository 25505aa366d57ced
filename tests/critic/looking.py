"""A critic that really looks: pictures of the drawn world read from their pixels, an answer in any schema it is given.

It is the honest half of `tests.critic.speaking`: what the prompt asks for is found in the text, what the picture shows
in the picture. It knows nothing outside the drawn world, and learns rules and tags from the system text alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from runner.builtin import world
from runner.builtin.read import emblem_share, read

Marks = Mapping[str, float | None]  # attribute -> how well it is met, 0 to 1; None where the prompt does not ask for it
Schema = Mapping[str, Any]
NAMED = re.compile(r"^- (\w+) \((?:rule )?([^()]*)\)", re.MULTILINE)  # a tag or a criterion, and its rules
COLOURS, SHAPES = "|".join(world.COLOURS), "|".join(world.SHAPES)


# ---- what is asked, what is seen


def asked(text: str) -> dict[str, str | None]:
    """The attributes that a prompt names; `concept` where it carries the trigger of the emblem."""
    background = re.search(rf"\b({COLOURS}) background", text)
    colour = re.search(rf"\b({COLOURS})\b(?! background)", text)
    shape = re.search(rf"\b({SHAPES})(?:s|es)?\b", text)
    concept = "emblem" if "<emblem>" in text else None
    names = {"shape": shape, "colour": colour, "background": background}
    return {name: found[1] if found else None for name, found in names.items()} | {"concept": concept}


def look(image: Image.Image, text: str) -> Marks:
    """How well a picture meets what a text asks for, by attribute and in all."""
    small = image.convert("RGB").resize((world.SIZE_PX, world.SIZE_PX), Image.Resampling.BOX)
    shown, wanted = read(small), asked(text)
    marks: dict[str, float | None] = {
        name: None if wanted[name] is None else float(getattr(shown, name) == wanted[name])
        for name in ("shape", "colour", "background")
    }
    marks["concept"] = min(1.0, 2 * emblem_share(small)) if wanted["concept"] else None
    return marks | {"all": _mean(marks)}


def believe(text: str) -> Marks:
    """What one says who never looks: all is as it was asked for."""
    return {name: 1.0 if word else None for name, word in asked(text).items()} | {"all": 1.0}


def always(mark: float) -> Marks:
    """What one says who gives every picture the same."""
    return {"shape": mark, "colour": mark, "background": mark, "concept": mark, "all": mark}


def _mean(marks: Marks) -> float:
    known = [mark for mark in marks.values() if mark is not None]
    return sum(known) / len(known) if known else 0.5


# ---- an answer in the schema


def num_images(schema: Schema) -> int:
    """How many pictures a schema asks about: two where something can win."""
    return 2 if "winner" in schema.get("properties", {}) else 1


def answer(schema: Schema, system: str, marks: Sequence[Marks]) -> Any:
    """The answer of someone who found these marks, one per picture; any other schema is filled in shortly."""
    properties = schema.get("properties", {})
    if "criteria" not in properties or "evidence" not in properties:
        return fill(schema)
    found = Findings(properties["evidence"], system)
    criteria = properties["criteria"]["properties"]
    judged = {name: _judge(name, inner["properties"], marks, found) for name, inner in criteria.items()}
    if sum(each.get("score") is not None for each in judged.values()) >= 4:
        found.remark(next(iter(judged.values()))["evidence"])
    given = {"evidence": found.items, "criteria": judged, "confidence": "high", "winner": _winner("all", marks)}
    return {name: given[name] for name in properties}


def fill(schema: Schema) -> Any:
    """The shortest value that a schema of the portable subset allows."""
    if "enum" in schema:
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    if "anyOf" in schema:
        return fill(schema["anyOf"][0])
    if schema["type"] == "object":
        return {name: fill(schema["properties"][name]) for name in schema.get("required", ())}
    if schema["type"] == "array":
        return [fill(schema["items"])] * schema.get("minItems", 0)
    return {"string": "seen", "boolean": True, "null": None}.get(schema["type"], schema.get("minimum", 0))


@dataclass(slots=True)
class Findings:
    """The evidence list as it grows: one finding for a tag and an image."""

    schema: Schema
    system: str
    items: list[dict[str, Any]] = field(default_factory=list)

    @property
    def _fields(self) -> Mapping[str, Any]:
        fields: Mapping[str, Any] = self.schema["items"]["properties"]
        return fields

    def cite(self, criterion: str, what: str, severity: str, image: str) -> list[str]:
        """The id of a finding on a criterion, as a list: of the last one when there is no more room."""
        tag = self._tag(criterion)
        for item in self.items:
            if item["tag"] == tag and item.get("image", image) == image:
                return [item["id"]]
        if tag is None or len(self.items) >= self.schema["maxItems"]:
            return [item["id"] for item in self.items if item.get("image", image) == image][-1:]
        given: dict[str, Any] = {"id": f"e{len(self.items) + 1}", "tag": tag, "severity": severity, "image": image}
        given |= {"what": words(what, self._fields["what"]), "box": self._box()}
        self.items.append({name: given[name] for name in self._fields})
        return [given["id"]]

    def remark(self, cited: list[str]) -> None:
        """One finding that is no complaint, so that four equal scores do not look like no work."""
        if not self.items:
            cited += self.cite("", "a plain picture", "note", "A")

    def _tag(self, criterion: str) -> str | None:
        """The tag whose rule the criterion answers, as the system text says; else any."""
        told = {name: set(words.split(", ")) for name, words in NAMED.findall(self.system)}
        known: list[str] = self._fields["tag"]["enum"]
        fitting = (tag for tag in known if told.get(tag, set()) & told.get(criterion, set()))
        return next(fitting, known[0] if known else None)

    def _box(self) -> list[int] | None:
        optional = {"type": "null"} in self._fields.get("box", {}).get("anyOf", ())
        return None if optional else [200, 200, 800, 800]


def _judge(name: str, fields: Mapping[str, Any], marks: Sequence[Marks], found: Findings) -> dict[str, Any]:
    mark = marks[0].get(name, marks[0]["all"])
    given: dict[str, Any] = {"evidence": [], "reason": words(f"{name} as seen", fields["reason"])}
    if "winner" in fields:
        given["winner"] = _winner(name, marks)
        if given["winner"] != "tie":
            loser = "B" if given["winner"] == "A" else "A"
            given["evidence"] = found.cite(name, f"{name} is worse", "minor", loser)
    else:
        given["score"] = level(mark, fields["score"])
        if mark is not None and mark < 1:
            given["evidence"] = found.cite(name, f"{name} is not as asked", "minor", "A")
    return {field: given[field] for field in fields}


def _winner(name: str, marks: Sequence[Marks]) -> str:
    if len(marks) < 2:
        return "tie"
    a, b = (each.get(name, each["all"]) or 0.0 for each in marks)
    return "tie" if a == b else "A" if a > b else "B"


def level(mark: float | None, schema: Schema) -> float | None:
    """The score of a mark: the nearest level, or any number where the schema takes any; null where there is no mark."""
    if "enum" not in schema:
        number = next(each for each in schema.get("anyOf", [schema]) if each.get("type") != "null")
        span = number["maximum"] - number["minimum"]
        return None if mark is None else round(number["minimum"] + mark * span, 6)
    levels = [each for each in schema["enum"] if each is not None]
    if mark is None and None in schema["enum"]:
        return None
    wanted = min(levels) + (0.5 if mark is None else mark) * (max(levels) - min(levels))
    nearest: float = min(levels, key=lambda each: abs(each - wanted))
    return nearest


def words(text: str, schema: Schema) -> str:
    """Plain words, as long as the schema's pattern allows."""
    bound = re.search(r"\{\d+,(\d+)\}", schema.get("pattern", ""))
    return text[: int(bound[1])] if bound else text
