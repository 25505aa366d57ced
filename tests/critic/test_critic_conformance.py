"""What every backend promises, asked of every backend: one suite, no exceptions but a clip that cannot be cut short."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from runner.critic import ask, exam, exam_pictures
from runner.critic.question import FAILURES, Backend, Question, Reply, Unanswered
from tests.critic import backends
from tests.critic.backends import SUBJECTS, Subject

FINISHES = {"stop", "length", "repetition", "refused"}
STRANGE = 'żółć 🎨 "quoted" \\ {{ 7 * 7 }} {% raw %} <|im_end|>\n<think></s>[INST] \u2028 \u202e {"score": 1}'


@pytest.fixture(scope="module", params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> Subject:
    return SUBJECTS[request.param]


@pytest.fixture(scope="module")
def backend(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """One that all tests ask; those that end it open their own."""
    with subject.open(tmp_path_factory.mktemp("backend")) as opened:
        yield opened


def _said(backend: Backend, question: Question) -> Reply:
    return backend.ask(question, backends.attempt())


def _matches(reply: Reply, question: Question) -> bool:
    return bool(Draft202012Validator(question.schema).is_valid(json.loads(reply.text)))


@pytest.fixture(scope="module")
def heard(backend: Backend) -> list[tuple[Question, Reply]]:
    """What it says, one after another, to the same prompt with each picture."""
    questions = [backends.question(backend, number) for number in exam_pictures.NUMBERS[:3]]
    return [(question, _said(backend, question)) for question in questions]


def test_a_reply_matches_the_schema(heard: list[tuple[Question, Reply]]) -> None:
    ended = [(question, reply) for question, reply in heard if reply.finish == "stop"]
    assert {reply.finish for _, reply in heard} <= FINISHES
    assert ended
    assert all(_matches(reply, question) for question, reply in ended)


def test_the_picture_is_looked_at(heard: list[tuple[Question, Reply]]) -> None:
    assert len({reply.text for _, reply in heard}) > 1


def test_the_same_question_gets_the_same_answer(backend: Backend, heard: list[tuple[Question, Reply]]) -> None:
    question, reply = heard[0]
    assert _said(backend, question).text == reply.text


def test_asked_at_once_each_gets_its_own_answer(backend: Backend, heard: list[tuple[Question, Reply]]) -> None:
    with ThreadPoolExecutor(len(heard)) as pool:
        together = pool.map(lambda one: _said(backend, one[0]), heard)
        assert [reply.text for reply in together] == [reply.text for _, reply in heard]


def test_a_picture_that_does_not_decode_is_not_seen(backend: Backend) -> None:
    with pytest.raises(Unanswered, match=r"image_not_seen: .*does not decode"):
        _said(backend, backends.question(backend, data=b"\x89PNG\r\n\x1a\n and no more"))


def test_little_room_cuts_the_reply(backend: Backend, subject: Subject) -> None:
    if not subject.decodes:
        pytest.skip("it decodes no tokens")
    reply = backend.ask(backends.question(backend), backends.attempt(max_tokens=8))
    assert reply.finish == "length"


def test_markup_and_any_script_in_a_prompt_are_only_text(backend: Backend) -> None:
    question = backends.question(backend, text=STRANGE)
    reply = _said(backend, question)
    assert reply.finish in FINISHES
    assert reply.finish != "stop" or _matches(reply, question)


def test_stopping_when_nothing_is_asked_changes_nothing(backend: Backend) -> None:
    backend.cancel()
    assert _said(backend, backends.question(backend)).finish in FINISHES


def test_every_ending_is_an_answer_or_a_known_failure(backend: Backend) -> None:
    judged = ask.judge(backend, backends.question(backend))
    assert judged.failure in {None, *FAILURES}
    assert (judged.answer is None) == (judged.failure is not None)


def test_the_exam_passes_who_is_right_and_nobody_else(backend: Backend, subject: Subject) -> None:
    taken = exam.take(backend, backends.profile(), ask.judge)
    assert taken.passed == subject.judges, taken.checks
    assert taken.checks[0].passed, "every one of them decodes under the schema"


def test_its_identity_is_the_same_next_time_and_tells_no_secret(subject: Subject, tmp_path: Path) -> None:
    told = []
    for name in ("one", "other"):
        (place := tmp_path / name).mkdir()
        with subject.open(place) as opened:
            told.append(json.dumps(dict(opened.identity), sort_keys=True))
    assert told[0] == told[1]
    assert backends.KEY not in told[0]
    assert re.search(r"127\.0\.0\.1|localhost|/tmp|/home|/root|\.cache", told[0]) is None
    assert len(json.loads(told[0])) > 1


def test_a_closed_one_says_so(subject: Subject, tmp_path: Path) -> None:
    with subject.open(tmp_path) as opened:
        question = backends.question(opened)
        opened.close()
        opened.close()
        with pytest.raises(Unanswered) as refusal:
            _said(opened, question)
    assert refusal.value.failure in ("runtime_down", "cancelled")
    assert refusal.value.detail
