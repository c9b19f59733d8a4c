"""Running figures of rankings over a whole catalogue, as sums in float64.

Letters: B histories, N positions, V identifiers, S seen items.
"""

from typing import Any

import torch
from torch import Tensor

from zoo.parallel.collectives import current_group
from zoo.specs import ItemTarget
from zoo.structs import Prediction, Targets


class RankingMetrics:
    """``hit_rate@k``, ``ndcg@k`` and ``mrr`` of one answer a history.

    The answer's rank is 1 + items with a higher score + half of those with the same one: a model that scores all items alike gets the middle
    of the catalogue, not its top. Rows without a target at the last real position count nowhere.

    Args:
        target: its name, that of the seen items, and the catalogue's size.
        k: lengths of ranked list.
    """

    def __init__(self, target: ItemTarget, k: tuple[int, ...]) -> None:
        self.target, self.k = target, k
        self.sums = torch.zeros(2 + 2 * len(k), dtype=torch.float64)  # rows, 1 / rank, then hits and gains at each k

    def update(self, prediction: Prediction, targets: Targets, valid: Tensor) -> None:
        wanted = targets[self.target.name].gather(1, prediction["last"][:, None]).squeeze(1)  # B
        counted = (valid & (wanted > 0)).cpu()
        rank = mid_rank(prediction["scores"].detach(), wanted, targets[self.target.seen]).cpu().double()
        figures = [torch.ones_like(rank), 1 / rank]
        for k in self.k:
            hit = (rank <= k).double()
            figures += [hit, hit / torch.log2(1 + rank)]
        self.sums += torch.stack(figures)[:, counted].sum(dim=1)

    def merge(self) -> None:
        current_group().sum(self.sums)

    def compute(self) -> dict[str, float]:
        means = (self.sums[1:] / self.sums[0]).tolist()
        pairs = {f"{name}@{k}": means[1 + 2 * place + offset] for place, k in enumerate(self.k) for offset, name in enumerate(("hit_rate", "ndcg"))}
        return pairs | {"mrr": means[0]}

    def tables(self) -> dict[str, Any]:
        return {}


def mid_rank(scores: Tensor, wanted: Tensor, seen: Tensor) -> Tensor:
    """B: the rank of ``wanted`` among all items but padding and those seen; the wanted one itself always competes.

    Args:
        scores: B V.
        wanted: B identifiers.
        seen: B S identifiers, 0 for padding.
    """
    own = scores.gather(1, wanted[:, None])  # B 1
    competes = torch.ones_like(scores, dtype=torch.bool).scatter_(1, seen, False)
    competes[:, 0] = False
    competes.scatter_(1, wanted[:, None], False)
    higher = ((scores > own) & competes).sum(dim=1)
    same = ((scores == own) & competes).sum(dim=1)
    return 1 + higher + same.to(scores.dtype) / 2
