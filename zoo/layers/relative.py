"""Relative positions as a trained number for each head and distance, to add to the scores of attention (T5).

Letters: H heads, N queries, M keys, R buckets of distances.
"""

import math

import torch
from torch import Tensor, nn


class RelativeBias(nn.Module):
    """A bias of each head for the distance from a query to a key (Raffel et al., 2020, https://arxiv.org/abs/1910.10683).

    Near distances have a bucket each; farther ones share buckets that widen with the logarithm, up to ``distance``, beyond which all share the last.

    Args:
        heads: H.
        buckets: R; half of them for keys behind the query where ``causal`` is False.
        distance: from which all keys share a bucket.
        causal: keys behind the query are not seen, and have no buckets.
    """

    def __init__(self, *, heads: int, buckets: int = 32, distance: int = 128, causal: bool = False) -> None:
        super().__init__()
        side = buckets if causal else buckets // 2
        if side < 2 or distance <= side // 2:
            raise ValueError(
                f"relative_buckets={buckets} with relative_distance={distance}: {side} buckets a side, of which {side // 2} are of one distance each, "
                f"cannot reach that far; choose relative_buckets={4 if not causal else 2} or more, and relative_distance over {side // 2}"
            )
        self.buckets, self.distance, self.causal = buckets, distance, causal
        self.weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(buckets, heads), std=0.02))

    def forward(self, queries: int, keys: int, device: torch.device) -> Tensor:
        """H N M."""
        return self.at(torch.arange(queries, device=device)[None], keys)[0]

    def at(self, places: Tensor, keys: int) -> Tensor:
        """B or 1, H N M, for queries at these places, B or 1, N."""
        ahead = torch.arange(keys, device=places.device) - places[..., None]  # B N M
        return self.weight[self.bucket(ahead)].permute(0, 3, 1, 2)

    def bucket(self, ahead: Tensor) -> Tensor:
        """The bucket of each distance, key minus query."""
        side = self.buckets if self.causal else self.buckets // 2
        first = torch.zeros_like(ahead) if self.causal else side * (ahead > 0)
        distance = -ahead.clamp_max(0) if self.causal else ahead.abs()
        exact = side // 2
        # float32, as T5's own: a distance on the border of two buckets has to fall as it does there.
        share = torch.log(distance.clamp_min(1).float() / exact) / math.log(self.distance / exact)
        far = (exact + (share * (side - exact)).long()).clamp_max(side - 1)
        return first + torch.where(distance < exact, distance, far)
