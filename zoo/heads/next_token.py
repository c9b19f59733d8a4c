"""Next token: a causal language model (Radford et al., 2019, GPT-2).

Letters: B texts, N positions, D width, V vocabulary, P positions with a target.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.heads.causal import check_causal
from zoo.heads.token_metrics import TokenMetrics
from zoo.layers.dropout import Dropout
from zoo.layers.fits import Fit
from zoo.layers.output import Output, OutputBias, OutputScale, VocabularyScores
from zoo.layers.pooling import last_place
from zoo.layers.precision import widen
from zoo.registry import HEADS
from zoo.specs import FeatureSpec, TokenTarget
from zoo.structs import Features, LossTerm, Prediction, Targets


@HEADS.register("next_token")
class NextTokenHead(nn.Module):
    """Every position of a causal text predicts the token after it.

    Args:
        features: filled from what comes before the head; a causal sequence.
        target: filled from the data's spec.
        dropout: probability of leaving out an element before the scores.
        output: own, a matrix that is trained, or tied, the table of embeddings (Press and Wolf, 2017, https://arxiv.org/abs/1608.05859).
        output_scale: of what is scored: none, or the inverse square root of the width (T5, where tied).
        output_bias: none, or with one for each token (BART).
        label_smoothing: share of the target that all tokens have alike (Szegedy et al., 2016, https://arxiv.org/abs/1512.00567); in training alone.
    """

    repeats = ()
    fits: ClassVar = {"output.weight": Fit.VOCABULARY}
    monitor: ClassVar[tuple[str, str]] = ("bits_per_byte", "min")

    def __init__(
        self,
        *,
        features: FeatureSpec,
        target: TokenTarget,
        dropout: float = 0.0,
        output: Output = Output.OWN,
        output_scale: OutputScale = OutputScale.NONE,
        output_bias: OutputBias = OutputBias.NONE,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        check_causal(features)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing} is no share of the target below 1; choose e.g. 0.1, or 0.0 for none")
        self.target, self.label_smoothing = target, label_smoothing
        self.dropout = Dropout(dropout)
        self.output = VocabularyScores(dim=features.dim, vocab_size=target.vocab_size, kind=output, scale=output_scale, bias=output_bias)
        self.protocol = (
            "each token from those before it in its text, the one that closes the text included; perplexity a token; bits per byte of UTF-8 of the text"
        )

    def forward(self, features: Features) -> Prediction:
        """``hidden`` B N D in training, where the loss scores what is asked for only; else ``logits`` B N V, and the last real place B in ``last``."""
        assert features.tokens is not None, "the spec says that there are tokens"
        hidden = self.dropout(features.tokens)
        if self.training:
            return {"hidden": hidden}
        mask = features.mask if features.mask is not None else hidden.new_ones(hidden.shape[:2], dtype=torch.bool)
        return {"logits": widen(self.output(hidden)), "last": last_place(mask)}

    def count(self, targets: Targets, valid: Tensor) -> dict[str, Tensor]:
        """Positions with a target."""
        return {"next_token": self.asked(targets, valid).sum().float()}

    def loss(self, prediction: Prediction, targets: Targets, valid: Tensor) -> dict[str, LossTerm]:
        """Cross entropy in nats."""
        wanted, asked = targets[self.target.name], self.asked(targets, valid)
        found = prediction["hidden"] if self.training else prediction["logits"]
        # How many positions are asked is data, which meta tensors do not have.
        rows, told = (found.flatten(0, 1), wanted.flatten()) if found.device.type == "meta" else (found[asked], wanted[asked])
        logits = widen(self.output(rows)) if self.training else rows  # P V
        smoothing = self.label_smoothing if self.training else 0.0
        ignored = self.target.ignore_index  # of meta tensors, where all positions are there
        return {"next_token": LossTerm(F.cross_entropy(logits, told, reduction="sum", label_smoothing=smoothing, ignore_index=ignored), asked.sum().float())}

    def asked(self, targets: Targets, valid: Tensor) -> Tensor:
        """B N bool."""
        return valid[:, None] & (targets[self.target.name] != self.target.ignore_index)

    def scores(self, hidden: Tensor) -> Tensor:
        """... D -> ... V: of what stands next, in fp32 or wider; nothing is left out."""
        return widen(self.output(hidden))

    @property
    def tied(self) -> bool:
        return self.output.tied

    def tie(self, table: nn.Module) -> None:
        """Score by a table of embeddings (``zoo.model.tie_parts``)."""
        self.output.tie(table)

    def metrics(self) -> TokenMetrics:
        return TokenMetrics(self.target)

    def decode(self, prediction: Prediction, targets: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        """The likeliest next token of each text as ``{"token": identifier, "probability": ...}``; ``zoo.inference.generate`` goes on from there."""
        logits = last_logits(prediction)
        best, tokens = logits.softmax(dim=-1).max(dim=-1)
        return [{"token": token, "probability": share} for token, share in zip(tokens.tolist(), best.tolist(), strict=True)]


def last_logits(prediction: Prediction) -> Tensor:
    """B V: after the last real position."""
    logits = prediction["logits"].detach()
    return logits.gather(1, prediction["last"][:, None, None].expand(-1, 1, logits.shape[-1])).squeeze(1)
