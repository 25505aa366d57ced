"""Get what tests of real servers need: `python -m tests.servers [vllm]`.

It says what is there, or why not, and ends with 0: tests of a server that cannot be had are skipped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.servers import llama, vllm


def main(words: list[str]) -> None:
    _say("llama-server", llama.find_or_get)
    if "vllm" in words:
        _say("vllm", vllm.find_or_get)


def _say(name: str, find_or_get: Callable[[], Path | str]) -> None:
    began = time.monotonic()
    found = find_or_get()
    there = not isinstance(found, str)
    print(f"{name}: {found} ({time.monotonic() - began:.1f} s)" if there else f"{name}: {found}; its tests are skipped")


if __name__ == "__main__":
    main(sys.argv[1:])
