"""Going on with a run of 200,000 planned images of which 199,000 are done: time and memory until the first step starts.

The run's folder is made by our own plan, manifest and journal; its objects are small files. Ours is a process that
composes, checks, plans, reads the journal (every link of its chain checked) and decides what is left. The peer does
no more than parse the journal's lines and ask for the size of each object.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from runner import config, contract, execute, gpu, journal
from runner.execute import folders
from runner.store import digest
from tests.bench.timed import Row

NUM_PROMPTS, PER_PROMPT, NUM_LEFT = 2_000, 100, 1_000
LINES_AT_ONCE = 2_000

OURS = """
import gc, json, os, resource, sys, time
gc.disable()  # as the door does, until the first step
began = time.perf_counter()
from runner import config, contract, execute
from runner.timing import Clock
class Here(BaseException): pass
def work(step, bench):
    spent = time.perf_counter() - began
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"s": spent, "mib": mib, "is_first": step.items[0] == sys.argv[1]}), flush=True)
    os._exit(0)
agreed = contract.check(config.parse_request(config.compose(tuple(sys.argv[2:]))))
accepted = execute.accept(agreed, contract.pin(agreed))
execute.execute(accepted, {"generate": work}, Clock(), execute.Watch())
"""
PEER = """
import os, sys, time, json, resource
began = time.perf_counter()
import orjson
journal, objects = sys.argv[1:]
for line in open(journal, "rb"):
    event = orjson.loads(line)
    if event["event"] == "made":
        os.stat(f"{objects}/{event['object'][:2]}/{event['object'][2:]}").st_size
print(json.dumps({"s": time.perf_counter() - began, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def measure(pairs: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as place:
        words = _words(Path(place))
        folder, first = _unfinished(words)
        ours, peer = [], []
        for _ in range(max(2, pairs)):
            ours.append(_measured(OURS, first, *words))
            peer.append(_measured(PEER, str(folder / journal.JOURNAL), str(folder.parent.parent / "objects")))
            assert ours[-1]["is_first"], "a step that was done is begun again"
    return [
        Row("resume 199,000 of 200,000, whole process (s) / parse and stat", *_sides(ours, peer, "s"), "<= 5 s"),
        Row("the same (MiB)", *_sides(ours, peer, "mib"), "<= 500 MiB"),
    ]


def _sides(
    ours: list[dict[str, float]], peer: list[dict[str, float]], of: str
) -> tuple[float, float, tuple[float, ...]]:
    import statistics

    ratios = tuple(a[of] / b[of] for a, b in zip(ours, peer, strict=True))
    return statistics.median(a[of] for a in ours), statistics.median(b[of] for b in peer), ratios


def _measured(code: str, *words: str) -> dict[str, float]:
    ended = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert ended.stdout, ended.stderr[-2000:]
    value: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return value


def _words(place: Path) -> list[str]:
    prompts = place / "prompts.txt"
    prompts.write_text("\n".join(f"a {{trigger}} on a red background, number {n}" for n in range(NUM_PROMPTS)))
    return [
        "+experiment=demo", "prompt=from_file", f"prompt.file={prompts}", f"generate.images_per_prompt={PER_PROMPT}",
        "stages=[generate]", "critic=none", "track=none", "generate.batch_size=8", f"outputs={place / 'outputs'}",
        "storage.min_free_mib=0",
    ]  # fmt: skip


def _unfinished(words: list[str]) -> tuple[Path, str]:
    """The run folder as it is when 1,000 images are left, and the first item of the step that comes next."""
    agreed = contract.check(config.parse_request(config.compose(tuple(words))))
    accepted = execute.accept(agreed, contract.pin(agreed))
    outputs = Path(accepted.request.outputs)
    folder = folders.run_folder(accepted, outputs)
    log, _ = journal.open_log(folder, folders.keep_manifest(accepted, folder)[0], list)
    log.append({"event": "started", "owner": gpu.this_process(folder.name, "generator").as_dict(), "left": {}})
    for byte in range(256):
        (outputs / "objects" / f"{byte:02x}").mkdir(parents=True)
    lines: list[journal.Event] = []
    num_steps = len(accepted.plan.steps) - NUM_LEFT // accepted.request.generate.batch_size
    for step in accepted.plan.steps[:num_steps]:
        for item, image in zip(step.items, step.images, strict=True):
            lines.append(_made(item, step.digest, image.seed, image.prompt.text, outputs))
        if len(lines) >= LINES_AT_ONCE:
            log.append(*lines)
            lines = []
    log.append(*lines)
    return folder, accepted.plan.steps[num_steps].items[0]


def _made(item: str, step: str, seed: int, text: str, outputs: Path) -> journal.Event:
    data = item.encode()
    name = digest(data)
    path = outputs / "objects" / name[:2] / name[2:]
    path.write_bytes(data)
    past = path.stat().st_mtime - 60
    os.utime(path, (past, past))
    timing = {"encode_prompt_s": 0.000123, "sample_s": 0.123456, "decode_s": 0.012345}
    facts = {"seed": seed, "prompt": text, "width": 64, "height": 64, "batch": 8, "timing": timing}
    return {"event": "made", "key": item, "step": step, "object": name, "bytes": len(data), "facts": facts}
