"""A disk that is full, forbids writing, or takes back its permission: named, with its cause, and nothing half there."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner import store
from runner.errors import Failed, Unavailable
from runner.store import Store
from tests import fakes
from tests.store.server import hands, place

NOBODY = 65534
DATA = b"x" * 200_000

LIMITED = """
import resource, sys
from pathlib import Path
from runner.errors import Failed
from runner.store import Store
objects = Store(Path(sys.argv[1]))
print(objects.put(b"small"))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    objects.put(b"x" * 200_000)
except Failed as error:
    print(error.kind, error)
"""


def whole(objects: Store) -> list[str]:
    """What lies in the store; nothing else may, not even a leftover."""
    names = [each.name for each in objects.listing()]
    assert hands(objects).places() == sorted(map(place, names))
    return names


@contextmanager
def as_nobody() -> Iterator[None]:
    """Permissions mean nothing to root: go on as somebody who must keep to them."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def objects() -> Iterator[Store]:
    """A store that belongs to whoever `as_nobody` is, in a folder that he can reach."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(root, NOBODY, NOBODY)
    yield Store(root / "objects")
    shutil.rmtree(root)


def test_a_file_that_may_not_grow_is_a_storage_failure_and_leaves_nothing(tmp_path: Path) -> None:
    answer = fakes.python("-c", LIMITED, str(tmp_path / "objects"))
    small, said = answer.out.splitlines()
    objects = Store(tmp_path / "objects")
    assert said.startswith(
        f"storage - outputs ({objects.path(store.digest(DATA))}): cannot be written (File too large)"
    )
    assert whole(objects) == [small]


def test_a_disk_that_is_really_full_loses_nothing_that_was_stored(tmp_path: Path) -> None:
    words = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(tmp_path)]
    mounted = subprocess.run(words, capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("may not mount a small disk here")
    try:
        objects = Store(tmp_path / "objects")
        first = objects.put(DATA)
        with pytest.raises(Failed, match=r"cannot be written \(No space left on device\)\. Free space or mend"):
            objects.put(DATA + b"y")
        assert (whole(objects), objects.get(first)) == ([first], DATA)
        objects.remove(first)
        assert objects.get(objects.put(DATA + b"y")) == DATA + b"y"
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_folder_that_may_not_be_written_is_named(objects: Store) -> None:
    with as_nobody():
        objects.root.mkdir()
        objects.root.chmod(0o555)
        said = rf"outputs \({objects.root}.*\): cannot be written \(Permission denied\)\. Free space"
        with pytest.raises(Failed, match=said):
            objects.put(b"x")
        with pytest.raises(Unavailable, match=said):
            objects.probe()
        assert whole(objects) == []


def test_a_permission_lost_in_the_middle_keeps_what_was_there(objects: Store) -> None:
    with as_nobody():
        name = objects.put(b"x")
        objects.path(name).parent.chmod(0o555)
        with pytest.raises(Failed, match=r"cannot be removed \(Permission denied\)"):
            objects.remove(name)
        assert (objects.put(b"x"), whole(objects)) == (name, [name])
        objects.path(name).parent.chmod(0o755)


def test_an_object_that_may_not_be_read_is_a_finding_of_check_and_a_failure_of_get(objects: Store) -> None:
    with as_nobody():
        name = objects.put(b"x")
        objects.path(name).chmod(0)
        (found,) = objects.check([name], 1)
        assert (found.found, found.problem) == (None, "cannot be read (Permission denied)")
        for attempt in (lambda: objects.get(name), lambda: objects.holds(name), lambda: objects.put(b"x")):
            with pytest.raises(Failed, match=rf"{name[2:]}\): cannot be read \(Permission denied\)"):
                attempt()
