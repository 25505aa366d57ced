"""Bad requests at the door: each with its words and exit code, and nothing written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner import contract
from runner.__main__ import main
from tests import fakes
from tests.fakes import Door

HEAVY = ("torch", "diffusers", "transformers", "peft", "mlflow", "numpy", "accelerate", "PIL")
DEMO = "+experiment=demo"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+experiment=dmo"], "experiment=dmo: conf/experiment has no 'dmo'. Did you mean 'demo'? Known: "),
        ([DEMO, "lora=emblm"], "lora=emblm: conf/lora has no 'emblm'. Did you mean 'emblem'? Known: "),
        ([DEMO, "+stpes=10"], "stpes: is not a setting (given 10). Did you mean 'generate.steps'?"),
        ([DEMO, "generate.steps=ten"], "generate.steps: is 'ten'. It should be a valid integer."),
        ([DEMO, "generate.steps=0"], "generate.steps: is 0. It should be greater than or equal to 1."),
        ([DEMO, "generate.images_per_prompt=0"],
         "generate.images_per_prompt: is 0. It should be greater than or equal to 1."),
        ([DEMO, "base_model.path=nowhere"], "base_model.path: nowhere is not there. Set base_model.path to the"),
        ([DEMO, "base_model=sdxl"], "base_model.path: models/sdxl is not there. Get it with `hf download "),
        ([DEMO, "lora.path=nowhere"], "lora.path: nowhere is not there. Set lora.path to the .safetensors file, or "),
        ([DEMO, "critic_runtime.path=nowhere"], "critic_runtime.path: nowhere is not there. Name the folder"),
        ([DEMO, "base_model=sdxl"], "; base_model sdxl is sdxl. Choose base_model=shapes, or a LoRA for sdxl."),
        ([DEMO, "prompt.items=['a star']"], "has no trigger, and trigger.mode is required. Write {trigger} where"),
        ([DEMO, "prompt.items=['a <emblm>']"], "has '<emblm>', which is not the trigger '<emblem>'. Did you mean"),
        ([DEMO, "prompt.items=['a <EMBLEM>']"], "has '<EMBLEM>', which is not the trigger '<emblem>'. Did you mean"),
        ([DEMO, "trigger.token=<emblm>"], "trigger.token: is '<emblm>'; emblem answers to <emblem> (card"),
        ([DEMO, "trigger=none"], "; trigger.mode=forbidden tests the LoRA without its trigger."),
        ([DEMO, "lora=none"], "lora: is none without a file, and mode=lora needs one. Choose a card (lora=emblem)"),
        ([DEMO, "generate.negative_prompt=x", "generate.guidance_scale=1"],
         "generate.negative_prompt: 'x' would be ignored at guidance_scale 1. Set "),
        (["+experiment=demo_base", "prompt.items=['a <emblem>']"], "has '<emblem>', and there is no LoRA. Take it"),
        (["+experiment=demo_base", "trigger=emblem"],
         "trigger: is '<emblem>', and mode=base has no LoRA that could answer to it. Choose trigger=none, or mode="),
        ([DEMO, "hydra.run.dir=x"], "hydra: 'hydra.run.dir=x' would be ignored: a single run writes only under"),
        ([DEMO, "nonsense"], "nonsense: is no override. Write key=value, +key=value or ~key."),
        ([DEMO, "--nope"], "command line: cannot read --nope"),
        ([DEMO, "trigger.token=''"], "trigger.token: is ''. It should match pattern "),
        ([DEMO, "seed=true"], "seed: is True. It should be a valid integer."),
        ([DEMO, "generate.scheduler=Eulr"], "generate.scheduler: Eulr is not in the installed diffusers. Name a class"),
        ([DEMO, "lora.base=other"], "lora.base: emblem was trained on other; base_model is shapes. Choose base_model="),
        ([DEMO, "track.uri=http://me:secret@host"], "track.uri: holds a password, which a manifest would keep. Leave"),
        ([DEMO, "storage=s3"], "storage.uri: "),
        (["experiment=demo"], "experiment: is not chosen by default. Type `+experiment=demo`."),
    ],
)  # fmt: skip
def test_a_bad_request_is_refused_and_nothing_is_written(door: Door, words: list[str], message: str) -> None:
    answer = door(*words)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("refused:\n- ") and message in answer.err
    assert "Traceback" not in answer.err
    assert not door.outputs.exists()


def test_a_prompt_over_the_limit_shows_what_would_be_lost(door: Door) -> None:
    limit = contract.check(fakes.request()).encoders[0].limit
    text = " ".join(["red"] * (limit - 2)) + " on a blue background"
    answer = door("+experiment=demo_base", f"prompt.items=['{text}']", "prompt.budget.max=999")
    assert answer.code == 2
    assert f", the limit is {limit}; lost would be: 'on a blue background'. Shorten it, or set" in answer.err
    assert not door.outputs.exists()


def test_a_damaged_lora_is_refused(door: Door, tmp_path: Path) -> None:
    file = fakes.write_lora(tmp_path / "a.safetensors", fakes.layers_of_shapes("attn2.to_k"))
    os.truncate(file, 100)
    answer = door(DEMO, f"lora.path={file}")
    assert answer.code == 2
    assert f"lora.path: {file} is truncated: its header should have " in answer.err
    assert not door.outputs.exists()


def test_a_lora_of_other_widths_is_refused(door: Door, tmp_path: Path) -> None:
    layers = {name: (96, num_out + 1) for name, (_, num_out) in fakes.layers_of_shapes("attn2.to_k").items()}
    answer = door(DEMO, f"lora.path={fakes.write_lora(tmp_path / 'a.safetensors', layers)}")
    assert answer.code == 2
    assert f"{len(layers)} of {len(layers)} modules have other widths than the base (first " in answer.err
    assert not door.outputs.exists()


def test_a_folder_that_cannot_be_written_is_refused(door: Door) -> None:
    door.outputs.write_bytes(b"a file")
    answer = door(DEMO, "track=none")
    assert (answer.code, answer.err) == (
        2,
        f"refused:\n- outputs: {door.outputs} cannot be written. "
        "Choose another folder with outputs=DIR, or mend its permissions.\n",
    )
    assert door.outputs.read_bytes() == b"a file"


def test_a_folder_below_a_file_is_refused_by_the_name_of_the_file(door: Door, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a file")
    answer = Door(tmp_path / "file" / "a" / "b", door.capsys)(DEMO, "track=none")
    where = f"outputs: {tmp_path}/file cannot be written. "
    assert (answer.code, where in answer.err) == (2, True)


def test_an_empty_name_for_outputs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([DEMO, "until=plan", "outputs="]) == 2
    assert capsys.readouterr().err == "refused:\n- outputs: is ''. It should have at least 1 character.\n"


def test_an_unknown_verb_is_answered_with_the_known_ones(door: Door) -> None:
    answer = door("statsu")
    assert answer.code == 2
    assert answer.err.startswith("refused:\n- command line: 'statsu' is not a verb. Did you mean 'status'? Known: ")


def test_an_experiment_typed_as_a_verb_is_recognised(door: Door) -> None:
    answer = door("demo")
    assert answer.code == 2
    assert "- command line: 'demo' is not a verb. Did you mean +experiment=demo? Known: " in answer.err


def test_the_same_fault_of_many_prompts_is_said_once(door: Door) -> None:
    answer = door(DEMO, "trigger.mode=forbidden")
    assert answer.err.splitlines()[1:] == [
        "- prompt.items (on-blue), prompt.items (on-white), prompt.items (on-green) (and 5 more): "
        "has the trigger '<emblem>', and trigger.mode is forbidden. Take out {trigger}."
    ]


def test_a_refusal_as_json_ends_with_one_line_of_faults(door: Door) -> None:
    answer = door(DEMO, "output=json", "lora.scale=3", "hardware.index=1")
    assert answer.line == {
        "run_id": None, "images": [], "mlflow_run_id": None, "status": "refused", "exit_code": 2,
        "faults": [
            {"code": "setting_ignored", "where": "hardware.index", "evidence": {}, "fix": "Set hardware.index=0",
             "what": "1 would be ignored: cpu is one device"},
            {"code": "out_of_bounds", "where": "lora.scale", "evidence": {}, "fix": "Choose a scale from 0 to 1.5",
             "what": "is 3; emblem was found usable from 0 to 1.5"},
        ],
    }  # fmt: skip
    assert (answer.code, len(answer.out.splitlines())) == (2, 1)


@pytest.mark.parametrize("words", [["+experiment=dmo"], [DEMO, "generate.steps=0"], [DEMO, "--nope"]])
def test_every_refusal_has_its_json_line(door: Door, words: list[str]) -> None:
    answer = door("output=json", *words)
    assert answer.line["exit_code"] == answer.code == 2
    assert [set(fault) for fault in answer.line["faults"]] == [{"code", "where", "what", "fix", "evidence"}]


def test_an_accepted_contract_writes_nothing(door: Door) -> None:
    answer = door(DEMO, "until=contract", "output=json")
    assert (answer.code, answer.line["faults"], len(answer.line["tokens"])) == (0, [], 8)
    assert not door.outputs.exists()


def test_an_accepted_plan_writes_nothing(door: Door) -> None:
    answer = door(DEMO, "until=plan", "output=json")
    assert (answer.code, answer.line["expected"]) == (0, {"image": 16, "verdict": 16})
    assert len({image["seed"] for image in answer.line["images"]}) == 16
    assert not door.outputs.exists()


# ---- real processes


@pytest.mark.parametrize(("words", "code"), [([DEMO, "lora.scale=3"], 2), ([DEMO, "until=contract"], 0)])
def test_a_refusal_and_a_contract_import_no_heavy_library(tmp_path: Path, words: list[str], code: int) -> None:
    program = f"""
import sys
from runner.__main__ import main
code = main(sys.argv[1:])
print([name for name in {HEAVY} if name in sys.modules])
sys.exit(code)
"""
    answer = fakes.python("-c", program, *words, f"outputs={tmp_path / 'o'}", cwd=tmp_path)
    assert (answer.code, answer.out.splitlines()[-1]) == (code, "[]")
    assert list(tmp_path.iterdir()) == []


def test_a_bad_job_refuses_the_whole_sweep_with_the_faults_of_all(tmp_path: Path) -> None:
    place = f"outputs={tmp_path / 'outputs'}"
    answer = fakes.python("-m", "runner", "-m", DEMO, "lora.scale=3,4,1", place, cwd=tmp_path)
    assert answer.code == 2
    found = [line.partition(": is ")[0] for line in answer.err.splitlines() if line.startswith("- ")]
    assert found == [f"- job {n} [{DEMO} lora.scale={scale} {place}] lora.scale" for n, scale in enumerate((3, 4))]
    assert "Traceback" not in answer.err and list(tmp_path.iterdir()) == []


def test_nobody_at_the_other_end_of_the_pipe_is_no_traceback(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    home = {**os.environ, "PYTHONPATH": str(fakes.ROOT)}
    words = [sys.executable, "-m", "runner", "--help"]
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=home, check=False)
    os.close(write)
    assert "Traceback" not in done.stderr
