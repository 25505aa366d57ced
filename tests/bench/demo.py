"""The whole `demo`, cold, against a bare diffusers script that makes the same images and saves them.

Two rows: the demo as it is shipped (contract, manifest, hashes, fsync, proof, critic, MLflow, report), and the
generate stage alone. The script loads the same base and LoRA, uses the same texts, seeds and batches.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from tests.bench.timed import Row, in_pairs, process_s

BARE = """
import json, sys
import torch
from diffusers import StableDiffusionPipeline
plan, out = json.loads(sys.argv[1]), sys.argv[2]
pipe = StableDiffusionPipeline.from_pretrained(plan["base"], torch_dtype=torch.float32)
pipe.set_progress_bar_config(disable=True)
pipe.unet.to(memory_format=torch.channels_last)
pipe.vae.to(memory_format=torch.channels_last)
pipe.load_lora_weights(plan["lora"], weight_name="emblem.safetensors")
images = plan["images"]
for at in range(0, len(images), plan["batch"]):
    part = images[at:at + plan["batch"]]
    made = pipe([i["prompt"] for i in part], num_inference_steps=plan["steps"], guidance_scale=plan["guidance"],
                generator=[torch.Generator().manual_seed(i["seed"]) for i in part], width=64, height=64).images
    for image, entry in zip(made, part):
        image.save(f"{out}/{entry['key']}.png")
"""
EXPERIMENT = [sys.executable, "-m", "runner", "+experiment=demo"]
ALONE = ["stages=[generate]", "critic=none", "track=none"]


def measure(pairs: int) -> list[Row]:
    plan = json.dumps(_plan())
    rows: dict[str, list[str]] = {"demo, whole / bare diffusers (s)": [], "generate only / bare diffusers (s)": ALONE}
    return [
        in_pairs(name, partial(_ours, more), partial(_bare, plan), pairs=pairs, goal="1.10 later")
        for name, more in rows.items()
    ]


def _plan() -> dict[str, object]:
    planned = subprocess.run([*EXPERIMENT, "until=plan", "output=json"], capture_output=True, text=True, check=True)
    shipped = Path(__file__).parent.parent.parent / "runner" / "builtin"
    images = json.loads(planned.stdout.splitlines()[-1])["images"]
    return {
        "base": str(shipped / "shapes"), "lora": str(shipped / "emblem"), "images": images,
        "batch": 8, "steps": 8, "guidance": 4.0,
    }  # fmt: skip


def _ours(more: list[str]) -> float:
    with tempfile.TemporaryDirectory() as outputs:
        return process_s([*EXPERIMENT, f"outputs={outputs}", *more])


def _bare(plan: str) -> float:
    with tempfile.TemporaryDirectory() as out:
        return process_s([sys.executable, "-c", BARE, plan, out])
