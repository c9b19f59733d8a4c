"""Masked tokens: the language model that BERT is trained as (Devlin et al., 2019, https://arxiv.org/abs/1810.04805).

Letters: B texts, N positions, D width, V vocabulary, P positions that are asked for.
"""

from collections.abc import Mapping
from enum import StrEnum
from math import exp
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.feedforward import Activation, activation_module
from zoo.layers.fits import Fit
from zoo.layers.output import Output, OutputBias, VocabularyScores
from zoo.layers.precision import widen
from zoo.layers.transformer import init_transformer
from zoo.parallel.collectives import current_group
from zoo.registry import HEADS
from zoo.specs import FeatureSpec, Layout, MaskedTarget
from zoo.structs import Features, LossTerm, Prediction, Targets


class Before(StrEnum):
    """What stands before the scores."""

    NONE = "none"
    DENSE = "dense"  # a linear layer, the activation and a norm, as in BERT


@HEADS.register("masked_tokens")
class MaskedTokensHead(nn.Module):
    """The tokens that stood where a text is masked.

    Args:
        features: filled from what comes before the head; a sequence in which positions see later ones.
        target: filled from the data's spec.
        before: dense (a linear layer, an activation and a norm, as in BERT), or none.
        activation: of that layer.
        bias: of that layer and its norm.
        norm_eps: added to the variance in that norm.
        output: own, a matrix that is trained, or tied, the table of embeddings, as in BERT.
        output_bias: with one for each token, or none.
    """

    repeats = ()
    fits: ClassVar = {"output.weight": Fit.VOCABULARY, "output.bias": Fit.VOCABULARY}
    monitor: ClassVar[tuple[str, str]] = ("perplexity", "min")

    def __init__(
        self,
        *,
        features: FeatureSpec,
        target: MaskedTarget,
        before: Before = Before.DENSE,
        activation: Activation = Activation.GELU,
        bias: OutputBias = OutputBias.WITH,
        norm_eps: float = 1e-6,
        output: Output = Output.OWN,
        output_bias: OutputBias = OutputBias.WITH,
    ) -> None:
        super().__init__()
        if features.parts:
            raise ValueError(f"the head needs a place for each token, and gets one for each of {', '.join(features.parts)}; choose model/encoder=transformer")
        if features.layout is not Layout.SEQUENCE or features.causal:
            found = "a causal sequence, in which no position sees what follows" if features.causal else f"a {features.layout}"
            raise ValueError(f"the head needs a sequence in which positions see both sides, and gets {found}; set model.encoder.attention=bidirectional")
        self.target = target
        self.answers = 5
        """Tokens that are told for each mask; the predictor says how many are wanted."""
        dense = before is Before.DENSE
        self.dense = nn.Linear(features.dim, features.dim, bias=bias is OutputBias.WITH) if dense else None
        self.activation = activation_module(activation) if dense else nn.Identity()
        self.norm = nn.LayerNorm(features.dim, eps=norm_eps, bias=bias is OutputBias.WITH) if dense else nn.Identity()
        init_transformer(self)
        self.output = VocabularyScores(dim=features.dim, vocab_size=target.vocab_size, kind=output, bias=output_bias)
        self.protocol = "some words or tokens of every text, drawn by its number, are asked for, and masked, changed or left as in BERT; perplexity a token"

    @property
    def tied(self) -> bool:
        return self.output.tied

    def tie(self, table: nn.Module) -> None:
        """Score by a table of embeddings (``zoo.model.tie_parts``)."""
        self.output.tie(table)

    def forward(self, features: Features) -> Prediction:
        """``hidden`` B N D in training, where the loss scores what is asked for only; else ``logits`` B N V."""
        assert features.tokens is not None, "the spec says that there are tokens"
        hidden = features.tokens
        return {"hidden": hidden} if self.training else {"logits": self.scores(hidden)}

    def scores(self, hidden: Tensor) -> Tensor:
        """... D -> ... V, in fp32 or wider."""
        if self.dense is not None:
            hidden = self.norm(self.activation(self.dense(hidden)))
        return widen(self.output(hidden))

    def count(self, targets: Targets, valid: Tensor) -> dict[str, Tensor]:
        """Positions that are asked for."""
        return {"masked_tokens": self.asked(targets, valid).sum().float()}

    def loss(self, prediction: Prediction, targets: Targets, valid: Tensor) -> dict[str, LossTerm]:
        """Cross entropy in nats."""
        wanted, asked = targets[self.target.name], self.asked(targets, valid)
        found = prediction["hidden"] if self.training else prediction["logits"]
        # How many positions are asked is data, which meta tensors do not have.
        rows, told = (found.flatten(0, 1), wanted.flatten()) if found.device.type == "meta" else (found[asked], wanted[asked])
        logits = self.scores(rows) if self.training else rows  # P V
        return {"masked_tokens": LossTerm(F.cross_entropy(logits, told, reduction="sum"), asked.sum().float())}

    def asked(self, targets: Targets, valid: Tensor) -> Tensor:
        """B N bool."""
        return valid[:, None] & (targets[self.target.name] != self.target.ignore_index)

    def metrics(self) -> "MaskedMetrics":
        return MaskedMetrics(self.target)

    def decode(self, prediction: Prediction, targets: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        """The likeliest tokens of each place that is asked for: ``{"masked": [[{"id": ..., "probability": ...}, ...], ...]}``."""
        if self.target.name not in targets:
            return [{"masked": []} for _ in prediction["logits"]]
        asked = targets[self.target.name] != self.target.ignore_index
        shares = prediction["logits"][asked].softmax(dim=-1)  # P V
        best = shares.topk(min(self.answers, shares.shape[-1]), dim=-1)
        rows: list[list[list[dict[str, Any]]]] = [[] for _ in range(len(asked))]
        for row, ids, probabilities in zip(asked.nonzero()[:, 0].tolist(), best.indices.tolist(), best.values.tolist(), strict=True):
            rows[row].append([{"id": number, "probability": share} for number, share in zip(ids, probabilities, strict=True)])
        return [{"masked": places} for places in rows]


class MaskedMetrics:
    """``perplexity`` a token that is asked for, and ``accuracy`` of the likeliest.

    Args:
        target: name of the tokens.
    """

    def __init__(self, target: MaskedTarget) -> None:
        self.target = target
        self.sums = torch.zeros(3, dtype=torch.float64)  # tokens, nats, right ones

    def update(self, prediction: Prediction, targets: Targets, valid: Tensor) -> None:
        wanted = targets[self.target.name]
        asked = valid[:, None] & (wanted != self.target.ignore_index)
        chosen, told = prediction["logits"].detach()[asked], wanted[asked]  # P V, P
        nats = F.cross_entropy(chosen, told, reduction="none").double().sum()
        self.sums += torch.stack([asked.sum().double(), nats, (chosen.argmax(dim=-1) == told).sum().double()]).cpu()

    def merge(self) -> None:
        current_group().sum(self.sums)

    def compute(self) -> dict[str, float]:
        tokens, nats, right = self.sums.tolist()
        if not tokens:
            return dict.fromkeys(("perplexity", "accuracy"), float("nan"))
        entropy = nats / tokens
        return {"perplexity": exp(entropy) if entropy < 700 else float("inf"), "accuracy": right / tokens}

    def tables(self) -> dict[str, Any]:
        return {}
