"""An ordinary diffusers pipeline, loaded as config says and told to us in phases.

The class comes from config and must be the one that the folder declares. Nothing is downloaded, no pickle is
read, nothing is substituted. What it does not know: batches, seeds, storage.
"""

from __future__ import annotations

import inspect
import itertools
import logging
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.config.tree import Generate
from runner.contract.folders import ModelFolder
from runner.errors import Failed, Fault, first_line
from runner.generate import failures, proof
from runner.generate.encode import EncodeOnce, expected_tokens
from runner.timing import Clock
from runner.worker import Bench, settle

OnStep = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]


@dataclass(slots=True)
class Artist:
    """A loaded pipeline with its LoRA applied and proved."""

    pipe: Any

    def __call__(self, texts: Sequence[str], generators: Sequence[Any], settings: Generate, *, on_step: OnStep) -> Any:
        """Sample a batch; returns floats 0 to 1, shape (batch, height, width, 3)."""
        return self.pipe(
            prompt=list(texts), generator=list(generators), output_type="np", callback_on_step_end=on_step,
            **call_settings(type(self.pipe), settings, len(texts)),
        ).images  # fmt: skip


TRUE_CFG = {"QwenImagePipeline"}  # guidance is `true_cfg_scale` there, and asks for a negative prompt, be it empty


def call_settings(pipeline: type[Any], settings: Generate, batch: int) -> dict[str, Any]:
    """Settings as the pipeline's own keyword arguments; an empty negative prompt is passed only where it must be."""
    true_cfg = pipeline.__name__ in TRUE_CFG
    wanted = bool(settings.negative_prompt) or (true_cfg and settings.guidance_scale > 1)
    return {
        "width": settings.width,
        "height": settings.height,
        "num_inference_steps": settings.steps,
        "true_cfg_scale" if true_cfg else "guidance_scale": settings.guidance_scale,
        **({"negative_prompt": [settings.negative_prompt] * batch} if wanted else {}),
    }


def load_artist(bench: Bench) -> Artist:
    """Load base and LoRA and prove the LoRA. Raises Failed(load | oom)."""
    with failures.while_loading(bench.request, bench.facts.base.path, bench.device):
        return _load(bench)


def _load(bench: Bench) -> Artist:
    contract = bench.facts
    with bench.clock.phase("load_base"):
        _be_quiet()
        settle()
        pipe = _load_pipeline(contract.base.path, bench)
    with bench.clock.phase("load_lora"):
        if contract.lora is not None:
            proof.bind(pipe, contract.lora, contract.binding)
    with bench.clock.phase("load_base"):  # the LoRA's layers move, are offloaded and compiled with those they change
        _use_runtime(pipe, bench)
    with bench.clock.phase("warmup"):
        bench.status("warming")
        if contract.lora is not None:
            _prove(pipe, bench)
    pipe.encode_prompt = EncodeOnce(pipe, bench.clock, expected_tokens(contract))
    _time_decoder(pipe, bench.clock)
    return Artist(pipe)


def _load_pipeline(folder: Path, bench: Bench) -> Any:
    import diffusers
    import torch

    request = bench.request
    name = request.base_model.pipeline
    if request.runtime.num_threads:
        torch.set_num_threads(request.runtime.num_threads)
    pipeline_class = getattr(diffusers, name)  # the contract has seen that it exists
    _check_settings(pipeline_class, request.generate)
    dtype = getattr(torch, request.runtime.dtype)
    encoders = _load_encoders(pipeline_class, bench.facts.base, dtype)
    pipe = pipeline_class.from_pretrained(
        folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True, **encoders
    )
    _refuse_unloaded(pipe, folder)
    pipe.set_progress_bar_config(disable=True)
    if bench.device.startswith("cuda"):
        bench.clock.sync = torch.cuda.synchronize
    bench.note("loaded", role="generator", threads=torch.get_num_threads(), cpu=torch.backends.cpu.get_cpu_capability())
    _use_scheduler(pipe, request.generate.scheduler)
    return pipe


NEVER_READ = re.compile(r"(^|\.)lm_head\.")  # of a language model that encodes text: its words are asked of nobody


def _load_encoders(pipeline_class: Any, base: ModelFolder, dtype: Any) -> dict[str, Any]:
    """The components that are of transformers: it makes up the weights that a file lacks, and tells who asks it."""
    import transformers

    found = {}
    for name, class_name in base.components.items():
        kind: Any = getattr(transformers, class_name, None)
        is_model = inspect.isclass(kind) and issubclass(kind, transformers.PreTrainedModel)
        if is_model and name in inspect.signature(pipeline_class.__init__).parameters:
            found[name], told = kind.from_pretrained(
                base.path / name, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
            if missing := [key for key in told["missing_keys"] if not NEVER_READ.search(key)]:
                raise failures.weights_missing(base.path, name, missing)
    return found


def _refuse_unloaded(pipe: Any, folder: Path) -> None:
    """diffusers leaves the weights that a file lacks without memory."""
    for name, part in pipe.components.items():
        if hasattr(part, "named_parameters"):
            tensors = itertools.chain(part.named_parameters(), part.named_buffers())
            if missing := [key for key, tensor in tensors if tensor.is_meta]:
                raise failures.weights_missing(folder, name, missing)


def _check_settings(pipeline_class: Any, settings: Generate) -> None:
    """Every setting is one that the pipeline takes; a stranger's name would end the run in its middle."""
    taken = inspect.signature(pipeline_class.__call__).parameters
    for name in call_settings(pipeline_class, settings, 1):
        if name not in taken and not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
            key = {"num_inference_steps": "steps"}.get(name, name)
            what = f"{pipeline_class.__name__} does not take {name}"
            raise Failed(
                "load", Fault("setting_ignored", f"generate.{key}", what, "Choose another base_model.pipeline")
            )


def _use_scheduler(pipe: Any, name: str | None) -> None:
    import diffusers

    if name is None:
        return
    scheduler = getattr(diffusers, name)  # the contract has seen that it exists
    if scheduler not in pipe.scheduler.compatibles:
        known = ", ".join(sorted({c.__name__ for c in pipe.scheduler.compatibles}))
        what = f"{name} does not go with {type(pipe.scheduler).__name__}, which the folder declares"
        raise Failed("load", Fault("unknown_option", "generate.scheduler", what, f"Known: {known}"))
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)


def _use_runtime(pipe: Any, bench: Bench) -> None:
    """Device, memory format, offload, attention and compile, each as config says."""
    import torch

    runtime, denoiser = bench.request.runtime, proof.denoiser_name(pipe)
    if runtime.offload == "none":
        pipe.to(bench.device)
    elif runtime.offload == "model":
        pipe.enable_model_cpu_offload(device=bench.device)
    elif runtime.offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=bench.device)
    else:
        pipe.enable_group_offload(onload_device=torch.device(bench.device), offload_type="leaf_level")
    if runtime.channels_last:
        for component in (getattr(pipe, denoiser), pipe.vae):
            _use_channels_last(component, torch.channels_last)
    if runtime.attention == "sliced":
        pipe.enable_attention_slicing()
    elif runtime.attention == "sdpa":
        getattr(pipe, denoiser).set_attention_backend("native")
    if runtime.compile:
        getattr(pipe, denoiser).compile()


def _use_channels_last(component: Any, memory_format: Any) -> None:
    """Raises Failed(load) for a component with convolutions over time, for which there is no such memory format."""
    try:
        component.to(memory_format=memory_format)
    except RuntimeError as error:
        what = f"does not go with {type(component).__name__}: {first_line(error)}"
        raise Failed("load", Fault("unknown_option", "runtime.channels_last", what, "Set it to false")) from error


def _prove(pipe: Any, bench: Bench) -> None:
    contract, request = bench.facts, bench.request
    texts = [prompt.text for prompt in contract.prompts if prompt.triggered] or [contract.prompts[0].text]
    settings = call_settings(type(pipe), request.generate, 1)
    facts = proof.prove(pipe, contract.lora, contract.binding, request.lora, texts[0], settings)
    bench.note("proved", **facts)


def _time_decoder(pipe: Any, clock: Clock) -> None:
    decode = pipe.vae.decode

    def timed(*args: Any, **kwargs: Any) -> Any:
        with clock.phase("decode"):
            return decode(*args, **kwargs)

    pipe.vae.decode = timed


def _be_quiet() -> None:
    """Notes of the libraries that say nothing here: the proof after loading replaces them."""
    import diffusers
    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning, module=r"diffusers|transformers|peft|torch")
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("torchao").setLevel(logging.ERROR)
