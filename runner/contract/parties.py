"""What the rules need to know of the five parties, read from disk: prompts, base, LoRA, tokens.

Each reader returns what it found and adds a fault for what it did not; whether they belong together is for `rules`.
"""

from __future__ import annotations

from typing import Any

from runner.config.tree import Request
from runner.contract.families import LoraFile, inspect_lora
from runner.contract.folders import ModelFolder, locate, read_model_folder
from runner.contract.headers import Broken
from runner.errors import Fault, Refused
from runner.prompt import (
    ComposedPrompt,
    Encoder,
    Entry,
    TokenCount,
    compose_prompts,
    inline_entries,
    load_encoder,
    plain_prompt,
    read_entries,
    window,
)


def read_prompts(request: Request, faults: list[Fault]) -> tuple[Entry, ...]:
    """The prompts as they were written: in config, or in the file that config names."""
    prompt = request.prompt
    if prompt.file is None:
        if prompt.items is None:
            faults.append(Fault("missing_value", "prompt.items", "is null, and so is prompt.file", "Give one of them"))
        return inline_entries(prompt)
    if prompt.items is not None:
        fix = "Choose prompt=from_file, or add prompt.items=null"
        faults.append(Fault("setting_ignored", "prompt.items", "is given, and prompt.file too", fix))
        return ()
    place = locate(prompt.file)
    if place is None:
        fix = "Set prompt.file to a .csv, .jsonl or .txt file"
        faults.append(Fault("prompt_file_missing", "prompt.file", f"{prompt.file} is not there", fix))
        return ()
    try:
        return read_entries(place, prompt.sections)
    except Refused as refusal:
        faults += refusal.faults
        return ()


def compose(request: Request, entries: tuple[Entry, ...], faults: list[Fault]) -> tuple[ComposedPrompt, ...]:
    try:
        return compose_prompts(request.prompt, request.trigger, entries)
    except Refused as refusal:
        faults += refusal.faults
        return ()


def read_base(request: Request, faults: list[Fault]) -> ModelFolder | None:
    card = request.base_model
    place = locate(card.path) if card.path else None
    if place is None:
        faults.append(Fault("base_missing", "base_model.path", f"{card.path or 'null'} is not there", _get_base(card)))
        return None
    try:
        folder = read_model_folder(place)
    except (Broken, OSError) as broken:
        fix = "Name a folder in from_pretrained form"
        faults.append(Fault("base_missing", "base_model.path", f"{place} {broken}", fix))
        return None
    if folder.missing and request.until != "contract":
        what = f"{place} {'; '.join(folder.missing)}"
        faults.append(Fault("base_missing", "base_model.path", what, _get_base(card)))
    return folder


def _get_base(card: Any) -> str:
    if card.repository:
        revision = f" --revision {card.revision}" if card.revision else ""
        command = f"hf download {card.repository}{revision} --local-dir {card.path or 'DIR'}"
        return f"Get it with `{command}`, or set base_model.path"
    if card.path == "builtin:tiny_sdxl":
        return "Make it with `python -m runner.builtin.make tiny_sdxl`"
    return "Set base_model.path to the model's folder"


def read_lora(request: Request, faults: list[Fault]) -> LoraFile | None:
    path = request.lora.path
    if request.mode == "base" or not path:
        return None
    place = locate(path)
    if place is None:
        fix = "Set lora.path to the .safetensors file, or the PEFT folder"
        faults.append(Fault("lora_missing", "lora.path", f"{path} is not there", fix))
        return None
    try:
        return inspect_lora(place)
    except (Broken, OSError) as broken:
        fix = "Get or save the file again; nothing of it was loaded"
        faults.append(Fault("lora_broken", "lora.path", f"{place} {broken}", fix))
        return None


def count_tokens(
    request: Request, base: ModelFolder | None, prompts: tuple[ComposedPrompt, ...], faults: list[Fault]
) -> tuple[tuple[Encoder, ...], tuple[TokenCount, ...]]:
    if base is None:
        return (), ()
    encoders: list[Encoder] = []
    counts: list[TokenCount] = []
    negative = request.generate.negative_prompt
    for name, folder in base.tokenizers.items():
        try:
            encoder = load_encoder(name, folder, window(base.pipeline, name))
            counts += encoder.count(prompts)
            counts += encoder.count([plain_prompt("negative_prompt", negative)], negative=True) if negative else []
        except Refused as refusal:
            faults += refusal.faults
        else:
            encoders.append(encoder)
    return tuple(encoders), tuple(counts)
