"""Plain values become a typed request, or every fault of it at once."""

from __future__ import annotations

from typing import Any

import pytest

from runner import config
from runner.errors import Refused
from tests import fakes


def said(changes: dict[str, Any]) -> list[str]:
    with pytest.raises(Refused) as refusal:
        fakes.request(changes)
    return str(refusal.value).splitlines()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("generate.steps", "ten", "is 'ten'. It should be a valid integer."),
        ("generate.steps", 0, "is 0. It should be greater than or equal to 1."),
        ("generate.width", 65, "is 65. It should be a multiple of 8."),
        ("generate.images_per_prompt", 0, "is 0. It should be greater than or equal to 1."),
        ("generate.guidance_scale", float("inf"), "is inf. It should be a finite number."),
        ("lora.scale", float("nan"), "is nan. It should be a finite number."),
        ("seed", 2**32, "is 4294967296. It should be less than 4294967296."),
        ("seed", 1.5, "is 1.5. It should be a valid integer."),
        ("seed", True, "is True. It should be a valid integer."),
        ("generate.steps", "10", "is '10'. It should be a valid integer."),
        ("hardware.wait", 1, "is 1. It should be a valid boolean."),
        ("track.thumbnails", "yes", "is 'yes'. It should be a valid boolean."),
        ("lora.scale", True, "is True. It should be a valid number."),
        ("name", 7, "is 7. It should be a valid string."),
        ("local.models", None, "is None. It should be a valid string."),
        ("track.timeout_s", 0, "is 0. It should be greater than 0."),
        ("mode", "lorra", "is 'lorra'. It should be 'base' or 'lora'."),
        ("name", "a b", "is 'a b'. It should match pattern '^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$'."),
        ("outputs", None, "is None. It should be a valid string."),
        ("outputs", "", "is ''. It should have at least 1 character."),
        *(
            ("trigger.token", token, rf"is {token!r}. It should match pattern '^\S(.*\S)?$'.")
            for token in ("", " x", "x ")
        ),
        ("lora.sha256", "abc", "is 'abc'. It should match pattern '^[0-9a-f]{64}$'."),
    ],
)
def test_a_wrong_value_is_named_with_what_it_should_be(key: str, value: object, message: str) -> None:
    assert said({key: value}) == [f"- {key}: {message}"]


def test_a_missing_value_is_named_with_how_to_give_it() -> None:
    assert said({"generate.width": "???"}) == [
        "- generate.width: has no value. Set it in the experiment file or with `generate.width=VALUE`."
    ]


def test_an_unknown_key_is_named_with_the_nearest_one() -> None:
    assert said({"generate.stpes": 10}) == [
        "- generate.stpes: is not a setting (given 10). Did you mean 'generate.steps'?"
    ]


def test_a_section_left_out_is_a_missing_value() -> None:
    values = fakes.composed()
    del values["lora"]
    with pytest.raises(Refused, match=r"^- lora: has no value\. Set it in the experiment file or with `lora=VALUE`\.$"):
        config.parse_request(values)


def test_every_fault_is_said_at_once() -> None:
    assert said({"generate.steps": 0, "mode": "lorra", "lora.scale": 9, "generate.stpes": 1}) == [
        "- mode: is 'lorra'. It should be 'base' or 'lora'.",
        "- lora.scale: is 9. It should be less than or equal to 4.",
        "- generate.steps: is 0. It should be greater than or equal to 1.",
        "- generate.stpes: is not a setting (given 1). Did you mean 'generate.steps'?",
    ]


def test_an_unknown_stage_is_one_fault() -> None:
    assert said({"stages": ["foo"]}) == ["- stages[0]: is 'foo'. It should be 'generate' or 'critique'."]


def test_a_bad_prompt_item_is_one_fault() -> None:
    item = {"id": "a b", "sections": {"subject": "a {trigger}"}}
    assert said({"prompt.items": [item]}) == [
        "- prompt.items[0].id: is 'a b'. It should match pattern '^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$'."
    ]


def test_an_empty_list_reads_as_a_sentence() -> None:
    assert said({"prompt.items": []}) == ["- prompt.items: is empty. Give at least one entry."]
    assert said({"stages": []}) == ["- stages: is empty. Give at least one entry."]


@pytest.mark.parametrize("experiment", ["demo", "demo_base", "trigger_probe", "sdxl_lora", "flux2_lora"])
def test_a_request_reads_back_as_itself(experiment: str) -> None:
    asked = fakes.request({}, experiment)
    assert config.parse_request(asked.model_dump(mode="json")) == asked
