"""`inspect`: what one thing is, and the evidence for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner import builtin, journal, store
from tests import fakes, worlds

IMAGE_FIELDS = {"key", "digest", "seed", "prompt", "width", "height", "status", "reason"}
FILE_FIELDS = {"kind", "family", "format", "rank", "alpha", "text_encoders", "trigger", "evidence"}


def ask(capsys: pytest.CaptureFixture[str], outputs: Path, thing: object, *words: str) -> fakes.Answer:
    return worlds.open_door(capsys, ("inspect", str(thing), *words, "--outputs", str(outputs)))


def test_a_run_shows_contract_manifest_tokens_and_every_image(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = worlds.finished(tmp_path)
    facts = ask(capsys, tmp_path, run.id, "--json").line
    assert facts.keys() >= {"run_id", "status", "contract", "manifest", "tokens", "images"}
    assert facts["manifest"] == journal.read_manifest(run.folder)
    assert all(image.keys() >= IMAGE_FIELDS for image in facts["images"])
    assert [image["digest"] for image in facts["images"]] == [image["digest"] for image in run.images()]


def test_a_run_with_a_corrupt_manifest_is_exit_code_4(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = worlds.finished(tmp_path)
    (run.folder / "manifest.json").write_text("{")
    answer = ask(capsys, tmp_path, run.id, "--json")
    assert (answer.code, answer.line["status"]) == (4, "corrupt")


@pytest.mark.parametrize("length", [8, 64])
def test_an_image_is_found_by_its_digest_with_all_that_made_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, length: int
) -> None:
    run = worlds.finished(tmp_path)
    image = run.images()[2]
    facts = ask(capsys, tmp_path, image["digest"][:length], "--json").line
    assert (facts["kind"], facts["run_id"], facts["key"], facts["seed"]) == (
        "image",
        run.id,
        image["key"],
        image["seed"],
    )
    assert (facts["trigger"], facts["lora"]["id"], facts["generate"]["steps"]) == ("<emblem>", "emblem", 2)
    assert facts["stored"] is True


def test_an_image_that_is_gone_from_the_store_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    digest = worlds.finished(tmp_path).images()[0]["digest"]
    (tmp_path / "objects" / digest[:2] / digest[2:]).unlink()
    assert ask(capsys, tmp_path, digest, "--json").line["stored"] is False


def test_the_shipped_lora_says_what_it_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    facts = ask(capsys, tmp_path, worlds.EMBLEM, "--json").line
    assert facts.keys() >= FILE_FIELDS
    assert [facts[name] for name in ("kind", "family", "format", "rank", "alpha", "trigger")] == [
        "lora", "shapes", "diffusers", 8, 8.0, "<emblem>",
    ]  # fmt: skip
    assert facts["sha256"] == store.file_digest(worlds.EMBLEM)


def test_the_shipped_lora_fits_the_shipped_base(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    facts = ask(capsys, tmp_path, "builtin:emblem/emblem.safetensors", "--base", str(worlds.SHAPES), "--json").line
    assert (facts["compatible"], facts["conflicts"]) == ("yes", [])
    assert facts["coverage"] == f"{facts['modules']}/{facts['modules']}"


def test_a_lora_of_other_widths_does_not_fit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wide = worlds.lora_file(
        tmp_path / "wide.safetensors", lambda tensors: {n: t.repeat(1, 2) for n, t in tensors.items()}
    )
    facts = ask(capsys, tmp_path, wide, "--base", str(worlds.SHAPES), "--json").line
    assert facts["compatible"] == "no"
    assert facts["conflicts"]


def test_a_lora_against_no_model_folder_cannot_tell(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    facts = ask(capsys, tmp_path, worlds.EMBLEM, "--base", str(tmp_path / "none"), "--json").line
    assert facts["compatible"] == "cannot_tell"
    assert "has no model_index.json" in facts["reason"]


def test_a_model_folder_shows_its_pipeline_and_family(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    facts = ask(capsys, tmp_path, "builtin:shapes", "--json").line
    assert [facts[n] for n in ("kind", "pipeline", "family")] == ["model_folder", "StableDiffusionPipeline", "shapes"]
    assert {"unet", "vae", "text_encoder", "tokenizer"} <= set(facts["components"])


def test_a_truncated_file_is_broken_with_the_reason(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "half.safetensors").write_bytes(worlds.EMBLEM.read_bytes()[:-100])
    answer = ask(capsys, tmp_path, tmp_path / "half.safetensors", "--json")
    assert (answer.code, answer.line["kind"]) == (2, "broken")
    assert "truncated" in answer.line["reason"]


@pytest.mark.parametrize("thing", ["nosuch", "deadbeef00", "/no/such/file.safetensors", "builtin:nosuch"])
def test_what_we_do_not_know_reads_unknown(capsys: pytest.CaptureFixture[str], tmp_path: Path, thing: str) -> None:
    answer = ask(capsys, tmp_path, thing)
    assert answer.code == 2
    assert "UNKNOWN" in answer.out


def test_control_characters_of_a_file_do_not_reach_the_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = {"modelspec.trigger_phrase": "\x1b[31m<emblem>\x07", "modelspec.title": "\x1b]0;own\x07"}
    path = worlds.lora_file(tmp_path / "loud.safetensors", dict, said)
    answer = ask(capsys, tmp_path, path)
    assert "\x1b" not in answer.out
    assert "\x07" not in answer.out
    assert "\\x1b[31m<emblem>\\x07" in answer.out


def test_control_characters_in_a_refusal_do_not_reach_the_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = worlds.lora_file(tmp_path / "loud.safetensors", dict, {"modelspec.trigger_phrase": "\x1b[31mred\x07"})
    answer = worlds.open_door(capsys, (*worlds.TINY, f"lora.path={path}", "until=contract"))
    assert answer.code == 2
    assert "\x1b" not in answer.err


def test_a_model_made_on_demand_is_unknown_until_it_is_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_CACHE", str(tmp_path))
    assert builtin.find_model("tiny_sdxl") is None
    assert ask(capsys, tmp_path, "builtin:tiny_sdxl").code == 2
