"""Several inputs of one sample, each through an encoder of its own, put together late. Samples may lack some of them.

Letters: B items, P parts (inputs), N positions of a part, M positions of all parts, D common width.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.layers.pooling import Pool
from zoo.layers.transformer import TransformerBlock, init_transformer
from zoo.model import Encoder, mixes_batch
from zoo.registry import ENCODERS
from zoo.specs import FeatureSpec, Layout
from zoo.structs import Features, Values


class Combine(StrEnum):
    POOLED = "pooled"
    TOKENS = "tokens"


class Absent(StrEnum):
    RUN = "run"
    SKIP = "skip"


@ENCODERS.register("fusion")
class Fusion(nn.Module):
    """Encoders beside each other, one for each input; what they give is projected to one width, normalised and joined.

    In place of a part that a sample lacks (``Values.present``) stands a learned vector. What an absent row holds takes part in nothing: it is
    blanked before its encoder and replaced behind it, so that it changes no output and no gradient.

    With absent=run every part sees every row, and every parameter has a gradient in every batch (zeros, where all lack the part): the same
    operations whatever a batch holds, as sharding (FSDP) needs, where all ranks have to take part in every module's communication. With
    absent=skip a part that no row of a micro-batch has is not run; its parameters then have no gradient from there. Sums over ranks and
    micro-batches are the same; the optimizer leaves such parameters alone only where the whole global batch lacks the part.

    Args:
        encoders: for each input, by its name, the encoder that takes it: +model/encoder@model.encoder.encoders.image=vit.
        dim: common width D that each part is projected to.
        combine: pooled joins one vector of each part (width P x D); tokens joins the parts' sequences (positions of maps and sequences, a vector as one
            position), told apart by a learned vector for each part.
        depth: Transformer blocks over the joined sequence; with combine=tokens only.
        heads: attention heads of these blocks; they divide dim.
        dropout: probability of leaving out an element in these blocks.
        absent: run every part in every batch, or skip one that no row of a micro-batch has (less work; not for sharded training).
    """

    by_name: ClassVar[bool] = True
    repeats = ("blocks",)
    no_decay = ("absent", "kinds")

    def __init__(
        self,
        *,
        encoders: dict[str, Encoder],
        dim: int = 128,
        combine: Combine = Combine.POOLED,
        depth: int = 0,
        heads: int = 4,
        dropout: float = 0.0,
        absent: Absent = Absent.RUN,
    ) -> None:
        super().__init__()
        parts: dict[str, Any] = dict(encoders)
        if not parts:
            raise ValueError("encoders is empty; give one for each input, e.g. +model/encoder@model.encoder.encoders.image=cnn")
        if depth and combine is Combine.POOLED:
            raise ValueError(f"depth={depth} blocks need a sequence, and combine=pooled has none; choose combine=tokens, or depth=0")
        for name, part in parts.items():
            if getattr(part, "by_name", False):
                raise ValueError(f"encoders.{name} is made of encoders itself; list all of them here")
            if mixing := mixes_batch(part):
                raise ValueError(
                    f"encoders.{name} takes statistics over the batch ({len(mixing)} layers, the first is {mixing[0]}), in which rows without this "
                    "input would count; choose an option of it that normalises each sample alone (group or layer norm), or another encoder"
                )
        self.combine, self.dim, self.skips_parts = combine, dim, absent is Absent.SKIP
        self.encoders = nn.ModuleDict(parts)
        self.pools = nn.ModuleDict({name: Pool(features=part.output_spec) for name, part in parts.items()} if combine is Combine.POOLED else {})
        self.projections = nn.ModuleDict({name: nn.Sequential(nn.Linear(part.output_spec.dim, dim), nn.LayerNorm(dim)) for name, part in parts.items()})
        self.absent = nn.Parameter(nn.init.trunc_normal_(torch.empty(len(parts), dim), std=0.02))  # P D
        self.blocks = nn.ModuleList(TransformerBlock(dim=dim, heads=heads, dropout=dropout) for _ in range(depth))
        init_transformer(self.blocks)
        if combine is Combine.POOLED:
            self.output_spec = FeatureSpec(dim=len(parts) * dim, layout=Layout.VECTOR, pooled=True)
        else:
            self.kinds = nn.Parameter(nn.init.trunc_normal_(torch.empty(len(parts), dim), std=0.02))  # P D
            self.norm = nn.LayerNorm(dim) if depth else nn.Identity()
            self.output_spec = FeatureSpec(dim=dim, layout=Layout.SEQUENCE)

    def forward(self, inputs: Mapping[str, Values], mask: None = None) -> Features:
        found = [self.part(name, number, inputs[name]) for number, name in enumerate(self.encoders)]
        if self.combine is Combine.POOLED:
            return Features(pooled=torch.cat([x[:, 0] for x, _ in found], dim=1))  # B PD
        x = torch.cat([x + self.kinds[number] for number, (x, _) in enumerate(found)], dim=1)  # B M D
        real = torch.cat([x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask for x, mask in found], dim=1)  # B M
        joined: Tensor | None = None
        if any(mask is not None for _, mask in found):
            x, joined = real_first(x, real)
        for block in self.blocks:
            x = block(x, joined)
        return Features(tokens=self.norm(x), mask=joined)

    def part(self, name: str, number: int, values: Values) -> tuple[Tensor, Tensor | None]:
        """B N D and its mask; one position of the learned vector for rows that lack the part."""
        absent = self.absent[number]
        rows = next(iter(values.values.values())) if isinstance(values.values, dict) else values.values
        present = values.present
        if self.skips_parts:
            if present is not None and not present.is_meta and not bool(present.any()):
                return absent.expand(len(present), 1, -1), None
        elif present is None:  # the learned vector takes part all the same, so that no batch decides whether it has a gradient
            present = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        blank = values.blanked()
        features: Features = self.encoders[name](blank.values, blank.mask)
        x, mask = (self.pools[name](features)[:, None], None) if self.combine is Combine.POOLED else sequence(features)
        x = self.projections[name](x)  # B N D
        if present is None:
            return x, mask
        x = torch.where(present[:, None, None], x, absent)
        if values.present is None or x.shape[1] == 1:
            return x, mask
        first = torch.arange(x.shape[1], device=x.device) == 0
        return x, torch.where(present[:, None], first.new_ones(1) if mask is None else mask, first)


def sequence(features: Features) -> tuple[Tensor, Tensor | None]:
    """What a part gives as B N D, the richest form that it has, and the mask."""
    if features.tokens is not None:
        return features.tokens, features.mask
    if features.maps:
        return features.maps[-1].flatten(2).transpose(1, 2), None  # B C H W -> B HW C
    assert features.pooled is not None
    return features.pooled[:, None], None


def real_first(x: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """B M D and B M with each row's real positions in front, in order: where padding was then changes nothing behind, dropout included."""
    order = (~real).to(torch.int8).argsort(dim=1, stable=True)  # B M
    return x.gather(1, order[..., None].expand_as(x)), real.gather(1, order)
