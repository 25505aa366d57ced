"""Declarative experiments with LoRA image generation: a request is refused or accepted whole."""

import time

STARTED_S = time.perf_counter()  # as near as Python code gets to the start of its process
