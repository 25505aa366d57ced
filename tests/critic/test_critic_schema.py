"""The schema that an answer is asked under: derived from the profile, portable, and bounded everywhere."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from jsonschema.validators import Draft202012Validator

from runner.config.critic import CriticProfile
from runner.critic import schema
from tests import fakes
from tests.critic import bounds

SHIPPED = sorted(path.stem for path in (fakes.ROOT / "conf" / "critic").glob("*.yaml") if path.stem != "none")
PORTABLE = {
    "type", "enum", "properties", "required", "additionalProperties", "items", "minItems", "maxItems", "anyOf",
    "pattern", "minimum", "maximum",
}  # fmt: skip


@functools.cache
def shipped(name: str = "shapes") -> CriticProfile:
    profile = fakes.request(None, "demo", f"critic={name}").critic
    assert profile is not None
    return profile


def variant(**changes: Any) -> CriticProfile:
    """The shapes profile with other values; a table changes a section."""
    profile = shipped()
    for name, value in changes.items():
        new = getattr(profile, name).model_copy(update=value) if isinstance(value, dict) else value
        profile = profile.model_copy(update={name: new})
    return profile


def words(node: Mapping[str, Any]) -> Iterator[str]:
    """The JSON schema words that a schema uses, without the names of properties."""
    yield from node
    parts = [
        *node.get("properties", {}).values(),
        *node.get("anyOf", []),
        *([node["items"]] if "items" in node else []),
    ]
    for part in parts:
        yield from words(part)


def longest(node: Mapping[str, Any]) -> Any:
    """The value that takes the most characters."""
    if "enum" in node:
        return max(node["enum"], key=lambda value: len(json.dumps(value)))
    if "anyOf" in node:
        return longest(node["anyOf"][0])
    if node["type"] == "object":
        return {name: longest(part) for name, part in node["properties"].items()}
    if node["type"] == "array":
        return [longest(node["items"])] * node["maxItems"]
    return "x" * (shipped().evidence.max_chars or 0) if node["type"] == "string" else node["maximum"]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_profile_gives_a_schema_that_ends_everywhere(name: str) -> None:
    derived = schema.answer_schema(shipped(name))
    Draft202012Validator.check_schema(derived)
    assert bounds.unbounded(derived) == []


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_profile_gives_a_schema_of_portable_words_alone(name: str) -> None:
    assert set(words(schema.answer_schema(shipped(name)))) <= PORTABLE


@pytest.mark.parametrize("name", SHIPPED)
def test_a_grammar_can_be_made_of_the_schema_of_a_shipped_profile(name: str) -> None:
    matcher = pytest.importorskip("llguidance").LLMatcher
    for derived in (schema.answer_schema(shipped(name)), schema.canary_schema()):
        assert matcher.validate_grammar(matcher.grammar_from_json_schema(json.dumps(derived))) == ""


def test_the_whole_schema_of_one_criterion_is_as_written_here() -> None:
    asked = shipped().criteria[0]
    evidence = {"max_items": 2, "max_chars": 5, "boxes": "optional"}
    profile = variant(criteria=(asked,), tags=shipped().tags[:1], evidence=evidence, scale={"levels": (0.0, 0.5, 1.0)})
    text = {"type": "string", "pattern": r"^[!#-\[\]-~][ !#-\[\]-~]{0,4}$"}
    side = {"type": "integer", "minimum": 0, "maximum": 1000}
    box = {"anyOf": [{"type": "array", "items": side, "minItems": 4, "maxItems": 4}, {"type": "null"}]}
    ids = {"enum": ["e1", "e2"]}

    def closed(**parts: Any) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": False, "required": list(parts), "properties": parts}

    severity = {"enum": ["note", "minor", "major", "critical"]}
    finding = closed(id=ids, tag={"enum": ["wrong_shape"]}, what=text, box=box, severity=severity)
    cited = {"type": "array", "items": ids, "maxItems": 2}
    score = closed(evidence=cited, reason=text, score={"enum": [0, 0.5, 1, None]})
    findings = {"type": "array", "items": finding, "maxItems": 2}
    confidence = {"enum": ["low", "medium", "high"]}
    assert schema.answer_schema(profile) == closed(
        evidence=findings, criteria=closed(shape=score), confidence=confidence
    )


def test_what_an_answer_rests_on_is_written_before_what_it_says() -> None:
    derived = schema.answer_schema(variant(mode="pairwise"))
    criterion = derived["properties"]["criteria"]["properties"]["shape"]
    assert list(derived["properties"]) == derived["required"] == ["evidence", "criteria", "winner", "confidence"]
    assert list(criterion["properties"]) == criterion["required"] == ["evidence", "reason", "winner"]


def test_criteria_stand_in_the_order_of_the_profile() -> None:
    derived = schema.answer_schema(variant(criteria=shipped().criteria[::-1]))
    assert derived["properties"]["criteria"]["required"] == ["concept", "background", "colour", "shape"]


def test_whole_levels_are_written_without_a_point() -> None:
    derived = schema.answer_schema(variant(scale={"levels": (1.0, 2.0, 2.5)}))
    score = derived["properties"]["criteria"]["properties"]["shape"]["properties"]["score"]
    assert json.dumps(score) == '{"enum": [1, 2, 2.5, null]}'


def test_an_embedding_model_may_give_any_score_of_the_scale() -> None:
    derived = schema.answer_schema(shipped(), continuous=True)
    score = derived["properties"]["criteria"]["properties"]["shape"]["properties"]["score"]
    assert score == {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "null"}]}


def test_findings_of_a_pair_name_their_image() -> None:
    finding = schema.answer_schema(variant(mode="pairwise"))["properties"]["evidence"]["items"]
    assert finding["properties"]["image"] == {"enum": ["A", "B"]}
    assert "image" not in schema.answer_schema(shipped())["properties"]["evidence"]["items"]["properties"]


@pytest.mark.parametrize(("boxes", "kind"), [("none", None), ("optional", "anyOf"), ("required", "type")])
def test_a_box_is_asked_for_as_the_profile_says(boxes: str, kind: str | None) -> None:
    finding = schema.answer_schema(variant(evidence={"boxes": boxes}))["properties"]["evidence"]["items"]
    assert next(iter(finding["properties"].get("box", {None: 0}))) == kind


def test_a_profile_without_tags_allows_no_findings() -> None:
    derived = schema.answer_schema(variant(tags=()))
    assert derived["properties"]["evidence"]["maxItems"] == 0
    assert derived["properties"]["criteria"]["properties"]["shape"]["properties"]["evidence"]["maxItems"] == 0


def test_a_profile_without_bounds_is_told_where_an_answer_could_go_on() -> None:
    profile = variant(evidence={"max_items": None, "max_chars": None}, criteria=shipped().criteria[:1])
    places = ["$.evidence", "$.evidence[].what", "$.criteria.shape.evidence", "$.criteria.shape.reason"]
    assert bounds.unbounded(schema.answer_schema(profile)) == places


@pytest.mark.parametrize("part", [
    {}, {"type": "string"}, {"type": "string", "pattern": "^[a-z]+$"}, {"type": "string", "pattern": "[a-z]{1,3}"},
    {"type": "string", "pattern": "^[a-z]{2,}$"}, {"type": "integer"}, {"type": "number", "minimum": 0},
    {"anyOf": [{"type": "null"}, {"type": "string"}]},
])  # fmt: skip
def test_a_part_without_a_bound_is_named(part: dict[str, Any]) -> None:
    assert bounds.unbounded({"type": "object", "additionalProperties": False, "properties": {"a": part}}) == ["$.a"]


def test_a_list_of_anything_and_an_open_object_are_named() -> None:
    assert bounds.unbounded({"type": "array"}) == ["$", "$[]"]
    assert bounds.unbounded({"type": "object", "properties": {"a": {"type": "boolean"}}}) == ["$"]


@pytest.mark.parametrize("mode", ["pointwise", "pairwise"])
def test_the_longest_answer_is_as_long_as_said(mode: str) -> None:
    derived = schema.answer_schema(variant(mode=mode))
    value = longest(derived)
    Draft202012Validator(derived).validate(value)
    assert bounds.longest_reply_chars(derived) == len(json.dumps(value))


def test_the_canary_has_one_answer_that_nobody_would_give_unasked() -> None:
    canary = schema.canary_schema()
    assert bounds.unbounded(canary) == []
    assert json.dumps(longest(canary)) == '{"canary": "k7Q-ember-heron"}'
