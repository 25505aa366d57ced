"""Checkpoints: denoisers alone in both layouts, all-in-one files, whole pipelines, shards, quantised ones.

It does not know base folders (`bases`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

from tests.examiner.kinds import Kind, Kinds, encoder, ldm_vae, whole
from tests.examiner.models import ALL, MODELS, Names
from tests.examiner.quantised import nf4, scaled_fp8, svdquant
from tests.examiner.tables import parameters, params
from tests.examiner.tensors import Maker, Table, Tensors, merged, shards, typed

PARTS_THAT_DENOISE = (
    ("svd", "other"),
    ("cascade", "other"),
    ("sd15_inpaint", "sd1"),
    ("sdxl_inpaint", "sdxl"),
    ("pix2pix", "sd1"),
)


def checkpoint_kinds(among: Names = ALL) -> Kinds:
    """Name -> file, of some models."""
    for model in among:
        yield f"checkpoint/{model}/diffusers", _denoiser(model, "diffusers", "")
        if MODELS[model].rules:
            yield f"checkpoint/{model}/native", _denoiser(model, "native", "")
            yield f"checkpoint/{model}/native_prefixed", _denoiser(model, "native", "model.diffusion_model.")
    for key, own in PARTS_THAT_DENOISE:
        yield f"checkpoint/{key}/diffusers", Kind(("checkpoint",), (own,), whole(key))
    rest = itertools.chain(_rare(), _cut_and_quantised(), _stability(), _with_encoders())
    yield from ((name, kind) for name, kind in rest if name.split("/")[1] in among)


def _rare() -> Kinds:
    yield "checkpoint/sd15/ema", _with_ema("sd15")
    yield "checkpoint/sdxl/pruned", _all_in_one("sdxl", "vae_sd")
    yield "checkpoint/sd15/pipeline", Kind(("checkpoint",), ("sd1",), _pipeline("sd15", "vae_sd"))
    yield "checkpoint/flux1_dev/svdquant", Kind(("checkpoint",), ("flux1",), lambda: svdquant(params("flux1_dev")))
    yield "checkpoint/anima/net", _denoiser("anima", "native", "net.")


def _cut_and_quantised() -> Kinds:
    for model in ("flux1_dev", "sd35_large", "wan21_14b", "flux2_dev", "qwen_image"):
        yield f"checkpoint/{model}/shard", _denoiser(model, "diffusers", "")._replace(tensors=_shard_of(model, 1))
        fp8 = _denoiser(model, "native", "", "F8_E4M3")
        yield f"checkpoint/{model}/fp8", fp8
        yield f"checkpoint/{model}/fp8_scaled", fp8._replace(tensors=_packed(scaled_fp8, model))
    packed = _packed(partial(nf4, num_state=130), "flux1_dev")
    yield "checkpoint/flux1_dev/nf4", _denoiser("flux1_dev", "native", "")._replace(tensors=packed)


def _stability() -> Kinds:
    yield "checkpoint/sd15/all", _all_in_one("sd15", "vae_sd", encoder("clip_l", "cond_stage_model.transformer."))
    yield "checkpoint/sd21/all", _all_in_one("sd21", "vae_sd", encoder("clip_h", "cond_stage_model.model.", True))
    xl = (
        encoder("clip_l", "conditioner.embedders.0.transformer."),
        encoder("clip_g", "conditioner.embedders.1.model.", True),
    )
    yield "checkpoint/sdxl/all", _all_in_one("sdxl", "vae_sd", *xl)
    refiner = encoder("clip_g", "conditioner.embedders.0.model.", True)
    yield "checkpoint/sdxl_refiner/all", _all_in_one("sdxl_refiner", "vae_sd", refiner)


def _with_encoders() -> Kinds:
    """The files ComfyUI packs: text encoders under `text_encoders.`."""
    sd3 = [
        encoder(key, f"text_encoders.{name}.transformer.")
        for key, name in (("clip_l_proj", "clip_l"), ("clip_g", "clip_g"), ("t5", "t5xxl"))
    ]
    for model in ("sd3_medium", "sd35_medium", "sd35_large"):
        yield f"checkpoint/{model}/all", _all_in_one(model, "vae_flux", *sd3)
        yield f"checkpoint/{model}/no_te", _all_in_one(model, "vae_flux")
    flux = (encoder("clip_l", "text_encoders.clip_l.transformer."), encoder("t5", "text_encoders.t5xxl.transformer."))
    for model in ("flux1_dev", "flux1_schnell"):
        yield f"checkpoint/{model}/all", _all_in_one(model, "vae_flux", *flux, vae_prefix="vae.")
    lumina = encoder("gemma2_2b", "text_encoders.gemma2_2b.transformer.model.")
    yield "checkpoint/lumina2/all", _all_in_one("lumina2", "vae_flux", lumina, vae_prefix="vae.")


def _denoiser(model: str, layout: str, prefix: str, dtype: str = "BF16") -> Kind:
    own = MODELS[model]
    cosmos = model == "anima" and layout == "diffusers"  # Cosmos-Predict2 2B is the same table
    twin = ("other",) if cosmos or model == "sdxl_refiner" else ()
    families = () if own.obscure else (own.family, *twin)
    return Kind(("checkpoint",), families, lambda: typed(parameters(model, layout), prefix, dtype))


def _all_in_one(model: str, vae: str, *encoders: Maker, vae_prefix: str = "first_stage_model.") -> Kind:
    denoiser = _denoiser(model, "native", "model.diffusion_model.", "F16")
    return denoiser._replace(tensors=merged(denoiser.tensors, lambda: typed(ldm_vae(vae), vae_prefix), *encoders))


def _with_ema(model: str) -> Kind:
    plain = _all_in_one(model, "vae_sd", encoder("clip_l", "cond_stage_model.transformer."))

    def ema() -> Tensors:
        names = parameters(model, "native")
        return typed({f"model_ema.diffusion_model{name.replace('.', '')}": shape for name, shape in names.items()})

    return plain._replace(tensors=merged(plain.tensors, ema))


def _pipeline(model: str, vae: str) -> Maker:
    """A whole diffusers pipeline in one file, its components as prefixes."""
    return merged(
        lambda: typed(params(model), MODELS[model].part + "."),
        lambda: typed(params(vae), "vae."),
        *(encoder(key, component + ".") for component, key in MODELS[model].encoders.items()),
    )


def _shard_of(model: str, num: int) -> Maker:
    return lambda: typed(shards(params(model), "BF16")[num], "", "BF16")


def _packed(pack: Callable[[Table], Tensors], model: str) -> Maker:
    return lambda: pack(parameters(model, "native"))
