"""Figures of answers with a place, by their tokens.

Letters: B rows, N positions.
"""

from typing import Any

import torch
from torch import Tensor

from zoo.layers.precision import widen
from zoo.parallel.collectives import current_group
from zoo.specs import AnswerTarget
from zoo.structs import Prediction, Targets


def best_spans(logits: Tensor, allowed: Tensor, longest: int, *, answers_only: bool = False) -> tuple[Tensor, Tensor]:
    """First and last token of the best span of each row, B 2, and its score, the sum of both ends', B.

    Args:
        logits: B N 2.
        allowed: B N bool, where an answer may stand; the first place, which says that there is none, is a span of its own.
        longest: tokens of a span at most.
        answers_only: leave the first place out, unless nothing else is allowed.
    """
    first, last = widen(logits).unbind(dim=-1)  # B N each
    least = torch.finfo(torch.float32).min
    places = torch.arange(logits.shape[1], device=logits.device)
    width = min(longest, logits.shape[1])
    ends = places[:, None] + torch.arange(width, device=logits.device)  # N W: of the spans that begin at each place
    inside = ends < logits.shape[1]
    ends = ends.clamp(max=logits.shape[1] - 1)
    fits = allowed[:, :, None] & allowed[:, ends] & inside & ((places[:, None] > 0) | (ends == 0))  # B N W
    if answers_only:
        others = fits[:, 1:].flatten(1).any(dim=1)
        fits = torch.cat([fits[:, :1] & ~others[:, None, None], fits[:, 1:]], dim=1)
    scores = torch.where(fits, first[:, :, None] + last[:, ends], least).flatten(1)
    best, place = scores.max(dim=1)
    start = place // width
    return torch.stack([start, ends[start, place % width]], dim=1), best


class AnswerMetrics:
    """``exact_match`` and ``f1`` of the best span of each row.

    Args:
        target: its names.
        longest: tokens of an answer at most.
    """

    def __init__(self, target: AnswerTarget, longest: int) -> None:
        self.target, self.longest = target, longest
        self.sums = torch.zeros(3, dtype=torch.float64)  # rows, exact, f1

    def update(self, prediction: Prediction, targets: Targets, valid: Tensor) -> None:
        wanted = targets[self.target.name]  # B 2
        asked = valid & (wanted[:, 0] != self.target.ignore_index)
        logits = prediction["logits"]
        found, _ = best_spans(logits, targets[self.target.places] > 0, self.longest)
        shared = (torch.minimum(found[:, 1], wanted[:, 1]) - torch.maximum(found[:, 0], wanted[:, 0]) + 1).clamp(min=0)
        sizes = (found[:, 1] - found[:, 0] + 1) + (wanted[:, 1] - wanted[:, 0] + 1)
        figures = torch.stack([torch.ones_like(shared), (found == wanted).all(dim=1), 2 * shared / sizes], dim=1).double()  # B 3
        known = logits.isfinite().flatten(1).all(dim=1)
        figures[:, 1:] = torch.where(known[:, None], figures[:, 1:], torch.nan)  # a model that has diverged is right nowhere
        self.sums += figures[asked].sum(dim=0).cpu()

    def merge(self) -> None:
        current_group().sum(self.sums)

    def compute(self) -> dict[str, float]:
        rows, exact, shared = self.sums.tolist()
        return {"exact_match": exact / rows, "f1": shared / rows} if rows else {"exact_match": float("nan"), "f1": float("nan")}

    def tables(self) -> dict[str, Any]:
        return {}
