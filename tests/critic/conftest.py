"""Supervised programs for tests: one for each test, and one that stands for a whole file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.critic.supervised import World, world_in


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with world_in(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server that is up; for tests that only look."""
    with world_in(tmp_path_factory.mktemp("standing")) as made:
        made.start()
        yield made
