"""What names a profile: its digest, and the lock that holds it to its version. And the shipped profiles themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from runner import config
from runner.config.critic import CriticProfile
from runner.contract import profile as profiles
from runner.contract import profile_rules
from runner.critic import schema
from runner.errors import Refused, Unavailable
from tests import fakes
from tests.critic import bounds

CONF = fakes.ROOT / "conf"
NAMES = sorted(path.stem for path in (CONF / "critic").glob("*.yaml") if path.stem != "none")
TINY: dict[str, Any] = {  # the smallest profile there can be
    "profile": "tiny", "version": 1, "mode": "pointwise",
    "text": {"system": "s", "user": "u", "example": "e"},
    "shown": {"longest_side_px": 64, "multiple_of_px": 1},
    "scale": {"min": 0.0, "max": 1.0, "levels": [0.0, 1.0]},
    "rules": [{"id": "r", "group": "prompt", "text": "t"}],
    "tags": [],
    "criteria": [{
        "id": "c", "rules": ["r"], "question": "q", "weight": 1.0, "evidence_below": 0.0, "needed": True, "clip": None,
        "anchors": [{"score": 0.0, "means": "bad"}, {"score": 1.0, "means": "good"}],
    }],
    "evidence": {"max_items": 1, "max_chars": 1, "boxes": "none"},
    "retrieval": {"source": "none", "split": "train", "num_examples": 0, "select": "recent"},
    "decision": {"aggregate": "min", "accept_at": 1.0, "reject_below": 0.0, "gates": [], "critical_rejects": False},
    "sampling": {"temperature": 0.0, "top_p": 1.0, "seed": 1, "max_tokens": 64, "thinking": False},
    "retry": {"max_attempts": 1, "more_tokens": 1.0},
    "exam": {"criterion": "c", "good_at_least": 1.0, "apart_at_least": 0.5, "repeat_within": 0.0},
    "requires": {"structured_output": "any", "min_context": 256},
    "budget": {"timeout_s": 1.0, "max_seconds": None, "max_unscored_share": 0.0, "max_in_a_row": 1},
}  # fmt: skip
TINY_DIGEST = "50e2f66935223b246c5a49c1d15206a3609c0c8d7ad5e6d1758757799c3c7eda"  # sha256sum of it, typed out

TAG = {"id": "bad", "rule": "r", "severity": "minor", "means": "m"}


def tiny(**changes: Any) -> CriticProfile:
    return CriticProfile.model_validate({**TINY, **changes})


def shipped(name: str) -> CriticProfile:
    profile = fakes.request({}, "demo", f"critic={name}").critic
    assert profile is not None
    return profile


def locked(*entries: CriticProfile) -> profiles.Lock:
    """A lock with these profiles as they are."""
    rows = {(p.profile, p.version): (profiles.profile_digest(p), profiles.canonical(p)) for p in entries}
    return profiles.Lock({key: profiles.Locked(*row) for key, row in rows.items()})


def faults(profile: CriticProfile, lock: profiles.Lock) -> list[str]:
    return [f"{fault.code}: {fault}" for fault in profiles.check_lock(profile, lock)]


# ---- the digest


def test_a_profile_has_the_digest_of_its_canonical_form() -> None:
    assert profiles.profile_digest(tiny()) == TINY_DIGEST


def test_the_budget_is_no_part_of_the_digest() -> None:
    other = tiny(budget={"timeout_s": 9.0, "max_seconds": 9.0, "max_unscored_share": 1.0, "max_in_a_row": 9})
    assert profiles.profile_digest(other) == TINY_DIGEST


@pytest.mark.parametrize("part", [part for part in TINY if part != "budget"])
def test_every_other_part_is_in_the_canonical_form(part: str) -> None:
    assert part in profiles.canonical(tiny())


def test_references_stay_as_they_are_given() -> None:
    criteria = {entry["id"]: entry for entry in profiles.canonical(shipped("shapes"))["criteria"]}
    assert criteria["concept"]["clip"]["references"] == "builtin:shapes_clip/references"


# ---- the check


def test_a_locked_profile_is_accepted() -> None:
    assert faults(tiny(), locked(tiny())) == []
    assert locked(tiny()).state(tiny()) == "locked"


def test_one_letter_under_the_same_version_is_refused_with_the_difference() -> None:
    now = tiny(rules=[{"id": "r", "group": "prompt", "text": "T"}])
    assert faults(now, locked(tiny())) == [
        "profile_changed_without_version: critic.version (1): tiny is not what it was locked as: "
        "rules.r.text: was 't', is 'T'. "
        "Put it back (on the command line: leave it out), raise critic.version and run `python -m runner critic lock`, "
        "or give a copy a name of its own: profile: NAME, version: 1."
    ]


def test_a_raised_version_is_accepted_and_is_new() -> None:
    now = tiny(version=2, text={"system": "S", "user": "u", "example": "e"})
    assert faults(now, locked(tiny())) == []
    assert locked(tiny()).state(now) == "new"


def test_of_a_long_text_the_part_that_changed_is_shown() -> None:
    before, now = (tiny(text={"system": f"{'a' * 500}{x}{'b' * 500}", "user": "u", "example": "e"}) for x in "XY")
    [said] = faults(now, locked(before))
    a, b = "a" * 24, "b" * 24
    assert f"text.system: was '...{a}X{b}...', is '...{a}Y{b}...'" in said


def test_entries_that_come_and_go_are_named() -> None:
    now = tiny(rules=[{"id": "other", "group": "prompt", "text": "t"}])
    [said] = faults(now, locked(tiny()))
    assert "rules.other: was None, is {'id': 'other'" in said
    assert "rules.r: was {'id': 'r', 'group': 'prompt', 'text': 't'}, is None" in said


def test_another_order_is_another_profile() -> None:
    rules = [{"id": name, "group": "prompt", "text": "t"} for name in ("r", "s")]
    [said] = faults(tiny(rules=rules[::-1]), locked(tiny(rules=rules)))
    assert "the same entries in another order" in said


def test_many_changes_are_counted() -> None:
    sampling = {"temperature": 1.0, "top_p": 0.5, "seed": 2, "max_tokens": 65, "thinking": True}
    now = tiny(mode="pairwise", shown={"longest_side_px": 32, "multiple_of_px": 2}, tags=[TAG], sampling=sampling)
    [said] = faults(now, locked(tiny()))
    assert said.count(": was ") == 6
    assert "; and 3 more. Put" in said


# ---- the file


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of groups of one's own, with one profile: the shipped one under another name."""
    (tmp_path / "critic").mkdir()
    write(tmp_path, "version: 1")
    return tmp_path


def write(place: Path, *lines: str) -> None:
    text = "\n".join(["defaults: [shapes, _self_]", "profile: mine", *lines])
    (place / "critic" / "mine.yaml").write_text(text, "utf-8")


def test_profiles_are_locked_and_stay_so(place: Path) -> None:
    [row] = profiles.lock_profiles(place)
    assert (row.id, row.version, row.state) == ("mine", 1, "locked")
    before = (place / "critic.lock.json").read_bytes()
    profiles.lock_profiles(place)
    assert (place / "critic.lock.json").read_bytes() == before


def test_a_changed_profile_is_not_locked_over(place: Path) -> None:
    profiles.lock_profiles(place)
    before = (place / "critic.lock.json").read_bytes()
    write(place, "version: 1", "sampling: {seed: 2}")
    with pytest.raises(Refused, match=r"mine is not what it was locked as: sampling\.seed: was 1, is 2"):
        profiles.lock_profiles(place)
    assert (place / "critic.lock.json").read_bytes() == before
    assert [row.state for row in profiles.lock_state(place)] == ["changed"]


def test_a_raised_version_is_locked_beside_the_old_one(place: Path) -> None:
    profiles.lock_profiles(place)
    write(place, "version: 2", "sampling: {seed: 2}")
    rows = profiles.lock_profiles(place)
    assert [(row.version, row.state) for row in rows] == [(1, "locked"), (2, "locked")]
    assert rows[0].digest != rows[1].digest


def test_two_files_cannot_be_one_version(place: Path) -> None:
    shutil.copy(place / "critic" / "mine.yaml", place / "critic" / "twin.yaml")
    twin = (place / "critic" / "twin.yaml").read_text("utf-8")
    (place / "critic" / "twin.yaml").write_text(f"{twin}\nsampling: {{seed: 3}}", "utf-8")
    with pytest.raises(Refused, match=r"sampling\.seed: was 1, is 3"):
        profiles.lock_profiles(place)
    assert not (place / "critic.lock.json").exists()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("{", "is no lock of format runner-critic-lock/1: Expecting property name"),
        ('{"profiles": {}}', "a part of it is missing"),
        ("[]", "a part of it is missing"),
        ('{"format": "runner-critic-lock/2", "profiles": {}}', "it says 'runner-critic-lock/2'"),
        ('{"format": "runner-critic-lock/1", "profiles": {"a": {"x": {"digest": "", "profile": {}}}}}', "'x'"),
        ('{"format": "runner-critic-lock/1", "profiles": {"a": {"1": {"digest": "", "profile": {}}}}}',
         "a version 1 was altered by hand"),
        ('{"format": "runner-critic-lock/1", "profiles": {"a": {"-2": {"digest": "", "profile": {}}}}}',
         "a has a version '-2'"),
        ("[" * 100_000, "is no lock of format runner-critic-lock/1: maximum recursion depth exceeded"),
    ],
    ids=range(8),
)  # fmt: skip
def test_a_lock_that_is_none_is_refused(tmp_path: Path, data: str, said: str) -> None:
    (tmp_path / "critic.lock.json").write_text(data, "utf-8")
    with pytest.raises(Refused) as refusal:
        profiles.read_lock(tmp_path)
    [fault] = refusal.value.faults
    assert (fault.code, fault.where) == ("lock_unreadable", f"{tmp_path.name}/critic.lock.json")
    assert said in fault.what
    assert fault.fix == "Get it back (git checkout conf/critic.lock.json)"


def test_a_lock_that_is_not_there_is_refused(tmp_path: Path) -> None:
    said = r"is not there\. Get it back .*, or make a new one with `python -m runner critic lock`\."
    with pytest.raises(Refused, match=said):
        profiles.read_lock(tmp_path)


def test_a_lock_that_cannot_be_read_is_no_bug(tmp_path: Path) -> None:
    (tmp_path / "critic.lock.json").mkdir()
    with pytest.raises(Refused, match="cannot be read: Is a directory"):
        profiles.read_lock(tmp_path)


def test_a_lock_that_cannot_be_written_is_no_bug(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.Disk(cut_at=1, error=OSError(28, "No space left on device")).install(monkeypatch)
    said = r"critic\.lock\.json: cannot be written: No space left on device\. Lock profiles in a checkout of your own\."
    with pytest.raises(Unavailable, match=said):
        profiles.lock_profiles(place)


# ---- what is shipped


def test_every_shipped_profile_is_in_the_lock() -> None:
    lock = profiles.read_lock()
    assert {name: lock.state(shipped(name)) for name in NAMES} == dict.fromkeys(NAMES, "locked")


def test_the_shipped_lock_is_as_it_is_written() -> None:
    values = json.loads((CONF / "critic.lock.json").read_bytes())
    assert (CONF / "critic.lock.json").read_text("utf-8") == json.dumps(values, indent=1, sort_keys=True) + "\n"
    assert config.conf_dir() == CONF


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_profile_keeps_every_rule(name: str) -> None:
    assert [str(fault) for fault in profile_rules.check_profile(shipped(name))] == []
    assert shipped(name).profile == name


@pytest.mark.parametrize("name", NAMES)
def test_the_longest_reply_is_that_of_the_schema(name: str) -> None:
    asked = schema.answer_schema(shipped(name))
    assert profile_rules.longest_reply_chars(shipped(name)) == bounds.longest_reply_chars(asked)


@pytest.mark.parametrize("name", NAMES)
def test_a_request_of_a_shipped_profile_fits_its_context(name: str) -> None:
    from runner.critic import request

    profile = shipped(name)
    num_images = (2 if profile.mode == "pairwise" else 1) + profile.retrieval.num_examples
    image_tokens = num_images * (profile.shown.longest_side_px // 32) ** 2  # one for 32 x 32 pixels
    text_tokens = len(request.system_text(profile)) // 3 + 300  # and a prompt
    assert text_tokens + image_tokens + profile_rules.most_tokens(profile) <= profile.requires.min_context


@pytest.mark.parametrize("name", [name for name in NAMES if name != "shapes"])
def test_a_profile_for_a_language_model_says_what_its_scores_mean(name: str) -> None:
    profile = shipped(name)
    assert profile.scale.levels == (1.0, 2.0, 3.0, 4.0, 5.0)
    assert all(len(criterion.anchors) >= 3 for criterion in profile.criteria)
    assert {rule.group for rule in profile.rules} == {"physical", "prompt"}
    assert {rule.id for rule in profile.rules} == {tag.rule for tag in profile.tags}


@pytest.mark.parametrize(
    ("name", "criteria"),
    [
        ("shapes", "shape colour background concept"),
        ("product_concept", "manufacturability material_separation screens reservoirs mouthpieces ergonomics novelty "
                            "prompt_intent"),
        ("lora_portrait", "identity face_anatomy hands skin eyes hair lighting style_match prompt_match background"),
        ("pair", "prompt_match identity_or_concept defects overall"),
    ],
)  # fmt: skip
def test_a_shipped_profile_judges_what_it_is_for(name: str, criteria: str) -> None:
    assert [criterion.id for criterion in shipped(name).criteria] == criteria.split()
