"""A LoRA before a base: which pairs are asked about, and what may be answered, from the tables alone.

It does not know whether a loader can take a fused layer's factors apart, nor how models of one table were trained
apart: there every answer is right.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from tests.examiner.entries import kinds
from tests.examiner.expect import Entry
from tests.examiner.judge import spelled
from tests.examiner.kinds import kind_entry
from tests.examiner.lora import lora_entry
from tests.examiner.loras import WILD
from tests.examiner.models import ALL, MODELS, NAMED, Names, named
from tests.examiner.spellings import main_spelling
from tests.examiner.tables import encoder_modules
from tests.examiner.tiny import TINY

COUSINS = ("ssd1b", "skyreels", "framepack", "ltx", "cogvideox_2b")
BASES = (*NAMED, *TINY, *COUSINS, "sana", "pixart", "cogview4", "mochi", "longcat_image", "kolors")
FOREIGN = (
    "vae/vae_sd/ldm",
    "checkpoint/sd15/all",
    "checkpoint/sdxl/diffusers",
    "controlnet/cn_sd15/diffusers",
    "embedding/sdxl",
    "ip_adapter/sd15",
    "text_encoder/clip_l/folder",
    "unknown/random",
    "lora/llama_peft",
)
FOREIGN_BASES = ("sd15", "sdxl", "flux1_dev", "z_image")
QUANTISED = ("flux1_dev", "sd35_large", "qwen_image", "z_image", "chroma", "wan21_14b")
ANYTHING = frozenset({"yes", "no", "cannot_tell"})


class Pair(NamedTuple):
    """A LoRA before a base folder, and the answers that are right."""

    entry: Entry
    base: str
    allowed: frozenset[str]  # of yes, no, cannot_tell


def binding(entry: Entry, base: str) -> str:
    """whole, missing (some layers are not there), conflict (a layer has another width), nothing."""
    names = spelled(base)
    there, wrong = 0, 0
    for slot in entry.slots:
        if slot.part == "denoiser":
            shapes = names.get(slot.module.replace(".", "_"))
        else:
            key = MODELS[base].encoders.get(slot.part)
            shape = encoder_modules(key).get(slot.module) if key else None
            shapes = {shape} if shape else None
        there += bool(shapes and slot.shape in shapes)
        wrong += bool(shapes and slot.shape not in shapes)
    if wrong:
        return "conflict"
    return "whole" if there == len(entry.slots) else "missing" if there else "nothing"


def allowed(entry: Entry, base: str) -> frozenset[str]:
    """What may be answered: `yes` only where everything binds and the family is the same."""
    bound = binding(entry, base)
    same = MODELS[base].family == MODELS[entry.model].family
    unsure = entry.expect.undecidable or entry.expect.lenient
    cousins = any(MODELS[name].obscure or name == "flux1_lite" for name in (entry.model, base)) and base != entry.model
    fused = entry.layout == "native" and entry.name.endswith(("/loha", "/lokr", "/dora"))
    if bound == "whole" and (cousins or (same and fused)):
        return ANYTHING
    if bound == "whole" and same:
        return frozenset({"yes"} if base == entry.model and not unsure else {"yes", "cannot_tell"})
    if bound == "whole":
        return frozenset({"no", "cannot_tell"} if unsure else {"no"})
    if bound == "missing" and same:
        return frozenset({"no", "cannot_tell"})
    return frozenset({"no"})


def pair_loras(among: Names = ALL) -> Iterator[Entry]:
    """The LoRAs that go before every base: each spelling of each model, a few parts, a few adapters."""
    made = itertools.chain.from_iterable(_loras_of(model, among) for model in named(among))
    yield from (entry for entry in made if entry is not None)
    for model in (*TINY, *COUSINS):
        if model in among:
            for spelling, pick in itertools.product(("diffusers", "peft"), ("attn", "all")):
                yield from filter(None, [lora_entry(model, spelling, pick, among=among)])


def _loras_of(model: str, among: Names) -> Iterator[Entry | None]:
    make = partial(lora_entry, model, among=among)
    for spelling, pick in itertools.product(WILD[MODELS[model].family], ("attn", "all", "first5")):
        yield make(spelling, pick)
    for pick in ("mod", "ends", "kv", "two"):
        yield make(main_spelling(model), pick)
    for adapter in ("loha", "lokr", "dora"):
        yield make("kohya", "attn_mlp", adapter)
    if MODELS[model].te:
        yield make("kohya", "attn_mlp", encoders=tuple(MODELS[model].encoders))
        yield make("kohya", "none", encoders=tuple(MODELS[model].encoders))


def foreign_entries(among: Names = ALL) -> list[Entry]:
    """Files that are no LoRA: nothing but a refusal is right before a base."""
    return [kind_entry(name, kind) for name, kind in kinds(among) if name in FOREIGN]


def quantised_pairs(among: Names = ALL) -> Iterator[Pair]:
    """Own and foreign LoRAs before four-bit bases: the packed shapes are no widths."""
    some = [name for name in QUANTISED if name in among]
    for base, model in itertools.product(some, some):
        entry = lora_entry(model, "diffusers", "all", among=among)
        assert entry
        right = allowed(entry, base)
        yield Pair(entry, base, right | {"cannot_tell"} if "yes" in right else right)


def pairs(every: int = 1, among: Names = ALL) -> Iterator[Pair]:
    """LoRAs times bases; of the plain `no` only one in `every`."""
    num = 0
    for entry, base in itertools.product(pair_loras(among), [name for name in BASES if name in among]):
        right = allowed(entry, base)
        num += right == {"no"}
        if right != {"no"} or num % every == 0:
            yield Pair(entry, base, right)
    for entry, base in itertools.product(foreign_entries(among), [name for name in FOREIGN_BASES if name in among]):
        yield Pair(entry, base, frozenset({"no", "cannot_tell", "None"}))


def rounds(chosen: list[Pair], packed: list[Pair]) -> dict[str, list[Pair]]:
    """How the bases are kept -> pairs: with weights, some in fp16 file names, some as configs alone, some packed."""
    return {"weights": chosen, "fp16": chosen[::10], "configs": chosen[::7], "nf4": packed}
