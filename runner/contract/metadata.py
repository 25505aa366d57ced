"""What a file says of itself: the vocabularies of its metadata, read as claims and never as facts.

ModelSpec (`modelspec.*`, https://github.com/Stability-AI/ModelSpec), kohya's `ss_*`, diffusers'
`lora_adapter_metadata`, PEFT's `adapter_config.json`. Claims may be absent, wrong or hostile; the tensor table
counts first. Trigger words from training captions are a hint, never a trigger.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.contract.alphas import Settings, bare, of_config, of_metadata, settings_of

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
    (r"stable-?_?diffusion-?_?(v?1|inpaint)|sd-?_?v?1", "sd1"),
    (
        r"hidream|cascade|kandinsky|cosmos|ltx|cogvideo|mochi|sana|pixart|kolors|hunyuan-?_?image|omnigen|cogview",
        "other",
    ),
)
MODEL_WORDS: tuple[tuple[str, str | None], ...] = (  # a model, not only a family; the special before the general
    (r"flux.*(kontext|krea)", None),  # other weights in FLUX.1-dev's layers, and no model of the table
    (r"flux.*fill", "FLUX.1-Fill-dev"),
    (r"flux.*(canny|depth)", "FLUX.1-Canny-dev"),  # both have the same layers
    (r"flux-?_?\.?1.*schnell|schnell", "FLUX.1-schnell"),
    (r"flux-?_?\.?1.*dev|^flux1?-dev", "FLUX.1-dev"),
    (r"klein.*9b", "FLUX.2-klein-9B"),
    (r"klein.*4b|klein", "FLUX.2-klein-4B"),
    (r"flux-?_?\.?2.*dev", "FLUX.2-dev"),
    (r"wan(?=.*vace)(?=.*1[._]?3b)", "Wan2.1-VACE-1.3B"),
    (r"wan(?=.*vace)(?=.*14b)", "Wan2.1-VACE-14B"),
    (r"wan.*vace", None),
    (r"wan.*(ti2v|2\.?2.*[-_]5b)", "Wan2.2-TI2V-5B"),
    (r"wan.*2\.?2.*i2v", "Wan2.2-I2V-A14B"),
    (r"wan-?_?v?2\.?2", None),  # T2V: other weights in the layers of 2.1
    (r"wan.*i2v", "Wan2.1-I2V-14B"),
    (r"wan.*1[._]?3b", "Wan2.1-T2V-1.3B"),
    (r"wan(?=.*t2v)(?=.*14b)", "Wan2.1-T2V-14B"),
    (r"3\.?-?_?5-?_?large|sd35l", "Stable Diffusion 3.5 large"),
    (r"3\.?-?_?5-?_?medium|sd35m", "Stable Diffusion 3.5 medium"),
    (r"(diffusion-?_?|sd-?_?)3-?_?medium|^sd3m", "Stable Diffusion 3 medium"),
    (r"xl.*inpaint", "SDXL 1.0 inpainting"),
    (r"(diffusion|sd)-?_?v?1.*inpaint|diffusion-?_?inpaint", "Stable Diffusion 1.5 inpainting"),
    (r"xl.*refiner", "SDXL 1.0 refiner"),
    (r"xl.*base|sdxl_base", "SDXL 1.0"),
)
FIRM_KEYS = (
    "modelspec.architecture", "ss_base_model_version", "base_model_name_or_path", "base_model", "architecture",
    "sshs_base_model",
)  # fmt: skip
SOFT_KEYS = ("ss_sd_model_name",)  # names of files mislead: they are asked last, and no disagreement is flagged
MAX_JSON = 4_000_000
TAGS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Claims:
    """What the metadata says; None or empty where it says nothing."""

    family: str | None = None
    model: str | None = None
    source: str = ""  # which key says so, and its text
    firm: bool = False  # said in a field for it, not guessed from the name of a file
    others: tuple[tuple[str, str], ...] = ()  # families that other firm fields say, and their sources
    trigger: str | None = None
    trigger_hints: tuple[str, ...] = ()
    base_sha256: str | None = None
    alpha: float | None = None  # what diffusers or PEFT would apply
    alpha_said: float | None = None  # what a trainer wrote down and no loader reads
    rank: int | None = None
    components: frozenset[str] = frozenset()
    settings: Mapping[str, Settings] = field(default_factory=dict)  # component -> its own; "" is for all

    def alpha_of(self, owner: str) -> float | None:
        """The alpha that the metadata gives a module, by its name in the file: its own, or its component's."""
        return settings_of(self.settings, owner).alpha_of(bare(owner))

    def rslora_of(self, owner: str) -> bool:
        return settings_of(self.settings, owner).rslora

    @property
    def rslora(self) -> bool:
        return any(settings.rslora for settings in self.settings.values())

    @property
    def says_alpha(self) -> bool:
        return any(settings.says_alpha for settings in self.settings.values())


def read_claims(metadata: Mapping[str, str], config: Mapping[str, Any] | None = None) -> Claims:
    """The claims of a file, `config` being the `adapter_config.json` beside it.

    Raises Broken when what they say of its strength cannot be known.
    """
    components = _components(_table(metadata.get("lora_adapter_metadata", "")))
    settings = of_metadata(components) if config is None else {"": of_config(config)}
    family, model, source, firm, others = _family(metadata, config or {})
    return Claims(
        family, model, source, firm, others,
        trigger=_text(metadata.get("modelspec.trigger_phrase")),
        trigger_hints=tuple(_tags(metadata)),
        base_sha256=metadata.get("runner.base_sha256"),
        alpha=_one(component.alpha for component in settings.values()),
        alpha_said=_number(metadata.get("ss_network_alpha")),
        rank=_rank(metadata, settings),
        components=frozenset(name for name in components if name),
        settings=settings,
    )  # fmt: skip


def claimed_family(text: str) -> str | None:
    """The family that a name of an architecture or a model means."""
    lowered = _lowered(text)
    return next((family for pattern, family in FAMILY_WORDS if re.search(pattern, lowered)), None)


def _lowered(text: str) -> str:
    return re.sub(r"\s+", "-", text.strip().lower())


def _family(
    metadata: Mapping[str, str], config: Mapping[str, Any]
) -> tuple[str | None, str | None, str, bool, tuple[tuple[str, str], ...]]:
    """The first claim, and the firm ones that say another family."""
    said = {**metadata, **({"base_model_name_or_path": config["base_model_name_or_path"]} if _named(config) else {})}
    firm = [*_claims(said, FIRM_KEYS)]
    for family, text, source in firm or _claims(said, SOFT_KEYS):
        others = tuple((other, its) for other, _, its in firm if other != family)
        model = next((name for pattern, name in MODEL_WORDS if re.search(pattern, _lowered(text))), None)
        return family, model, source, bool(firm), others
    return None, None, "", False, ()


def _claims(said: Mapping[str, Any], keys: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """Family, text and source of each key that names a family."""
    for key in keys:
        text = said.get(key)
        if isinstance(text, str) and (family := claimed_family(text[:300])):
            yield family, text[:300], f"{key} {text[:80]!r}"


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


def _one(values: Iterable[float | None]) -> float | None:
    """What all that say something agree on."""
    found = {value for value in values if value is not None}
    return found.pop() if len(found) == 1 else None


def _rank(metadata: Mapping[str, str], settings: Mapping[str, Settings]) -> int | None:
    rank = _one(component.rank for component in settings.values()) or _number(metadata.get("ss_network_dim"))
    known = rank and rank == int(rank) and not any(component.has_ranks for component in settings.values())
    return int(rank) if rank and known else None


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
