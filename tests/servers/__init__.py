"""Real servers for tests: how a machine gets them, the tiny models they serve, and how a test runs one.

`python -m tests.servers` fetches and is the only part that uses a network; tests find what is there, and skip with the
reason when nothing is. What is fetched or made stays in the user's cache and never comes into the repository.
"""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_cache_dir


def cache() -> Path:
    """Where servers and tiny models stay between runs of the tests."""
    return Path(user_cache_dir("runner-tests"))
