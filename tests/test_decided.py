"""What people decided: whose last word stands, what is refused, and which split an image is in."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import journal, ledger, store
from runner.errors import Corrupt
from runner.ledger.decided import Decisions, decided, split_of

ONE, TWO = store.digest(b"one"), store.digest(b"two")


def write(outputs: Path, *events: dict[str, Any]) -> Path:
    folder = outputs / ledger.DECISIONS
    folder.mkdir(parents=True, exist_ok=True)
    journal.open_log(folder, "0" * 64, list)[0].append(*({"event": "decision", **event} for event in events))
    return folder / journal.JOURNAL


def said(image: str, word: str | None, reviewer: str = "ada", **more: Any) -> dict[str, Any]:
    return {"image": image, "decision": word, "reviewer": reviewer, "tags": [], "note": "", **more}


def words(outputs: Path) -> list[tuple[str, str, str]]:
    return [(decision.image, decision.word, decision.reviewer) for decision in decided(outputs).standing]


def test_nobody_decided_where_there_is_no_journal() -> None:
    assert decided(Path("no such folder")) == Decisions()


def test_the_last_word_of_each_reviewer_stands_in_the_order_of_the_last_words(tmp_path: Path) -> None:
    write(tmp_path, said(ONE, "approve"), said(ONE, "reject", "bob"), said(TWO, "maybe"), said(ONE, "reject"))
    assert words(tmp_path) == [(ONE, "reject", "bob"), (TWO, "maybe", "ada"), (ONE, "reject", "ada")]
    assert list(decided(tmp_path).by_image()) == [TWO, ONE]
    assert [decision.reviewer for decision in decided(tmp_path).by_image()[ONE]] == ["bob", "ada"]


def test_a_word_that_is_taken_back_leaves_the_other_reviewers(tmp_path: Path) -> None:
    write(tmp_path, said(ONE, "approve"), said(ONE, "reject", "bob"), said(ONE, None))
    assert words(tmp_path) == [(ONE, "reject", "bob")]
    assert ONE in ledger.held(tmp_path)
    write(tmp_path, said(ONE, None, "bob"))
    assert (words(tmp_path), ledger.held(tmp_path)) == ([], {})


def test_tags_note_and_time_are_kept_and_what_is_not_there_is_empty(tmp_path: Path) -> None:
    write(tmp_path, said(ONE, "reject", tags=["wrong_shape"], note="flat"), {"image": TWO, "decision": "approve"})
    one, two = decided(tmp_path).standing
    assert (one.tags, one.note, one.at[:2]) == (("wrong_shape",), "flat", "20")
    assert (two.tags, two.note, two.reviewer) == ((), "", "")


def test_a_word_of_a_later_version_is_kept_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, said(ONE, "skip"))
    assert words(tmp_path) == [(ONE, "skip", "ada")]


def test_lines_that_decide_nothing_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, {"event": "shown", "image": ONE}, said(TWO, "approve"))
    assert words(tmp_path) == [(TWO, "approve", "ada")]


@pytest.mark.parametrize(
    ("event", "why"),
    [
        ({"image": 3, "decision": "approve"}, "its image is no text"),
        ({"image": ONE, "decision": 1}, "its decision is no text"),
        ({"image": ONE, "decision": "reject", "tags": "wrong"}, "its tags are no list of texts"),
        ({"image": ONE, "decision": "reject", "tags": [1]}, "its tags are no list of texts"),
        ({"image": ONE, "decision": "reject", "note": []}, "its note is no text"),
    ],
)
def test_a_line_of_another_shape_is_corrupt_and_holds_everything(
    tmp_path: Path, event: dict[str, Any], why: str
) -> None:
    write(tmp_path, said(TWO, "approve"), event)
    with pytest.raises(Corrupt, match=rf"journal\.jsonl: line 2 is no decision \({why}\)\. Nothing was changed"):
        decided(tmp_path)
    with pytest.raises(Corrupt, match="nothing is deleted while this cannot be read"):
        ledger.held(tmp_path)


def test_a_broken_chain_is_corrupt(tmp_path: Path) -> None:
    path = write(tmp_path, said(ONE, "approve"))
    path.write_bytes(path.read_bytes().replace(b"approve", b"appRove"))
    with pytest.raises(Corrupt, match=r"line 1 was altered: .* `python -m runner verify --all` says more"):
        decided(tmp_path)


# ---- splits


def test_splits_stay_what_they_were() -> None:
    assert [split_of(store.digest(b"%d" % n)) for n in range(8)] == SPLITS


SPLITS = ["test", "dev", "test", "dev", "train", "dev", "train", "train"]


def test_splits_are_six_two_two_of_ten() -> None:
    counts = Counter(split_of(store.digest(b"%d" % n)) for n in range(2_000))
    assert counts["train"] == pytest.approx(1_200, abs=80)
    assert counts["dev"] == pytest.approx(400, abs=60)
    assert counts["test"] == pytest.approx(400, abs=60)


@given(st.binary(max_size=40).map(bytes.hex))
def test_every_name_has_one_split(name: str) -> None:
    assert split_of(name) == split_of(name) and split_of(name) in ("train", "dev", "test")
