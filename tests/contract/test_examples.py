"""Which past decisions a critic is shown: by policy, of one split, with bytes and prompt, the same every time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from runner import journal, ledger, store
from runner.config.critic import Retrieval
from runner.contract.examples import Chosen, examples
from runner.errors import Corrupt
from runner.ledger.decided import split_of
from tests.critic import reviewed
from tests.critic.reviewed import name_of
from tests.verbs import small_runs

TRAIN = [text for text in map(str, range(60)) if split_of(name_of(text)) == "train"][:12]
OTHER = next(text for text in map(str, range(60)) if split_of(name_of(text)) != "train")


def policy(num_examples: int, select: Literal["recent", "balanced"] = "recent") -> Retrieval:
    return Retrieval(source="decisions", split="train", num_examples=num_examples, select=select)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that made every image, with their bytes."""
    outputs = tmp_path_factory.mktemp("outputs")
    reviewed.run(outputs, "r1", dict.fromkeys([*TRAIN, OTHER]))
    reviewed.put(outputs, [*TRAIN, OTHER])
    return outputs


@pytest.fixture
def outputs(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "outputs"))


def shown(outputs: Path, retrieval: Retrieval) -> list[tuple[str, str]]:
    """Prompt and word of each example."""
    return [(chosen.prompt.rpartition(" ")[2], chosen.decision) for chosen in examples(outputs, retrieval)]


def test_the_last_decisions_are_shown_oldest_first_with_prompt_and_note(outputs: Path) -> None:
    reviewed.decide(outputs, *((text, "approve") for text in TRAIN[:3]))
    reviewed.decide(outputs, (TRAIN[0], "reject"), note="too flat")
    found = examples(outputs, policy(2))
    assert [chosen.image for chosen in found] == [name_of(TRAIN[2]), name_of(TRAIN[0])]
    assert found[1] == Chosen(name_of(TRAIN[0]), f"a picture of {TRAIN[0]}", "reject", "too flat")


def test_nothing_is_looked_up_where_nothing_is_to_be_shown() -> None:
    none = Retrieval(source="none", split="train", num_examples=0, select="recent")
    assert examples(Path("no such folder"), none) == ()
    assert examples(Path("no such folder"), policy(4)) == ()


def test_balanced_shows_as_many_approved_as_rejected(outputs: Path) -> None:
    reviewed.decide(outputs, *((text, "approve") for text in TRAIN[:5]), (TRAIN[5], "reject"), (TRAIN[6], "maybe"))
    assert shown(outputs, policy(4, "balanced")) == [(TRAIN[4], "approve"), (TRAIN[5], "reject")]
    reviewed.decide(outputs, (TRAIN[7], "reject"))
    words = [word for _, word in shown(outputs, policy(5, "balanced"))]
    assert words == ["approve", "approve", "reject", "reject"]


def test_another_split_is_never_shown(outputs: Path) -> None:
    reviewed.decide(outputs, (OTHER, "approve"), (TRAIN[0], "approve"))
    assert shown(outputs, policy(8)) == [(TRAIN[0], "approve")]


def test_images_about_which_reviewers_differ_are_no_example(outputs: Path) -> None:
    reviewed.decide(outputs, (TRAIN[0], "approve"), (TRAIN[1], "approve"))
    reviewed.decide(outputs, (TRAIN[0], "reject"), (TRAIN[1], "approve"), reviewer="bob")
    assert shown(outputs, policy(8)) == [(TRAIN[1], "approve")]


def lose(outputs: Path) -> None:
    store.Store(outputs / "objects").path(name_of(TRAIN[0])).unlink()


def alter(outputs: Path) -> None:
    store.Store(outputs / "objects").path(name_of(TRAIN[0])).write_bytes(b"other")


def bury(outputs: Path) -> None:
    small_runs.tell(outputs, small_runs.tombstone(name_of(TRAIN[0]), "runs/r1"))


def take_back(outputs: Path) -> None:
    reviewed.decide(outputs, (TRAIN[0], None))


def say_otherwise(outputs: Path) -> None:
    reviewed.decide(outputs, (TRAIN[0], "skip"))


def lose_the_run(outputs: Path) -> None:
    shutil.rmtree(outputs / "runs" / "r1")
    reviewed.run(outputs, "r1", {TRAIN[1]: None})


@pytest.mark.parametrize("harm", [lose, alter, bury, take_back, say_otherwise, lose_the_run])
def test_what_cannot_be_shown_is_passed_over_for_the_one_before(outputs: Path, harm: Callable[[Path], None]) -> None:
    reviewed.decide(outputs, (TRAIN[1], "approve"), (TRAIN[0], "reject"))
    harm(outputs)
    assert shown(outputs, policy(1)) == [(TRAIN[1], "approve")]


def test_an_image_deleted_in_one_run_is_shown_as_another_made_it(outputs: Path) -> None:
    reviewed.run(outputs, "r2", {TRAIN[0]: None})
    bury(outputs)
    reviewed.decide(outputs, (TRAIN[0], "approve"))
    assert shown(outputs, policy(1)) == [(TRAIN[0], "approve")]


@pytest.mark.parametrize(("prompt", "num_shown"), [("a red lamp", 1), (None, 0)])
def test_an_imported_image_is_shown_when_its_prompt_is_known(outputs: Path, prompt: str | None, num_shown: int) -> None:
    text = next(text for text in map(str, range(100, 200)) if split_of(name_of(text)) == "train")
    reviewed.put(outputs, [text])
    small_runs.tell(outputs, {"event": "imported", "object": name_of(text), "prompt": prompt})
    reviewed.decide(outputs, (text, "approve"))
    assert [chosen.prompt for chosen in examples(outputs, policy(1))] == [prompt] * num_shown


def test_the_same_decisions_give_the_same_examples(outputs: Path) -> None:
    reviewed.decide(outputs, *((text, "approve" if n % 2 else "reject") for n, text in enumerate(TRAIN)))
    assert examples(outputs, policy(8, "balanced")) == examples(outputs, policy(8, "balanced"))


def test_decisions_that_cannot_be_read_are_corrupt(outputs: Path) -> None:
    reviewed.decide(outputs, (TRAIN[0], "approve"))
    path = outputs / ledger.DECISIONS / journal.JOURNAL
    path.write_bytes(path.read_bytes()[:-20] + b"\n")
    with pytest.raises(Corrupt, match="line 1 is not one of our lines"):
        examples(outputs, policy(1))
