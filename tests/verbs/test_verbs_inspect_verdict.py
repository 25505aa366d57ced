"""`inspect` of a verdict: every link of its chain, and what it says when a link is broken or not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from runner import journal, store
from runner.config.critic import CriticProfile
from runner.contract.profile import profile_digest
from runner.verbs import inspect, verdict
from runner.verbs.verdict import again
from tests import worlds
from tests.report import judged
from tests.verbs import small_runs

STEPS = [
    "verdict", "image", "run", "profile", "schema", "request", "examples", "sampling", "attempts", "answer", "advice",
    "exam",
]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> judged.World:
    return judged.world(tmp_path_factory.getbasetemp())


@pytest.fixture
def outputs(world: judged.World, tmp_path: Path) -> Path:
    """A copy of the world, to do harm to."""
    left_out = shutil.ignore_patterns("index.db*", "mlflow.db", "mlartifacts")
    return shutil.copytree(world.outputs, tmp_path / "outputs", ignore=left_out)


def named(run: journal.Run, key: str, what: str = "verdict") -> str:
    return next(str(row[what]) for row in run.images() if row["key"] == key)


def ask(outputs: Path, thing: str) -> dict[str, Any]:
    return inspect.inspect(outputs, thing, None)


def link(facts: dict[str, Any], step: str) -> tuple[str, str]:
    found = next(each for each in facts["chain"] if each["step"] == step)
    return found["answer"], found["what"]


def bytes_of(outputs: Path, digest: str) -> Path:
    return store.Store(outputs / "objects").path(digest)


def replaced(outputs: Path, run: journal.Run, key: str, **changes: Any) -> str:
    """Another record in the place of a verdict, sound by its digest and named by a journal that is whole."""
    record = {**judged.verdict_of(outputs, run, key), **changes}
    digest = store.Store(outputs / "objects").put(store.canonical(record))
    line = next(e for e in worlds.events(run.folder, "made") if e["key"] == f"verdict/{key}")
    log, _ = journal.open_log(outputs / "runs" / run.id, journal.manifest_digest(run.folder), list)
    log.append({name: line[name] for name in ("event", "key", "step", "bytes", "facts")} | {"object": digest})
    return digest


def retold(outputs: Path, run: journal.Run, **changes: Any) -> journal.Run:
    """The same lines under another manifest."""
    folder = outputs / "runs" / "retold"
    folder.mkdir()
    log, _ = journal.open_log(folder, journal.write_manifest(folder, {**run.manifest, **changes}), list)
    chained = ("n", "at", "prev", "hash")
    events = journal.read_events(run.folder).events
    log.append(*({name: value for name, value in event.items() if name not in chained} for event in events))
    return journal.read_run(folder)


# ---- a chain that holds


def test_every_link_of_a_verdict_is_asked_and_holds(world: judged.World) -> None:
    facts = ask(world.outputs, named(world.stopped, "on-blue.001"))
    assert (facts["kind"], facts["unknown"], facts["altered"], facts["stored"]) == ("verdict", False, False, True)
    assert [each["step"] for each in facts["chain"]] == STEPS
    assert {each["answer"] for each in facts["chain"]} == {"yes"}


@pytest.mark.parametrize("key", ["on-blue.000", "on-blue.001", "on-white.000", "on-white.001"])
@pytest.mark.parametrize("which", ["first", "again", "pairs"])
def test_it_holds_for_scores_failures_pairs_and_what_was_taken_over(world: judged.World, which: str, key: str) -> None:
    facts = ask(world.outputs, named(getattr(world, which), key))
    assert [each for each in facts["chain"] if each["answer"] != "yes"] == []


def test_the_request_is_shown_as_it_was_rendered_again(world: judged.World) -> None:
    request = ask(world.outputs, named(world.first, "on-blue.001"))["request"]
    assert request["rendered"] == request["digest"]
    assert request["user"].startswith("The prompt was: a red star on a blue background\nsubject: a red star")
    assert "You review generated images" in request["system"]


def test_the_run_tells_what_it_took_and_which_exam_came_before(world: judged.World) -> None:
    row = ask(world.outputs, named(world.first, "on-blue.000"))["runs"][0]
    assert (row["run_id"], row["key"], row["num_attempts"], row["retried"]) == (
        world.first.id, "on-blue.000", 2, ["timeout"],
    )  # fmt: skip
    assert (row["tokens"], row["exam"]["passed"], row["exam"]["when"]) == (judged.USAGE, True, "start")


def test_a_verdict_that_was_taken_over_names_the_run_that_asked(world: judged.World) -> None:
    facts = ask(world.outputs, named(world.again, "on-blue.001"))
    rows = {row["run_id"]: row["cached_from"] for row in facts["runs"]}
    assert rows == {world.first.id: None, world.again.id: world.first.id}
    assert link(facts, "asked") == ("yes", f"{world.again.id} took it from {world.first.id}")


def test_a_quarantined_verdict_says_so_and_its_chain_holds(world: judged.World) -> None:
    facts = ask(world.outputs, named(world.stopped, "on-blue.000"))
    assert (facts["runs"][0]["quarantined"], facts["altered"]) == (True, False)
    assert "its critic failed an exam since" in verdict.text(facts)


def test_an_unscored_verdict_shows_why(world: judged.World) -> None:
    text = inspect.text(ask(world.outputs, named(world.first, "on-white.000")))
    assert "unscored: refused: as told" in text
    assert "1 (refused): the raw replies read the same again" in text


def test_a_person_reads_findings_scores_and_the_raw_reply(world: judged.World) -> None:
    text = inspect.text(ask(world.outputs, named(world.first, "on-blue.001")[:12]))
    for words in ("120, 80, 620, 710", "reject (aggregate 0 < 0.4)", "colour as seen", '{"evidence": [{"id": "e1"'):
        assert words in text


# ---- a chain that does not


def test_altered_bytes_of_a_verdict_are_named(world: judged.World, outputs: Path) -> None:
    digest = named(world.first, "on-blue.001")
    bytes_of(outputs, digest).write_bytes(b"{}")
    facts = ask(outputs, digest)
    assert (facts["altered"], facts["stored"], link(facts, "verdict")[0]) == (True, False, "no")
    assert link(facts, "advice") == ("UNKNOWN", "there is no record to compare with")


def test_an_image_that_is_gone_leaves_its_request_unknown(world: judged.World, outputs: Path) -> None:
    bytes_of(outputs, named(world.first, "on-blue.001", "digest")).unlink()
    facts = ask(outputs, named(world.first, "on-blue.001"))
    assert (link(facts, "image")[0], facts["altered"]) == ("no", True)
    assert link(facts, "request")[0] == "UNKNOWN" and link(facts, "request")[1].endswith("is not there")
    assert link(facts, "answer")[0] == "yes"


def test_an_image_that_a_person_deleted_is_unknown_and_no_harm(world: judged.World, outputs: Path) -> None:
    image = named(world.first, "on-blue.001", "digest")
    bytes_of(outputs, image).unlink()
    small_runs.tell(outputs, small_runs.tombstone(image, f"runs/{world.first.id}"))
    facts = ask(outputs, named(world.first, "on-blue.001"))
    assert link(facts, "image") == ("UNKNOWN", f"{image[:16]} was deleted: no licence")
    assert (facts["altered"], facts["unknown"]) == (False, True)


@pytest.mark.parametrize(
    ("step", "changes", "words"),
    [
        ("advice", {"advice": {"recommend": "accept", "because": "kindness", "aggregate": 1.0}}, "accept (kindness)"),
        ("answer", {"findings": []}, "made again it is another (findings)"),
        ("sampling", {"sampling": {"temperature": 1.0}}, "made again it is another (temperature)"),
        ("profile", {"profile": {"id": "shapes", "version": 2, "digest": "f" * 64}}, "is cited as ffffffffffffffff"),
        ("exam", {"model": {"backend": "another"}}, "passed by another model than the verdict names"),
        ("attempts", {"attempts": [{"failure": None, "detail": None, "finish": "stop", "reply": "{}"}]},
         "attempt 1 was an answer, reads as schema"),
        ("run", {"tags": ["blurred"]}, "says otherwise: tags"),
    ],
)  # fmt: skip
def test_a_record_that_was_made_up_is_found_out(
    world: judged.World, outputs: Path, step: str, changes: dict[str, Any], words: str
) -> None:
    facts = ask(outputs, replaced(outputs, world.first, "on-blue.001", **changes))
    assert link(facts, step)[0] == "no"
    assert words in link(facts, step)[1]


def test_where_the_code_has_changed_since_a_difference_proves_nothing(world: judged.World, outputs: Path) -> None:
    older = retold(outputs, world.first, environment={**world.first.manifest["environment"], "pillow": "1.0"})
    facts = ask(outputs, replaced(outputs, older, "on-blue.001", confidence="low"))
    answer, what = link(facts, "answer")
    assert answer == "UNKNOWN" and "otherwise today, and pillow was 1.0, is" in what
    assert (facts["unknown"], facts["altered"]) == (True, False)


def test_a_profile_that_is_not_what_the_lock_has_is_found_out(world: judged.World, outputs: Path) -> None:
    request = world.first.manifest["request"]
    changed = {**request, "critic": {**request["critic"], "shown": {"longest_side_px": 64, "multiple_of_px": 1}}}
    digest = profile_digest(CriticProfile.model_validate_json(json.dumps(changed["critic"])))
    run = retold(outputs, world.first, request=changed, pins={**world.first.manifest["pins"], "profile": digest})
    cited = {"id": "shapes", "version": 2, "digest": digest}
    facts = ask(outputs, replaced(outputs, run, "on-blue.001", profile=cited))
    assert link(facts, "profile") == (
        "no",
        f"shapes version 2 ({digest[:12]}) is not what the lock has under that version",
    )


def test_a_verdict_after_a_broken_link_of_its_journal_is_held_by_no_run(world: judged.World, outputs: Path) -> None:
    path = outputs / "runs" / world.stopped.id / journal.JOURNAL
    path.write_text(path.read_text().replace('"event":"exam"', '"event":"exbm"'))
    facts = ask(outputs, named(world.stopped, "on-blue.001"))
    assert (facts["kind"], facts["runs"], link(facts, "run")[0]) == ("verdict", [], "UNKNOWN")


def test_a_verdict_before_a_broken_link_says_that_its_journal_is_broken(world: judged.World, outputs: Path) -> None:
    path = outputs / "runs" / world.first.id / journal.JOURNAL
    path.write_text(path.read_text().replace('"event":"ended"', '"event":"endex"'))
    answer, what = link(ask(outputs, named(world.first, "on-blue.001")), "run")
    assert answer == "no" and "its journal is broken: line" in what


def test_a_verdict_that_no_run_holds_any_more_is_unknown_and_shown(world: judged.World, outputs: Path) -> None:
    digest = named(world.pairs, "on-blue.001")
    shutil.rmtree(outputs / "runs" / world.pairs.id)
    facts = ask(outputs, digest)
    assert link(facts, "run") == ("UNKNOWN", "no run holds it, or holds it any more")
    assert (facts["kind"], facts["unknown"], facts["record"]["winner"]) == ("verdict", True, "B")


def test_a_verdict_of_before_is_shown_with_what_nobody_can_tell(tmp_path: Path) -> None:
    run = worlds.finished(tmp_path)
    facts = ask(tmp_path, named(run, "on-blue.000"))
    assert (facts["kind"], facts["unknown"], facts["altered"]) == ("verdict", True, False)
    assert link(facts, "exam") == ("UNKNOWN", f"{run.id} notes no exam before it")
    assert "UNKNOWN" in inspect.text(facts)


def test_a_run_folder_that_was_copied_away_says_what_is_not_there(world: judged.World, tmp_path: Path) -> None:
    alone = shutil.copytree(world.first.folder, tmp_path / "alone")
    facts = ask(alone, named(world.first, "on-blue.001"))
    assert (facts["kind"], facts["unknown"], facts["altered"]) == ("verdict", True, False)
    assert link(facts, "verdict") == ("UNKNOWN", "the store is not here")


# ---- from the command line, and from an image


def test_the_door_prints_it_whole_for_a_program(world: judged.World, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("inspect", named(world.first, "on-blue.001"), "--json", "--outputs", str(world.outputs))
    answer = worlds.open_door(capsys, words)
    assert (answer.code, answer.line["kind"], answer.line["record"]["tags"]) == (0, "verdict", ["wrong_colour"])
    assert json.loads(answer.line["record"]["attempts"][0]["reply"])["confidence"] == "high"


def test_an_image_lists_its_verdicts_over_all_runs(world: judged.World) -> None:
    facts = ask(world.outputs, named(world.first, "on-blue.001", "digest"))
    assert (facts["kind"], facts["run_id"], facts["runs"]) == ("image", world.first.id, [world.first.id])
    rows = {row["run_id"]: (row["profile"], row["version"], row["advice"], row["side"]) for row in facts["verdicts"]}
    assert rows == {
        world.first.id: ("shapes", 2, "reject", None),
        world.again.id: ("shapes", 2, "reject", None),
        world.pairs.id: ("pair", 1, None, "A"),
    }
    assert "shapes v2, shapes_clip" in inspect.text(facts) and "(as A of a pair)" in inspect.text(facts)


def test_the_second_image_of_a_pair_lists_the_comparison_too(world: judged.World) -> None:
    facts = ask(world.outputs, named(world.other, "on-white.000", "digest"))
    assert {row["run_id"]: row["side"] for row in facts["verdicts"]} == {world.other.id: None, world.pairs.id: "B"}


def test_an_image_whose_maker_is_gone_is_unknown_as_to_that(world: judged.World, outputs: Path) -> None:
    image = named(world.first, "on-blue.001", "digest")
    shutil.rmtree(outputs / "runs" / world.first.id)
    facts = ask(outputs, image)
    assert (facts["runs"], facts["unknown"], facts["base_model"]["id"]) == ("UNKNOWN", True, "shapes")


def test_a_beginning_of_an_image_and_of_a_verdict_is_refused(world: judged.World, outputs: Path) -> None:
    log, _ = journal.open_log(outputs / "runs" / world.first.id, journal.manifest_digest(world.first.folder), list)
    line = {"event": "made", "step": "s", "facts": {}}
    for kind, digit in (("image", "1"), ("verdict", "2")):
        log.append({**line, "key": f"{kind}/on-blue.000", "object": "a" * 63 + digit})
    assert "begins 2 digests: aaaaaaaaaaaaaaaa, aaaaaaaaaaaaaaaa" in ask(outputs, "a" * 20)["reason"]


def test_profiles_of_an_older_form_are_not_guessed_at() -> None:
    assert again.profile_of({"request": {"critic": {"profile": "shapes", "version": 1}}}) is None
    assert again.profile_of({"request": {}}) is None


def test_a_broken_chain_is_exit_code_4(world: judged.World, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = named(world.first, "on-blue.001")
    bytes_of(outputs, digest).write_bytes(b"{}")
    answer = worlds.open_door(capsys, ("inspect", digest, "--outputs", str(outputs)))
    assert (answer.code, "no " in answer.out) == (4, True)
