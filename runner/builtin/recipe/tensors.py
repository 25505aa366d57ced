"""Pictures to tensors and back, in the range the models use: -1 to 1, three channels, channels last."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def from_images(images: Sequence[Image.Image]) -> torch.Tensor:
    """(n, 3, h, w) float32 in -1..1."""
    stacked = torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in images]))
    scaled = stacked.permute(0, 3, 1, 2).float() / 127.5 - 1
    return scaled.contiguous(memory_format=torch.channels_last)


def to_images(pixels: torch.Tensor) -> list[Image.Image]:
    """The pictures of a (n, 3, h, w) tensor in -1..1."""
    scaled = ((pixels.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [Image.fromarray(picture) for picture in scaled.permute(0, 2, 3, 1).numpy()]


def save_grid(images: Sequence[Image.Image], path: Path, num_columns: int = 12, scale: int = 2) -> None:
    """One PNG with all pictures side by side, to look at."""
    width, height = (side * scale + 2 for side in images[0].size)
    num_rows = -(-len(images) // num_columns)
    sheet = Image.new("RGB", (num_columns * width, num_rows * height), (128, 128, 128))
    for i, image in enumerate(images):
        larger = image.resize((width - 2, height - 2), Image.Resampling.NEAREST)
        sheet.paste(larger, (i % num_columns * width, i // num_columns * height))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
