"""The contract: do these five parties belong together? Answered before torch is imported or anything written.

`check` reads what the rules need (headers, configs, tokenizers), asks every rule, and raises Refused once
with all faults. `pin` then gives the accepted parties their digests. What it does not know: whether the
loader really binds the LoRA; the proof after loading shows that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runner import store
from runner.config.tree import CriticProfile, Request
from runner.contract import rules, wording
from runner.contract.families import LoraFile, inspect_lora
from runner.contract.folders import (
    ModelFolder,
    file_digest_cached,
    files_digest,
    known_to_diffusers,
    locate,
    read_model_folder,
    weights_digest,
)
from runner.contract.headers import Broken
from runner.errors import Fault, Refused
from runner.prompt import ComposedPrompt, Encoder, TokenCount, compose_prompts, load_encoder, plain_prompt

__all__ = ["Contract", "Pins", "card", "check", "device_of", "locate", "pin", "profile_digest"]


@dataclass(frozen=True, slots=True)
class Contract:
    """An accepted request: its prompts as text, their tokens, and what the files testified."""

    request: Request
    prompts: tuple[ComposedPrompt, ...]
    base: ModelFolder
    lora: LoraFile | None
    lora_path: Path | None
    critic_path: Path | None
    encoders: tuple[Encoder, ...]
    tokens: tuple[TokenCount, ...]
    findings: tuple[rules.Finding, ...]


@dataclass(frozen=True, slots=True)
class Pins:
    """The digests that identify the parties of a run: of the weights, and of everything beside them that counts."""

    base_sha256: str  # weights, as a LoRA's header claims them
    base_files: str  # weights, configs, vocabularies
    lora_sha256: str | None
    critic_files: str | None  # weights, configs, vocabulary and reference pictures
    tokenizers: dict[str, str]
    profile: str  # the profile without its paths

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check(request: Request) -> Contract:
    """Ask every rule. Raises Refused with all faults at once."""
    faults = [
        *rules.check_stages(request),
        *rules.check_settings(request, device_of(request)),
        *rules.check_budget(request),
        *rules.check_critic(request),
        *rules.check_mode(request),
        *wording.check_slots(request),
        *_check_device(request),
        *_check_classes(request),
    ]
    prompts = _prompts(request, faults)
    base = _base(request, faults)
    lora_path, lora = _lora(request, faults)
    critic_path = _critic(request, faults)
    binding = rules.bind(lora, base.shapes) if lora and base and base.shapes else None
    faults += wording.check_trigger(request, lora)
    if base:
        faults += rules.check_base(request, base)
    if lora:
        family_faults = [*rules.check_family(request, lora, base), *rules.check_declared(request, lora)]
        faults += family_faults or [
            *rules.check_trained_on(request),
            *rules.check_binding(request, lora, binding, base),
        ]
    encoders, tokens = _tokens(request, base, prompts, faults)
    faults += [*wording.check_prompts(request, prompts), *wording.check_sections(request, prompts)]
    faults += wording.check_tokens(request, tokens)
    if faults:
        raise Refused(faults)
    assert base is not None
    return Contract(
        request, prompts, base, lora, lora_path, critic_path, encoders, tokens,
        rules.findings(request, base, lora, binding),
    )  # fmt: skip


def pin(contract: Contract) -> Pins:
    """Hash the accepted files. Raises Refused when a card expects another digest, or the LoRA another base."""
    request = contract.request
    base = weights_digest(contract.base.path)
    lora = file_digest_cached(contract.lora_path) if contract.lora_path else None
    critic = weights_digest(contract.critic_path) if contract.critic_path else None
    expected = (
        ("base_model.sha256", request.base_model.sha256, base),
        ("lora.sha256", request.lora.sha256, lora),
        ("critic.sha256", request.critic.sha256, critic),
    )
    faults = [_other_digest(where, wanted, found) for where, wanted, found in expected if wanted and wanted != found]
    faults += _other_base(contract, base)
    if faults:
        raise Refused(faults)
    return Pins(
        base_sha256=base,
        base_files=files_digest(contract.base.path),
        lora_sha256=lora,
        critic_files=_critic_files(contract),
        tokenizers={encoder.name: encoder.digest for encoder in contract.encoders},
        profile=profile_digest(request.critic),
    )


def profile_digest(profile: CriticProfile) -> str:
    """What a verdict cites: everything that decides a score, and nothing of where files lie."""
    values = profile.model_dump(mode="json", exclude={"path", "sha256", "max_unscored_share"})
    for criterion in values["criteria"]:
        criterion["references"] = criterion["references"] is not None
    return store.digest_of(values)


def _critic_files(contract: Contract) -> str | None:
    if contract.critic_path is None:
        return None
    places = [locate(c.references) for c in contract.request.critic.criteria if c.references]
    return store.digest_of([files_digest(place) for place in (contract.critic_path, *places) if place])


def card(contract: Contract, pins: Pins) -> dict[str, Any]:
    """The contract as it is stored: who the five parties are, and what was found. Its digest groups runs."""
    request = contract.request
    parties = {
        "mode": request.mode,
        "base_model": {"id": request.base_model.id, "family": request.base_model.family, "sha256": pins.base_sha256},
        "lora": {"id": request.lora.id, "sha256": pins.lora_sha256, "scale": request.lora.scale}
        if contract.lora
        else None,
        "trigger": {"token": request.trigger.token, "mode": request.trigger.mode},
        "prompt": {"set": request.prompt.set, "sha256": store.digest_of([p.text for p in contract.prompts])},
        "critic": {"profile": request.critic.profile, "version": request.critic.version, "sha256": pins.profile},
    }
    return {
        "digest": store.digest_of(parties),
        "parties": parties,
        "findings": [finding.as_dict() for finding in contract.findings],
        "accept_unknown": request.lora.accept_unknown,
    }


def _prompts(request: Request, faults: list[Fault]) -> tuple[ComposedPrompt, ...]:
    try:
        return compose_prompts(request.prompt, request.trigger)
    except Refused as refusal:
        faults += refusal.faults
        return ()


def _base(request: Request, faults: list[Fault]) -> ModelFolder | None:
    card = request.base_model
    place = locate(card.path) if card.path else None
    if place is None:
        faults.append(Fault("base_missing", "base_model.path", f"{card.path or 'null'} is not there", _get_base(card)))
        return None
    try:
        return read_model_folder(place)
    except (Broken, OSError) as broken:
        fix = "Name a folder in from_pretrained form"
        faults.append(Fault("base_missing", "base_model.path", f"{place} {broken}", fix))
        return None


def _get_base(card: Any) -> str:
    if card.repository:
        return f"Get it with `hf download {card.repository} --local-dir {card.path or 'DIR'}`, or set base_model.path"
    if card.path == "builtin:tiny_sdxl":
        return "Make it with `python -m runner.builtin.make tiny_sdxl`"
    return "Set base_model.path to the model's folder"


def _lora(request: Request, faults: list[Fault]) -> tuple[Path | None, LoraFile | None]:
    path = request.lora.path
    if request.mode == "base" or not path:
        return None, None
    place = locate(path)
    if place is None:
        fix = "Set lora.path to the .safetensors file"
        faults.append(Fault("lora_missing", "lora.path", f"{path} is not there", fix))
        return None, None
    try:
        return place, inspect_lora(place)
    except (Broken, OSError) as broken:
        fix = "Get or save the file again; nothing of it was loaded"
        faults.append(Fault("lora_broken", "lora.path", f"{place} {broken}", fix))
        return None, None


def _critic(request: Request, faults: list[Fault]) -> Path | None:
    path = request.critic.path
    if "critique" not in request.stages or request.critic.profile is None or path is None:
        return None
    places = [("critic.path", path)]
    places += [(f"critic.criteria ({c.id})", c.references) for c in request.critic.criteria if c.references]
    for where, place in places:
        if locate(place) is None:
            faults.append(Fault("critic_missing", where, f"{place} is not there", "Name the folder that holds it"))
    found = locate(path)
    for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json", "*.safetensors"):
        if found and not any(found.glob(name)):
            what = f"{path} has no {name}"
            faults.append(Fault("critic_missing", "critic.path", what, "Name a CLIPModel folder with its processor"))
    return found


def _tokens(
    request: Request, base: ModelFolder | None, prompts: tuple[ComposedPrompt, ...], faults: list[Fault]
) -> tuple[tuple[Encoder, ...], tuple[TokenCount, ...]]:
    if base is None:
        return (), ()
    encoders: list[Encoder] = []
    for name, folder in base.tokenizers.items():
        try:
            encoders.append(load_encoder(name, folder))
        except Refused as refusal:
            faults += refusal.faults
    negative = request.generate.negative_prompt
    asked = (*prompts, plain_prompt("negative_prompt", negative)) if negative else prompts
    return tuple(encoders), tuple(count for encoder in encoders for count in encoder.count(asked))


def _check_device(request: Request) -> Iterator[Fault]:
    hardware = request.hardware
    if hardware.on_missing == "fail" and not device_there(hardware.device, hardware.index):
        what = f"is {hardware.device}:{hardware.index}, which this machine does not have"
        fix = "Choose hardware=cpu, or allow it with hardware.on_missing=cpu (recorded as a fallback)"
        yield Fault("device_missing", "hardware.device", what, fix)


def _check_classes(request: Request) -> Iterator[Fault]:
    """Classes that config names must exist in the diffusers that is installed."""
    for where, name in (
        ("base_model.pipeline", request.base_model.pipeline),
        ("generate.scheduler", request.generate.scheduler),
    ):
        if name and not (known_to_diffusers(name) and (name.endswith("Scheduler") or where == "base_model.pipeline")):
            fix = "Name a class that it exports, such as EulerDiscreteScheduler or StableDiffusionXLPipeline"
            yield Fault("unknown_option", where, f"{name} is not in the installed diffusers", fix)


def device_of(request: Request) -> str:
    """The kind of device the work will run on, fallback included."""
    hardware = request.hardware
    return hardware.device if device_there(hardware.device, hardware.index) else "cpu"


def device_there(device: str, index: int) -> bool:
    """Whether the machine has the device, asked of the operating system (torch would take seconds)."""
    import platform

    if device == "cuda":
        return Path(f"/dev/nvidia{index}").exists() or Path("/dev/dxg").exists()
    if device == "mps":
        return platform.system() == "Darwin" and platform.machine() == "arm64"
    return True


def _other_digest(where: str, wanted: str, found: str | None) -> Fault:
    what = f"is {wanted[:12]}...; the files have {str(found)[:12]}..."
    return Fault("weights_altered", where, what, "Get the files again, or mend the card if they are the right ones")


def _other_base(contract: Contract, base_sha256: str) -> list[Fault]:
    """Same shapes, other weights: nothing else would notice. The file may say which base it was trained on."""
    claimed = contract.lora.claimed_base_sha256 if contract.lora else None
    if not claimed or claimed == base_sha256:
        return []
    what = f"{contract.request.lora.id} was trained on base weights {claimed[:12]}...; these are {base_sha256[:12]}..."
    fix = "Choose the base it was trained on"
    return [Fault("base_mismatch", "lora", what, fix, {"trained_on": claimed, "found": base_sha256})]
