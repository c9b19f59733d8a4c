"""Figures of retrieval over a whole split: each row's vectors are kept, and compared when all are there.

Letters: B rows of a batch, S rows of the split, Q queries among them, D width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.parallel.collectives import current_group
from zoo.specs import PairTarget
from zoo.structs import Prediction, Targets

TIE = 1e-5
"""Cosines nearer than this are the same: sums in another order differ by as much."""
CHUNK = 1024


def list_lengths(k: tuple[int, ...]) -> tuple[int, ...]:
    """Lengths of ranked list at which recall is reported, each once, in order.

    Raises:
        ValueError: for none, and for one that is not positive.
    """
    if not k or min(k) < 1:
        raise ValueError(f"k={list(k)} has to list positive lengths, e.g. [1, 5, 10]")
    return tuple(sorted(set(k)))


class RetrievalMetrics:
    """``recall@k``, ``median_rank`` and ``mrr`` of each input as the query and the other as the answer, over every row of the split.

    An answer is any row of the same thing. Its rank is that of the best of them: 1 + wrong rows with a higher cosine + half of those with the same
    one, so that a model that tells nothing apart gets the middle of the split, not its top. Figures without a direction are the mean of both. Where a
    vector is not finite there is no rank, and the figures are NaN, which is worse than any number.

    Args:
        target: its name.
        parts: names of the two inputs.
        k: lengths of ranked list.
    """

    def __init__(self, target: PairTarget, parts: tuple[str, ...], k: tuple[int, ...]) -> None:
        self.target, self.parts, self.k = target, parts, k
        self.vectors: list[Tensor] = []
        self.pairs: list[Tensor] = []

    def update(self, prediction: Prediction, targets: Targets, valid: Tensor) -> None:
        counted = valid.cpu()
        self.vectors.append(prediction["vectors"].detach().cpu().float()[counted])  # B 2 D
        self.pairs.append(targets[self.target.name].cpu()[counted])

    def merge(self) -> None:
        self.vectors, self.pairs = everywhere(self.vectors, self.pairs, (2, 0))

    def compute(self) -> dict[str, float]:
        vectors, pairs = torch.cat(self.vectors), torch.cat(self.pairs)  # S 2 D, S
        figures: dict[str, float] = {}
        directions = {f"{self.parts[query]}_to_{self.parts[1 - query]}": ranks(vectors[:, query], vectors[:, 1 - query], pairs) for query in (0, 1)}
        for direction, rank in directions.items():
            figures |= {f"{direction}_recall@{k}": recall(rank, k) for k in self.k}
            figures[f"{direction}_median_rank"] = float(rank.quantile(0.5)) if len(rank) else float("nan")
        both = torch.cat(list(directions.values()))
        return {f"recall@{k}": recall(both, k) for k in self.k} | {"mrr": float((1 / both).mean())} | figures

    def tables(self) -> dict[str, Any]:
        return {}


class NeighbourMetrics:
    """``recall@k``, ``median_rank`` and ``mrr`` of each row as the query and all others of the split as the answers, where it has a partner among them.

    Args:
        target: its name.
        k: lengths of ranked list.
        sizes: how many of the first numbers of each vector are compared as well, once scaled to length 1: ``recall@k_of_size``.
    """

    def __init__(self, target: PairTarget, k: tuple[int, ...], sizes: tuple[int, ...] = ()) -> None:
        self.target, self.k, self.sizes = target, k, sizes
        self.vectors: list[Tensor] = []
        self.pairs: list[Tensor] = []

    def update(self, prediction: Prediction, targets: Targets, valid: Tensor) -> None:
        counted = valid.cpu()
        self.vectors.append(prediction["vectors"].detach().cpu().float()[counted])  # B D
        self.pairs.append(targets[self.target.name].cpu()[counted])

    def merge(self) -> None:
        self.vectors, self.pairs = everywhere(self.vectors, self.pairs, (0,))

    def compute(self) -> dict[str, float]:
        vectors, pairs = torch.cat(self.vectors), torch.cat(self.pairs)  # S D, S
        rank = ranks(vectors, vectors, pairs, itself=False)
        figures = {f"recall@{k}": recall(rank, k) for k in self.k} | {"mrr": float((1 / rank).mean())}
        for size in self.sizes:
            short = F.normalize(vectors[:, :size], dim=-1)
            cut = ranks(short, short, pairs, itself=False)
            figures |= {f"recall@{k}_of_{size}": recall(cut, k) for k in self.k}
        return figures | {"median_rank": float(rank.quantile(0.5)) if len(rank) else float("nan")}

    def tables(self) -> dict[str, Any]:
        return {}


def everywhere(vectors: list[Tensor], pairs: list[Tensor], none: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """Rows of all ranks. A rank whose share of the split is empty has seen no vector, and learns from the others what one looks like.

    Args:
        vectors: of this rank's batches.
        pairs: of the same.
        none: axes after the rows, where no rank has any.
    """
    group = current_group()
    seen = [found for found in group.gather((tuple(vectors[0].shape[1:]), pairs[0].dtype) if vectors else None) if found is not None]
    shape, kind = seen[0] if seen else (none, torch.int64)
    own = [torch.cat([torch.empty(0, *shape), *vectors]), torch.cat([torch.empty(0, dtype=kind), *pairs])]
    (all_vectors, all_pairs), _ = group.rows(own)
    return [all_vectors], [all_pairs]


def recall(rank: Tensor, k: int) -> float:
    """The share of ranks up to ``k``; NaN where one of them is."""
    return float(torch.where(rank.isnan(), rank, (rank <= k).to(rank)).mean())


def ranks(queries: Tensor, answers: Tensor, pairs: Tensor, *, itself: bool = True) -> Tensor:
    """S float64: the rank of each query's best right answer; NaN where a cosine that it is compared by is not finite.

    Args:
        queries: S D of length 1.
        answers: S D of length 1.
        pairs: S, equal where rows are of one thing.
        itself: whether a query's own row is an answer to it; otherwise those that have no other are left out.
    """
    found, place = [torch.empty(0, dtype=torch.float64)], 0
    for some, same in zip(queries.split(CHUNK), pairs.split(CHUNK), strict=True) if len(queries) else ():
        cosine = some @ answers.T  # Q S
        right = same[:, None] == pairs
        if not itself:
            own = torch.arange(place, place + len(some))
            cosine[torch.arange(len(some)), own] = -2.0  # below every cosine: never higher than a right one, and never as high
            right[torch.arange(len(some)), own] = False
            place += len(some)
        best = cosine.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
        higher = ((cosine > best + TIE) & ~right).sum(dim=1)
        equal = (((cosine - best).abs() <= TIE) & ~right).sum(dim=1)
        # NaN is neither higher nor equal: without this, a model that has diverged would be first everywhere.
        rank = torch.where(cosine.isfinite().all(dim=1), 1 + higher + equal.double() / 2, torch.nan)
        found.append(rank if itself else rank[right.any(dim=1)])
    return torch.cat(found)
