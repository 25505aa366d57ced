"""One file of the corpus: how to write it, and what a careful person would say of it.

It does not know how the answer was worked out (`judge`), nor how an answer is marked (`marks`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.examiner.picks import Slot
from tests.examiner.tensors import Maker


@dataclass(frozen=True)
class Expect:
    """What a careful person would answer. `None` in a field: not asked."""

    kinds: frozenset[str]
    family: str | None = None
    families: frozenset[str] = frozenset()  # every family whose table the file fits
    undecidable: bool = False  # the right family is null
    lenient: bool = False  # null is as right as the family
    rank: frozenset[int | None] | None = None
    alpha: frozenset[float | None] | None = None
    text_encoders: tuple[str, ...] | None = None
    disagrees: bool | None = None  # must a claim of the metadata be contradicted
    extra: frozenset[str] = frozenset()  # further names that are right
    trigger: str | None = None  # the metadata's own word
    formats: tuple[str, ...] = ()  # words of which the format's name should have one


@dataclass(frozen=True)
class Entry:
    """One file: how to write it, and what is to be said of it."""

    name: str
    tensors: Maker
    expect: Expect
    values: Mapping[str, float] = field(default_factory=dict)  # suffix of a name -> the scalar to write
    metadata: Mapping[str, str] | None = None
    model: str = ""
    slots: tuple[Slot, ...] = ()
    layout: str = ""
    as_folder: bool = False  # inspect the folder, not the file in it
    adapter_config: Mapping[str, Any] | None = None  # a PEFT folder: adapter_model.safetensors + adapter_config.json
    damage: Callable[[bytes], bytes] | None = None
