"""What goes wrong with real models, on the real pipeline: each ends with its kind, phase, item, cause and hint.

And once the cause is gone, the same command comes to the end that an undisturbed run has.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner import critic, execute, generate, journal
from runner.errors import Refused
from runner.generate import failures
from runner.generate.pipeline import load_artist
from runner.plan import Step
from runner.timing import Clock
from runner.worker import Bench, Outcome, Work
from tests import fakes, worlds

Tensors = dict[str, Any]
BASE = ("+experiment=demo_base", "track=none", "generate.steps=1", "generate.batch_size=2", "runtime.num_threads=1")
ONLY_IMAGES = ("stages=[generate]", "critic=none", worlds.prompts(1, "a red star"))
WITH_LORA = ("stages=[generate]", "critic=none", worlds.prompts(1))
DENOISER = "unet/diffusion_pytorch_model.safetensors"
DECODER = "vae/diffusion_pytorch_model.safetensors"
ENCODER = "text_encoder/model.safetensors"
WORKERS: dict[str, Work] = {"generate": generate.work, "critique": critic.work}


def base(place: Path) -> Path:
    """The shipped base as files of its own, to be harmed."""
    return Path(shutil.copytree(worlds.SHAPES, place / "base"))


def change(file: Path, how: Callable[[Tensors], Tensors]) -> None:
    """Rewrite the tensors of a safetensors file."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(file, "pt") as opened:
        said = opened.metadata()
    save_file(how(load_file(file)), file, said)


def accept(place: Path, folder: Path, *words: str, start: tuple[str, ...] = (*BASE, *ONLY_IMAGES)) -> execute.Accepted:
    return worlds.accept(place / "outputs", f"base_model.path={folder}", *words, base=start)


def run(accepted: execute.Accepted, watch: execute.Watch | None = None) -> execute.Result:
    return execute.execute(accepted, WORKERS, Clock(), watch or execute.Watch())


def failure(result: execute.Result) -> dict[str, Any]:
    """The record of a failure, from a journal whose chain is sound."""
    read = journal.read_run(result.folder)
    assert (read.problem, result.exit_code, read.state.status) == (None, 3, result.status)
    assert read.state.failure is not None
    return read.state.failure


def told(result: execute.Result) -> tuple[str, str, str | None]:
    record = failure(result)
    return record["kind"], record["phase"], record["item"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Digests of the images of a run that nothing happens to."""
    place = tmp_path_factory.mktemp("calm")
    return digests(run(accept(place, worlds.SHAPES)))


def digests(result: execute.Result) -> list[str]:
    assert result.status == "complete", result.failure
    return [image["digest"] for image in journal.read_run(result.folder).images()]


# ---- loading


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def garbage(file: Path) -> None:
    file.write_bytes(b"\xff" * 4096)


def folder_instead(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("harm", [cut, garbage, folder_instead, Path.unlink])
def test_a_model_file_that_was_harmed_after_the_contract_fails_to_load_and_mended_goes_on(
    tmp_path: Path, harm: Callable[[Path], None], undisturbed: list[str]
) -> None:
    folder = base(tmp_path)
    accepted = accept(tmp_path, folder)
    harm(folder / DENOISER)
    result = run(accepted)
    assert told(result) == ("load", "load_base", None)
    assert f"{folder} does not load: " in failure(result)["cause"]
    assert "get its files again" in failure(result)["hint"]
    shutil.rmtree(folder)
    base(tmp_path)
    assert digests(run(accepted)) == undisturbed


@pytest.mark.skipif(os.geteuid() != 0, reason="to lose a permission needs root")
@pytest.mark.usefixtures("undisturbed")  # what is imported on the way is imported as root
def test_a_model_file_that_may_not_be_read_is_told_with_the_reason(tmp_path: Path) -> None:
    def load_as_nobody(bench: Bench) -> Any:
        os.setresuid(65534, 65534, 0)
        try:
            return load_artist(bench)
        finally:
            os.setresuid(0, 0, 0)

    def work(step: Step, bench: Bench) -> Outcome:
        bench.model(generate.ROLE, load_as_nobody)
        return generate.work(step, bench)

    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        folder = base(Path(place))
        accepted = accept(tmp_path, folder)
        (folder / DENOISER).chmod(0o600)
        result = execute.execute(accepted, {"generate": work}, Clock(), execute.Watch())
    assert told(result) == ("load", "load_base", None)
    assert "does not load: " in failure(result)["cause"]
    assert "ermission denied" in failure(result)["cause"]


@pytest.mark.parametrize(
    ("file", "ending"),
    [(DENOISER, "conv_out.weight"), (ENCODER, "layers.0.mlp.fc1.weight"), (DECODER, "decoder.layers.0.weight")],
)
def test_a_tensor_that_a_file_lacks_is_missed_and_not_made_up(tmp_path: Path, file: str, ending: str) -> None:
    """Libraries fill it with chance, or with nothing, and only warn."""
    folder = base(tmp_path)
    change(folder / file, lambda tensors: {name: t for name, t in tensors.items() if not name.endswith(ending)})
    result = run(accept(tmp_path, folder))
    record = failure(result)
    assert told(result) == ("load", "load_base", None)
    assert record["code"] == "weights_missing"
    assert f"has no weights for 1 tensors of {Path(file).parent.name} (first " in record["cause"]
    assert ending in record["cause"]


def test_a_critic_that_lacks_a_tensor_judges_nothing(tmp_path: Path) -> None:
    clip = Path(shutil.copytree(worlds.SHAPES.parent / "shapes_clip", tmp_path / "clip"))
    change(clip / "model.safetensors", lambda tensors: {n: t for n, t in tensors.items() if n != "logit_scale"})
    words = (worlds.prompts(1), "generate.steps=1", f"critic_runtime.path={clip}")
    result = run(worlds.accept(tmp_path / "outputs", *words))
    assert told(result) == ("load", "load_critic", None)
    assert "has no weights for 1 tensors (first logit_scale)" in failure(result)["cause"]
    assert dict(result.made) == {"image": 2}


def test_a_scheduler_without_its_package_is_refused_before_anything_loads(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"DPMSolverSDEScheduler needs torchsde.*pip install torchsde"):
        accept(tmp_path, worlds.SHAPES, "generate.scheduler=DPMSolverSDEScheduler")


# ---- memory and numbers


def test_a_real_limit_of_memory_ends_the_run_as_oom_and_nothing_is_tried_with_other_settings(tmp_path: Path) -> None:
    """In a process of its own: memory that earlier work gave back would serve in place of new."""
    words = ("generate.width=256", "generate.height=256")
    own = "import sys, pathlib; from tests.generate import test_generate_failures as here; here.starve(*sys.argv[1:])"
    answer = fakes.python("-c", own, str(tmp_path), *words)
    record, result = answer.line["failure"], answer.line
    assert (result["status"], record["kind"], record["item"], record["where"]) == (
        "failed", "oom", "image/on-blue.000", "cpu",
    )  # fmt: skip
    assert record["phase"] in ("sample", "decode")
    assert "ran out of memory for 256x256 at batch_size 2 in float32" in record["cause"]
    assert all(word in record["hint"] for word in ("batch_size", "size", "dtype", "offload"))
    assert result["statuses"].count("generating") == 1
    assert len(digests(run(accept(tmp_path, worlds.SHAPES, *words)))) == 2


def starve(place: str, *words: str) -> None:
    """A run that may take next to no memory once it samples; says on standard output how it ended."""
    with LittleMemory() as watch:
        result = run(accept(Path(place), worlds.SHAPES, *words), watch)
    statuses = [event["status"] for event in worlds.events(result.folder, "status")]
    print(json.dumps({"status": result.status, "failure": failure(result), "statuses": statuses}))


class LittleMemory:
    """A watch that takes the memory away when sampling begins; it is given back at the end of the block."""

    SPARE_BYTES = 8 << 20

    def __enter__(self) -> execute.Watch:
        self._before = resource.getrlimit(resource.RLIMIT_DATA)
        return execute.Watch(on_event=self._limit)

    def _limit(self, event: journal.Event) -> None:
        if event.get("status") == "generating":
            most = _data_bytes() + self.SPARE_BYTES
            resource.setrlimit(resource.RLIMIT_DATA, (most, self._before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_DATA, self._before)


def _data_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData"))


def poison(tensors: Tensors) -> Tensors:
    name = next(name for name in sorted(tensors) if name.endswith("weight"))
    tensors[name].view(-1)[0] = float("nan")
    return tensors


def test_nan_in_the_latents_makes_no_image_and_says_so(tmp_path: Path) -> None:
    folder = base(tmp_path)
    change(folder / DENOISER, poison)
    result = run(accept(tmp_path, folder))
    assert (result.status, told(result)) == ("incomplete", ("sampling", "sample", "image/on-blue.000"))
    assert "image/on-blue.000 was not made: has NaN or infinite values in its latents" in failure(result)["cause"]
    assert "runtime.dtype" in failure(result)["cause"]
    assert (worlds.objects_of(tmp_path / "outputs"), dict(result.made)) == ({}, {})


def test_nan_in_the_base_is_not_blamed_on_the_lora(tmp_path: Path) -> None:
    folder = base(tmp_path)
    change(folder / DENOISER, poison)
    lora = worlds.lora_file(tmp_path / "x.safetensors", dict, {"runner.base_sha256": None})
    result = run(accept(tmp_path, folder, *WITH_LORA, f"lora.path={lora}", start=worlds.TINY))
    assert told(result) == ("load", "warmup", None)
    assert "NaN or infinite values, with the LoRA switched off" in failure(result)["cause"]
    assert "runtime.dtype" in failure(result)["hint"]


def test_nan_that_comes_from_the_decoder_is_no_image_either(tmp_path: Path) -> None:
    folder = base(tmp_path)
    change(
        folder / DECODER,
        lambda t: {n: poison({n: x})[n] if n == "decoder.layers.0.weight" else x for n, x in t.items()},
    )
    result = run(accept(tmp_path, folder))
    assert "was not made: has NaN or infinite values" in failure(result)["cause"]
    assert "latents" not in failure(result)["cause"]
    assert worlds.objects_of(tmp_path / "outputs") == {}


def test_a_decoder_of_zeros_makes_blank_pictures_and_none_is_stored(tmp_path: Path) -> None:
    folder = base(tmp_path)
    change(folder / DECODER, lambda tensors: {name: tensor * 0 for name, tensor in tensors.items()})
    result = run(accept(tmp_path, folder))
    assert (result.status, told(result)) == ("incomplete", ("sampling", "sample", "image/on-blue.000"))
    assert "image/on-blue.000 was not made: is blank: one colour all over" in failure(result)["cause"]
    assert worlds.objects_of(tmp_path / "outputs") == {}


def test_a_pipeline_that_raises_is_a_failure_of_sampling_with_its_place_and_no_bug_of_ours(tmp_path: Path) -> None:
    """PNDM cannot take three steps."""
    result = run(accept(tmp_path, worlds.SHAPES, "generate.scheduler=PNDMScheduler", "generate.steps=3"))
    record = failure(result)
    assert (told(result), result.bug) == (("sampling", "sample", "image/on-blue.000"), None)
    assert "the pipeline stopped: ValueError: operands could not be broadcast" in record["cause"]
    assert record["evidence"]["raised"].startswith("scheduling_pndm.py:")


def test_a_type_of_numbers_that_the_device_cannot_do_names_the_others(tmp_path: Path) -> None:
    accepted = accept(tmp_path, worlds.SHAPES, "runtime.dtype=float16")

    def refuse_half(step: Step, bench: Bench) -> Outcome:
        """An operation that torch does not have for float16 on a processor, inside the real pipeline."""
        import torch

        artist = bench.model(generate.ROLE, load_artist)
        artist.pipe.unet.register_forward_pre_hook(lambda *_: torch.linalg.qr(torch.eye(2, dtype=torch.float16)))
        return generate.work(step, bench)

    result = execute.execute(accepted, {"generate": refuse_half}, Clock(), execute.Watch())
    record = failure(result)
    assert (told(result), record["code"]) == (("sampling", "sample", "image/on-blue.000"), "dtype_unsupported")
    assert record["cause"].startswith("is float16, which cpu cannot do here (")
    assert record["hint"].startswith("Choose float32 or bfloat16")


def test_torch_s_own_words_for_a_wrong_type_of_numbers_are_known_and_those_for_a_wrong_shape_are_not() -> None:
    import torch

    half, single = torch.ones(2, 2, dtype=torch.float16), torch.ones(2, 2)
    kernel = torch.ones(1, 1, 1, 1, dtype=torch.float16)
    wrong: list[Callable[[], Any]] = [
        lambda: half @ single, lambda: torch.linalg.qr(half), lambda: torch.conv2d(single[None, None], kernel),
    ]  # fmt: skip
    for call in wrong:
        with pytest.raises(RuntimeError, match=failures.DTYPE):
            call()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as error:
        single @ torch.ones(3, 3)
    assert not failures.DTYPE.search(str(error.value))
