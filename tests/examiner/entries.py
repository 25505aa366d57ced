"""The whole corpus of single files, or the part of it that is of some models.

It does not know how a file is written (`write`), nor asked about (`examine`).
"""

from __future__ import annotations

import itertools

from tests.examiner.adapter_folders import told_entries
from tests.examiner.broken import broken_entries, odd_entries
from tests.examiner.checkpoints import checkpoint_kinds
from tests.examiner.claims import claim_loras
from tests.examiner.components import component_kinds
from tests.examiner.expect import Entry
from tests.examiner.image_adapters import image_adapter_kinds
from tests.examiner.kinds import Kinds, kind_entry
from tests.examiner.loras import adapter_loras, alpha_loras, denoiser_loras, encoder_loras, part_loras, word_loras
from tests.examiner.mixtures import mixed_entries
from tests.examiner.models import ALL, Names
from tests.examiner.others import other_kinds
from tests.examiner.strange_loras import strange_lora_kinds
from tests.examiner.tool_names import tool_entries

LORAS = (
    denoiser_loras, part_loras, adapter_loras, encoder_loras, alpha_loras, claim_loras, word_loras,
    tool_entries, mixed_entries, told_entries,
)  # fmt: skip


def entries(among: Names = ALL) -> list[Entry]:
    """Every file, judged among some models; names are unique, the first of a name counts."""
    made: dict[str, Entry] = {}
    loras = itertools.chain.from_iterable(make(among) for make in LORAS)
    files = [kind_entry(name, kind) for name, kind in kinds(among)]
    for entry in itertools.chain(loras, files, odd_entries(among), broken_entries()):
        if entry is not None:
            made.setdefault(entry.name, entry)
    return list(made.values())


def kinds(among: Names = ALL) -> Kinds:
    """Name -> file that is no LoRA of a model's table. Parts belong to no model and are always there."""
    return itertools.chain(
        checkpoint_kinds(among), component_kinds(), image_adapter_kinds(), other_kinds(), strange_lora_kinds()
    )
