"""Get what tests of real servers need: `python -m tests.servers`; says what is there, or why not, and ends with 0."""

from __future__ import annotations

import time

from tests.servers import llama


def main() -> None:
    began = time.monotonic()
    found = llama.find_or_get()
    if isinstance(found, str):
        print(f"llama-server: {found}; its tests are skipped")
        return
    model = llama.tiny_model()
    print(f"llama-server: {found}, with {model.model.name} ({time.monotonic() - began:.1f} s)")


if __name__ == "__main__":
    main()
