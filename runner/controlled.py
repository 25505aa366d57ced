"""Is a comparison of two runs controlled: do they differ in the declared knobs and in nothing else? Pure.

Two manifests, and what the journals say of the machine -> the dotted keys in which they differ -> faults. Everything
counts that is not in `CANNOT_CHANGE_RESULTS`, so a setting that is new here counts. It refuses a difference that no
knob names, a knob that does not differ, and images that have no partner. The contract card, token counts, step digests
and expected counts follow from what is compared, and are not compared again. What it does not know: what runs made.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from runner.errors import Fault, choose

CANNOT_CHANGE_RESULTS = (
    "name", "sweep", "hardware.id",  # names
    "track", "environment.mlflow",  # projections
    "local", "base_model.path", "base_model.repository", "base_model.revision", "base_model.sha256", "lora.path",
    "lora.sha256", "critic_runtime.path", "critic_runtime.sha256",  # where files lie; pins hold their digests
    "lora.trigger", "lora.rank", "lora.alpha", "lora.scale_range", "lora.dataset",  # what a card claims of its file
    "base_model.negative_prompt", "lora.accept_unknown", "storage.min_free_mib",
    "critic.budget", "critic_runtime.concurrency", "critic_runtime.key_env",  # when, where
    "hardware.wait",  # whether a request is accepted, waits or ends
    "hardware.on_missing",  # the device that was used is compared
    "prompt.set", "prompt.file", "prompt.sections", "prompt.required", "prompt.separator",
    "prompt.budget",  # what came of them is compared, as prompt.items: keys in order, texts, sections
    "environment.hydra_core", "environment.omegaconf",  # what they composed is compared
)  # fmt: skip
FOLLOWS = {  # a key that differs -> what changes with it of necessity
    "base_model.id": ("pins.base_sha256", "pins.base_files", "pins.tokenizers"),
    "base_model.path": ("pins.base_sha256", "pins.base_files", "pins.tokenizers"),
    "lora.id": ("pins.lora_sha256", "pins.lora_config", "mode"),
    "lora.path": ("pins.lora_sha256", "pins.lora_config"),
    "mode": ("lora", "pins.lora_sha256", "pins.lora_config"),
    "trigger": ("prompt.items",),
    "critic": ("pins.profile",),
    "critic_runtime": ("pins.critic_files",),
    "critic.criteria": ("pins.critic_files",),
    "hardware.device": ("environment.device", "fallback"),
    "runtime.num_threads": ("environment.generator.threads",),
}
SAME_PIXELS = ("hardware.index", "runtime.offload", "runtime.num_threads", "storage")  # knobs that promise as much
PLAN = "plan"
MAX_SHOWN = 8
MAX_CHARS = 80
Settings = Mapping[str, Any]  # dotted key -> value
Pair = tuple[Any, Any]


class Names(NamedTuple):
    """What messages call the two runs."""

    a: str
    b: str


def settings(manifest: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that may decide the results and the speed of a run, by dotted key.

    `machine` is what its journal says beside the manifest's environment: host, threads.
    """
    flat = _flat({name: value for name, value in manifest["request"].items() if name != "prompt"}, "")
    flat |= _flat({name: value for name, value in manifest["request"]["prompt"].items() if name != "items"}, "prompt")
    flat["prompt.items"] = [prompt["key"] for prompt in manifest["prompts"]]
    for prompt in manifest["prompts"]:
        flat[f"prompt.items[{prompt['key']}]"] = {name: prompt[name] for name in ("text", "sections", "triggered")}
    flat |= _flat(manifest["pins"], "pins")
    flat |= _flat({**manifest["environment"], **machine}, "environment")
    return flat | {"fallback": manifest.get("fallback"), "format": manifest.get("format"), PLAN: manifest["identity"]}


def _flat(value: Any, path: str) -> dict[str, Any]:
    """A tree as dotted keys; a list of things with ids has them as `[id]`."""
    if isinstance(value, Mapping) and value:
        parts = {f"{path}.{name}".lstrip("."): part for name, part in value.items()}
    elif isinstance(value, list) and value and all(isinstance(part, Mapping) and "id" in part for part in value):
        parts = {f"{path}[{part['id']}]": part for part in value}
    else:
        return {path: value}
    return {key: leaf for name, part in parts.items() for key, leaf in _flat(part, name).items()}


def differences(a: Settings, b: Settings) -> dict[str, Pair]:
    """The keys in which two runs differ, with both values; what one of them lacks is null there.

    The digest of the work list is one only by itself: the work was then planned by another version of the runner.
    """
    keys = [key for key in dict.fromkeys((*a, *b)) if a.get(key) != b.get(key)]
    planned_otherwise = [key for key in keys if counts(key)] == [PLAN]
    return {key: _shown(a.get(key), b.get(key)) for key in keys if key != PLAN or planned_otherwise}


def _shown(a: Any, b: Any) -> Pair:
    """Of two prompts the part in which they differ."""
    if not (isinstance(a, Mapping) and isinstance(b, Mapping)):
        return a, b
    part = next((name for name in a if a[name] != b.get(name)), None)
    return (a[part], b.get(part)) if part else (a, b)


def counts(key: str) -> bool:
    """Whether a difference in this key can change results or speed."""
    return not any(covers(name, key) for name in CANNOT_CHANGE_RESULTS)


def covers(name: str, key: str) -> bool:
    """`generate` covers `generate.steps`, and `prompt.items` covers `prompt.items[on-blue]`."""
    return key == name or key.startswith((f"{name}.", f"{name}["))


def allowed(knobs: Iterable[str], found: Collection[str]) -> set[str]:
    """Of the keys that differ, those that a knob names and those that follow from one that it names."""
    keys: set[str] = set()
    for knob in knobs:
        named = [key for key in found if covers(knob, key)]
        following = [name for key in named for cause, names in FOLLOWS.items() if covers(cause, key) for name in names]
        keys.update(named, (key for key in found if any(covers(name, key) for name in dict.fromkeys(following))))
    return keys


def faults(a: Settings, b: Settings, knobs: Sequence[str], names: Names) -> list[Fault]:
    """Why this is no controlled comparison; nothing when it is one."""
    found = differences(a, b)
    counted = [key for key in found if counts(key)]
    free = allowed(knobs, found)
    idle = [knob for knob in dict.fromkeys(knobs) if not any(map(counts, allowed([knob], found)))]
    unnamed = [key for key in counted if key not in free]
    return [_idle(knob, {*a, *b}, found, names) for knob in idle] + [
        _uncontrolled(key, found[key], names) for key in unnamed
    ]


NO_KNOBS = ("seed",)  # images of other seeds have no partner


def _idle(knob: str, known: Collection[str], found: Collection[str], names: Names) -> Fault:
    """A knob in which the runs do not differ, or that is none."""
    differing = [key for key in found if counts(key)][:MAX_SHOWN]
    where = f"--knob {knob}"
    if not any(covers(knob, key) for key in known):
        fix = choose(knob, differing) if differing else "Leave it out: nothing that can change results differs"
        return Fault("unknown_key", where, "is no key of a run", fix)
    changes = "differs, and changes no result" if any(covers(knob, key) for key in found) else "is the same"
    fix = f"Leave it out. What differs: {', '.join(differing) or 'nothing that can change results'}"
    return Fault("knob_unchanged", where, f"{changes} in {names.a} and {names.b}", fix)


def _uncontrolled(key: str, pair: Pair, names: Names) -> Fault:
    what = f"is {_text(pair[0])} in {names.a} and {_text(pair[1])} in {names.b}"
    name = key.partition("[")[0]
    way_back = _way_back(key, pair[0], names)
    fix = way_back[0].upper() + way_back[1:] if name in NO_KNOBS else f"Name it with --knob {name}, or {way_back}"
    return Fault("uncontrolled", key, what, fix, {"a": pair[0], "b": pair[1]})


def _way_back(key: str, value: Any, names: Names) -> str:
    if covers("environment", key) or key in ("fallback", "format", PLAN):
        return "make both again (run.fresh=true) on one machine with one set of versions"
    if covers("pins", key):
        return "make one of them again with the other's files"
    if covers("prompt.items", key):
        return "make one of them again with the other's prompts"
    return f"make {names.b} again with {key}={_text(value)}"


def _text(value: Any) -> str:
    """A value as a person would type it, cut where it is long."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}..."


def unpaired(a: Mapping[str, Any], b: Mapping[str, Any], names: Names) -> list[Fault]:
    """Images of two manifests that have no partner: pairs share prompt, number and seed."""
    seeds_a, seeds_b = ({key: seed for key, _, seed in manifest["images"]} for manifest in (a, b))
    fix = "Compare runs of the same prompts, seed and generate.images_per_prompt"
    found = [(key, f"is planned in {names.a} alone") for key in seeds_a if key not in seeds_b]
    found += [(key, f"is planned in {names.b} alone") for key in seeds_b if key not in seeds_a]
    found += [
        (key, f"has the seed {seed} in {names.a} and {seeds_b[key]} in {names.b}")
        for key, seed in seeds_a.items()
        if seeds_b.get(key, seed) != seed
    ]
    told = "; ".join(f"{key} {what}" for key, what in found[:3])
    many = f"{len(found)} images have no partner: {told}" + ("; ..." if len(found) > 3 else "")
    return [Fault("not_comparable", "images", many, fix, {"images": dict(found)})] if found else []
