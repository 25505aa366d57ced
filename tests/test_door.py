"""The door: one command line in, one exit code out, and one line for a program to read."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from runner import critic, generate, journal, store
from runner.errors import Interrupted
from tests import fakes, worlds

ENDING = {"run_id", "status", "exit_code", "images", "mlflow_run_id", "faults"}


@pytest.fixture
def painter(monkeypatch: pytest.MonkeyPatch) -> fakes.Painter:
    """The door's own workers are replaced: a command line has no other way to be given fakes."""
    made = fakes.Painter()
    monkeypatch.setattr(generate, "work", made)
    monkeypatch.setattr(critic, "work", fakes.Judge())
    return made


@pytest.fixture
def unchanged_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["runner"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")


def tiny(capsys: pytest.CaptureFixture[str], outputs: Path, *words: str) -> fakes.Answer:
    return worlds.open_door(capsys, (*worlds.TINY, f"outputs={outputs}", *words))


# ---- words


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("help",)])
def test_help_names_the_commands_the_experiments_and_the_exit_codes(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    answer = worlds.open_door(capsys, words)
    assert (answer.code, answer.err) == (0, "")
    assert "python -m runner +experiment=NAME" in answer.out
    assert "Experiments: auraflow_lora, chroma_lora, demo, demo_base, flux1_lora, " in answer.out
    assert "0 complete, 1 unavailable, 2 refused, 3 failed or incomplete, 4 corrupt, 130 interrupted" in answer.out


def test_cfg_job_prints_the_composed_request_as_yaml(
    capsys: pytest.CaptureFixture[str], unchanged_process: None
) -> None:
    import yaml

    answer = worlds.open_door(capsys, ("+experiment=demo", "seed=11", "--cfg", "job"))
    shown: dict[str, Any] = yaml.safe_load(answer.out)
    assert (answer.code, shown["seed"], shown["base_model"]["id"]) == (0, 11, "shapes")


def test_an_unknown_flag_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    answer = worlds.open_door(capsys, ("--nosuch", "+experiment=demo"))
    assert answer.code == 2
    assert "--nosuch" in answer.err


def test_an_unknown_experiment_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    answer = worlds.open_door(capsys, ("+experiment=dmeo",))
    assert answer.code == 2
    assert "Did you mean 'demo'?" in answer.err


# ---- endings


def test_a_complete_run_ends_with_0_and_a_summary(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, painter: fakes.Painter
) -> None:
    answer = tiny(capsys, tmp_path)
    assert answer.code == 0
    assert "4 of 4 (4 made now, 0 already there)" in answer.out
    run = next((tmp_path / "runs").iterdir())
    assert {"grid.png", "report.html", "manifest.json", "journal.jsonl"} <= {path.name for path in run.iterdir()}


def test_the_last_line_of_json_output_says_how_it_ended(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, painter: fakes.Painter
) -> None:
    line = tiny(capsys, tmp_path, "output=json").line
    assert line.keys() >= ENDING
    assert (line["status"], line["exit_code"], line["faults"], line["mlflow_run_id"]) == ("complete", 0, [], None)
    assert [image["key"] for image in line["images"]] == ["on-blue.000", "on-blue.001", "on-white.000", "on-white.001"]


def test_json_output_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path, painter: fakes.Painter) -> None:
    assert len(tiny(capsys, tmp_path, "output=json").out.splitlines()) == 1


def test_an_incomplete_run_ends_with_3_and_the_fault(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, painter: fakes.Painter
) -> None:
    painter.broken = frozenset({"on-blue.000"})
    answer = tiny(capsys, tmp_path, "output=json")
    assert (answer.code, answer.line["exit_code"], answer.line["status"]) == (3, 3, "incomplete")
    assert answer.line["faults"][0]["code"] == "incomplete"


def test_an_interrupted_run_ends_with_130(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, painter: fakes.Painter
) -> None:
    painter.error = Interrupted("SIGINT")
    answer = tiny(capsys, tmp_path, "output=json")
    assert (answer.code, answer.line["status"]) == (130, "interrupted")


def test_a_corrupt_run_ends_with_4(capsys: pytest.CaptureFixture[str], tmp_path: Path, painter: fakes.Painter) -> None:
    tiny(capsys, tmp_path)
    manifest = next((tmp_path / "runs").iterdir()) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"steps":2', '"steps":3'))
    answer = tiny(capsys, tmp_path, "output=json")
    assert (answer.code, answer.line["status"], answer.line["run_id"]) == (4, "corrupt", None)
    assert "Put the original back, or start again with run.fresh=true" in answer.err


def test_a_refused_request_ends_with_2_the_same_keys_and_nothing_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, painter: fakes.Painter
) -> None:
    answer = tiny(capsys, tmp_path / "outputs", "output=json", "lora.scale=3", "trigger=none")
    assert answer.code == 2
    assert answer.line.keys() >= ENDING
    assert (answer.line["status"], answer.line["images"]) == ("refused", [])
    assert len(answer.line["faults"]) >= 2
    assert all(fault.keys() == {"code", "where", "what", "fix", "evidence"} for fault in answer.line["faults"])
    assert (painter.calls, (tmp_path / "outputs").exists()) == ([], False)


def test_a_bug_is_not_hidden(capsys: pytest.CaptureFixture[str], tmp_path: Path, painter: fakes.Painter) -> None:
    painter.error = ZeroDivisionError("one by none")
    answer = tiny(capsys, tmp_path)
    assert (answer.code, status_of(capsys, tmp_path)) == (3, "failed")
    assert "Traceback" in answer.err
    assert "ZeroDivisionError: one by none" in answer.err


def test_a_report_that_cannot_be_written_fails_no_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, painter: fakes.Painter
) -> None:
    tiny(capsys, tmp_path)
    folder = next((tmp_path / "runs").iterdir())
    (folder / "grid.png").unlink()
    (folder / "grid.png").mkdir()
    answer = tiny(capsys, tmp_path)
    assert answer.code == 0
    assert "the report was not written" in answer.err


# ---- how far to go


@pytest.mark.parametrize("until", ["contract", "plan"])
@pytest.mark.parametrize("output", ["text", "json"])
def test_contract_and_plan_write_nothing_and_start_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, painter: fakes.Painter, until: str, output: str
) -> None:
    answer = tiny(capsys, tmp_path / "outputs", f"until={until}", f"output={output}")
    assert (answer.code, painter.calls, (tmp_path / "outputs").exists()) == (0, [], False)
    assert answer.out


def test_the_contract_as_json_has_card_tokens_and_no_faults(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = tiny(capsys, tmp_path, "until=contract", "output=json").line
    assert line["faults"] == []
    assert [row["prompt"] for row in line["tokens"]] == ["on-blue", "on-white"]
    assert all(finding["answer"] != "disagrees" for finding in line["contract"]["findings"])


def test_the_plan_as_json_has_every_image_that_a_run_would_make(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, painter: fakes.Painter
) -> None:
    planned = tiny(capsys, tmp_path, "until=plan", "output=json").line["images"]
    made = tiny(capsys, tmp_path, "output=json").line["images"]
    assert [(i["key"], i["seed"], i["prompt"]) for i in planned] == [(i["key"], i["seed"], i["prompt"]) for i in made]


# ---- real processes


SLOW_ENOUGH = ("+experiment=demo", "track=none", "generate.images_per_prompt=4", "generate.batch_size=2")
FEWER = ("runtime.num_threads=1", worlds.prompts(2), "stages=[generate]", "critic=none", "generate.steps=12")
REAL = (*SLOW_ENOUGH, *FEWER)  # four batches, of which one is made when a run is disturbed


def wait_for_images(outputs: Path, count: int) -> Path:
    """The run folder, as soon as its journal has so many images."""
    for _ in range(9000):
        for folder in (outputs / "runs").glob("*"):
            if sum(event["event"] == "made" for event in journal.read_events(folder).events) >= count:
                return folder
        time.sleep(0.02)
    raise AssertionError("no image was made")


def status_of(capsys: pytest.CaptureFixture[str], outputs: Path) -> str:
    rows = worlds.open_door(capsys, ("status", "--json", "--outputs", str(outputs))).line["runs"]
    return str(rows[0]["status"])


def digests(folder: Path) -> list[str]:
    return [image["digest"] for image in journal.read_run(folder).images()]


def test_a_run_killed_in_the_middle_goes_on_to_the_same_images(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with worlds.process(tmp_path, *REAL) as killed:
        folder = wait_for_images(tmp_path / "outputs", 2)
        killed.send_signal(signal.SIGKILL)
    before = worlds.snapshot(tmp_path / "outputs" / "objects")
    assert status_of(capsys, tmp_path / "outputs") == "crashed"

    assert worlds.open_door(capsys, (*REAL, f"outputs={tmp_path / 'outputs'}")).code == 0
    after = worlds.snapshot(tmp_path / "outputs" / "objects")
    named = {f"{digest[:2]}/{digest[2:]}" for digest in digests(folder)}
    assert {name: after[name] for name in before if name in named} == {n: e for n, e in before.items() if n in named}
    assert worlds.events(folder, "resumed")[0]["kept"] >= 2

    assert worlds.open_door(capsys, (*REAL, f"outputs={tmp_path / 'calm'}")).code == 0  # the same manifest, undisturbed
    assert digests(folder) == digests(next((tmp_path / "calm" / "runs").iterdir()))


@pytest.mark.slow
def test_a_terminated_run_ends_by_itself_and_keeps_its_images(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with worlds.process(tmp_path, *REAL) as stopped:
        folder = wait_for_images(tmp_path / "outputs", 2)
        stopped.send_signal(signal.SIGTERM)
    assert (stopped.returncode, status_of(capsys, tmp_path / "outputs")) == (130, "interrupted")
    finished = [digest for digest in digests(folder) if digest]
    assert len(finished) >= 2
    assert all(store.Store(tmp_path / "outputs" / "objects").holds(digest) for digest in finished)
    assert worlds.open_door(capsys, ("verify", "--all", "--outputs", str(tmp_path / "outputs"))).code == 0


def test_a_refusal_imports_neither_torch_nor_mlflow(tmp_path: Path) -> None:
    code = "import sys; from runner.__main__ import main\n"
    code += "code = main(['+experiment=demo', 'until=contract', 'output=json'])\n"
    code += "print(code, sorted({'torch', 'diffusers', 'transformers', 'peft', 'mlflow'} & set(sys.modules)))"
    answer = fakes.python("-c", code, cwd=tmp_path)
    assert answer.out.splitlines()[-1] == "0 []"
    assert json.loads(answer.out.splitlines()[0])["faults"] == []
