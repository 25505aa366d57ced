"""Two review sets of the same images: what changed between them, and when there is nothing to compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import journal
from runner.critic.worth import review_sets
from runner.critic.worth.review_sets import difference
from runner.errors import Refused
from tests.critic import reviewed
from tests.critic.reviewed import Said, name_of, review_set

OTHER_SIDE = {"A higher": "B higher", "B higher": "A higher"}
GOOD = Said({"shape": 1.0}, advice="accept")

SAID = st.builds(
    Said,
    st.dictionaries(st.sampled_from(["shape", "colour"]), st.sampled_from([0.0, 0.25, 0.5, 1.0])),
    st.lists(st.sampled_from(["wrong_shape", "wrong_colour", "blurred"]), unique=True).map(tuple),
    st.sampled_from(["accept", "reject", "unsure", None]),
) | st.sampled_from([Said(unscored="timeout"), Said(unscored="parse")])
SETS = st.dictionaries(st.sampled_from([f"image {n}" for n in range(12)]), SAID, min_size=1)


def of_criterion(value: dict[str, Any], name: str) -> dict[str, Any]:
    (row,) = [row for row in value["criteria"] if row["criterion"] == name]
    return dict(row)


# ---- what is always so


@given(SETS)
def test_a_set_beside_itself_has_nothing_changed_and_correlates_fully(said: dict[str, Said]) -> None:
    value = difference(review_set("one", said), review_set("one", said))
    assert (value["changed"], value["advice"]["changed"], value["alone"]) == ([], 0, {"a": [], "b": []})
    assert all(tag["added"] == tag["removed"] == 0 and tag["a"] == tag["b"] for tag in value["tags"])
    for row in value["criteria"]:
        assert row["difference"] in (0.0, None)
        assert row["correlation"] in (1.0, None)
        assert row["left_out"] == 0


@given(SETS, SETS)
def test_swapping_the_sets_mirrors_everything(left: dict[str, Said], right: dict[str, Said]) -> None:
    one, other = review_set("one", left), review_set("other", {**right, "common": GOOD, "image 0": GOOD})
    one = review_set("one", {**left, "common": GOOD})
    value, back = difference(one, other), difference(other, one)
    assert back["n"] == value["n"] and back["alone"] == {"a": value["alone"]["b"], "b": value["alone"]["a"]}
    assert back["scored"]["alone"] == {"a": value["scored"]["alone"]["b"], "b": value["scored"]["alone"]["a"]}
    assert back["advice"]["table"] == {
        b: {a: value["advice"]["table"][a][b] for a in review_sets.ADVICE} for b in review_sets.ADVICE
    }
    assert [(t["tag"], t["added"], t["removed"]) for t in back["tags"]] == [
        (t["tag"], t["removed"], t["added"]) for t in value["tags"]
    ]
    assert {row["image"]: row["added"] for row in back["changed"]} == {
        r["image"]: r["removed"] for r in value["changed"]
    }
    for row in value["criteria"]:
        mirrored = of_criterion(back, row["criterion"])
        assert mirrored["correlation"] == row["correlation"]
        assert mirrored["difference"] == (None if row["difference"] is None else -row["difference"])
        assert mirrored["verdict"] == OTHER_SIDE.get(row["verdict"], row["verdict"])


# ---- scores


def test_scores_are_compared_where_both_gave_one() -> None:
    one = review_set("one", {f"i{n}": Said({"shape": n / 10}) for n in range(6)})
    other = review_set("other", {f"i{n}": Said({"shape": n / 10 + 0.3} if n else {}) for n in range(6)})
    row = of_criterion(difference(one, other), "shape")
    assert (row["n"], row["left_out"], row["correlation"], row["verdict"]) == (5, 1, 1.0, "no difference shown")
    assert row["difference"] == pytest.approx(0.3)


def test_the_correlation_is_of_ranks_and_none_for_two_or_for_equal_scores() -> None:
    one = review_set("one", {f"i{n}": Said({"a": score, "b": 0.5}) for n, score in enumerate((1, 2, 3, 4))})
    other = review_set("other", {f"i{n}": Said({"a": score, "b": n}) for n, score in enumerate((10, 30, 20, 40))})
    value = difference(one, other)
    assert of_criterion(value, "a")["correlation"] == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert of_criterion(value, "b")["correlation"] is None
    two = [review_set(name, {f"i{n}": Said({"a": n}) for n in range(2)}) for name in "ab"]
    assert of_criterion(difference(two[0], two[1]), "a")["correlation"] is None


def test_scores_of_other_scales_are_compared_as_shares() -> None:
    one = review_set("one", {f"i{n}": Said({"shape": n / 4}) for n in range(5)})
    other = review_set("other", {f"i{n}": Said({"shape": 1.0 + n}) for n in range(5)}, scale=(1.0, 5.0))
    row = of_criterion(difference(one, other), "shape")
    assert (row["unit"], row["mean_a"], row["mean_b"], row["difference"]) == ("share of the scale", 0.5, 0.5, 0.0)


def test_criteria_of_one_alone_are_named_and_not_compared() -> None:
    one, other = (review_set(name, {"i": Said({"shape": 1.0, name: 1.0})}) for name in ("hands", "eyes"))
    value = difference(one, other)
    assert [row["criterion"] for row in value["criteria"]] == ["shape"]
    assert value["criteria_alone"] == {"a": ["hands"], "b": ["eyes"]}


# ---- advice, tags, what has no scores


def test_changed_advice_is_counted_and_named() -> None:
    one = review_set("one", {"i": Said(advice="accept"), "j": Said(advice="reject"), "k": Said(advice=None)})
    other = review_set("other", {"i": Said(advice="reject"), "j": Said(advice="reject"), "k": Said(advice="accept")})
    value = difference(one, other)
    assert (value["advice"]["changed"], value["advice"]["same"], value["advice"]["without"]) == (1, 1, 1)
    assert value["advice"]["table"]["accept"] == {"accept": 0, "unsure": 0, "reject": 1}
    assert [(row["image"], row["advice"]) for row in value["changed"]] == [
        ("i", ["accept", "reject"]),
        ("k", [None, "accept"]),
    ]


def test_tags_are_compared_per_image_and_in_total_with_who_knows_them() -> None:
    one = review_set("one", {"i": Said(tags=("wrong_shape",)), "j": Said(tags=("wrong_shape",))})
    other = review_set("other", {"i": Said(tags=("blurred",)), "j": Said(tags=("wrong_shape",))})
    value = difference(one, other)
    assert value["tags"] == [
        {"tag": "blurred", "a": 0, "b": 1, "added": 1, "removed": 0, "unknown_to": ["a", "b"]},
        {"tag": "wrong_shape", "a": 2, "b": 1, "added": 0, "removed": 1, "unknown_to": []},
    ]
    (row,) = value["changed"]
    assert (row["image"], row["added"], row["removed"]) == ("i", ["blurred"], ["wrong_shape"])


def test_an_image_scored_on_one_side_alone_is_counted_by_the_failure_and_its_tags_are_not() -> None:
    one = review_set("one", {"i": Said({"shape": 1.0}, ("wrong_shape",), "reject"), "j": Said(unscored="parse")})
    other = review_set("other", {"i": Said(unscored="timeout"), "j": Said(unscored="timeout")})
    value = difference(one, other)
    assert value["scored"] == {"both": 0, "neither": 1, "alone": {"a": {"timeout": 1}, "b": {}}}
    assert (value["tags"], value["criteria"]) == ([], [])
    assert [(row["unscored"], row["removed"]) for row in value["changed"]] == [
        ([None, "timeout"], []), (["parse", "timeout"], []),
    ]  # fmt: skip


def test_sets_without_a_common_image_are_refused_with_what_each_judged() -> None:
    one, other = review_set("one", {"i": GOOD, "j": GOOD}), review_set("other", {"k": GOOD})
    words = (
        r"other: shares no image with one: one judged 2 images and other judged 1 images\. Review the same images: "
        r"stages=\[critique\] critique\.images_of=one\."
    )
    with pytest.raises(Refused, match=words):
        difference(one, other)


def test_images_that_only_a_quarantined_critic_judged_are_not_common() -> None:
    one = review_set("one", {"i": GOOD})
    with pytest.raises(Refused, match="and the 1 that both judged are quarantined in one of them"):
        difference(one, review_set("other", {}, quarantined=frozenset({"i"})))


# ---- from run folders


def read(folder: Path) -> review_sets.ReviewSet:
    return review_sets.review_set(journal.read_run(folder))


def test_a_run_is_read_with_who_judged_and_what_has_no_scores(tmp_path: Path) -> None:
    images = {"x": Said({"shape": 0.5}, ("wrong_shape",), "unsure"), "y": Said(unscored="timeout: 30 s"), "z": None}
    found = read(reviewed.run(tmp_path, "r1", images))
    assert found.critic == {
        "profile": "shapes", "version": 2, "digest": "a" * 64, "runtime": "shapes_clip", "files": "b" * 64,
    }  # fmt: skip
    assert found.digests == frozenset({name_of("x"), name_of("y")})
    assert found.vocabulary == frozenset({"wrong_shape", "wrong_colour"})
    assert found.verdicts[name_of("y")].unscored == "timeout"
    assert found.verdicts[name_of("x")].advice == "unsure"


def test_a_review_of_a_run_and_its_own_verdicts_are_sets_of_the_same_images(tmp_path: Path) -> None:
    one = read(reviewed.run(tmp_path, "r1", {"x": GOOD, "y": GOOD}))
    other = read(reviewed.run(tmp_path, "r2", {"y": GOOD, "x": Said({"shape": 0.0}, advice="reject")}, given=True))
    value = difference(one, other)
    assert (value["n"], [row["image"] for row in value["changed"]]) == (2, [name_of("x")])


def test_verdicts_of_a_critic_that_failed_an_exam_are_in_no_number(tmp_path: Path) -> None:
    found = read(reviewed.run(tmp_path, "r1", {"x": GOOD, "y": GOOD}, passed=False))
    assert (len(found.verdicts), found.quarantined) == (0, frozenset({name_of("x"), name_of("y")}))


def test_pairs_are_named_by_both_images_and_scored_by_who_won(tmp_path: Path) -> None:
    pairwise = {**reviewed.CRITIC, "mode": "pairwise", "scale": {"min": 1.0, "max": 5.0}}
    folder = reviewed.run(tmp_path, "r1", {"x": Said({"overall": 0.5})}, critic=pairwise, given=True)
    run = journal.read_run(folder)
    run.manifest["given"]["p.000"].append(name_of("y"))
    found = review_sets.review_set(run)
    assert (list(found.verdicts), found.scale) == ([f"{name_of('x')} {name_of('y')}"], (0.0, 1.0))


def test_a_profile_of_before_has_its_tags_in_its_criteria_and_no_advice(tmp_path: Path) -> None:
    before = {
        "profile": "shapes_v1",
        "version": 1,
        "scale": {"min": 0.0, "max": 1.0},
        "criteria": [{"id": "shape", "tag": "odd"}],
    }
    found = read(reviewed.run(tmp_path, "r1", {"x": Said({"shape": 0.5})}, critic=before))
    assert (found.vocabulary, found.verdicts[name_of("x")].advice) == (frozenset({"odd"}), None)


@pytest.mark.parametrize("critic", [None, reviewed.CRITIC])
def test_a_run_that_reviewed_nothing_is_refused(tmp_path: Path, critic: dict[str, Any] | None) -> None:
    folder = reviewed.run(tmp_path, "r1", {"x": GOOD if critic is None else None}, critic=critic)
    with pytest.raises(
        Refused, match=r"r1: has no verdicts\. Name a run with the stage critique, or review its images"
    ):
        read(folder)


def test_the_first_verdict_on_an_image_counts_and_the_others_are_told(tmp_path: Path) -> None:
    folder = reviewed.run(tmp_path, "r1", {"x": GOOD, "y": Said(advice="reject")}, given=True)
    run = journal.read_run(folder)
    run.manifest["given"]["p.001"] = [name_of("x")]
    found = review_sets.review_set(run)
    assert (found.num_repeated, [verdict.advice for verdict in found.verdicts.values()]) == (1, ["accept"])
