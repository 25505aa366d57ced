"""The contract: do these five parties belong together? Answered before torch is imported or anything written.

`check` reads what the rules need (headers, configs, tokenizers), asks every rule, and raises Refused once
with all faults. `pin` then gives the accepted parties their digests. What it does not know: whether the
loader really binds the LoRA; the proof after loading shows that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import store
from runner.config.critic import ClipRuntime
from runner.config.tree import Request
from runner.contract import critic, machine, parties, rules, templates, wording
from runner.contract.binding import Binding, Fit, fit
from runner.contract.families import LoraFile
from runner.contract.folders import ModelFolder, file_digest_cached, files_digest, locate, other_digest, weights_digest
from runner.contract.profile import profile_digest
from runner.contract.source import Source, read_source, take_parties
from runner.errors import Fault, Refused
from runner.prompt import ComposedPrompt, Encoder, TokenCount, few

if TYPE_CHECKING:
    from runner.contract.examples import Chosen

__all__ = ["Contract", "Pins", "card", "check", "locate", "pin", "profile_digest", "take_parties"]


@dataclass(frozen=True, slots=True)
class Contract:
    """An accepted request: its prompts as text, their tokens, what the files testified; or the run that it reviews."""

    request: Request
    prompts: tuple[ComposedPrompt, ...] = ()
    base: ModelFolder | None = None  # None where nothing is generated
    lora: LoraFile | None = None
    encoders: tuple[Encoder, ...] = ()
    tokens: tuple[TokenCount, ...] = ()
    binding: Binding | None = None
    findings: tuple[rules.Finding, ...] = ()
    source: Source | None = None  # the run whose images are reviewed again
    examples: tuple[Chosen, ...] = ()  # past decisions that the critic is shown


@dataclass(frozen=True, slots=True)
class Pins:
    """The digests that identify the parties of a run: of the weights, and of everything beside them that counts."""

    base_sha256: str | None  # weights, as a LoRA's header claims them; None where some are not here yet
    base_files: str  # weights, configs, vocabularies
    lora_sha256: str | None
    critic_files: str | None  # weights, configs, vocabulary and reference pictures
    tokenizers: dict[str, str]
    profile: str | None  # all of the profile but its budget
    lora_config: str | None  # PEFT's adapter_config.json, where the file has one beside it: it holds the alpha
    examples: list[list[str]]  # past decisions that the critic is shown: image, prompt, decision, note

    def as_dict(self) -> dict[str, Any]:
        """As the manifest keeps them; what a run seldom has has no entry where it has none."""
        return {name: value for name, value in asdict(self).items() if name not in SELDOM or value}


SELDOM = ("lora_config", "examples")


def check(request: Request) -> Contract:
    """Ask every rule. Raises Refused with all faults at once."""
    faults: list[Fault] = [
        *machine.check_secrets(request),
        *store.storage_faults(request.storage, Path(request.outputs).absolute()),
        *rules.check_stages(request),
        *machine.check_device(request),
        *critic.check_critic(request),
    ]
    source = read_source(request, faults)
    if request.critique.images_of is None:
        made = _check_generation(request, faults)
    else:
        made = Contract(request, source=source)
        asked = source.manifest["prompts"] if source else ()
        faults += _check_texts(request, ((prompt["text"], prompt["sections"]) for prompt in asked))
    if faults or made is None:
        raise Refused(faults)
    return replace(made, examples=_examples(request), findings=(*made.findings, *critic.findings(request)))


def _check_texts(request: Request, prompts: Iterable[tuple[str, Mapping[str, str]]]) -> list[Fault]:
    """Whether the critic's templates take these prompts; an embedding model reads no text."""
    if request.critic is None or isinstance(request.critic_runtime, ClipRuntime):
        return []
    return few(templates.check_texts(request.critic, prompts))


def _examples(request: Request) -> tuple[Chosen, ...]:
    """Past decisions that the critic is shown: those of now, or those that a run which is named has been shown."""
    if request.critic is None or request.critic.retrieval.source == "none":
        return ()
    from runner.contract.examples import chosen_for, examples

    outputs = Path(request.outputs)
    return chosen_for(outputs, request.run.id) if request.run.id else examples(outputs, request.critic.retrieval)


def _check_generation(request: Request, faults: list[Fault]) -> Contract | None:
    """The parties of what is to be made: prompts, base, LoRA, trigger, tokens."""
    entries = parties.read_prompts(request, faults)
    faults += [
        *rules.check_settings(request, machine.device_of(request)),
        *rules.check_budget(request),
        *rules.check_mode(request),
        *wording.check_slots(request, entries),
        *machine.check_classes(request),
    ]
    prompts = parties.compose(request, entries, faults)
    base = parties.read_base(request, faults)
    lora = parties.read_lora(request, faults)
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
    faults += _check_texts(request, ((p.text, {s.name: s.text for s in p.sections}) for p in prompts))
    if faults or base is None:
        return None
    findings = rules.findings(request, base, lora, found)
    return Contract(request, prompts, base, lora, encoders, tokens, found.binding if found else None, findings)


def pin(contract: Contract) -> Pins:
    """Hash the accepted files. Raises Refused when a card expects another digest, or the LoRA another base."""
    request = contract.request
    faults = list(critic.check_weights(request))
    if contract.source:
        before = contract.source.manifest["pins"]
        made = {name: before.get(name) for name in MADE_WITH}
    else:
        made = _pin_generation(contract, faults)
    if faults:
        raise Refused(faults)
    return Pins(
        **made,
        critic_files=critic.critic_files(request),
        profile=profile_digest(request.critic) if request.critic else None,
        examples=[[e.image, e.prompt, e.decision, e.note] for e in contract.examples],
    )


MADE_WITH = ("base_sha256", "base_files", "lora_sha256", "tokenizers", "lora_config")  # what images come from


def _pin_generation(contract: Contract, faults: list[Fault]) -> dict[str, Any]:
    request, base_folder = contract.request, contract.base
    assert base_folder is not None, "what is generated has a base model"
    base = None if base_folder.missing else weights_digest(base_folder.path)
    lora = file_digest_cached(contract.lora.path) if contract.lora else None
    expected = (
        ("base_model.sha256", request.base_model.sha256, base),
        ("lora.sha256", request.lora.sha256, lora),
    )
    faults += [other_digest(w, wanted, found) for w, wanted, found in expected if wanted and found and wanted != found]
    faults += _other_base(contract, base) if base else []
    return {
        "base_sha256": base,
        "base_files": files_digest(base_folder.path),
        "lora_sha256": lora,
        "tokenizers": {encoder.name: encoder.digest for encoder in contract.encoders},
        "lora_config": store.file_digest(contract.lora.config) if contract.lora and contract.lora.config else None,
    }


def card(contract: Contract, pins: Pins) -> dict[str, Any]:
    """The contract as it is stored: who the five parties are, and what was found. Its digest groups runs."""
    request = contract.request
    parties = {
        "mode": request.mode,
        "base_model": {"id": request.base_model.id, "family": request.base_model.family, "sha256": pins.base_sha256},
        "lora": _lora_party(contract, pins) if pins.lora_sha256 else None,
        "trigger": {"token": request.trigger.token, "mode": request.trigger.mode},
        "prompt": {"set": request.prompt.set, "sha256": store.digest_of(_texts(contract))},
        "critic": _critic_party(contract, pins) if request.critic else None,
    }
    return {
        "digest": store.digest_of(parties),
        "parties": parties,
        "findings": [finding.as_dict() for finding in contract.findings],
        "accept_unknown": request.lora.accept_unknown,
    }


def _texts(contract: Contract) -> list[str]:
    if contract.source:
        return [prompt["text"] for prompt in contract.source.manifest["prompts"]]
    return [prompt.text for prompt in contract.prompts]


def _critic_party(contract: Contract, pins: Pins) -> dict[str, Any]:
    profile, runtime = contract.request.critic, contract.request.critic_runtime
    assert profile is not None and runtime is not None, "the contract refuses one without the other"
    return {"profile": profile.profile, "version": profile.version, "sha256": pins.profile, "runtime": runtime.id}


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


def _other_base(contract: Contract, base_sha256: str) -> list[Fault]:
    """Same shapes, other weights: nothing else would notice. The file may say which base it was trained on."""
    claimed = contract.lora.claims.base_sha256 if contract.lora else None
    if not claimed or claimed == base_sha256:
        return []
    what = f"{contract.request.lora.id} was trained on base weights {claimed[:12]}...; these are {base_sha256[:12]}..."
    fix = "Choose the base it was trained on"
    return [Fault("base_mismatch", "lora", what, fix, {"trained_on": claimed, "found": base_sha256})]
