"""`verify --all` against hashing the same files in parallel and knowing nothing after it: 20,000 small, 200 large.

The peer lists the folder, and hashes every file in as many threads as ours. Both find warm files.
"""

from __future__ import annotations

import hashlib
import os
import random
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from runner import journal, store
from runner.verbs import verify as verifying
from tests.bench.timed import Row, in_pairs

SMALL, LARGE = (20_000, 32 << 10), (200, 4 << 20)  # files, bytes
PIECE = 64  # files that a thread of the peer hashes before it asks for more


def measure(pairs: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        outputs = Path(name)
        write(outputs, *SMALL, *LARGE)
        return [
            in_pairs(
                "verify --all / hashing the same files in parallel (s)",
                lambda: _s(lambda: _verify(outputs)),
                lambda: _s(lambda: _peer(outputs / "objects")),
                pairs=pairs,
                goal="<= 1.5",
            )
        ]


REQUEST = {"name": "bench", "generate": {"width": 1024, "height": 1024}}
MANIFEST: dict[str, object] = {
    **dict.fromkeys(journal.REQUIRED),
    "run_id": "bench",
    "request": REQUEST,
    "prompts": [],
    "images": [],
}


def write(outputs: Path, num_small: int, small: int, num_large: int, large: int) -> None:
    """A complete run of that many objects, written without care for power cuts."""
    draw = random.Random(1)
    folder = outputs / "runs" / "bench"
    folder.mkdir(parents=True)
    manifest = journal.write_manifest(folder, MANIFEST)
    log, _ = journal.open_log(folder, manifest, list)
    sizes = [small] * num_small + [large] * num_large
    log.append(*(_made(outputs, number, draw.randbytes(size)) for number, size in enumerate(sizes)))
    log.append({"event": "ended", "status": "complete"})
    journal.seal(folder, log)


def _made(outputs: Path, number: int, data: bytes) -> journal.Event:
    name = store.digest(data)
    path = store.Store(outputs / "objects").path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    facts = {"width": 1024, "height": 1024, "timing": {"encode_prompt_s": 0.1, "sample_s": 4.2, "decode_s": 0.3}}
    return {
        "event": "made", "key": f"image/{number:06d}", "step": "0" * 64, "object": name, "bytes": len(data),
        "facts": facts,
    }  # fmt: skip


def _verify(outputs: Path) -> None:
    assert verifying.verify(outputs, None)["ok"]


def _peer(objects: Path) -> int:
    paths = [entry.path for folder in os.scandir(objects) for entry in os.scandir(folder.path)]
    pieces = [paths[at : at + PIECE] for at in range(0, len(paths), PIECE)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return sum(pool.map(_digests, pieces))


def _digests(paths: list[str]) -> int:
    for path in paths:
        with open(path, "rb") as file:  # noqa: PTH123  # the peer is as lean as a peer can be
            hashlib.file_digest(file, "sha256").hexdigest()
    return len(paths)


def _s(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began
