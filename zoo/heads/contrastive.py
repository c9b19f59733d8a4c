"""Contrastive: which of the batch's rows go together (CLIP, Radford et al., 2021, https://arxiv.org/abs/2103.00020).

Letters: B items, D width.
"""

from collections.abc import Mapping
from enum import StrEnum
from math import log
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.heads.retrieval_metrics import RetrievalMetrics, list_lengths
from zoo.layers.precision import widen
from zoo.registry import HEADS
from zoo.specs import FeatureSpec, PairTarget
from zoo.structs import Features, LossTerm, Prediction, Targets

LARGEST = 100.0
"""Of the scale, as in CLIP: beyond it training becomes unstable."""


class Comparison(StrEnum):
    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"


@HEADS.register("contrastive")
class ContrastiveHead(nn.Module):
    """Vectors of a row's two inputs are drawn together, and apart from those of all other rows of the global batch.

    softmax is CLIP's loss: each input has to pick its partner out of the batch, in both directions. sigmoid is SigLIP's (Zhai et al., 2023,
    https://arxiv.org/abs/2303.15343): each pair is a question of its own, yes or no. Rows of one thing (equal targets) are no wrong answers for each
    other, and are left out there. The larger data.batch_size, the harder the question; ranks and trainer.accumulate split it without changing it.

    Args:
        features: filled from what comes before the head; a vector of each of two inputs (model/encoder=dual).
        target: filled from the data's spec.
        loss: softmax (CLIP) or sigmoid (SigLIP).
        temperature: that similarities are divided by in the beginning; learned, and never below .01. CLIP .07, SigLIP .1.
        bias: added to each pair's score in the beginning, with loss=sigmoid; learned. About -log(batch size), since few pairs are right; SigLIP -10.
        k: lengths of ranked list at which recall is reported.
    """

    repeats = ()
    no_decay = ("log_scale", "bias")
    whole_batch: ClassVar[bool] = True
    monitor: ClassVar[tuple[str, str]] = ("mrr", "max")

    def __init__(
        self,
        *,
        features: FeatureSpec,
        target: PairTarget,
        loss: Comparison = Comparison.SOFTMAX,
        temperature: float = 0.07,
        bias: float = -10.0,
        k: tuple[int, ...] = (1, 5, 10),
    ) -> None:
        super().__init__()
        if len(features.parts) != 2:
            found = f"vectors of {', '.join(features.parts)}" if features.parts else f"a {features.layout} that does not keep inputs apart"
            raise ValueError(f"the head compares a vector of each of two inputs, and gets {found}; choose model/encoder=dual")
        if not 1 / LARGEST <= temperature <= 1:
            raise ValueError(f"temperature={temperature} is not between {1 / LARGEST} and 1; choose e.g. 0.07")
        self.target, self.comparison, self.parts, self.k = target, loss, features.parts, list_lengths(k)
        self.log_scale = nn.Parameter(torch.full((1,), -log(temperature)))
        self.bias = nn.Parameter(torch.full((1,), float(bias))) if loss is Comparison.SIGMOID else None
        first, second = self.parts
        self.protocol = (
            f"each {first} against every {second} of the split and back, by cosine; a hit is any row of the same {target.name!r}, its rank the best of these; "
            "ties take the middle rank; no loss, which would depend on the number of rows"
        )

    def forward(self, features: Features) -> Prediction:
        """``vectors`` B 2 D of length 1, and what the loss needs besides, as columns: ``scale`` B, with loss=sigmoid ``bias`` B."""
        assert features.tokens is not None, "the spec says that there are tokens"
        vectors = F.normalize(widen(features.tokens), dim=-1)
        free = widen(self.log_scale)
        # The value stops at the cap and the gradient does not: one that stopped as well would leave the parameter there for good.
        scale = (free + (free.clamp(max=log(LARGEST)) - free).detach()).exp()
        columns = {"scale": scale} if self.bias is None else {"scale": scale, "bias": widen(self.bias)}
        return {"vectors": vectors} | {name: value.expand(len(vectors)) for name, value in columns.items()}

    def count(self, targets: Targets, valid: Tensor) -> dict[str, Tensor]:
        """Rows."""
        return {"contrastive": valid.sum().float()}

    def loss(self, prediction: Prediction, targets: Targets, valid: Tensor) -> dict[str, LossTerm]:
        """Over all pairs of these rows."""
        pair = targets[self.target.name]
        itself = torch.eye(len(pair), dtype=torch.bool, device=pair.device)
        counted = valid[:, None] & valid  # B B
        with torch.autocast(valid.device.type if valid.device.type != "meta" else "cpu", enabled=False):  # products of a few bits blur near scores
            first, second = torch.where(valid[:, None, None], prediction["vectors"], 0.0).unbind(dim=1)  # B D each
            scores = prediction["scale"][:, None] * (first @ second.T)  # B B
            if self.comparison is Comparison.SOFTMAX:
                # A row that does not count is left with itself alone, which costs nothing.
                scores = scores.masked_fill(~(itself | (counted & (pair[:, None] != pair))), -torch.inf)
                right = scores.diagonal()
                total = (scores.logsumexp(dim=1) + scores.logsumexp(dim=0)).sum() / 2 - right.sum()
            else:
                scores = scores + prediction["bias"][:, None]
                costs = -F.logsigmoid(torch.where(itself, scores, -scores))
                total = torch.where(counted & (itself | (pair[:, None] != pair)), costs, 0.0).sum()
        return {"contrastive": LossTerm(total, valid.sum().float())}

    def metrics(self) -> RetrievalMetrics:
        return RetrievalMetrics(self.target, self.parts, self.k)

    def decode(self, prediction: Prediction, targets: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        """How well a row's inputs go together: ``similarity`` -1 .. 1, the cosine of their vectors; with loss=sigmoid the ``probability`` as well."""
        first, second = prediction["vectors"].detach().unbind(dim=1)
        answer = {"similarity": (first * second).sum(dim=1)}
        if self.bias is not None:
            answer["probability"] = torch.sigmoid(prediction["scale"] * answer["similarity"] + prediction["bias"])
        return [dict(zip(answer, row, strict=True)) for row in torch.stack(list(answer.values()), dim=1).tolist()]
