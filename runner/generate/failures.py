"""What other libraries raise while a pipeline loads and samples, as failures of our taxonomy with a cause and a hint.

It refuses nothing and retries nothing: no setting is changed behind the user's back. An error that arises in a line of
our own is a bug and goes on as it is. What it does not know: phases; the clock keeps those.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb

from runner.config.tree import Request
from runner.contract.machine import is_out_of_memory
from runner.errors import Failed, Fault, RunnerError, first_line

DTYPE = re.compile(  # how torch says that an operation is not there for a type of numbers
    r"not implemented for '?\w*(Half|BFloat16|Float8)|expected (m1 and m2|scalar type|mat1 and mat2)"
    r"|must have the same dtype|type \(.*\) should be the same|unsupported ScalarType|BFloat16.* support",
    re.IGNORECASE,
)
ROOM = f"{Path(__file__).resolve().parent.parent}/"
AGAIN = "Look at it with `python -m runner inspect`, and get its files again"
BY_SETTINGS = "Try another generate.scheduler, generate.steps or size; the same command goes on where it stopped"


@contextmanager
def while_loading(request: Request, folder: Path, device: str) -> Iterator[None]:
    """Raises Failed(load | oom) in place of what diffusers, transformers, safetensors and torch raise."""

    def told(error: Exception) -> Fault:
        return Fault("load_failed", "base_model.path", f"{folder} does not load: {_named(error)}", AGAIN, _at(error))

    with _translated("load", request, device, None, told):
        yield


@contextmanager
def while_sampling(request: Request, device: str, item: str) -> Iterator[None]:
    """Raises Failed(sampling | oom) at the first item of the batch, in place of what a pipeline raises."""

    def told(error: Exception) -> Fault:
        return Fault("sampling_failed", item, f"the pipeline stopped: {_named(error)}", BY_SETTINGS, _at(error))

    with _translated("sampling", request, device, item, told):
        yield


@contextmanager
def _translated(
    kind: str, request: Request, device: str, item: str | None, told: Callable[[Exception], Fault]
) -> Iterator[None]:
    try:
        yield
    except RunnerError:
        raise
    except Exception as error:  # the libraries raise a dozen kinds
        if is_out_of_memory(error):
            raise Failed("oom", out_of_memory(error, request, device), item=item) from error
        if _is_ours(error):
            raise
        fault = wrong_dtype(error, request, device) if DTYPE.search(str(error)) else told(error)
        raise Failed(kind, fault, item=item) from error


def out_of_memory(error: BaseException, request: Request, device: str) -> Fault:
    """What was asked for when memory ran out, and what would ask for less."""
    generate, runtime = request.generate, request.runtime
    size = f"{generate.width}x{generate.height} at batch_size {generate.batch_size} in {runtime.dtype}"
    what = f"ran out of memory for {size}, offload {runtime.offload} ({first_line(error)})"
    fix = "Choose a smaller generate.batch_size or size, a smaller runtime.dtype, or runtime.offload"
    return Fault("out_of_memory", device, what, fix)


def wrong_dtype(error: BaseException, request: Request, device: str) -> Fault:
    dtype = request.runtime.dtype
    others = [name for name in ("float32", "bfloat16", "float16") if name != dtype]
    what = f"is {dtype}, which {device} cannot do here ({first_line(error)})"
    return Fault("dtype_unsupported", "runtime.dtype", what, f"Choose {' or '.join(others)}; float32 works everywhere")


def weights_missing(folder: Path, component: str, names: list[str]) -> Failed:
    """A loader fills what it does not find with chance and warns; a picture of that is nobody's."""
    what = f"{folder} has no weights for {len(names)} tensors of {component} (first {min(names)})"
    evidence = {"component": component, "missing": sorted(names)[:10]}
    return Failed("load", Fault("weights_missing", "base_model.path", what, "Get its files again", evidence))


def _is_ours(error: BaseException) -> bool:
    """Whether the line that raised is one of this program."""
    trace = extract_tb(error.__traceback__)
    return bool(trace) and trace[-1].filename.startswith(ROOM)


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _at(error: BaseException) -> dict[str, str]:
    trace = extract_tb(error.__traceback__)
    return {"raised": f"{Path(trace[-1].filename).name}:{trace[-1].lineno}"} if trace else {}
