"""`compare`: two finished runs, pair by pair, or a refusal that says why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import store
from runner.errors import Corrupt, Interrupted, Refused
from runner.paired import NOT_SHOWN
from runner.plan import Step
from runner.verbs.compare import compare, text
from runner.verbs.compare.measured import joint_groups
from runner.worker import Bench, Made, Outcome
from tests import fakes, worlds

Timing = Callable[[int], Mapping[str, float]]
KEYS = tuple(f"on-{name}.{number:03d}" for name in ("blue", "white") for number in range(6))
MANY = ("generate.images_per_prompt=6", "critic.budget.max_unscored_share=1")  # 12 images in batches of 2


@dataclass(slots=True)
class Scorer:
    """A critique worker whose scores are given by image key; an image that has none is unscored."""

    scores: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, step: Step, bench: Bench) -> Outcome:
        return Outcome(tuple(self._made(item, bench.images[item.replace("verdict/", "image/")]) for item in step.items))

    def _made(self, item: str, digest: str) -> Made:
        score = self.scores.get(item.removeprefix("verdict/"))
        lost = {"status": "unscored", "reason": "timeout: 30 s", "scores": {}}
        facts = lost if score is None else {"status": "scored", "reason": None, "scores": {"concept": score}}
        return Made(item, store.canonical({**facts, "image": digest}), {**facts, "image": digest, "tags": []})


def scores(shift: float = 0.0) -> dict[str, float]:
    """Scores that spread, and that are higher by about `shift`."""
    return {key: 0.4 + (n % 5) / 20 + shift * (1 + (n % 3) / 10) for n, key in enumerate(KEYS)}


def spent(n: int, slower: float = 0.0) -> dict[str, float]:
    """What image number n took: a cold first batch, and a spread."""
    sample_s = 50 + slower if n < 2 else (1 + n // 2 / 100) * (1 + slower)
    return {"encode_prompt_s": n / 10, "sample_s": sample_s}


def painter(timing: Timing = spent, **changes: Any) -> fakes.Painter:
    return fakes.Painter(facts={key: {"timing": dict(timing(n))} for n, key in enumerate(KEYS)}, **changes)


def made(outputs: Path, *overrides: str, **workers: Any) -> str:
    """A new complete run by fakes; its id."""
    result = worlds.run(
        worlds.accept(outputs, *overrides, "run.fresh=true"), **{"critique": Scorer(scores()), **workers}
    )
    assert result.status == "complete"
    return result.run_id


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def few(outputs: Path) -> str:
    """A run of four images in two batches."""
    return made(outputs)


@pytest.fixture(scope="module")
def many(outputs: Path) -> str:
    """A run of twelve images in six batches, with the time that they took."""
    return made(outputs, *MANY, generate=painter())


def row(value: Mapping[str, Any], table: str, name: str) -> dict[str, Any]:
    (found,) = [row for row in value[table] if name in (row.get("phase"), row.get("criterion"))]
    return dict(found)


def refusal(outputs: Path, a: str, b: str, *knobs: str) -> list[str]:
    with pytest.raises(Refused, match=" ") as refused:
        compare(outputs, a, b, knobs)
    return [str(fault) for fault in refused.value.faults]


# ---- what may be compared


def test_the_same_work_twice_shows_no_difference(outputs: Path, many: str) -> None:
    again = made(outputs, *MANY, generate=painter())
    value = compare(outputs, many, again, [])
    assert (value["a"], value["b"], value["n"], value["differences"]) == (many, again, 12, {})
    assert value["outputs"] == {"same": 12, "different": 0}
    assert value["speed"] == {"valid": True, "verdict": "valid: outputs are the same"}
    assert row(value, "criteria", "concept")["verdict"] == row(value, "phases", "sample")["verdict"] == NOT_SHOWN
    assert {row["verdict"] for row in value["run_phases"]} == {"one measurement each"}


def test_two_changed_settings_and_one_knob_are_refused(outputs: Path, few: str) -> None:
    b = made(outputs, "generate.steps=3", "generate.guidance_scale=4.5")
    assert refusal(outputs, few, b, "generate.steps") == [
        f"generate.guidance_scale: is 3.0 in {few} and 4.5 in {b}. Name it with --knob generate.guidance_scale, or "
        f"make {b} again with generate.guidance_scale=3.0."
    ]
    value = compare(outputs, few, b, ["generate"])
    assert value["differences"] == {"generate.guidance_scale": [3.0, 4.5], "generate.steps": [2, 3]}


def test_what_cannot_change_results_is_told_and_not_refused(outputs: Path, few: str) -> None:
    value = compare(outputs, few, made(outputs, "hardware.wait=false", "name=again"), [])
    assert value["not_counted"] == {"name": ["demo", "again"], "hardware.wait": [True, False]}


def test_more_images_are_no_pair_whatever_the_knob(outputs: Path, few: str, many: str) -> None:
    found = refusal(outputs, few, many, "generate.images_per_prompt")
    assert f"images: 8 images have no partner: on-blue.002 is planned in {many} alone; " in found[0]
    assert found[0].endswith("Compare runs of the same prompts, seed and generate.images_per_prompt.")


def test_a_run_that_is_not_complete_is_refused_with_what_it_lacks(outputs: Path, few: str) -> None:
    broken = fakes.Painter(broken=frozenset({"on-blue.001"}))
    b = worlds.run(worlds.accept(outputs, "run.fresh=true"), generate=broken).run_id
    assert refusal(outputs, few, b) == [
        f"{b}: is incomplete: 2 of 8 items are not there (image/on-blue.001, verdict/on-blue.001). Run its command "
        "again: it makes what is missing. `python -m runner status` shows how far it is."
    ]


def test_a_run_beside_itself_is_refused(outputs: Path, few: str) -> None:
    fix = "Name another run; the same command with run.fresh=true makes one."
    assert refusal(outputs, few, few) == [f"{few}: is compared with itself. {fix}"]


@pytest.mark.parametrize(
    ("file", "before", "after", "problem"),
    [
        ("journal.jsonl", '"concept":0.4}', '"concept":0.9}', r"line \d+ was altered: its hash is not that of its"),
        ("manifest.json", '"steps":2,', '"steps":9,', "the manifest is not the one that the journal began with"),
    ],
)
def test_an_altered_run_is_corrupt(
    tmp_path: Path, outputs: Path, few: str, file: str, before: str, after: str, problem: str
) -> None:
    copy = shutil.copytree(outputs / "runs" / few, tmp_path / "copy")
    text = (copy / file).read_text()
    (copy / file).write_text(text.replace(before, after, 1))
    with pytest.raises(Corrupt, match=problem):
        compare(outputs, few, str(copy), ["generate.steps"])


def test_runs_made_with_other_threads_are_refused(outputs: Path) -> None:
    def threads(count: int) -> fakes.Painter:
        return fakes.Painter(before=lambda bench: bench.note("loaded", role="generator", threads=count, cpu="AVX2"))

    a, b = (made(outputs, generate=threads(count)) for count in (1, 2))
    assert refusal(outputs, a, b)[0].startswith(f"environment.generator.threads: is 1 in {a} and 2 in {b}. Name it")
    assert compare(outputs, a, b, ["environment"])["differences"] == {"environment.generator.threads": [1, 2]}


def test_run_folders_of_two_places_are_compared_without_their_store(tmp_path: Path, outputs: Path, few: str) -> None:
    elsewhere = tmp_path / "runs" / made(tmp_path)
    shutil.rmtree(tmp_path / "objects")
    value = compare(tmp_path / "none", str(outputs / "runs" / few), str(elsewhere), [])
    assert (value["b"], value["outputs"]["same"]) == (str(elsewhere), 4)


def test_comparing_changes_nothing(outputs: Path, few: str) -> None:
    again = made(outputs)
    before = worlds.snapshot(outputs)
    compare(outputs, few, again, [])
    assert worlds.snapshot(outputs) == before


# ---- scores


def test_a_difference_in_scores_is_found_and_mirrored(outputs: Path, many: str) -> None:
    better = made(outputs, *MANY, critique=Scorer(scores(0.1)))
    found, mirrored = (
        row(compare(outputs, *pair, []), "criteria", "concept") for pair in ((many, better), (better, many))
    )
    assert (found["n"], found["left_out"], found["verdict"]) == (12, 0, "B higher")
    assert found["difference"] == pytest.approx(0.11)
    assert found["low"] < found["difference"] < found["high"]
    assert (mirrored["verdict"], mirrored["difference"]) == ("A higher", -found["difference"])
    assert (mirrored["low"], mirrored["high"]) == (-found["high"], -found["low"])


def test_unscored_images_are_counted_and_not_averaged(outputs: Path, many: str) -> None:
    fewer = {key: score for key, score in scores().items() if key not in ("on-blue.000", "on-white.003")}
    value = compare(outputs, many, made(outputs, *MANY, critique=Scorer(fewer)), [])
    assert value["unscored"] == {"a": 0, "b": 2}
    found = row(value, "criteria", "concept")
    assert (found["n"], found["left_out"], found["difference"]) == (10, 2, 0.0)
    assert found["mean_a"] == found["mean_b"] == pytest.approx(sum(fewer.values()) / 10)


# ---- time


def test_the_first_batch_of_a_run_stands_apart(outputs: Path, many: str) -> None:
    value = compare(outputs, many, made(outputs, *MANY, generate=painter(lambda n: spent(n, slower=0.5))), [])
    found = row(value, "phases", "sample")
    assert (found["n"], found["verdict"], found["difference"]) == (5, "B higher", pytest.approx(1.03 * 0.5))
    assert found["cold"] == {"n": 1, "mean_a": 50, "mean_b": 50.5}
    assert "the same work twice: the difference in sample is what changes from run to run" in value["notes"]


def test_encoding_counts_where_a_prompt_comes_up_first(outputs: Path, many: str) -> None:
    """Batch 0 is cold, batch 3 is the first of the other prompt; the others found their prompt encoded."""
    found = row(compare(outputs, many, made(outputs, *MANY, generate=painter()), []), "phases", "encode_prompt")
    assert (found["n"], found["cold"]["n"], found["mean_a"]) == (1, 1, pytest.approx(0.65))
    assert found["verdict"] == "one measurement each"


def test_batches_of_other_sizes_are_paired_by_whole_batches(outputs: Path, many: str) -> None:
    b = made(outputs, *MANY, "generate.batch_size=4", generate=painter())
    found = row(compare(outputs, many, b, ["generate.batch_size"]), "phases", "sample")
    assert (found["n"], found["cold"]["n"]) == (2, 1)


def test_a_batch_that_was_not_measured_is_counted(outputs: Path, many: str) -> None:
    b = made(outputs, *MANY, generate=painter(lambda n: spent(n) if n > 6 else {}))
    found = row(compare(outputs, many, b, []), "phases", "sample")
    assert (found["n"], found["unmeasured"]) == (2, 4)


def test_a_faster_run_with_other_pictures_is_invalid(outputs: Path, many: str) -> None:
    fast = painter(lambda n: spent(n, slower=-0.5), salt="other")
    value = compare(outputs, many, made(outputs, *MANY, generate=fast), [])
    assert value["outputs"] == {"same": 0, "different": 12}
    assert value["speed"] == {"valid": False, "verdict": "invalid: outputs differ"}
    assert row(value, "phases", "sample")["verdict"] == "invalid: outputs differ"
    assert any("the same work gave other bytes" in note for note in value["notes"])


@pytest.mark.parametrize(
    ("knob", "setting", "verdict"),
    [
        ("runtime.num_threads", "runtime.num_threads=2", "invalid: outputs differ"),
        ("runtime", "runtime.channels_last=false", "outputs differ; not the same work"),
    ],
)
def test_a_knob_that_may_change_pixels_makes_other_work(
    outputs: Path, few: str, knob: str, setting: str, verdict: str
) -> None:
    b = made(outputs, setting, generate=fakes.Painter(salt="other"))
    assert compare(outputs, few, b, [knob])["speed"]["verdict"] == verdict


def test_a_resumed_run_has_two_cold_batches_and_no_run_phases(outputs: Path, many: str) -> None:
    cut = painter(error=Interrupted("SIGTERM"), error_at=3)
    b = worlds.run(worlds.accept(outputs, *MANY, "run.fresh=true"), generate=cut).run_id
    worlds.run(worlds.accept(outputs, *MANY, f"run.id={b}"), generate=painter(), critique=Scorer(scores()))
    value = compare(outputs, many, b, [])
    assert (value["run_phases"], row(value, "phases", "sample")["cold"]["n"]) == ([], 2)
    assert f"{b} took 2 attempts; its run phases are of the last one and are not compared" in value["notes"]


def cuts(sizes: list[int]) -> set[int]:
    return {0, *accumulate(sizes)}


def batches(sizes: list[int]) -> dict[str, str]:
    ends = pairwise((0, *accumulate(sizes)))
    return {str(key): f"batch {n}" for n, (begin, end) in enumerate(ends) for key in range(begin, end)}


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 9))
def test_groups_end_where_batches_of_both_runs_end(num_images: int, size_a: int, size_b: int) -> None:
    a, b = ([min(size, num_images - at) for at in range(0, num_images, size)] for size in (size_a, size_b))
    groups = joint_groups(batches(a), batches(b))
    assert [key for group in groups for key in group] == [str(n) for n in range(num_images)]
    assert cuts([len(group) for group in groups]) == cuts(a) & cuts(b)


def test_groups_of_runs_in_another_order_are_whole_batches_too() -> None:
    a = {"1": "x", "2": "x", "3": "y", "4": "y", "5": "z"}
    assert joint_groups(a, {"4": "p", "2": "p", "1": "q", "3": "q", "5": "r"}) == [["1", "2", "3", "4"], ["5"]]


# ---- as text


def test_a_person_reads_every_verdict_and_a_program_plain_json(outputs: Path, many: str) -> None:
    b = made(outputs, *MANY, "generate.steps=3", generate=painter(), critique=Scorer(scores(0.1)))
    value = compare(outputs, many, b, ["generate.steps"])
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    read = text(value)
    for words in (many, b, "2 in A, 3 in B", "12 the same, 0 different", "score concept", "B higher", "whole run"):
        assert words in read
    assert "5; 1 cold apart" in read


def test_the_command_line_compares_or_refuses_with_exit_code_2(
    capsys: pytest.CaptureFixture[str], outputs: Path, few: str, many: str
) -> None:
    words = ("--json", "--outputs", str(outputs))
    answer = worlds.open_door(capsys, ("compare", few, made(outputs), *words))
    assert (answer.code, answer.line["outputs"]) == (0, {"same": 4, "different": 0})
    answer = worlds.open_door(capsys, ("compare", few, many, "--knob", "generate.steps", *words))
    assert (answer.code, answer.line["faults"][0]["code"]) == (2, "knob_unchanged")


@pytest.mark.slow
def test_the_shipped_models_give_the_same_pictures_and_scores_twice(tmp_path: Path) -> None:
    for _ in "ab":
        made_by_models = fakes.python("-m", "runner", *worlds.TINY, "run.fresh=true", f"outputs={tmp_path}")
        assert made_by_models.code == 0, made_by_models.err
    a, b = sorted(path.name for path in (tmp_path / "runs").iterdir())
    value = compare(tmp_path, a, b, [])
    assert (value["outputs"], value["speed"]["valid"]) == ({"same": 4, "different": 0}, True)
    assert {row["verdict"] for row in value["criteria"]} == {"no difference shown"}
    assert [row["phase"] for row in value["phases"]] == ["encode_prompt", "sample", "decode"]
    assert [row["cold"]["n"] for row in value["phases"]] == [1, 1, 1]
