"""Do mode, settings, base and LoRA belong together? Pure: facts in, findings and faults out.

What the card says, what the file's metadata says and what its tensor table says are compared; each question
is answered *agrees*, *disagrees* or *cannot tell*, with the evidence. A disagreement is a fault. *Cannot
tell* is a fault unless `lora.accept_unknown` gives a reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from runner.config.tree import Request
from runner.contract.binding import CANNOT_TELL, YES, Fit
from runner.contract.families import LoraFile
from runner.contract.folders import ModelFolder
from runner.contract.shown import shown
from runner.errors import Fault

WITHOUT_GUIDANCE_INPUT = ("FLUX.1-schnell",)
NO_NEGATIVE = {  # guidance up to which a pipeline runs no negative pass
    **dict.fromkeys(("StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline"), 1.0),
    **dict.fromkeys(("QwenImagePipeline", "ChromaPipeline", "Lumina2Pipeline", "AuraFlowPipeline"), 1.0),
    "ZImagePipeline": 0.0,
}
VIDEO = ("CogVideoX", "HunyuanVideo", "LTX", "Mochi", "Wan")  # how the names of pipelines begin that make videos


@dataclass(frozen=True, slots=True)
class Finding:
    """One question of the contract and its answer."""

    question: str
    answer: str  # agrees | disagrees | cannot tell
    evidence: str

    def as_dict(self) -> dict[str, str]:
        return {"question": self.question, "answer": self.answer, "evidence": self.evidence}


# ---- stages and settings


def check_stages(request: Request) -> Iterator[Fault]:
    stages = request.stages
    again = request.critique.images_of is not None  # `source` says what such a request may do
    if (stages[0] != "generate" and not again) or len(set(stages)) != len(stages):
        what = f"are {list(stages)}: images must be generated before they are reviewed, each stage once"
        yield Fault("stage_order", "stages", what, "Use stages=[generate] or stages=[generate,critique]")


def check_settings(request: Request, device: str) -> Iterator[Fault]:
    """Every setting is consumed or refused; `device` is the kind that the work will really run on."""
    base, generate = request.base_model, request.generate
    if generate.negative_prompt and not base.negative_prompt:
        what = f"{generate.negative_prompt!r} would be ignored: {base.pipeline} takes no negative prompt"
        yield Fault("setting_ignored", "generate.negative_prompt", what, 'Set generate.negative_prompt=""')
    elif generate.negative_prompt and generate.guidance_scale <= (least := NO_NEGATIVE.get(base.pipeline, -1.0)):
        what = f"{generate.negative_prompt!r} would be ignored at guidance_scale {generate.guidance_scale:g}"
        fix = f'Set generate.negative_prompt="", or generate.guidance_scale above {least:g}'
        yield Fault("setting_ignored", "generate.negative_prompt", what, fix)
    if base.pipeline.startswith(VIDEO) and request.until != "contract":
        what = f"{base.pipeline} makes videos; this runner makes images"
        fix = "Choose a base_model that makes images, or check LoRA and prompts alone with until=contract"
        yield Fault("unknown_option", "base_model.pipeline", what, fix)
    if request.hardware.device != "cuda" and request.hardware.index:
        what = f"{request.hardware.index} would be ignored: {request.hardware.device} is one device"
        yield Fault("setting_ignored", "hardware.index", what, "Set hardware.index=0")
    if device == "cpu" and request.runtime.offload != "none":
        what = f"{request.runtime.offload} would be ignored: there is no device to move weights to"
        yield Fault("setting_ignored", "runtime.offload", what, "Set runtime.offload=none")
    if request.run.id and request.run.fresh:
        what = f"true would be ignored: run.id={request.run.id} continues that run"
        yield Fault("setting_ignored", "run.fresh", what, "Leave out one of the two")
    if request.trigger.without and request.trigger.mode != "probe":
        what = f"{request.trigger.without!r} would be ignored in mode {request.trigger.mode}"
        yield Fault("setting_ignored", "trigger.without", what, "Set trigger.mode=probe, or leave it empty")


def check_budget(request: Request) -> Iterator[Fault]:
    prompt = request.prompt
    if prompt.budget.min > prompt.budget.max:
        what = f"is {prompt.budget.min}, above prompt.budget.max {prompt.budget.max}"
        yield Fault("out_of_bounds", "prompt.budget.min", what, "Lower it, or raise the maximum")
    for name in prompt.required:
        if name not in prompt.sections:
            what = f"names {name!r}, which prompt.sections does not list"
            yield Fault("unknown_key", "prompt.required", what, f"Known: {', '.join(prompt.sections)}")


# ---- mode and LoRA


def check_mode(request: Request) -> Iterator[Fault]:
    """An empty override cannot turn one experiment into another."""
    lora = request.lora
    named = lora.id or lora.path
    if request.mode == "base" and named:
        fix = "Choose mode=lora, or lora=none"
        yield Fault("lora_unexpected", "lora", f"is {named}, and mode=base tests the base model alone", fix)
    if request.mode == "base" and not named and lora.scale != 1.0:
        yield Fault("setting_ignored", "lora.scale", f"{lora.scale:g} would be ignored: there is no LoRA", "Leave it")
    if request.mode == "lora" and not lora.path:
        fix = "Choose a card (lora=emblem) or set lora.path to a .safetensors file; mode=base tests the base alone"
        yield Fault("lora_missing", "lora", f"is {lora.id or 'none'} without a file, and mode=lora needs one", fix)
    if request.mode == "lora" and lora.id and not lora.scale_range[0] <= lora.scale <= lora.scale_range[1]:
        low, high = lora.scale_range
        what = f"is {lora.scale:g}; {lora.id} was found usable from {low:g} to {high:g}"
        yield Fault("out_of_bounds", "lora.scale", what, f"Choose a scale from {low:g} to {high:g}")


# ---- base and LoRA


def check_base(request: Request, base: ModelFolder) -> Iterator[Fault]:
    card = request.base_model
    if base.pipeline != card.pipeline:
        what = f"is {card.pipeline} on the card; the folder says {base.pipeline}"
        fix = f"Set base_model.pipeline={base.pipeline} if that is the model you mean"
        yield Fault("family_mismatch", "base_model.pipeline", what, fix)
    if base.model in WITHOUT_GUIDANCE_INPUT and request.generate.guidance_scale:
        what = f"{request.generate.guidance_scale:g} would be ignored: {base.model} reads no guidance"
        yield Fault("setting_ignored", "generate.guidance_scale", what, "Set generate.guidance_scale=0")
    if base.family and base.family != card.family:
        what = f"is {card.family} on the card; the folder's configs say {base.family}"
        yield Fault("family_mismatch", "base_model.family", what, f"Set base_model.family={base.family}")


def check_family(request: Request, lora: LoraFile, base: ModelFolder | None) -> Iterator[Fault]:
    """The family of the LoRA, asked three times, against the family of the base."""
    if lora.kind != "lora":
        return  # check_fit says what it is
    card, claim, table = request.lora.family, _firm_claim(lora), lora.family
    said = {"card": card, "file": claim, f"{lora.num_tensors}/{lora.num_tensors} tensors": table}
    if not table and lora.families and ({card, claim} - {None}) - {*lora.families}:
        said[f"{lora.num_tensors}/{lora.num_tensors} tensors"] = " or ".join(lora.families)
    known = {name: family for name, family in said.items() if family}
    families = set(known.values())
    of_base = (base.family if base else None) or request.base_model.family
    if len(families) > 1:
        what = f"{lora_name(request)} says different things: " + ", ".join(f"{n} {f}" for n, f in known.items())
        yield Fault("family_mismatch", "lora", what, "Mend the card, or use the file that it describes", said)
    elif families and of_base not in families:
        family = families.pop()
        witnesses = _listed(list(known))
        agree = f"{witnesses} agree" if len(known) > 1 else f"{witnesses} says so"
        what = f"{lora_name(request)} was trained for family {family} ({agree}); base_model "
        what += f"{request.base_model.id} is {of_base}"
        fix = f"Choose {_base_of(request, family)}, or a LoRA for {of_base}"
        yield Fault("family_mismatch", "lora", what, fix, said)
    elif not families and not lora.families and not request.lora.accept_unknown:
        what = f"{lora_name(request)}: neither card, metadata nor tensors tell its family"
        fix = "Set lora.family on its card, or give a reason in lora.accept_unknown"
        yield Fault("cannot_tell", "lora.family", what, fix)


def _firm_claim(lora: LoraFile) -> str | None:
    return lora.claimed_family if lora.claims.firm else None  # names of files mislead


def _base_of(request: Request, family: str) -> str:
    return f"base_model={request.lora.base}" if request.lora.base else f"a base_model of family {family}"


FIXES = {
    "shape_conflict": "Choose the base it was trained on",
    "lora_unloadable": "Convert the file to a plain LoRA (kohya, PEFT or diffusers naming)",
    "base_quantised": "Choose the base with whole weights",
    "family_mismatch": "Choose the base it was trained on, or another LoRA",
    "cannot_tell": "Name its family and base on the card, or give a reason in lora.accept_unknown",
}


def check_fit(request: Request, lora: LoraFile, found: Fit | None, base: ModelFolder | None) -> Iterator[Fault]:
    """What its modules, its kind and its own words say about the base."""
    name = lora_name(request)
    if lora.kind != "lora" or not lora.modules:
        what = f"{name} is {lora.kind.replace('_', ' ')}, not a LoRA: {lora.num_tensors} tensors and no LoRA layer"
        yield Fault("lora_inert", "lora.path", what, "Point lora.path at a LoRA")
    elif found is None:
        if base and not request.lora.accept_unknown:  # without a base that is the fault
            what = f"{name}: the base's layers are not here to compare its {len(lora.modules)} modules with"
            yield Fault("cannot_tell", "lora", what, "Get the base, or give a reason in lora.accept_unknown")
    elif found.code == CANNOT_TELL and not request.lora.accept_unknown:
        yield Fault(found.code, "lora", f"{name} {shown(found.reason, 400)}", FIXES[found.code])
    elif found.answer != YES and found.code != CANNOT_TELL:
        fix = FIXES.get(found.code, "Choose the base it was trained on, or get or convert the whole file")
        yield Fault(found.code, "lora", f"{name}: {shown(found.reason, 400)} [{request.base_model.id}]", fix)


def check_trained_on(request: Request) -> Iterator[Fault]:
    """Fine-tuned bases share a family and every shape; whether a LoRA of one means anything on another is unknown."""
    trained, given = request.lora.base, request.base_model.id
    if request.mode == "lora" and trained and trained != given and not request.lora.accept_unknown:
        what = f"{lora_name(request)} was trained on {trained}; base_model is {given}"
        fix = f"Choose base_model={trained}, or give a reason in lora.accept_unknown"
        yield Fault("cannot_tell", "lora.base", what, fix)


def check_declared(request: Request, lora: LoraFile) -> Iterator[Fault]:
    """Rank and alpha of the card against the file: a lost alpha changes the strength in silence."""
    card = request.lora
    if card.rank and lora.rank and card.rank != lora.rank:
        yield Fault("card_mismatch", "lora.rank", f"is {card.rank}; the file has {lora.rank}", "Mend the card")
    if card.rank and len(ranks := lora.ranks()) > 1:
        what = f"is {card.rank}; the file has ranks {', '.join(map(str, sorted(ranks)))}"
        yield Fault("card_mismatch", "lora.rank", what, "Set lora.rank=null on the card: it differs between modules")
    if card.alpha and lora.alpha and card.alpha != lora.alpha:
        yield Fault("card_mismatch", "lora.alpha", f"is {card.alpha:g}; the file has {lora.alpha:g}", "Mend the card")


# ---- findings: the same questions, answered for the card


def findings(request: Request, base: ModelFolder, lora: LoraFile | None, found_fit: Fit | None) -> tuple[Finding, ...]:
    """What the contract card shows of an accepted request."""
    found = [_finding("base family", {"card": request.base_model.family, "folder": base.family})]
    if base.missing:
        what = f"enough for the contract, not for a run: {'; '.join(base.missing)}"
        found.append(Finding("base files", "cannot tell", shown(what, 800)))
    if lora is not None:
        said = {"card": request.lora.family, "file": _firm_claim(lora), "tensors": lora.family}
        found.append(_finding("LoRA family", {**said, "base": base.family}, _several(lora)))
        token = {"request": request.trigger.token, "card": request.lora.trigger, "file": lora.trigger}
        found.append(_finding("trigger token", token))
        found.append(_finding("rank", {"card": request.lora.rank, "file": lora.rank}))
        found.append(_finding("alpha", {"card": request.lora.alpha, "file": lora.alpha}))
    if found_fit is not None:
        evidence = f"{found_fit.binding.coverage} modules bind by name and widths; {shown(found_fit.reason, 400)}"
        found.append(Finding("binding", "agrees" if found_fit.answer == YES else "cannot tell", evidence))
    return tuple(found)


def _finding(question: str, said: Mapping[str, object], more: str = "") -> Finding:
    known = {name: value for name, value in said.items() if value is not None}
    answer = "cannot tell" if len(known) < 2 else "agrees" if len(set(known.values())) == 1 else "disagrees"
    evidence = ", ".join(f"{name} {value}" for name, value in known.items()) or "nothing said"
    return Finding(question, answer, evidence + more)


def _several(lora: LoraFile) -> str:
    """What tensors that cannot decide between families leave open."""
    return "" if lora.family or not lora.families else f"; its tensors fit {' or '.join(lora.families)}"


def lora_name(request: Request) -> str:
    return request.lora.id or request.lora.path or "the LoRA"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
