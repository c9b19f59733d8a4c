"""The next token, drawn from a model's scores or the likeliest.

Letters: B texts, V vocabulary.
"""

import torch
from torch import Tensor

from zoo.inference.sampling import Sampling


def shaped(logits: Tensor, sampling: Sampling, seen: Tensor | None) -> Tensor:
    """B V: scores as they are drawn from; -inf for what may not be.

    Args:
        logits: B V.
        sampling: how.
        seen: B V bool, tokens that are there already; None where no penalty asks for it.
    """
    if seen is not None:
        penalised = torch.where(logits < 0, logits * sampling.repetition_penalty, logits / sampling.repetition_penalty)
        logits = torch.where(seen, penalised, logits)
    if not sampling.temperature:
        return logits
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        ordered, places = logits.sort(dim=-1, descending=True)
        shares = ordered.softmax(dim=-1)
        before = shares.cumsum(dim=-1) - shares  # of the likelier ones: the token that passes the border is the last that may be drawn
        out = (before >= sampling.top_p).scatter(-1, places, before >= sampling.top_p)
        logits = logits.masked_fill(out, -torch.inf)
    if sampling.min_p:
        shares = logits.softmax(dim=-1)
        logits = logits.masked_fill(shares < sampling.min_p * shares.amax(dim=-1, keepdim=True), -torch.inf)
    return logits


def choose(logits: Tensor, sampling: Sampling, drawn: Tensor | None, seen: Tensor | None = None) -> Tensor:
    """B: the likeliest token, or at ``drawn`` (B, 0 .. 1) of the distribution's cumulative sum."""
    scores = shaped(logits, sampling, seen)
    if drawn is None or not sampling.temperature:
        return scores.argmax(dim=-1)
    shares = scores.double().softmax(dim=-1).cumsum(dim=-1)  # B V
    wanted = (drawn.double() * shares[:, -1])[:, None]
    return torch.searchsorted(shares, wanted, right=True).squeeze(1).clamp_max(logits.shape[-1] - 1)
