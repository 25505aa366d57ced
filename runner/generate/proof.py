"""Does the loaded LoRA do what the file says? A loader that skips a module only warns; this fails the run.

The layers that carry it must be the layers that the contract bound, one for one, their values finite, the applied scale
alpha / rank of the file times the configured one, a one-step same-seed difference to the base above zero, and scale 0
equal to the base. Whatever fails leaves nothing of it in the pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from math import isfinite, sqrt
from typing import Any

from runner.config.tree import LoraCard
from runner.contract.binding import Binding
from runner.contract.families import LoraFile, effective
from runner.contract.machine import is_out_of_memory
from runner.errors import Failed, Fault, first_line
from runner.generate import adapter, attach

SEED = 0
PRECISION = 1e-6


def bind(pipe: Any, lora: LoraFile, binding: Binding | None) -> None:
    """Put a LoRA into a pipeline, before anything is moved or offloaded. Raises Failed(load), nothing half loaded."""
    if binding is None:
        raise _inert("cannot be loaded: the layers of the base were not here to place its modules")
    lost = [*binding.unbound, *binding.conflicts, *binding.unloadable]
    if lost:
        raise _inert(f"has {binding.num_modules} modules and {len(lost)} cannot be loaded (first {lost[0]})")
    try:
        attach.attach(pipe, _expected(lora, binding), adapter.read(lora, binding))
    except Exception as error:  # safetensors, torch and peft raise a dozen kinds here
        if is_out_of_memory(error):
            raise
        what = f"{lora.path.name} does not load: {first_line(error)}"
        fix = "Look at it with `python -m runner inspect`, and choose the base it was trained on"
        raise Failed("load", Fault("lora_inert", "lora.path", what, fix)) from error
    try:
        _check_values(attach.layers(pipe))
    except Failed:
        attach.detach(pipe)
        raise


def prove(
    pipe: Any, lora: LoraFile, binding: Binding, card: LoraCard, text: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Apply the configured scale and check what it does; returns the facts. Raises Failed(load) and takes it out."""
    try:
        return _proved(pipe, _expected(lora, binding), lora, card, text, settings)
    except Failed:
        attach.detach(pipe)
        raise


def _proved(
    pipe: Any, expected: Mapping[str, float], lora: LoraFile, card: LoraCard, text: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    layers = attach.layers(pipe)
    _compare_layers(expected.keys(), layers.keys())
    _compare_scale(layers, expected, 1.0)
    _compare_strength(lora, card)
    at_nothing = _one_step(pipe, text, settings, 0.0)
    attach.set_enabled(pipe, False)
    without = _one_step(pipe, text, settings, None)
    attach.set_enabled(pipe, True)
    applied = _one_step(pipe, text, settings, card.scale)
    if not bool(without.isfinite().all()):
        raise _broken_base()
    difference, at_zero = _distance(applied, without), _distance(at_nothing, without)
    _compare_scale(layers, expected, card.scale)
    if not isfinite(difference):
        raise _inert("makes a one-step picture with NaN or infinite values")
    if card.scale and not difference > 0:
        raise _inert("changes nothing: a one-step picture with it equals the one without it")
    if not at_zero == 0:
        raise _inert(f"does not switch off: at scale 0 a one-step picture differs from the base by {at_zero:g}")
    return {
        "modules": len(lora.modules),
        "layers": len(layers),
        "scale": card.scale,
        "difference": difference,
        "difference_at_zero": at_zero,
    }


def denoiser_name(pipe: Any) -> str:
    return "unet" if getattr(pipe, "unet", None) is not None else "transformer"


def _expected(lora: LoraFile, binding: Binding) -> dict[str, float]:
    """Every layer that must carry the adapter, and alpha / rank there."""
    return {
        layer: effective(lora.modules[owner], lora.claims, owner)
        for owner, bound in binding.bound.items()
        for layer in bound.layers
    }


def _compare_layers(expected: Set[str], found: Set[str]) -> None:
    if missing := sorted(expected - found):
        raise _inert(f"adapts {len(expected)} layers and {len(missing)} were not loaded (first {missing[0]})")
    if strange := sorted(found - expected):
        raise _inert(f"loaded {len(strange)} layers that it does not have (first {strange[0]})")


def _compare_strength(lora: LoraFile, card: LoraCard) -> None:
    """alpha / rank as loaded against the card: an alpha that was lost on the way changes every picture."""
    if not (card.alpha and card.rank):
        return
    wanted = card.alpha / (sqrt(card.rank) if lora.claims.rslora else card.rank)
    for name, module in lora.modules.items():
        found = effective(module, lora.claims, name)
        if module.rank and not abs(found - wanted) <= PRECISION * wanted:
            raise _inert(f"is loaded with alpha/rank {found:g} in {name}; its card says {wanted:g}")


def _compare_scale(layers: Mapping[str, Any], expected: Mapping[str, float], scale: float) -> None:
    for name, layer in layers.items():
        found, wanted = layer.scaling[attach.ADAPTER], expected[name] * scale
        if not abs(found - wanted) <= PRECISION * abs(wanted):
            raise _inert(f"has scale {found:g} in {name}, configured is {wanted:g}")


def _check_values(layers: Mapping[str, Any]) -> None:
    import torch

    trained = False
    for name, layer in layers.items():
        halves = [half[attach.ADAPTER].weight for half in (layer.lora_A, layer.lora_B)]
        if not all(bool(torch.isfinite(half).all()) for half in halves):
            raise _inert(f"has NaN or infinite weights in {name}")
        trained = trained or all(bool(half.any()) for half in halves)
    if not trained:
        raise _inert("has only zeros in its up weights: it was never trained, or saved too early")


def _one_step(pipe: Any, text: str, settings: Mapping[str, Any], scale: float | None) -> Any:
    """The latents after one step at a fixed seed; `scale` None leaves the adapters as they are."""
    import torch

    if scale is not None:
        attach.set_scale(pipe, scale)
    call = {**settings, "num_inference_steps": 1}
    with torch.inference_mode():
        generator = torch.Generator("cpu").manual_seed(SEED)
        return pipe(prompt=[text], generator=[generator], output_type="latent", **call).images


def _distance(one: Any, other: Any) -> float:
    return float((one.float() - other.float()).abs().max())


def _broken_base() -> Failed:
    what = "makes a one-step picture with NaN or infinite values, with the LoRA switched off"
    fix = "Get its files again; if they are right, choose a runtime.dtype of a wider range (bfloat16, float32)"
    return Failed("load", Fault("base_not_finite", "base_model", what, fix))


def _inert(what: str) -> Failed:
    fix = "Look at it with `python -m runner inspect`; nothing was generated"
    return Failed("load", Fault("lora_inert", "lora", what, fix))
