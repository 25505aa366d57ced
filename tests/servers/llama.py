"""A real `llama-server`: the one on PATH, or the one in the cache, which comes from Debian.

`find` only looks; `find_or_get` fetches when there is none. Both give the program, or in words why there is none.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests import servers
from tests.servers import debian, tiny_gguf


def find() -> Path | str:
    """The program, without any network."""
    if (there := shutil.which("llama-server")) is not None:
        return Path(there)
    cached = debian.program(_folder())
    return cached if cached.exists() else "there is no llama-server; `python -m tests.servers` gets one"


def find_or_get() -> Path | str:
    """The program; fetched once, about ten seconds and 20 MB, and never again."""
    found = find()
    return debian.get(_folder()) if isinstance(found, str) else found


def tiny_model() -> tiny_gguf.TinyGguf:
    """The files of a tiny model with image input, made on first use."""
    return tiny_gguf.make(servers.cache() / tiny_gguf.name())


def _folder() -> Path:
    return servers.cache() / f"llama-server-{debian.RECIPE}"
