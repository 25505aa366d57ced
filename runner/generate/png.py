"""Float images -> PNG bytes that carry what made them.

Two text chunks: `parameters` in the form that image viewers and web UIs of this field read, and `runner`,
canonical JSON. The bytes depend on pixels and provenance alone.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from runner import store


def pixels(array: Any) -> Any:
    """Floats 0 to 1, shape (height, width, 3) -> unsigned bytes, as diffusers rounds them."""
    return (array * 255).round().clip(0, 255).astype("uint8")


def encode_png(image: Any, provenance: Mapping[str, Any]) -> bytes:
    """Encode bytes of shape (height, width, 3)."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", _parameters(provenance))
    info.add_text("runner", store.canonical(dict(provenance)).decode())
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png", pnginfo=info)
    return buffer.getvalue()


def _parameters(provenance: Mapping[str, Any]) -> str:
    lines = [provenance["prompt"]]
    if provenance["negative_prompt"]:
        lines.append(f"Negative prompt: {provenance['negative_prompt']}")
    facts = {
        "Steps": provenance["steps"],
        "Sampler": provenance["scheduler"] or "default",
        "CFG scale": provenance["guidance_scale"],
        "Seed": provenance["seed"],
        "Size": f"{provenance['width']}x{provenance['height']}",
        "Model": provenance["base_model"],
    }
    if provenance["lora"]:
        facts["Lora"] = f"{provenance['lora']['id']}: {provenance['lora']['scale']:g}"
    lines.append(", ".join(f"{name}: {value}" for name, value in facts.items()))
    return "\n".join(lines)
