"""A LoRA of one model in one spelling: its file, and what is to be said of it.

It does not know which LoRAs people make (`loras`), nor what a trainer claims about them (`claims`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tests.examiner.adapters import ADAPTERS, RANKLESS, SHAPELESS
from tests.examiner.expect import Entry, Expect
from tests.examiner.judge import judge
from tests.examiner.models import ALL, Names
from tests.examiner.picks import Slot, denoiser_slots, encoder_slots
from tests.examiner.spellings import SPELLINGS, Spelling, base_key, format_words, layout_of
from tests.examiner.tensors import Tensors


def lora_entry(
    model: str,
    spelling_name: str,
    pick: str,
    adapter: str = "lora",
    *,
    rank: int = 4,
    alpha: float = 2.0,
    alpha_dtype: str = "F32",
    encoders: tuple[str, ...] = (),
    metadata: Mapping[str, str] | None = None,
    label: str = "",
    claimed: bool = False,
    disagrees: bool | None = None,
    among: Names = ALL,
) -> Entry | None:
    """One file, judged among some models; None where the pick takes nothing there. `none` picks encoders alone."""
    spelling = SPELLINGS[spelling_name]
    layout = layout_of(model, spelling)
    slots = () if pick == "none" else denoiser_slots(model, layout, pick)
    if pick != "none" and not slots:
        return None
    slots += encoder_slots(model, encoders)
    judged = _judged(model, slots, spelling, claimed, among, whole=pick != "none" and adapter not in SHAPELESS)
    nameless = pick == "none" and judged["undecidable"]
    expect = Expect(
        kinds=frozenset({"lora"}),
        rank=None if adapter in RANKLESS else frozenset({rank}),
        alpha=None if adapter in RANKLESS else frozenset({alpha} if spelling.alpha else {None, float(rank)}),
        text_encoders=None if nameless else tuple(sorted(encoders)),
        disagrees=disagrees if disagrees is not None else (None if claimed else False),
        formats=format_words(spelling_name, adapter),
        **judged,
    )
    parts = [model, spelling_name, pick, adapter, *(["te"] if encoders else []), label]
    return Entry(
        name="/".join(part for part in parts if part),
        tensors=lambda: lora_tensors(model, spelling, slots, adapter, rank, alpha_dtype if spelling.alpha else ""),
        expect=expect,
        values={".alpha": alpha} if spelling.alpha else {},
        metadata=metadata,
        model=model,
        slots=slots,
        layout=layout,
    )


def _judged(
    model: str, slots: tuple[Slot, ...], spelling: Spelling, claimed: bool, among: Names, whole: bool
) -> dict[str, Any]:
    judged = judge(model, slots, spelling, claimed, among)
    if not whole:  # the file does not give the layers' shapes, or none of the denoiser's
        judged["lenient"] = not judged["undecidable"]
    if model == "sdxl_refiner":
        judged["extra"] = frozenset({"other"})
    return judged


def lora_tensors(
    model: str, spelling: Spelling, slots: Iterable[Slot], adapter: str, rank: int, alpha_dtype: str = ""
) -> Tensors:
    """The tensors of some layers, with a scalar alpha each where it has a type."""
    made: Tensors = {}
    for slot in slots:
        base = base_key(model, spelling, slot)
        made |= ADAPTERS[adapter](base, slot.shape, rank, spelling)
        if alpha_dtype:
            made[base + ".alpha"] = (alpha_dtype, ())
    return made
