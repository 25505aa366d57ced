"""What a file says of itself: the vocabularies of its metadata, read as claims and never as facts.

ModelSpec (`modelspec.*`, https://github.com/Stability-AI/ModelSpec), kohya's `ss_*`, diffusers'
`lora_adapter_metadata`, PEFT's `adapter_config.json`. Claims may be absent, wrong or hostile; the tensor table
counts first. Trigger words from training captions are a hint, never a trigger.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

FAMILY_WORDS: tuple[tuple[str, str], ...] = (  # first that fits
    (r"^shapes\b", "shapes"),
    (r"chroma", "chroma"),
    (r"flux-?_?\.?2|klein", "flux2"),
    (r"flux", "flux1"),
    (r"qwen-?_?image", "qwen-image"),
    (r"z-?_?image", "z-image"),
    (r"hunyuan-?_?video|framepack", "hunyuanvideo"),
    (r"aura-?_?flow", "auraflow"),
    (r"lumina-?_?(image-?)?_?(next-?)?2|netalumina|lumina2", "lumina2"),
    (r"^lumina$", "lumina2"),
    (r"anima\b(?!te)", "anima"),
    (r"wan-?_?v?(video|2|\d|ai|_|-|$)|^wan\b", "wan"),
    (r"stable-?_?diffusion-?_?v?3|sd-?_?v?3|^sd35?[ml]?\b", "sd3"),
    (r"stable-?_?diffusion-?_?xl|sdxl|pony|illustrious|playground-v2", "sdxl"),
    (r"stable-?_?diffusion-?_?v?2|sd-?_?v?2", "sd2"),
    (r"stable-?_?diffusion-?_?v?1|sd-?_?v?1", "sd1"),
    (
        r"hidream|cascade|kandinsky|cosmos|ltx|cogvideo|mochi|sana|pixart|kolors|hunyuan-?_?image|omnigen|cogview",
        "other",
    ),
)
MODEL_WORDS: tuple[tuple[str, str], ...] = (  # what a claim of a model, not only of a family, looks like
    (r"flux-?_?\.?1.*schnell|schnell", "FLUX.1-schnell"),
    (r"flux-?_?\.?1.*dev|^flux1?-dev", "FLUX.1-dev"),
    (r"klein.*9b", "FLUX.2-klein-9B"),
    (r"klein.*4b|klein", "FLUX.2-klein-4B"),
    (r"flux-?_?\.?2.*dev", "FLUX.2-dev"),
    (r"3\.?-?_?5-?_?large|sd35l", "Stable Diffusion 3.5 large"),
    (r"3\.?-?_?5-?_?medium|sd35m", "Stable Diffusion 3.5 medium"),
    (r"(diffusion-?_?|sd-?_?)3-?_?medium|^sd3m", "Stable Diffusion 3 medium"),
    (r"xl.*refiner", "SDXL 1.0 refiner"),
    (r"xl.*base|sdxl_base", "SDXL 1.0"),
)
FAMILY_KEYS = (
    "modelspec.architecture", "ss_base_model_version", "base_model_name_or_path", "ss_sd_model_name", "base_model",
    "architecture", "sshs_base_model",
)  # fmt: skip
FIRM_KEYS = (
    "modelspec.architecture",
    "ss_base_model_version",
)  # a disagreement with these is flagged; names of files mislead
MAX_JSON = 4_000_000
TAGS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Claims:
    """What the metadata says; None or empty where it says nothing."""

    family: str | None = None
    model: str | None = None
    source: str = ""  # which key says so, and its text
    firm: bool = False  # said in a field for it, not guessed from the name of a file
    trigger: str | None = None
    trigger_hints: tuple[str, ...] = ()
    base_sha256: str | None = None
    alpha: float | None = None  # what diffusers or PEFT would apply
    alpha_said: float | None = None  # what a trainer wrote down and no loader reads
    rank: int | None = None
    components: frozenset[str] = frozenset()
    rslora: bool = False
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)  # component -> alpha, where each has its own

    def alpha_of(self, owner: str) -> float | None:
        """The alpha that the metadata gives a module, by its name in the file: its own, its component's, everyone's."""
        name = owner.removeprefix("base_model.model.")
        for pattern, alpha in self.alpha_pattern.items():
            plain = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
            if name == plain or name.endswith(f".{plain}"):
                return alpha
        component = name.partition(".")[0]
        named = component.startswith(("unet", "transformer", "text_encoder")) and bool(self.alphas)
        return self.alphas.get(component) if named else self.alpha


def read_claims(metadata: Mapping[str, str], config: Mapping[str, Any] | None = None) -> Claims:
    """The claims of a file, `config` being the `adapter_config.json` beside it."""
    adapter = _table(metadata.get("lora_adapter_metadata", ""))
    family, model, source, firm = _family(metadata, config or {})
    settings = [config] if config else list(_components(adapter).values())
    return Claims(
        family, model, source, firm,
        trigger=_text(metadata.get("modelspec.trigger_phrase")),
        trigger_hints=tuple(_tags(metadata)),
        base_sha256=metadata.get("runner.base_sha256"),
        alpha=_one(settings, "lora_alpha"),
        alpha_said=_number(metadata.get("ss_network_alpha")),
        rank=_rank(metadata, settings),
        components=frozenset(name for name in _components(adapter) if name),
        rslora=any(settings_.get("use_rslora") is True for settings_ in settings),
        alpha_pattern=_patterns(_components(adapter) if not config else {"": config}),
        alphas={} if config else {n: a for n, s in _components(adapter).items() if (a := _one([s], "lora_alpha"))},
    )  # fmt: skip


def claimed_family(text: str) -> str | None:
    """The family that a name of an architecture or a model means."""
    lowered = text.lower().strip()
    return next((family for pattern, family in FAMILY_WORDS if re.search(pattern, lowered)), None)


def _family(metadata: Mapping[str, str], config: Mapping[str, Any]) -> tuple[str | None, str | None, str, bool]:
    said = {**metadata, **({"base_model_name_or_path": config["base_model_name_or_path"]} if _named(config) else {})}
    for key in FAMILY_KEYS:
        text = said.get(key)
        if isinstance(text, str) and (family := claimed_family(text[:300])):
            lowered = text[:300].lower()
            model = next((name for pattern, name in MODEL_WORDS if re.search(pattern, lowered)), None)
            return family, model, f"{key} {text[:80]!r}", key in FIRM_KEYS
    return None, None, "", False


def _named(config: Mapping[str, Any]) -> bool:
    return isinstance(config.get("base_model_name_or_path"), str)


def _table(text: str) -> dict[str, Any]:
    try:
        table = json.loads(text) if text and len(text) <= MAX_JSON else {}
    except (ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}


def _components(adapter: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """diffusers' flat table `unet.r`, `text_encoder.lora_alpha` as one table for each component."""
    parts: dict[str, dict[str, Any]] = {}
    for key, value in adapter.items():
        component, dot, name = key.partition(".")
        if dot:
            parts.setdefault(component, {})[name] = value
    return parts


def _one(settings: list[Mapping[str, Any]] | list[dict[str, Any]], name: str) -> float | None:
    values = {float(s[name]) for s in settings if type(s.get(name)) in (int, float)}
    return values.pop() if len(values) == 1 else None


def _patterns(components: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    found = {}
    for settings in components.values():
        pattern = settings.get("alpha_pattern")
        for name, alpha in pattern.items() if isinstance(pattern, dict) else ():
            if type(alpha) in (int, float):
                found[str(name)] = float(alpha)
    return found


def _rank(metadata: Mapping[str, str], settings: Any) -> int | None:
    rank = _one(settings, "r") or _number(metadata.get("ss_network_dim"))
    return int(rank) if rank and rank == int(rank) else None


def _number(text: object) -> float | None:
    try:
        value = float(str(text))
    except (TypeError, ValueError):
        return None
    return value if 0 < value < 1e9 else None


def _text(value: str | None) -> str | None:
    return value.strip() or None if value else None


def _tags(metadata: Mapping[str, str]) -> Iterator[str]:
    """Words that nearly every training caption had (kohya's `ss_tag_frequency`): perhaps the trigger, perhaps not."""
    counts: dict[str, int] = {}
    for folder in _table(metadata.get("ss_tag_frequency", "")).values():
        for tag, count in folder.items() if isinstance(folder, dict) else ():
            if isinstance(count, int) and isinstance(tag, str):
                counts[tag.strip()] = counts.get(tag.strip(), 0) + count
    yield from (tag for tag, _ in sorted(counts.items(), key=lambda entry: -entry[1])[:TAGS_SHOWN])
