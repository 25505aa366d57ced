"""A reply becomes an answer or is refused whole, and is told why in words that stay the same."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema.validators import Draft202012Validator

from runner.config.critic import CriticProfile
from runner.critic import schema
from runner.critic.answer import Answer, looping, matching, read
from runner.critic.question import Unanswered
from tests import fakes
from tests.critic import bounds

NAMES = ("shape", "colour", "background", "concept")
TEXT = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) not in '"\\')
Path = tuple[str | int, ...]


@functools.cache
def shapes() -> CriticProfile:
    profile = fakes.request().critic
    assert profile is not None
    return profile


def variant(**evidence: Any) -> CriticProfile:
    return shapes().model_copy(update={"evidence": shapes().evidence.model_copy(update=evidence)})


def pairwise() -> CriticProfile:
    return shapes().model_copy(update={"mode": "pairwise"})


def of_ten_criteria() -> CriticProfile:
    first = shapes().criteria[0]
    return shapes().model_copy(update={"criteria": tuple(first.model_copy(update={"id": f"c{n}"}) for n in range(10))})


# ---- replies


def said(**scores: Any) -> dict[str, Any]:
    """A good reply with one finding; a score that is given cites it where it is low."""
    scores = {"shape": 1, "colour": 0.25, "background": 0.75, "concept": None, **scores}
    criteria = {name: judged(score, cites=score == 0.25) for name, score in scores.items()}
    return {"evidence": [found()], "criteria": criteria, "confidence": "high"}


def found(name: str = "e1", **changes: Any) -> dict[str, Any]:
    box = [100, 100, 900, 900]
    return {"id": name, "tag": "wrong_colour", "what": "it is green", "box": box, "severity": "major", **changes}


def judged(score: Any, *, cites: bool = False, reason: str | None = None) -> dict[str, Any]:
    reason = f"it looks like {score}" if reason is None else reason
    return {"evidence": ["e1"] if cites else [], "reason": reason, "score": score}


def compared(winner: str, *sides: str) -> dict[str, Any]:
    """A good reply of a comparison: one side by criterion."""
    criteria = {n: {"evidence": ["e1"], "reason": "so", "winner": w} for n, w in zip(NAMES, sides, strict=True)}
    return {"evidence": [found(image="B")], "criteria": criteria, "winner": winner, "confidence": "low"}


def changed(reply: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A reply with another value at a dotted place."""
    new: Any = copy.deepcopy(reply)
    *parents, leaf = (int(part) if part.isdigit() else part for part in path.split("."))
    functools.reduce(lambda place, part: place[part], parents, new)[leaf] = value
    return dict(new)


def ask(reply: Any, profile: CriticProfile | None = None, *, continuous: bool = False) -> Answer:
    profile = profile or shapes()
    text = reply if isinstance(reply, str) else json.dumps(reply)
    return read(text, profile, schema.answer_schema(profile, continuous=continuous))


def refusal(reply: Any, profile: CriticProfile | None = None, *, continuous: bool = False) -> tuple[str, str]:
    with pytest.raises(Unanswered) as caught:
        ask(reply, profile, continuous=continuous)
    return caught.value.failure, caught.value.detail


# ---- what is accepted


def test_a_good_reply_is_read_with_the_rules_of_its_findings() -> None:
    answer = ask(said())
    assert {name: score.score for name, score in answer.criteria.items()} == {
        "shape": 1.0,
        "colour": 0.25,
        "background": 0.75,
        "concept": None,
    }
    (finding,) = answer.evidence
    assert (finding.rule, finding.group, finding.box) == ("prompt.colour", "prompt", (100, 100, 900, 900))
    assert answer.criteria["colour"].evidence == ("e1",)
    assert (answer.confidence, answer.winner, answer.lenient, answer.notes) == ("high", None, False, ())


def test_criteria_stand_in_the_order_of_the_profile_however_they_came() -> None:
    reply = said()
    reply["criteria"] = dict(reversed(reply["criteria"].items()))
    assert tuple(ask(reply).criteria) == NAMES


def test_a_finding_may_be_nowhere_in_particular() -> None:
    assert ask(changed(said(), "evidence.0.box", None)).evidence[0].box is None


def test_a_profile_without_boxes_gets_none() -> None:
    reply = said()
    del reply["evidence"][0]["box"]
    assert ask(reply, variant(boxes="none")).evidence[0].box is None


def test_an_embedding_model_may_give_any_score_of_the_scale() -> None:
    assert ask(said(shape=0.567), continuous=True).criteria["shape"].score == 0.567


def test_a_comparison_is_read_with_its_sides() -> None:
    answer = ask(compared("A", "A", "A", "tie", "B"), pairwise())
    assert (answer.winner, answer.evidence[0].image) == ("A", "B")
    assert [score.winner for score in answer.criteria.values()] == ["A", "A", "tie", "B"]


def test_a_raw_line_end_inside_a_text_is_read_as_a_blank_and_told() -> None:
    answer = ask(json.dumps(said()).replace("it is green", "it\nis\tgreen"))
    assert (answer.evidence[0].what, answer.lenient) == ("it is green", True)


def test_a_reply_over_many_lines_is_not_lenient() -> None:
    assert not ask(json.dumps(said(), indent=4)).lenient


def test_a_finding_that_is_cited_twice_is_cited_once() -> None:
    assert ask(changed(said(), "criteria.colour.evidence", ["e1", "e1"])).criteria["colour"].evidence == ("e1",)


# ---- parse


@pytest.mark.parametrize(("text", "detail"), [
    ("", "Expecting value at character 0"),
    ("I would say it is fine.", "Expecting value at character 0"),
    ('{"a": 1} and so on', "Extra data at character 9"),
    ('```json\n{"a": 1}\n```', "Expecting value at character 0"),
    ('{"a": 1, "b": 2, "a": 3}', "key 'a' twice"),
    ('{"a": {"b": 1, "b": 1}}', "key 'b' twice"),
    ('{"a": NaN}', "NaN is no JSON"),
    ('{"a": -Infinity}', "-Infinity is no JSON"),
    ('{"a": "b', "Unterminated string starting at character 6"),
    ('{"a": "\n', "Unterminated string starting at character 6"),
    ('{"\\ud800": 1, "\\ud800": 2}', r"key '\ud800' twice"),
    ("[" * 100_000, "nested more than 16 deep"),
    ("[" * 17 + "]" * 17, "nested more than 16 deep"),
])  # fmt: skip
def test_what_is_no_json_is_a_parse_failure(text: str, detail: str) -> None:
    assert refusal(text) == ("parse", detail)


def test_a_number_of_thousands_of_digits_is_a_parse_failure() -> None:
    failure, detail = refusal("9" * 5000)
    assert failure == "parse"
    assert detail.startswith("Exceeds the limit")


def test_brackets_inside_a_text_are_not_counted_as_nesting() -> None:
    assert ask(changed(said(), "evidence.0.what", "[" * 100)).evidence[0].what == "[" * 100


# ---- schema


@pytest.mark.parametrize(("path", "value", "detail"), [
    ("mood", "good", "$: Additional properties are not allowed ('mood' was unexpected)"),
    ("evidence.0.colour", "red", "$.evidence[0]: Additional properties are not allowed ('colour' was unexpected)"),
    ("evidence.0.tag", "ugly", "$.evidence[0].tag: 'ugly' is not one of ['wrong_shape', 'wrong_colour', "),
    ("evidence.0.severity", "huge", "$.evidence[0].severity: 'huge' is not one of ['note', 'minor', "),
    ("evidence.0.what", "", "$.evidence[0].what: '' does not match "),
    ("evidence.0.what", "green\n", r"$.evidence[0].what: 'green\n' does not match "),
    ("evidence.0.what", "gr\u00fcn", r"$.evidence[0].what: 'gr\xfcn' does not match "),
    ("evidence.0.what", "x" * 121, "$.evidence[0].what: 'xxxx"),
    ("evidence.0.box", [0, 0, 1001, 5], "$.evidence[0].box[2]: 1001 is greater than the maximum of 1000"),
    ("evidence.0.box", [0, 0, 5], "$.evidence[0].box: [0, 0, 5] is too short"),
    ("evidence.0.box", [0, 0, 5.5, 5], "$.evidence[0].box[2]: 5.5 is not of type 'integer'"),
    ("evidence.0.image", "A", "$.evidence[0]: Additional properties are not allowed ('image' was unexpected)"),
    ("criteria.shape.score", 2, "$.criteria.shape.score: 2 is not one of [0, 0.25, 0.5, 0.75, 1, None]"),
    ("criteria.shape.score", -1, "$.criteria.shape.score: -1 is not one of "),
    ("criteria.shape.score", 0.3, "$.criteria.shape.score: 0.3 is not one of "),
    ("criteria.shape.score", True, "$.criteria.shape.score: True is not one of "),
    ("criteria.shape.score", "1", "$.criteria.shape.score: '1' is not one of "),
    ("criteria.shape.score", 1e999, None),
    ("criteria.shape.reason", None, "$.criteria.shape.reason: None is not of type 'string'"),
    ("criteria.shape.evidence", ["e9"], "$.criteria.shape.evidence[0]: 'e9' is not one of "),
    ("criteria.mood", {}, "$.criteria: Additional properties are not allowed ('mood' was unexpected)"),
    ("criteria", {}, "$.criteria: 'shape' is a required property (and 3 more)"),
    ("evidence", [found(f"e{n}") for n in range(1, 8)], None),
    ("confidence", None, "$.confidence: None is not one of ['low', 'medium', 'high']"),
])  # fmt: skip
def test_what_the_schema_does_not_allow_is_a_schema_failure(path: str, value: Any, detail: str | None) -> None:
    text = json.dumps(changed(said(), path, value)).replace("Infinity", "1e999")
    failure, told = refusal(text)
    assert failure == "schema"
    assert detail is None or told.startswith(detail)


@pytest.mark.parametrize("score", [-0.001, 1.001, 1e999, "0.5", True])
def test_a_score_off_the_scale_is_refused_of_an_embedding_model_too(score: Any) -> None:
    text = json.dumps(said(shape=score)).replace("Infinity", "1e999")
    assert refusal(text, continuous=True)[0] == "schema"


def test_a_box_that_is_required_and_left_out_is_a_schema_failure() -> None:
    told = refusal(changed(said(), "evidence.0.box", None), variant(boxes="required"))
    assert told == ("schema", "$.evidence[0].box: None is not of type 'array'")


def test_an_answer_to_another_question_is_no_answer() -> None:
    assert refusal('{"canary": "k7Q-ember-heron"}')[0] == "schema"
    assert refusal(said(), pairwise())[0] == "schema"


def test_the_canary_is_shown_by_matching_alone() -> None:
    assert matching('{"canary": "k7Q-ember-heron"}', schema.canary_schema()) == ({"canary": "k7Q-ember-heron"}, False)


def test_a_detail_is_short_ascii_whatever_the_reply_held() -> None:
    told = refusal(json.dumps({**said(), "\ud800" * 500: "x" * 10_000}))[1]
    assert told.isascii()
    assert len(told) == 200


# ---- semantic


@pytest.mark.parametrize(("path", "value", "detail"), [
    ("evidence", [found("e1"), found("e1")], "duplicate_evidence_id"),
    ("criteria.colour.evidence", ["e2"], "dangling_evidence:colour"),
    ("criteria.colour.evidence", [], "missing_evidence:colour"),
    ("criteria.shape", judged(0), "missing_evidence:shape"),
    ("criteria.shape", judged(1, cites=True), "contradiction:shape"),
    ("evidence.0.box", [5, 5, 5, 9], "degenerate_box:e1"),
    ("evidence.0.box", [5, 9, 9, 5], "degenerate_box:e1"),
    ("criteria", {name: judged(None) for name in NAMES}, "nothing_judged"),
    ("evidence", [], "dangling_evidence:colour"),
])  # fmt: skip
def test_a_reply_that_contradicts_itself_is_a_semantic_failure(path: str, value: Any, detail: str) -> None:
    assert refusal(changed(said(), path, value)) == ("semantic", detail)


def test_every_contradiction_is_named_at_once() -> None:
    reply = changed(said(shape=0, colour=0), "evidence", [found("e1", box=[1, 1, 1, 1]), found("e1")])
    reply = changed(reply, "criteria.background.evidence", ["e6"])
    told = "duplicate_evidence_id, dangling_evidence:background, missing_evidence:shape, missing_evidence:colour, "
    assert refusal(reply) == ("semantic", told + "degenerate_box:e1")


def test_many_middling_scores_alike_without_a_finding_are_a_lazy_answer() -> None:
    reply = changed(said(**dict.fromkeys(NAMES, 0.75)), "evidence", [])
    assert refusal(reply) == ("semantic", "all_equal")


def test_many_scores_alike_with_a_finding_are_an_answer() -> None:
    assert ask(said(**dict.fromkeys(NAMES, 0.75))).notes == ("copied_text",)


def test_a_perfect_picture_is_an_answer_with_a_note() -> None:
    reply = changed(said(**dict.fromkeys(NAMES, 1)), "evidence", [])
    assert ask(reply).notes == ("all_best", "copied_text")


def test_a_finding_filed_under_another_rule_is_an_answer_with_a_note() -> None:
    assert ask(changed(said(), "criteria.background.evidence", ["e1"])).notes == ("wrong_rule:background",)


def test_the_best_score_may_rest_on_something_small() -> None:
    reply = changed(said(shape=1), "criteria.shape.evidence", ["e1"])
    assert ask(changed(reply, "evidence.0.severity", "note")).notes == ("wrong_rule:shape",)


def test_a_winner_that_no_criterion_prefers_is_a_contradiction() -> None:
    assert refusal(compared("A", "B", "B", "B", "B"), pairwise()) == ("semantic", "contradiction:winner")
    assert ask(compared("A", "B", "B", "tie", "B"), pairwise()).winner == "A"


# ---- any reply at all


def values(node: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Everything that a schema of ours allows."""
    if "enum" in node:
        return st.sampled_from(node["enum"])
    if "anyOf" in node:
        return st.one_of(*map(values, node["anyOf"]))
    if node["type"] == "object":
        return st.fixed_dictionaries({name: values(part) for name, part in node["properties"].items()})
    if node["type"] == "array":
        return st.lists(values(node["items"]), min_size=node.get("minItems", 0), max_size=node["maxItems"])
    return plain(node)


def plain(node: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    match node["type"]:
        case "string":
            return st.text(TEXT, min_size=1, max_size=120).filter(lambda text: text[0] != " ")
        case "integer":
            return st.integers(node["minimum"], node["maximum"])
        case "number":
            return st.floats(node["minimum"], node["maximum"])
        case _:
            return st.none()


@functools.cache
def asked() -> tuple[tuple[CriticProfile, dict[str, Any]], ...]:
    """Profiles of every kind, each with its schema."""
    profiles = (shapes(), pairwise(), variant(boxes="none"), variant(boxes="required"), of_ten_criteria())
    levels = [(profile, schema.answer_schema(profile)) for profile in profiles]
    return (*levels, (shapes(), schema.answer_schema(shapes(), continuous=True)))


@st.composite
def replies(draw: st.DrawFn) -> tuple[CriticProfile, dict[str, Any], Any]:
    profile, derived = draw(st.sampled_from(asked()))
    return profile, derived, draw(values(derived))


def answered(text: str, profile: CriticProfile, derived: Mapping[str, Any]) -> Answer | None:
    try:
        return read(text, profile, derived)
    except Unanswered as error:
        assert error.failure in ("parse", "schema", "semantic")
        assert error.detail.isascii()
        return None


def places(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    yield path, value
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        yield from places(part, (*path, name))


def put(value: Any, path: Path, new: Any) -> Any:
    """The value with another one at a place; `...` takes the place away."""
    if not path:
        return new
    value, (name, *rest) = copy.copy(value), path
    if new is ... and not rest:
        del value[name]
    else:
        value[name] = put(value[name], tuple(rest), new)
    return value


@given(replies())
def test_what_a_schema_allows_is_valid_and_no_longer_than_said(
    drawn: tuple[CriticProfile, dict[str, Any], Any],
) -> None:
    _, derived, value = drawn
    Draft202012Validator(derived).validate(value)
    assert len(json.dumps(value)) <= bounds.longest_reply_chars(derived)


@given(replies(), st.sampled_from([None, 1, 8]))
def test_what_a_schema_allows_is_read_or_refused_for_its_meaning(
    drawn: tuple[CriticProfile, dict[str, Any], Any], indent: int | None
) -> None:
    profile, derived, value = drawn
    try:
        answer = read(json.dumps(value, indent=indent), profile, derived)
    except Unanswered as error:
        assert error.failure == "semantic"
    else:
        assert {name: score.score for name, score in answer.criteria.items()} == {
            name: part.get("score") for name, part in value["criteria"].items()
        }


@settings(max_examples=30)
@given(replies(), st.data())
def test_an_unknown_a_missing_or_a_strange_part_is_never_accepted(
    drawn: tuple[CriticProfile, dict[str, Any], Any], data: st.DataObject
) -> None:
    profile, derived, value = drawn
    path, part = data.draw(st.sampled_from(list(places(value))))
    strange = {"strange": 1}
    ways = [put(value, path, {**part, **strange} if isinstance(part, dict) else strange)]
    if path and isinstance(path[-1], str):
        ways.append(put(value, path, ...))
    with pytest.raises(Unanswered, match=r"^schema: \$"):
        read(json.dumps(data.draw(st.sampled_from(ways))), profile, derived)


@settings(max_examples=30)
@given(replies(), st.data())
def test_a_damaged_text_is_refused_or_still_matches_its_schema(
    drawn: tuple[CriticProfile, dict[str, Any], Any], data: st.DataObject
) -> None:
    profile, derived, value = drawn
    text = json.dumps(value)
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    inserted = data.draw(st.text(max_size=3) | st.sampled_from(['"', "}", "0", "null", ",", "[", "-"]))
    damaged = text[:start] + inserted + text[min(end, start + 3) :]
    if answered(damaged, profile, derived) is not None:
        assert Draft202012Validator(derived).is_valid(json.loads(damaged, strict=False))


@given(st.text() | st.text('{}[]",:0123456789eE.-nul \n\\', max_size=60))
def test_any_text_at_all_is_refused_in_words(text: str) -> None:
    assert answered(text, shapes(), schema.answer_schema(shapes())) is None


# ---- going in circles


@pytest.mark.parametrize("end", [
    "no " * 100, "\n  \t" * 60, " " * 300, '{"id": "e1", "tag": "wrong_shape", "what": "x", "box": null}, ' * 5,
    "!" * 200,
])  # fmt: skip
def test_a_reply_that_ends_in_circles_is_seen(end: str) -> None:
    assert looping('{"evidence": [{"id": "e1", "what": "' + end)


@pytest.mark.parametrize("indent", [None, 2, 8])
def test_no_part_of_a_good_reply_is_taken_for_a_circle(indent: int | None) -> None:
    text = json.dumps(said(), indent=indent)
    assert not any(looping(text[:end]) for end in range(len(text) + 1))


@given(replies(), st.sampled_from([None, 1, 8]))
def test_no_reply_that_came_to_its_end_is_taken_for_a_circle(
    drawn: tuple[CriticProfile, dict[str, Any], Any], indent: int | None
) -> None:
    assert not looping(json.dumps(drawn[2], indent=indent))
