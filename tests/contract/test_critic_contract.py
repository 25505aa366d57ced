"""Critic, runtime and stages: each rule with its code and its exact words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from runner.config.critic import OpenAIRuntime
from runner.contract import critic, critic_server
from runner.contract import profile as profiles
from tests import fakes
from tests.contract.critics import external, profile, said

SERVERS = sorted(
    {path.stem for path in (fakes.ROOT / "conf/critic_runtime").glob("*.yaml")} - {"none", "shapes_clip", "in_process"}
)
ONE, TWO = "20261122-aaaa", "20261122-bbbb"


# ---- together or not at all


def test_the_demo_has_a_critic_that_fits() -> None:
    assert said(critic.check_critic(fakes.request())) == []


@pytest.mark.parametrize(
    ("words", "changes", "messages"),
    [
        (("critic=none",), {}, [
            "critic_missing: critic: is none, and stages asks for critique. "
            "Choose critic=shapes critic_runtime=shapes_clip, or stages=[generate]."]),
        (("critic_runtime=none",), {}, [
            "critic_missing: critic_runtime: is none, and stages asks for critique. "
            "Choose critic=shapes critic_runtime=shapes_clip, or stages=[generate]."]),
        ((), {"stages": ["generate"]}, [
            "setting_ignored: critic: shapes would be ignored: stages has no critique. "
            "Choose critic=none, or stages=[generate,critique]."]),
        ((), {"stages": ["generate"], "critic": None}, [
            "setting_ignored: critic_runtime: shapes_clip would be ignored: stages has no critique. "
            "Choose critic_runtime=none."]),
        (("critic=none",), {"stages": ["generate"]}, []),
        ((), {"critique.against": TWO}, [
            f"setting_ignored: critique.against: {TWO} would be ignored: critic shapes judges one image at a time. "
            "Leave it out, or choose critic=pair."]),
        ((), {"critic.sampling.seed": 2}, [
            "profile_changed_without_version: critic.version (2): shapes is not what it was locked as: "
            "sampling.seed: was 1, is 2. "
            "Put it back (on the command line: leave it out), raise critic.version and run "
            "`python -m runner critic lock`, or give a copy a name of its own: profile: NAME, version: 1."]),
        ((), {"critic.sampling.seed": 2, "critic.version": 99}, []),
        ((), {"critic.budget.timeout_s": 1.0}, []),
        ((), {"critic_runtime.path": "nowhere"}, [
            "critic_missing: critic_runtime.path: nowhere is not there. Name the folder that holds the model."]),
        (("critic=pair",), {}, [
            "missing_value: critique.against: is null, and critic pair compares pairs. "
            "Name two finished runs of the same prompts and seed, critique.images_of=RUN critique.against=RUN.",
            "critic_unsuited: critic_runtime: shapes_clip is an embedding model, which scores one image at a time; "
            "pair compares pairs. Choose a runtime with a language model, or critic=shapes."]),
    ],
)  # fmt: skip
def test_stages_critic_and_runtime_go_together(
    words: tuple[str, ...], changes: Mapping[str, Any], messages: list[str]
) -> None:
    assert said(critic.check_critic(fakes.request(changes, "demo", *words))) == messages


def test_two_runs_make_pairs() -> None:
    asked = fakes.request({"critique.images_of": ONE, "critique.against": TWO}, "demo", "critic=pair")
    assert [fault.code for fault in critic.check_critic(asked)] == ["critic_unsuited"]


@pytest.mark.parametrize(
    ("version", "answer", "more"),
    [
        (2, "agrees", "is in the lock"),
        (99, "cannot tell", "is not in the lock yet: `python -m runner critic lock` adds it"),
    ],
)
def test_the_contract_card_says_whether_a_profile_is_locked(version: int, answer: str, more: str) -> None:
    asked = fakes.request({"critic.version": version})
    [finding] = critic.findings(asked)
    digest = profiles.profile_digest(profile({"version": version}))[:12]
    assert (finding.question, finding.answer) == ("critic profile", answer)
    assert finding.evidence == f"shapes version {version} ({digest}) {more}"


def test_without_a_critic_the_card_says_nothing_of_one() -> None:
    asked = fakes.request({"stages": ["generate"]}, "demo", "critic=none")
    assert list(critic.findings(asked)) == []


# ---- a runtime against a profile


@pytest.mark.parametrize(
    ("name", "changes", "runtime", "messages"),
    [
        ("product_concept", {}, external(), []),
        ("product_concept", {}, external(context=4096), [
            "critic_unsuited: critic_runtime.context: is 4096; critic product_concept needs 8192. "
            "Give the runtime more context, or choose another critic."]),
        ("pair", {}, external(), [
            "critic_unsuited: critic_runtime.max_images: is 1; critic pair sends 2 and 0 of examples. "
            "Set it to 2 (and the server's own limit), or lower critic.retrieval.num_examples."]),
        ("product_concept", {"retrieval.num_examples": 3}, external(max_images=3), [
            "critic_unsuited: critic_runtime.max_images: is 3; critic product_concept sends 1 and 3 of examples. "
            "Set it to 4 (and the server's own limit), or lower critic.retrieval.num_examples."]),
        ("product_concept", {"sampling.thinking": True}, external(), [
            "setting_ignored: critic.sampling.thinking: true would be ignored: critic_runtime.thinking_switch is "
            "false, so the server is not told. Set critic_runtime.thinking_switch=true."]),
        ("product_concept", {"sampling.thinking": True}, external(thinking_switch=True), []),
    ],
)  # fmt: skip
def test_a_server_must_be_able_to_do_what_a_profile_asks(
    name: str, changes: Mapping[str, Any], runtime: OpenAIRuntime, messages: list[str]
) -> None:
    assert said(critic.check_suited(profile(changes, name), runtime)) == messages


@pytest.mark.parametrize("name", ["product_concept", "lora_portrait", "pair"])
@pytest.mark.parametrize("runtime", SERVERS)
def test_every_shipped_server_can_run_every_profile_for_one(name: str, runtime: str) -> None:
    server = OpenAIRuntime.model_validate(fakes.composed("demo", f"critic_runtime={runtime}")["critic_runtime"])
    faults = [*critic_server.check_server(server), *critic.check_suited(profile({}, name), server)]
    assert said(faults) == []


def test_an_embedding_model_answers_only_what_a_profile_tells_it_how() -> None:
    asked = fakes.request({}, "demo", "critic=lora_portrait")
    assert said(critic.check_critic(asked)) == [
        "critic_unsuited: critic_runtime: shapes_clip is an embedding model; lora_portrait does not say how one "
        "answers identity, face_anatomy, hands, skin, eyes, hair, lighting, style_match, prompt_match, background. "
        "Choose a runtime with a language model, or critic=shapes."
    ]


def test_an_embedding_model_is_shown_no_examples() -> None:
    runtime = fakes.request().critic_runtime
    assert runtime is not None
    examples = {"retrieval.source": "decisions", "retrieval.num_examples": 2}
    assert said(critic.check_suited(profile(examples), runtime)) == [
        "setting_ignored: critic.retrieval.num_examples: 2 would be ignored: shapes_clip is an embedding model. "
        "Set critic.retrieval.source=none."
    ]
