"""Running figures of word vectors, as sums in float64.

Letters: B texts, M words, V vocabulary, W positions of a window, Q quantiles.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.parallel.collectives import current_group
from zoo.specs import ContextTarget
from zoo.structs import Prediction, Targets

if TYPE_CHECKING:
    from zoo.heads.skip_gram import Windows


QUANTILES = 512


class ContextMetrics:
    """``auc``: the probability that a word of the window scores above one that is drawn, ties counting half.

    The words at evenly spaced quantiles of the noise stand for it, the same for every batch: a comparison with the whole vocabulary for each pair would cost
    more than the training.

    Args:
        target: its name.
        windows: of a batch's targets and valid rows.
        noise: V, the distribution of drawn words.
    """

    def __init__(self, target: ContextTarget, windows: "Callable[[Targets, Tensor], Windows]", noise: Tensor) -> None:
        self.target, self.windows = target, windows
        places = (torch.arange(QUANTILES, dtype=torch.float64, device="cpu") + 0.5) / QUANTILES
        self.drawn = torch.searchsorted(noise.cumsum(0), places).clamp(max=len(noise) - 1)  # Q
        self.sums = torch.zeros(2, dtype=torch.float64)  # pairs that are right, pairs; each by its weight

    def update(self, prediction: Prediction, targets: Targets, valid: Tensor) -> None:
        windows = self.windows(targets, valid)
        logits = prediction["logits"].detach()
        rows = torch.arange(len(logits), device=logits.device)[:, None]
        scores = logits[rows[..., None], windows.order[..., None], windows.context][..., None]  # B M W 1
        others = logits[:, :, self.drawn.to(logits.device)][rows, windows.order][:, :, None]  # B M 1 Q
        right = (others < scores).double().mean(dim=-1) + (others == scores).double().mean(dim=-1) / 2  # B M W
        weight = windows.weight.double()
        self.sums += torch.stack([(right * weight).sum(), weight.sum()]).cpu()

    def merge(self) -> None:
        current_group().sum(self.sums)

    def compute(self) -> dict[str, float]:
        right, pairs = self.sums.tolist()
        return {"auc": right / pairs if pairs else float("nan")}

    def tables(self) -> dict[str, Any]:
        return {}
