"""Models and batches that benches of trainers share: plain modules, inputs to logits."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
