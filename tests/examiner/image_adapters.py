"""Files that steer a denoiser by images: ControlNets that no diffusers class makes, IP adapters.

Names and shapes are XLabs', Stability's, kohya's and h94's. It does not know a LoRA.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.examiner.kinds import Kind, Kinds
from tests.examiner.picks import block_number, denoiser_slots
from tests.examiner.tables import modules, parameters
from tests.examiner.tensors import Maker, Shape, Table, Tensors, numbered, typed

IMAGE_PROJ = {"proj.weight": (3072, 1024), "proj.bias": (3072,), "norm.weight": (768,), "norm.bias": (768,)}
IMAGE_PROJ_XL = {"proj.weight": (8192, 1280), "proj.bias": (8192,), "norm.weight": (2048,), "norm.bias": (2048,)}


def image_adapter_kinds() -> Kinds:
    """Name -> file."""
    yield "controlnet/xlabs_flux", Kind(("controlnet",), ("flux1",), _xlabs_controlnet)
    yield "controlnet/control_lora_sdxl", Kind(("controlnet",), ("sdxl",), _control_lora)
    yield "controlnet/lllite_sdxl", Kind(("controlnet",), ("sdxl",), _lllite)
    yield "ip_adapter/sd15", Kind(("ip_adapter",), ("sd1",), _ip_adapter(768, 16, IMAGE_PROJ))
    yield "ip_adapter/sd15_plus", Kind(("ip_adapter",), ("sd1",), _ip_adapter(768, 16, _resampler(768, 768)))
    yield "ip_adapter/sdxl", Kind(("ip_adapter",), ("sdxl",), _ip_adapter(2048, 70, IMAGE_PROJ_XL))
    yield "ip_adapter/sdxl_plus", Kind(("ip_adapter",), ("sdxl",), _ip_adapter(2048, 70, _resampler(1280, 2048)))
    yield "ip_adapter/face_id", Kind(("ip_adapter",), ("sd1",), _face_id)
    yield "ip_adapter/xlabs_flux", Kind(("ip_adapter",), ("flux1",), _xlabs_ip)


def _xlabs_controlnet() -> Tensors:
    table = {
        name: shape
        for name, shape in parameters("flux1_dev", "native").items()
        if not name.startswith(("single", "final"))
    }
    kept = {name: shape for name, shape in table.items() if not name.startswith("double") or block_number(name) < 2}
    made = typed(kept)
    made |= numbered("controlnet_blocks.{}.", 2, {"weight": (3072, 3072), "bias": (3072,)})
    made |= numbered("input_hint_block.{}.", 1, {"weight": (16, 3, 3, 3), "bias": (16,)})
    return made | {"pos_embed_input.weight": ("F16", (3072, 64)), "pos_embed_input.bias": ("F16", (3072,))}


def _control_lora() -> Tensors:
    """Stability's control-LoRA: an LDM encoder half as up and down factors."""
    made: Tensors = {"lora_controlnet": ("F16", ())}
    half = {
        module: shape
        for module, shape in modules("sdxl", "native").items()
        if not module.startswith(("output", "out."))
    }
    for module, shape in half.items():
        made[module + ".down"] = ("F16", (128, *shape[1:]))
        made[module + ".up"] = ("F16", (shape[0], 128, *(1,) * (len(shape) - 2)))
    made |= numbered("zero_convs.{}.0.", 9, {"weight": (320, 320, 1, 1), "bias": (320,)})
    return made | {
        "input_hint_block.0.weight": ("F16", (16, 3, 3, 3)),
        "middle_block_out.0.weight": ("F16", (1280, 1280, 1, 1)),
    }


def _lllite() -> Tensors:
    made: Tensors = {}
    for slot in denoiser_slots("sdxl", "native", "self"):
        base = "lllite_unet_" + slot.module.replace(".", "_")
        made |= {
            base + ".conditioning1.0.weight": ("F16", (32, 3, 4, 4)),
            base + ".down.0.weight": ("F16", (64, slot.shape[1])),
            base + ".mid.0.weight": ("F16", (64, 96)),
            base + ".up.0.weight": ("F16", (slot.shape[0], 64)),
        }
    return made


def _ip_adapter(cross: int, blocks: int, image: Mapping[str, Shape]) -> Maker:
    def made() -> Tensors:
        tensors = typed(image, "image_proj.")
        for num in range(blocks):
            width = (320, 640, 1280)[min(2, num // 4)]
            tensors[f"ip_adapter.{2 * num + 1}.to_k_ip.weight"] = ("F16", (width, cross))
            tensors[f"ip_adapter.{2 * num + 1}.to_v_ip.weight"] = ("F16", (width, cross))
        return tensors

    return made


def _resampler(dim: int, out: int) -> Table:
    made = {
        "latents": (1, 16, dim),
        "proj_in.weight": (dim, 1280),
        "proj_out.weight": (out, dim),
        "norm_out.weight": (out,),
    }
    for num in range(4):
        made |= {
            f"layers.{num}.0.norm1.weight": (dim,),
            f"layers.{num}.0.to_q.weight": (768, dim),
            f"layers.{num}.0.to_kv.weight": (1536, dim),
            f"layers.{num}.0.to_out.weight": (dim, 768),
            f"layers.{num}.1.1.weight": (4 * dim, dim),
            f"layers.{num}.1.3.weight": (dim, 4 * dim),
        }
    return made


def _xlabs_ip() -> Tensors:
    made = numbered(
        "double_blocks.{}.processor.",
        19,
        {
            f"ip_adapter_double_stream_{side}_proj.{what}": (3072, 4096) if what == "weight" else (3072,)
            for side in "kv"
            for what in ("weight", "bias")
        },
    )
    return made | {
        "ip_adapter_proj_model.proj.weight": ("F16", (16384, 768)),
        "ip_adapter_proj_model.norm.weight": ("F16", (4096,)),
    }


def _face_id() -> Tensors:
    made = _ip_adapter(768, 16, {"proj.0.weight": (1024, 512), "proj.2.weight": (3072, 1024), "norm.weight": (768,)})()
    for num in range(32):
        for side in "qkv":
            made[f"ip_adapter.{num}.to_{side}_lora.down.weight"] = ("F16", (128, 320))
            made[f"ip_adapter.{num}.to_{side}_lora.up.weight"] = ("F16", (320, 128))
    return made
