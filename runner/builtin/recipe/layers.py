"""Make `runner/contract/layers.json` from the real class definitions: python -m runner.builtin.recipe.layers

Each published model is built from its public config on torch's meta device (no memory, no download); every
weight of two or more dimensions is written down under its block pattern.
"""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Iterator
from typing import Any

from runner import builtin
from runner.builtin.recipe.originals import natives
from runner.builtin.recipe.published import DENOISERS, TEXT_ENCODERS, TWINS, WAN_AGAIN
from runner.contract.layers import TABLE, split_name


def main() -> None:
    warnings.filterwarnings("ignore")
    found = [*_denoisers(), *_others(), *_text_encoders()]
    import diffusers
    import transformers

    made_with = {"diffusers": diffusers.__version__, "transformers": transformers.__version__}
    defaults = {name: _defaults(name) for name in sorted({entry[2] for entry in DENOISERS})}
    raw = {"made_with": made_with, "defaults": defaults, "layouts": found, "natives": natives()}
    TABLE.write_text(json.dumps(raw, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{TABLE}: {len(found)} models, {TABLE.stat().st_size // 1024} KiB")


def _denoisers() -> Iterator[dict[str, Any]]:
    for family, model, class_name, config, originals in DENOISERS:
        yield _layout(family, model, class_name, _shipped_config() if family == "shapes" else config, originals)


def _shipped_config(component: str = "unet") -> dict[str, Any]:
    config = json.loads((builtin.package_dir() / "shapes" / component / "config.json").read_bytes())
    return {name: value for name, value in config.items() if not name.startswith("_")}


def _others() -> Iterator[dict[str, Any]]:
    import diffusers

    known = {entry[2] for entry in DENOISERS} | WAN_AGAIN
    for name in sorted(dir(diffusers)):
        if ("Transformer" in name or "DiT" in name) and name.endswith("DModel") and name not in known:
            try:
                yield _layout("other", name.removesuffix("Model"), name, {}, "none")
            except (TypeError, ValueError, AttributeError) as error:  # its defaults describe no model
                print(f"{name}: left out ({error})")


def _layout(family: str, model: str, class_name: str, config: dict[str, Any], originals: str) -> dict[str, Any]:
    import diffusers
    import torch

    class_ = getattr(diffusers, class_name)
    with torch.device("meta"):
        layers = _layers(class_(**config))
        if model == "Anima":  # its text conditioner is a component of its own, and `llm_adapter` in LoRA files
            adapter = _layers(diffusers.AnimaTextConditioner())
            layers |= {f"llm_adapter.{pattern}": groups for pattern, groups in adapter.items()}
    part = "unet" if class_name.startswith("UNet") else "transformer"
    decisive = {
        **_defaults(class_name),
        **{name: value for name, value in config.items() if name in _defaults(class_name)},
    }
    return {
        "model": model, "family": family, "part": part, "class_name": class_name, "config": decisive, "uses": {},
        "twin": model in TWINS, "natives": originals, "layers": layers,
    }  # fmt: skip


def _defaults(class_name: str) -> dict[str, Any]:
    """The settings of a class as it sets them when a config leaves them out; those that JSON can hold."""
    import diffusers

    signature = inspect.signature(getattr(diffusers, class_name).__init__)
    plain = (bool, int, float, str, tuple, list, type(None))
    return {
        n: p.default for n, p in sorted(signature.parameters.items()) if isinstance(p.default, plain) and n != "self"
    }


def _text_encoders() -> Iterator[dict[str, Any]]:
    import torch
    import transformers

    kept = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "projection_dim",
    )
    shipped = {name: value for name, value in _shipped_config("text_encoder").items() if name in kept}
    ours = ("shapes", "CLIPTextModel", "CLIPTextConfig", shipped, {"shapes": "text_encoder"})
    for model, class_name, config_name, config, uses in (*TEXT_ENCODERS, ours):
        with torch.device("meta"):
            layers = _layers(getattr(transformers, class_name)(getattr(transformers, config_name)(**config)))
        yield {
            "model": model, "family": "", "part": "text", "class_name": class_name, "config": config, "uses": uses,
            "twin": False, "natives": "none", "layers": layers,
        }  # fmt: skip


def _layers(model: Any) -> dict[str, list[Any]]:
    """Pattern -> [[shape, block numbers], ...]."""
    found: dict[str, dict[tuple[int, ...], list[tuple[int, ...]]]] = {}
    for name, weight in model.named_parameters():
        if name.endswith(".weight") and weight.ndim >= 2:
            owner = name.removesuffix(".weight").removeprefix("text_model.")
            pattern, index = _dotted(owner)
            found.setdefault(pattern, {}).setdefault(tuple(weight.shape), []).append(index)
    return {pattern: [[list(shape), _ranges(at)] for shape, at in groups.items()] for pattern, groups in found.items()}


def _dotted(name: str) -> tuple[str, tuple[int, ...]]:
    """Like `split_name`, with the dots kept."""
    key, index = split_name(name)
    pattern, numbers = "", iter(index)
    parts, position = name.split("."), 0
    for part in parts:
        piece = "#" if key[position : position + 1] == "#" else part
        position += len(piece) + 1
        pattern += f".{piece}" if pattern else piece
        if piece == "#":
            assert int(part) == next(numbers)
    return pattern, index


def _ranges(at: list[tuple[int, ...]]) -> list[Any]:
    if at == [()]:
        return []
    if len(at[0]) == 1:
        numbers = sorted(index[0] for index in at)
        if numbers == list(range(numbers[0], numbers[-1] + 1)):
            return [numbers[0], numbers[-1]]
    return [list(index) for index in sorted(at)]


if __name__ == "__main__":
    main()
