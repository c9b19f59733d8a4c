"""Running figures of classifiers, computed by torchmetrics.

Letters: B items, C classes.
"""

from typing import Any

from torch import Tensor

from zoo.parallel.collectives import current_group
from zoo.specs import ClassTarget, Labelling
from zoo.structs import Prediction, Targets


class ClassificationMetrics:
    """Accuracy, top-k accuracy, macro precision, recall and F1, and the confusion matrix. State does not grow with the data.

    Single labels: ``accuracy``, ``top5_accuracy``, ``precision``, ``recall``, ``f1``. Multiple labels: ``accuracy`` (share of rows with every
    label right), ``label_accuracy`` (share of right entries), ``precision``, ``recall``, ``f1``.

    Args:
        target: classes and labelling.
        top_k: 0 for none; more than there are classes only where these are a sketch's stand-ins.
    """

    def __init__(self, target: ClassTarget, top_k: int) -> None:
        self.target, self.top_k = target, top_k
        self.metrics = single_metrics(target.num_classes, top_k) if target.labelling is Labelling.SINGLE else multi_metrics(target.num_classes)

    def update(self, prediction: Prediction, targets: Targets, valid: Tensor) -> None:
        scores, target = prediction["logits"].detach().float(), targets[self.target.name]
        if self.target.labelling is Labelling.SINGLE:
            known = valid & (target != self.target.ignore_index)
        else:
            scores, known = scores.sigmoid(), valid & (target >= 0).any(dim=1)
            target = target.round().long()
        for metric in self.metrics.values():
            metric.to(scores.device)
        if bool(known.any()):
            scores, target = scores[known], target[known]
            for metric in self.metrics.values():
                metric.update(scores, target)

    def merge(self) -> None:
        group = current_group()
        for metric in self.metrics.values():
            for name in metric._defaults:  # torchmetrics' states; all of them are counts here
                group.sum(getattr(metric, name))

    def compute(self) -> dict[str, float]:
        return {name: float(metric.compute()) for name, metric in self.metrics.items() if name != "confusion"}

    def tables(self) -> dict[str, Any]:
        """``confusion``: rows are true classes, columns predicted ones (single), or [[tn, fp], [fn, tp]] for each class (multi)."""
        return {"confusion": self.metrics["confusion"].compute().tolist(), "labels": list(self.target.labels)}


def single_metrics(classes: int, top_k: int) -> dict[str, Any]:
    from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassF1Score, MulticlassPrecision, MulticlassRecall

    common: dict[str, Any] = {"num_classes": classes, "validate_args": False, "sync_on_compute": False}
    top = {f"top{top_k}_accuracy": MulticlassAccuracy(top_k=min(top_k, classes), average="micro", **common)} if top_k else {}
    return {
        "accuracy": MulticlassAccuracy(average="micro", **common),
        **top,
        "precision": MulticlassPrecision(average="macro", **common),
        "recall": MulticlassRecall(average="macro", **common),
        "f1": MulticlassF1Score(average="macro", **common),
        "confusion": MulticlassConfusionMatrix(**common),
    }


def multi_metrics(labels: int) -> dict[str, Any]:
    from torchmetrics.classification import (
        MultilabelAccuracy,
        MultilabelConfusionMatrix,
        MultilabelExactMatch,
        MultilabelF1Score,
        MultilabelPrecision,
        MultilabelRecall,
    )

    # Entries below 0 are unknown: torchmetrics leaves out -1.
    common: dict[str, Any] = {"num_labels": labels, "validate_args": False, "sync_on_compute": False, "ignore_index": -1}
    return {
        "accuracy": MultilabelExactMatch(**common),
        "label_accuracy": MultilabelAccuracy(average="micro", **common),
        "precision": MultilabelPrecision(average="macro", **common),
        "recall": MultilabelRecall(average="macro", **common),
        "f1": MultilabelF1Score(average="macro", **common),
        "confusion": MultilabelConfusionMatrix(**common),
    }
