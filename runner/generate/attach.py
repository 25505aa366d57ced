"""Changes of layers put into a loaded pipeline as PEFT layers, exactly where the contract has placed them.

PEFT wraps the layers, and diffusers' own `set_adapters`, `disable_lora` and `unload_lora_weights` find them; each layer
gets the factors of its own change, with the rank and alpha of the file. It refuses layers that the pipeline does not
have or that are no linear layer or convolution, and takes everything out again when one of them fails. It works on any
component, also on text encoders that the pipeline's own loader leaves out. What it does not know: whether the LoRA does
anything; that is `proof`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from runner.contract.naming import plain_name
from runner.generate.adapter import Change, Kronecker, Magnitude
from runner.generate.variant import Variant, gains

ADAPTER = "runner"
Layer = Any  # a PEFT LoRA layer


def attach(pipe: Any, names: Iterable[str], modules: Iterable[list[Change]]) -> None:
    """Wrap the layers of these names and fill them. Raises ValueError and leaves nothing half loaded."""
    try:
        wrapped = _wrapped(pipe, names)
        for changes in modules:
            weights = [_weight(wrapped[change.layer], change) for change in changes]
            for change, gain in zip(changes, gains(weights, changes), strict=True):
                _fill(wrapped[change.layer], change, gain)
    except BaseException:
        detach(pipe)
        raise


def detach(pipe: Any) -> None:
    """Take every PEFT layer out again, also one that lost its content."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for model in _components(pipe).values():
        for name, layer in [*model.named_modules()]:
            if isinstance(layer, BaseTunerLayer):
                model.set_submodule(name, layer.get_base_layer())
        if ADAPTER in (getattr(model, "peft_config", None) or ()):
            del model.peft_config
            model._hf_peft_config_loaded = None  # as diffusers leaves it


def layers(pipe: Any) -> dict[str, Layer]:
    """Every layer that carries our adapter, by component and name, as the contract writes them."""
    found = ((part, name, layer) for part, model in _components(pipe).items() for name, layer in _layers_of(model))
    return {plain_name(f"{part}.{name}"): layer for part, name, layer in found}


def set_scale(pipe: Any, scale: float) -> None:
    """Apply the adapter at a strength; 1 is as it was trained."""
    for layer in layers(pipe).values():
        layer.set_scale(ADAPTER, scale)


def set_enabled(pipe: Any, enabled: bool) -> None:
    """Switch the adapter on, or off as if it had not been loaded."""
    for layer in layers(pipe).values():  # not `enable_adapters`: it asks for gradients, which offloaded weights refuse
        layer.set_adapter([ADAPTER] if enabled else [], inference_mode=True)


# ---- layers


def _components(pipe: Any) -> dict[str, Any]:
    import torch

    return {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


def _layers_of(model: Any) -> Iterator[tuple[str, Layer]]:
    for name, module in model.named_modules():
        if ADAPTER in getattr(module, "lora_A", ()):
            yield name, module


def _wrapped(pipe: Any, names: Iterable[str]) -> dict[str, Layer]:
    """PEFT layers without content around these layers; the pipeline's own names may have more parts than ours."""
    import torch

    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    wanted, parts = set(names), _components(pipe)
    for part in sorted({name.partition(".")[0] for name in wanted} & parts.keys()):
        own: dict[str, list[str]] = {}
        for name, module in parts[part].named_modules():
            if (plain := plain_name(f"{part}.{name}")) in wanted:
                own.setdefault(plain, []).append(name)
                if not isinstance(module, kinds) or getattr(module, "groups", 1) != 1:
                    raise ValueError(f"{plain} is {_kind(module)}, which our loader does not adapt")
        if twice := next((plain for plain, found in own.items() if len(found) > 1), None):
            raise ValueError(f"{twice} may be {' or '.join(own[twice])}")
        _inject(parts[part], [found[0] for found in own.values()])
    wrapped = layers(pipe)
    if missing := sorted(wanted - wrapped.keys()):
        raise ValueError(f"the pipeline has no {missing[0]}")
    return wrapped


def _kind(module: Any) -> str:
    groups = getattr(module, "groups", 1)
    return f"a {type(module).__name__}" + (f" of {groups} groups" if groups != 1 else "")


def _inject(model: Any, names: list[str]) -> None:
    """PEFT compares a pattern with whole names; of a list it would also take every name that ends so."""
    from peft import LoraConfig, inject_adapter_in_model

    pattern = f"(?:{'|'.join(map(re.escape, sorted(names)))})"
    config = LoraConfig(r=1, lora_alpha=1, target_modules=pattern, init_lora_weights=False, inference_mode=True)
    if names:
        inject_adapter_in_model(config, model, adapter_name=ADAPTER, low_cpu_mem_usage=True)
        model._hf_peft_config_loaded = True  # what diffusers asks before it looks for adapters


def _weight(layer: Layer, change: Change) -> Any:
    """The weight that is changed, of the very shape of the change."""
    weight = layer.get_base_layer().weight
    if change.factors.shape != tuple(weight.shape):
        raise ValueError(f"{change.layer} is {_size(weight.shape)}, the file's is {_size(change.factors.shape)}")
    return weight


def _fill(layer: Layer, change: Change, gain: Magnitude | None) -> None:
    """Give a wrapped layer its factors, in the precision and on the device of its weight."""
    base, factors = layer.get_base_layer(), change.factors
    if isinstance(factors, Kronecker):
        rank, down, up = 1, _like(base, factors.two), _linear(base, factors.one)
    else:
        rank, down = factors.down.shape[0], _like(base, factors.down)
        pixel = factors.up.reshape(*factors.up.shape, *(1 for _ in factors.down.shape[2:]))
        up = _linear(base, pixel) if pixel.dim() == 2 else _convolution(base, pixel, {})
    layer.r[ADAPTER], layer.lora_alpha[ADAPTER] = rank, change.scaling * rank
    layer.scaling[ADAPTER] = change.scaling
    layer.lora_A[ADAPTER], layer.lora_B[ADAPTER] = down, up
    if isinstance(factors, Kronecker) or gain is not None:
        layer.lora_variant[ADAPTER] = Variant(factors, gain, base.bias)


def _like(base: Any, weight: Any) -> Any:
    """A layer of the same kind, stride and padding."""
    if weight.dim() == 2:
        return _linear(base, weight)
    same = {name: getattr(base, name) for name in ("stride", "padding", "dilation", "padding_mode")}
    return _convolution(base, weight, same)


def _linear(base: Any, weight: Any) -> Any:
    import torch

    with torch.device("meta"):
        made = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    return _with_weight(made, base, weight)


def _convolution(base: Any, weight: Any, settings: Mapping[str, Any]) -> Any:
    import torch

    kind = {3: torch.nn.Conv1d, 4: torch.nn.Conv2d, 5: torch.nn.Conv3d}[weight.dim()]
    with torch.device("meta"):
        made = kind(weight.shape[1], weight.shape[0], tuple(weight.shape[2:]), bias=False, **settings)
    return _with_weight(made, base, weight)


def _with_weight(made: Any, base: Any, weight: Any) -> Any:
    """A copy, because what was read is the file itself, mapped into memory."""
    import torch

    own = torch.empty(weight.shape, dtype=base.weight.dtype, device=base.weight.device)
    made.weight = torch.nn.Parameter(own.copy_(weight), requires_grad=False)
    return made


def _size(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))
