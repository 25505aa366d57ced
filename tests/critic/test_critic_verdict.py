"""The record of a verdict: everything that was asked and said, and the same bytes whenever the same was said."""

from __future__ import annotations

import json
from typing import Any

from runner import store
from runner.builtin import world
from runner.contract.profile import profile_digest
from runner.critic import ask, verdict
from runner.critic.question import Question, Reply, Unanswered
from tests.critic import asking
from tests.critic.test_critic_ask import Scripted, failing

GREY = asking.picture(b"no picture")


def recorded(question: Question, *script: Reply | Unanswered) -> tuple[dict[str, Any], dict[str, Any]]:
    backend = Scripted([*script])
    judged = ask.judge(backend, question)
    record = verdict.record_of(question, judged, backend.identity, structured=True)
    return record, verdict.facts_of(question, judged, record, verdict.key_of(question, backend.identity))


def test_a_verdict_names_image_profile_request_model_and_sampling() -> None:
    question = asking.question()
    record, _ = recorded(question)
    assert record["image"] == question.images[0].digest
    assert record["profile"] == {"id": "shapes", "version": 2, "digest": profile_digest(question.profile)}
    assert record["model"] == {"backend": "scripted"}
    assert record["sampling"]["max_tokens"] == 900
    assert "a red star on a blue background" in record["request"]["text"]
    assert store.is_name(record["request"]["digest"])


def test_a_scored_verdict_has_scores_findings_advice_and_the_raw_reply() -> None:
    wrong = asking.question("a red star on a blue background", asking.picture(world.Scene("star", "red", "pink")))
    record, facts = recorded(wrong)
    assert (record["status"], record["reason"]) == ("scored", None)
    assert record["tags"] == facts["tags"] == [record["findings"][0]["tag"]]
    assert (facts["scores"]["background"], facts["scores"]["colour"]) == (0.0, 1.0)
    assert record["rules"] == [record["findings"][0]["rule"]]
    assert record["advice"]["recommend"] == facts["advice"] == "reject"
    assert json.loads(record["attempts"][0]["reply"])["criteria"]["background"]["score"] == 0


def test_what_was_not_judged_has_no_score_and_not_a_0() -> None:
    record, facts = recorded(asking.question())
    assert record["criteria"]["concept"]["score"] is None
    assert "concept" not in facts["scores"]


def test_an_unscored_verdict_has_class_and_detail_and_every_raw_reply() -> None:
    record, facts = recorded(asking.question(), *[Reply("I would say it is fine.")] * 3)
    assert (record["status"], record["criteria"], record["advice"]) == ("unscored", {}, None)
    assert record["reason"].startswith("parse: ")
    assert [attempt["reply"] for attempt in record["attempts"]] == ["I would say it is fine."] * 3
    assert (facts["scores"], facts["num_attempts"], facts["retried"]) == ({}, 3, ["parse"] * 3)


def test_the_same_answer_is_the_same_bytes_and_times_stand_beside_it() -> None:
    first, facts = recorded(asking.question())
    again, _ = recorded(asking.question())
    assert store.canonical(first) == store.canonical(again)
    assert "latency_s" in facts and "latency_s" not in json.dumps(first)


def test_bytes_that_do_not_decode_have_no_request_and_still_a_record() -> None:
    record, _ = recorded(asking.question("x", GREY), failing("image_not_seen"))
    assert (record["request"]["digest"], record["status"]) == (None, "unscored")


def keys(**changes: Any) -> str:
    backend = Scripted([])
    backend.identity = changes.pop("identity", backend.identity)
    return verdict.key_of(asking.question(changes.pop("text", asking.SENTENCE), **changes), backend.identity)


def test_the_key_changes_with_all_that_could_change_the_answer() -> None:
    profile = asking.profile()
    others = [
        keys(text="a blue star"),
        keys(identity={"backend": "scripted", "weights": "b"}),
        keys(profile=asking.profile(version=3)),
        keys(profile=asking.profile(sampling=profile.sampling.model_copy(update={"seed": 5}))),
        verdict.key_of(asking.question(asking.SENTENCE, asking.picture(b"other")), Scripted([]).identity),
    ]
    assert len({keys(), *others}) == len(others) + 1


def test_the_key_does_not_change_with_the_budget() -> None:
    budget = asking.profile().budget.model_copy(update={"timeout_s": 1.0})
    assert keys(profile=asking.profile(budget=budget)) == keys()
