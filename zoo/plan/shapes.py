"""A decoder-only Transformer by its numbers alone, for planning what zoo has no encoder of: Llama 3's block on the meta device.

Letters: B sequences, N positions, D width, H heads, G heads of keys and values, E width of a head.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from zoo.structs import Batch, LossTerm, Values


@dataclass(frozen=True, kw_only=True)
class TransformerShape:
    """What decides the cost of a Llama-like model (Grattafiori et al., 2024, table 3, https://arxiv.org/abs/2407.21783).

    Args:
        layers: blocks.
        dim: width D.
        heads: of queries; they divide dim.
        kv_heads: of keys and values; they divide heads.
        hidden: width of the gated position-wise network.
        vocab: words; the output layer has weights of its own.
        sequence: positions N of a sample.
    """

    layers: int
    dim: int
    heads: int
    kv_heads: int
    hidden: int
    vocab: int
    sequence: int

    def model(self) -> "ShapeModel":
        """The model, without memory."""
        with torch.device("meta"):
            return ShapeModel(self)

    def batch(self) -> Batch:
        """One row, without memory."""
        tokens = torch.empty(1, self.sequence, dtype=torch.int64, device="meta")
        return Batch(inputs={"text": Values(tokens)}, targets={"next": tokens}, ids=tokens[:, 0], valid=tokens[:, 0] > 0)


class RMSNorm(nn.Module):
    """Computed in fp32 from elementwise operations, as published Llama code does."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)).type_as(x) * self.weight


class Block(nn.Module):
    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        width = shape.dim // shape.heads
        self.heads, self.kv_heads = shape.heads, shape.kv_heads
        self.attention_norm, self.ffn_norm = RMSNorm(shape.dim), RMSNorm(shape.dim)
        self.wq = nn.Linear(shape.dim, shape.heads * width, bias=False)
        self.wk = nn.Linear(shape.dim, shape.kv_heads * width, bias=False)
        self.wv = nn.Linear(shape.dim, shape.kv_heads * width, bias=False)
        self.wo = nn.Linear(shape.heads * width, shape.dim, bias=False)
        self.w1 = nn.Linear(shape.dim, shape.hidden, bias=False)
        self.w3 = nn.Linear(shape.dim, shape.hidden, bias=False)
        self.w2 = nn.Linear(shape.hidden, shape.dim, bias=False)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        normed = self.attention_norm(x)  # B N D
        query, key, value = (rearrange(layer(normed), "b n (h e) -> b h n e", h=heads) for layer, heads in self.projections())
        query, key = turn(query, rotation), turn(key, rotation)
        key, value = (repeat(kept, "b g n e -> b (g r) n e", r=self.heads // self.kv_heads) for kept in (key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.wo(rearrange(mixed, "b h n e -> b n (h e)"))
        normed = self.ffn_norm(x)
        return x + self.w2(F.silu(self.w1(normed)) * self.w3(normed))  # type: ignore[no-any-return]

    def projections(self) -> tuple[tuple[nn.Linear, int], ...]:
        return (self.wq, self.heads), (self.wk, self.kv_heads), (self.wv, self.kv_heads)


def turn(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotary positions, by complex multiplication as published."""
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotation).flatten(-2).type_as(x)


class ShapeModel(nn.Module):
    """Predicts every next word; has ``losses`` as ``zoo.model.Model`` does."""

    repeats = ("blocks",)

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocab, shape.dim)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.dim)
        self.output = nn.Linear(shape.dim, shape.vocab, bias=False)
        self.register_buffer("rotation", torch.empty(shape.sequence, shape.dim // shape.heads // 2, dtype=torch.complex64))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.rotation)
        return self.output(self.norm(x))  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> dict[str, LossTerm]:
        tokens = batch.inputs["text"].values
        assert isinstance(tokens, Tensor)
        logits = self(tokens)
        return {"next": LossTerm(F.cross_entropy(logits.flatten(0, 1).float(), batch.targets["next"].flatten(0, 1), reduction="sum"))}
