"""How strong PEFT and diffusers would apply a file: alpha, rank and their patterns, for each component.

From `adapter_config.json`, or diffusers' `lora_adapter_metadata`. It refuses (Broken) what would leave the strength
unknown: a number that is none, a pattern that is not read. What it does not know: alphas in the tensors.
Source: peft 0.21, LoraConfig, LoHaConfig, LoKrConfig, utils/other.py (get_pattern_key).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from runner.contract.headers import Broken
from runner.contract.shown import shown

DEFAULT_ALPHA = 8.0  # of LoraConfig, LoHaConfig and LoKrConfig
ALPHA_KEYS = {"LORA": "lora_alpha", "LOHA": "alpha", "LOKR": "alpha"}
COMPONENTS = frozenset({"unet", "transformer", "transformer_2", "text_encoder", "text_encoder_2", "text_encoder_3"})
DENOISERS = ("transformer", "unet")
PATTERN = re.compile(r"\^?(?:\w|\\\.|\.\*?)+\$?")  # every choice begins with another character: read in one pass
MAX_GLOBS = 64  # patterns with `.*`; the others are looked up, not tried
UNKNOWN = "how strong it was trained could not be known"


@dataclass(frozen=True, slots=True)
class Settings:
    """What PEFT is told of one component; None where it is told nothing."""

    alpha: float | None = None
    rank: float | None = None
    rslora: bool = False
    names: Mapping[str, tuple[int, float]] = field(default_factory=dict)  # end of a name -> place among all, alpha
    globs: tuple[tuple[int, re.Pattern[str], float], ...] = ()
    has_ranks: bool = False  # of single modules, by pattern

    def alpha_of(self, name: str) -> float | None:
        """The alpha of a module: that of the first pattern that its name fits, with or without its component."""
        component, _, inner = name.partition(".")
        found = [*self._matches(inner), *self._matches(name)] if component in COMPONENTS else self._matches(name)
        return min(found)[1] if found else self.alpha

    def _matches(self, name: str) -> list[tuple[int, float]]:
        starts = [0, *(dot.end() for dot in re.finditer(r"\.", name))] if self.names else []
        found = [self.names[name[start:]] for start in starts if name[start:] in self.names]
        whole = self.names.get(f"^{name}")
        globs = [(place, alpha) for place, glob, alpha in self.globs if glob.match(name)]
        return [*found, *([whole] if whole else []), *globs]

    @property
    def says_alpha(self) -> bool:
        return self.alpha is not None or bool(self.names or self.globs)


def bare(owner: str) -> str:
    """The name of a module as PEFT knows it."""
    return owner.removeprefix("base_model.model.")


def settings_of(components: Mapping[str, Settings], owner: str) -> Settings:
    """Those of a module's component, by its name in the file; without one, the only component's or the denoiser's."""
    component = bare(owner).partition(".")[0]
    if "" in components:  # an adapter_config.json is for all
        return components[""]
    if component in components or component in COMPONENTS:
        return components.get(component, Settings())
    if len(components) == 1:
        return next(iter(components.values()))
    return next((components[name] for name in DENOISERS if name in components), Settings())


def of_config(config: Mapping[str, Any]) -> Settings:
    """Of an `adapter_config.json`, which without an alpha means PEFT's default. Raises Broken."""
    kind = config.get("peft_type")
    alpha_key = ALPHA_KEYS.get(kind.upper() if isinstance(kind, str) else "LORA", "")
    default = DEFAULT_ALPHA if alpha_key else None
    return _settings(config, "an adapter_config.json beside it whose ", alpha_key, default)


def of_metadata(components: Mapping[str, Mapping[str, Any]]) -> dict[str, Settings]:
    """Of diffusers' table, by component. Raises Broken."""
    where = "lora_adapter_metadata whose "
    return {
        name: _settings(table, f"{where}{shown(name, 40)}.", "lora_alpha", None) for name, table in components.items()
    }


def _settings(table: Mapping[str, Any], where: str, alpha_key: str, default: float | None) -> Settings:
    alpha = _number(table.get(alpha_key), f"{where}{alpha_key}")
    ranks = _numbers(table.get("rank_pattern"), f"{where}rank_pattern")
    alphas = _numbers(table.get("alpha_pattern"), f"{where}alpha_pattern")
    names, globs = _patterns(alphas, f"{where}alpha_pattern")
    return Settings(
        default if alpha is None else alpha, _number(table.get("r"), f"{where}r"),
        _bool(table.get("use_rslora"), f"{where}use_rslora"), names, globs, bool(ranks),
    )  # fmt: skip


def _number(value: object, where: str) -> float | None:
    if value is None:
        return None
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    except OverflowError:
        number = None
    if number is None or not isfinite(number):
        raise Broken(f"has {where} is {_said(value)}, which is no finite number: {UNKNOWN}")
    return number


def _bool(value: object, where: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise Broken(f"has {where} is {_said(value)}, neither true nor false: {UNKNOWN}")
    return bool(value)


def _said(value: object) -> str:
    """A list or table may be nested too deep to be written out."""
    return shown(repr(value), 40) if isinstance(value, str | int | float) else f"a {type(value).__name__}"


def _numbers(table: object, where: str) -> dict[str, float]:
    if table is None:
        return {}
    if not isinstance(table, dict):
        raise Broken(f"has {where} is no table: {UNKNOWN}")
    found = {str(key): _number(value, f"{where} of {shown(str(key), 80)}") for key, value in table.items()}
    return {key: value for key, value in found.items() if value is not None}


def _patterns(
    alphas: Mapping[str, float], where: str
) -> tuple[dict[str, tuple[int, float]], tuple[tuple[int, re.Pattern[str], float], ...]]:
    """Patterns that are names, and those that hold `.*`; a dot in a name is a dot. The first that fits counts."""
    names: dict[str, tuple[int, float]] = {}
    globs = []
    for place, (key, alpha) in enumerate(alphas.items()):
        if not PATTERN.fullmatch(key):
            raise Broken(f"has {where} has a pattern that is not read ({shown(key, 80)}): {UNKNOWN}")
        if ".*" in key.replace("\\.", ""):
            globs.append((place, _glob(key), alpha))
        else:
            names.setdefault(key.removesuffix("$").replace("\\.", "."), (place, alpha))
    if len(globs) > MAX_GLOBS:
        raise Broken(f"has {where} has {len(globs)} patterns with .*, and {MAX_GLOBS} are read: {UNKNOWN}")
    return names, tuple(globs)


def _glob(key: str) -> re.Pattern[str]:
    """PEFT's `(.*\\.)?(key)$` without its backtracking: each piece stays where it fits first."""
    first, *pieces, last = re.split(r"(?<!\\)\.\*", key.removeprefix("^").removesuffix("$"))
    before = "" if key.startswith("^") else r"(?:.*?\.)??"
    middle = "".join(f"(?>.*?{piece})" for piece in pieces)
    return re.compile(f"(?>{before}{first}){middle}.*{last}$")
