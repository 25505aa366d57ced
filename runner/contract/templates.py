"""The texts of a critic's profile: filled in, in a sandbox, and asked whether they can be.

It refuses a text that names what a critic is not told, that cannot be filled in for a prompt of the request, that says
nothing or too much, and a question without its prompt. What it does not know: what the words mean, and what a text
does with the letters of one prompt; prompts with the same sections are asked about once.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from runner.config.critic import CriticProfile
from runner.contract.shown import shown
from runner.errors import Fault, Refused, choose, first_line

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import ImmutableSandboxedEnvironment

VARIABLES = {  # what a template may write out: nothing of how an image was made but its prompt
    "system": ("rules", "criteria", "tags", "scale", "evidence"),
    "user": ("prompt", "sections"),
    "example": ("prompt", "decision", "note"),
}
EXAM_SECTIONS = {"subject": "a red circle", "background": "on a white background"}  # which every exam's prompts have
MAX_RENDERED_CHARS = 100_000
LOOP = re.compile(r"\{%-? *for \w+, *\w+ in sections\.items\(\) *-?%\}")  # right whatever sections there are


def check_template(profile: CriticProfile, name: str) -> Iterator[Fault]:
    """A text names only what it may show, and can be filled in."""
    where, source = f"critic.text.{name}", getattr(profile.text, name)
    try:
        used = _named(where, source)
        strange = sorted(used - {*VARIABLES[name]})
        for variable in strange:
            what, fix = f"names {variable!r}, which a critic is not told", choose(variable, VARIABLES[name])
            yield Fault("bad_template", where, what, fix)
        if not strange:
            yield from _check_length(where, filled(where, source, _words(profile, name)))
            yield from _check_prompt(where, name, used)
    except Refused as refusal:
        yield from refusal.faults


def check_texts(profile: CriticProfile, prompts: Iterable[tuple[str, Mapping[str, str]]]) -> Iterator[Fault]:
    """Whether the question can be put for each prompt (its text and its sections); one of each set of sections."""
    where, source = "critic.text.user", profile.text.user
    if "sections" not in LOOP.sub("", source):
        return  # the same for all prompts, and jinja2 is not imported
    kinds: dict[frozenset[str], tuple[str, Mapping[str, str]]] = {}
    for text, sections in prompts:
        kinds.setdefault(frozenset(sections), (text, sections))
    for text, sections in kinds.values():
        try:
            filled(where, source, {"prompt": text, "sections": dict(sections)})
        except Refused as refusal:
            what = f"{refusal.faults[0].what} (prompt {shown(text)}, with sections: {', '.join(sections) or 'none'})"
            fix = "Ask for a section with `if sections.NAME is defined`, or choose prompts that all have it"
            yield Fault("bad_template", where, what, fix)


def filled(where: str, source: str, words: Mapping[str, Any]) -> str:
    """The text with its words, without space around it. Raises Refused(bad_template)."""
    try:
        return _template(source).render(words).strip()
    except Exception as error:  # a template runs, and may fail in any way in which Python does
        raise Refused(_broken(where, error)) from error


def _named(where: str, source: str) -> set[str]:
    """The words that a template wants to be given. Raises Refused(bad_template)."""
    from jinja2 import meta

    room = _sandbox()
    try:
        return meta.find_undeclared_variables(room.parse(source)) - room.globals.keys()
    except Exception as error:  # as above
        raise Refused(_broken(where, error)) from error


@functools.lru_cache(maxsize=16)
def _template(source: str) -> Template:
    return _sandbox().from_string(source)


def _sandbox() -> ImmutableSandboxedEnvironment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )


def _broken(where: str, error: Exception) -> Fault:
    from jinja2 import TemplateError

    line = f" (line {error.lineno})" if hasattr(error, "lineno") else ""
    kind = "" if isinstance(error, TemplateError) or not str(error).strip() else f"{type(error).__name__}: "
    what = f"cannot be filled in{line}: {kind}{first_line(error).rstrip('.')}"
    return Fault("bad_template", where, what, "Mend it in conf/critic/text")


def _check_length(where: str, text: str) -> Iterator[Fault]:
    if not text or len(text) > MAX_RENDERED_CHARS:
        what = f"comes to {len(text)} characters" if text else "says nothing"
        yield Fault("bad_template", where, what, f"Write something, of at most {MAX_RENDERED_CHARS} characters")


def _check_prompt(where: str, name: str, used: set[str]) -> Iterator[Fault]:
    if name == "user" and "prompt" not in used:
        what = "does not show the prompt, by which the image is judged"
        yield Fault("bad_template", where, what, "Write {{ prompt }} in it")


def _words(profile: CriticProfile, name: str) -> Mapping[str, Any]:
    """The real rules for the system text, and for the others something in the shape of what comes."""
    if name == "system":
        return profile.model_dump(include=set(VARIABLES["system"]))
    return {"prompt": " ".join(EXAM_SECTIONS.values()), "sections": EXAM_SECTIONS, "decision": "approve", "note": ""}
