"""Embedding: one vector an item, near those of items of the same thing.

Letters: B items, D width, E width of the vectors.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.heads.retrieval_metrics import NeighbourMetrics, list_lengths
from zoo.layers.pooling import Pool, Pooling
from zoo.layers.precision import widen
from zoo.registry import HEADS
from zoo.specs import FeatureSpec, PairTarget
from zoo.structs import Features, LossTerm, Prediction, Targets


@HEADS.register("embedding")
class EmbeddingHead(nn.Module):
    """Vectors of length 1, trained by the supervised contrastive loss (Khosla et al., 2020, https://arxiv.org/abs/2004.11362).

    Each item has to tell the others of its thing (equal targets: the same product, speaker, meaning) from the rest of the global batch. Items that are
    alone with their thing in a batch are what others are told from, and have no loss of their own.

    Args:
        features: filled from what comes before the head.
        target: filled from the data's spec.
        pooling: auto (the encoder's own, else the mean, else the last position of causal features), mean, max, cls, last or attention.
        dim: width E of the vectors, by a linear layer; 0 keeps that of the features, without a layer.
        temperature: that cosines are divided by in the loss; the paper's .1.
        k: lengths of ranked list at which recall is reported.
        sizes: shorter vectors, of the first so many numbers, that are to be good as well (matryoshka, Kusupati et al., 2022,
            https://arxiv.org/abs/2205.13147): the loss is the mean over them and the whole, and retrieval is reported of each. To be scaled to length 1
            by whoever cuts them.
    """

    repeats = ()
    whole_batch: ClassVar[bool] = True
    monitor: ClassVar[tuple[str, str]] = ("mrr", "max")

    def __init__(
        self,
        *,
        features: FeatureSpec,
        target: PairTarget,
        pooling: Pooling = Pooling.AUTO,
        dim: int = 0,
        temperature: float = 0.1,
        k: tuple[int, ...] = (1, 5, 10),
        sizes: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        if not 0 < temperature <= 1:
            raise ValueError(f"temperature={temperature} is not above 0 and up to 1; choose e.g. 0.1")
        if dim < 0:
            raise ValueError(f"dim={dim} is negative; choose 0 for the width of the features, {features.dim}, or that of the vectors")
        width = dim or features.dim
        if sizes and not 0 < min(sizes) <= max(sizes) < width:
            raise ValueError(f"sizes={list(sizes)}: each has to be below the width of the vectors, {width}, and above 0")
        self.sizes = tuple(sorted(set(sizes)))
        self.target, self.temperature, self.k = target, temperature, list_lengths(k)
        self.pool = Pool(features=features, pooling=pooling)
        self.projection = nn.Linear(features.dim, dim) if dim else None
        self.protocol = (
            f"each row against all others of the split, by cosine; a hit is any other row of the same {target.name!r}, its rank the best of these; rows that "
            "are alone with theirs are asked for nothing; ties take the middle rank; no loss, which would depend on the number of rows"
        )

    def forward(self, features: Features) -> Prediction:
        """``vectors`` B E of length 1."""
        pooled = self.pool(features)
        return {"vectors": F.normalize(widen(pooled if self.projection is None else self.projection(pooled)), dim=-1)}

    def count(self, targets: Targets, valid: Tensor) -> dict[str, Tensor]:
        """Rows."""
        return {"embedding": valid.sum().float()}

    def loss(self, prediction: Prediction, targets: Targets, valid: Tensor) -> dict[str, LossTerm]:
        """Over these rows: the paper's L_out, the mean over an item's partners outside the logarithm."""
        pair = targets[self.target.name]
        itself = torch.eye(len(pair), dtype=torch.bool, device=pair.device)
        others = valid[:, None] & valid & ~itself  # B B
        partners = others & (pair[:, None] == pair)
        with torch.autocast(valid.device.type if valid.device.type != "meta" else "cpu", enabled=False):  # products of a few bits blur near cosines
            whole = torch.where(valid[:, None], prediction["vectors"], 0.0)
            cut = [F.normalize(whole[:, :size], dim=-1) for size in self.sizes]
            costs = [self._cost(vectors, others, partners) for vectors in (whole, *cut)]
            total = torch.stack(costs).mean()
        return {"embedding": LossTerm(total, valid.sum().float())}

    def _cost(self, vectors: Tensor, others: Tensor, partners: Tensor) -> Tensor:
        """Over vectors of one size, B E."""
        scores = (vectors @ vectors.T) / self.temperature  # B B
        logs = scores - scores.masked_fill(~others, torch.finfo(scores.dtype).min).logsumexp(dim=1, keepdim=True)
        return -(torch.where(partners, logs, 0.0).sum(dim=1) / partners.sum(dim=1).clamp_min(1)).sum()

    def metrics(self) -> NeighbourMetrics:
        return NeighbourMetrics(self.target, self.k, self.sizes)

    def decode(self, prediction: Prediction, targets: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        """``vector``: E numbers, whose product with another's is the cosine of the two."""
        return [{"vector": vector} for vector in prediction["vectors"].detach().tolist()]
