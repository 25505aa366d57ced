"""The contract: do these five parties belong together? Answered before torch is imported or anything written.

`check` reads what the rules need (headers, configs, tokenizers), asks every rule, and raises Refused once
with all faults. `pin` then gives the accepted parties their digests. What it does not know: whether the
loader really binds the LoRA; the proof after loading shows that.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runner import store
from runner.config.tree import CriticProfile, Request
from runner.contract import machine, parties, rules, wording
from runner.contract.binding import Binding, Fit, fit
from runner.contract.families import LoraFile
from runner.contract.folders import ModelFolder, file_digest_cached, files_digest, locate, weights_digest
from runner.errors import Fault, Refused
from runner.prompt import ComposedPrompt, Encoder, TokenCount, few

__all__ = ["Contract", "Pins", "card", "check", "locate", "pin", "profile_digest"]


@dataclass(frozen=True, slots=True)
class Contract:
    """An accepted request: its prompts as text, their tokens, and what the files testified."""

    request: Request
    prompts: tuple[ComposedPrompt, ...]
    base: ModelFolder
    lora: LoraFile | None
    critic_path: Path | None
    encoders: tuple[Encoder, ...]
    tokens: tuple[TokenCount, ...]
    binding: Binding | None
    findings: tuple[rules.Finding, ...]


@dataclass(frozen=True, slots=True)
class Pins:
    """The digests that identify the parties of a run: of the weights, and of everything beside them that counts."""

    base_sha256: str | None  # weights, as a LoRA's header claims them; None where some are not here yet
    base_files: str  # weights, configs, vocabularies
    lora_sha256: str | None
    critic_files: str | None  # weights, configs, vocabulary and reference pictures
    tokenizers: dict[str, str]
    profile: str  # the profile without its paths
    lora_config: str | None  # PEFT's adapter_config.json, where the file has one beside it: it holds the alpha

    def as_dict(self) -> dict[str, Any]:
        """As the manifest keeps them; a LoRA without a config beside it has no entry for one."""
        return {name: value for name, value in asdict(self).items() if name != "lora_config" or value}


def check(request: Request) -> Contract:
    """Ask every rule. Raises Refused with all faults at once."""
    faults: list[Fault] = []
    entries = parties.read_prompts(request, faults)
    faults += [
        *machine.check_secrets(request),
        *store.storage_faults(request.storage, Path(request.outputs).absolute()),
        *rules.check_stages(request),
        *rules.check_settings(request, machine.device_of(request)),
        *rules.check_budget(request),
        *rules.check_critic(request),
        *rules.check_mode(request),
        *wording.check_slots(request, entries),
        *machine.check_device(request),
        *machine.check_classes(request),
    ]
    prompts = parties.compose(request, entries, faults)
    base = parties.read_base(request, faults)
    lora = parties.read_lora(request, faults)
    critic_path = parties.find_critic(request, faults)
    found = _fit(request, lora, base)
    faults += wording.check_trigger(request, lora)
    if base:
        faults += [*rules.check_base(request, base), *machine.check_packages(base)]
    if lora:
        family_faults = [*rules.check_family(request, lora, base), *rules.check_declared(request, lora)]
        faults += family_faults or [
            *rules.check_trained_on(request),
            *rules.check_fit(request, lora, found, base),
        ]
    encoders, tokens = parties.count_tokens(request, base, prompts, faults)
    faults += few([*wording.check_prompts(request, prompts), *wording.check_sections(request, prompts)])
    faults += few(wording.check_tokens(request, tokens))
    if faults:
        raise Refused(faults)
    assert base is not None
    return Contract(
        request, prompts, base, lora, critic_path, encoders, tokens,
        found.binding if found else None, rules.findings(request, base, lora, found),
    )  # fmt: skip


def pin(contract: Contract) -> Pins:
    """Hash the accepted files. Raises Refused when a card expects another digest, or the LoRA another base."""
    request = contract.request
    base = None if contract.base.missing else weights_digest(contract.base.path)
    lora = file_digest_cached(contract.lora.path) if contract.lora else None
    critic = weights_digest(contract.critic_path) if contract.critic_path else None
    expected = (
        ("base_model.sha256", request.base_model.sha256, base),
        ("lora.sha256", request.lora.sha256, lora),
        ("critic.sha256", request.critic.sha256, critic),
    )
    faults = [_other_digest(w, wanted, found) for w, wanted, found in expected if wanted and found and wanted != found]
    faults += _other_base(contract, base) if base else []
    if faults:
        raise Refused(faults)
    return Pins(
        base_sha256=base,
        base_files=files_digest(contract.base.path),
        lora_sha256=lora,
        critic_files=_critic_files(contract),
        tokenizers={encoder.name: encoder.digest for encoder in contract.encoders},
        profile=profile_digest(request.critic),
        lora_config=store.file_digest(contract.lora.config) if contract.lora and contract.lora.config else None,
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
        "lora": _lora_party(contract, pins) if contract.lora else None,
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


def _lora_party(contract: Contract, pins: Pins) -> dict[str, Any]:
    lora = contract.request.lora
    config = {"config": pins.lora_config} if pins.lora_config else {}
    return {"id": lora.id, "sha256": pins.lora_sha256, "scale": lora.scale, **config}


def _fit(request: Request, lora: LoraFile | None, base: ModelFolder | None) -> Fit | None:
    """How the LoRA meets the base, with what its card says where the file cannot tell."""
    if lora is None or base is None or base.denoiser not in base.layouts:
        return None
    card = request.lora
    own = card.base is not None and card.base == request.base_model.id
    family = card.family if card.family in lora.families else None
    return fit(lora, base, family=lora.family or family, model=base.model if own and not lora.claims.model else None)


def _other_digest(where: str, wanted: str, found: str | None) -> Fault:
    what = f"is {wanted[:12]}...; the files have {str(found)[:12]}..."
    return Fault("weights_altered", where, what, "Get the files again, or mend the card if they are the right ones")


def _other_base(contract: Contract, base_sha256: str) -> list[Fault]:
    """Same shapes, other weights: nothing else would notice. The file may say which base it was trained on."""
    claimed = contract.lora.claims.base_sha256 if contract.lora else None
    if not claimed or claimed == base_sha256:
        return []
    what = f"{contract.request.lora.id} was trained on base weights {claimed[:12]}...; these are {base_sha256[:12]}..."
    fix = "Choose the base it was trained on"
    return [Fault("base_mismatch", "lora", what, fix, {"trained_on": claimed, "found": base_sha256})]
