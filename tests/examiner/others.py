"""Other people's files: embeddings, whole text models, upscalers, classifiers, optimisers, noise.

What has nothing to do with image models must be called unknown. It does not know a base model's table.
"""

from __future__ import annotations

import itertools

from tests.examiner.kinds import Kind, Kinds
from tests.examiner.tables import encoder_parameters
from tests.examiner.tensors import Maker, Shape, Tensors, numbered, typed


def other_kinds() -> Kinds:
    """Name -> file."""
    return itertools.chain(_embeddings(), _text_models(), _unknowns())


def _one(**shapes: Shape) -> Maker:
    return lambda: typed(shapes, "", "F32")


def _embeddings() -> Kinds:
    for name, families, tensors in (
        ("a1111_sd1", ("sd1", "other"), _one(emb_params=(8, 768))),
        ("a1111_sd2", ("sd2", "other"), _one(emb_params=(8, 1024))),
        ("sdxl", ("sdxl", "sd3"), _one(clip_l=(4, 768), clip_g=(4, 1280))),
        ("sd3", ("sd3",), _one(clip_l=(4, 768), clip_g=(4, 1280), t5xxl=(4, 4096))),
        ("flux", ("flux1",), _one(clip_l=(4, 768), t5=(4, 4096))),
        ("diffusers", ("sd1", "other"), _one(**{"<cat-toy>": (768,)})),
        ("diffusers_sd2", ("sd2", "other"), _one(**{"<cat-toy>": (1024,)})),
        ("old", ("sd1", "other"), _one(**{"string_to_param.*": (2, 768)})),
        ("pivotal", ("sdxl", "sd3", "flux1"), _one(text_encoders_0=(2, 768), text_encoders_1=(2, 1280))),
    ):
        yield f"embedding/{name}", Kind(("embedding",), families, tensors)


def _text_models() -> Kinds:
    yield "text_encoder/t5_whole", Kind(("text_encoder",), (), _t5_whole)
    yield "text_encoder/clip_whole", Kind(("text_encoder", "unknown"), (), _clip_whole)
    yield "unknown/clip_vision", Kind(("unknown", "ip_adapter"), (), _clip_vision)


def _unknowns() -> Kinds:
    taesd = _repeated("{}.conv.0.", 12, weight=(64, 64, 3, 3))
    yield "unknown/taesd_decoder", Kind(("vae", "unknown"), (), taesd)
    for name, tensors in (
        ("optimizer", _repeated("state.{}.", 9, exp_avg=(320, 320), exp_avg_sq=(320, 320))),
        ("names_like_lora", _one(lora_history=(10, 4), alpha=(3,))),
        ("resnet", _resnet),
        ("esrgan", _esrgan),
        ("esrgan_old", _old_esrgan),
        ("vit", _vit),
        ("hypernetwork", _hypernetwork),
        ("random", _one(a=(3, 4), b=(7,), weight=(128, 64))),
        ("linear_net", _repeated("layers.{}.", 5, weight=(256, 256), bias=(256,))),
        ("aesthetic", _repeated("layers.{}.", 8, weight=(64, 768), bias=(64,))),
    ):
        yield f"unknown/{name}", Kind(("unknown",), (), tensors)
    yield "unknown/empty", Kind(("unknown", "broken"), (), dict)


def _repeated(template: str, count: int, **shapes: Shape) -> Maker:
    return lambda: numbered(template, count, shapes)


def _t5_whole() -> Tensors:
    table = encoder_parameters("t5")
    decoder = {
        name.replace("encoder.", "decoder."): shape for name, shape in table.items() if name.startswith("encoder.")
    }
    return typed({**table, **decoder, "lm_head.weight": (32128, 4096)})


def _clip_vision() -> Tensors:
    made = numbered(
        "vision_model.encoder.layers.{}.",
        24,
        {
            "self_attn.q_proj.weight": (1024, 1024),
            "self_attn.k_proj.weight": (1024, 1024),
            "mlp.fc1.weight": (4096, 1024),
        },
    )
    made["vision_model.embeddings.patch_embedding.weight"] = ("F16", (1024, 3, 14, 14))
    return made | {"visual_projection.weight": ("F16", (768, 1024))}


def _clip_whole() -> Tensors:
    return {**_clip_vision(), **typed(encoder_parameters("clip_l")), "logit_scale": ("F32", ())}


def _resnet() -> Tensors:
    made = numbered(
        "layer1.{}.", 3, {"conv1.weight": (64, 64, 1, 1), "conv2.weight": (64, 64, 3, 3), "bn1.weight": (64,)}
    )
    return made | {"conv1.weight": ("F32", (64, 3, 7, 7)), "fc.weight": ("F32", (1000, 2048))}


def _esrgan() -> Tensors:
    made = numbered(
        "body.{}.",
        23,
        {
            f"rdb{r}.conv{c}.{w}": (32, 64, 3, 3) if w == "weight" else (32,)
            for r in (1, 2, 3)
            for c in range(1, 6)
            for w in ("weight", "bias")
        },
    )
    return made | {"conv_first.weight": ("F16", (64, 3, 3, 3)), "conv_last.weight": ("F16", (3, 64, 3, 3))}


def _old_esrgan() -> Tensors:
    made = numbered(
        "model.1.sub.{}.", 23, {f"RDB{r}.conv{c}.0.weight": (32, 64, 3, 3) for r in (1, 2, 3) for c in range(1, 6)}
    )
    return made | {"model.0.weight": ("F16", (64, 3, 3, 3)), "model.10.weight": ("F16", (3, 64, 3, 3))}


def _vit() -> Tensors:
    made = numbered(
        "vit.encoder.layer.{}.",
        12,
        {"attention.attention.query.weight": (768, 768), "output.dense.weight": (768, 3072)},
    )
    return made | {"classifier.weight": ("F16", (1000, 768)), "vit.embeddings.cls_token": ("F16", (1, 1, 768))}


def _hypernetwork() -> Tensors:
    return numbered("768.{}.linear.", 2, {"0.weight": (1536, 768), "0.bias": (1536,), "2.weight": (768, 1536)})
