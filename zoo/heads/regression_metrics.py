"""Running figures of regressions, as sums in float64; correlations of what all rows gave.

Letters: B items, K numbers.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.parallel.collectives import current_group
from zoo.specs import NumberTarget
from zoo.structs import Prediction, Targets


class RegressionMetrics:
    """``mae``, ``rmse``, ``r2``, ``pearson`` and ``spearman`` in the target's own units; of several columns the means, and each one's as ``mae/NAME`` ...

    ``r2`` is 1 - squared error / squared deviation from the split's own mean; nan where the split holds one value only. Correlations are torchmetrics'
    (equal values share their mean rank), nan where either side holds one value only.

    Args:
        target: columns, and the mean that sums are taken around, for precision.
        values: prediction -> B K float64 in own units, on the CPU.
    """

    def __init__(self, target: NumberTarget, values: Callable[[Prediction], Tensor]) -> None:
        self.target, self.values = target, values
        self.centre = torch.tensor(target.mean, dtype=torch.float64)
        self.sums = torch.zeros(5, len(target.columns), dtype=torch.float64)  # count, |error|, error^2, y, y^2
        self.rows: list[Tensor] = []

    def update(self, prediction: Prediction, targets: Targets, valid: Tensor) -> None:
        given, wanted = self.values(prediction), targets[self.target.name].cpu().double()
        known = valid.cpu()[:, None] & ~wanted.isnan()
        error = torch.where(known, given - wanted, 0.0)
        around = torch.where(known, wanted - self.centre, 0.0)
        self.rows.append(torch.stack([given, torch.where(known, wanted, torch.nan)], dim=1)[valid.cpu()])  # B 2 K
        self.sums += torch.stack([known.double(), error.abs(), error.square(), around, around.square()]).sum(dim=1)

    def merge(self) -> None:
        current_group().sum(self.sums)
        (gathered,), _ = current_group().rows([torch.cat([torch.empty(0, 2, len(self.target.columns), dtype=torch.float64), *self.rows])])
        self.rows = [gathered]

    def compute(self) -> dict[str, float]:
        count, absolute, squared, total, square = self.sums
        figures: dict[str, Tensor] = {"mae": absolute / count, "rmse": (squared / count).sqrt(), "r2": 1 - squared / (square - total.square() / count)}
        figures |= correlations(torch.cat(self.rows)) if self.rows else {}
        names = self.target.columns if len(self.target.columns) > 1 else ()
        means = {name: float(columns.nanmean()) for name, columns in figures.items()}
        return means | {f"{figure}/{name}": float(columns[place]) for figure, columns in figures.items() for place, name in enumerate(names)}

    def tables(self) -> dict[str, Any]:
        return {}


def correlations(rows: Tensor) -> dict[str, Tensor]:
    """Pearson's and Spearman's correlation of each column, K.

    Args:
        rows: S 2 K float64, what was given and what was wanted, NaN where that is not known.
    """
    from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef

    found: dict[str, list[Tensor]] = {"pearson": [], "spearman": []}
    for given, wanted in rows.permute(2, 1, 0):  # S each
        known = ~wanted.isnan()
        one, two = given[known], wanted[known]
        varies = known.sum() > 1 and bool(one.isfinite().all()) and one.min() < one.max() and two.min() < two.max()
        for name, measure in (("pearson", pearson_corrcoef), ("spearman", spearman_corrcoef)):
            found[name].append(measure(one, two).double() if varies else torch.tensor(torch.nan, dtype=torch.float64))
    return {name: torch.stack(columns) for name, columns in found.items()}
