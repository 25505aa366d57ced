"""Prompts: named sections and the trigger become one text, and every encoder's tokens are counted.

The trigger is put in at one place, here, where `{trigger}` stands. Counting uses the model's own tokenizer and
template through `tokenizers` and jinja2, without truncation and without importing transformers. It refuses a prompt
file or a tokenizer folder that it cannot read. What it does not know: whether the trigger is the LoRA's; that is the
contract's.
"""

from runner.prompt.compose import SLOT, ComposedPrompt, Section, compose_prompts, plain_prompt
from runner.prompt.entries import Entry, few, inline_entries, read_entries
from runner.prompt.tokens import Encoder, TokenCount, load_encoder
from runner.prompt.windows import Window, window

__all__ = [
    "SLOT", "ComposedPrompt", "Encoder", "Entry", "Section", "TokenCount", "Window", "compose_prompts", "few",
    "inline_entries", "load_encoder", "plain_prompt", "read_entries", "window",
]  # fmt: skip
