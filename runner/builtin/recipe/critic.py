"""What the trained critic says of a picture: its attributes by zero-shot sentences, and CLIP-I."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn import functional

from runner.builtin import captions, world


@dataclass(frozen=True, slots=True)
class Opinion:
    """Each attribute by its own sentence; `joint` is the scene of the best full sentence."""

    shape: str
    colour: str
    background: str
    joint: world.Scene


class Critic:
    """The shipped CLIPModel with its tokenizer and image processor."""

    def __init__(self, folder: Path) -> None:
        from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

        self.model: Any = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer: Any = CLIPTokenizer.from_pretrained(folder)
        self.processor: Any = CLIPImageProcessorPil.from_pretrained(folder)

    def image_features(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """(n, 64), of length 1."""
        pixels = self.processor(list(images), return_tensors="pt").pixel_values
        with torch.no_grad():
            seen = self.model.vision_model(pixel_values=pixels).pooler_output
            return functional.normalize(self.model.visual_projection(seen), dim=-1)

    def text_features(self, texts: Sequence[str]) -> torch.Tensor:
        """(n, 64), of length 1."""
        tokens = self.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
        with torch.no_grad():
            said = self.model.text_model(input_ids=tokens.input_ids).pooler_output
            return functional.normalize(self.model.text_projection(said), dim=-1)

    def read(self, images: Sequence[Image.Image]) -> list[Opinion]:
        """The critic's opinion of each picture."""
        features = self.image_features(images)
        shapes = self.best(features, list(world.SHAPES), [captions.with_article(s) for s in world.SHAPES])
        names = list(world.COLOURS)
        colours = self.best(features, names, [captions.with_article(f"{name} shape") for name in names])
        grounds = self.best(features, names, [captions.with_article(f"{name} background") for name in names])
        scenes = [world.Scene(s, c, b) for s, c, b in product(world.SHAPES, names, names) if c != b]
        joint = self.best(features, scenes, [captions.prompt(scene) for scene in scenes])
        return [Opinion(*each) for each in zip(shapes, colours, grounds, joint, strict=True)]

    def best(self, features: torch.Tensor, choices: list[Any], texts: list[str]) -> list[Any]:
        """For each picture the choice whose sentence is nearest."""
        return [choices[i] for i in (features @ self.text_features(texts).T).argmax(1).tolist()]

    def similarity(self, images: Sequence[Image.Image], references: torch.Tensor) -> float:
        """CLIP-I: the mean cosine between pictures and the mean of the references."""
        centre = functional.normalize(references.mean(0), dim=0)
        return round(float((self.image_features(images) @ centre).mean()), 4)
