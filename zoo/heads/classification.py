"""Classification: one label of several, or any number of them.

Letters: B items, C classes, D width, K ranks.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.heads.classification_metrics import ClassificationMetrics
from zoo.layers.dropout import Dropout
from zoo.layers.fits import Fit
from zoo.layers.pooling import Pool, Pooling
from zoo.layers.precision import widen
from zoo.registry import HEADS
from zoo.specs import ClassTarget, FeatureSpec, Labelling
from zoo.structs import Features, LossTerm, Prediction, Targets


class ClassWeights(StrEnum):
    NONE = "none"
    BALANCED = "balanced"


@HEADS.register("classification")
class ClassificationHead(nn.Module):
    """A linear classifier over pooled features, with cross entropy for single labels and binary cross entropy a class for multiple ones.

    Args:
        features: filled from what comes before the head.
        target: filled from the data's spec.
        pooling: auto (the encoder's own, else the mean, else the last position of causal features), mean, max, cls, last or attention.
        dropout: probability of leaving out an element before the classifier.
        label_smoothing: share of every target that is spread over all classes, 0 up to 1 (Szegedy et al., 2016).
        class_weights: none, or balanced (samples / (classes * samples of the class), so that every class weighs the same).
        top_k: also report how often the label is among this many best; 0 or as many as there are classes reports nothing.
    """

    repeats = ()
    monitor: ClassVar[tuple[str, str]] = ("accuracy", "max")
    fits: ClassVar = {"classifier.weight": Fit.LABELS, "classifier.bias": Fit.LABELS}
    weights: Tensor | None

    def __init__(
        self,
        *,
        features: FeatureSpec,
        target: ClassTarget,
        pooling: Pooling = Pooling.AUTO,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights = ClassWeights.NONE,
        top_k: int = 5,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing} is no share; choose 0 <= label_smoothing < 1, usually 0.1")
        if top_k < 0:
            raise ValueError(f"top_k={top_k} is negative; choose 0 for none, or how many of the best count")
        if target.num_classes < (2 if target.labelling is Labelling.SINGLE else 1):
            raise ValueError(f"target {target.name!r} has {target.num_classes} classes, {list(target.labels)}: there is nothing to choose between")
        self.target, self.label_smoothing = target, label_smoothing
        enough = top_k < target.num_classes or "labels" in target.provisional
        self.top_k = top_k if enough and target.labelling is Labelling.SINGLE else 0
        self.pool = Pool(features=features, pooling=pooling)
        self.dropout = Dropout(dropout)
        self.classifier = nn.Linear(features.dim, target.num_classes)
        nn.init.trunc_normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)
        self.register_buffer("weights", balanced_weights(target) if class_weights is ClassWeights.BALANCED else None, persistent=False)
        kind = "the likeliest class" if target.labelling is Labelling.SINGLE else "each class by itself, present at probability .5 or more"
        self.protocol = f"{kind}; precision, recall and F1 are means over classes (macro)"

    def forward(self, features: Features) -> Prediction:
        return {"logits": self.classifier(self.dropout(self.pool(features)))}  # B C

    def count(self, targets: Targets, valid: Tensor) -> dict[str, Tensor]:
        """Weights of what counts: a row's class (single), or every known entry (multi)."""
        return {"classification": self.entry_weights(targets[self.target.name], valid).sum()}

    def loss(self, prediction: Prediction, targets: Targets, valid: Tensor) -> dict[str, LossTerm]:
        logits, target = widen(prediction["logits"]), targets[self.target.name]
        if self.target.labelling is Labelling.SINGLE:
            known = valid & (target != self.target.ignore_index)
            total = F.cross_entropy(
                logits, target.masked_fill(~known, -100), self.weights, reduction="sum", ignore_index=-100, label_smoothing=self.label_smoothing
            )
        else:
            smooth = target.clamp(0, 1) * (1 - self.label_smoothing) + self.label_smoothing / 2
            entries = F.binary_cross_entropy_with_logits(logits, smooth.to(logits.dtype), reduction="none")  # B C
            total = (entries * self.entry_weights(target, valid)).sum()
        return {"classification": LossTerm(total, self.count(targets, valid)["classification"])}

    def entry_weights(self, target: Tensor, valid: Tensor) -> Tensor:
        """B (single) or B C (multi) float32: 0 for what does not count."""
        if self.target.labelling is Labelling.SINGLE:
            known = valid & (target != self.target.ignore_index)
            return known.float() if self.weights is None else self.weights[target.masked_fill(~known, 0)] * known
        known = valid[:, None] & (target >= 0)
        return known.float() if self.weights is None else self.weights * known

    def metrics(self) -> ClassificationMetrics:
        return ClassificationMetrics(self.target, self.top_k)

    def decode(self, prediction: Prediction, targets: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        """Single: ``label``, its ``probability``, and all ``probabilities``, likeliest first. Multi: ``labels`` at .5 or more, and ``probabilities``."""
        logits, labels = widen(prediction["logits"]), self.target.labels
        single = self.target.labelling is Labelling.SINGLE
        rows = (logits.softmax(dim=-1) if single else logits.sigmoid()).tolist()
        ranked = [dict(sorted(zip(labels, row, strict=True), key=lambda entry: -entry[1])) for row in rows]
        if single:
            return [{"label": next(iter(row)), "probability": next(iter(row.values())), "probabilities": row} for row in ranked]
        return [{"labels": [label for label, probability in row.items() if probability >= 0.5], "probabilities": row} for row in ranked]


def balanced_weights(target: ClassTarget) -> Tensor:
    """C float32: samples / (classes * samples of the class); a class without samples is counted as one. Ones for a sketch, which has no counts."""
    if "counts" in target.provisional:
        return torch.ones(target.num_classes)
    if len(target.counts) != target.num_classes:
        raise ValueError(
            f"class_weights=balanced needs the training samples of each of the {target.num_classes} classes, and the data gives {len(target.counts)}; use none"
        )
    counts = torch.tensor(target.counts, dtype=torch.float64).clamp_min(1)
    return (counts.sum() / (target.num_classes * counts)).float()
