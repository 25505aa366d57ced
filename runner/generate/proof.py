"""Does the loaded LoRA do what the file says? diffusers only warns when nothing was loaded; this fails the run.

The injected modules must be the file's modules one for one, the applied scale the configured one, a one-step
same-seed difference to the base above zero, and scale 0 equal to the base.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.config.tree import LoraCard
from runner.contract.families import LoraFile, plain_name
from runner.errors import Failed, Fault, first_line

ADAPTER = "runner"
COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
SEED = 0


def bind(pipe: Any, path: Path) -> None:
    """Load one LoRA file under our adapter name. Raises Failed(load) and leaves nothing half loaded."""
    try:
        pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=ADAPTER, local_files_only=True)
    except Exception as error:  # diffusers, peft and transformers raise a dozen kinds here
        pipe.unload_lora_weights()
        what = f"{path.name} does not load: {first_line(error)}"
        fix = "Look at it with `python -m runner inspect`, and choose the base it was trained on"
        raise Failed("load", Fault("lora_inert", "lora.path", what, fix)) from error


def prove(pipe: Any, lora: LoraFile, card: LoraCard, text: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Apply the configured scale and check what it does; returns the facts. Raises Failed(load)."""
    layers = dict(_layers(pipe))
    _compare_modules(set(lora.modules), set(layers))
    trained = {name: layer.scaling[ADAPTER] for name, layer in layers.items()}
    _compare_strength(trained, card)
    _check_values(layers)
    base = _one_step(pipe, text, settings, 0.0)
    pipe.disable_lora()
    without = _one_step(pipe, text, settings, None)
    pipe.enable_lora()
    applied = _one_step(pipe, text, settings, card.scale)
    difference, at_zero = _distance(applied, without), _distance(base, without)
    _compare_scale(layers, trained, card.scale)
    if card.scale and not difference > 0:
        raise _inert("changes nothing: a one-step picture with it equals the one without it")
    if at_zero > 0:
        raise _inert(f"does not switch off: at scale 0 a one-step picture differs from the base by {at_zero:g}")
    return {"modules": len(layers), "scale": card.scale, "difference": difference, "difference_at_zero": at_zero}


def denoiser_name(pipe: Any) -> str:
    return "unet" if getattr(pipe, "unet", None) is not None else "transformer"


def _layers(pipe: Any) -> Iterator[tuple[str, Any]]:
    """Every layer that carries our adapter, by its name in the pipeline."""
    for component in COMPONENTS:
        model = getattr(pipe, component, None)
        for name, module in model.named_modules() if model is not None else ():
            if ADAPTER in getattr(module, "lora_A", ()):
                yield plain_name(f"{component}.{name}"), module


def _compare_modules(of_file: set[str], injected: set[str]) -> None:
    expected = {plain_name(name) for name in of_file}
    if missing := sorted(expected - injected):
        raise _inert(f"has {len(expected)} modules and {len(missing)} were not loaded (first {missing[0]})")
    if strange := sorted(injected - expected):
        raise _inert(f"loaded {len(strange)} modules that it does not have (first {strange[0]})")


def _compare_strength(trained: Mapping[str, float], card: LoraCard) -> None:
    """alpha / rank as loaded against the card: an alpha that was lost on the way changes every picture."""
    if not (card.alpha and card.rank):
        return
    wanted = card.alpha / card.rank
    for name, found in trained.items():
        if abs(found - wanted) > 1e-6 * max(1.0, wanted):
            raise _inert(f"is loaded with alpha/rank {found:g} in {name}; its card says {wanted:g}")


def _compare_scale(layers: Mapping[str, Any], trained: Mapping[str, float], scale: float) -> None:
    for name, layer in layers.items():
        if abs(layer.scaling[ADAPTER] - trained[name] * scale) > 1e-6:
            raise _inert(f"has scale {layer.scaling[ADAPTER]:g} in {name}, configured is {trained[name] * scale:g}")


def _check_values(layers: Mapping[str, Any]) -> None:
    import torch

    ups = {name: layer.lora_B[ADAPTER].weight for name, layer in layers.items()}
    downs = {name: layer.lora_A[ADAPTER].weight for name, layer in layers.items()}
    for name in layers:
        if not (torch.isfinite(ups[name]).all() and torch.isfinite(downs[name]).all()):
            raise _inert(f"has NaN or infinite weights in {name}")
    if not any(bool(up.any()) for up in ups.values()):
        raise _inert("has only zeros in its up weights: it was never trained, or saved too early")


def _one_step(pipe: Any, text: str, settings: Mapping[str, Any], scale: float | None) -> Any:
    """The latents after one step at a fixed seed; `scale` None leaves the adapters as they are."""
    import torch

    if scale is not None:
        pipe.set_adapters([ADAPTER], [scale])
    call = {**settings, "num_inference_steps": 1}
    with torch.inference_mode():
        generator = torch.Generator("cpu").manual_seed(SEED)
        return pipe(prompt=[text], generator=[generator], output_type="latent", **call).images


def _distance(one: Any, other: Any) -> float:
    return float((one.float() - other.float()).abs().max())


def _inert(what: str) -> Failed:
    fix = "Look at it with `python -m runner inspect`; nothing was generated"
    return Failed("load", Fault("lora_inert", "lora", what, fix))
