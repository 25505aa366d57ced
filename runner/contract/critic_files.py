"""The files of a critic's runtime: are they here, and what is their digest? Nothing of them is loaded or downloaded.

What it does not know: whether they are any good.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from runner import store
from runner.config.critic import ClipRuntime, CriticProfile, OpenAIRuntime, TransformersRuntime
from runner.config.tree import Request
from runner.contract.folders import file_digest_cached, files_digest, locate, other_digest, weights_digest
from runner.errors import Fault

Runtime = ClipRuntime | TransformersRuntime | OpenAIRuntime

FILES = {  # what a model folder has: one of each row
    "clip": (("config.json",), ("preprocessor_config.json",), ("tokenizer_config.json",), ("*.safetensors",)),
    "transformers": (
        ("config.json",),
        ("preprocessor_config.json", "processor_config.json"),
        ("tokenizer_config.json", "tokenizer.json"),
        ("*.safetensors",),
    ),
}
FOLDER = {
    "clip": "Name a CLIPModel folder with its processor",
    "transformers": "Name the folder of a vision-language model with its processor",
}
PROGRAM = {  # how to get the program of an engine
    "vllm": "Install vLLM in an environment of its own (uv tool install vllm)",
    "llama_server": "Install llama.cpp (brew install llama.cpp, apt install llama.cpp, or a release of ggml-org)",
    "other": "Install it",
}
PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")  # of weights in several files


def check_files(profile: CriticProfile, runtime: Runtime) -> Iterator[Fault]:
    """Whether everything is here that the critic reads and starts."""
    if isinstance(runtime, OpenAIRuntime):
        yield from _check_weights(runtime)
        yield from _check_program(runtime)
        return
    yield from _check_folder(runtime)
    for name, path in _pictures(profile, runtime):
        if locate(path) is None:
            where = f"critic.criteria ({name}).clip.references"
            yield Fault("critic_missing", where, f"{path} is not there", "Name the folder that holds it")


def critic_files(request: Request) -> str | None:
    """One digest over all files that decide what the critic says, pictures included; None where it has none here."""
    profile, runtime = request.critic, request.critic_runtime
    if profile is None or runtime is None or not (places := _places(runtime)):
        return None
    pictures = [place for _, path in _pictures(profile, runtime) if (place := locate(path))]
    return store.digest_of([_digest(place) for place in (*places, *pictures)])


def critic_weights(request: Request) -> str | None:
    """What `critic_runtime.sha256` is compared with: the digest of its weight files, or of its one .gguf file."""
    places = _places(request.critic_runtime) if request.critic_runtime else []
    if not places:
        return None
    return weights_digest(places[0]) if places[0].is_dir() else _digest(places[0])


def check_weights(request: Request) -> Iterator[Fault]:
    """Whether the weights are those that the runtime expects."""
    wanted = request.critic_runtime and getattr(request.critic_runtime, "sha256", None)
    if wanted and (found := critic_weights(request)) and wanted != found:
        yield other_digest("critic_runtime.sha256", wanted, found)


# ---- what is missing


def _check_folder(runtime: ClipRuntime | TransformersRuntime) -> Iterator[Fault]:
    where, path = "critic_runtime.path", runtime.path
    found = locate(path) if path else None
    if found is None:
        yield Fault("critic_missing", where, f"{path or 'null'} is not there", "Name the folder that holds the model")
        return
    for names in FILES[runtime.backend]:
        if not any(any(found.glob(name)) for name in names):
            yield Fault("critic_missing", where, f"{path} has no {' or '.join(names)}", FOLDER[runtime.backend])


def _check_weights(runtime: OpenAIRuntime) -> Iterator[Fault]:
    for name, value in (("path", runtime.path), ("projector", runtime.projector)):
        where = f"critic_runtime.{name}"
        found = locate(value) if value else None
        if value and found is None:
            fix = f"Get it (hf download REPOSITORY --local-dir DIR), or set {where}"
            yield Fault("critic_missing", where, f"{value} is not there", fix)
        elif found and (lost := [part.name for part in _parts(found) if not part.exists()]):
            yield Fault("critic_missing", where, f"{value} is without {', '.join(lost)}", "Get all of its parts")


def _check_program(runtime: OpenAIRuntime) -> Iterator[Fault]:
    if runtime.server is None:
        return
    program = runtime.server.command[0]
    if shutil.which(Path(os.path.expandvars(program)).expanduser()) is None:
        what, fix = f"starts {program}, which is not on PATH", f"{PROGRAM[runtime.server.engine]}, or write its path"
        yield Fault("critic_missing", "critic_runtime.server.command", what, fix)


# ---- which files


def _pictures(profile: CriticProfile, runtime: Runtime) -> Iterator[tuple[str, str]]:
    """Criteria with reference pictures, and where those lie; an embedding model alone looks at them."""
    for criterion in profile.criteria if isinstance(runtime, ClipRuntime) else ():
        if criterion.clip and criterion.clip.references:
            yield criterion.id, criterion.clip.references


def _places(runtime: Runtime) -> list[Path]:
    """Where the files of a runtime lie: its weights first."""
    named = [runtime.path, runtime.projector if isinstance(runtime, OpenAIRuntime) else None]
    return [place for path in named if path and (place := locate(path))]


def _digest(place: Path) -> str:
    """Of a folder all its files; of a .gguf file its bytes, or those of all its parts."""
    if place.is_dir():
        return files_digest(place)
    parts = [file_digest_cached(part) for part in _parts(place)]
    return parts[0] if len(parts) == 1 else store.digest_of(parts)


def _parts(place: Path) -> list[Path]:
    """The parts that the name of a split .gguf file speaks of; of any other file or folder itself."""
    found = PART.search(place.name)
    if found is None or place.is_dir():
        return [place]
    stem, count = place.name[: found.start()], found[1]
    return [place.with_name(f"{stem}-{number:05d}-of-{count}.gguf") for number in range(1, int(count) + 1)]
