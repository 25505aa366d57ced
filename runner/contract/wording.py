"""Do the words fit: trigger token, prompts and their tokens? Pure: facts in, faults out.

The trigger is matched exactly as it is written on the LoRA's card and in its file; what only looks like it is
a fault, because the picture would be no evidence for the LoRA.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Iterator, Sequence

from runner.config.tree import Request
from runner.contract.families import LoraFile
from runner.contract.rules import lora_name
from runner.errors import Fault
from runner.prompt import SLOT, ComposedPrompt, Entry, TokenCount

NEAR = 0.8
ANGLE_WORD = re.compile(r"<[^<>\s]+>")


def check_trigger(request: Request, lora: LoraFile | None) -> Iterator[Fault]:
    """The token of the request against the one of the card and the one of the file."""
    token, card = request.trigger.token, request.lora.trigger
    own = lora.trigger if lora else None
    if card and own and card != own:
        what = f"is {card!r} on the card; the file says it was trained with {own!r}"
        yield Fault("trigger_mismatch", "lora.trigger", what, f"Set lora.trigger={own!r} or use the other file")
    wanted = card or own
    if not token and request.trigger.mode != "forbidden" and not wanted:
        what = f"has mode {request.trigger.mode} and no token"
        yield Fault("trigger_missing", "trigger.token", what, "Name the token, or choose trigger=none")
    if request.mode == "base":
        if token and request.trigger.mode == "required":
            fix = "Choose trigger=none, or mode=lora with the LoRA it belongs to"
            what = f"is {token!r}, and mode=base has no LoRA that could answer to it"
            yield Fault("trigger_without_lora", "trigger", what, fix)
        return
    if not (request.lora.id or request.lora.path):
        return  # check_mode says what is wrong
    if wanted and not token:
        fix = f"Set trigger.token={wanted!r}; trigger.mode=forbidden tests the LoRA without its trigger"
        yield Fault("trigger_missing", "trigger", f"is none; {lora_name(request)} answers to {wanted!r}", fix)
    elif token and wanted != token:
        source = " and ".join(n for n, said in (("card", card), ("file", own)) if said) or "card"
        what = f"is {token!r}; {lora_name(request)} answers to {wanted or 'no trigger'} ({source})"
        fix = f"Set trigger.token={wanted!r}" if wanted else "Choose trigger=none"
        yield Fault("trigger_mismatch", "trigger.token", what, fix, {"given": token, "trained": wanted})


def check_prompts(request: Request, prompts: Sequence[ComposedPrompt]) -> Iterator[Fault]:
    """The trigger in every prompt as its mode says, exactly as written; nothing that only looks like it."""
    likeness = functools.cache(_likeness)  # ten thousand prompts share most of their words
    for prompt in prompts:
        strange = [word for word in _lookalikes(request, prompt, likeness) if word != request.trigger.token]
        for word in strange:
            yield _strange_word(request, prompt.where, word)
        if not strange:
            yield from _presence(request, prompt, prompt.where)


def _presence(request: Request, prompt: ComposedPrompt, where: str) -> Iterator[Fault]:
    token, mode = request.trigger.token, request.trigger.mode
    if mode == "forbidden" and prompt.triggered:
        code = "trigger_without_lora" if request.mode == "base" else "trigger_forbidden"
        yield Fault(code, where, f"has the trigger {token!r}, and trigger.mode is forbidden", f"Take out {SLOT}")
    if token and prompt.variant != "without" and mode != "forbidden" and not prompt.triggered:
        fix = f"Write {SLOT} where the token belongs"
        yield Fault("trigger_missing", where, f"has no trigger, and trigger.mode is {mode}", fix)


def check_slots(request: Request, entries: Sequence[Entry]) -> Iterator[Fault]:
    """A slot asks for a token; without one the prompt would lose a word in silence."""
    if request.trigger.token:
        return
    if any(SLOT in text for entry in entries for text in entry.sections.values()):
        fix = "Choose a trigger (trigger=emblem), or a prompt set without the slot (prompt=shapes)"
        code = "trigger_missing" if request.mode == "lora" else "trigger_without_lora"
        where = "prompt.file" if request.prompt.file else "prompt.items"
        yield Fault(code, where, f"of set {request.prompt.set} have {SLOT}, and trigger is none", fix)


def _lookalikes(request: Request, prompt: ComposedPrompt, likeness: Callable[[str, str], float]) -> list[str]:
    """Words that look like a trigger: in angle brackets, or nearly the token, or the token in another case."""
    found = ANGLE_WORD.findall(prompt.text)
    token = request.trigger.token or request.lora.trigger
    if token and not prompt.triggered and prompt.variant != "without":
        words = {word.strip(",.;:") for word in prompt.text.lower().split()}
        like, nearest = max(((likeness(word, token.lower()), word) for word in words), default=(0.0, ""))
        found += [nearest] if like else []
    cased = {word.lower(): word for word in prompt.text.split()}
    return list(dict.fromkeys(cased.get(word, word) for word in found))


def _likeness(word: str, token: str) -> float:
    """How alike two words are, 0 for those that are not nearly the same (as difflib.get_close_matches has it)."""
    matcher = difflib.SequenceMatcher(None, word, token)
    near = all(ratio() >= NEAR for ratio in (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio))
    return matcher.ratio() if near else 0.0


def _strange_word(request: Request, where: str, word: str) -> Fault:
    token = request.trigger.token or request.lora.trigger
    if word.startswith(("<lora:", "<lyco:")):
        fix = "Choose the LoRA in config (lora=NAME lora.scale=1.0) and take this out of the prompt"
        return Fault("trigger_mismatch", where, f"has {word!r}, which loads nothing here", fix)
    if request.mode == "base" and not token:
        fix = "Take it out, or choose mode=lora with the LoRA it belongs to"
        return Fault("trigger_without_lora", where, f"has {word!r}, and there is no LoRA", fix)
    near = token and difflib.SequenceMatcher(None, word.lower(), token.lower()).ratio() > 0.6
    if request.trigger.mode == "forbidden":
        return Fault("trigger_mismatch", where, f"has {word!r}, and trigger.mode is forbidden", "Take it out")
    hint = f"Did you mean {token!r}? Write {SLOT}" if near else f"The trigger here is {token!r}; write {SLOT}"
    return Fault("trigger_mismatch", where, f"has {word!r}, which is not the trigger {token!r}", hint)


def check_tokens(request: Request, counts: Sequence[TokenCount]) -> Iterator[Fault]:
    budget = request.prompt.budget
    for count in counts:
        where = count.where
        if count.controls:
            what = f"has {count.controls[0]!r}, which {count.encoder} reads as a control token"
            yield Fault("prompt_control", where, what, "Take it out")
        if count.headroom < 0 and request.prompt.overflow == "error":
            what = f"has {count.templated} tokens for {count.encoder}, the limit is {count.limit}; "
            what += f"lost would be: {count.lost!r}" if count.lost else "lost would be the end of its chat template"
            yield Fault("prompt_overflow", where, what, "Shorten it, or set prompt.overflow=truncate")
        elif not count.trigger_survives():
            what = f"loses its trigger in {count.encoder}: it stands behind token {count.limit}"
            yield Fault("prompt_overflow", where, what, "Move {trigger} to the front")
        elif count.raw > budget.max:
            what = f"has {count.raw} tokens for {count.encoder}, the budget ends at {budget.max}"
            yield Fault("prompt_overflow", where, what, "Shorten it, or raise prompt.budget.max")
        if budget.mode == "product" and count.raw < budget.min and count.sections:
            what = f"has {count.raw} tokens for {count.encoder}, a product prompt needs {budget.min}"
            yield Fault("prompt_under_budget", where, what, "Say more, or set prompt.budget.mode=explore")


def check_sections(request: Request, prompts: Sequence[ComposedPrompt]) -> Iterator[Fault]:
    if request.prompt.budget.mode != "product":
        return
    for prompt in prompts:
        have = {section.name for section in prompt.sections}
        for name in request.prompt.required:
            if name not in have:
                fix = f"Write it, or take it out of prompt.required ({', '.join(request.prompt.required)})"
                yield Fault("prompt_section_missing", prompt.where, f"has no section {name!r}", fix)
