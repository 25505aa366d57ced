"""The exam lets honest critics through and no bad one, says what was wrong, and gives up on one that is not there."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from runner import store
from runner.config.critic import CriticProfile
from runner.critic import ask, exam, exam_pictures, request, schema
from runner.critic.answer import Answer, Score
from runner.critic.ask import Judged
from runner.critic.exam import Exam
from runner.critic.exam_pictures import BLANK, NUMBERS, OTHER, SCENES
from runner.critic.question import Backend, Question
from tests import fakes
from tests.critic import backends, bad_critics, looking, speaking
from tests.critic.bad_critics import BAD, CHANCES, HONEST, Mute, Speaker

NUM_SEEDS = 200
EVEN_IN_PAIRS = ("always first", "blind", "constant", "believer", "one behind", "inverted", "alternating", "rambling")


@functools.cache
def profile(mode: str = "pointwise", structured_output: str = "any") -> CriticProfile:
    shipped = fakes.request().critic
    assert shipped is not None
    requires = shipped.requires.model_copy(update={"structured_output": structured_output})
    return shipped.model_copy(update={"mode": mode, "requires": requires})


def taken(backend: Backend, asked: CriticProfile | None = None) -> Exam:
    return exam.take(backend, asked or profile(), ask.judge)


def failed(result: Exam) -> set[str]:
    return {check.name for check in result.checks if not check.passed}


def what(result: Exam, name: str) -> str:
    return next(check.what for check in result.checks if check.name == name)


def quickly(backend: Backend, question: Question, asker: object) -> Judged:
    """What a critic says, taken without writing and reading it: thousands of exams in seconds."""
    assert isinstance(backend, Speaker)
    marks = [each["colour"] for each in backend.says(question)]
    wanted = question.schema["properties"]["criteria"]["properties"]["colour"]["properties"]
    if "winner" in wanted:
        first, second = (mark or 0.0 for mark in marks)
        said = Score(None, "A" if first > second else "B" if second > first else "tie", "quick", (), ())
    else:
        said = Score(looking.level(marks[0], wanted["score"]), None, "quick", (), ())
    return Judged(Answer((), {"colour": said}, "high", None, False), None, None)


# ---- who passes


@pytest.mark.parametrize("kind", HONEST)
def test_an_honest_critic_passes(kind: str) -> None:
    result = taken(HONEST[kind]())
    assert result.passed, result.checks
    assert [check.name for check in result.checks] == ["schema", "good", "blank", "swapped", "order", "repeat"]


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_critic_does_not_pass(kind: str) -> None:
    assert not taken(BAD[kind](0)).passed


@pytest.mark.parametrize("kind", CHANCES)
def test_no_critic_that_guesses_passes_by_luck(kind: str) -> None:
    lucky = [seed for seed in range(NUM_SEEDS) if exam.take(CHANCES[kind](seed), profile(), quickly).passed]
    assert lucky == []


@pytest.mark.parametrize("kind", [name for name in BAD if name not in CHANCES and name != "rambling"])
def test_a_bad_critic_fails_whatever_its_seed(kind: str) -> None:
    lucky = [seed for seed in range(20) if exam.take(BAD[kind](seed), profile(), quickly).passed]
    assert lucky == []


@pytest.mark.slow
def test_a_coin_passes_less_than_once_in_a_thousand() -> None:
    lucky = sum(exam.take(CHANCES["coin"](seed), profile(), quickly).passed for seed in range(20_000))
    assert lucky < 20


SHIPPED = sorted(path.stem for path in (fakes.ROOT / "conf" / "critic").glob("*.yaml") if path.stem != "none")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_profile_tells_an_honest_critic_from_one_that_believes_its_prompt(name: str) -> None:
    shipped = fakes.request(None, "demo", f"critic={name}").critic
    assert taken(HONEST["in levels"](), shipped).passed
    assert not taken(BAD["believer"](0), shipped).passed


@pytest.mark.parametrize("mode", ["blind", "constant", "swapped", "prose", "wrong_keys", "thinking", "refusal"])
def test_a_bad_critic_behind_a_real_server_does_not_pass(mode: str) -> None:
    with speaking.serve(mode, key=backends.KEY) as url, backends.openai(url, "critic") as backend:
        assert not taken(backend, backends.profile()).passed


# ---- what gives each of them away


@pytest.mark.parametrize(
    ("kind", "checks"),
    [
        ("believer", {"blank", "swapped"}),
        ("always null", {"good", "swapped", "order", "repeat"}),
        ("wavering", {"repeat"}),
        ("sticky", {"order", "repeat"}),
        ("inverted", {"good", "blank", "swapped"}),
        ("rambling", {"good"}),
    ],
)
def test_each_is_caught_by_the_checks_made_for_it(kind: str, checks: set[str]) -> None:
    assert failed(taken(BAD[kind](0))) == checks


def test_a_bad_critic_is_told_apart_in_words_with_its_numbers() -> None:
    result = taken(BAD["believer"](0))
    assert what(result, "good") == "scored 1 1 1 1; 0.7 or more wanted"
    assert what(result, "swapped") == "scored 1 1 1 1 against 1 1 1 1; 0.4 less wanted"


def test_an_answer_that_is_none_is_told_with_its_reason() -> None:
    assert what(taken(BAD["rambling"](0)), "good") == (
        "scored parse parse parse parse; 0.7 or more wanted (Expecting value at character 0)"
    )


def test_to_say_that_grey_cannot_be_judged_is_honest() -> None:
    def says(question: Question) -> Any:
        grey = question.images[0] == exam_pictures.pictures()[BLANK]
        return bad_critics.always(None)(question) if grey else bad_critics.honest(question)

    assert taken(Speaker(says)).passed


def test_to_say_that_a_wrong_picture_cannot_be_judged_is_not() -> None:
    def says(question: Question) -> Any:
        marks = bad_critics.honest(question)
        return marks if marks[0]["all"] == 1 else bad_critics.always(None)(question)

    assert failed(taken(Speaker(says))) == {"swapped"}


# ---- the canary


def test_a_profile_that_needs_a_grammar_is_not_judged_without_one() -> None:
    result = taken(HONEST["without a grammar"](), profile(structured_output="enforced"))
    assert (result.passed, result.enforced, failed(result)) == (False, False, {"schema"})
    assert what(result, "schema").startswith("is not enforced: schema: $: ")


def test_a_profile_that_takes_any_reply_is_told_that_there_is_no_grammar() -> None:
    result = taken(HONEST["without a grammar"]())
    assert (result.passed, result.enforced) == (True, False)


def test_a_critic_that_decodes_under_the_schema_is_found_out() -> None:
    result = taken(HONEST["in levels"](), profile(structured_output="enforced"))
    assert (result.passed, result.enforced, what(result, "schema")) == (True, True, "is enforced")


def test_a_critic_that_decodes_nothing_is_not_asked_for_the_canary() -> None:
    critic = HONEST["in any number"]()
    result = taken(critic, profile(structured_output="enforced"))
    assert (result.passed, result.enforced, result.num_asked) == (True, None, 12)
    assert all(question.schema != schema.canary_schema() for question in critic.asked)


# ---- nobody there


@pytest.mark.parametrize("failure", ["runtime_down", "cancelled", "timeout", "disconnected"])
def test_a_critic_that_is_not_there_is_asked_once_and_fails_with_the_reason(failure: str) -> None:
    critic = Mute(failure)
    result = taken(critic)
    assert (result.passed, critic.num_asked, result.num_asked) == (False, 1, 1)
    assert [(check.name, check.what) for check in result.checks] == [("schema", f"{failure}: as always")]


@pytest.mark.parametrize("mode", ["pointwise", "pairwise"])
def test_one_that_answers_nothing_is_not_asked_on(mode: str) -> None:
    result = taken(Mute("refused"), profile(mode))
    assert (result.passed, result.num_asked) == (False, 5)
    assert result.checks[-1].what.endswith("(as always)")


def test_a_critic_that_stops_answering_in_mid_exam_fails_without_an_error() -> None:
    quiet = Mute("runtime_down")

    def judge(backend: Backend, question: Question, asker: object) -> Judged:
        return ask.judge(quiet if question.images[0] != exam_pictures.pictures()[0] else backend, question)

    result = exam.take(HONEST["in levels"](), profile(), judge)
    assert failed(result) == {"good", "blank", "swapped", "order", "repeat"}
    assert what(result, "repeat") == "scored runtime_down, then runtime_down; 0.01 apart at most (as always)"


# ---- of two


@pytest.mark.parametrize("kind", [name for name in HONEST if name != "in any number"])
def test_an_honest_critic_of_pairs_passes(kind: str) -> None:
    result = taken(HONEST[kind](), profile("pairwise"))
    assert result.passed, result.checks
    assert [check.name for check in result.checks] == ["schema", "blank", "swapped", "order", "repeat"]


@pytest.mark.parametrize("kind", EVEN_IN_PAIRS)
def test_a_bad_critic_of_pairs_does_not_pass(kind: str) -> None:
    results = [taken(BAD[kind](seed), profile("pairwise")) for seed in range(2)]
    assert not any(result.passed for result in results)


@pytest.mark.parametrize("kind", [*CHANCES, "prompt only", "picture only"])
def test_no_critic_of_pairs_passes_by_luck(kind: str) -> None:
    lucky = [seed for seed in range(50) if exam.take(BAD[kind](seed), profile("pairwise"), quickly).passed]
    assert lucky == []


def test_a_critic_that_prefers_a_place_is_told_by_what_it_chose() -> None:
    result = taken(BAD["always first"](0), profile("pairwise"))
    assert what(result, "blank") == "chose A A A A; A B A B wanted"
    assert failed(result) == {"blank", "swapped", "order"}


# ---- how it asks


def test_an_exam_asks_as_much_at_once_as_the_critic_takes() -> None:
    together, num_asked = threading.Barrier(4, timeout=20), iter(range(100))

    def says(question: Question) -> Any:
        if next(num_asked) < 4:
            together.wait()
        return bad_critics.honest(question)

    assert taken(Speaker(says, concurrency=4, continuous=True)).passed


@pytest.mark.parametrize("mode", ["pointwise", "pairwise"])
def test_an_exam_is_short_and_never_asks_the_same_twice_but_to_compare(mode: str) -> None:
    critic = HONEST["in levels"]()
    result = taken(critic, profile(mode))
    judged = [(question.prompt.text, question.images) for question in critic.asked[1:]]
    assert result.num_asked == len(critic.asked) <= 13
    assert len(set(judged)) == len(judged) - (2 if mode == "pointwise" else 1)


def test_what_is_asked_is_what_every_image_is_asked() -> None:
    critic = HONEST["in levels"]()
    taken(critic)
    assert "a red circle on a white background" in request.user_text(critic.asked[1])
    assert critic.asked[1].schema == schema.answer_schema(profile())
    assert not any(question.examples for question in critic.asked)


# ---- what is shown, and what is kept


def test_every_picture_is_wrong_in_everything_under_another_prompt() -> None:
    for number in NUMBERS:
        own, other = SCENES[number], SCENES[OTHER[number]]
        assert own.shape != other.shape
        assert {own.colour, own.background}.isdisjoint({other.colour, other.background})


def test_swapped_pictures_cannot_be_told_apart_by_brightness() -> None:
    light = [bad_critics.luminance(exam_pictures.pictures()[number]) for number in NUMBERS]
    assert max(abs(light[number] - light[OTHER[number]]) for number in NUMBERS) < 2.5


def test_the_pixel_reader_sees_what_each_prompt_says() -> None:
    for number in NUMBERS:
        marks = bad_critics.look(exam_pictures.pictures()[number], exam_pictures.prompt(number).text)
        assert [marks[name] for name in ("shape", "colour", "background")] == [1, 1, 1]


def test_a_prompt_is_its_sections() -> None:
    prompt = exam_pictures.prompt(3)
    assert (prompt.text, prompt.triggered) == ("a yellow triangle on a pink background", False)
    assert prompt.sections == {"subject": "a yellow triangle", "background": "on a pink background"}


def test_other_pictures_or_prompts_are_another_version() -> None:
    known = {1: "37f0b274d33669a4b41e788a7ad110029d97f2afb35ed9c2fcdad2cd1fcc3744"}
    assert exam_pictures.digest() == known[exam_pictures.VERSION], "raise exam_pictures.VERSION, and write it here"


def test_the_record_says_which_exam_it_was_and_how_it_went() -> None:
    record = taken(HONEST["in levels"]()).as_dict()
    assert {name: record[name] for name in ("passed", "version", "enforced", "num_asked")} == {
        "passed": True, "version": 1, "enforced": True, "num_asked": 13,
    }  # fmt: skip
    assert record["checks"][1] == {"name": "good", "passed": True, "what": "scored 1 1 1 1; 0.7 or more wanted"}
    assert record["digest"] == exam_pictures.digest()


def test_the_same_critic_gets_the_same_record() -> None:
    make: Callable[[], Speaker] = HONEST["four at once"]
    assert store.canonical(taken(make()).as_dict()) == store.canonical(taken(make()).as_dict())
