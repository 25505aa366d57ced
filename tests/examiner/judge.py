"""What a careful person would say of a file's family, worked out from the tables alone.

A file is held against every model it might be of. It never reads `runner.contract`, nor a file's metadata: that a
family is claimed is told to it. It does not know which of two models with one table a file was made from: such a
file is undecidable, and the right answer to it is not to name one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

from tests.examiner.models import ALL, MODELS, Names
from tests.examiner.picks import Slot
from tests.examiner.spellings import Spelling, te_prefixes
from tests.examiner.tables import encoder_modules, modules
from tests.examiner.tensors import Shape

LAYOUTS = ("diffusers", "native")
_LAYER_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@cache
def spelled(name: str) -> dict[str, set[Shape]]:
    """Every layer of a model under every layout, dots and underscores alike -> the shapes it may have."""
    table: dict[str, set[Shape]] = {}
    for layout in LAYOUTS:
        for module, shape in modules(name, layout).items():
            table.setdefault(module.replace(".", "_"), set()).add(shape)
    return table


@cache
def _kinds_of_layer(name: str) -> Counter[str]:
    return Counter(layout + _LAYER_NUMBER.sub("#", module) for layout in LAYOUTS for module in modules(name, layout))


def _whole(name: str, inside: Iterable[Slot]) -> bool:
    """Does the file take all of the model's layers of the kinds it takes."""
    counts = Counter(_LAYER_NUMBER.sub("#", slot.module) for slot in inside)
    known = _kinds_of_layer(name)
    return all(num in (known["diffusers" + key], known["native" + key]) for key, num in counts.items())


@cache
def _denoisers(inside: tuple[Slot, ...], among: Names) -> dict[str, bool]:
    """The models that have every layer, by name and shape -> whole."""
    layers = [(slot.module.replace(".", "_"), slot.shape) for slot in inside]
    holding = (name for name in among if all(shape in spelled(name).get(layer, ()) for layer, shape in layers))
    return {name: _whole(name, inside) for name in holding}


def _encoder_fits(name: str, slot: Slot, prefix: str | None, spelling: Spelling | None) -> bool:
    prefixes = te_prefixes(name, spelling)
    for component, key in MODELS[name].encoders.items():
        same = prefixes.get(component) == prefix if prefix else component == slot.part
        if same and encoder_modules(key).get(slot.module) == slot.shape:
            return True
    return False


def fits(model: str, slots: Iterable[Slot], spelling: Spelling | None, among: Names = ALL) -> dict[str, bool]:
    """Which models have every layer of the file -> does it take all their layers of those kinds."""
    slots = tuple(slots)
    outside = [slot for slot in slots if slot.part != "denoiser"]
    prefixes = te_prefixes(model, spelling)
    found = _denoisers(tuple(slot for slot in slots if slot.part == "denoiser"), among)
    return {
        name: whole
        for name, whole in found.items()
        if all(_encoder_fits(name, slot, prefixes.get(slot.part), spelling) for slot in outside)
    }


def judge(
    model: str,
    slots: Iterable[Slot],
    spelling: Spelling | None,
    claimed: bool = False,
    among: Names = ALL,
) -> dict[str, Any]:
    """The family part of an Expect."""
    found = fits(model, slots, spelling, among)
    own, obscure = MODELS[model].family, MODELS[model].obscure
    families = frozenset(MODELS[name].family for name in found) | {own}
    known_rivals = {name for name in found if MODELS[name].family != own and not MODELS[name].obscure}
    mine_whole = any(found[name] for name in found if MODELS[name].family == own)
    rival_whole = any(found[name] for name in known_rivals)
    undecidable = bool(known_rivals) and (rival_whole or not mine_whole)
    return {
        "family": own,
        "families": families,
        "undecidable": undecidable and not claimed and not obscure,
        "lenient": obscure or (claimed and undecidable),
        "extra": families | {"other"} if obscure else frozenset(),
    }
