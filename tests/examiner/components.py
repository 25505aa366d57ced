"""VAEs, text encoders, ControlNets, T2I and motion adapters, in each layout they are published in.

It does not know which base model they are used with, but for the families that a VAE or ControlNet serves.
"""

from __future__ import annotations

import itertools

from tests.examiner.kinds import Kind, Kinds, encoder, ldm_vae, whole
from tests.examiner.ldm import WAN_VAE, ldm_controlnet_names, ldm_name
from tests.examiner.parts import ENCODERS
from tests.examiner.tables import built, encoder_parameters, params
from tests.examiner.tensors import Maker, Tensors, typed

VAE_4 = ("sd1", "sd2", "sdxl", "auraflow", "other")
VAE_16 = ("flux1", "sd3", "chroma", "lumina2", "z-image", "other")
VAE_VIDEO = ("wan", "qwen-image", "anima", "other")
CONTROLNETS = {
    "cn_sd15": "sd1",
    "cn_sd21": "sd2",
    "cn_sdxl": "sdxl",
    "cn_flux": "flux1",
    "cn_flux_union": "flux1",
    "cn_sd3": "sd3",
    "cn_qwen": "qwen-image",
    "cn_sdxl_union": "sdxl",
    "cn_sdxl_small": "sdxl",
    "cn_flux_pro": "flux1",
    "cn_zimage": "z-image",
    "cn_sparse": "sd1",
}


def component_kinds() -> Kinds:
    """Name -> file."""
    return itertools.chain(_vaes(), _encoders(), _controlnets())


def _vae(families: tuple[str, ...], tensors: Maker) -> Kind:
    return Kind(("vae",), families, tensors)


def _ldm_vae(key: str, prefix: str = "") -> Maker:
    return lambda: typed(ldm_vae(key), prefix)


def _decoder() -> Tensors:
    return {name: tensor for name, tensor in typed(ldm_vae("vae_sd")).items() if "encoder" not in name}


def _vaes() -> Kinds:
    for key, families in (("vae_sd", VAE_4), ("vae_flux", VAE_16), ("vae_flux2", ("flux2", "other"))):
        yield f"vae/{key}/diffusers", _vae(families, whole(key))
        yield f"vae/{key}/ldm", _vae(families, _ldm_vae(key))
    yield "vae/vae_sd/first_stage", _vae(VAE_4, _ldm_vae("vae_sd", "first_stage_model."))
    for key in ("vae_ltx", "vae_cosmos", "vae_cogvideox", "vae_mochi"):
        yield f"vae/{key}/diffusers", _vae(("other", "anima"), whole(key))
    yield "vae/vae_wan22/diffusers", _vae(("wan", "other"), whole("vae_wan22"))
    yield "vae/vae_flux/prefixed", _vae(VAE_16, _ldm_vae("vae_flux", "vae."))
    yield "vae/vae_sd/decoder", _vae(VAE_4, _decoder)
    for key in ("vae_wan", "vae_qwen"):
        yield f"vae/{key}/diffusers", _vae(VAE_VIDEO, whole(key))
        yield f"vae/{key}/native", _vae(VAE_VIDEO, whole(key, WAN_VAE))
    yield "vae/vae_hunyuan/diffusers", _vae(("hunyuanvideo", "other"), whole("vae_hunyuan"))
    yield "vae/vae_dc/diffusers", _vae(("other",), whole("vae_dc"))
    yield "vae/vae_tiny/diffusers", _vae((*VAE_4, *VAE_16, "flux2"), whole("vae_tiny"))


def _text_encoder(tensors: Maker) -> Kind:
    return Kind(("text_encoder",), (), tensors)


def _encoders() -> Kinds:
    for key in ENCODERS:
        yield f"text_encoder/{key}/folder", _text_encoder(encoder(key, ""))
        yield f"text_encoder/{key}/prefixed", _text_encoder(encoder(key, f"text_encoders.{key}.transformer."))
    yield "text_encoder/clip_g/open_clip", _text_encoder(encoder("clip_g", "", True))
    yield "text_encoder/clip_h/open_clip", _text_encoder(encoder("clip_h", "", True))
    yield "text_encoder/t5/fp8", _text_encoder(lambda: typed(encoder_parameters("t5"), "", "F8_E4M3"))


def _ldm_controlnet(key: str, prefix: str = "") -> Maker:
    def made() -> Tensors:
        prefixes = ldm_controlnet_names(built(key)["config"])
        return typed({ldm_name(prefixes, name): shape for name, shape in params(key).items()}, prefix)

    return made


def _controlnets() -> Kinds:
    for key, family in CONTROLNETS.items():
        yield f"controlnet/{key}/diffusers", Kind(("controlnet",), (family,), whole(key))
    for key in ("cn_sd15", "cn_sd21"):
        own = (CONTROLNETS[key],)
        yield f"controlnet/{key}/ldm", Kind(("controlnet",), own, _ldm_controlnet(key, "control_model."))
        yield f"controlnet/{key}/ldm_bare", Kind(("controlnet",), own, _ldm_controlnet(key))
    yield "t2i_adapter/sd15", Kind(("unknown", "controlnet"), (), whole("t2i_adapter"))
    yield "t2i_adapter/sdxl", Kind(("unknown", "controlnet"), (), whole("t2i_adapter_xl"))
    yield "motion/diffusers", Kind(("unknown",), (), whole("motion"))
