"""What a file is: kind, family, naming, rank and alpha, from the tensor table first and the metadata second.

A LoRA's family is answered by `identity`; this room puts its answer together with what the file's own modules and
metadata say, and names what speaks against the file. What it does not know: bases; that is `binding`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import sqrt
from pathlib import Path
from typing import Any

from runner.contract import file_kind
from runner.contract.adapters import Module, find_part, pair
from runner.contract.headers import Broken, Header, read_header, read_scalars
from runner.contract.identity import Family, family_of_weights, identify, text_encoders
from runner.contract.metadata import Claims, read_claims
from runner.contract.naming import Located, format_of, locate

ADAPTER_CONFIG = "adapter_config.json"
MAX_CONFIG_BYTES = 1_000_000
ADAPTER_FILES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")


@dataclass(frozen=True, slots=True)
class LoraFile:
    """What a file is. `modules` by the name they have in the file."""

    kind: str
    family: str | None
    families: tuple[str, ...]
    models: tuple[str, ...]
    format: str
    algorithm: str
    modules: Mapping[str, Module]
    num_tensors: int
    rank: int | None
    alpha: float | None
    scaling: float | None  # alpha / rank as a loader must apply it, where it is one number
    text_encoders: tuple[str, ...]
    claims: Claims
    evidence: tuple[str, ...]
    flags: tuple[str, ...]  # what speaks against the file: disagreements, halves that are lost
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)
    located: tuple[Located, ...] = field(default=(), repr=False)
    path: Path = Path()
    config: Path | None = None  # the adapter_config.json that says its alpha

    @property
    def trigger(self) -> str | None:
        return self.claims.trigger

    @property
    def claimed_family(self) -> str | None:
        return self.claims.family

    def ranks(self) -> dict[int, int]:
        """Rank -> number of modules that have it."""
        return dict(Counter(module.rank for module in self.modules.values() if module.rank))


def inspect_lora(path: Path) -> LoraFile:
    """Say what a .safetensors file, or a PEFT folder, is. Raises headers.Broken when it is no sound file."""
    file = _weights_of(path) if path.is_dir() else path
    config = _config_of(file)
    header = read_header(file)
    claims = read_claims(header.metadata, _read_config(config))
    modules, rest = pair(header.tensors)
    kind = file_kind.kind_of(header, modules, rest)
    modules = _with_alphas(file, header, modules) if kind == "lora" else {}
    located = tuple(locate(owner, module) for owner, module in modules.items())
    found = identify(located, claims) if kind == "lora" else family_of_weights(kind, header, claims)
    return replace(_described(file, header, kind, claims, modules, located, found), config=config)


def _described(
    file: Path,
    header: Header,
    kind: str,
    claims: Claims,
    modules: Mapping[str, Module],
    located: tuple[Located, ...],
    found: Family,
) -> LoraFile:
    ranks = {module.rank for module in modules.values() if module.algorithm != "diff"}
    said = f"metadata says {claims.family} ({claims.source})" if claims.family else "metadata makes no family claim"
    flags = tuple(_flags(found, claims, modules, header))
    return LoraFile(
        kind=kind,
        family=found.family,
        families=found.families,
        models=found.models,
        format=format_of(modules.items()) if modules else "unknown",
        algorithm=_algorithm(modules),
        modules=modules,
        num_tensors=len(header.tensors),
        rank=next(iter(ranks)) if len(ranks) == 1 else None,
        alpha=_alpha(modules, claims),
        scaling=_scaling(modules, claims),
        text_encoders=text_encoders(located, found.family),
        claims=claims,
        evidence=(*found.evidence, said, *flags),
        flags=flags,
        metadata=header.metadata,
        located=located,
        path=file,
    )


# ---- what the loader must know


def _algorithm(modules: Mapping[str, Module]) -> str:
    found = {f"{module.algorithm}+dora" if module.dora else module.algorithm for module in modules.values()}
    found -= {"diff"} if len(found) > 1 else set()
    return found.pop() if len(found) == 1 else "mixed" if found else "none"


def _with_alphas(path: Path, header: Header, modules: Mapping[str, Module]) -> dict[str, Module]:
    """Each module with its own alpha, where the file has one for it."""
    names = {module.tensors["alpha"] for module in modules.values() if "alpha" in module.tensors}
    values = read_scalars(path, {name: header.tensors[name] for name in names})
    return {owner: _alphaed(module, values) for owner, module in modules.items()}


def _alphaed(module: Module, values: Mapping[str, float | None]) -> Module:
    name = module.tensors.get("alpha")
    if name is None:
        return module
    alpha = values[name]
    fault = module.fault or ("" if alpha is not None else "has an alpha that is no finite number")
    return module._replace(alpha=alpha, fault=fault)


def _alpha(modules: Mapping[str, Module], claims: Claims) -> float | None:
    own = {module.alpha for module in modules.values() if "alpha" in module.tensors}
    if own:
        return own.pop() if len(own) == 1 and len(modules) else None
    return claims.alpha if modules else None


def effective(module: Module, claims: Claims, owner: str) -> float:
    """alpha / rank of one module, by its name in the file, as its trainer meant it; 1 where nothing says otherwise."""
    if not module.rank:
        return 1.0
    alpha = module.alpha if module.alpha is not None else claims.alpha_of(owner)
    if alpha is None:
        return 1.0
    return alpha / (sqrt(module.rank) if claims.rslora else module.rank)


def _scaling(modules: Mapping[str, Module], claims: Claims) -> float | None:
    found = {effective(module, claims, owner) for owner, module in modules.items() if module.algorithm != "diff"}
    return found.pop() if len(found) == 1 else None


def _flags(found: Family, claims: Claims, modules: Mapping[str, Module], header: Header) -> list[str]:
    flags = []
    families = {found.family} if found.family else set(found.families)
    if claims.family and claims.firm and families and claims.family not in families:
        said = f"metadata says {claims.family} ({claims.source}), the tensors say {', '.join(sorted(families))}"
        flags.append(f"{said}: they disagree")
    faulty = [(owner, module.fault) for owner, module in modules.items() if module.fault]
    if faulty:
        flags.append(f"{len(faulty)} modules are damaged: {faulty[0][0][:120]} {faulty[0][1]}")
    if modules and (lost := [name for name in header.tensors if find_part(name) is None]):
        flags.append(f"{len(lost)} tensors belong to no LoRA layer and are not applied (first {lost[0][:120]})")
    own = any("alpha" in module.tensors for module in modules.values())
    ranks = {module.rank for module in modules.values() if module.rank}
    if len(ranks) > 1 and not own and claims.alpha is None and not (claims.alphas or claims.alpha_pattern):
        said = f"modules have ranks {min(ranks)} to {max(ranks)} and no alpha"
        flags.append(f"{said}: how strong each was trained is unknown")
    if not own and claims.alpha is None and claims.alpha_said and claims.rank and claims.alpha_said != claims.rank:
        flags.append(
            f"alpha {claims.alpha_said:g} stands only in the metadata (ss_network_alpha), which no loader applies"
        )
    return flags


# ---- PEFT folders


def _weights_of(folder: Path) -> Path:
    """The weights of an adapter folder. Raises Broken when it has none, or more than one file that could be."""
    for name in ADAPTER_FILES:
        if (folder / name).is_file():
            return folder / name
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise Broken(f"is a folder with {len(files)} .safetensors files and none of {', '.join(ADAPTER_FILES)}")
    return files[0]


def _config_of(file: Path) -> Path | None:
    """PEFT's `adapter_config.json` beside the weights that it belongs to."""
    beside = file.parent / ADAPTER_CONFIG
    if not beside.is_file():
        return None
    alone = file.name in ADAPTER_FILES or len([*file.parent.glob("*.safetensors")]) == 1
    return beside if alone else None


def _read_config(path: Path | None) -> dict[str, Any] | None:
    """Raises Broken for a config that cannot be read: its alpha would be lost in silence."""
    if path is None:
        return None
    try:
        config = json.loads(path.read_bytes()[:MAX_CONFIG_BYTES])
    except (OSError, ValueError, RecursionError) as error:
        raise Broken(f"has an {ADAPTER_CONFIG} beside it that cannot be read ({type(error).__name__})") from error
    if not isinstance(config, dict):
        raise Broken(f"has an {ADAPTER_CONFIG} beside it that is not a table")
    return config
