"""Trains on two cores by halves: each half of a batch runs on its own thread with its own gradients.

At these sizes two threads inside every operation gain little and suffer badly from company on the
machine; two halves side by side gain half as much again. The halves share their weights, and their
gradients are averaged in a fixed order, so a run repeats exactly.
"""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn

from runner.builtin.recipe.training import backward


class Halves:
    """Two copies of some models over one set of weights."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.copies: list[list[Any]] = [list(models), [copy.deepcopy(model) for model in models]]
        self.parameters = [trainable(models) for models in self.copies]
        for mine, other in zip(*self.parameters, strict=True):
            other.data = mine.data
        self.threads = ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,))

    def gradient(self, losses: Sequence[Callable[[], torch.Tensor]]) -> float:
        """Leave the mean gradient of two losses, one per copy, in the first copy; returns their mean."""
        values = list(self.threads.map(lambda loss: backward(loss()), losses))
        mine, others = self.parameters
        torch._foreach_add_([p.grad for p in mine], [p.grad for p in others])
        torch._foreach_mul_([p.grad for p in mine], 0.5)
        for other in others:
            other.grad = None
        return sum(values) / 2


def trainable(models: Sequence[nn.Module]) -> list[nn.Parameter]:
    return [p for model in models for p in model.parameters() if p.requires_grad]
