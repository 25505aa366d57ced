"""A LoRA whose keys are written by hand: the answers come from its layers like any other's.

It does not know which such files there are (`tool_names`, `mixtures`, `adapter_folders`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tests.examiner.expect import Entry, Expect
from tests.examiner.judge import judge
from tests.examiner.models import MODELS, Names
from tests.examiner.picks import Slot
from tests.examiner.spellings import Spelling
from tests.examiner.tensors import Maker

RANK_4: frozenset[int | None] = frozenset({4})


def dressed(
    name: str,
    model: str,
    slots: Iterable[Slot],
    tensors: Maker,
    among: Names,
    *,
    spelling: Spelling | None = None,
    judged: Mapping[str, Any] | None = None,
    rank: frozenset[int | None] = RANK_4,
    alpha: frozenset[float | None] | None = None,
    **more: Any,
) -> Entry:
    """An entry without text encoders; `judged` overrules the tables, `more` are fields of the entry."""
    slots = tuple(slots)
    own = MODELS[model].family
    told: dict[str, Any] = {"family": own, "families": frozenset({own})}
    told |= judge(model, slots, spelling, among=among) if slots else {}
    told |= judged or {}
    expect = Expect(kinds=frozenset({"lora"}), rank=rank, alpha=alpha, text_encoders=(), **told)
    return Entry("dressed/" + name, tensors, expect, model=model, slots=slots, **more)
