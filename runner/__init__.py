"""Declarative experiments with LoRA image generation: a request is refused or accepted whole."""
