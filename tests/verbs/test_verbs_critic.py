"""`critic`: two sets of verdicts, verdicts against people, the lock, and what would answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from runner import config, journal
from runner.errors import Corrupt, Refused
from runner.verbs.critic import profiles, reviews, runtime, words
from tests import fakes, worlds
from tests.critic import reviewed, speaking
from tests.critic.reviewed import Said

NUMBERS = [str(number) for number in range(100)]


def advised(number: int) -> Said:
    """Images under 50 get a good score and are recommended."""
    good = number < 50
    return Said({"shape": 1 - number / 100}, () if good else ("wrong_shape",), "accept" if good else "reject")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a hundred reviewed images, a second review of half of them, and what two people decided."""
    place = tmp_path_factory.mktemp("outputs")
    first = {text: advised(int(text)) for text in NUMBERS}
    second = {text: advised(int(text) + 20) for text in NUMBERS[20:70]}
    shows = {**reviewed.CRITIC, "version": 3, "retrieval": {"source": "decisions", "split": "train"}}
    reviewed.run(place, "first", first)
    reviewed.run(place, "second", {**second, "20": Said(unscored="timeout: 120 s")}, critic=shows, given=True)
    reviewed.run(place, "alone", {"elsewhere": advised(0)})
    reviewed.decide(place, *((text, "approve" if int(text) < 40 else "reject") for text in NUMBERS))
    reviewed.decide(place, *((text, "approve" if int(text) < 60 else "reject") for text in NUMBERS), reviewer="bob")
    return place


def refused(outputs: Path, a: str, b: str) -> str:
    with pytest.raises(Refused, match=r"\. ") as error:
        reviews.diff(outputs, a, b)
    return str(error.value)


# ---- diff


def test_two_reviews_are_compared_where_both_judged(outputs: Path) -> None:
    value = reviews.diff(outputs, "first", "second")
    assert (value["a"], value["b"], value["n"], len(value["alone"]["a"])) == ("first", "second", 50, 50)
    (row,) = value["criteria"]
    assert (row["n"], row["correlation"], row["verdict"]) == (49, 1.0, "A higher")
    assert row["difference"] == pytest.approx(-0.2)
    assert value["advice"]["table"]["accept"] == {"accept": 9, "unsure": 0, "reject": 20}
    assert value["scored"]["alone"] == {"a": {"timeout": 1}, "b": {}}


def test_a_person_reads_what_changed(outputs: Path) -> None:
    text = words.diff_text(reviews.diff(outputs, "first", "second"))
    for part in (
        "shapes version 2",
        "shapes version 3",
        "A higher",
        "1.000",
        "Advice changed for 20 of 49 images",
        "1 timeout",
    ):
        assert part in text
    assert "accept -> reject" in text and "+wrong_shape" in text
    assert text.endswith("and 1 more; --json has them all")


def test_a_review_beside_itself_says_that_nothing_changed(outputs: Path) -> None:
    text = words.diff_text(reviews.diff(outputs, "first", "first"))
    assert "Advice changed for none of 100 images." in text
    assert "No image has another advice or other tags." in text


def test_runs_of_other_images_are_refused_with_what_to_do(outputs: Path) -> None:
    said = refused(outputs, "first", "alone")
    assert "alone: shares no image with first: first judged 100 images and alone judged 1 images." in said
    assert "stages=[critique] critique.images_of=first" in said


def test_an_unknown_run_is_refused_with_the_known_ones(outputs: Path) -> None:
    assert "'third' is no run of" in refused(outputs, "first", "third")


def test_an_altered_journal_is_corrupt(tmp_path: Path) -> None:
    path = reviewed.run(tmp_path, "r1", {"x": advised(0)}) / journal.JOURNAL
    path.write_bytes(path.read_bytes().replace(b'"shape":1', b'"shape":2'))
    with pytest.raises(Corrupt, match=r"was altered: .*Put the original back, or review again with run\.fresh=true"):
        reviews.diff(tmp_path, "r1", "r1")


def test_a_run_that_is_not_complete_is_told_as_a_note(tmp_path: Path) -> None:
    reviewed.run(tmp_path, "r1", {"x": advised(0)}, ended="interrupted")
    value = reviews.diff(tmp_path, "r1", "r1")
    assert value["notes"][0] == "r1 is interrupted: it may have verdicts still to come"
    assert "- r1 is interrupted" in words.diff_text(value)


# ---- calibrate


def test_verdicts_are_held_against_the_people_who_decided(outputs: Path) -> None:
    value = reviews.calibrate(outputs, "first")
    assert (value["n"], value["images"], value["shown_split"]) == (200, 100, None)
    assert value["agreement"]["value"] == pytest.approx(0.9)
    (two,) = value["reviewers"]
    assert (two["a"], two["b"], two["n"], two["agreement"]["value"]) == ("ada", "bob", 100, 0.8)
    text = words.calibration_text(value)
    for part in ("200 decisions on 100 images", "0.900", "people: approve", "shape", "kappa: ada and bob"):
        assert part in text


def test_what_the_critic_may_have_seen_does_not_count_for_it(outputs: Path) -> None:
    value = reviews.calibrate(outputs, "second")
    assert value["shown_split"] == "train" and value["left_out"]["split"] > 0
    assert value["n"] + value["left_out"]["split"] + sum(value["left_out"]["unscored"].values()) == 100
    text = words.calibration_text(value)
    assert "of split train, which the critic may be shown" in text
    assert "too few to say" in text


def test_where_nobody_decided_it_is_said_in_words(outputs: Path) -> None:
    text = words.calibration_text(reviews.calibrate(outputs, "alone"))
    assert "no decisions on no images" in text
    assert "too few to say: none approved and none rejected; 20 of each are needed" in text


def test_looking_changes_nothing(outputs: Path) -> None:
    before = worlds.snapshot(outputs)
    reviews.diff(outputs, "first", "second")
    reviews.calibrate(outputs, "first")
    assert worlds.snapshot(outputs) == before


# ---- profiles and their lock


def test_a_person_reads_what_to_do_about_a_profile() -> None:
    rows = [{"id": "one", "version": 1, "digest": "a" * 64, "state": state} for state in ("locked", "new", "changed")]
    text = profiles.text({"ok": False, "profiles": rows})
    assert "not in the lock: python -m runner critic lock" in text
    assert "changed under its version: raise it, or put the profile back" in text


# ---- what answers


def external(**changes: Any) -> dict[str, Any]:
    """The shipped runtime of a server that others run."""
    values: dict[str, Any] = yaml.safe_load((config.conf_dir() / "critic_runtime" / "external.yaml").read_text())
    return {**values, **changes}


def test_the_shipped_critic_is_planned_with_its_files() -> None:
    value = runtime.plan(fakes.request())
    assert (value["profile"], value["runtime"], value["ok"]) == ("shapes", "shapes_clip", True)
    assert value["files"][0]["there"] and value["files"][0]["path"] == "builtin:shapes_clip"
    assert runtime.plan_text(value).endswith("A run would use it.")


def test_a_server_of_others_is_planned_with_whether_its_key_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRITIC_KEY", "top-secret-value")
    value = runtime.plan(fakes.request({"critic_runtime": external(key_env="CRITIC_KEY")}))
    assert (value["key_there"], value["key_env"]) == (True, "CRITIC_KEY")
    assert "top-secret-value" not in str(value) + runtime.plan_text(value)
    monkeypatch.delenv("CRITIC_KEY")
    value = runtime.plan(fakes.request({"critic_runtime": external(key_env="CRITIC_KEY")}))
    assert "CRITIC_KEY, which is not set" in runtime.plan_text(value)
    assert [fault["code"] for fault in value["faults"]] == ["critic_key_missing"]


def test_a_key_in_an_address_is_refused_and_not_shown() -> None:
    asked = fakes.request({"critic_runtime": external(url="http://127.0.0.1:8000/sk-abcdefgh12345678")})
    with pytest.raises(Refused, match=r"critic_runtime\.url: holds a key") as error:
        runtime.plan(asked)
    assert "sk-abc" not in str(error.value)


def test_overrides_that_leave_no_critic_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        Refused, match=r"critic: is none: there is nothing to look at\. Choose critic=shapes critic_runt"
    ):
        runtime.request_of(tmp_path, ["critic=none"])
    with pytest.raises(Refused, match="critic: got -m, which is for runs"):
        runtime.request_of(tmp_path, ["-m"])


def test_another_experiment_can_be_named(tmp_path: Path) -> None:
    asked = runtime.request_of(tmp_path, ["+experiment=demo_base"])
    assert (asked.name, asked.outputs) == ("demo_base", str(tmp_path))


# ---- the command line


def call(capsys: pytest.CaptureFixture[str], *told: str) -> fakes.Answer:
    return worlds.open_door(capsys, ("critic", *told))


def test_the_command_line_compares_and_calibrates(capsys: pytest.CaptureFixture[str], outputs: Path) -> None:
    place = ("--json", "--outputs", str(outputs))
    answer = call(capsys, "diff", "first", "second", *place)
    assert (answer.code, answer.line["n"]) == (0, 50)
    answer = call(capsys, "diff", "first", "alone", *place)
    assert (answer.code, answer.line["faults"][0]["code"]) == (2, "no_common_image")
    answer = call(capsys, "calibrate", "first", *place)
    assert (answer.code, answer.line["images"]) == (0, 100)
    assert call(capsys, "diff", "first", "second", "--outputs", str(outputs)).out.startswith("┏")


def test_a_server_that_we_would_start_is_planned_without_its_key(capsys: pytest.CaptureFixture[str]) -> None:
    answer = call(capsys, "plan", "critic_runtime=vllm_qwen36_27b_int4_32gb", "--json")
    value = answer.line
    assert (answer.code, value["ok"], value["command"][:2]) == (2, False, ["vllm", "serve"])
    assert value["environment"]["VLLM_API_KEY"] == "[a new key for each start]"
    parts = sum(value["memory_mib"][name] for name in ("weights", "cache", "activations", "overhead"))
    assert value["memory_mib"]["needed"] == parts > 0
    assert "critic_missing" in {fault["code"] for fault in value["faults"]}  # the weights are not here
    text = runtime.plan_text(value)
    assert "NOT THERE" in text and "--structured-outputs-config=" in text and text.endswith("A run would refuse it.")


@pytest.mark.slow
def test_the_command_line_checks_the_lock(capsys: pytest.CaptureFixture[str]) -> None:
    answer = call(capsys, "lock", "--check", "--json")
    assert (answer.code, answer.line["ok"]) == (0, True)
    answer = call(capsys, "profiles")
    assert answer.code == 0
    for name in ("shapes", "product_concept", "lora_portrait", "pair"):
        assert name in answer.out


def test_a_critic_that_never_looks_fails_its_exam_with_exit_code_3(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with speaking.serve("blind") as url:
        asked = ("critic_runtime=external", f"critic_runtime.url={url}")
        answer = call(capsys, "exam", *asked, "--json", "--outputs", str(tmp_path))
    assert (answer.code, answer.line["passed"], answer.line["runtime"]) == (3, False, "external")
    failed = [check["name"] for check in answer.line["exam"]["checks"] if not check["passed"]]
    assert "swapped" in failed


@pytest.mark.slow
def test_the_shipped_critic_passes_its_exam(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    answer = call(capsys, "exam", "--outputs", str(tmp_path))
    assert answer.code == 0, answer.err
    assert "shapes_clip passed its exam under shapes version" in answer.out
    assert "FAILED" not in answer.out
