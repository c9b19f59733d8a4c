"""Models and batches that benches of trainers share: plain modules, inputs to logits."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.optim.groups import ParameterGroups

LR, CLIP, WARMUP = 1e-3, 1.0, 10


class Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Vit(nn.Module):
    repeats = ("blocks",)  # what zoo compiles, as for its own encoders

    def __init__(self, dim: int = 192, depth: int = 6) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 4, 4)
        self.positions = nn.Parameter(torch.zeros(1, 64, dim))
        self.blocks = nn.Sequential(*(Block(dim, 3) for _ in range(depth)))
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.patches(x).flatten(2).mT + self.positions).mean(1))


class Bert(nn.Module):
    repeats = ("blocks",)

    def __init__(self, dim: int = 256, depth: int = 4) -> None:
        super().__init__()
        self.table, self.positions = nn.Embedding(8000, dim), nn.Parameter(torch.zeros(1, 128, dim))
        self.blocks = nn.Sequential(*(Block(dim, 4) for _ in range(depth)))
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.table(x) + self.positions).mean(1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor], int, int]] = {
    # model, inputs, batch size, steps of a segment
    "mlp8": (mlp, lambda n: torch.randn(n, 256), 8, 200),
    "mlp64": (mlp, lambda n: torch.randn(n, 256), 64, 100),
    "vit": (Vit, lambda n: torch.randn(n, 3, 32, 32), 16, 12),
    "bert": (Bert, lambda n: torch.randint(0, 8000, (n, 128)), 8, 10),
}


def multiplier(total: int) -> Callable[[int], float]:
    return lambda step: (step + 1) / (WARMUP + 1) if step < WARMUP else 0.5 * (1 + math.cos(math.pi * min(1, (step - WARMUP) / (total - WARMUP))))


def batches(x: Tensor, y: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        order = torch.randperm(len(x))
        for start in range(0, len(x) - size + 1, size):
            rows = order[start : start + size]
            yield x[rows], y[rows]


def lean_loop(model: nn.Module, call: nn.Module, data: Iterator[tuple[Tensor, Tensor]], total: int, own: slice = slice(None)) -> Callable[[int], None]:
    """The leanest loop that does what a trainer does: index a batch, forward, backward, clip, step, schedule.

    Args:
        model: whose parameters are trained.
        call: what is called: the model, or what wraps it.
        data: batches.
        total: steps of the schedule.
        own: this process's rows of each.
    """
    optimizer = torch.optim.AdamW(ParameterGroups(model).split(0.01), lr=LR, fused=True)
    schedule, place = multiplier(total), 0

    def segment(steps: int) -> None:
        nonlocal place
        for _ in range(steps):
            inputs, labels = next(data)
            loss = F.cross_entropy(call(inputs[own]), labels[own])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            for group in optimizer.param_groups:
                group["lr"] = LR * schedule(place)
            optimizer.step()
            place += 1
            if place % 10 == 0:
                loss.item()

    return segment
