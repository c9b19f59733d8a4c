"""Running figures of language models, as sums in float64.

Letters: B texts, N positions, P positions with a target, V vocabulary.
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

    Bits per byte compare between vocabularies, perplexity does not. Their standard error is that of a ratio of sums over texts (Cochran, 1977,
    "Sampling techniques", ch. 6): texts are the units, since tokens of one text are not independent.

    Args:
        target: names of the tokens and of the texts' bytes.
    """

    def __init__(self, target: TokenTarget) -> None:
        self.target = target
        self.sums = torch.zeros(8, dtype=torch.float64)  # tokens, nats, right ones, bytes; texts, nats^2, nats x bytes, bytes^2 of a text

    def update(self, prediction: Prediction, targets: Targets, valid: Tensor) -> None:
        logits, wanted = prediction["logits"].detach(), targets[self.target.name]
        asked = valid[:, None] & (wanted != self.target.ignore_index)
        chosen, told = logits[asked], wanted[asked]  # P V, P
        costs = F.cross_entropy(chosen, told, reduction="none").double()
        nats = costs.new_zeros(len(valid)).index_add_(0, asked.nonzero()[:, 0], costs)[valid]  # B
        right = (chosen.argmax(dim=-1) == told).sum()
        size = targets[self.target.bytes].squeeze(1)[valid].double()  # B
        products = torch.stack([nats.square(), nats * size, size.square()]).sum(dim=1)
        sums = [asked.sum().double(), nats.sum(), right.double(), size.sum(), valid.sum().double(), *products]
        self.sums += torch.stack(sums).cpu()

    def merge(self) -> None:
        current_group().sum(self.sums)

    def compute(self) -> dict[str, float]:
        tokens, nats, right, size = self.sums[:4].tolist()
        if not tokens:
            return dict.fromkeys(("perplexity", "bits_per_byte", "accuracy"), float("nan"))
        entropy = nats / tokens
        return {
            "perplexity": exp(entropy) if entropy < 700 else float("inf"),
            "bits_per_byte": nats / log(2) / size if size else float("nan"),
            "accuracy": right / tokens,
        }

    def tables(self) -> dict[str, Any]:
        _, nats, _, size, texts, square, product, squares = self.sums.tolist()
        if texts < 2 or not size:
            return {}
        rate = nats / size
        deviations = max(square - 2 * rate * product + rate**2 * squares, 0.0)  # of a text's nats from what its bytes let expect
        return {"standard_error": {"bits_per_byte": (texts / (texts - 1) * deviations) ** 0.5 / size / log(2), "texts": int(texts)}}
