"""A resumable training run: cosine learning rate, moving average, checkpoints, a log line now and then.

A run that is stopped and started again continues from its last checkpoint with the same random
states, so the weights come out as if it had never stopped.
"""

import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings of one training run.

    The learning rate follows half a cosine over `horizon` steps (0: over all of them) and, in the last
    `cooldown` steps, a straight line to nothing besides.
    """

    num_steps: int
    batch_size: int
    peak_lr: float
    seed: int
    num_threads: int = 2
    warmup_steps: int = 100
    weight_decay: float = 0.01
    beta2: float = 0.98
    average: float = 0.998
    fused: bool = False
    horizon: int = 0
    cooldown: int = 0

    def lr_share(self, step: int) -> float:
        """The share of the peak learning rate at a step."""
        share = cosine(step, self.horizon or self.num_steps, self.warmup_steps)
        return share * min(1.0, (self.num_steps - step) / self.cooldown) if self.cooldown else share


def cosine(step: int, num_steps: int, warmup_steps: int, floor: float = 0.01) -> float:
    """The share of the peak learning rate at a step: a linear rise, then half a cosine down to `floor`."""
    rise = min(1.0, (step + 1) / warmup_steps)
    return rise * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / num_steps)))


def start(plan: Plan, seed: int) -> random.Random:
    """Set torch's threads, seed it, and give the run's other source of randomness.

    `seed` shifts the plan's own seed; the shipped weights are made with 0.
    """
    torch.set_num_threads(plan.num_threads)
    torch.manual_seed(plan.seed + 1000 * seed)
    return random.Random(plan.seed + 1000 * seed)


def backward(loss: torch.Tensor) -> float:
    """Leave a loss's gradients in the parameters; returns its value."""
    loss.backward()
    return float(loss.item())


class Training:
    """The state of a run; `run` takes it to the last step."""

    def __init__(self, module: nn.Module, plan: Plan, rng: random.Random, path: Path) -> None:
        self.plan, self.rng, self.path, self.step = plan, rng, path, 0
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.averages = [p.detach().clone() for p in self.parameters]
        self.optimiser = torch.optim.AdamW(
            parameter_groups(self.parameters, plan.weight_decay),
            plan.peak_lr,
            (0.9, plan.beta2),
            fused=plan.fused or None,
        )
        self.resume()

    def run(self, descend: Callable[[], float], name: str) -> None:
        """Train to the plan's last step; `descend` draws a batch, leaves gradients and gives the loss."""
        began_s, smoothed = time.monotonic(), float("nan")
        for step in range(self.step, self.plan.num_steps):
            self.step = step
            value = descend()
            self.update()
            smoothed = value if math.isnan(smoothed) else 0.98 * smoothed + 0.02 * value
            if step % 100 == 99:
                elapsed_s = time.monotonic() - began_s
                print(f"{name} {self.step + 1} loss {smoothed:.4f} {elapsed_s:.0f} s", flush=True)
            if step % 500 == 499:
                self.save()
        self.adopt_average()
        cpu_s = time.process_time()
        print(f"{name} done, {time.monotonic() - began_s:.0f} s wall, {cpu_s:.0f} s CPU", flush=True)

    def update(self) -> None:
        """One step of the optimiser, and of the moving average."""
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.peak_lr * self.plan.lr_share(self.step)
        self.optimiser.step()
        self.optimiser.zero_grad()
        keep = min(self.plan.average, (1 + self.step) / (20 + self.step))
        torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1 - keep)

    def adopt_average(self) -> None:
        """Put the moving average into the module; the run is over."""
        copy_into(self.parameters, self.averages)

    def save(self) -> None:
        state = {
            "step": self.step + 1,
            "parameters": [p.detach() for p in self.parameters],
            "averages": self.averages,
            "optimiser": self.optimiser.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "python_rng": self.rng.getstate(),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".unfinished")
        torch.save(state, unfinished)
        unfinished.replace(self.path)

    def resume(self) -> None:
        if not self.path.exists():
            return
        state = torch.load(self.path, weights_only=False)  # our own file: it holds random states
        copy_into(self.parameters, state["parameters"])
        copy_into(self.averages, state["averages"])
        self.step = state["step"]
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["torch_rng"])
        self.rng.setstate(state["python_rng"])
        print(f"continuing at step {self.step}", flush=True)


def copy_into(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    with torch.no_grad():
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source)


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices and kernels only, not for biases and norms."""
    parameters = list(parameters)
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
