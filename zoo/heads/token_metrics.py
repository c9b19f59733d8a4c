"""Running figures of language models, as sums in float64.

Letters: B texts, N positions, V vocabulary.
"""

from math import exp, log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.parallel.collectives import current_group
from zoo.specs import TokenTarget
from zoo.structs import Prediction, Targets


class TokenMetrics:
    """``perplexity`` a token, ``bits_per_byte`` of the text, and ``accuracy`` of the likeliest token.

    Bits per byte compare between vocabularies, perplexity does not.

    Args:
        target: names of the tokens and of the texts' bytes.
    """

    def __init__(self, target: TokenTarget) -> None:
        self.target = target
        self.sums = torch.zeros(4, dtype=torch.float64)  # tokens, nats, right ones, bytes

    def update(self, prediction: Prediction, targets: Targets, valid: Tensor) -> None:
        logits, wanted = prediction["logits"].detach(), targets[self.target.name]
        asked = valid[:, None] & (wanted != self.target.ignore_index)
        chosen, told = logits[asked], wanted[asked]
        nats = F.cross_entropy(chosen, told, reduction="none").double().sum()
        right = (chosen.argmax(dim=-1) == told).sum()
        size = targets[self.target.bytes].squeeze(1)[valid].sum()
        self.sums += torch.stack([asked.sum().double(), nats, right.double(), size.double()]).cpu()

    def merge(self) -> None:
        current_group().sum(self.sums)

    def compute(self) -> dict[str, float]:
        tokens, nats, right, size = self.sums.tolist()
        if not tokens:
            return dict.fromkeys(("perplexity", "bits_per_byte", "accuracy"), float("nan"))
        entropy = nats / tokens
        return {
            "perplexity": exp(entropy) if entropy < 700 else float("inf"),
            "bits_per_byte": nats / log(2) / size if size else float("nan"),
            "accuracy": right / tokens,
        }

    def tables(self) -> dict[str, Any]:
        return {}
