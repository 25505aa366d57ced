"""`inspect`: what one thing is, and the evidence for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner import builtin, journal, store
from tests import fakes, worlds
from tests.contract import drawn

IMAGE_FIELDS = {"key", "digest", "seed", "prompt", "width", "height", "status", "reason"}
FILE_FIELDS = {
    "kind", "path", "sha256", "family", "families", "models", "format", "algorithm", "rank", "ranks", "alpha",
    "scaling", "text_encoders", "trigger", "trigger_hints", "claimed_family", "flags", "modules", "tensors",
    "evidence", "metadata",
}  # fmt: skip
FLUX, SCHNELL, CHROMA = "FLUX.1-dev", "FLUX.1-schnell", "Chroma1-HD"


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
    assert facts.keys() == FILE_FIELDS
    assert [facts[name] for name in ("kind", "family", "format", "rank", "alpha", "trigger")] == [
        "lora", "shapes", "diffusers", 8, 8.0, "<emblem>",
    ]  # fmt: skip
    assert facts["sha256"] == store.file_digest(worlds.EMBLEM)


def test_the_shipped_lora_fits_the_shipped_base(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    facts = ask(capsys, tmp_path, "builtin:emblem/emblem.safetensors", "--base", str(worlds.SHAPES), "--json").line
    assert (facts["compatible"], facts["conflicts"]) == ("yes", [])
    assert facts["coverage"] == f"{facts['modules']}/{facts['modules']}"


def flux(place: Path, pattern: str = "attn", metadata: dict[str, str] | None = None) -> Path:
    return drawn.write(place, drawn.NAMINGS["kohya-original"](FLUX, pattern), metadata)


def test_a_set_of_families_is_answered_with_null_and_the_evidence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    facts = ask(capsys, tmp_path, flux(tmp_path / "a.safetensors"), "--json").line
    names = ("family", "families", "format", "rank", "ranks", "alpha", "scaling", "modules", "tensors", "flags")
    assert [facts[name] for name in names] == [
        None, ["chroma", "flux1"], "kohya", 4, {"4": 76}, 2.0, 0.5, 76, 228, [],
    ]  # fmt: skip
    assert {FLUX, SCHNELL, CHROMA} <= set(facts["models"])
    assert "the tensors fit chroma, flux1 and cannot decide between them" in facts["evidence"]


@pytest.mark.parametrize(
    ("pattern", "claim", "model", "compatible", "code", "coverage"),
    [
        ("", "", FLUX, "yes", None, "314/314"),
        ("attn", "flux-1-dev", FLUX, "yes", None, "76/76"),
        ("attn", "", FLUX, "cannot_tell", "cannot_tell", "76/76"),
        ("attn", "flux-1-dev", SCHNELL, "cannot_tell", "cannot_tell", "76/76"),
        ("", "", SCHNELL, "no", "lora_inert", "312/314"),
        ("", "", CHROMA, "no", "family_mismatch", "231/314"),
        ("", "", "FLUX.2-dev", "no", "family_mismatch", "0/314"),
    ],
)
def test_a_lora_fits_a_base_or_not_or_nothing_tells(
    capsys: pytest.CaptureFixture[str], tmp_path: Path,
    pattern: str, claim: str, model: str, compatible: str, code: str | None, coverage: str,
) -> None:  # fmt: skip
    file = flux(tmp_path / "a.safetensors", pattern, {"modelspec.architecture": claim})
    base = drawn.write_base(tmp_path / "base", model)
    answer = ask(capsys, tmp_path, file, "--base", str(base), "--json")
    assert answer.code == 0
    assert [answer.line[name] for name in ("compatible", "code", "coverage")] == [compatible, code, coverage]
    assert answer.line["base"] == {
        "family": drawn.LAYOUTS[model].family, "model": model, "pipeline": drawn.PIPELINES[drawn.LAYOUTS[model].family],
    }  # fmt: skip


def test_of_many_files_each_has_its_row_and_a_broken_one_its_reason(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    files = [flux(tmp_path / "a.safetensors"), tmp_path / "gone.safetensors", worlds.EMBLEM, worlds.SHAPES]
    answer = worlds.open_door(capsys, ("inspect", *map(str, files), "--base", str(worlds.SHAPES), "--json"))
    rows = answer.line["files"]
    assert (answer.code, [row["kind"] for row in rows]) == (2, ["lora", "UNKNOWN", "lora", "model_folder"])
    assert [row.get("compatible") for row in rows] == ["no", None, "yes", None]
    assert [row.get("sha256") for row in rows[2:3]] == [None]


def test_a_folder_of_weight_files_is_a_table_of_them(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flux(tmp_path / "mine.safetensors", "", {"modelspec.architecture": "chroma/lora"})
    drawn.write(tmp_path / "unclear.safetensors", drawn.NAMINGS["diffusers"](FLUX, "attn"))
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    answer = ask(capsys, tmp_path / "outputs", tmp_path)
    assert answer.code == 2
    rows = (
        ("mine.safetensors", "flux1", "disagree"),
        ("unclear.safetensors", "chroma or flux1"),
        ("torn.safetensors", "broken"),
    )
    for words in rows:
        assert all(word in answer.out for word in words)


def test_an_adapter_folder_is_its_weights_and_its_config(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    drawn.write(folder / "adapter_model.safetensors", drawn.NAMINGS["peft"](FLUX, "attn"))
    (folder / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 8, "base_model_name_or_path": "FLUX.1-dev"}')
    facts = ask(capsys, tmp_path, folder, "--json").line
    names = ("kind", "family", "format", "rank", "alpha", "scaling", "claimed_family")
    assert [facts[name] for name in names] == ["lora", "flux1", "peft", 4, 8.0, 2.0, "flux1"]
    assert facts["sha256"] == store.file_digest(folder / "adapter_model.safetensors")


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


def test_a_model_folder_of_configs_says_what_it_lacks(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = drawn.write_base(tmp_path / "base", "Z-Image", {"text_encoder": "Qwen3 4B"})
    facts = ask(capsys, tmp_path, folder, "--json").line
    assert [facts[n] for n in ("family", "model", "tensors", "sha256")] == ["z-image", "Z-Image", 0, None]
    assert facts["missing"] == [
        "has no weights for text_encoder (Qwen3Model): no .safetensors file",
        "has no weights for transformer (ZImageTransformer2DModel): no .safetensors file",
    ]


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
