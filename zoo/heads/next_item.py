"""Next item: what follows in a history, out of the whole catalogue.

Letters: B histories, N positions, D width, V identifiers (items and padding), P positions with a target, S seen items, K sampled items.
"""

from collections.abc import Mapping
from enum import StrEnum
from math import log
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.heads.causal import check_causal
from zoo.heads.ranking_metrics import RankingMetrics
from zoo.layers.dropout import Dropout
from zoo.layers.pooling import last_place, last_real
from zoo.layers.precision import widen
from zoo.random import current
from zoo.registry import HEADS
from zoo.specs import FeatureSpec, ItemTarget
from zoo.structs import Features, LossTerm, Prediction, Targets


class ItemLoss(StrEnum):
    FULL = "full"
    SAMPLED = "sampled"


@HEADS.register("next_item")
class NextItemHead(nn.Module):
    """Every position of a causal history predicts the item after it (Kang and McAuley, 2018, https://arxiv.org/abs/1808.09781).

    Training scores items only where there is a target. Evaluation scores the whole catalogue after the last real position.

    Args:
        features: filled from what comes before the head; a causal sequence.
        target: filled from the data's spec.
        loss: full (softmax over the catalogue), or sampled (over the target and drawn items, for large catalogues; Jean et al., 2015).
        num_sampled: items drawn for each history, uniformly, with loss=sampled; its positions share them.
        dropout: probability of leaving out an element before the scores.
        k: lengths of ranked list at which hit rate and NDCG are reported.
        answers: length of the ranked list that a prediction gives.
    """

    repeats = ()
    monitor: ClassVar[tuple[str, str]] = ("ndcg@10", "max")

    def __init__(
        self,
        *,
        features: FeatureSpec,
        target: ItemTarget,
        loss: ItemLoss = ItemLoss.FULL,
        num_sampled: int = 256,
        dropout: float = 0.0,
        k: tuple[int, ...] = (5, 10, 20),
        answers: int = 10,
    ) -> None:
        super().__init__()
        check_causal(features)
        if not k or min(k) < 1 or 10 not in k:
            raise ValueError(f"k={list(k)} has to list positive lengths, 10 among them: ndcg@10 says which checkpoint is best")
        if num_sampled < 1 or answers < 1:
            raise ValueError(f"num_sampled={num_sampled} and answers={answers} have to be 1 or more")
        self.target, self.loss_kind, self.num_sampled, self.k = target, loss, num_sampled, tuple(sorted(set(k)))
        self.answers = min(answers, target.num_items)
        self.dropout = Dropout(dropout)
        self.items = nn.Embedding(target.num_items + 1, features.dim)  # row 0 is padding's and never scored
        nn.init.trunc_normal_(self.items.weight, std=0.02)
        self.protocol = (
            f"next item over the full catalogue of {target.num_items} items, those in {target.seen!r} left out except the answer itself; "
            "one answer a history; ties take the middle rank"
        )

    def forward(self, features: Features) -> Prediction:
        """``hidden`` B N D always; outside training ``scores`` B V after the last real position, and its place B in ``last``."""
        assert features.tokens is not None, "the spec says that there are tokens"
        hidden = self.dropout(features.tokens)
        if self.training:
            return {"hidden": hidden}
        mask = features.mask if features.mask is not None else hidden.new_ones(hidden.shape[:2], dtype=torch.bool)
        scores = widen(last_real(hidden, mask)) @ widen(self.items.weight).T
        return {"hidden": hidden, "scores": scores, "last": last_place(mask)}

    def count(self, targets: Targets, valid: Tensor) -> dict[str, Tensor]:
        """Positions with a target."""
        return {"next_item": self.asked(targets, valid).sum().float()}

    def loss(self, prediction: Prediction, targets: Targets, valid: Tensor) -> dict[str, LossTerm]:
        """Cross entropy; over the whole catalogue outside training, whatever the option, so that validation losses compare."""
        hidden, wanted, asked = prediction["hidden"], targets[self.target.name], self.asked(targets, valid)
        if self.loss_kind is ItemLoss.SAMPLED and self.training:
            entries = self.sampled_entropy(hidden, wanted) * asked  # B N
            return {"next_item": LossTerm(entries.sum(), asked.sum().float())}
        if hidden.device.type == "meta":  # how many positions are asked is data, which meta tensors do not have
            hidden, wanted = hidden.flatten(0, 1), wanted.flatten()
        else:
            hidden, wanted = hidden[asked], wanted[asked]  # P D, P
        logits = widen(hidden @ self.items.weight[1:].T)  # P V-1
        return {"next_item": LossTerm(F.cross_entropy(logits, wanted - 1, reduction="sum"), asked.sum().float())}

    def sampled_entropy(self, hidden: Tensor, wanted: Tensor) -> Tensor:
        """B N: -log of the target's share of the estimated sum over the catalogue; 0 is taken for a missing target."""
        count, num_items = self.num_sampled, self.target.num_items
        random = current()
        if random is None:
            drawn = torch.randint(1, num_items + 1, (hidden.shape[0], count), device=hidden.device)
        else:
            drawn = random.integers("next_item", num_items, count) + 1  # B K
        positive = (widen(hidden) * self.items(wanted)).sum(dim=-1)  # B N
        negative = widen(hidden @ self.items(drawn).transpose(1, 2))  # B N K
        # Each drawn item stands for (V - 1) / K of the others, so that the loss estimates the full softmax's.
        negative = negative + log(max(num_items - 1, 1) / count)
        negative = negative.masked_fill(drawn[:, None, :] == wanted[..., None], torch.finfo(negative.dtype).min)
        entropy: Tensor = torch.cat((positive[..., None], negative), dim=-1).logsumexp(dim=-1) - positive
        return entropy

    def asked(self, targets: Targets, valid: Tensor) -> Tensor:
        """B N bool."""
        return valid[:, None] & (targets[self.target.name] > 0)

    def metrics(self) -> RankingMetrics:
        return RankingMetrics(self.target, self.k)

    def decode(self, prediction: Prediction, targets: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        """The best of the catalogue as ``{"items": [identifiers], "scores": [...]}``, best first.

        Identifiers are internal, 1 .. num_items: whoever has the processor names them. Items in ``targets[seen]`` are left out where it is given.
        """
        scores = widen(prediction["scores"].detach()).clone()
        scores[:, 0] = -torch.inf
        if self.target.seen in targets:
            scores.scatter_(1, targets[self.target.seen], -torch.inf)
        best, items = scores.topk(self.answers, dim=1)
        left = best > -torch.inf  # a history may have seen nearly everything
        return [
            {"items": row[known].tolist(), "scores": values[known].tolist()} for row, values, known in zip(items.cpu(), best.cpu(), left.cpu(), strict=True)
        ]
