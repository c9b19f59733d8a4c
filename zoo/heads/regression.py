"""Regression of one number or several.

Letters: B items, K numbers, D width.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.heads.regression_metrics import RegressionMetrics
from zoo.layers.dropout import Dropout
from zoo.layers.pooling import Pool, Pooling
from zoo.layers.precision import widen
from zoo.registry import HEADS
from zoo.specs import FeatureSpec, NumberTarget
from zoo.structs import Features, LossTerm, Prediction, Targets


class RegressionLoss(StrEnum):
    MSE = "mse"
    MAE = "mae"
    HUBER = "huber"


@HEADS.register("regression")
class RegressionHead(nn.Module):
    """A linear map of pooled features to standardised numbers; what is unknown (NaN) counts nowhere.

    Args:
        features: filled from what comes before the head.
        target: filled from the data's spec.
        pooling: auto (the encoder's own, else the mean, else the last position of causal features), mean, max, cls, last or attention.
        dropout: probability of leaving out an element before the linear map.
        loss: mse, mae, or huber (Huber, 1964), on standardised numbers.
        huber_delta: error, in standard deviations of the target, from which huber grows linearly.
    """

    repeats = ()
    monitor: ClassVar[tuple[str, str]] = ("rmse", "min")
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        features: FeatureSpec,
        target: NumberTarget,
        pooling: Pooling = Pooling.AUTO,
        dropout: float = 0.0,
        loss: RegressionLoss = RegressionLoss.MSE,
        huber_delta: float = 1.0,
    ) -> None:
        super().__init__()
        if huber_delta <= 0:
            raise ValueError(f"huber_delta={huber_delta} is not positive; choose how many standard deviations of error count squared, e.g. 1.0")
        if not target.columns:
            raise ValueError(f"target {target.name!r} has no columns; name some in the data's options")
        self.target, self.loss_kind, self.huber_delta = target, loss, huber_delta
        self.pool = Pool(features=features, pooling=pooling)
        self.dropout = Dropout(dropout)
        self.regressor = nn.Linear(features.dim, len(target.columns))
        nn.init.trunc_normal_(self.regressor.weight, std=0.02)
        nn.init.zeros_(self.regressor.bias)
        # Both are the data's, so that they are kept with its spec and not among the weights.
        self.register_buffer("mean", torch.tensor(target.mean), persistent=False)
        self.register_buffer("std", torch.tensor(spreads(target)), persistent=False)
        self.protocol = "errors in the target's own units; over several columns their mean"

    def forward(self, features: Features) -> Prediction:
        return {"standardised": self.regressor(self.dropout(self.pool(features)))}  # B K

    def count(self, targets: Targets, valid: Tensor) -> dict[str, Tensor]:
        return {"regression": self.known(targets, valid).sum().float()}

    def loss(self, prediction: Prediction, targets: Targets, valid: Tensor) -> dict[str, LossTerm]:
        known = self.known(targets, valid)
        wanted = torch.where(known, (targets[self.target.name] - self.mean) / self.std, 0.0)
        given = torch.where(known, widen(prediction["standardised"]), 0.0)
        match self.loss_kind:
            case RegressionLoss.MSE:
                total = F.mse_loss(given, wanted, reduction="sum")
            case RegressionLoss.MAE:
                total = F.l1_loss(given, wanted, reduction="sum")
            case RegressionLoss.HUBER:
                total = F.huber_loss(given, wanted, reduction="sum", delta=self.huber_delta)
        return {"regression": LossTerm(total, known.sum().float())}

    def known(self, targets: Targets, valid: Tensor) -> Tensor:
        """B K bool."""
        return valid[:, None] & ~targets[self.target.name].isnan()

    def values(self, prediction: Prediction) -> Tensor:
        """B K float64 in the target's own units, on the CPU: not every device has float64."""
        mean, std = torch.tensor(self.target.mean, dtype=torch.float64), torch.tensor(spreads(self.target), dtype=torch.float64)
        return prediction["standardised"].detach().cpu().double() * std + mean

    def metrics(self) -> RegressionMetrics:
        return RegressionMetrics(self.target, self.values)

    def decode(self, prediction: Prediction, targets: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        """Each column's number, by name, in the target's own units."""
        return [dict(zip(self.target.columns, row, strict=True)) for row in self.values(prediction).tolist()]


def spreads(target: NumberTarget) -> list[float]:
    """The columns' standard deviations; a constant column has none to scale by, and 1 stands for it."""
    return [std if std > 0 else 1.0 for std in target.std]
