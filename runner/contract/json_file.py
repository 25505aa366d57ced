"""JSON files from elsewhere: regular files of a bounded size, or the reason why not.

What it does not know: what the values mean.
"""

from __future__ import annotations

import json
from pathlib import Path

from runner import store
from runner.contract.headers import Broken

MAX_CONFIG_BYTES = 4_000_000  # the index of a large model's shards takes 200 kB


def read_json_file(path: Path, limit: int = MAX_CONFIG_BYTES, named: str = "") -> object:
    """The value in a JSON file of at most `limit` bytes. Raises Broken; `named` is what its reason calls the file."""
    named = named or path.name
    try:
        value: object = json.loads(store.read_regular(path, limit))
    except FileNotFoundError as error:
        raise Broken(f"has no {named}") from error
    except (OSError, ValueError, RecursionError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise Broken(f"has {with_article(named)} that cannot be read ({reason})") from error
    return value


def with_article(name: str) -> str:
    return f"{'an' if name.startswith(('a', 'e', 'i', 'o')) else 'a'} {name}"
