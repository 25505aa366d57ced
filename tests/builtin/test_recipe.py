"""The recipe's parts: a run resumes exactly, files are written in one fixed form, tiny_sdxl runs."""

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from runner import builtin
from runner.builtin import captions, make, read, world
from runner.builtin.recipe import clip, lora_file, shapes, tensors
from runner.builtin.recipe.halves import Halves
from runner.builtin.recipe.training import Plan, Training, backward, cosine, start


def test_the_learning_rate_rises_and_falls_to_its_floor() -> None:
    shares = [cosine(step, 1000, 100) for step in range(1001)]
    assert shares[0] == pytest.approx(0.01, abs=1e-3)
    assert max(shares) == shares[99] or max(shares) == pytest.approx(1, abs=0.05)
    assert shares[-1] == pytest.approx(0.01)


def train_line(path: Path, num_steps: int, stop_after: int | None = None) -> torch.Tensor:
    """Fit a line for some steps; `stop_after` raises as if the machine had gone away."""
    plan = Plan(num_steps=num_steps, batch_size=4, peak_lr=0.01, seed=1)
    rng = start(plan, seed=0)
    model = torch.nn.Linear(3, 1)
    training = Training(model, plan, rng, path)

    def loss() -> torch.Tensor:
        if stop_after is not None and training.step >= stop_after:
            raise KeyboardInterrupt
        x = torch.randn(4, 3) + rng.random()
        error: torch.Tensor = model(x) - x.sum(1, keepdim=True)
        return error.square().mean()

    training.run(lambda: backward(loss()), "line")
    return model.weight.detach().clone()


def test_a_stopped_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    undisturbed = train_line(tmp_path / "a.checkpoint", 600)
    with pytest.raises(KeyboardInterrupt):
        train_line(tmp_path / "b.checkpoint", 600, stop_after=550)
    assert torch.equal(train_line(tmp_path / "b.checkpoint", 600), undisturbed)


def test_pictures_survive_the_way_to_tensors_and_back() -> None:
    image = world.draw(world.Scene("cross", "cyan", "black"), random.Random(1))
    back = tensors.to_images(tensors.from_images([image]))[0]
    assert back.tobytes() == image.tobytes()
    assert read.read(back).shape == "cross"


def test_timesteps_cover_the_range_evenly() -> None:
    steps = sorted(shapes.spread_timesteps(10, focused=False).tolist())
    assert [step // 100 for step in steps] == list(range(10))


def test_focused_timesteps_leave_the_end_out_that_sampling_never_visits() -> None:
    steps = shapes.spread_timesteps(100)
    assert (steps < 100).float().mean() < 0.05
    assert (steps > 400).float().mean() > 0.6


def test_two_halves_leave_the_gradient_of_the_whole_batch() -> None:
    torch.manual_seed(0)
    model, batch = torch.nn.Linear(3, 1), torch.randn(8, 3)
    model(batch).square().mean().backward()
    whole = model.weight.grad.clone()
    model.zero_grad()
    halves = Halves([model])
    parts = zip(halves.copies, (batch[:4], batch[4:]), strict=True)
    halves.gradient([partial(lambda m, x: m(x).square().mean(), m, x) for (m,), x in parts])
    assert torch.allclose(model.weight.grad, whole)


def test_a_cooldown_brings_the_learning_rate_to_nothing() -> None:
    plan = Plan(num_steps=100, batch_size=1, peak_lr=1, seed=0, warmup_steps=1, horizon=200, cooldown=50)
    assert plan.lr_share(50) == pytest.approx(cosine(50, 200, 1))
    assert plan.lr_share(99) < 0.02


def test_a_caption_true_of_another_picture_is_no_negative() -> None:
    rng = random.Random(1)
    scenes = [world.Scene("ring", "red", "blue"), world.Scene("star", "red", "blue")]
    said = [captions.Caption("a ring", frozenset({"shape"})), captions.Caption("red", frozenset({"colour"}))]
    codes = torch.tensor([clip.code(scene) for scene in scenes])
    assert clip.also_true(said, scenes, codes).tolist() == [[False, True], [False, False]]
    assert len(clip.hard_scenes(rng)) == clip.PLAN.batch_size


def test_the_lora_header_has_one_fixed_form() -> None:
    from safetensors.torch import save

    data = save({"unet.a": torch.ones(2), "unet.b": torch.zeros(3)}, {"format": "pt"})
    written = lora_file.with_notes(data, {"b": "2", "a": "1"})
    assert written == lora_file.with_notes(data, {"a": "1", "b": "2"})
    length = int.from_bytes(written[:8], "little")
    metadata = json.loads(written[8 : 8 + length])["__metadata__"]
    assert list(metadata) == ["a", "b", "format", "modelspec.hash_sha256"]
    assert written.endswith(data[-20:])


def test_tables_in_the_lora_header_are_put_in_order() -> None:
    assert lora_file.in_order('{"b": ["y", "x"], "a": 1}') == '{"a": 1, "b": ["x", "y"]}'
    assert lora_file.in_order("<emblem>") == "<emblem>"
    assert lora_file.in_order("8") == "8"


def test_a_finished_stage_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        make.main(["tokenizer", "--work", str(tmp_path), "--out", str(tmp_path / "out")])
    assert "already in" in capsys.readouterr().out


def test_the_recipe_makes_the_shipped_tokenizer(tmp_path: Path) -> None:
    make.main(["tokenizer", "--work", str(tmp_path), "--out", str(tmp_path / "out")])
    shipped = builtin.package_dir() / "shapes" / "tokenizer"
    for name in ("vocab.json", "merges.txt", "tokenizer.json"):
        assert (tmp_path / "tokenizer" / name).read_bytes() == (shipped / name).read_bytes()


@pytest.fixture
def tiny_sdxl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    monkeypatch.setenv("RUNNER_CACHE", str(tmp_path))
    make.main(["tiny_sdxl"])
    from diffusers import StableDiffusionXLPipeline

    def load() -> Any:
        pipeline: Any = StableDiffusionXLPipeline.from_pretrained(
            builtin.find_model("tiny_sdxl"), torch_dtype=torch.float32
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return load


def test_tiny_sdxl_is_made_on_demand_and_runs(tiny_sdxl: Callable[[], Any]) -> None:
    image = tiny_sdxl()("a red star", num_inference_steps=2, height=64, width=64).images[0]
    assert image.size == (64, 64)


def test_tiny_sdxl_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make.main(["tiny_sdxl", "--out", str(tmp_path / name)])
    digests = [[path.read_bytes() for path in sorted((tmp_path / name).rglob("*.safetensors"))] for name in "ab"]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 4
