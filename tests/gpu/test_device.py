"""The promises of the default suite, made again on a CUDA device; skips without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.__main__ import main

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]

REQUEST = ["+experiment=demo", "hardware=cuda", "track=none", "output=json"]


def run(outputs: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, object]:
    assert main([*REQUEST, f"outputs={outputs}", *more]) == 0
    line: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return line


def test_the_demo_completes_on_the_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, capsys)["status"] == "complete"


def test_the_same_command_makes_nothing_again_on_the_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, capsys)
    assert run(tmp_path, capsys)["made"] == {}


def test_bfloat16_and_model_offload_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, capsys, "runtime=bfloat16_offload")["status"] == "complete"


def test_the_device_is_empty_after_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, capsys)
    assert torch.cuda.memory_allocated() < 64 << 20
