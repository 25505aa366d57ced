"""`find`: images across runs, for a person and for a program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runner import index, journal
from runner.errors import Refused
from runner.verbs import find
from tests import fakes, worlds
from tests.report import judged


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> journal.Run:
    """A run of four images, one of which could not be made."""
    outputs = tmp_path_factory.mktemp("outputs")
    painter = fakes.Painter(broken=frozenset({"on-white.001"}))
    return journal.read_run(worlds.run(worlds.accept(outputs), generate=painter).folder)


def ask(
    made: journal.Run, least: tuple[str, ...] = (), most: tuple[str, ...] = (), count: bool = False, **query: Any
) -> dict[str, Any]:
    return find.find(made.folder.parent.parent, index.ImageQuery(**query), least, most, count=count)


def test_images_and_their_number_are_told(made: journal.Run) -> None:
    value = ask(made, prompt="BLUE", run=made.id[:8])
    assert value.keys() == {"images", "total"}
    assert [(i["run_id"], i["key"], i["digest"]) for i in value["images"]] == [
        (made.id, image["key"], image["digest"]) for image in made.images()[:2]
    ]


def test_the_number_alone_can_be_asked_for(made: journal.Run) -> None:
    assert ask(made, count=True, status="complete") == {"images": [], "total": 3}
    assert find.show(ask(made, count=True)) == "4 images"


def test_bounds_are_a_criterion_and_a_number(made: journal.Run) -> None:
    scores = [image["scores"]["concept"] for image in made.images() if image["scores"]]
    bound = f"concept={sorted(scores)[1]}"
    assert (ask(made, (bound,))["total"], ask(made, (), (bound,))["total"], ask(made, (bound,), (bound,))["total"]) == (
        2,
        2,
        1,
    )


@pytest.mark.parametrize("word", ["concept", "=1", "concept=", "concept=x", "concept=nan", "concept=inf", ""])
def test_a_bound_of_another_form_is_refused(made: journal.Run, word: str) -> None:
    with pytest.raises(
        Refused, match=r"--min: '.*' is no bound\. Write a criterion and a number, as in --min concept=0.8"
    ):
        ask(made, (word,))


def test_bytes_that_are_no_text_are_refused(made: journal.Run) -> None:
    with pytest.raises(Refused, match=r"find: 'a\\udcff' is no text\. Write it in UTF-8"):
        ask(made, prompt="a\udcff")


@pytest.mark.parametrize("seed", [-1, 2**32, 2**70])
def test_a_number_that_no_seed_can_be_is_refused(made: journal.Run, seed: int) -> None:
    with pytest.raises(Refused, match=rf"--seed: {seed} is no seed\. Write a number from 0 to 4294967295"):
        ask(made, seed=seed)


def test_an_unknown_run_is_refused_with_the_known_ones(made: journal.Run) -> None:
    with pytest.raises(Refused, match=rf"'nosuch' is no run of .*Known: {made.id}"):
        ask(made, run="nosuch")


def test_a_person_reads_a_table_with_a_column_for_each_criterion(made: journal.Run) -> None:
    text = find.show(ask(made, sort="-concept", limit=2))
    best = max((i for i in made.images() if i["scores"]), key=lambda image: image["scores"]["concept"])
    assert "concept" in text
    assert f"{best['scores']['concept']:.3f}" in text
    assert best["digest"][:16] in text
    assert text.endswith("2 of 4 images; --limit shows more")


def test_nothing_found_is_said(made: journal.Run) -> None:
    assert find.show(ask(made, seed=1)) == "No image is so."


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> judged.World:
    return judged.world(tmp_path_factory.getbasetemp())


@pytest.mark.parametrize(("word", "num_images"), [("accept", 2), ("reject", 1), ("unsure", 0)])
def test_images_are_found_by_the_advice_on_them(world: judged.World, word: str, num_images: int) -> None:
    value = ask(world.first, run=world.first.id, advice=word)
    assert (value["total"], [image["advice"] for image in value["images"]]) == (num_images, [word] * num_images)


def test_an_advice_that_no_critic_gives_is_refused(world: judged.World) -> None:
    with pytest.raises(Refused, match=r"--advice: no critic advises 'rejct'\. Did you mean 'reject'\? Known: accept"):
        ask(world.first, advice="rejct")


def test_what_a_quarantined_critic_said_answers_no_question(world: judged.World) -> None:
    run = world.stopped
    assert ask(run, ("colour=0",), run=run.id)["total"] == ask(run, (), ("colour=9",), run=run.id)["total"] == 0
    assert ask(run, run=run.id, tag="wrong_colour")["total"] == ask(run, run=run.id, advice="reject")["total"] == 0
    value = ask(run, run=run.id)
    assert [(image["scores"], image["quarantined"]) for image in value["images"]] == [({}, True)] * 3 + [({}, False)]
    assert find.show(value).count("quarantined") == 3


def test_an_empty_folder_has_no_images(tmp_path: Path) -> None:
    assert find.find(tmp_path, index.ImageQuery(), (), (), count=False) == {"images": [], "total": 0}


def test_the_door_finds_by_advice(world: judged.World, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("find", "--run", world.first.id, "--advice", "reject", "--json", "--outputs", str(world.outputs))
    assert [image["key"] for image in worlds.open_door(capsys, words).line["images"]] == ["on-blue.001"]
