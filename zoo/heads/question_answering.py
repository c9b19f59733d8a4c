"""Extractive question answering: which span of a text answers (BERT, Devlin et al., 2019, section 4.2).

Letters: B rows, N positions, D width.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.heads.answer_metrics import AnswerMetrics, best_spans
from zoo.layers.dropout import Dropout
from zoo.layers.precision import widen
from zoo.registry import HEADS
from zoo.specs import AnswerTarget, FeatureSpec, Layout
from zoo.structs import Features, LossTerm, Prediction, Targets


@HEADS.register("question_answering")
class QuestionAnsweringHead(nn.Module):
    """A score for the first token of an answer and one for its last, at every place; cross entropy of both over the places that may answer.

    Args:
        features: filled from what comes before the head; a sequence with a place for every token.
        target: filled from the data's spec.
        longest: tokens of an answer at most.
        dropout: probability of leaving out an element before the scores.
    """

    repeats = ()
    monitor: ClassVar[tuple[str, str]] = ("f1", "max")

    def __init__(self, *, features: FeatureSpec, target: AnswerTarget, longest: int = 30, dropout: float = 0.0) -> None:
        super().__init__()
        if features.layout is not Layout.SEQUENCE or features.parts or features.causal:
            found = "one for each of several inputs" if features.parts else "causal ones" if features.causal else f"a {features.layout}"
            raise ValueError(f"the head needs a place for every token, which has seen both texts, and gets {found}; choose model/encoder=transformer or lstm")
        if longest < 1:
            raise ValueError(f"longest={longest} tokens are no answer; choose 1 or more, usually 30")
        self.target, self.longest = target, longest
        self.dropout = Dropout(dropout)
        self.scores = nn.Linear(features.dim, 2)
        nn.init.trunc_normal_(self.scores.weight, std=0.02)
        nn.init.zeros_(self.scores.bias)
        self.protocol = (
            f"the likeliest span of up to {longest} tokens of each row: exact_match, both ends right; f1, of tokens that it shares with the right one, "
            "mean over rows; answers that were cut off with their text count as missed. By SQuAD's own rules: zoo eval RUN --write"
        )

    def forward(self, features: Features) -> Prediction:
        assert features.tokens is not None, "the spec says that there are tokens"
        return {"logits": self.scores(self.dropout(features.tokens))}  # B N 2

    def asked(self, targets: Targets, valid: Tensor) -> Tensor:
        """B bool: rows whose answer is known and stands in what the model holds."""
        return valid & (targets[self.target.name][:, 0] >= 0)

    def count(self, targets: Targets, valid: Tensor) -> dict[str, Tensor]:
        """Rows with an answer."""
        return {"answer": self.asked(targets, valid).sum().float()}

    def loss(self, prediction: Prediction, targets: Targets, valid: Tensor) -> dict[str, LossTerm]:
        """The mean of both cross entropies, in nats."""
        asked = self.asked(targets, valid)
        allowed = targets[self.target.places] > 0  # B N
        logits = widen(prediction["logits"]).masked_fill(~allowed[..., None], torch.finfo(torch.float32).min)
        wanted = targets[self.target.name].masked_fill(~asked[:, None], -100)  # B 2
        total = F.cross_entropy(logits.transpose(1, 2).flatten(0, 1), wanted.flatten(), reduction="sum", ignore_index=-100) / 2
        return {"answer": LossTerm(total, asked.sum().float())}

    def metrics(self) -> AnswerMetrics:
        return AnswerMetrics(self.target, self.longest)

    def decode(self, prediction: Prediction, targets: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        """``span``, first and last token, with its ``probability`` and ``score``, and the score ``without`` an answer."""
        logits = widen(prediction["logits"])
        places = targets.get(self.target.places)
        allowed = torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device) if places is None else places > 0
        spans, scores = best_spans(logits, allowed, self.longest, answers_only=True)
        least = torch.finfo(torch.float32).min
        shares = logits.masked_fill(~allowed[..., None], least).log_softmax(dim=1)  # B N 2
        rows = torch.arange(len(spans), device=logits.device)
        probability = (shares[rows, spans[:, 0], 0] + shares[rows, spans[:, 1], 1]).exp()
        without = logits[:, 0].sum(dim=1).masked_fill(~allowed[:, 0], least)
        told = zip(spans.tolist(), probability.tolist(), scores.tolist(), without.tolist(), strict=True)
        return [{"span": span, "probability": share, "score": score, "without": none} for span, share, score, none in told]
