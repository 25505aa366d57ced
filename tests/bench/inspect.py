"""What a file is, warm, in one process: a LoRA of 2,000 tensors against a base, and a folder of 1,000 LoRA files.

The peer reads the same headers with safetensors and looks at every name and shape, and knows nothing after it.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from runner.contract.binding import fit
from runner.contract.families import inspect_lora
from runner.contract.folders import ModelFolder
from runner.contract.layers import Layout, table
from runner.verbs.inspect import inspect_many
from tests.bench.timed import Row, in_pairs

NUM_FILES = 1_000
RANK = 4
MODELS = ("SDXL 1.0", "FLUX.1-dev", "Stable Diffusion 1.5", "Qwen-Image", "Wan2.1-T2V-1.3B")


def measure(pairs: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        big = write(room / "big.safetensors", model("SDXL 1.0"), num_modules=667)
        many = [
            write(room / f"{n}.safetensors", model(MODELS[n % 5]), num_modules=64 + n % 64) for n in range(NUM_FILES)
        ]
        base = _base(model("SDXL 1.0"))
        return [
            in_pairs(
                "inspect 2,000 tensors and bind them (ms)",
                lambda: _ms(lambda: fit(inspect_lora(big), base)),
                lambda: _ms(lambda: _peer(big)),
                pairs=10 * pairs,
                goal="ours <= 20",
            ),
            in_pairs(
                "inspect 1,000 files (s)",
                lambda: _ms(lambda: inspect_many([str(path) for path in many], None)) / 1e3,
                lambda: _ms(lambda: [_peer(path) for path in many]) / 1e3,
                pairs=pairs,
                goal="-",
            ),
        ]


def model(name: str) -> Layout:
    return next(layout for layout in table().layouts if layout.model == name)


def write(path: Path, layout: Layout, num_modules: int) -> Path:
    """A LoRA in kohya's naming for the first matrices of a model: three tensors a module; the data is a hole."""
    header: dict[str, object] = {}
    end = 0
    matrices = [(n, s) for n, s in layout.expand().items() if len(s) == 2][:num_modules]
    for name, (num_out, num_in) in matrices:
        owner = "lora_unet_" + name.replace(".", "_")
        for suffix, shape in (("lora_down.weight", [RANK, num_in]), ("lora_up.weight", [num_out, RANK]), ("alpha", [])):
            begin, end = end, end + 2 * (shape[0] * shape[1] if shape else 1)
            header[f"{owner}.{suffix}"] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    raw = json.dumps(header, separators=(",", ":")).encode()  # as safetensors writes it
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + end)
    return path


def _base(layout: Layout) -> ModelFolder:
    """A base whose layers are told by its settings, as a folder without weights has them."""
    return ModelFolder(
        Path(),
        "StableDiffusionXLPipeline",
        layout.family,
        layout.model,
        {"unet": "UNet2DConditionModel"},
        {},
        {},
        {"unet": layout},
    )


def _peer(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return sum(len(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118  # it is no mapping


def _ms(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return 1e3 * (time.perf_counter() - began)
