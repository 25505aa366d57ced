"""Which family a set of layers belongs to: its names and widths against the table of published models.

The family is the one whose models have a place of the same name and widths for every module. Where several have,
the text encoders, the file's own coverage and then its claims narrow them; where several stay, the answer is the set,
and the family None. A missing claim never means a default family, and a claim never outweighs the tensors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from runner.contract import file_kind
from runner.contract.adapters import Module
from runner.contract.headers import Header
from runner.contract.layers import Layout, Place, Widths, published, table
from runner.contract.metadata import Claims
from runner.contract.naming import TEXT, UNSAID, Located, locate

CHECKPOINT_SHARE = 0.9  # of a checkpoint's matrices must be known before a family is named
MIN_SHARE = 0.5  # of the modules must be known before a family is named
MIN_BLOCKS = 12  # fewer may be the first of a larger model as well as all of a smaller one
COUNTED = {"2": "text_encoder_2", "clip_g": "text_encoder_2", "3": "text_encoder_3", "t5xxl": "text_encoder_3"}


@dataclass(frozen=True, slots=True)
class Family:
    """The answer: one family, or the set of those that fit; the models of it that fit; and why."""

    family: str | None
    families: tuple[str, ...]
    models: tuple[str, ...]
    evidence: tuple[str, ...]


def identify(located: Sequence[Located], claims: Claims) -> Family:
    """The family of a LoRA by the places of its modules."""
    denoiser, text = _sorted_by_part(located)
    by_text = _text_families(text)
    if not denoiser:
        return _only_text(text, by_text, claims)
    fits = [_fit(module) for module in denoiser]
    counts = Counter(model for fit in fits for model in {layout.model for layout in fit})
    known = [n for n, module in enumerate(denoiser) if module.name.key in table().knowing]
    whole = [layout for layout in _denoisers() if counts[layout.model] == len(denoiser)]
    most = [layout for layout in _denoisers() if counts[layout.model] == len(known)] if known else []
    if whole:
        evidence = f"{len(denoiser)}/{len(denoiser)} modules have a place of the same name and widths in "
        return _narrowed(whole, denoiser, by_text, claims, evidence)
    if most and len(known) >= MIN_SHARE * len(denoiser):
        evidence = f"{len(known)}/{len(denoiser)} modules have a place of the same name and widths, the rest no name "
        evidence += "that we know, in "
        return _narrowed(most, denoiser, by_text, claims, evidence)
    return _by_names(denoiser, known, counts, by_text)


def _sorted_by_part(located: Sequence[Located]) -> tuple[list[Located], list[Located]]:
    denoiser: list[Located] = []
    text: list[Located] = []
    for module in located:
        models = table().knowing.get(module.name.key, ())
        bare_text = module.part == UNSAID and models and all(layout.part == "text" for layout in models)
        (text if module.part == TEXT or bare_text else denoiser).append(module)
    return denoiser, text


def _denoisers() -> list[Layout]:
    return [layout for layout in table().layouts if layout.part != "text"]


def _fit(module: Located) -> list[Layout]:
    """The models that have a place of the same name and widths."""
    return [place.layout for place in published(module.name) if fits(module.module, place)]


def fits(module: Module, place: Place | Widths) -> bool:
    """Whether a module has the widths of a place; widths that its factors do not tell fit any."""
    if module.num_out is not None and module.num_out != place.num_out:
        return False
    if module.num_in is None or (module.num_in == place.num_in and _same_kernel(module.kernel, place.kernel)):
        return True
    flattened = place.num_in
    for size in place.kernel:
        flattened *= size
    return module.algorithm in ("loha", "lokr", "diff") and not module.kernel and module.num_in == flattened


def _same_kernel(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return one == other or {*one, *other} <= {1}  # a convolution of one pixel is a matrix


def _text_families(text: Sequence[Located]) -> dict[str, str] | None:
    """Family -> components, for the families whose text encoders have every one of these modules; None without any."""
    if not text:
        return None
    found: dict[str, str] | None = None
    for number in {module.number for module in text}:
        own = [module for module in text if module.number == number]
        models = [layout for layout in table().layouts if layout.part == "text" and all(layout in _fit(m) for m in own)]
        uses = {family: component for layout in models for family, component in layout.uses.items()}
        if number.startswith("_"):  # a component's own name, as diffusers writes it: it is there and nowhere else
            uses = {family: part for family, part in uses.items() if part == f"text_encoder{number}"}
        found = uses if found is None else {family: found[family] for family in found.keys() & uses.keys()}
    return found


def family_of_weights(kind: str, header: Header, claims: Claims) -> Family:
    """The family of a file that is no adapter, as far as its weights tell."""
    if kind in (file_kind.CHECKPOINT, file_kind.CONTROLNET, file_kind.TEXT_ENCODER):
        located = _weights_located(header)
        known = [module for module in located if module.name.key in table().knowing]
        if kind == file_kind.TEXT_ENCODER:
            return _only_text([module._replace(part=TEXT) for module in known], _text_families(known), claims)
        if kind == file_kind.CHECKPOINT and file_kind.known_share(header) < CHECKPOINT_SHARE:
            return Family(None, (), (), ("most of its layers stand in no model that we know",))
        denoiser, _ = _sorted_by_part([module for module in known if module.part != TEXT])
        return identify(denoiser, claims) if len(denoiser) >= 4 else Family(None, (), (), ("no layers that we know",))
    by_kind = {
        file_kind.VAE: file_kind.families_of_vae,
        file_kind.EMBEDDING: file_kind.families_of_embedding,
        file_kind.IP_ADAPTER: file_kind.families_of_ip_adapter,
    }
    families = set(by_kind[kind](header)) if kind in by_kind else set()
    if not families:
        return Family(None, (), (), (f"{len(header.tensors)} tensors; nothing tells the family",))
    return _settled(families, (), claims, [f"its widths are those of {', '.join(sorted(families))}"])


def _weights_located(header: Header) -> list[Located]:
    """Every weight of two or more dimensions as if it were a module."""
    found = []
    for name, tensor in header.tensors.items():
        if name.endswith(".weight") and len(tensor.shape) >= 2:
            out, into, *kernel = tensor.shape
            owner = name.removesuffix(".weight").removeprefix("control_model.")
            found.append(locate(owner, Module("weight", into, out, tuple(kernel), None, {})))
    return found


def _only_text(text: Sequence[Located], by_text: dict[str, str] | None, claims: Claims) -> Family:
    families = tuple(sorted(by_text or {}))
    if not any(module.part == TEXT for module in text) and all(
        module.name.key.startswith("layers_") for module in text
    ):
        return Family(
            "other",
            ("other",),
            (),
            (f"{len(text)} modules of a language model, and no name says that it is one of a pipeline",),
        )
    if not families:
        return Family(None, (), (), (f"{len(text)} modules of a text encoder that no model we know has",))
    evidence = f"only text encoders are adapted, as {', '.join(families)} have them"
    return _settled(set(families), (), claims, [evidence])


def _narrowed(
    models: list[Layout], denoiser: Sequence[Located], by_text: dict[str, str] | None, claims: Claims, evidence: str
) -> Family:
    said = [evidence + ", ".join(layout.model for layout in models[:6]) + (" ..." if len(models) > 6 else "")]
    if by_text is not None and (both := [layout for layout in models if layout.family in by_text]):
        if len({x.family for x in both}) < len({x.family for x in models}):
            said.append(f"its text encoder modules are those of {', '.join(sorted({x.family for x in both}))}")
        models = both
    if len({layout.family for layout in models}) > 1 and (covered := _covered(models, denoiser)):
        if len({x.family for x in covered}) < len({x.family for x in models}):
            said.append(
                f"it adapts every block of {', '.join(layout.model for layout in covered)}, and not of the others"
            )
        models = covered
    models = [layout for layout in models if not layout.twin] or models
    return _settled({layout.family for layout in models}, tuple(layout.model for layout in models), claims, said)


def _settled(families: set[str], models: tuple[str, ...], claims: Claims, said: list[str]) -> Family:
    """One family if one is left, or the one of several that the metadata claims."""
    if len(families) == 1:
        return Family(next(iter(families)), tuple(families), models, tuple(said))
    names = tuple(sorted(families))
    if claims.family in families:
        own = tuple(m for m in models if any(x.model == m and x.family == claims.family for x in table().layouts))
        return Family(claims.family, names, own, (*said, f"of {', '.join(names)} the metadata says {claims.family}"))
    return Family(None, names, models, (*said, f"the tensors fit {', '.join(names)} and cannot decide between them"))


def _covered(models: Sequence[Layout], denoiser: Sequence[Located]) -> list[Layout]:
    """The models of which the file adapts every block that it could, for each kind of layer that it adapts."""
    blocks: dict[str, set[tuple[int, ...]]] = {}
    for module in denoiser:
        if module.name.key in table().knowing:
            blocks.setdefault(module.name.key, set()).add(module.name.at)
    if max(map(len, blocks.values())) < MIN_BLOCKS:
        return []
    return [layout for layout in models if all(len(at) == _num_blocks(layout, key) for key, at in blocks.items())]


def _num_blocks(layout: Layout, key: str) -> int:
    if at := layout.at(key):
        return len(at)
    native = table().natives[layout.natives][key][0]
    return len(layout.at(native.targets[0].replace(".", "_")))


def _by_names(
    denoiser: Sequence[Located], known: Sequence[int], counts: Counter[str], by_text: dict[str, str] | None
) -> Family:
    """No model fits by widths: perhaps one does by names alone."""
    if not known:
        return Family(
            None, tuple(sorted(by_text or ())), (), (f"{len(denoiser)} modules, none with a name that we know",)
        )
    counts = Counter({layout.model: counts[layout.model] for layout in _denoisers() if counts[layout.model]})
    if counts:
        model, number = counts.most_common(1)[0]
        mixed = f"{number}/{len(denoiser)} modules fit {model}, and others belong to another model or have other widths"
        if number >= 0.9 * len(denoiser):
            family = next(layout.family for layout in _denoisers() if layout.model == model)
            ties = {x.family for x in _denoisers() if counts[x.model] == number and not x.twin} or {family}
            return Family(family if len(ties) == 1 else None, tuple(sorted(ties)), (), (mixed,))
        return Family(None, (), (), (mixed,))
    named = [x for x in _denoisers() if all(x in table().knowing.get(m.name.key, ()) for m in denoiser)]
    families = tuple(sorted({layout.family for layout in named}))
    said = f"layer names of {', '.join(families) or 'several models'}, with widths of no model we know"
    return Family(None, families, (), (said,))


def text_encoders(located: Sequence[Located], family: str | None) -> tuple[str, ...]:
    """The text encoders that a file adapts, by their component in the pipeline."""
    _, text = _sorted_by_part(located)
    return tuple(sorted({component(module, family) for module in text if module.part == TEXT}))


def component(module: Located, family: str | None) -> str:
    """`text_encoder`, `text_encoder_2` ...: by the encoder that the family has there, else as the name counts it."""
    models = [layout for layout in _fit(module) if layout.part == "text" and family in layout.uses]
    places = {layout.uses[family] for layout in models if family}
    if len(places) == 1:
        return places.pop()
    return COUNTED.get(module.number.strip("_"), "text_encoder")
