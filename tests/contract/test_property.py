"""A LoRA file keeps its family whatever its order, halves, ranks and types are, and however few its blocks."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from runner.contract.families import LoraFile
from runner.contract.layers import Shape, split_name
from tests.contract import drawn
from tests.contract.drawn import Halves, Tensors

MODELS = [name for name, layout in drawn.LAYOUTS.items() if layout.family not in ("other", "shapes")]
NAMINGS = ("diffusers", "native", "kohya", "kohya-original", "lycoris")
PATTERNS = ("", "attn|attention", r"to_q|\.q\b|_q_|qkv|linear1", "ff|mlp|feed_forward|linear2", r"norm|mod")
HALVES = (drawn.PEFT, drawn.NAMED, drawn.KOHYA, drawn.OLD, Halves("lora_down.weight", "lora_up.weight"))
SILENT = {"format": "pt", "ss_output_name": "sdxl_flux", "ss_network_dim": "4", "modelspec.title": "x"}
SAME = ("kind", "family", "families", "models", "format", "algorithm", "rank", "alpha", "scaling", "text_encoders")


def written(model: str, naming: str, pattern: str) -> Tensors:
    return drawn.NAMINGS[naming](model, pattern) or drawn.NAMINGS[naming](model, "")


def told(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> LoraFile:
    with tempfile.TemporaryDirectory() as folder:
        return drawn.inspected(Path(folder), tensors, metadata)


def owners(tensors: Tensors) -> dict[str, Shape]:
    """The layers that a file adapts, with their widths."""
    found = told(tensors).modules
    return {name: (m.num_out or 0, m.num_in or 0, *m.kernel) for name, m in found.items()}


files = st.tuples(st.sampled_from(MODELS), st.sampled_from(NAMINGS), st.sampled_from(PATTERNS))


@given(files, st.randoms(use_true_random=False))
def test_the_order_of_tensors_moves_nothing(file: tuple[str, str, str], order: random.Random) -> None:
    tensors = written(*file)
    names = list(tensors)
    order.shuffle(names)
    one, other = told(tensors), told({name: tensors[name] for name in names})
    for field in SAME:
        assert getattr(one, field) == getattr(other, field), field


@given(
    files, st.sampled_from(HALVES), st.integers(1, 128), st.sampled_from(["F16", "BF16", "F32", "F8_E4M3"]),
    st.dictionaries(st.sampled_from(sorted(SILENT)), st.sampled_from(sorted(SILENT.values()))),
)  # fmt: skip
def test_halves_ranks_types_and_silent_metadata_move_nothing(
    file: tuple[str, str, str], halves: Halves, rank: int, dtype: str, metadata: dict[str, str]
) -> None:
    tensors = written(*file)
    one, other = told(tensors), told(drawn.lora(owners(tensors), halves, rank=rank, dtype=dtype), metadata)
    assert (one.kind, one.family, one.families, one.models) == (other.kind, other.family, other.families, other.models)
    assert other.rank == rank


@given(files, st.sampled_from(sorted(drawn.PIPELINES)))
def test_a_claim_moves_the_family_only_among_those_that_fit(file: tuple[str, str, str], claim: str) -> None:
    silent, claiming = told(written(*file)), told(written(*file), {"modelspec.architecture": claim})
    assert claiming.families == silent.families
    if silent.family or claim not in silent.families:
        assert claiming.family == silent.family
    else:
        assert claiming.family == claim


@given(files, st.randoms(use_true_random=False), st.sampled_from([0.05, 0.3, 0.7, 0.95]))
def test_some_of_the_blocks_are_never_another_family(
    file: tuple[str, str, str], chance: random.Random, share: float
) -> None:
    model, _, _ = file
    layers = owners(written(*file))
    numbers = {split_name(name).at[:1] for name in layers}
    kept = {number for number in sorted(numbers) if chance.random() < share} or numbers
    lora = told(drawn.lora({name: shape for name, shape in layers.items() if split_name(name).at[:1] in kept}))
    never_wrong(model, lora)


@given(files, st.randoms(use_true_random=False), st.integers(1, 12))
def test_a_few_layers_are_never_another_family(file: tuple[str, str, str], chance: random.Random, num: int) -> None:
    model, _, _ = file
    layers = owners(written(*file))
    names = chance.sample(sorted(layers), min(num, len(layers)))
    never_wrong(model, told(drawn.lora({name: layers[name] for name in names})))


@given(st.sampled_from(MODELS), st.sampled_from(NAMINGS), st.sampled_from(PATTERNS), st.integers(1, 11))
def test_the_first_blocks_are_never_another_family(model: str, naming: str, pattern: str, num: int) -> None:
    layers = owners(written(model, naming, pattern))
    first = {name: shape for name, shape in layers.items() if all(number < num for number in split_name(name).at)}
    never_wrong(model, told(drawn.lora(first or layers)))


def never_wrong(model: str, lora: LoraFile) -> None:
    """The family of the model, or none with it among those that fit; and never a model without its layers."""
    family = drawn.LAYOUTS[model].family
    assert lora.family in (family, None)
    assert family in lora.families
    assert lora.family is None or model in lora.models
