"""Admission: pure, with every number in its text; and memory as it is asked and measured."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import gpu
from runner.gpu.admission import Source, admit
from runner.gpu.memory import limits
from tests.gpu_lease.takers import python

HELD = gpu.Holder({"pid": 5, "run_id": "demo-1", "need_mib": 700, "peak_mib": 650})
BARE = gpu.Holder({"pid": 5, "run_id": "demo-1"})
NEXT = gpu.Holder({"pid": 6, "run_id": "demo-2"}, waits=True)
ORDER = ("admit", "wait", "never")
TOOK = "process 5 (run demo-1), which has taken 650 MiB so far and said that it needs 700 MiB"


@pytest.mark.parametrize(
    ("need", "source", "free", "total", "held", "verdict", "text"),
    [
        (500, "headers", 600, 800, None, "admit",
         "cpu has 600 MiB of memory free of 800 MiB; the weights alone need about 500 MiB (counted from their "
         "headers)"),
        (600, "measured", 600, 800, None, "admit",
         "cpu has 600 MiB of memory free of 800 MiB; this took 600 MiB when it was measured before"),
        (601, "measured", 600, 800, None, "wait",
         "cpu has 600 MiB of memory free of 800 MiB; this took 601 MiB when it was measured before"),
        (801, "declared", 600, 800, None, "never", "cpu has 800 MiB of memory in all; this said that it needs 801 MiB"),
        (801, "declared", 600, 800, HELD, "never", "cpu has 800 MiB of memory in all; this said that it needs 801 MiB"),
        (0, "declared", 0, 800, None, "admit",
         "cpu has 0 MiB of memory free of 800 MiB; nothing is known of what this needs"),
        (10**9, "headers", None, None, None, "admit",
         "cpu has memory that cannot be asked, so nothing is compared; the weights alone need about 1000000000 MiB "
         "(counted from their headers)"),
        (700, "measured", 650, None, None, "wait",
         "cpu has 650 MiB of memory free; this took 700 MiB when it was measured before"),
        (0, "declared", 600, 800, BARE, "wait", "cpu is held by process 5 (run demo-1)"),
        (500, "measured", 100, 800, HELD, "wait",
         f"cpu is held by {TOOK}; it has 100 MiB of memory free of 800 MiB, and this took 500 MiB when it was "
         "measured before"),
        (0, "declared", 600, 800, NEXT, "wait", "cpu is next for process 6 (run demo-2), which waits before this"),
    ],
)  # fmt: skip
def test_admission_compares_numbers_and_says_them(
    need: int, source: Source, free: int | None, total: int | None, held: gpu.Holder | None, verdict: str, text: str
) -> None:
    found = admit(gpu.Needs("cpu", need, source), gpu.Memory(free, total), held)
    assert (found.verdict, found.text) == (verdict, text)
    assert (found.fault is None) == (verdict == "admit")


def test_the_faults_have_stable_codes_and_the_numbers_as_evidence() -> None:
    needs, memory = gpu.Needs("cuda:0", 20_000, "headers"), gpu.Memory(1_000, 8_000)
    never, busy = admit(needs, memory, None).fault, admit(gpu.Needs("cuda:0", 10), memory, BARE).fault
    short = admit(gpu.Needs("cuda:0", 2_000), memory, None).fault
    assert never and busy and short
    assert [never.code, busy.code, short.code] == ["over_capacity", "device_held", "over_capacity"]
    assert never.evidence == {"need_mib": 20_000, "free_mib": 1_000, "total_mib": 8_000}
    assert busy.evidence["holder"] == {"pid": 5, "run_id": "demo-1"}
    assert str(never) == (
        "hardware: cuda:0 has 8000 MiB of memory in all; the weights alone need about 20000 MiB (counted from their "
        "headers). Choose a smaller runtime.dtype, runtime.offload=model, or another device."
    )


MIB = st.integers(0, 1_000)
ASKED = st.builds(gpu.Memory, st.none() | MIB, st.none() | MIB)


@given(small=MIB, more=MIB, memory=ASKED, held=st.sampled_from([None, BARE, HELD, NEXT]))
def test_who_needs_more_is_never_admitted_sooner(
    small: int, more: int, memory: gpu.Memory, held: gpu.Holder | None
) -> None:
    verdicts = [admit(gpu.Needs("cpu", need), memory, held).verdict for need in (small, small + more)]
    assert ORDER.index(verdicts[0]) <= ORDER.index(verdicts[1])


@given(need=MIB, memory=ASKED)
def test_a_held_device_admits_nobody(need: int, memory: gpu.Memory) -> None:
    free, held = (admit(gpu.Needs("cpu", need), memory, holder).verdict for holder in (None, HELD))
    assert held == ("never" if free == "never" else "wait")


@given(record=st.dictionaries(st.sampled_from(["pid", "run_id", "peak_mib", "need_mib", "child", "command"]),
                              st.none() | st.text(max_size=3) | st.lists(MIB, max_size=1) | st.floats()))  # fmt: skip
def test_any_record_of_a_holder_can_be_said(record: dict[str, Any]) -> None:
    assert admit(gpu.Needs("cpu", 1), gpu.Memory(1, 1), gpu.Holder(record)).text.startswith("cpu is held by ")


# ---- memory of devices


def test_the_memory_of_the_machine_is_known_and_of_no_card_is_not() -> None:
    cpu = gpu.memory_of("cpu")
    assert 0 < (cpu.free_mib or 0) <= (cpu.total_mib or 0)
    assert gpu.memory_of("cuda:99") == gpu.Memory(None, None)
    assert gpu.memory_of("mps") == gpu.Memory(None, None)


def group(folder: Path, **files: int | str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_the_least_limit_of_a_container_counts(tmp_path: Path) -> None:
    group(tmp_path, memory__max="max", memory__current=900)
    group(tmp_path / "box", memory__max=1000, memory__current=700, memory__stat="anon 5\ninactive_file 100")
    group(tmp_path / "box" / "job", memory__max=2000, memory__current=500)
    assert limits(tmp_path, "0::/box/job\n") == (1000, 400)
    assert limits(tmp_path, "0::/elsewhere\n") == (None, None)


def test_a_limit_of_the_older_kind_counts(tmp_path: Path) -> None:
    group(tmp_path / "memory", memory__limit_in_bytes=2**63 - 4096, memory__usage_in_bytes=5)
    group(tmp_path / "memory" / "box", memory__limit_in_bytes=1000, memory__usage_in_bytes=1200)
    assert limits(tmp_path, "5:cpu:/\n4:memory:/box\n0::/\n") == (1000, 0)
    assert limits(tmp_path, "4:memory:/\n") == (None, None)
    assert limits(tmp_path, "") == (None, None)


# ---- peaks


PEAK = """
from runner import gpu
before = bytearray(200 << 20)
before[::4096] = b"x" * len(before[::4096])
del before
meter = gpu.PeakMeter("cpu")
meter.start()
print(meter.read())
work = bytearray(64 << 20)
work[::4096] = b"x" * len(work[::4096])
del work
print(meter.read())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts a peak anew")
def test_a_peak_is_that_of_the_work_and_not_of_what_was_before() -> None:
    with python(PEAK) as process:
        first, second = process.communicate()[0].split()
    assert int(first) < 8
    assert 60 <= int(second) < 80


def test_a_card_is_asked_only_where_torch_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        reset_peak_memory_stats=lambda index: asked.append(("reset", index)),
        max_memory_reserved=lambda index: 300 << 20,
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    meter = gpu.PeakMeter("cuda:2")
    meter.start()
    assert (meter.read(), asked) == (300, [("reset", 2)])
    cuda.is_initialized = lambda: False
    assert (meter.read(), gpu.PeakMeter("mps").read()) == (0, None)
