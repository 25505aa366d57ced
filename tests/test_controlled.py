"""Two manifests: which differences count, which a knob allows, and what is said of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from runner import controlled, environment
from runner.config.faults import known_paths
from runner.controlled import Names, Settings
from runner.errors import Fault
from runner.plan import PromptPlan, make_plan, manifest
from runner.prompt import compose_prompts
from tests import fakes
from tests.test_plan import CHANGES, PINS

AB = Names("run-a", "run-b")
HERE = environment.fingerprint("cpu")
MACHINE = {"host": "h", "generator.threads": 2, "generator.cpu": "AVX2"}


def written(changes: Mapping[str, Any] | None = None, **pins: Any) -> dict[str, Any]:
    """The manifest of a demo with dotted keys changed."""
    asked, pinned = fakes.request(changes), {**PINS, "lora_config": "1" * 64, **pins}
    composed = compose_prompts(asked.prompt, asked.trigger)
    prompts = [PromptPlan(p.key, p.id, p.text, {s.name: s.text for s in p.sections}, p.triggered) for p in composed]
    return manifest(
        asked, make_plan(asked, prompts, pinned, "cpu"), {}, pinned,
        run_id="x", environment=HERE, fallback=None, tokens=[],
    )  # fmt: skip


def settings(changes: Mapping[str, Any] | None = None, **pins: Any) -> Settings:
    return controlled.settings(written(changes, **pins), MACHINE)


PLAIN = settings()


def faults(b: Settings, *knobs: str) -> list[Fault]:
    return controlled.faults(PLAIN, b, knobs, AB)


def where(b: Settings, *knobs: str) -> list[str]:
    return [fault.where for fault in faults(b, *knobs)]


def test_the_same_request_twice_is_controlled() -> None:
    assert faults(settings()) == []


def test_a_difference_that_no_knob_names_is_refused_with_both_values() -> None:
    (fault,) = faults(settings({"generate.steps": 3, "generate.guidance_scale": 4.5}), "generate.steps")
    assert fault.code == "uncontrolled"
    assert str(fault) == (
        "generate.guidance_scale: is 3.0 in run-a and 4.5 in run-b. Name it with --knob generate.guidance_scale, "
        "or make run-b again with generate.guidance_scale=3.0."
    )


def test_a_knob_may_be_a_prefix_or_come_several_times() -> None:
    b = settings({"generate.steps": 3, "generate.guidance_scale": 4.5})
    assert faults(b, "generate") == []
    assert faults(b, "generate.steps", "generate.guidance_scale") == []
    assert where(b, "gen") == ["--knob gen", "generate.steps", "generate.guidance_scale"]


def test_a_knob_that_does_not_differ_is_refused_with_what_does() -> None:
    (fault,) = faults(settings({"generate.steps": 3}), "generate.steps", "lora.scale")
    assert (fault.code, fault.where) == ("knob_unchanged", "--knob lora.scale")
    assert f"{fault.what}. {fault.fix}" == "is the same in run-a and run-b. Leave it out. What differs: generate.steps"


def test_a_knob_that_is_no_key_is_refused_with_the_nearest() -> None:
    first, second = faults(settings({"generate.steps": 3}), "generate.stpes")
    assert (first.code, first.what) == ("unknown_key", "is no key of a run")
    assert first.fix == "Did you mean 'generate.steps'? Known: generate.steps"
    assert second.where == "generate.steps"


def test_a_knob_that_changes_no_result_is_refused() -> None:
    (fault,) = faults(settings({"name": "other"}), "name")
    assert fault.what == "differs, and changes no result in run-a and run-b"
    assert fault.fix == "Leave it out. What differs: nothing that can change results"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "other"), ("sweep", "s"), ("track.kind", "none"), ("hardware.wait", False), ("local.models", "/x"),
        ("storage.min_free_mib", 1), ("base_model.path", "/x"), ("lora.path", "/x"), ("critic_runtime.path", "/x"),
        ("prompt.budget.target", 3), ("critic.budget.max_unscored_share", 1.0), ("lora.accept_unknown", "why"),
    ],
)  # fmt: skip
def test_what_cannot_change_results_does_not_count(key: str, value: Any) -> None:
    b = settings({key: value})
    assert key in controlled.differences(PLAIN, b)
    assert faults(b) == []


@pytest.mark.parametrize(("key", "value"), CHANGES)
def test_whatever_changes_a_step_counts(key: str, value: Any) -> None:
    found = faults(settings({key: value}))
    assert {fault.code for fault in found} == {"uncontrolled"}
    assert "plan" not in [fault.where for fault in found]


@pytest.mark.parametrize("pin", sorted({**PINS, "lora_config": None}))
def test_other_files_count(pin: str) -> None:
    other: dict[str, Any] = {pin: {"tokenizer": "0" * 64} if pin == "tokenizers" else "0" * 64}
    (fault,) = faults(settings(None, **other))
    assert fault.where.startswith(f"pins.{pin}")
    assert fault.fix.endswith("or make one of them again with the other's files")


def test_another_lora_file_follows_from_the_lora_and_not_from_its_scale() -> None:
    other = {"lora.path": "/x", "lora.scale": 0.5}
    assert faults(settings(other, lora_sha256="0" * 64), "lora") == []
    assert faults(settings({"lora.path": "/x"}, lora_sha256="0" * 64), "lora.path") == []
    assert where(settings(other, lora_sha256="0" * 64), "lora.scale") == ["pins.lora_sha256"]


def test_other_prompts_follow_from_the_trigger_only_where_the_trigger_differs() -> None:
    assert faults(settings({"trigger.token": "<other>"}), "trigger") == []
    other = settings({"prompt.separator": ", "})
    assert where(other, "trigger")[:2] == ["--knob trigger", "prompt.items[on-blue]"]


def test_the_digest_of_a_profile_follows_from_its_criteria() -> None:
    criteria = [{**c, "evidence_below": 0.1} for c in fakes.composed()["critic"]["criteria"]]
    b = settings({"critic.criteria": criteria}, profile="0" * 64)
    assert faults(b, "critic") == []
    assert "critic.criteria[shape].evidence_below" in where(b)
    assert "pins.profile" in where(b)


def test_prompts_differ_by_text_and_by_order() -> None:
    items = fakes.composed()["prompt"]["items"]
    other = [{**items[0], "sections": {"subject": "a {trigger}", "background": "at night"}}, *items[1:]]
    (fault,) = faults(settings({"prompt.items": other}))
    assert fault.what == "is a <emblem> on a blue background in run-a and a <emblem> at night in run-b"
    assert where(settings({"prompt.items": items[::-1]})) == ["prompt.items"]
    assert faults(settings({"prompt.items": items[::-1]}), "prompt") == []


def test_another_machine_counts_and_its_threads_follow_from_the_knob() -> None:
    b = controlled.settings(written(), {**MACHINE, "generator.threads": 4, "host": "other"})
    assert where(b) == ["environment.host", "environment.generator.threads"]
    assert "make both again (run.fresh=true) on one machine with one set of versions" in faults(b)[0].fix
    more = controlled.settings(written({"runtime.num_threads": 4}), {**MACHINE, "generator.threads": 4})
    assert faults(more, "runtime.num_threads") == []


def test_another_plan_of_the_same_settings_counts() -> None:
    (fault,) = faults({**PLAIN, "plan": "0" * 64})
    assert fault.where == "plan"
    assert "one set of versions" in fault.fix


def test_every_name_in_the_tables_is_a_key_of_a_run() -> None:
    following = [name for names in controlled.FOLLOWS.values() for name in names]
    for name in (*controlled.CANNOT_CHANGE_RESULTS, *controlled.FOLLOWS, *following, *controlled.SAME_PIXELS):
        assert any(controlled.covers(name, key) for key in (*PLAIN, *known_paths())), name


def test_images_without_a_partner_are_named() -> None:
    a, b = written({"generate.images_per_prompt": 1}), written({"seed": 8})
    (fault,) = controlled.unpaired(a, b, AB)
    assert fault.what.startswith("16 images have no partner: on-blue.001 is planned in run-b alone; ")
    assert fault.evidence["images"]["on-cyan.000"].startswith("has the seed 2852378192 in run-a and ")
    assert controlled.unpaired(a, a, AB) == []


def test_long_values_are_cut_in_messages_and_whole_in_the_evidence() -> None:
    (fault,) = faults(settings({"generate.negative_prompt": "x" * 500}))
    assert f"{'x' * 80}... in run-b" in fault.what
    assert fault.evidence["b"] == "x" * 500
