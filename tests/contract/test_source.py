"""What may be reviewed again: images that are there, of a run that made them; and what is refused, with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner import config, contract, execute, journal, ledger
from runner.errors import Fault, Refused
from runner.verbs import delete
from tests import worlds

AGAIN = ("+experiment=rereview", "critic=shapes", "critic_runtime=shapes_clip", "track=none")


def accept(outputs: Path, *words: str) -> execute.Accepted:
    values = config.compose((*AGAIN, *words, f"outputs={outputs}"))
    agreed = contract.check(config.parse_request(contract.take_parties(values)))
    return execute.accept(agreed, contract.pin(agreed))


def refused(outputs: Path, *words: str) -> list[Fault]:
    with pytest.raises(Refused) as refusal:
        accept(outputs, *words)
    return list(refusal.value.faults)


@pytest.fixture
def made(tmp_path: Path) -> journal.Run:
    return worlds.finished(tmp_path)


def test_a_review_takes_parties_prompts_and_images_from_its_run(tmp_path: Path, made: journal.Run) -> None:
    accepted = accept(tmp_path, f"critique.images_of={made.id}")
    assert accepted.request.base_model.id == made.manifest["request"]["base_model"]["id"]
    assert [(i.key, i.seed, i.given[0]) for i in accepted.plan.images] == [
        (row["key"], row["seed"], row["digest"]) for row in made.images()
    ]
    assert list(accepted.plan.images[0].prompt.sections) == ["subject", "background"]
    assert accepted.plan.num_expected == {"image": 0, "verdict": 4}


def test_a_review_without_a_run_says_what_is_missing(tmp_path: Path) -> None:
    (fault,) = refused(tmp_path)
    assert (fault.code, fault.where) == ("missing_value", "critique.images_of")
    assert "`python -m runner status` lists them" in fault.fix


def test_a_run_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path, made: journal.Run) -> None:
    (fault,) = refused(tmp_path, "critique.images_of=demo-0")
    assert (fault.code, made.id in fault.fix) == ("unknown_run", True)


def test_a_party_that_the_run_has_already_is_refused(tmp_path: Path, made: journal.Run) -> None:
    (fault,) = refused(tmp_path, f"critique.images_of={made.id}", "seed=99")
    assert (fault.code, fault.where, fault.what) == (
        "setting_ignored",
        "seed",
        f"would be ignored: {made.id} is reviewed",
    )


def test_an_altered_manifest_is_no_source(tmp_path: Path, made: journal.Run) -> None:
    manifest = {**made.manifest, "seed_policy": "another"}
    (made.folder / journal.MANIFEST).write_text(json.dumps(manifest))
    (fault,) = refused(tmp_path, f"critique.images_of={made.id}")
    assert fault.code == "manifest_altered"


def test_a_run_that_lost_an_image_is_refused_before_a_critic_loads(tmp_path: Path, made: journal.Run) -> None:
    digest = made.images()[0]["digest"]
    (tmp_path / "objects" / digest[:2] / digest[2:]).unlink()
    (fault,) = refused(tmp_path, f"critique.images_of={made.id}")
    assert (fault.code, fault.what) == ("sources_missing", f"has lost 1 of 4 images (first {digest[:16]})")


def test_an_image_that_a_person_deleted_is_not_reviewed(tmp_path: Path, made: journal.Run) -> None:
    digest = made.images()[0]["digest"]
    delete.delete(tmp_path, [digest], "no licence", run=None, everywhere=False)
    accepted = accept(tmp_path, f"critique.images_of={made.id}")
    assert [image.key for image in accepted.plan.images] == [row["key"] for row in made.images()[1:]]


def test_a_review_of_it_is_one_of_the_records_that_hold_an_image(tmp_path: Path, made: journal.Run) -> None:
    from tests import fakes

    reviewed = worlds.run(accept(tmp_path, f"critique.images_of={made.id}"), critique=fakes.Judge())
    digest = made.images()[0]["digest"]
    with pytest.raises(Refused, match=f"runs/{reviewed.run_id}"):
        delete.delete(tmp_path, [digest], "no licence", run=None, everywhere=False)
    delete.delete(tmp_path, [digest], "no licence", run=None, everywhere=True)
    assert ledger.read(tmp_path).deletes(digest, f"runs/{reviewed.run_id}")


def test_a_run_beside_itself_and_other_prompts_are_no_pairs(tmp_path: Path, made: journal.Run) -> None:
    other = worlds.finished(tmp_path, "seed=8")
    pair = (f"critique.images_of={made.id}", "critic=pair", "critic_runtime=external")
    assert {f.code for f in refused(tmp_path, *pair, f"critique.against={made.id}")} == {"not_comparable"}
    (fault,) = refused(tmp_path, *pair, f"critique.against={other.id}")
    assert fault.what == f"{other.id} has another prompt or seed for 4 images (first on-blue.000)"
