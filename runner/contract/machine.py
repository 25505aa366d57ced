"""What this machine has of what a request asks for: devices, classes, packages. Asked without importing them."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from runner.config.tree import Request
from runner.contract.folders import ModelFolder, known_to_diffusers
from runner.errors import Fault


def check_device(request: Request) -> Iterator[Fault]:
    hardware = request.hardware
    if hardware.on_missing == "fail" and not device_there(hardware.device, hardware.index):
        what = f"is {hardware.device}:{hardware.index}, which this machine does not have"
        fix = "Choose hardware=cpu, or allow it with hardware.on_missing=cpu (recorded as a fallback)"
        yield Fault("device_missing", "hardware.device", what, fix)


def check_classes(request: Request) -> Iterator[Fault]:
    """Classes that config names must exist in the diffusers that is installed."""
    for where, name in (
        ("base_model.pipeline", request.base_model.pipeline),
        ("generate.scheduler", request.generate.scheduler),
    ):
        if name and not (known_to_diffusers(name) and (name.endswith("Scheduler") or where == "base_model.pipeline")):
            fix = "Name a class that it exports, such as EulerDiscreteScheduler or StableDiffusionXLPipeline"
            yield Fault("unknown_option", where, f"{name} is not in the installed diffusers", fix)
    yield from _check_scheduler_package(request.generate.scheduler or "")


NEEDED_BY_SCHEDULER = {"DPMSolverSDEScheduler": "torchsde", "CosineDPMSolverMultistepScheduler": "torchsde"}


def _check_scheduler_package(name: str) -> Iterator[Fault]:
    package = NEEDED_BY_SCHEDULER.get(name)
    if package and importlib.util.find_spec(package) is None:
        what, fix = f"{name} needs {package}, and it is not installed", f"Install it: pip install {package}"
        yield Fault("dependency_missing", "generate.scheduler", what, fix)


NEEDED = {"PixtralProcessor": "torchvision"}  # class of transformers -> the package it asks for only when it is used


def check_packages(base: ModelFolder) -> Iterator[Fault]:
    """Some components need a package that is otherwise optional; without it the pipeline would not load."""
    for name, class_name in base.components.items():
        package = NEEDED.get(class_name)
        if package and importlib.util.find_spec(package) is None:
            what = f"has {name} of class {class_name}, which needs {package}, and it is not installed"
            fix = f"Install it: pip install '{package}' in the build that goes with your torch (extra: flux2)"
            yield Fault("dependency_missing", "base_model.path", what, fix)


def check_secrets(request: Request) -> Iterator[Fault]:
    """A password in the request would stand in the manifest for ever."""
    if urlsplit(request.track.uri or "").password is not None:
        fix = "Leave it out and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (a database: PGPASSWORD)"
        yield Fault("secret_in_config", "track.uri", "holds a password, which a manifest would keep", fix)


OUT_OF_MEMORY = re.compile(
    r"out of memory|not enough memory|(can't|cannot|could not|failed to|unable to) allocate|bad_alloc", re.IGNORECASE
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of any library says that there was no memory."""
    return isinstance(error, MemoryError) or bool(OUT_OF_MEMORY.search(str(error)))


def device_of(request: Request) -> str:
    """The kind of device the work will run on, fallback included."""
    hardware = request.hardware
    falls_back = hardware.on_missing == "cpu" and not device_there(hardware.device, hardware.index)
    return "cpu" if falls_back else hardware.device


def device_there(device: str, index: int) -> bool:
    """Whether the machine has the device, asked of the operating system (torch would take seconds)."""
    import platform

    if device == "cuda":
        return Path(f"/dev/nvidia{index}").exists() or Path("/dev/dxg").exists()
    if device == "mps":
        return platform.system() == "Darwin" and platform.machine() == "arm64"
    return True
