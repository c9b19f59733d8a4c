"""A label for every word: parts of speech, named entities.

Letters: B texts, N positions, D width, C labels, P words with a label.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.heads.tag_metrics import TagMetrics
from zoo.layers.dropout import Dropout
from zoo.layers.fits import Fit
from zoo.layers.precision import widen
from zoo.registry import HEADS
from zoo.specs import FeatureSpec, Layout, TagTarget
from zoo.structs import Features, LossTerm, Prediction, Targets


@HEADS.register("token_classification")
class TokenClassificationHead(nn.Module):
    """A linear classifier at the first token of every word, with cross entropy.

    Args:
        features: filled from what comes before the head; a sequence with a place for every token.
        target: filled from the data's spec.
        dropout: probability of leaving out an element before the classifier.
        label_smoothing: share of every target that is spread over all labels, 0 up to 1 (Szegedy et al., 2016, https://arxiv.org/abs/1512.00567);
            in training alone.
    """

    repeats = ()
    fits: ClassVar = {"classifier.weight": Fit.LABELS, "classifier.bias": Fit.LABELS}
    monitor: ClassVar[tuple[str, str]] = ("accuracy", "max")

    def __init__(self, *, features: FeatureSpec, target: TagTarget, dropout: float = 0.0, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if features.layout is not Layout.SEQUENCE or features.parts:
            found = f"one for each of {', '.join(features.parts)}" if features.parts else f"a {features.layout}"
            raise ValueError(f"the head needs a place for every token, and gets {found}; choose model/encoder=transformer or lstm")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing} is no share; choose 0 <= label_smoothing < 1, usually 0.1")
        self.target, self.label_smoothing = target, label_smoothing
        self.dropout = Dropout(dropout)
        self.classifier = nn.Linear(features.dim, len(target.labels))
        nn.init.trunc_normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)
        spans = "; spans as seqeval counts them: right with their kind and both ends, precision, recall and F1 over all of them" if target.bio else ""
        self.protocol = f"the likeliest label of every word that the model holds, at its first token{spans}"

    def forward(self, features: Features) -> Prediction:
        assert features.tokens is not None, "the spec says that there are tokens"
        return {"logits": self.classifier(self.dropout(features.tokens))}  # B N C

    def asked(self, targets: Targets, valid: Tensor) -> Tensor:
        """B N bool."""
        return valid[:, None] & (targets[self.target.name] != self.target.ignore_index)

    def count(self, targets: Targets, valid: Tensor) -> dict[str, Tensor]:
        """Words with a label."""
        return {"token_classification": self.asked(targets, valid).sum().float()}

    def loss(self, prediction: Prediction, targets: Targets, valid: Tensor) -> dict[str, LossTerm]:
        """Cross entropy in nats."""
        wanted, asked = targets[self.target.name], self.asked(targets, valid)
        told = wanted.masked_fill(~asked, -100).flatten()
        smoothing = self.label_smoothing if self.training else 0.0
        total = F.cross_entropy(widen(prediction["logits"]).flatten(0, 1), told, reduction="sum", ignore_index=-100, label_smoothing=smoothing)
        return {"token_classification": LossTerm(total, asked.sum().float())}

    def metrics(self) -> TagMetrics:
        return TagMetrics(self.target)

    def decode(self, prediction: Prediction, targets: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        """``tags`` and their ``shares``, of every word in its order."""
        shares, labels = widen(prediction["logits"]).softmax(dim=-1).max(dim=-1)  # B N
        asked = targets[self.target.name] != self.target.ignore_index if self.target.name in targets else labels < 0
        found = []
        for row, own in enumerate(asked):
            tags = [self.target.labels[label] for label in labels[row][own].tolist()]
            found.append({"tags": tags, "shares": shares[row][own].tolist()})
        return found
