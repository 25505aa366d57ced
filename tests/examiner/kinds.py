"""Files that are no LoRA of a model's table: a kind, the families that are right, and how their tensors are made.

It does not know which such files there are (`checkpoints`, `components`, `image_adapters`, `others`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.examiner.expect import Entry, Expect
from tests.examiner.ldm import LDM_VAE, OPEN_CLIP, chain
from tests.examiner.renamings import Rules
from tests.examiner.tables import encoder_parameters, params
from tests.examiner.tensors import Maker, Table, fold, typed


class Kind(NamedTuple):
    """One file that is no LoRA of a model's table: kinds that are right, the families that are (none: not asked)."""

    kinds: tuple[str, ...]
    families: tuple[str, ...]
    tensors: Maker


Kinds = Iterator[tuple[str, Kind]]


def kind_entry(name: str, kind: Kind) -> Entry:
    """The file as an entry; only what denoises or steers must name its family."""
    families = kind.families
    expect = Expect(
        kinds=frozenset(kind.kinds),
        family=families[0] if families else None,
        families=frozenset(families),
        extra=frozenset(families),
        lenient=bool(families) and kind.kinds[0] not in ("checkpoint", "controlnet", "ip_adapter"),
    )
    return Entry("kind/" + name, kind.tensors, expect)


def ldm_vae(key: str) -> Table:
    """A VAE under CompVis's names, where attention is a 1x1 convolution."""
    table = fold(params(key), chain(LDM_VAE))
    return {name: (*shape, 1, 1) if ".attn_1." in name and len(shape) == 2 else shape for name, shape in table.items()}


def encoder(key: str, prefix: str, open_clip: bool = False) -> Maker:
    """A text encoder's file, or its part of one."""
    return lambda: typed(_open_clip(key) if open_clip else encoder_parameters(key), prefix)


def _open_clip(key: str) -> Table:
    return {**fold(encoder_parameters(key), chain(OPEN_CLIP)), "logit_scale": ()}


def whole(key: str, rules: Rules | None = None, prefix: str = "") -> Maker:
    """All parameters of a part, renamed and prefixed."""
    return lambda: typed(fold(params(key), chain(rules)) if rules else params(key), prefix)
