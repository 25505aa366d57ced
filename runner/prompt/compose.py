"""Entries and a trigger -> texts, and where every section and every trigger stands in them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from runner import store
from runner.config import tree
from runner.errors import Fault, Refused
from runner.prompt.entries import Entry, few, inline_entries

SLOT = "{trigger}"


@dataclass(frozen=True, slots=True)
class Section:
    """A named part of a composed text, and where it stands in it."""

    name: str
    text: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class ComposedPrompt:
    """One text as the encoders get it; `variant` is `with` or `without` in a probe, else empty."""

    id: str
    variant: str
    text: str
    sections: tuple[Section, ...]
    slots: tuple[tuple[int, int], ...]  # where the trigger stands in the text
    line: str = ""  # file and line that it was read from, empty for one of prompt.items

    @property
    def key(self) -> str:
        return f"{self.id}.{self.variant}" if self.variant else self.id

    @property
    def where(self) -> str:
        """What a message calls this prompt: the place in which a person would mend it."""
        return self.line or f"prompt.items ({self.key})"

    @property
    def triggered(self) -> bool:
        return bool(self.slots)


def compose_prompts(
    prompt: tree.Prompt, trigger: tree.Trigger, entries: Sequence[Entry] | None = None
) -> tuple[ComposedPrompt, ...]:
    """Every prompt of a set as text: `prompt.items`, or the entries that were read from `prompt.file`.

    Raises Refused for unknown sections, doubled names and empty texts.
    """
    faults: list[Fault] = []
    composed: list[ComposedPrompt] = []
    for entry in inline_entries(prompt) if entries is None else entries:
        sections = _ordered_sections(prompt, entry, faults)
        name = entry.id or _name(sections)
        composed += [_compose(name, arm, sections, prompt.separator, trigger.token, entry) for arm in _arms(trigger)]
    faults += _doubled(composed)
    faults += [_empty(p) for p in composed if not p.text]
    if faults:
        raise Refused(few(faults))
    return tuple(composed)


def plain_prompt(name: str, text: str) -> ComposedPrompt:
    """A text that is counted like a prompt but composed of nothing: the negative prompt."""
    return ComposedPrompt(name, "", text, (), ())


def _ordered_sections(prompt: tree.Prompt, entry: Entry, faults: list[Fault]) -> dict[str, str]:
    if entry.plain:
        return dict(entry.sections)
    for name in entry.sections.keys() - set(prompt.sections):
        what = f"has a section {name!r} that prompt.sections does not list"
        faults.append(Fault("unknown_key", entry.where, what, f"Known: {', '.join(prompt.sections)}"))
    return {name: entry.sections[name] for name in prompt.sections if name in entry.sections}


def _name(sections: Mapping[str, str]) -> str:
    """A name made of the first words and the content, so that it stays when others are added."""
    words = re.findall(r"[a-z0-9]+", " ".join(sections.values()).replace(SLOT, "").lower())
    return "-".join([*words[:4], store.digest_of(sections)[:6]])


class _Arm(NamedTuple):
    """A variant of every prompt, and the word that it puts into the slot."""

    variant: str
    word: str


def _arms(trigger: tree.Trigger) -> tuple[_Arm, ...]:
    token = trigger.token or ""
    return (_Arm("with", token), _Arm("without", trigger.without)) if trigger.mode == "probe" else (_Arm("", token),)


def _compose(
    name: str, arm: _Arm, sections: Mapping[str, str], separator: str, token: str | None, entry: Entry
) -> ComposedPrompt:
    text, placed, slots = "", [], []
    for section, template in sections.items():
        # a token written out in full is the same request as the slot
        part, found = _fill(_slotted(template, token) if token else template, arm.word)
        if not part:
            continue
        text += separator if text else ""
        slots += [(len(text) + begin, len(text) + end) for begin, end in found if arm.word and arm.word == token]
        placed.append(Section(section, part, len(text), len(text) + len(part)))
        text += part
    return ComposedPrompt(name, arm.variant, text, tuple(placed), tuple(slots), entry.line)


def _slotted(template: str, token: str) -> str:
    """Put the slot where the token stands as a word of its own: the `sks` of "asks" is none."""
    if token not in template:
        return template
    return re.sub(rf"(?<!\w){re.escape(token)}(?!\w)", lambda _: SLOT, template)


def _fill(template: str, word: str) -> tuple[str, list[tuple[int, int]]]:
    """Put `word` in every slot, with single spaces all over; returns the text and where the word stands."""
    text, found = "", []
    for number, piece in enumerate(" ".join(template.split()).split(SLOT)):
        if number and word:
            found.append((len(text), len(text) + len(word)))
            text += word
        text += piece.lstrip() if text.endswith(" ") or not text else piece
    return text.strip(), found


def _doubled(composed: Sequence[ComposedPrompt]) -> list[Fault]:
    first: dict[str, ComposedPrompt] = {}
    faults = []
    for prompt in composed:
        if prompt.key in first:
            again = f"{prompt.key!r} again, after {first[prompt.key].line}"
            what = f"is named {again}" if prompt.line else f"has two prompts named {prompt.key!r}"
            where = prompt.line or "prompt.items"
            faults.append(Fault("prompt_doubled", where, what, "Give each prompt an id of its own"))
        first.setdefault(prompt.key, prompt)
    return faults


def _empty(prompt: ComposedPrompt) -> Fault:
    return Fault("prompt_empty", prompt.where, "is an empty text", "Write what the image shows")
