"""Two inputs of one sample, each through an encoder of its own into one space, and never mixed: what contrastive training compares.

Letters: B items, D common width.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from zoo.layers.pooling import Pool
from zoo.model import Encoder, encode_input
from zoo.registry import ENCODERS
from zoo.specs import FeatureSpec, Layout
from zoo.structs import Features, Values


@ENCODERS.register("dual")
class DualEncoder(nn.Module):
    """Two towers: each input's features are pooled and projected to one width, one vector an input (CLIP, Radford et al., 2021).

    Every sample needs both inputs. The towers share nothing; what compares their vectors is the head.

    Args:
        encoders: for each of the two inputs, by its name, the encoder that takes it: +model/encoder@model.encoder.encoders.image=vit.
        dim: width D of the space that both are projected to.
    """

    by_name: ClassVar[bool] = True
    needs_all: ClassVar[bool] = True
    repeats = ()

    def __init__(self, *, encoders: dict[str, Encoder], dim: int = 128) -> None:
        super().__init__()
        parts: dict[str, Any] = dict(encoders)
        if len(parts) != 2:
            raise ValueError(
                f"encoders names {', '.join(parts) or 'nothing'}, and two inputs are needed, no more and no less; choose one encoder for each of two, e.g. "
                "+model/encoder@model.encoder.encoders.image=cnn +model/encoder@model.encoder.encoders.text=transformer"
            )
        for name, part in parts.items():
            if getattr(part, "by_name", False):
                raise ValueError(f"encoders.{name} is made of encoders itself; choose one of a single input")
        self.encoders = nn.ModuleDict(parts)
        self.pools = nn.ModuleDict({name: Pool(features=part.output_spec) for name, part in parts.items()})
        self.projections = nn.ModuleDict({name: nn.Linear(part.output_spec.dim, dim, bias=False) for name, part in parts.items()})
        for name, part in parts.items():
            nn.init.normal_(self.projections[name].weight, std=part.output_spec.dim**-0.5)  # type: ignore[arg-type]
        self.output_spec = FeatureSpec(dim=dim, layout=Layout.SEQUENCE, length=2, parts=tuple(parts))

    def forward(self, inputs: Mapping[str, Values], mask: None = None) -> Features:
        vectors = [self.projections[name](self.pools[name](encode_input(encoder, inputs[name]))) for name, encoder in self.encoders.items()]
        return Features(tokens=torch.stack(vectors, dim=1))  # B 2 D
