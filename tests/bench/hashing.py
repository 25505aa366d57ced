"""`check` of a store's objects against a plain pool of threads that hashes the same files and knows nothing.

Both read every byte of 20,000 files of 64 KB from the page cache; ours also finds each object's place, says what is
there and what is not, and never has more than a few names in hand.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from runner import store
from runner.store import Store
from tests.bench.timed import Row, in_pairs

NUM_FILES = 20_000
FILE_BYTES = 64 << 10


def measure(pairs: int) -> list[Row]:
    num_threads = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as place:
        objects = Store(Path(place) / "objects")
        names = _fill(objects)
        paths = [objects.path(name) for name in names]
        mb = NUM_FILES * FILE_BYTES / 1e6
        row = in_pairs(
            f"verify's hashing, {NUM_FILES:,} files of 64 KB ({mb:.0f} MB), {num_threads} threads / a plain pool (s)",
            lambda: _spent(lambda: _ours(objects, names, num_threads)),
            lambda: _spent(lambda: _theirs(paths, num_threads)),
            pairs=pairs,
            goal="<= 1.5 (2/3 of the rate)",
        )
    return [row]


def _fill(objects: Store) -> list[str]:
    """Files as the store would have written them, without its syncs: only reading is timed."""
    names = []
    for number in range(NUM_FILES):
        data = number.to_bytes(8, "little") * (FILE_BYTES // 8)
        names.append(store.digest(data))
        path = objects.path(names[-1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return names


def _ours(objects: Store, names: list[str], num_threads: int) -> None:
    assert all(each.sound for each in objects.check(names, num_threads))


def _theirs(paths: list[Path], num_threads: int) -> None:
    with ThreadPoolExecutor(num_threads) as pool:
        assert sum(1 for _ in pool.map(_hash, paths)) == NUM_FILES


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _spent(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
