"""Distillation: a small classifier that learns what a large one says of every sample, beside the labels (Hinton et al., 2015).

Letters: B items, C classes.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.heads.classification import ClassificationHead, ClassWeights
from zoo.layers.pooling import Pooling
from zoo.layers.precision import widen
from zoo.registry import HEADS
from zoo.specs import FeatureSpec, TaughtTarget
from zoo.structs import LossTerm, Prediction, Targets


@HEADS.register("distilled_classification")
class DistilledClassificationHead(ClassificationHead):
    """A linear classifier with two losses: cross entropy with the label, and the divergence from the teacher's distribution, both softened by a temperature
    and scaled by its square, so that their gradients stay of one size (https://arxiv.org/abs/1503.02531). The teacher is data.teacher. Samples without a
    label learn from the teacher alone.

    Args:
        features: filled from what comes before the head.
        target: filled from the data's spec.
        share: of the loss that is the teacher's, 0 up to 1; the labels have the rest.
        temperature: that the scores of both are divided by.
        pooling: as in head=classification, as what follows.
        dropout: probability of leaving out an element before the classifier.
        label_smoothing: of the labels alone.
        class_weights: of the labels alone.
        top_k: also report how often the label is among this many best.
    """

    taught: ClassVar[bool] = True

    def __init__(
        self,
        *,
        features: FeatureSpec,
        target: TaughtTarget,
        share: float = 0.5,
        temperature: float = 2.0,
        pooling: Pooling = Pooling.AUTO,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights = ClassWeights.NONE,
        top_k: int = 5,
    ) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share={share} of the loss is the teacher's: above 0, up to 1; without a teacher choose model/head=classification")
        if not temperature > 0:
            raise ValueError(f"temperature={temperature} has to be above 0; choose e.g. 2.0")
        super().__init__(
            features=features,
            target=target,
            pooling=pooling,
            dropout=dropout,
            label_smoothing=label_smoothing,
            class_weights=class_weights,
            top_k=top_k,
        )
        self.share, self.temperature, self.scores = share, temperature, target.scores

    def count(self, targets: Targets, valid: Tensor) -> dict[str, Tensor]:
        """Weights of what has a label, and rows that the teacher could read."""
        labelled = super().count(targets, valid) if self.share < 1 else {}
        return labelled | {"distillation": self._taught_rows(targets, valid).sum().float()}

    def _taught_rows(self, targets: Targets, valid: Tensor) -> Tensor:
        return valid & targets[self.scores].isfinite().all(dim=1)

    def loss(self, prediction: Prediction, targets: Targets, valid: Tensor) -> dict[str, LossTerm]:
        """Both in nats, by their shares."""
        known = self._taught_rows(targets, valid)
        own = (widen(prediction["logits"]) / self.temperature).log_softmax(dim=-1)  # B C
        theirs = (torch.where(known[:, None], targets[self.scores], 0.0) / self.temperature).to(own.dtype).log_softmax(dim=-1)
        apart = F.kl_div(own, theirs, reduction="none", log_target=True).sum(dim=1) * self.temperature**2  # B
        terms = {"distillation": LossTerm(self.share * torch.where(known, apart, 0.0).sum(), known.sum().float())}
        if self.share < 1:
            (labelled,) = super().loss(prediction, targets, valid).values()
            terms["classification"] = LossTerm((1 - self.share) * labelled.sum, labelled.count)
        return terms
