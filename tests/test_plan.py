"""A request becomes steps: digests over what changes a result, seeds that do not depend on a place in a list."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import journal, store
from runner.config.changes import changed_fields
from runner.plan import Plan, PromptPlan, image_seeds, make_plan, manifest
from runner.prompt import compose_prompts
from tests import fakes

PINS: Mapping[str, Any] = {
    "base_sha256": "a" * 64, "base_files": "f" * 64, "lora_sha256": "b" * 64, "critic_files": "c" * 64,
    "tokenizers": {"tokenizer": "d" * 64}, "profile": "e" * 64,
}  # fmt: skip


def image_seed(root: int, of: PromptPlan, number: int) -> int:
    """The seed of one image."""
    return list(image_seeds(root, of, number + 1))[number]


def prompt(name: str, text: str = "a star", arm: str = "") -> PromptPlan:
    return PromptPlan(f"{name}.{arm}" if arm else name, name, text, {"subject": text}, triggered=False)


def plan(changes: Mapping[str, Any] | None = None, pins: Mapping[str, Any] = PINS, device: str = "cpu") -> Plan:
    asked = fakes.request(changes)
    composed = compose_prompts(asked.prompt, asked.trigger)
    prompts = [PromptPlan(p.key, p.id, p.text, {s.name: s.text for s in p.sections}, p.triggered) for p in composed]
    return make_plan(asked, prompts, pins, device)


def digests(of: Plan, kind: str) -> list[str]:
    return [step.digest for step in of.steps if step.kind == kind]


# ---- seeds


@pytest.mark.parametrize(("root", "number", "seed"), [(7, 0, 0x133BB88E), (7, 1, 0x2B865FAF), (0, 0, 0xA8D4D01A)])
def test_a_seed_is_the_first_32_bits_of_a_digest(root: int, number: int, seed: int) -> None:
    assert image_seed(root, prompt("on-blue"), number) == seed


@pytest.mark.parametrize("name", ["p", "p.with", "p.without"])
def test_both_arms_of_a_probe_share_their_seeds(name: str) -> None:
    seeds = {image_seed(7, prompt(name, arm=arm), 0) for arm in ("with", "without")}
    assert seeds == {image_seed(7, prompt(name), 0)}


def test_a_prompt_of_another_name_has_another_seed() -> None:
    assert image_seed(7, prompt("p"), 0) != image_seed(7, prompt("p.with"), 0)


@given(st.integers(0, 2**32 - 1), st.text(max_size=8), st.integers(0, 200))
def test_every_seed_fits_a_generator_and_comes_again(root: int, name: str, number: int) -> None:
    seed = image_seed(root, prompt(name), number)
    assert 0 <= seed < 2**32
    assert seed == image_seed(root, prompt(name, "another text"), number)


@given(st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1), st.integers(1, 3))
def test_adding_or_moving_a_prompt_moves_no_other_seed(names: list[str], each: int) -> None:
    def seeds(of: Sequence[str]) -> dict[str, int]:
        asked = fakes.request({"generate.images_per_prompt": each})
        return {i.key: i.seed for i in make_plan(asked, [prompt(name) for name in of], PINS, "cpu").images}

    before, after = seeds(names), seeds(["zzz", *reversed(names)])
    assert before.items() <= after.items()


# ---- steps


def test_reviews_have_a_step_of_their_own_size() -> None:
    of = plan({"generate.images_per_prompt": 9})
    assert [len(step.images) for step in of.steps if step.kind == "critique"] == [64, 8]


def test_images_are_batched_in_order_and_every_stage_has_every_image() -> None:
    of = plan({"generate.batch_size": 3, "generate.images_per_prompt": 2})
    assert [(step.kind, len(step.images)) for step in of.steps] == [
        *(("generate", size) for size in (3, 3, 3, 3, 3, 1)), ("critique", 16),
    ]  # fmt: skip
    assert of.num_expected == {"image": 16, "verdict": 16}
    assert of.steps[0].items == ("image/on-blue.000", "image/on-blue.001", "image/on-white.000")


CHANGES: list[tuple[str, Any]] = [
    ("seed", 8), ("mode", "base"), ("base_model.id", "other"), ("lora.id", "other"),
    ("trigger.token", "<other>"), ("lora.scale", 0.5), ("prompt.separator", ", "),
    ("prompt.overflow", "truncate"), ("base_model.pipeline", "FluxPipeline"), ("generate.width", 128),
    ("generate.height", 128), ("generate.steps", 9), ("generate.guidance_scale", 5.0),
    ("generate.scheduler", "DDIMScheduler"), ("generate.negative_prompt", "ugly"), ("generate.batch_size", 4),
    ("runtime.dtype", "bfloat16"), ("runtime.offload", "model"), ("runtime.attention", "sdpa"),
    ("runtime.channels_last", False), ("runtime.compile", True), ("runtime.num_threads", 1),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), CHANGES)
def test_what_changes_an_image_changes_every_step(key: str, value: object) -> None:
    before, after = plan(), plan({key: value})
    assert before.identity != after.identity
    for kind in ("generate", "critique"):
        assert not set(digests(before, kind)) & set(digests(after, kind))


def test_a_token_that_stands_in_no_prompt_changes_every_step_too() -> None:
    items = {"prompt.items": ["a star"], "trigger.mode": "forbidden"}
    before, after = plan(items), plan({**items, "trigger.token": "<other>"})
    assert not {step.digest for step in before.steps} & {step.digest for step in after.steps}


def test_an_image_of_another_key_is_another_step() -> None:
    """Two arms of a probe may have the same text and seed."""
    asked = fakes.request({"generate.images_per_prompt": 1})
    arms = [make_plan(asked, [prompt("p", arm=arm)], PINS, "cpu") for arm in ("with", "without")]
    assert arms[0].images[0].seed == arms[1].images[0].seed
    assert not {step.digest for step in arms[0].steps} & {step.digest for step in arms[1].steps}


SETTINGS = (  # written out by hand: keys in order, no spaces
    '{"base":["shapes","StableDiffusionPipeline","' + "f" * 64 + '"],"device":"cpu",'
    '"generate":{"guidance_scale":3.0,"height":64,"negative_prompt":"","scheduler":null,"steps":8,"width":64},'
    '"lora":["emblem","' + "b" * 64 + '",1.0],"mode":"lora","overflow":"error",'
    '"runtime":{"attention":"default","channels_last":true,"compile":false,"dtype":"float32","num_threads":null,'
    '"offload":"none"},"tokenizers":{"tokenizer":"' + "d" * 64 + '"},"trigger":"<emblem>"}'
)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_steps_and_plan_have_the_digests_of_their_canonical_text() -> None:
    of = make_plan(fakes.request({"generate.images_per_prompt": 1}), [prompt("p")], PINS, "cpu")
    made = sha256(SETTINGS)
    judged = sha256(
        '{"command":null,"critic":"' + "c" * 64 + f'","examples":[],"made":["{made}",8],"profile":"' + "e" * 64
        + '","runtime":{"backend":"clip"}}'
    )  # fmt: skip
    image = '[["p.000","a star",false,1289533396]]'  # printf '[7,"p",0]' | sha256sum, first 8 digits
    steps = [
        sha256(f'["generate",1,"{made}",{image},[]]'),
        sha256(f'["critique",2,"{judged}",{image},[{{"subject":"a star"}}]]'),
    ]
    assert [step.digest for step in of.steps] == steps
    assert of.identity == sha256(f'[["{steps[0]}",["image/p.000"]],["{steps[1]}",["verdict/p.000"]]]')


@pytest.mark.parametrize("pin", ["base_files", "lora_sha256", "lora_config", "tokenizers"])
def test_other_weights_are_other_steps(pin: str) -> None:
    after = plan(pins={**PINS, pin: {"tokenizer": "0"} if pin == "tokenizers" else "0" * 64})
    assert not {step.digest for step in plan().steps} & {step.digest for step in after.steps}


def test_another_kind_of_device_is_other_steps() -> None:
    assert plan(device="cuda").identity != plan(device="cpu").identity


@pytest.mark.parametrize("pin", ["profile", "critic_files"])
def test_another_critic_judges_the_same_images_again(pin: str) -> None:
    before, after = plan(), plan(pins={**PINS, pin: "0" * 64})
    assert digests(before, "generate") == digests(after, "generate")
    assert not set(digests(before, "critique")) & set(digests(after, "critique"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "other"), ("outputs", "/elsewhere"), ("output", "json"), ("until", "plan"), ("sweep", "s"),
        ("run.fresh", True), ("run.id", "x"), ("track.kind", "none"), ("track.uri", "http://localhost"),
        ("track.experiment", "x"), ("track.thumbnails", False), ("track.timeout_s", 3), ("storage.min_free_mib", 1),
        ("hardware.id", "x"), ("hardware.index", 1), ("hardware.wait", False), ("hardware.on_missing", "cpu"),
        ("base_model.path", "/x"), ("lora.path", "/x"), ("critic_runtime.path", "/x"),
        ("critic.budget.timeout_s", 3.0), ("local.models", "/x"),
        ("prompt.budget.target", 3), ("lora.accept_unknown", "why"), ("base_model.repository", "me/x"),
    ],
)  # fmt: skip
def test_what_changes_no_image_changes_no_step(key: str, value: object) -> None:
    assert plan().identity == plan({key: value}).identity


def test_more_prompts_keep_the_steps_that_were_there() -> None:
    items = fakes.composed()["prompt"]["items"]
    few, all_of_them = plan({"prompt.items": items[:4]}), plan()
    assert digests(few, "generate") == digests(all_of_them, "generate")[: len(digests(few, "generate"))]


# ---- the manifest


def whole_manifest() -> dict[str, Any]:
    return manifest(
        fakes.request(), plan(), {"digest": "x"}, PINS,
        run_id="demo-1", environment={"device": "cpu"}, fallback=None, tokens=[],
    )  # fmt: skip


def test_a_manifest_is_canonical_json_and_reads_back() -> None:
    data = store.canonical(whole_manifest())
    assert store.canonical(json.loads(data)) == data


def test_a_manifest_lists_every_image_with_its_prompt_and_seed() -> None:
    written = whole_manifest()
    images = [(key, written["prompts"][place]["key"], seed) for key, place, seed in written["images"]]
    assert images == [(i.key, i.prompt.key, i.seed) for i in plan().images]
    assert written["expected"] == {"images": 16, "verdicts": 16}


def test_a_manifest_has_everything_that_reading_one_asks_for() -> None:
    written = whole_manifest()
    assert set(journal.REQUIRED) <= written.keys()
    assert {(p["key"], p["id"]) for p in written["prompts"]} == {(i.prompt.key, i.prompt.id) for i in plan().images}


def test_a_manifest_keeps_the_request_but_not_where_and_how_it_was_typed() -> None:
    kept = fakes.request().model_dump(mode="json").keys() - whole_manifest()["request"].keys()
    assert kept == {"until", "output", "run", "outputs"}


@pytest.mark.parametrize(("device", "word"), [("cpu", "exact"), ("cuda", "best_effort")])
def test_a_manifest_says_how_repeatable_the_run_is(device: str, word: str) -> None:
    written = manifest(
        fakes.request(), plan(), {}, PINS, run_id="x", environment={"device": device}, fallback=None, tokens=[]
    )
    assert written["repeatable"] == word


@pytest.mark.parametrize(
    ("before", "now", "lines"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, ["a.b: was 1, is 2"]),
        ({"a": 1}, {"b": 1}, ["a: was 1, is None", "b: was None, is 1"]),
        (None, {"a": 1}, [": was None, is {'a': 1}"]),
    ],
)
def test_changed_fields_are_named_with_both_values(before: Any, now: Any, lines: list[str]) -> None:
    assert changed_fields(before, now) == lines
