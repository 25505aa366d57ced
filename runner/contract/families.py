"""What a file is: kind, family, naming, rank and alpha, from the tensor table first and the metadata second.

A LoRA's family is answered by `identity`; this room puts its answer together with what the file's own modules and
metadata say, and names what speaks against the file. What it does not know: bases; that is `binding`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
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
MAX_ALPHA = 1e6
REAL = ("F64", "F32", "F16", "BF16")  # and every F8: what the halves of a module may be
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
    modules = _with_alphas(file, header, modules, claims) if kind == "lora" else {}
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


def _with_alphas(path: Path, header: Header, modules: Mapping[str, Module], claims: Claims) -> dict[str, Module]:
    """Each module with its own alpha, where the file has one for it, and with what is wrong with its numbers."""
    names = {module.tensors["alpha"] for module in modules.values() if "alpha" in module.tensors}
    values = read_scalars(path, {name: header.tensors[name] for name in names})
    return {owner: _alphaed(owner, module, header, values, claims) for owner, module in modules.items()}


def _alphaed(owner: str, module: Module, header: Header, values: Mapping[str, float | None], claims: Claims) -> Module:
    alpha = values[module.tensors["alpha"]] if "alpha" in module.tensors else None
    fault = module.fault or _wrong_numbers(owner, module, alpha, header, claims)
    return Module(*module[:7], fault=fault, alpha=alpha)  # `_replace` takes three times as long


def _wrong_numbers(owner: str, module: Module, alpha: float | None, header: Header, claims: Claims) -> str:
    if alpha is None and "alpha" in module.tensors:
        return "has an alpha that is no finite number"
    for role, name in module.tensors.items():
        dtype = header.tensors[name].dtype
        if dtype not in REAL and role != "alpha" and not dtype.startswith("F8_"):
            return f"has weights of type {dtype}"
    counts = alpha if alpha is not None else claims.alpha_of(owner)
    return "has alpha 0: it would change nothing" if module.rank and counts == 0 else ""


def _own(module: Module, claims: Claims, owner: str) -> float | None:
    """The alpha that counts for one module: the file's tensor before the metadata, and none without a rank."""
    if not module.rank:
        return None
    return module.alpha if module.alpha is not None else claims.alpha_of(owner)


def _alpha(modules: Mapping[str, Module], claims: Claims) -> float | None:
    own = {module.alpha for module in modules.values() if "alpha" in module.tensors}
    if own:
        return own.pop() if len(own) == 1 and len(modules) else None
    return claims.alpha if modules else None


def effective(module: Module, claims: Claims, owner: str) -> float:
    """alpha / rank of one module, by its name in the file, as its trainer meant it; 1 where nothing says otherwise."""
    alpha = _own(module, claims, owner)
    if alpha is None or not module.rank:
        return 1.0
    return alpha / (sqrt(module.rank) if claims.rslora and claims.rslora_of(owner) else module.rank)


def _scaling(modules: Mapping[str, Module], claims: Claims) -> float | None:
    found = {effective(module, claims, owner) for owner, module in modules.items() if module.algorithm != "diff"}
    return found.pop() if len(found) == 1 else None


def _flags(found: Family, claims: Claims, modules: Mapping[str, Module], header: Header) -> list[str]:
    flags = [*_disagreements(set(found.families), claims)]
    faulty = [(owner, module.fault) for owner, module in modules.items() if module.fault]
    if faulty:
        flags.append(f"{len(faulty)} modules are damaged: {faulty[0][0][:120]} {faulty[0][1]}")
    if modules and (lost := [name for name in header.tensors if find_part(name) is None]):
        flags.append(f"{len(lost)} tensors belong to no LoRA layer and are not applied (first {lost[0][:120]})")
    return [*flags, *_doubts_of_strength(modules, claims)]


def _disagreements(families: set[str], claims: Claims) -> Iterator[str]:
    """What the metadata says of the family against the tensors, or else against itself."""
    firm = [(claims.family, claims.source), *claims.others] if claims.family and claims.firm else []
    wrong = [(family, source) for family, source in firm if families and family not in families]
    for family, source in wrong:
        yield f"metadata says {family} ({source}), the tensors say {', '.join(sorted(families))}: they disagree"
    if claims.others and not wrong:
        said = " and ".join(f"{family} ({source})" for family, source in firm)
        yield f"metadata says {said}: they disagree"


def _doubts_of_strength(modules: Mapping[str, Module], claims: Claims) -> Iterator[str]:
    alphas = {owner: _own(module, claims, owner) for owner, module in modules.items()}
    odd = [(owner, alpha) for owner, alpha in alphas.items() if alpha is not None and not 0 <= alpha <= MAX_ALPHA]
    if odd:
        yield f"{len(odd)} modules have an alpha that no trainer means (first {odd[0][0][:120]}: {odd[0][1]:g})"
    ranks = {module.rank for module in modules.values() if module.rank}
    rank = next(iter(ranks)) if len(ranks) == 1 else None
    silent = not claims.says_alpha and not any("alpha" in module.tensors for module in modules.values())
    if len(ranks) > 1 and silent:
        yield f"modules have ranks {min(ranks)} to {max(ranks)} and no alpha: how strong each was trained is unknown"
    if silent and rank and claims.alpha_said and claims.alpha_said != rank:
        yield f"alpha {claims.alpha_said:g} stands only in the metadata (ss_network_alpha), which no loader applies"
    if rank and claims.rank is not None and claims.rank != rank:
        yield f"metadata says rank {claims.rank}, the tensors have rank {rank}: they disagree"


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
        with path.open("rb") as file:
            config = json.loads(file.read(MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise Broken(f"has an {ADAPTER_CONFIG} beside it that cannot be read ({type(error).__name__})") from error
    if not isinstance(config, dict):
        raise Broken(f"has an {ADAPTER_CONFIG} beside it that is not a table")
    return config
