"""Does a LoRA file fit a base? Every module of the file against the layers of the base, before anything is loaded.

`yes` means that every module has one place of its own with its widths, that family and model agree, and that our
loader can apply what the file holds. What nothing can tell is said so. What it does not know: cards and requests;
those are `rules`. Pure: facts in, an answer out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from runner.contract.adapters import Module
from runner.contract.families import LoraFile
from runner.contract.folders import ModelFolder
from runner.contract.identity import component, fits
from runner.contract.layers import Layout, Place, find_places, table
from runner.contract.naming import SECOND, TEXT, Located

YES, NO, CANNOT_TELL = "yes", "no", "cannot_tell"
LOADED = ("lora", "loha", "lokr", "diff")  # algorithms that our loader turns into PEFT layers
CONDITIONER = "llm_adapter."


@dataclass(frozen=True, slots=True)
class Bound:
    """A module's place: the component of the pipeline, and the layers there."""

    component: str
    place: Place

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers by their full names in the pipeline."""
        if len(self.place.layers) == 1 and not self.place.layers[0].startswith(CONDITIONER):
            return (f"{self.component}.{self.place.layers[0]}",)
        return tuple(self._named(layer) for layer in self.place.layers)

    def _named(self, layer: str) -> str:
        own = layer.startswith(CONDITIONER)  # Anima's text conditioner, a component of its own
        return f"text_conditioner.{layer.removeprefix(CONDITIONER)}" if own else f"{self.component}.{layer}"


@dataclass(frozen=True, slots=True)
class Binding:
    """How a LoRA file meets a base: modules with a place of the same widths, without a place, and in conflict."""

    bound: Mapping[str, Bound]
    unbound: tuple[str, ...]
    conflicts: tuple[str, ...]
    unloadable: tuple[str, ...]  # bound, but written in a way that our loader does not apply
    unknown: tuple[str, ...]  # parts of the base whose layers nobody told

    @property
    def num_modules(self) -> int:
        return len(self.bound) + len(self.unbound) + len(self.conflicts)

    @property
    def coverage(self) -> str:
        return f"{len(self.bound)}/{self.num_modules}"


@dataclass(frozen=True, slots=True)
class Fit:
    """The answer to "does this LoRA belong on this base?", with the code word and the reason."""

    answer: str  # yes | no | cannot_tell
    code: str  # of the fault it would be; empty for yes
    reason: str
    binding: Binding


def bind(lora: LoraFile, base: ModelFolder) -> Binding:
    """Match every module of the file with the layers of that name in the base, by name and widths."""
    bound: dict[str, Bound] = {}
    unbound, conflicts, unloadable, unknown = [], [], [], set()
    taken: dict[str, str] = {}
    for located in lora.located:
        layouts = list(_layouts_for(located, lora.family or base.family, base))
        if not layouts or (base.guessed and located.part != TEXT):
            unknown.add("text_encoder" if located.part == TEXT else base.denoiser)
        places = [Bound(part, place) for part, layout in layouts for place in find_places(layout, located.name)]
        fitting = [place for place in places if fits(located.module, place.place) and not located.module.fault]
        free = [place for place in fitting if taken.keys().isdisjoint(place.layers)]
        if free:
            bound[located.owner] = free[0]
            taken.update(dict.fromkeys(free[0].layers, located.owner))
            if reason := _unloadable(located.module):
                unloadable.append(f"{located.owner}: {reason}")
        elif _changes_no_matrix(located.module):
            unloadable.append(f"{located.owner}: it changes a norm or a bias, which our loader does not apply")
        elif places:
            conflicts.append(_conflict(located, places[0], fitting, taken))
        else:
            unbound.append(located.owner)
    return Binding(bound, tuple(unbound), tuple(conflicts), tuple(unloadable), tuple(sorted(unknown)))


def _changes_no_matrix(module: Module) -> bool:
    return module.algorithm == "diff" and module.num_in is None and module.num_out is None and not module.fault


def _layouts_for(located: Located, family: str | None, base: ModelFolder) -> Iterator[tuple[str, Layout]]:
    """The parts of the base in which a module may have its place, likeliest first."""
    denoiser = SECOND if located.number == SECOND else base.denoiser
    if located.part != TEXT and denoiser in base.components and base.denoiser in base.layouts:
        yield denoiser, base.layouts[base.denoiser]  # the second expert of Wan 2.2 has the layers of the first
    if located.part in ("", TEXT):
        named = component(located, family)
        texts = [name for name in base.layouts if name.startswith("text_encoder")]
        texts = [named] if named in texts else texts if located.part == "" else []
        yield from ((name, base.layouts[name]) for name in texts)


def _conflict(located: Located, place: Bound, fitting: list[Bound], taken: Mapping[str, str]) -> str:
    module = located.module
    if module.fault:
        return f"{located.owner}: {module.fault}"
    if fitting:
        other = next(taken[layer] for layer in fitting[0].layers if layer in taken)
        return f"{located.owner}: adapts a layer that {other} adapts too"
    shape = f"{place.place.num_out}x{place.place.num_in}" + "".join(f"x{k}" for k in place.place.kernel)
    own = f"{module.num_out or '?'}x{module.num_in or '?'}" + "".join(f"x{k}" for k in module.kernel)
    return f"{located.owner}: file {own}, base {shape}"


def _unloadable(module: Module) -> str:
    """Why our loader cannot apply a module exactly as its trainer meant it; empty when it can."""
    if module.algorithm not in LOADED:
        return f"{module.algorithm} is not applied by our loader"
    if extra := module.tensors.keys() & {"diff_b", "diff_norm", "up_bias", "down_bias", "extra"}:
        return f"it changes more than a weight ({', '.join(sorted(extra))}), which our loader does not apply"
    if module.num_in is None or module.num_out is None:
        return "its widths are not in its header"
    return ""


def fit(lora: LoraFile, base: ModelFolder, *, family: str | None = None, model: str | None = None) -> Fit:
    """The whole answer. `family` and `model` are what a person's card says where the file cannot tell."""
    binding = bind(lora, base)
    for answer, code, reason in _objections(lora, base, binding, family or lora.family, model or lora.claims.model):
        return Fit(answer, code, reason, binding)
    return Fit(YES, "", f"{binding.coverage} modules have their place", binding)


def _objections(
    lora: LoraFile, base: ModelFolder, binding: Binding, family: str | None, model: str | None
) -> Iterator[tuple[str, str, str]]:
    """What speaks against it, gravest first."""
    if lora.kind != "lora":
        yield NO, "lora_inert", f"is no LoRA but {_kind(lora.kind)}"
    if family and base.family and family != base.family:
        yield NO, "family_mismatch", f"is for {family}, the base is {base.family}"
    if not family and lora.families and base.family and base.family not in lora.families:
        yield NO, "family_mismatch", f"fits {', '.join(lora.families)}, the base is {base.family}"
    damaged = [name for name, module in lora.modules.items() if module.fault]
    if damaged:
        yield (
            NO,
            "lora_inert",
            f"has {len(damaged)} damaged modules (first {damaged[0]}: {lora.modules[damaged[0]].fault})",
        )
    if (binding.conflicts or binding.unbound) and base.guessed:
        yield (
            CANNOT_TELL,
            "cannot_tell",
            "has modules that do not fit, and the base's weights are not here to compare them with",
        )
    if binding.conflicts:
        yield NO, "shape_conflict", _of("modules have other widths than the base", binding.conflicts, binding)
    if binding.unbound and binding.unknown:
        parts = ", ".join(binding.unknown)
        yield (
            CANNOT_TELL,
            "cannot_tell",
            f"has {len(binding.unbound)} modules for {parts}, whose layers are not here to compare",
        )
    if binding.unbound:
        yield NO, "lora_inert", _of("modules have no place in the base", binding.unbound, binding)
    if lost := lora.claims.components - _parts(binding):
        said = f"says in its metadata that {', '.join(sorted(lost))} was trained, and has no tensor of it"
        yield NO, "lora_inert", f"{said}: the file is not whole"
    if binding.unloadable:
        yield (
            CANNOT_TELL,
            "lora_unloadable",
            _of("modules cannot be applied as they are written", binding.unloadable, binding),
        )
    ends = (x for x in lora.located if x.part != TEXT and not x.name.at and x.owner in binding.bound)
    if base.guessed and (end := next(ends, None)):
        what = f"adapts {end.owner}, outside of the blocks, where the base is not quite {base.model}"
        yield CANNOT_TELL, "cannot_tell", f"{what}, and its weights are not here to compare"
    if packed := sorted({bound.component for bound in binding.bound.values()} & set(base.quantised)):
        what = f"{binding.coverage} modules have their place, and {', '.join(packed)} is quantised"
        yield CANNOT_TELL, "base_quantised", f"{what}: our loader applies a LoRA to whole weights"
    yield from _doubts(lora, base, family, model)


def _doubts(lora: LoraFile, base: ModelFolder, family: str | None, model: str | None) -> Iterator[tuple[str, str, str]]:
    """All modules have their place, and still it may be for something else."""
    if lora.flags:
        yield CANNOT_TELL, "cannot_tell", lora.flags[0]
    if not family and lora.families != (base.family,):
        other = [name for name in lora.families if name != base.family]
        yield (
            CANNOT_TELL,
            "cannot_tell",
            f"binds, and its tensors fit {', '.join(other) or 'no family we know'} as well",
        )
    if not base.family:
        yield CANNOT_TELL, "cannot_tell", f"binds, and the family of the base ({base.pipeline}) is not known"
    if base.model and lora.models and base.model not in lora.models:
        yield NO, "shape_conflict", f"is for {lora.models[0]}, the base is {base.model}"
    said = model or (lora.models[0] if len(lora.models) > 1 else None)
    if base.model and said and said != base.model and said in _models_of(base):
        source = "says that it was made for" if model else "has nothing that"
        tail = said if model else f"tells it from one for {said}"
        yield CANNOT_TELL, "cannot_tell", f"binds to {base.model}, and {source} {tail}"


def _parts(binding: Binding) -> set[str]:
    return {layer.partition(".")[0] for bound in binding.bound.values() for layer in bound.layers}


def _models_of(base: ModelFolder) -> set[str]:
    return {layout.model for layout in table().layouts if layout.family == base.family}


def _of(what: str, examples: tuple[str, ...], binding: Binding) -> str:
    return f"{len(examples)} of {binding.num_modules} {what} (first {examples[0]})"


def _kind(kind: str) -> str:
    words = {"unknown": "a file of a kind that we do not know", "ip_adapter": "an IP-Adapter", "vae": "a VAE"}
    return words.get(kind, f"a {kind.replace('_', ' ')}" if kind[0] not in "aeiou" else f"an {kind}")
