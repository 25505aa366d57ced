"""The critic on the one path: verdicts as they come, the exam before them, and what happens when a critic dies."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runner import critic, execute, journal
from runner.builtin import world
from runner.critic import question as asked_of
from runner.critic import resident
from runner.critic.question import Attempt, Backend, Question, Reply, Unanswered
from runner.plan import ImagePlan, Step
from runner.worker import Bench, Made, Outcome
from tests import worlds
from tests.critic import asking, bad_critics, speaking

SCENES = {"blue": "red star", "white": "green ring"}
ITEMS = ",".join(
    f'{{id:on-{name},sections:{{subject:"a {subject}",background:"on a {name} background"}}}}'
    for name, subject in SCENES.items()
)
BASE = (
    "+experiment=demo_base", "track=none", f"prompt.items=[{ITEMS}]", "generate.images_per_prompt=2",
    "generate.batch_size=2", "runtime.num_threads=1",
)  # fmt: skip
SHAPES = ("critic_runtime=external", "critic_runtime.model=critic", "critic_runtime.key_env=null")


def draw(step: Step, bench: Bench) -> Outcome:
    """A generate worker that draws what the prompts ask for."""
    bench.status("generating")
    return Outcome(tuple(_drawn(item, image) for item, image in zip(step.items, step.images, strict=True)))


def _drawn(item: str, image: ImagePlan) -> Made:
    _, colour, shape = image.prompt.sections["subject"].split()
    scene = world.Scene(shape, colour, image.prompt.sections["background"].split()[2], "large")
    return Made(item, asking.png(world.draw(scene, random.Random(image.seed))), {"seed": image.seed})


def run(outputs: Path, *words: str) -> execute.Result:
    return worlds.run(worlds.accept(outputs, *words, base=BASE), generate=draw, critique=critic.work)


def verdicts(result: execute.Result) -> list[dict[str, Any]]:
    return [dict(e["facts"]) for e in worlds.events(result.folder, "made") if e["key"].startswith("verdict/")]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Backend]]:
    """What is loaded in place of the CLIP critic: the first of the list each time, honest when it is empty."""
    backends: list[Backend] = []

    def load(bench: Bench) -> Backend:
        return backends.pop(0) if backends else bad_critics.Speaker(bad_critics.honest)

    monkeypatch.setitem(resident.IN_PROCESS, "clip", load)
    yield backends


# ---- the exam


def test_an_honest_critic_passes_and_every_image_is_scored(tmp_path: Path, fake: list[Backend]) -> None:
    result = run(tmp_path)
    assert (result.status, dict(result.made)) == ("complete", {"image": 4, "verdict": 4})
    (exam,) = worlds.events(result.folder, "exam")
    assert (exam["passed"], exam["when"]) == (True, "start")
    assert {name for facts in verdicts(result) for name in facts["scores"]} == {"shape", "colour", "background"}


@pytest.mark.parametrize("kind", ["blind", "constant", "one behind"])
def test_a_critic_that_fails_its_exam_is_quarantined_and_gives_no_verdict(
    tmp_path: Path, fake: list[Backend], kind: str
) -> None:
    fake.append(bad_critics.BAD[kind](0))
    result = run(tmp_path)
    assert (result.status, result.exit_code, result.failure and result.failure.code) == (
        "failed", 3, "critic_quarantined",
    )  # fmt: skip
    assert not verdicts(result)
    assert run(tmp_path).status == "complete"  # the images were kept, and a better critic judges them


class Dying:
    """Honest until it has answered so many questions; then nobody is there."""

    continuous, structured, concurrency = False, True, 1

    def __init__(self, num_answers: int) -> None:
        self.identity: Mapping[str, Any] = {"backend": "dying"}
        self.left = num_answers
        self.within = bad_critics.Speaker(bad_critics.honest)

    def ask(self, question: Question, attempt: Attempt) -> Reply:
        self.left -= 1
        if self.left < 0:
            raise Unanswered("runtime_down", "nobody answers")
        return self.within.ask(question, attempt)

    def cancel(self) -> None: ...

    def close(self) -> None: ...


def num_asked_in_exam(tmp_path: Path) -> int:
    return int(worlds.events(run(tmp_path).folder, "exam")[0]["num_asked"])


def test_what_was_scored_before_a_failed_exam_stays_and_is_marked_and_judged_again(
    tmp_path: Path, fake: list[Backend]
) -> None:
    exam = num_asked_in_exam(tmp_path / "other")
    fake.append(Dying(exam + 2))
    assert run(tmp_path).status == "failed"
    fake.append(bad_critics.BAD["blind"](0))
    marked = run(tmp_path)
    rows = journal.read_run(marked.folder).images()
    assert [(row["quarantined"], bool(row["verdict"])) for row in rows] == [(True, True)] * 2 + [(False, False)] * 2
    result = run(tmp_path)
    assert (result.status, result.made["verdict"]) == ("complete", 4)
    reasons = worlds.events(result.folder, "resumed")[-1]["again"]
    assert reasons["verdict/on-blue.000"] == "its critic failed an exam since"
    assert not any(row["quarantined"] for row in journal.read_run(result.folder).images())


def test_a_critic_that_goes_blind_in_mid_review_is_found_out_after_the_step(
    tmp_path: Path, fake: list[Backend]
) -> None:
    honest = num_asked_in_exam(tmp_path / "other") + 1
    said: list[Question] = []

    def says(question: Question) -> Any:
        said.append(question)
        return bad_critics.honest(question) if len(said) <= honest else bad_critics.blind(question)

    fake.append(bad_critics.Speaker(says))
    result = run(tmp_path)
    assert (result.status, result.failure and result.failure.code) == ("failed", "critic_quarantined")
    assert [exam["passed"] for exam in worlds.events(result.folder, "exam")] == [True, False]
    assert all(row["quarantined"] for row in journal.read_run(result.folder).images())


# ---- failures


def test_a_server_of_others_that_goes_away_fails_the_run_and_the_same_command_goes_on(
    tmp_path: Path, fake: list[Backend]
) -> None:
    fake.append(Dying(num_asked_in_exam(tmp_path / "other") + 1))
    result = run(tmp_path)
    assert (result.status, result.failure and result.failure.code) == ("failed", "critic_down")
    assert dict(run(tmp_path).kept) == {"image": 4, "verdict": 1}


def test_too_many_unscored_fail_the_run_loudly(tmp_path: Path, fake: list[Backend]) -> None:
    fake.append(_after_the_exam(tmp_path, ["refused", None, None, None]))
    result = run(tmp_path)
    assert (result.status, result.failure and result.failure.code) == ("failed", "critic_unscored")
    assert [facts["status"] for facts in verdicts(result)] == ["unscored", "scored", "scored", "scored"]


def test_failures_in_a_row_stop_the_review(tmp_path: Path, fake: list[Backend]) -> None:
    fake.append(_after_the_exam(tmp_path, ["refused"] * 4))
    result = run(tmp_path, "critic.budget.max_in_a_row=2")
    assert (result.status, result.failure and result.failure.code) == ("failed", "critic_failing")
    assert len(verdicts(result)) == 2


def test_what_timed_out_is_asked_about_again_by_the_same_command(tmp_path: Path, fake: list[Backend]) -> None:
    fake.append(_after_the_exam(tmp_path, ["timeout"] * 3 + [None] * 3))
    assert run(tmp_path).status == "failed"
    result = run(tmp_path)
    assert (result.status, dict(result.made)) == ("complete", {"verdict": 1})
    assert worlds.events(result.folder, "resumed")[-1]["again"] == {
        "verdict/on-blue.000": "its critic had no answer then"
    }


def test_what_is_left_when_the_time_is_over_is_made_by_the_next_run(tmp_path: Path, fake: list[Backend]) -> None:
    result = run(tmp_path, "critic.budget.max_seconds=1.0e-6")
    assert result.status == "incomplete"
    assert result.failure and "budget_exhausted: critic.budget.max_seconds is over" in result.failure.what
    assert dict(run(tmp_path).made) == {"verdict": 4}


class Scripted:
    """Honest for `num_honest` questions, then fails as told, None being honest."""

    continuous, structured, concurrency = False, True, 1

    def __init__(self, num_honest: int, script: list[str | None]) -> None:
        self.identity: Mapping[str, Any] = {"backend": "scripted"}
        self.script = [*[None] * num_honest, *script]
        self.within = bad_critics.Speaker(bad_critics.honest)

    def ask(self, question: Question, attempt: Attempt) -> Reply:
        failure = self.script.pop(0) if self.script else None
        if failure is not None:
            raise Unanswered(failure, "as told")
        return self.within.ask(question, attempt)

    def cancel(self) -> None: ...

    def close(self) -> None: ...


def _after_the_exam(tmp_path: Path, script: list[str | None]) -> Backend:
    return Scripted(num_asked_in_exam(tmp_path / "other"), script)


# ---- what was said before


def test_a_question_that_was_answered_before_is_not_asked_again(tmp_path: Path, fake: list[Backend]) -> None:
    from runner import index

    assert run(tmp_path).status == "complete"
    index.refresh(tmp_path)
    again = run(tmp_path, "name=again")
    assert all(facts["cached"] for facts in verdicts(again))
    assert [f["scores"] for f in verdicts(again)] == [f["scores"] for f in verdicts(run(tmp_path, "name=third"))]


def test_a_fresh_attempt_asks_anew(tmp_path: Path, fake: list[Backend]) -> None:
    from runner import index

    run(tmp_path)
    index.refresh(tmp_path)
    fresh = run(tmp_path, "run.fresh=true")
    assert not any(facts.get("cached") for facts in verdicts(fresh))


def test_what_a_server_of_others_said_is_never_taken_for_its_word_now(tmp_path: Path) -> None:
    from runner import index

    with speaking.listening() as server:
        here = (f"critic_runtime.url={server.url}", *SHAPES)
        run(tmp_path, *here)
        index.refresh(tmp_path)
        again = run(tmp_path, *here, "name=again")
    assert again.status == "complete" and not any(facts.get("cached") for facts in verdicts(again))


def test_another_server_is_another_run(tmp_path: Path) -> None:
    one, other = (
        worlds.accept(tmp_path, *SHAPES, f"critic_runtime.url=http://{n}", base=BASE).plan for n in ("a", "b")
    )
    assert one.identity != other.identity
    assert [s.digest for s in one.steps if s.kind == "generate"] == [
        s.digest for s in other.steps if s.kind == "generate"
    ]


def test_other_reference_pictures_are_another_question(tmp_path: Path) -> None:
    import shutil

    from runner import builtin
    from runner.contract.critic import critic_files

    mine = shutil.copytree(builtin.package_dir() / "shapes_clip", tmp_path / "clip")
    accepted = worlds.accept(tmp_path, f"critic_runtime.path={mine}", base=BASE)
    before = critic_files(accepted.request)
    (mine / "preprocessor_config.json").write_text((mine / "preprocessor_config.json").read_text() + "\n")
    assert critic_files(accepted.request) != before


# ---- a real server


def test_a_server_judges_many_at_once_and_gives_what_it_gives_one_by_one(tmp_path: Path) -> None:
    with speaking.serve() as url:
        here = (f"critic_runtime.url={url}", *SHAPES)
        many = run(tmp_path / "many", *here, "critic_runtime.concurrency=4")
        one = run(tmp_path / "one", *here, "critic_runtime.concurrency=1")
    assert (many.status, one.status) == ("complete", "complete")
    scores = [{row["key"]: row["scores"] for row in journal.read_run(r.folder).images()} for r in (many, one)]
    assert scores[0] == scores[1]


class Hanging(Scripted):
    """Four at once, in flight until they are cancelled."""

    concurrency = 4

    def __init__(self, ended: threading.Event) -> None:
        super().__init__(0, [])
        self.ended = ended

    def cancel(self) -> None:
        self.ended.set()


def test_stopping_while_requests_are_in_flight_ends_them_and_keeps_what_was_said(tmp_path: Path) -> None:
    from runner.critic.review import as_they_come

    ended, stop = threading.Event(), threading.Event()
    backend = Hanging(ended)

    def ask(number: int) -> int:
        if number:
            ended.wait(30)
        return number

    come = as_they_come(range(6), ask, backend, stop, lambda: None)
    assert next(come) == (0, 0)
    come.close()
    assert stop.is_set() and ended.is_set()


def test_classes_of_the_runtime_are_classes_of_failure() -> None:
    assert {*asked_of.OF_THE_RUNTIME} <= set(asked_of.FAILURES)


# ---- another review of the same images


def test_a_finished_run_is_judged_again_and_its_own_verdicts_stay(tmp_path: Path, fake: list[Backend]) -> None:
    first = run(tmp_path)
    before = worlds.snapshot(first.folder)
    fake.append(bad_critics.Speaker(bad_critics.honest, identity={"backend": "another"}))
    words = (f"critique.images_of={first.run_id}", "critic=shapes", "critic_runtime=shapes_clip", "track=none")
    second = worlds.run(again(tmp_path, *words), critique=critic.work)
    assert (second.status, dict(second.made)) == ("complete", {"verdict": 4})
    assert worlds.snapshot(first.folder) == before
    digests = [[row["digest"] for row in journal.read_run(r.folder).images()] for r in (first, second)]
    assert digests[0] == digests[1]
    verdict = journal.read_run(second.folder).images()[0]["verdict"]
    assert json.loads(worlds.objects_of(tmp_path)[verdict])["model"]["backend"] == "another"


def test_two_runs_are_compared_in_both_orders(tmp_path: Path, fake: list[Backend]) -> None:
    a, b = run(tmp_path), run(tmp_path, "name=other", "generate.steps=3")
    fake += [bad_critics.Speaker(bad_critics.honest)]
    words = (f"critique.images_of={a.run_id}", f"critique.against={b.run_id}", "critic=pair", *SHAPES, "track=none")
    with speaking.serve() as url:
        pairs = worlds.run(again(tmp_path, *words, f"critic_runtime.url={url}"), critique=critic.work)
    assert pairs.status == "complete", pairs.failure
    assert all(set(facts["scores"].values()) <= {0.0, 0.5, 1.0} for facts in verdicts(pairs))


def again(outputs: Path, *words: str) -> execute.Accepted:
    from runner import config, contract

    values = config.compose(("+experiment=rereview", *words, f"outputs={outputs}"))
    agreed = contract.check(config.parse_request(contract.take_parties(values)))
    return execute.accept(agreed, contract.pin(agreed))
